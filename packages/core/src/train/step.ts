import { type Builder, createBuilder } from '../ir/builder.ts'
import { type Graph, type Node, usesOf, type Value } from '../ir/graph.ts'
import { inline, prune } from '../ir/rewrite.ts'
import { scalar, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import type { Random } from '../math/random.ts'
import { reduceSum, reshape } from '../ops/broadcasting.ts'
import { add, cast, div, greaterOrEqual, log, maximum, minimum, mul, sqrt, sub } from '../ops/elementwise.ts'
import { logSoftmax, softmax } from '../ops/normalize.ts'
import { reduceMax } from '../ops/reduce.ts'
import { concat, slice } from '../ops/structure.ts'
import { ascend, feedPixels, type Objective, type Preprocessing } from '../passes/attackStep.ts'
import { differentiate } from '../passes/autodiff.ts'
import { inputFactor, matrixPenalty, operatorPenalty, type PenaltyForm, sumFactors } from './orthogonality.ts'
import type { Parameter, Trainable } from './trainable.ts'

export type OptimizerName = 'adam' | 'sgd'
export const optimizerNames: readonly OptimizerName[] = ['adam', 'sgd']

export interface StepOptions {
  readonly objective: Objective
  readonly preprocessing: Preprocessing
  /** Samples in a batch. */
  readonly batch: number
  /** Share of the cross-entropy with the labels in the loss. */
  readonly labelWeight: number
  /** Share of the distillation from the teacher's scores (Hinton et al. 2015, arXiv 1503.02531), at this temperature. */
  readonly teacherWeight: number
  readonly temperature: number
  readonly optimizer: OptimizerName
  /** Largest ℓ₂ norm of the whole gradient; longer ones are shortened to it. */
  readonly clip: number | null
  /** null: no layer is penalized. */
  readonly penalty: PenaltyForm | null
  /** Residual sums count as convex combinations: see {@link sumFactors}. */
  readonly convexSums: boolean
  /** Whether the samples have labels of their own. */
  readonly labelled: boolean
  /** Perturbs this share of the samples, by so many steps. */
  readonly adversary: { readonly share: number; readonly steps: number } | null
}

/** Decay of the first and the second moment. */
export const MOMENTS = [0.9, 0.99] as const
const EPSILON = 1e-8

/** Vectors that the optimizer carries from step to step, beside the parameters. */
export const momentsOf = (optimizer: OptimizerName): number => (optimizer === 'adam' ? 2 : 1)

/** The numbers that change from step to step, in the order of the step's inputs after the vectors. */
export interface StepInputs {
  /** [batch, …] in [0, 1]. */
  readonly pixels: Tensor
  /** One-hot, [batch, classes]; left out where the teacher's answers count. */
  readonly labels: Tensor | null
  /** Starting points of the perturbed samples, the radius and the length of a step. */
  readonly attack: { readonly start: Tensor; readonly epsilon: number; readonly alpha: number } | null
  readonly rate: number
  /** How far the penalty moves weights along its gradient: β·η. */
  readonly push: number
  /** Number of this step, from 1. */
  readonly t: number
  /** Draws the operator penalty's directions. */
  readonly random: Random
}

export interface TrainingStep {
  readonly graph: Graph
  /** The graph's inputs in order. */
  feed(parameters: Tensor, moments: readonly Tensor[], now: StepInputs): Tensor[]
}

/**
 * One training step as a graph: perturbation of some samples, the teacher's scores, forward, loss, backward, penalty and optimizer.
 * Outputs: new parameters and moments, then the loss, the samples answered right, and the penalty.
 * The penalty does not pass through the optimizer (decoupled, as weight decay in Loshchilov and Hutter 2019, arXiv 1711.05101): Adam divides
 * by the size of its gradients, and with it any β would do the same.
 */
export function trainingStep(trainable: Trainable, teacher: Graph | null, o: StepOptions): TrainingStep {
  const b = createBuilder()
  const { parameters } = trainable
  const vector = { dtype: 'float32', shape: [trainable.initial.length] } as const
  const number = { dtype: 'float32', shape: [] } as const
  const item = trainable.source.inputs[0]!.shape!.slice(1)
  const flat = b.input('parameters', vector)
  const moments = Array.from({ length: momentsOf(o.optimizer) }, (_, i) => b.input(`moment${i + 1}`, vector))
  const pixels = b.input('pixels', { dtype: 'float32', shape: [o.batch, ...item] })
  const [score] = trainable.network.outputs as readonly [Value]
  const labels = o.labelled ? b.input('labels', { dtype: 'float32', shape: [o.batch, ...score.shape!.slice(1)] }) : null
  const some = Math.round(o.batch * (o.adversary?.share ?? 0))
  const start = some ? b.input('start', { dtype: 'float32', shape: [some, ...item] }) : null
  const [epsilon, alpha] = start ? [b.input('epsilon', number), b.input('alpha', number)] : []
  const rate = b.input('rate', number)
  const push = o.penalty && trainable.layers.length ? b.input('push', number) : null
  const corrections = moments.map((_, i) => b.input(`correction${i + 1}`, number))

  const values = trainable.split(b, flat)
  const forward = (fed: Value): Value => trainable.forward(b, values, fed)
  const follow = teacher ? inline(b, teacher, [feedPixels(b, pixels, o.preprocessing)])[0]! : null
  const target = o.objective === 'classify' ? (labels ?? winners(b, follow!)) : follow!
  let x = pixels
  if (start) {
    const part = (v: Value, from: number, to: number): Value =>
      from === 0 && to === o.batch ? v : b.emit(slice, [v], { axes: [0], starts: [from], ends: [to], steps: [1] })
    const completed = (v: Value): Value => (some === o.batch ? v : b.emit(concat, [v, part(pixels, some, o.batch)], { axis: 0 }))
    // Networks of a fixed batch take no part of one: there the clean samples go along.
    const n = typeof trainable.source.inputs[0]!.shape![0] === 'number' ? o.batch : some
    const fixed = { x0: part(pixels, 0, n), target: part(target, 0, n), epsilon: epsilon!, alpha: alpha! }
    let moved = n === some ? start : completed(start)
    for (let k = 0; k < o.adversary!.steps; k++) moved = ascend(b, forward, { x: moved, ...fixed }, o.preprocessing, o.objective, 'linf')
    x = completed(n === some ? moved : part(moved, 0, some))
  }
  const z = forward(feedPixels(b, x, o.preprocessing))
  const { loss, dz, correct } = o.objective === 'classify' ? classification(b, z, follow, target, o) : regression(b, z, target)
  const gradients = differentiate(b, [{ y: z, dy: dz }], values)
  const gradient = joined(b, gradients)
  const length = b.emit(sqrt, [total(b, b.emit(mul, [gradient, gradient], {}))], {})
  const limit =
    o.clip === null
      ? null
      : b.emit(minimum, [b.scalar(1), b.emit(div, [b.scalar(o.clip), b.emit(maximum, [length, b.scalar(1e-30)], {})], {})], {})
  const g = limit ? b.emit(mul, [gradient, limit], {}) : gradient

  const rates = b.constant(
    perElement(trainable, (p) => p.rate),
    'rates',
  )
  const mix = (old: Value, fresh: Value, keep: number): Value =>
    b.emit(add, [b.emit(mul, [old, b.scalar(keep)], {}), b.emit(mul, [fresh, b.scalar(1 - keep)], {})], {})
  const next: Value[] = [mix(moments[0]!, g, MOMENTS[0])]
  let direction = b.emit(mul, [next[0]!, corrections[0]!], {})
  if (o.optimizer === 'adam') {
    next.push(mix(moments[1]!, b.emit(mul, [g, g], {}), MOMENTS[1]))
    const size = b.emit(add, [b.emit(sqrt, [b.emit(mul, [next[1]!, corrections[1]!], {})], {}), b.scalar(EPSILON)], {})
    direction = b.emit(div, [direction, size], {})
  }
  const step = b.emit(mul, [b.emit(mul, [direction, rates], {}), rate], {})
  let moved = b.emit(sub, [flat, step], {})

  let penalty = b.scalar(0)
  if (push) {
    const asked = penalties(b, trainable, values, push, o)
    penalty = asked.total
    moved = b.emit(sub, [moved, asked.step], {})
  }
  if (parameters.some((p) => Number.isFinite(p.lo) || Number.isFinite(p.hi))) {
    const wide = (v: number): number => Math.min(Math.max(v, -3e38), 3e38)
    moved = b.emit(
      maximum,
      [
        moved,
        b.constant(
          perElement(trainable, (p) => wide(p.lo)),
          'least',
        ),
      ],
      {},
    )
    moved = b.emit(
      minimum,
      [
        moved,
        b.constant(
          perElement(trainable, (p) => wide(p.hi)),
          'most',
        ),
      ],
      {},
    )
  }
  const graph = prune(b.build('qdq', [moved, ...next, loss, correct, penalty]))
  const directed = graph.inputs.flatMap((v) => trainable.layers.find(({ node }) => directionName(node) === v.name)?.node ?? [])
  return {
    graph,
    feed: (p, m, now) => [
      p,
      ...m,
      now.pixels,
      ...(labels ? [now.labels!] : []),
      ...(start ? [now.attack!.start, scalar(now.attack!.epsilon), scalar(now.attack!.alpha)] : []),
      scalar(now.rate),
      ...(push ? [scalar(now.push)] : []),
      ...m.map((_, k) => scalar(1 / (1 - MOMENTS[k]! ** now.t))),
      ...directed.map((node) => randomDirection(node, now.random)),
    ],
  }
}

const directionName = (node: Node): string => `direction.${node.outputs[0]!.name}`
/** One sample of what a layer reads. */
const directionShape = (node: Node): number[] => [1, ...(node.inputs[0]!.shape!.slice(1) as number[])]

/** Normal numbers whose outer product has the mean I/positions, so that the penalty of a layer does not grow with its image or sequence. */
function randomDirection(node: Node, random: Random): Tensor {
  const shape = directionShape(node)
  const channels = shape.at(node.op.weights!(node.attrs).inAxis)!
  const by = Math.sqrt(channels / sizeOf(shape))
  return tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => by * random.normal()),
  )
}

/** One-hot rows of the largest scores. */
function winners(b: Builder, z: Value): Value {
  const top = b.emit(reduceMax, [z], { axes: [1], keepDims: true })
  return b.emit(cast, [b.emit(greaterOrEqual, [z, top], {})], { to: 'float32' })
}

function perElement(t: Trainable, f: (p: Trainable['parameters'][number]) => number): ReturnType<typeof tensorOf> {
  const out = new Float32Array(t.initial.length)
  for (const p of t.parameters) out.fill(f(p), p.offset, p.offset + p.size)
  return tensorOf('float32', [out.length], out)
}

interface Loss {
  readonly loss: Value
  readonly dz: Value
  /** Samples whose label has the highest score. */
  readonly correct: Value
}

const total = (b: Builder, v: Value): Value => b.emit(reduceSum, [v], { axes: v.shape!.map((_, i) => i), keepDims: false })

/** w_l·CE(z, y) + w_t·T²·KL(softmax(t/T) ‖ softmax(z/T)), means over the batch. */
function classification(b: Builder, z: Value, teacher: Value | null, labels: Value, o: StepOptions): Loss {
  const attrs = { axis: 1 }
  const T = o.temperature
  const scaled = (v: Value, by: number): Value => b.emit(mul, [v, b.scalar(by)], {})
  const parts: Value[] = []
  const slopes: Value[] = []
  if (o.labelWeight > 0) {
    parts.push(scaled(total(b, b.emit(mul, [labels, b.emit(logSoftmax, [z], attrs)], {})), -o.labelWeight / o.batch))
    slopes.push(scaled(b.emit(sub, [b.emit(softmax, [z], attrs), labels], {}), o.labelWeight / o.batch))
  }
  if (teacher && o.teacherWeight > 0) {
    const target = b.emit(softmax, [scaled(teacher, 1 / T)], attrs)
    const soft = scaled(z, 1 / T)
    const gap = b.emit(sub, [b.emit(log, [b.emit(maximum, [target, b.scalar(1e-30)], {})], {}), b.emit(logSoftmax, [soft], attrs)], {})
    parts.push(scaled(total(b, b.emit(mul, [target, gap], {})), (o.teacherWeight * T * T) / o.batch))
    slopes.push(scaled(b.emit(sub, [b.emit(softmax, [soft], attrs), target], {}), (o.teacherWeight * T) / o.batch))
  }
  const sum = (vs: readonly Value[]): Value => vs.reduce((p, q) => b.emit(add, [p, q], {}))
  const own = b.emit(reduceSum, [b.emit(mul, [z, winners(b, labels)], {})], { axes: [1], keepDims: true })
  const best = b.emit(reduceMax, [z], { axes: [1], keepDims: true })
  return {
    loss: sum(parts),
    dz: sum(slopes),
    correct: total(b, b.emit(cast, [b.emit(greaterOrEqual, [own, best], {})], { to: 'float32' })),
  }
}

/** Σ(z − t)²/Σt² */
function regression(b: Builder, z: Value, teacher: Value): Loss {
  const d = b.emit(sub, [z, teacher], {})
  const power = b.emit(maximum, [total(b, b.emit(mul, [teacher, teacher], {})), b.scalar(1e-30)], {})
  const loss = b.emit(div, [total(b, b.emit(mul, [d, d], {})), power], {})
  return { loss, dz: b.emit(div, [b.emit(mul, [d, b.scalar(2)], {}), power], {}), correct: b.scalar(0) }
}

/**
 * Σ over layers of the penalty, and the step it asks for in the flat vector (zero for all that is no weight). A layer's step is
 * push·∇/(1 + 2·push·√(2·penalty)): where singular values are large, the plain step would overshoot.
 */
function penalties(b: Builder, t: Trainable, values: readonly Value[], push: Value, o: StepOptions): { total: Value; step: Value } {
  const { producer } = usesOf(t.source)
  const sums = o.convexSums ? sumFactors(t.source) : null
  const layers = t.layers.map(({ node, weight }) => {
    const w = values[t.parameters.indexOf(weight)]!
    const factor = inputFactor(node, o.preprocessing.scale, t.source.inputs[0]!, producer)
    const gain = sums?.get(node) ?? 1
    const whole = gain === 1 ? factor : mul.eval([factor ?? scalar(1), scalar(gain)], {})[0]!
    const stretch = whole ? b.constant(whole, 'factor') : null
    const own = stretch ? b.emit(mul, [w, stretch], {}) : w
    const { value, gradient } =
      o.penalty === 'operator' ? operatorPenalty(b, node, own, directionFor(b, node)) : matrixPenalty(b, node, own, o.penalty!)
    return { weight, value, gradient: stretch ? b.emit(div, [gradient, stretch], {}) : gradient }
  })
  const each = joined(
    b,
    layers.map((l) => l.value),
  )
  const defects = b.emit(sqrt, [b.emit(mul, [each, b.scalar(2)], {})], {})
  const brakes = b.emit(add, [b.emit(mul, [defects, b.emit(mul, [push, b.scalar(2)], {})], {}), b.scalar(1)], {})
  const pushes = b.emit(div, [push, brakes], {})
  const steps = new Map<Parameter, Value>()
  layers.forEach(({ weight, gradient }, i) => {
    const own = b.emit(slice, [pushes], { axes: [0], starts: [i], ends: [i + 1], steps: [1] })
    const step = b.emit(mul, [b.emit(reshape, [gradient], { shape: [-1] }), own], {})
    const have = steps.get(weight)
    steps.set(weight, have ? b.emit(add, [have, step], {}) : step)
  })
  const zeros = (n: number): Value => b.constant(tensorOf('float32', [n], new Float32Array(n)), 'zeros')
  return {
    total: total(b, each),
    step: joined(
      b,
      t.parameters.map((p) => steps.get(p) ?? zeros(p.size)),
    ),
  }
}

/** All elements of some values, one after another: a vector. */
const joined = (b: Builder, values: readonly Value[]): Value =>
  b.emit(
    concat,
    values.map((v) => (v.shape!.length === 1 ? v : b.emit(reshape, [v], { shape: [-1] }))),
    { axis: 0 },
  )

const directionFor = (b: Builder, node: Node): Value => b.input(directionName(node), { dtype: 'float32', shape: directionShape(node) })
