import type { Builder } from '../ir/builder.ts'
import type { Node, Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, tensorOf } from '../ir/tensor.ts'
import { expandLike, type ReduceAttrs, reducedShape, reduceSum, restoreAxes, walkReduction } from './broadcasting.ts'
import { div, equal, exp, mask, mul, scaled, sign, sub } from './elementwise.ts'
import { axisOf, knownShape, shapeOf, typed } from './shapes.ts'

interface Reduction {
  name: string
  spec: string
  start: number
  step: (sum: number, x: number) => number
  finish?: (sum: number, count: number) => number
  /** dy already has the reduced axes back with size 1; so has y. */
  grad: (b: Builder, node: Node<ReduceAttrs>, x: Value, y: Value, dy: Value) => Value
  positivelyHomogeneous?: boolean
}

/** y = a fold of x over the given axes */
const reduction = (r: Reduction): Op<ReduceAttrs> => ({
  name: r.name,
  spec: r.spec,
  levels: ['float', 'qdq', 'integer'],
  infer: ([x], attrs) => [typed(x!.dtype, reducedShape(shapeOf(x), attrs))],
  eval: ([x], attrs) => {
    const shape = reducedShape(x!.shape, attrs) as number[]
    const from = numbersOf(x!)
    const y = new Float64Array(sizeOf(shape)).fill(r.start)
    walkReduction(x!.shape, attrs.axes, (o, i) => {
      y[o] = r.step(y[o]!, from[i]!)
    })
    const count = y.length === 0 ? 0 : from.length / y.length
    return [tensorOf(x!.dtype, shape, r.finish ? y.map((v) => r.finish!(v, count)) : y)]
  },
  grad: (b, node, [dy]) => {
    const x = node.inputs[0]!
    return [dy ? r.grad(b, node, x, restoreAxes(b, node.outputs[0]!, x, node.attrs), restoreAxes(b, dy, x, node.attrs)) : null]
  },
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: r.positivelyHomogeneous ?? false,
  clamp: null,
  lower: null,
})

/** Sends dy to the elements that equal y, evenly where several do. */
const toExtremes: Reduction['grad'] = (b, node, x, y, dy) => {
  const hit = mask(b, equal, x, y)
  const count = b.emit(reduceSum, [hit], { axes: node.attrs.axes, keepDims: true })
  return b.emit(mul, [hit, b.emit(div, [dy, count], {})], {})
}

/** y = mean of x over the axes */
export const reduceMean = reduction({
  name: 'reduceMean',
  spec: 'ONNX ReduceMean-18',
  start: 0,
  step: (s, x) => s + x,
  finish: (s, n) => s / n,
  positivelyHomogeneous: true,
  grad: (b, node, x, _, dy) => {
    const s = shapeOf(x)
    const count = sizeOf(knownShape({ dtype: 'float32', shape: node.attrs.axes.map((a) => s[axisOf(a, s.length)]!) }, 'the reduced size'))
    return expandLike(b, scaled(b, dy, 1 / count), x)
  },
})
/** y = max of x over the axes */
export const reduceMax = reduction({
  name: 'reduceMax',
  spec: 'ONNX ReduceMax-20',
  start: Number.NEGATIVE_INFINITY,
  step: (s, x) => (x > s || Number.isNaN(x) ? x : s),
  positivelyHomogeneous: true,
  grad: toExtremes,
})
/** y = min of x over the axes */
export const reduceMin = reduction({
  name: 'reduceMin',
  spec: 'ONNX ReduceMin-20',
  start: Number.POSITIVE_INFINITY,
  step: (s, x) => (x < s || Number.isNaN(x) ? x : s),
  positivelyHomogeneous: true,
  grad: toExtremes,
})
/** y = Π x over the axes; the gradient needs x ≠ 0 */
export const reduceProd = reduction({
  name: 'reduceProd',
  spec: 'ONNX ReduceProd-18',
  start: 1,
  step: (s, x) => s * x,
  grad: (b, _, x, y, dy) => b.emit(div, [b.emit(mul, [dy, y], {}), x], {}),
})
/** y = Σ|x| over the axes */
export const reduceL1 = reduction({
  name: 'reduceL1',
  spec: 'ONNX ReduceL1-18',
  start: 0,
  step: (s, x) => s + Math.abs(x),
  positivelyHomogeneous: true,
  grad: (b, _, x, __, dy) => b.emit(mul, [dy, b.emit(sign, [x], {})], {}),
})
/** y = √Σx² over the axes */
export const reduceL2 = reduction({
  name: 'reduceL2',
  spec: 'ONNX ReduceL2-18',
  start: 0,
  step: (s, x) => s + x * x,
  finish: Math.sqrt,
  positivelyHomogeneous: true,
  grad: (b, _, x, y, dy) => b.emit(mul, [b.emit(div, [dy, y], {}), x], {}),
})
/** y = Σx² over the axes */
export const reduceSumSquare = reduction({
  name: 'reduceSumSquare',
  spec: 'ONNX ReduceSumSquare-18',
  start: 0,
  step: (s, x) => s + x * x,
  grad: (b, _, x, __, dy) => scaled(b, b.emit(mul, [dy, x], {}), 2),
})
/** y = ln Σx over the axes */
export const reduceLogSum = reduction({
  name: 'reduceLogSum',
  spec: 'ONNX ReduceLogSum-18',
  start: 0,
  step: (s, x) => s + x,
  finish: Math.log,
  grad: (b, _, x, y, dy) => expandLike(b, b.emit(div, [dy, b.emit(exp, [y], {})], {}), x),
})
/** y = ln Σeˣ over the axes, without overflow */
export const reduceLogSumExp: Op<ReduceAttrs> = {
  ...reduction({
    name: 'reduceLogSumExp',
    spec: 'ONNX ReduceLogSumExp-18',
    start: 0,
    step: (s) => s,
    grad: (b, _, x, y, dy) => b.emit(mul, [dy, b.emit(exp, [b.emit(sub, [x, y], {})], {})], {}),
  }),
  eval: ([x], attrs) => {
    const top = numbersOf(reduceMax.eval([x!], attrs)[0]!)
    const from = numbersOf(x!)
    const shape = reducedShape(x!.shape, attrs) as number[]
    const sums = new Float64Array(sizeOf(shape))
    walkReduction(x!.shape, attrs.axes, (o, i) => {
      sums[o]! += Math.exp(from[i]! - (Number.isFinite(top[o]!) ? top[o]! : 0))
    })
    return [
      tensorOf(
        x!.dtype,
        shape,
        sums.map((s, o) => Math.log(s) + (Number.isFinite(top[o]!) ? top[o]! : 0)),
      ),
    ]
  },
}

const argReduction = (
  name: string,
  spec: string,
  better: (a: number, b: number) => boolean,
): Op<{ axis: number; keepDims: boolean; last: boolean }> => ({
  name,
  spec,
  levels: ['float', 'qdq', 'integer'],
  infer: ([x], { axis, keepDims }) => [typed('int64', reducedShape(shapeOf(x), { axes: [axis], keepDims }))],
  eval: ([x], { axis, keepDims, last }) => {
    const shape = reducedShape(x!.shape, { axes: [axis], keepDims }) as number[]
    const from = numbersOf(x!)
    const best = new Float64Array(sizeOf(shape))
    const at = new Float64Array(best.length).fill(-1)
    const seen = new Int32Array(best.length)
    walkReduction(x!.shape, [axis], (o, i) => {
      const k = seen[o]!++
      if (at[o]! < 0 || better(from[i]!, best[o]!) || (last && from[i] === best[o])) {
        best[o] = from[i]!
        at[o] = k
      }
    })
    return [tensorOf('int64', shape, at)]
  },
  grad: null,
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
})

/** y = place of the largest element along one axis */
export const argMax = argReduction('argMax', 'ONNX ArgMax-13', (a, b) => a > b)
/** y = place of the smallest element along one axis */
export const argMin = argReduction('argMin', 'ONNX ArgMin-13', (a, b) => a < b)
