import type { Builder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import type { Dim, Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, stridesOf, tensorOf } from '../ir/tensor.ts'
import { axisOf, broadcast, broadcastStrides, pick, product, reshaped, sameDim, shapeOf, typed, walk } from './shapes.ts'

export interface ReshapeAttrs {
  /** 0 copies the input's size at the same place, −1 (once) takes what remains. */
  readonly shape: readonly number[]
}

function reshapeTo(from: readonly Dim[], attrs: ReshapeAttrs): Dim[] {
  const dims: Dim[] = attrs.shape.map((d, i) => {
    if (d !== 0) return d
    if (i >= from.length) throw errors.shapeMismatch(`reshape copies axis ${i} of [${from}]`)
    return from[i]!
  })
  // Symbolic sizes that are copied cancel; the rest must divide.
  const rest = [...from]
  for (const d of dims) {
    if (typeof d !== 'string') continue
    const i = rest.findIndex((r) => sameDim(r, d))
    if (i >= 0) rest.splice(i, 1)
  }
  const have = product(rest)
  const fixed = dims.filter((d): d is number => typeof d === 'number' && d !== -1).reduce((n, d) => n * d, 1)
  const open = dims.indexOf(-1)
  if (open >= 0) {
    if (typeof have === 'number') {
      if (fixed === 0 || have % fixed !== 0) throw errors.shapeMismatch(`[${from}] does not reshape to [${attrs.shape}]`)
      dims[open] = have / fixed
    } else {
      // One symbolic size times known ones: when the known ones match, the open place is the symbol itself.
      const symbols = rest.filter((d) => typeof d === 'string')
      const known = rest.filter((d): d is number => typeof d === 'number').reduce((n, d) => n * d, 1)
      dims[open] = symbols.length === 1 && known === fixed ? symbols[0]! : '?'
    }
  } else if (typeof have === 'number' && have !== fixed) throw errors.shapeMismatch(`[${from}] does not reshape to [${attrs.shape}]`)
  return dims
}

/** A reshape target that gives `to`, for a value of shape `from`; symbolic sizes are copied or left open. Throws CompileError when two stay open. */
export function reshapeTarget(from: readonly Dim[], to: readonly Dim[]): number[] {
  let open = 0
  return to.map((d, i) => {
    if (typeof d === 'number') return d
    if (from[i] !== undefined && sameDim(from[i]!, d)) return 0
    if (open++) throw errors.unsupportedModel(`[${from}] → [${to}] has more than one unknown size`, null, 'fix sizes with --shape')
    return -1
  })
}

/** y = x with another shape, elements in the same order */
export const reshape: Op<ReshapeAttrs> = {
  name: 'reshape',
  spec: 'ONNX Reshape-14, constant shape',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x], attrs) => [typed(x!.dtype, reshapeTo(shapeOf(x), attrs))],
  eval: ([x], attrs) => [reshaped(x!, reshapeTo(x!.shape, attrs) as number[])],
  grad: (b, node, [dy]) => {
    const x = node.inputs[0]!
    return [dy ? b.emit(reshape, [dy], { shape: reshapeTarget(shapeOf(dy), shapeOf(x)) }) : null]
  },
  weights: null,
  quant: 'shared',
  lipschitz: 1,
  positivelyHomogeneous: true,
  clamp: null,
  lower: (b, node, [x], out) => b.emit(reshape, [x!], node.attrs, { quant: out }),
}

export interface ReduceAttrs {
  readonly axes: readonly number[]
  readonly keepDims: boolean
}

/** Shape after reducing `axes`. */
export function reducedShape(from: readonly Dim[], { axes, keepDims }: ReduceAttrs): Dim[] {
  const gone = new Set(axes.map((a) => axisOf(a, from.length)))
  return from.flatMap((d, i) => (gone.has(i) ? (keepDims ? [1] : []) : [d]))
}

/** Calls `visit(outIndex, inIndex)` for every element of a reduction over `axes`. */
export function walkReduction(shape: readonly number[], axes: readonly number[], visit: (out: number, from: number) => void): void {
  const gone = new Set(axes.map((a) => axisOf(a, shape.length)))
  const kept = shape.map((d, i) => (gone.has(i) ? 1 : d))
  const strides = stridesOf(kept).map((s, i) => (gone.has(i) ? 0 : s))
  walk(shape, [strides], (i, [o]) => visit(o!, i))
}

/** Undoes `keepDims: false`: the gradient regains the reduced axes with size 1. */
export function restoreAxes(b: Builder, dy: Value, x: Value, { axes, keepDims }: ReduceAttrs): Value {
  if (keepDims) return dy
  const kept = reducedShape(shapeOf(x), { axes, keepDims: true })
  return b.emit(reshape, [dy], { shape: reshapeTarget(shapeOf(dy), kept) })
}

/** y = Σ_axes x */
export const reduceSum: Op<ReduceAttrs> = {
  name: 'reduceSum',
  spec: 'ONNX ReduceSum-13, constant axes',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x], attrs) => [typed(x!.dtype, reducedShape(shapeOf(x), attrs))],
  eval: ([x], attrs) => {
    const shape = reducedShape(x!.shape, attrs) as number[]
    const from = numbersOf(x!)
    const sums = new Float64Array(sizeOf(shape))
    walkReduction(x!.shape, attrs.axes, (o, i) => {
      sums[o]! += from[i]!
    })
    return [tensorOf(x!.dtype, shape, sums)]
  },
  grad: (b, node, [dy]) => {
    const x = node.inputs[0]!
    return [dy ? expandLike(b, restoreAxes(b, dy, x, node.attrs), x) : null]
  },
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: true,
  clamp: null,
  lower: null,
}

export interface ExpandAttrs {
  /** Target to broadcast with; null takes the shape of the second input. */
  readonly shape: readonly number[] | null
}

/** y = x broadcast to a constant shape, or to the shape of a second input */
export const expand: Op<ExpandAttrs> = {
  name: 'expand',
  spec: 'ONNX Expand-13',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x, like], { shape }) => [typed(x!.dtype, broadcast(shapeOf(x), shape ?? shapeOf(like)))],
  eval: ([x, like], { shape }) => {
    const to = broadcast(x!.shape, shape ?? like!.shape) as number[]
    const from = new Int32Array(sizeOf(to))
    walk(to, [broadcastStrides(x!.shape, to)], (i, [o]) => {
      from[i] = o!
    })
    return [pick(x!, to, (i) => from[i]!)]
  },
  grad: (b, node, [dy]) => [dy ? reduceTo(b, dy, node.inputs[0]!) : null, null].slice(0, node.inputs.length),
  weights: null,
  quant: 'shared',
  lipschitz: null,
  positivelyHomogeneous: true,
  clamp: null,
  lower: (b, node, [x], out) => (node.attrs.shape ? b.emit(expand, [x!], node.attrs, { quant: out }) : null),
}

/** Broadcasts `v` to the shape of `like`, by a constant shape wherever the sizes that grow are known. */
export function expandLike(b: Builder, v: Value, like: Value): Value {
  const from = shapeOf(v)
  const to = shapeOf(like)
  const lead = to.length - from.length
  const stays = (d: Dim, i: number): boolean => i >= lead && sameDim(from[i - lead]!, d)
  if (to.every((d, i) => typeof d === 'number' || stays(d, i)))
    return to.every(stays) ? v : b.emit(expand, [v], { shape: to.map((d) => (typeof d === 'number' ? d : 1)) })
  return b.emit(expand, [v, like], { shape: null })
}

/** Sums a gradient over the axes along which its operand was broadcast, and restores the operand's shape. */
export function reduceTo(b: Builder, dy: Value, x: Value): Value {
  const from = shapeOf(dy)
  const to = shapeOf(x)
  const lead = from.length - to.length
  const axes = from.flatMap((d, i) => (i < lead || (to[i - lead] === 1 && d !== 1) ? [i] : []))
  if (axes.length === 0) return dy
  const summed = b.emit(reduceSum, [dy], { axes, keepDims: true })
  return lead === 0 ? summed : b.emit(reshape, [summed], { shape: reshapeTarget(shapeOf(summed), to) })
}
