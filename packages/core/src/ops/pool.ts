import type { Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, tensorOf } from '../ir/tensor.ts'
import { expandLike } from './broadcasting.ts'
import { convInputGrad } from './conv.ts'
import { type Window, windowSize } from './convolve.ts'
import { mul, scaled } from './elementwise.ts'
import { type AveragePoolAttrs, containerZero, intAveragePool, intGlobalAveragePool, walkWindows, windowCounts } from './integer.ts'
import { reduceMax } from './reduce.ts'
import { filled, knownShape, shapeOf, typed } from './shapes.ts'

export interface MaxPoolAttrs extends Window {
  readonly kernel: readonly number[]
  readonly ceil: boolean
}

/** y = the largest element of each window; padding never wins */
export const maxPool: Op<MaxPoolAttrs> = {
  name: 'maxPool',
  spec: 'ONNX MaxPool-12, first output',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x], a) => {
    const s = shapeOf(x)
    return [typed(x!.dtype, [s[0]!, s[1]!, ...s.slice(2).map((d, i) => windowSize(d, a.kernel[i]!, i, a, a.ceil))])]
  },
  eval: ([x], a) => {
    const shape = maxPool.infer([x!], a)[0]!.shape as number[]
    const from = numbersOf(x!)
    const y = new Float64Array(sizeOf(shape)).fill(Number.NEGATIVE_INFINITY)
    walkWindows(x!.shape, shape.slice(2), a, (o, i) => {
      if (from[i]! > y[o]!) y[o] = from[i]!
    })
    return [tensorOf(x!.dtype, shape, y)]
  },
  grad: (b, node, [dy]) => [dy ? b.emit(maxPoolGrad, [node.inputs[0]!, dy], node.attrs) : null],
  weights: null,
  quant: 'shared',
  lipschitz: null,
  positivelyHomogeneous: true,
  clamp: null,
  lower: (b, node, [x], out) => b.emit(maxPool, [x!], node.attrs, { quant: out }),
}

/** dx = dy sent to the first largest element of each window: the VJP of {@link maxPool}, from its input and dy */
export const maxPoolGrad: Op<MaxPoolAttrs> = {
  name: 'maxPoolGrad',
  spec: 'ONNX MaxPool-12 indices, scattered with reduction = add',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x, dy], a) => {
    const from = numbersOf(x!)
    const g = numbersOf(dy!)
    const best = new Float64Array(g.length).fill(Number.NEGATIVE_INFINITY)
    const at = new Int32Array(g.length).fill(-1)
    walkWindows(x!.shape, dy!.shape.slice(2), a, (o, i) => {
      if (from[i]! > best[o]!) {
        best[o] = from[i]!
        at[o] = i
      }
    })
    const dx = new Float64Array(from.length)
    for (let o = 0; o < g.length; o++) if (at[o]! >= 0) dx[at[o]!]! += g[o]!
    return [tensorOf(x!.dtype, x!.shape, dx)]
  },
  grad: null,
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
}

/** y = the mean of each window; padding counts only when asked to */
export const averagePool: Op<AveragePoolAttrs> = {
  name: 'averagePool',
  spec: 'ONNX AveragePool-19',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x], a) => {
    const s = shapeOf(x)
    return [typed(x!.dtype, [s[0]!, s[1]!, ...s.slice(2).map((d, i) => windowSize(d, a.kernel[i]!, i, a, a.ceil))])]
  },
  eval: ([x], a) => {
    const shape = averagePool.infer([x!], a)[0]!.shape as number[]
    const from = numbersOf(x!)
    const sums = new Float64Array(sizeOf(shape))
    walkWindows(x!.shape, shape.slice(2), a, (o, i) => {
      sums[o]! += from[i]!
    })
    const counts = windowCounts(x!.shape.slice(2), shape.slice(2), a)
    return [
      tensorOf(
        x!.dtype,
        shape,
        sums.map((s, i) => s / counts[i % counts.length]!),
      ),
    ]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const x = node.inputs[0]!
    const a = node.attrs
    const s = shapeOf(x)
    const channels = knownShape({ dtype: 'float32', shape: [s[1]!] })[0]!
    const space = knownShape({ dtype: 'float32', shape: s.slice(2) }, 'the spatial size')
    const out = knownShape({ dtype: 'float32', shape: shapeOf(dy).slice(2) }, 'the spatial size')
    const shape = [1, 1, ...out]
    const counts = windowCounts(space, out, a)
    // One window that holds everything hands each element the same.
    if (a.pads.every((p) => p === 0) && counts[0] === sizeOf(space)) return [expandLike(b, scaled(b, dy, 1 / counts[0]!), x)]
    const share = b.constant(
      tensorOf(
        dy.dtype,
        shape,
        counts.map((c) => 1 / c),
      ),
      'share',
    )
    const ones = b.constant(filled(dy.dtype, [channels, 1, ...a.kernel], 1), 'ones')
    return [convInputGrad(b, b.emit(mul, [dy, share], {}), ones, x, { ...a, group: channels })]
  },
  weights: null,
  quant: 'own',
  lipschitz: null,
  positivelyHomogeneous: true,
  clamp: null,
  lower: (b, node, [x], out) =>
    !x?.quant || x.quant.axis !== null
      ? null
      : coversAll(x, node.attrs)
        ? b.emit(intGlobalAveragePool, [x], { scaleX: x.quant.scale[0]!, scaleOut: out.scale[0]!, lo: out.lo, hi: out.hi }, { quant: out })
        : b.emit(
            intAveragePool,
            [x],
            { ...node.attrs, scaleX: x.quant.scale[0]!, scaleOut: out.scale[0]!, zeroOut: containerZero(out), lo: out.lo, hi: out.hi },
            { quant: out },
          ),
}

/** A window as large as the whole unpadded image is a global pool, and kernels compute it as one. */
const coversAll = (x: Value, a: AveragePoolAttrs): boolean =>
  a.pads.every((p) => p === 0) &&
  shapeOf(x)
    .slice(2)
    .every((d, i) => d === a.kernel[i])

/** y[n,c] = the mean over all spatial axes, which keep size 1 */
export const globalAveragePool: Op<Record<string, never>> = {
  name: 'globalAveragePool',
  spec: 'ONNX GlobalAveragePool-1',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x]) => [
    typed(
      x!.dtype,
      shapeOf(x).map((d, i) => (i < 2 ? d : 1)),
    ),
  ],
  eval: ([x]) => {
    const area = sizeOf(x!.shape.slice(2))
    const from = numbersOf(x!)
    const y = new Float64Array(from.length / area)
    for (let i = 0; i < y.length; i++) {
      for (let k = 0; k < area; k++) y[i]! += from[i * area + k]!
      y[i]! /= area
    }
    return [
      tensorOf(
        x!.dtype,
        x!.shape.map((d, i) => (i < 2 ? d : 1)),
        y,
      ),
    ]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const x = node.inputs[0]!
    const area = sizeOf(knownShape({ dtype: 'float32', shape: shapeOf(x).slice(2) }, 'the spatial size'))
    return [expandLike(b, scaled(b, dy, 1 / area), x)]
  },
  weights: null,
  quant: 'own',
  lipschitz: 1,
  positivelyHomogeneous: true,
  clamp: null,
  lower: (b, _, [x], out) =>
    x?.quant && x.quant.axis === null
      ? b.emit(intGlobalAveragePool, [x], { scaleX: x.quant.scale[0]!, scaleOut: out.scale[0]!, lo: out.lo, hi: out.hi }, { quant: out })
      : null,
}

/** y[n,c] = the largest element over all spatial axes, which keep size 1 */
export const globalMaxPool: Op<Record<string, never>> = {
  name: 'globalMaxPool',
  spec: 'ONNX GlobalMaxPool-1',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x]) => [
    typed(
      x!.dtype,
      shapeOf(x).map((d, i) => (i < 2 ? d : 1)),
    ),
  ],
  eval: ([x]) => reduceMax.eval([x!], { axes: x!.shape.map((_, i) => i).slice(2), keepDims: true }),
  grad: (b, node, dys, wanted) =>
    reduceMax.grad!(
      b,
      {
        ...node,
        attrs: {
          axes: shapeOf(node.inputs[0])
            .map((_, i) => i)
            .slice(2),
          keepDims: true,
        },
      },
      dys,
      wanted,
    ),
  weights: null,
  quant: 'shared',
  lipschitz: 1,
  positivelyHomogeneous: true,
  clamp: null,
  lower: (b, node, [x], out) => {
    const space = shapeOf(node.inputs[0]).slice(2)
    if (!space.every((d) => typeof d === 'number')) return null
    const ones = space.map(() => 1)
    return b.emit(
      maxPool,
      [x!],
      { kernel: space as number[], strides: ones, dilations: ones, pads: [...space, ...space].map(() => 0), ceil: false },
      { quant: out },
    )
  },
}
