import type { Graph } from '../ir/graph.ts'
import { scalar, type Tensor, tensorOf } from '../ir/tensor.ts'
import { createRandom } from '../math/random.ts'
import { attackStep } from '../passes/attackStep.ts'
import type { QuantPlan } from '../passes/insertQuantizers.ts'
import { batched } from '../run/batched.ts'
import type { Engine, Model } from '../run/engine.ts'
import {
  scoringGraph,
  type TrainingHooks,
  type TrainingOptions,
  type TrainingProblem,
  type TrainingState,
  train,
  type Validation,
} from '../train/finetune.ts'
import { createTrainable, floatPlan, type TrainableOptions } from '../train/trainable.ts'
import { namedAttack } from '../verify/attack.ts'
import { answers, type Evaluation, oneHot, relativeErrors, share, startPoint, survivors } from '../verify/measure.ts'
import { attackByQueries } from '../verify/square.ts'

/** What checkpoints are judged on. */
export interface ValidationOptions {
  readonly evaluation: Evaluation
  readonly batch: number
  readonly channelsLast: boolean
  /** Radius of the attacks, in pixel units. */
  readonly epsilon: number
  /** Steps of PGD. */
  readonly steps: number
  /** Samples and queries of the gradient-free attack; null where training has not seen perturbed samples, which teach networks to mask. */
  readonly square: { readonly samples: number; readonly queries: number } | null
}

export interface FinetuneOptions extends TrainingOptions, TrainableOptions {
  readonly validation: ValidationOptions
}

export type FinetuneProblem = Omit<TrainingProblem, 'trainable'> & {
  readonly graph: Graph<'float'>
  /** null: the network stays float. */
  readonly plan: QuantPlan | null
}

export interface Finetuned {
  readonly graph: Graph<'float'>
  readonly plan: QuantPlan
  readonly state: TrainingState
}

/**
 * Fine-tunes a network, through its quantizers where it has a plan, and returns it with the numbers of the best checkpoint; as it was, where
 * training diverged before there was one.
 * Checkpoints are scored by clean accuracy plus robust accuracy (the fewest that survive a gradient attack and, where asked for, a
 * gradient-free one); networks that are no classifiers by their relative error.
 */
export async function finetuneNetwork(
  engine: Engine,
  problem: FinetuneProblem,
  o: FinetuneOptions,
  hooks: Omit<TrainingHooks, 'validate'> = {},
  from?: TrainingState,
): Promise<Finetuned> {
  const trainable = createTrainable(problem.graph, problem.plan ?? floatPlan, o)
  const loaded: Model[] = []
  const load = async (g: Graph): Promise<Model> => {
    const model = await engine.load(g)
    loaded.push(model)
    return model
  }
  try {
    const validate = await createValidator(load, trainable.network, problem, o)
    const state = await train(engine, { ...problem, trainable }, o, { ...hooks, validate }, from)
    const { graph, plan } = trainable.restore(state.best?.parameters ?? trainable.initial)
    return { graph, plan, state }
  } finally {
    for (const m of loaded) await m.release()
  }
}

async function createValidator(
  load: (graph: Graph) => Promise<Model>,
  network: Graph,
  problem: FinetuneProblem,
  o: FinetuneOptions,
): Promise<(parameters: Tensor) => Promise<Validation>> {
  const { preprocessing, objective } = problem
  const { evaluation, batch, epsilon, square } = o.validation
  const model = await load(scoringGraph(network, preprocessing))
  const attack = objective === 'classify' ? await load(attackStep(network, preprocessing, objective, 'linf')) : null
  const teacher = problem.teacher ? await load(scoringGraph(problem.teacher, preprocessing)) : null
  const pgd = namedAttack('pgd', { epsilon, norm: 'linf', steps: o.validation.steps, restarts: 1 })
  const size = Math.min(batch, evaluation.samples)
  // Whole batches only: some networks take no other.
  const starts = Array.from({ length: Math.floor(evaluation.samples / size) }, (_, i) => i * size)

  const validate = async (parameters: Tensor): Promise<Validation> => {
    let right = 0
    let alive = 0
    let error = 0
    let seen = 0
    for (const [i, from] of starts.entries()) {
      const x0 = await evaluation.pixels(from, from + size)
      const z = (await model([x0, parameters]))[0]!
      const wanted = teacher ? (await teacher([x0]))[0]! : null
      seen += size
      if (!attack) {
        error += relativeErrors(z, wanted!).reduce((s, v) => s + v, 0)
        continue
      }
      const labels = evaluation.labels ? evaluation.labels.slice(from, from + size) : answers(wanted!)
      const ok = (y: Tensor): boolean[] => Array.from(answers(y), (a, s) => a === labels[s])
      const clean = ok(z)
      right += clean.filter(Boolean).length
      let x = startPoint(x0, pgd, createRandom(o.seed).fork(`validation ${i}`))
      const target = oneHot(labels, 0, size, z.shape)
      for (let k = 0; k < pgd.steps; k++) x = (await attack([x, x0, target, scalar(pgd.epsilon), scalar(pgd.stepSize), parameters]))[0]!
      const robust = ok((await model([x, parameters]))[0]!).map((v, s) => v && clean[s]!)
      alive += robust.filter(Boolean).length
    }
    if (!attack) return { score: 1 - error / seen, clean: 1 - error / seen, robust: null }
    const robust = square ? Math.min(alive / seen, await bySquares(parameters)) : alive / seen
    return { score: right / seen + robust, clean: right / seen, robust }
  }

  /** Share that survives the gradient-free attack. */
  const bySquares = async (parameters: Tensor): Promise<number> => {
    const n = Math.max(size, Math.floor(Math.min(square!.samples, evaluation.samples) / size) * size)
    const fixed = network.inputs[0]!.shape![0]
    const asked: Model = batched(
      Object.assign(async ([x]: readonly Tensor[]): Promise<Tensor[]> => model([x!, parameters]), { release: async () => {} }),
      typeof fixed === 'number' ? fixed : null,
    )
    const labels = evaluation.labels ? evaluation.labels.slice(0, n) : await teacherAnswers(n)
    const attackSquare = namedAttack('square', { epsilon, norm: 'linf', steps: 1, restarts: 1, queries: square!.queries })
    // The scoring graph reads pixels itself.
    const plain = { scale: tensorOf('float32', [1], [1]), shift: tensorOf('float32', [1], [0]) }
    const c = {
      evaluation: { ...evaluation, samples: n, labels },
      preprocessing: plain,
      objective,
      batch: size,
      channelsLast: o.validation.channelsLast,
      seed: o.seed,
    }
    const found = await attackByQueries(asked, attackSquare, (from, to) => ({ labels: labels.slice(from, to), reference: null }), c)
    return share(await survivors(asked, found, labels, c))
  }

  const teacherAnswers = async (n: number): Promise<Int32Array> => {
    const all: number[] = []
    for (let from = 0; from < n; from += size) all.push(...answers((await teacher!([await evaluation.pixels(from, from + size)]))[0]!))
    return Int32Array.from(all)
  }
  return validate
}
