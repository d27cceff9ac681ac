import { invariant } from '../ir/errors.ts'
import type { Graph } from '../ir/graph.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { createRandom, type Random } from '../math/random.ts'
import { attackStep, movedBy, type Objective, type Preprocessing, uniformStart } from '../passes/attackStep.ts'
import { filledUp, rows } from '../run/batched.ts'
import type { Engine, Model } from '../run/engine.ts'
import type { Attack } from './attack.ts'

/** Images as pixels in [0, 1], laid out as the model wants them, in batches that can be asked for again. */
export interface Evaluation {
  readonly samples: number
  /** null: no labels; the float network's answers stand in. */
  readonly labels: Int32Array | null
  /** Pixels of samples [from, to): [to − from, …]. */
  pixels(from: number, to: number): Promise<Tensor>
}

/** Perturbed pixels, one tensor per batch and restart. */
export type Adversaries = readonly (readonly Tensor[])[]

export interface AttackOutcome {
  readonly name: string
  readonly norm: string
  readonly epsilon: number
  /** Steps along the gradient, or queries of a gradient-free attack. */
  readonly steps: number
  readonly restarts: number
  /** Share of samples answered right (or mean relative error, for networks that are not classifiers). */
  readonly robust: number
  readonly samples: number
}

export interface Measurement {
  readonly clean: number
  readonly samples: number
  readonly attacks: readonly AttackOutcome[]
  /** Share of samples that survive every attack listed, per radius and norm. */
  readonly worst: readonly { readonly norm: string; readonly epsilon: number; readonly robust: number; readonly samples: number }[]
}

export interface MeasureContext {
  readonly evaluation: Evaluation
  readonly preprocessing: Preprocessing
  readonly objective: Objective
  readonly batch: number
  /** Whether images have their channels last. */
  readonly channelsLast: boolean
  readonly seed: number
  readonly onProgress?: (done: number, of: number) => void
  readonly signal?: AbortSignal
}

/** Model input for pixels: fp32(fp32(p·scale) + shift), broadcast. */
export function preprocess(pixels: Tensor, p: Preprocessing): Tensor {
  const x = numbersOf(pixels)
  const [s, o] = [numbersOf(p.scale), numbersOf(p.shift)]
  const out = new Float32Array(x.length)
  const per = sizeOf(pixels.shape.slice(1))
  const index = broadcastIndex(p.scale.shape, pixels.shape, per)
  for (let base = 0; base < x.length; base += per)
    for (let i = 0; i < per; i++) {
      const k = index[i]!
      out[base + i] = Math.fround(x[base + i]! * s[k]!) + o[k]!
    }
  return tensorOf('float32', pixels.shape, out)
}

/** For each element of one sample, the element of a [1, …] tensor that it meets. */
function broadcastIndex(from: readonly number[], to: readonly number[], per: number): Int32Array {
  const index = new Int32Array(per)
  const inner = to.slice(1)
  const own = from.length === to.length ? from.slice(1) : []
  for (let i = 0; i < per; i++) {
    let rest = i
    let at = 0
    let step = 1
    for (let d = inner.length - 1; d >= 0; d--) {
      const k = rest % inner[d]!
      rest = Math.floor(rest / inner[d]!)
      if (own.length && own[d] !== 1) {
        at += k * step
        step *= own[d]!
      }
    }
    index[i] = at
  }
  return index
}

/** Place of the largest score of each sample. */
export function answers(y: Tensor): Int32Array {
  const v = numbersOf(y)
  const n = y.shape[0]!
  const classes = v.length / n
  return Int32Array.from({ length: n }, (_, s) => {
    let best = 0
    for (let c = 1; c < classes; c++) if (v[s * classes + c]! > v[s * classes + best]!) best = c
    return best
  })
}

/** Batches [from, to) that cover n samples. */
export const batchesOf = (n: number, size: number): [number, number][] =>
  Array.from({ length: Math.ceil(n / size) }, (_, i) => [i * size, Math.min(n, (i + 1) * size)])

/** Outputs of a model for every evaluation sample, batch by batch. */
export async function runOver(
  model: Model,
  c: MeasureContext,
  inputs: (from: number, to: number, batch: number) => Promise<Tensor>,
): Promise<Tensor[]> {
  const results: Tensor[] = []
  for (const [i, [from, to]] of batchesOf(c.evaluation.samples, c.batch).entries()) {
    c.signal?.throwIfAborted()
    results.push((await model([preprocess(await inputs(from, to, i), c.preprocessing)]))[0]!)
  }
  return results
}

/** A point to start from: the image, a uniform point of the ball, or half-way to a corner of it; always in [0, 1]. */
export function startPoint(x0: Tensor, attack: Attack, random: Random): Tensor {
  const { start, epsilon, norm } = attack
  if (start === 'clean' || epsilon === 0) return x0
  if (start === 'corner' && norm === 'linf') return movedBy(x0, () => ((random.normal() < 0 ? -1 : 1) * epsilon) / 2)
  if (norm === 'linf') return uniformStart(x0, epsilon, random)
  // Uniform in the ball: a normal direction, radius ε·u^(1/d). A corner start keeps half the radius.
  const delta = new Float64Array(numbersOf(x0).length)
  const per = sizeOf(x0.shape.slice(1))
  for (let base = 0; base < delta.length; base += per) {
    let squares = 0
    for (let i = base; i < base + per; i++) squares += (delta[i] = random.normal()) ** 2
    const radius = epsilon * (start === 'corner' ? 0.5 : random.uniform() ** (1 / per))
    for (let i = base; i < base + per; i++) delta[i]! *= radius / Math.sqrt(squares)
  }
  return movedBy(x0, (i) => delta[i]!)
}

/**
 * Runs one attack on gradients of `graph`, over all evaluation samples and restarts. `targets` are what the step graph drives away from.
 * The same seed gives the same starting points whatever is attacked, so that two networks face the same budget.
 */
export async function attackWith(
  engine: Engine,
  graph: Graph,
  attack: Attack,
  targets: readonly Tensor[],
  c: MeasureContext,
): Promise<Adversaries> {
  const step = await engine.load(attackStep(graph, c.preprocessing, c.objective, attack.norm))
  const epsilon = tensorOf('float32', [], [attack.epsilon])
  const alpha = tensorOf('float32', [], [attack.stepSize])
  const batches = batchesOf(c.evaluation.samples, c.batch)
  const fixed = graph.inputs[0]!.shape?.[0]
  // At the image itself nothing deviates yet, and there is no gradient to follow: such runs begin beside it.
  const start = c.objective === 'deviate' && attack.start === 'clean' ? 'corner' : attack.start
  const found: Tensor[][] = []
  try {
    for (const [i, [from, to]] of batches.entries()) {
      // A fixed batch takes no remainder.
      const fill = (t: Tensor): Tensor => (typeof fixed === 'number' ? filledUp(t, fixed) : t)
      const x0 = await c.evaluation.pixels(from, to)
      const [whole, target] = [fill(x0), fill(targets[i]!)]
      const runs: Tensor[] = []
      for (let r = 0; r < attack.restarts; r++) {
        let x = fill(startPoint(x0, { ...attack, start }, createRandom(c.seed).fork(`start ${i} ${r}`)))
        for (let s = 0; s < attack.steps; s++) {
          c.signal?.throwIfAborted()
          x = (await step([x, whole, target, epsilon, alpha]))[0]!
        }
        runs.push(whole === x0 ? x : rows(x, 0, to - from))
        c.onProgress?.(i * attack.restarts + r + 1, batches.length * attack.restarts)
      }
      found.push(runs)
    }
  } finally {
    await step.release()
  }
  return found
}

/** One-hot rows for a batch of labels. */
export function oneHot(labels: ArrayLike<number>, from: number, to: number, shape: readonly number[]): Tensor {
  const classes = sizeOf(shape.slice(1))
  const y = new Float32Array((to - from) * classes)
  for (let s = from; s < to; s++) {
    invariant(labels[s]! >= 0 && labels[s]! < classes, `label ${labels[s]} of ${classes} classes`)
    y[(s - from) * classes + labels[s]!] = 1
  }
  return tensorOf('float32', [to - from, ...shape.slice(1)], y)
}

/** Which samples survive: right on every given perturbation of them. */
export async function survivors(model: Model, adversaries: Adversaries, labels: ArrayLike<number>, c: MeasureContext): Promise<Uint8Array> {
  const alive = new Uint8Array(c.evaluation.samples).fill(1)
  for (const [i, [from]] of batchesOf(c.evaluation.samples, c.batch).entries())
    for (const x of adversaries[i]!) {
      c.signal?.throwIfAborted()
      answers((await model([preprocess(x, c.preprocessing)]))[0]!).forEach((a, s) => {
        if (a !== labels[from + s]) alive[from + s] = 0
      })
    }
  return alive
}

/** Mean over samples of the worst relative deviation ‖y′ − y‖/‖y‖ among the perturbations of each sample. */
export async function deviation(model: Model, adversaries: Adversaries, reference: readonly Tensor[], c: MeasureContext): Promise<number> {
  let sum = 0
  for (const [i] of batchesOf(c.evaluation.samples, c.batch).entries()) {
    const worst: number[] = []
    for (const x of adversaries[i]!) {
      const y = (await model([preprocess(x, c.preprocessing)]))[0]!
      relativeErrors(y, reference[i]!).forEach((e, s) => {
        worst[s] = Math.max(worst[s] ?? 0, e)
      })
    }
    sum += worst.reduce((a, v) => a + v, 0)
  }
  return sum / c.evaluation.samples
}

/** ‖y − r‖/‖r‖ per sample. */
export function relativeErrors(y: Tensor, reference: Tensor): number[] {
  const [p, q] = [numbersOf(y), numbersOf(reference)]
  const n = y.shape[0]!
  const per = p.length / n
  return Array.from({ length: n }, (_, s) => {
    let e = 0
    let r = 0
    for (let i = s * per; i < (s + 1) * per; i++) {
      e += (p[i]! - q[i]!) ** 2
      r += q[i]! ** 2
    }
    return Math.sqrt(e / (r || 1))
  })
}

export const share = (alive: Uint8Array): number => alive.reduce((n, v) => n + v, 0) / Math.max(1, alive.length)
