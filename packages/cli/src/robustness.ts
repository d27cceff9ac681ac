import {
  type Adversaries,
  type Attack,
  type AttackOutcome,
  answers,
  attackByQueries,
  attackWith,
  batchesOf,
  CompileError,
  deviation,
  type Engine,
  type Evaluation,
  type Graph,
  type MeasureContext,
  type Measurement,
  type Model,
  namedAttack,
  oneHot,
  relativeErrors,
  rows,
  runOver,
  scores,
  share,
  survivors,
  type Tensor,
} from '@dqc/core'
import type { AttackOptions } from './options.ts'

/** One network to be measured: the file in its runtime, and a graph whose gradients attack it (null: none). */
export interface Subject {
  readonly model: Model
  readonly gradients: Graph | null
}

export const attackList = (o: AttackOptions): Attack[] =>
  (o.attacks ?? ['fgsm', 'pgd']).flatMap((name) =>
    (o.eps ?? [2 / 255]).map((epsilon) =>
      namedAttack(name, {
        epsilon,
        norm: o.norm ?? 'linf',
        steps: o.steps ?? 20,
        restarts: o.restarts ?? 1,
        ...(o.queries ? { queries: o.queries } : {}),
      }),
    ),
  )

export interface Plan {
  readonly engine: Engine
  readonly attacks: readonly Attack[]
  /** Everything that is evaluated. */
  readonly all: MeasureContext
  /** The part of it that is attacked. */
  readonly attacked: MeasureContext
  /** What counts as right: labels, or for networks that are no classifiers the reference outputs. */
  readonly truth: { readonly labels: Int32Array } | { readonly outputs: readonly Tensor[] }
}

/** Labels of the data, or the network's own answers in their place. */
export async function ownAnswers(model: Model, c: MeasureContext): Promise<{ labels: Int32Array; outputs: readonly Tensor[] }> {
  const outputs = await runOver(model, c, (from, to) => c.evaluation.pixels(from, to))
  return { labels: Int32Array.from(outputs.flatMap((y) => [...answers(y)])), outputs }
}

export const firstOf = (e: Evaluation, n: number): Evaluation => ({
  ...e,
  samples: Math.min(n, e.samples),
  labels: e.labels?.slice(0, n) ?? null,
})

/**
 * Clean and robust measure of one subject. `transferred` are perturbations found on another network: they are tried as well, and count
 * for the worst case. Returns the perturbations found, by attack.
 */
export async function measure(
  subject: Subject,
  plan: Plan,
  transferred: ReadonlyMap<Attack, Adversaries>,
  notes: string[],
): Promise<{ measurement: Measurement; found: ReadonlyMap<Attack, Adversaries> }> {
  const { all, attacked, truth } = plan
  const outputs = await runOver(subject.model, all, (from, to) => all.evaluation.pixels(from, to))
  const clean =
    'labels' in truth
      ? share(
          Uint8Array.from(
            outputs.flatMap((y) => [...answers(y)]),
            (a, i) => (a === truth.labels[i] ? 1 : 0),
          ),
        )
      : mean(outputs.flatMap((y, i) => relativeErrors(y, truth.outputs[i]!)))
  const found = new Map<Attack, Adversaries>()
  const outcomes: AttackOutcome[] = []
  const alive = new Map<string, { norm: string; epsilon: number; alive: Uint8Array | number }>()
  const judge = async (name: string, a: Attack, adversaries: Adversaries): Promise<void> => {
    const n = attacked.evaluation.samples
    let robust: number
    const key = `${a.norm} ${a.epsilon}`
    if ('labels' in truth) {
      const s = await survivors(subject.model, adversaries, truth.labels, attacked)
      robust = share(s)
      const entry = alive.get(key) ?? { norm: a.norm, epsilon: a.epsilon, alive: cleanMask(outputs, truth.labels, n) }
      const mask = entry.alive as Uint8Array
      s.forEach((v, i) => {
        if (!v) mask[i] = 0
      })
      alive.set(key, entry)
    } else {
      robust = await deviation(subject.model, adversaries, truth.outputs, attacked)
      const entry = alive.get(key) ?? { norm: a.norm, epsilon: a.epsilon, alive: 0 }
      alive.set(key, { ...entry, alive: Math.max(entry.alive as number, robust) })
    }
    outcomes.push({ name, norm: a.norm, epsilon: a.epsilon, steps: a.steps, restarts: a.restarts, robust, samples: n })
  }
  if (subject.gradients) {
    try {
      const z = scores(subject.gradients)
      const targets = batchesOf(attacked.evaluation.samples, attacked.batch).map(([from, to], i) =>
        'labels' in truth
          ? oneHot(truth.labels, from, to, [0, ...(z.shape ?? []).slice(1).map(Number)])
          : rows(truth.outputs[i]!, 0, to - from),
      )
      for (const a of plan.attacks) {
        if (a.gradientFree) continue
        const c = {
          ...attacked,
          onProgress: (done: number, of: number) => attacked.onProgress?.(plan.attacks.indexOf(a) * of + done, plan.attacks.length * of),
        }
        const adversaries = await attackWith(plan.engine, subject.gradients, a, targets, c)
        found.set(a, adversaries)
        await judge(a.name, a, adversaries)
      }
    } catch (e) {
      if (!(e instanceof CompileError) || e.kind !== 'unsupported') throw e
      notes.push(`no gradient attack: ${e.message}`)
    }
  }
  for (const a of plan.attacks) {
    if (!a.gradientFree) continue
    const adversaries = await attackByQueries(
      subject.model,
      a,
      (from, to, i) =>
        'labels' in truth ? { labels: truth.labels.subarray(from, to), reference: null } : { labels: null, reference: truth.outputs[i]! },
      attacked,
    )
    found.set(a, adversaries)
    await judge(a.name, a, adversaries)
  }
  for (const [a, adversaries] of transferred) await judge(`${a.name}-transfer`, a, adversaries)
  return {
    measurement: {
      clean,
      samples: all.evaluation.samples,
      attacks: outcomes,
      worst: [...alive.values()].map((w) => ({
        norm: w.norm,
        epsilon: w.epsilon,
        robust: typeof w.alive === 'number' ? w.alive : share(w.alive),
        samples: attacked.evaluation.samples,
      })),
    },
    found,
  }
}

const mean = (v: readonly number[]): number => v.reduce((s, x) => s + x, 0) / Math.max(1, v.length)

/** Samples answered right without any perturbation: the attack may also leave an image as it is. */
function cleanMask(outputs: readonly Tensor[], labels: Int32Array, n: number): Uint8Array {
  const all = outputs.flatMap((y) => [...answers(y)])
  return Uint8Array.from({ length: n }, (_, i) => (all[i] === labels[i] ? 1 : 0))
}
