import { type Builder, createBuilder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import { type Graph, usesOf, type Value } from '../ir/graph.ts'
import { inline, prune } from '../ir/rewrite.ts'
import { numbersOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import type { Random } from '../math/random.ts'
import { reduceSum as sum } from '../ops/broadcasting.ts'
import { abs, add, div, equal, maximum, minimum, mul, sign, sqrt, sub, where } from '../ops/elementwise.ts'
import { logSoftmax, softmax } from '../ops/normalize.ts'
import { reduceMax } from '../ops/reduce.ts'
import { shapeOf } from '../ops/shapes.ts'
import { differentiate } from './autodiff.ts'

/** A norm in which perturbations are measured. */
export type Norm = 'linf' | 'l2'

/** Model input = pixels·scale + shift; pixels in [0, 1]. Both tensors broadcast to the input. */
export interface Preprocessing {
  readonly scale: Tensor
  readonly shift: Tensor
}

/** What an attack drives: away from the label, or away from the clean output. */
export type Objective = 'classify' | 'deviate'

/** Smallest denominator of a normalized gradient: a vanished gradient gives a step of zero, not of NaN. */
const TINY = 1e-30

/**
 * One attack step as a graph, so that forward, backward and the step run in the engine without coming back:
 * (x, x₀, target, ε, α, …) → x′ in the ε-ball around x₀ and in [0, 1]. The model's first input is attacked; others follow as they are.
 * target: one-hot labels, or the clean outputs to move away from.
 */
export function attackStep(model: Graph, preprocessing: Preprocessing, objective: Objective, norm: Norm): Graph {
  const b = createBuilder()
  const [input, ...others] = model.inputs
  if (!input) throw errors.unsupportedModel('attacks need a network with an input')
  const type = { dtype: 'float32', shape: input.shape } as const
  const x = b.input('x', type)
  const x0 = b.input('x0', type)
  const z = scores(model)
  const target = b.input('target', z)
  const epsilon = b.input('epsilon', { dtype: 'float32', shape: [] })
  const alpha = b.input('alpha', { dtype: 'float32', shape: [] })
  const rest = others.map((v) => b.input(v.name, v))

  const network = prune({ ...model, outputs: [z], outputNames: [z.name] })
  const forward = (fed: Value): Value => inline(b, network, [fed, ...rest])[0]!
  const next = ascend(b, forward, { x, x0, target, epsilon, alpha }, preprocessing, objective, norm)
  return b.build('qdq', [next], { origin: model.origin })
}

/** What one step of an attack works on: perturbed and clean pixels, what to move away from, the ball's radius and the step's length. */
export interface Perturbation {
  readonly x: Value
  readonly x0: Value
  readonly target: Value
  readonly epsilon: Value
  readonly alpha: Value
}

/** Adds one attack step on the network that `forward` adds; returns the next perturbed pixels. */
export function ascend(
  b: Builder,
  forward: (fed: Value) => Value,
  { x, x0, target, epsilon, alpha }: Perturbation,
  preprocessing: Preprocessing,
  objective: Objective,
  norm: Norm,
): Value {
  const y = forward(feedPixels(b, x, preprocessing))
  const dy = objective === 'classify' ? crossEntropyDirection(b, y, target) : b.emit(sub, [y, target], {})
  const [g] = differentiate(b, [{ y, dy }], [x]) as [Value]
  const next = norm === 'linf' ? stepInf(b, x, x0, g, epsilon, alpha) : stepTwo(b, x, x0, g, epsilon, alpha)
  return b.emit(minimum, [b.emit(maximum, [next, b.scalar(0)], {}), b.scalar(1)], {})
}

/** A uniform point of the ℓ∞ ball of this radius around some pixels, in [0, 1]: where an ascent starts. */
export function uniformStart(x0: Tensor, epsilon: number, random: Random): Tensor {
  return movedBy(x0, () => (2 * random.uniform() - 1) * epsilon)
}

/** Pixels plus a number for each, kept in [0, 1]. A plain loop: Float32Array.from with a function takes several times as long. */
export function movedBy(x0: Tensor, delta: (i: number) => number): Tensor {
  const from = numbersOf(x0)
  const to = new Float32Array(from.length)
  for (let i = 0; i < to.length; i++) to[i] = Math.min(1, Math.max(0, from[i]! + delta(i)))
  return tensorOf('float32', x0.shape, to)
}

/** Pixels in [0, 1] as the model reads them. */
export const feedPixels = (b: Builder, pixels: Value, p: Preprocessing): Value =>
  b.emit(add, [b.emit(mul, [pixels, b.constant(p.scale, 'scale')], {}), b.constant(p.shift, 'shift')], {})

/** What the classes are told apart by: the first output, before a closing softmax. */
export function scores(model: Graph): Value {
  const out = model.outputs[0]!
  const maker = usesOf(model).producer(out)
  return maker && (maker.op === softmax || maker.op === logSoftmax) ? maker.inputs[0]! : out
}

/**
 * ∂CE/∂z without cancellation: p_j for the other classes, −Σ of those for the label; divided by its largest entry per sample, so that
 * saturated scores do not vanish.
 */
function crossEntropyDirection(b: Builder, z: Value, oneHot: Value): Value {
  const axis = 1
  const p = b.emit(softmax, [z], { axis })
  const others = b.emit(mul, [p, b.emit(sub, [b.scalar(1), oneHot], {})], {})
  const total = b.emit(sum, [others], { axes: [axis], keepDims: true })
  const d = b.emit(sub, [others, b.emit(mul, [oneHot, total], {})], {})
  const top = b.emit(reduceMax, [b.emit(abs, [d], {})], { axes: [axis], keepDims: true })
  return b.emit(div, [d, b.emit(maximum, [top, b.scalar(TINY)], {})], {})
}

const restOf = (v: Value): number[] =>
  shapeOf(v)
    .map((_, i) => i)
    .slice(1)

/** Where a network's own arithmetic fails its gradient, NaN, the attack stays where it is: an image of NaN would count as found. */
const known = (b: Builder, v: Value): Value => b.emit(where, [b.emit(equal, [v, v], {}), v, b.scalar(0)], {})

/** x′ = clip(x + α·sign g, x₀ ± ε) */
function stepInf(b: Builder, x: Value, x0: Value, g: Value, epsilon: Value, alpha: Value): Value {
  const moved = b.emit(add, [x, b.emit(mul, [alpha, known(b, b.emit(sign, [g], {}))], {})], {})
  const upper = b.emit(add, [x0, epsilon], {})
  const lower = b.emit(sub, [x0, epsilon], {})
  return b.emit(maximum, [b.emit(minimum, [moved, upper], {}), lower], {})
}

/** x′ = x₀ + δ·min(1, ε/‖δ‖), δ = x + α·g/‖g‖ − x₀ */
function stepTwo(b: Builder, x: Value, x0: Value, g: Value, epsilon: Value, alpha: Value): Value {
  const lengthOf = (v: Value): Value => {
    const square = b.emit(sum, [b.emit(mul, [v, v], {})], { axes: restOf(v), keepDims: true })
    return b.emit(maximum, [b.emit(sqrt, [square], {}), b.scalar(TINY)], {})
  }
  const top = b.emit(maximum, [b.emit(reduceMax, [b.emit(abs, [g], {})], { axes: restOf(g), keepDims: true }), b.scalar(TINY)], {})
  // Scaled by its largest entry first: squares of tiny gradients underflow.
  const scaled = b.emit(div, [g, top], {})
  const direction = known(b, b.emit(div, [scaled, lengthOf(scaled)], {}))
  const delta = b.emit(sub, [b.emit(add, [x, b.emit(mul, [alpha, direction], {})], {}), x0], {})
  const shrink = b.emit(minimum, [b.emit(div, [epsilon, lengthOf(delta)], {}), b.scalar(1)], {})
  return b.emit(add, [x0, b.emit(mul, [delta, shrink], {})], {})
}
