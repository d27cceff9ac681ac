import { createBuilder } from '../ir/builder.ts'
import { errors, invariant } from '../ir/errors.ts'
import type { Graph } from '../ir/graph.ts'
import { inline } from '../ir/rewrite.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { createRandom, type Random } from '../math/random.ts'
import { feedPixels, type Objective, type Preprocessing, uniformStart } from '../passes/attackStep.ts'
import { rows } from '../run/batched.ts'
import type { Engine, Model } from '../run/engine.ts'
import type { PenaltyForm } from './orthogonality.ts'
import { momentsOf, type OptimizerName, type StepInputs, trainingStep } from './step.ts'
import { scoring, type Trainable } from './trainable.ts'

/** What is trained on: images as pixels in [0, 1], or other inputs in the model's own range. */
export interface TrainingData {
  readonly count: number
  readonly labels: Int32Array | null
  /** The given samples, changed at random where that leaves their class as it is. */
  batch(indices: ArrayLike<number>, random: Random): Promise<Tensor>
}

/** Perturbed samples in the batches. */
export interface Adversary {
  /** Radius in pixel units. */
  readonly epsilon: number
  /** 1: from a random point of the ball, one step beyond its border (R+FGSM as in Wong et al. 2020, arXiv 2001.03994); more: PGD. */
  readonly steps: number
  /** Share of each batch that is perturbed; the rest stays clean. */
  readonly share: number
  /** Share of the steps over which ε grows to its full size: without, training collapses now and then. */
  readonly ramp: number
}

export interface TrainingOptions {
  readonly steps: number
  readonly batch: number
  /** Peak learning rate, relative to the rms of each tensor. */
  readonly rate: number
  /** Steps over which the rate rises; then it falls to zero as a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983). */
  readonly warmup: number
  readonly optimizer: OptimizerName
  readonly clip: number | null
  readonly labelWeight: number
  readonly teacherWeight: number
  readonly temperature: number
  readonly penalty: PenaltyForm | null
  readonly convexSums: boolean
  /** Weight of the penalty: each step moves weights by β·η·∇, η the learning rate. */
  readonly beta: number
  readonly adversary: Adversary | null
  /** Decay per step of the running mean of the parameters that is validated and kept (Polyak and Juditsky 1992); 0 keeps the last ones. */
  readonly averaging: number
  readonly seed: number
  /** Steps between validations. */
  readonly interval: number
  /** Scores that differ by no more than this count as equal, and the later parameters are kept. */
  readonly tolerance: number
}

/** What validation says of the parameters: higher scores are better. */
export interface Validation {
  readonly score: number
  readonly clean: number
  readonly robust: number | null
}

/** One line of the learning curve: means over the steps since the line before. */
export interface LearningPoint extends Validation {
  readonly step: number
  readonly loss: number
  readonly accuracy: number
  readonly penalty: number
}

/** All that a run needs to go on to the very same end. */
export interface TrainingState {
  readonly step: number
  readonly parameters: Float32Array
  readonly moments: readonly Float32Array[]
  /** Running mean of the parameters. */
  readonly average: Float32Array
  readonly best: { readonly step: number; readonly score: number; readonly parameters: Float32Array } | null
  readonly curve: readonly LearningPoint[]
  /** Sums over the steps since the last line of the curve. */
  readonly running: { readonly steps: number; readonly loss: number; readonly correct: number; readonly penalty: number }
  /** Why the run ended early; null otherwise. */
  readonly diverged: string | null
}

export interface TrainingHooks {
  validate(parameters: Tensor): Promise<Validation>
  onStep?(done: number, of: number, metrics: { readonly loss: number; readonly accuracy: number }): void
  /** Called with a state that can be resumed from: after every validation, and whenever `wantsState` says so. */
  onState?(state: TrainingState): void
  wantsState?(): boolean
  /** Asked between steps; throw to stop. */
  check?(): void
}

export interface TrainingProblem {
  readonly trainable: Trainable
  /** Gives the scores to be followed; null: the labels alone. */
  readonly teacher: Graph | null
  readonly data: TrainingData
  readonly objective: Objective
  readonly preprocessing: Preprocessing
}

/** Learning rate at a step (from 0), peak 1. */
export const course = (step: number, o: { steps: number; warmup: number }): number => {
  if (step < o.warmup) return (step + 1) / o.warmup
  return 0.5 * (1 + Math.cos((Math.PI * (step - o.warmup)) / Math.max(1, o.steps - o.warmup)))
}

/** Radius at a step: from a little to all of it. */
export const radius = (step: number, o: { steps: number }, a: Adversary): number =>
  a.epsilon * Math.min(1, (step + 1) / Math.max(1, a.ramp * o.steps))

export const startState = (t: Trainable, o: TrainingOptions): TrainingState => ({
  step: 0,
  parameters: t.initial,
  moments: Array.from({ length: momentsOf(o.optimizer) }, () => new Float32Array(t.initial.length)),
  average: t.initial,
  best: null,
  curve: [],
  running: { steps: 0, loss: 0, correct: 0, penalty: 0 },
  diverged: null,
})

/** A step of one-step adversaries goes this far (Wong et al. 2020, §4). */
const OVERSTEP = 1.25
/** PGD steps reach the border from anywhere in the ball. */
const REACH = 2.5
/** A score below this share of the best one so far, twice in a row, is a collapse. */
const COLLAPSE = 0.5

/** Pixels → scores of a network. */
export function scoringGraph(graph: Graph, preprocessing: Preprocessing): Graph {
  const b = createBuilder()
  const x = b.input('pixels', { dtype: 'float32', shape: graph.inputs[0]!.shape })
  const others = graph.inputs.slice(1).map((v) => b.input(v.name, v))
  const [y] = inline(b, scoring(graph), [feedPixels(b, x, preprocessing), ...others])
  return b.build('qdq', [y!])
}

/**
 * Trains from `state` to the end, or until training diverges. The same state, options and data give the same result, however often it was
 * interrupted. Throws CompileError when the network cannot be differentiated.
 */
export async function train(
  engine: Engine,
  problem: TrainingProblem,
  o: TrainingOptions,
  hooks: TrainingHooks,
  state: TrainingState = startState(problem.trainable, o),
): Promise<TrainingState> {
  const { trainable, data, preprocessing, objective } = problem
  if (data.count < 1) throw errors.badData('no samples to train on')
  const loaded: Model[] = []
  const load = async (g: Graph): Promise<Model> => {
    const m = await engine.load(g)
    loaded.push(m)
    return m
  }
  const random = createRandom(o.seed)
  const orders = new Map<number, Uint32Array>()
  const indicesOf = (step: number): Uint32Array => {
    const first = step * o.batch
    const epoch = Math.floor(first / data.count)
    for (const e of orders.keys()) if (e < epoch) orders.delete(e)
    return Uint32Array.from({ length: o.batch }, (_, i) => {
      const e = Math.floor((first + i) / data.count)
      if (!orders.has(e)) orders.set(e, random.fork(`epoch ${e}`).permutation(data.count))
      return orders.get(e)![(first + i) % data.count]!
    })
  }
  const fetch = async (step: number): Promise<{ indices: Uint32Array; pixels: Tensor }> => {
    const indices = indicesOf(step)
    return { indices, pixels: await data.batch(indices, random.fork(`augment ${step}`)) }
  }
  try {
    const labelled = objective === 'classify' && data.labels !== null
    const followed = problem.teacher ? scoring(problem.teacher) : null
    invariant(labelled || followed, 'training needs labels or a teacher')
    const step = trainingStep(trainable, followed, { ...o, objective, preprocessing, labelled, penalty: o.beta > 0 ? o.penalty : null })
    const model = await load(step.graph)
    const classes = trainable.network.outputs[0]!.shape!.slice(1).map(Number)
    const vector = (data: Float32Array): Tensor => tensorOf('float32', [data.length], data)

    let parameters = vector(state.parameters)
    let moments = state.moments.map(vector)
    let { average, best, curve, running } = state
    let diverged: string | null = state.diverged
    const snapshot = (done: number): TrainingState => ({
      step: done,
      parameters: parameters.data as Float32Array,
      moments: moments.map((m) => m.data as Float32Array),
      average,
      best,
      curve,
      running,
      diverged,
    })
    const ahead = (step: number): ReturnType<typeof fetch> => {
      const batch = fetch(step)
      // It may never be asked for; whoever asks still gets the error.
      batch.catch(() => {})
      return batch
    }
    let next = ahead(state.step)
    for (let i = state.step; i < o.steps && diverged === null; i++) {
      if (hooks.wantsState?.()) hooks.onState?.(snapshot(i))
      hooks.check?.()
      const { indices, pixels } = await next
      const pace = course(i, o)
      const learning = model(
        step.feed(parameters, moments, {
          pixels,
          labels: labelled ? oneHotOf(indices, data.labels!, classes) : null,
          attack: o.adversary ? startOf(pixels, i, o, o.adversary, random.fork(`attack ${i}`)) : null,
          rate: pace * o.rate,
          push: pace * o.rate * o.beta,
          t: i + 1,
          random: random.fork(`direction ${i}`),
        }),
      )
      // The next batch is made while this one is learned from.
      next = i + 1 < o.steps ? ahead(i + 1) : next
      const results = await learning
      const [loss, correct, penalty] = results.slice(1 + moments.length).map((t) => numbersOf(t)[0]!) as [number, number, number]
      if (!Number.isFinite(loss) || !(numbersOf(results[0]!) as Float32Array).every(Number.isFinite)) {
        diverged = `the loss became ${loss} at step ${i + 1}`
        break
      }
      parameters = results[0]!
      moments = results.slice(1, 1 + moments.length)
      average = averaged(average, parameters.data as Float32Array, Math.min(o.averaging, (i + 1) / (i + 10)))
      running = {
        steps: running.steps + 1,
        loss: running.loss + loss,
        correct: running.correct + correct,
        penalty: running.penalty + penalty,
      }
      hooks.onStep?.(i + 1, o.steps, { loss: running.loss / running.steps, accuracy: running.correct / (running.steps * o.batch) })
      const last = i + 1 === o.steps
      if (last || (i + 1) % o.interval === 0) {
        const v = await hooks.validate(vector(average))
        curve = [
          ...curve,
          {
            ...v,
            step: i + 1,
            loss: running.loss / running.steps,
            accuracy: running.correct / (running.steps * o.batch),
            penalty: running.penalty / running.steps,
          },
        ]
        running = { steps: 0, loss: 0, correct: 0, penalty: 0 }
        const top = curve.reduce((m, p) => Math.max(m, p.score), Number.NEGATIVE_INFINITY)
        const low = (p: LearningPoint): boolean => p.score < top - (1 - COLLAPSE) * Math.abs(top)
        if (curve.length > 1 && curve.slice(-2).every(low))
          diverged = `the validation score fell from ${top.toPrecision(3)} to ${v.score.toPrecision(3)} at step ${i + 1}`
        if (v.score >= top - o.tolerance) best = { step: i + 1, score: v.score, parameters: average }
        hooks.onState?.(snapshot(i + 1))
      }
    }
    return snapshot(diverged === null ? o.steps : (curve.at(-1)?.step ?? 0))
  } finally {
    for (const m of loaded) await m.release()
  }
}

/** keep·mean + (1 − keep)·now; what is now, for a memory of 0. */
function averaged(mean: Float32Array, now: Float32Array, keep: number): Float32Array {
  return keep <= 0 ? now : now.map((v, i) => keep * mean[i]! + (1 - keep) * v)
}

function oneHotOf(indices: Uint32Array, labels: Int32Array, classes: readonly number[]): Tensor {
  const C = sizeOf(classes)
  const y = new Float32Array(indices.length * C)
  indices.forEach((k, s) => {
    y[s * C + labels[k]!] = 1
  })
  return tensorOf('float32', [indices.length, ...classes], y)
}

/** Random points of the balls around the first samples of a batch. */
function startOf(pixels: Tensor, step: number, o: TrainingOptions, a: Adversary, random: Random): StepInputs['attack'] {
  const epsilon = radius(step, o, a)
  const x0 = rows(pixels, 0, Math.round(pixels.shape[0]! * a.share))
  return {
    start: uniformStart(x0, epsilon, random),
    epsilon,
    alpha: a.steps === 1 ? OVERSTEP * epsilon : (REACH * epsilon) / a.steps,
  }
}
