import type { Builder } from '../ir/builder.ts'
import type { Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { reduceSum, reduceTo, reshape, walkReduction } from './broadcasting.ts'
import { matmul } from './conv.ts'
import { div, exp, mul, pow, scaled, shifted, sqrt, sub } from './elementwise.ts'
import { reduceMax, reduceMean } from './reduce.ts'
import { axisOf, broadcastStrides, knownShape, rankOf, shapeOf, typed, walk } from './shapes.ts'

const real = {
  levels: ['float', 'qdq', 'integer'],
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
} as const

/** A per-channel vector [C] seen as [1, C, 1, …] against x. */
const perChannel = (b: Builder, v: Value, x: Value): Value => b.emit(reshape, [v], { shape: shapeOf(x).map((_, i) => (i === 1 ? -1 : 1)) })
const toChannel = (b: Builder, v: Value): Value =>
  b.emit(reduceSum, [v], { axes: shapeOf(v).flatMap((_, i) => (i === 1 ? [] : [i])), keepDims: false })

/** y = (x − mean_c)·scale_c/√(var_c + ε) + bias_c, with the stored statistics. x [N, C, …] */
export const batchNorm: Op<{ epsilon: number }> = {
  ...real,
  name: 'batchNorm',
  spec: 'ONNX BatchNormalization-15, inference',
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x, scale, bias, mean, variance], { epsilon }) => {
    const from = numbersOf(x!)
    const [s, o, m, v] = [scale!, bias!, mean!, variance!].map((t) => numbersOf(t))
    const inner = sizeOf(x!.shape.slice(2))
    const C = x!.shape[1] ?? 1
    const y = new Float64Array(from.length)
    for (let i = 0; i < y.length; i++) {
      const c = Math.floor(i / inner) % C
      y[i] = ((from[i]! - m![c]!) * s![c]!) / Math.sqrt(v![c]! + epsilon) + o![c]!
    }
    return [tensorOf(x!.dtype, x!.shape, y)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return node.inputs.map(() => null)
    const [x, scale, , mean, variance] = node.inputs as [Value, Value, Value, Value, Value]
    const deviation = perChannel(b, b.emit(sqrt, [shifted(b, variance, node.attrs.epsilon)], {}), x)
    const g = b.emit(div, [dy, deviation], {})
    const centred = b.emit(sub, [x, perChannel(b, mean, x)], {})
    const gs = b.emit(mul, [g, perChannel(b, scale, x)], {})
    return [
      gs,
      wanted[1] ? toChannel(b, b.emit(mul, [g, centred], {})) : null,
      wanted[2] ? toChannel(b, dy) : null,
      wanted[3] ? scaled(b, toChannel(b, gs), -1) : null,
      wanted[4]
        ? b.emit(div, [scaled(b, toChannel(b, b.emit(mul, [gs, centred], {})), -0.5), shifted(b, variance, node.attrs.epsilon)], {})
        : null,
    ]
  },
}

/** x̂ = (x − mean)/√(var + ε) over the axes */
function standardize(t: Tensor, axes: readonly number[], epsilon: number): Float64Array {
  const x = numbersOf(t)
  const groups = t.shape.map((d, i) => (axes.includes(i) ? 1 : d))
  const n = x.length / Math.max(1, sizeOf(groups))
  const mean = new Float64Array(sizeOf(groups))
  const variance = new Float64Array(mean.length)
  walkReduction(t.shape, axes, (o, i) => {
    mean[o]! += x[i]! / n
  })
  walkReduction(t.shape, axes, (o, i) => {
    variance[o]! += (x[i]! - mean[o]!) ** 2 / n
  })
  const y = new Float64Array(x.length)
  walkReduction(t.shape, axes, (o, i) => {
    y[i] = (x[i]! - mean[o]!) / Math.sqrt(variance[o]! + epsilon)
  })
  return y
}

/** x̂ and 1/√(var + ε) as ops, for the gradients */
function standardized(b: Builder, x: Value, axes: readonly number[], epsilon: number): { hat: Value; inverse: Value } {
  const centred = b.emit(sub, [x, b.emit(reduceMean, [x], { axes, keepDims: true })], {})
  const variance = b.emit(reduceMean, [b.emit(mul, [centred, centred], {})], { axes, keepDims: true })
  const inverse = b.emit(div, [b.scalar(1), b.emit(sqrt, [shifted(b, variance, epsilon)], {})], {})
  return { hat: b.emit(mul, [centred, inverse], {}), inverse }
}

/** dx = (g − mean(g) − x̂·mean(g·x̂))/√(var + ε) */
function standardizedGrad(b: Builder, g: Value, hat: Value, inverse: Value, axes: readonly number[]): Value {
  const mean = b.emit(reduceMean, [g], { axes, keepDims: true })
  const along = b.emit(mul, [hat, b.emit(reduceMean, [b.emit(mul, [g, hat], {})], { axes, keepDims: true })], {})
  return b.emit(mul, [b.emit(sub, [b.emit(sub, [g, mean], {}), along], {}), inverse], {})
}

/** y = x̂·scale + bias, x̂ standardized over the axes from `axis` to the last */
export const layerNorm: Op<{ axis: number; epsilon: number }> = {
  ...real,
  name: 'layerNorm',
  spec: 'ONNX LayerNormalization-17, first output',
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x, scale, bias], { axis, epsilon }) => {
    const first = axisOf(axis, x!.shape.length)
    const axes = x!.shape.map((_, i) => i).slice(first)
    const y = standardize(x!, axes, epsilon)
    const s = numbersOf(scale!)
    const o = bias ? numbersOf(bias) : null
    walk(
      x!.shape,
      [broadcastStrides(scale!.shape, x!.shape), bias ? broadcastStrides(bias.shape, x!.shape) : x!.shape.map(() => 0)],
      (i, [p, q]) => {
        y[i] = y[i]! * s[p!]! + (o ? o[q!]! : 0)
      },
    )
    return [tensorOf(x!.dtype, x!.shape, y)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return node.inputs.map(() => null)
    const [x, scale, bias] = node.inputs as [Value, Value, Value | undefined]
    const rank = rankOf(x)
    const axes = Array.from({ length: rank }, (_, i) => i).slice(axisOf(node.attrs.axis, rank))
    const { hat, inverse } = standardized(b, x, axes, node.attrs.epsilon)
    return [
      wanted[0] ? standardizedGrad(b, b.emit(mul, [dy, scale], {}), hat, inverse, axes) : null,
      wanted[1] ? reduceTo(b, b.emit(mul, [dy, hat], {}), scale) : null,
      bias && wanted[2] ? reduceTo(b, dy, bias) : null,
    ].slice(0, node.inputs.length)
  },
}

/** y = x̂·scale_c + bias_c, x̂ standardized over the spatial axes of each sample and channel */
export const instanceNorm: Op<{ epsilon: number }> = {
  ...real,
  name: 'instanceNorm',
  spec: 'ONNX InstanceNormalization-22',
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x, scale, bias], { epsilon }) => {
    const axes = x!.shape.map((_, i) => i).slice(2)
    const y = standardize(x!, axes, epsilon)
    const [s, o] = [numbersOf(scale!), numbersOf(bias!)]
    const inner = sizeOf(x!.shape.slice(2))
    return [
      tensorOf(
        x!.dtype,
        x!.shape,
        y.map((v, i) => v * s[Math.floor(i / inner) % x!.shape[1]!]! + o[Math.floor(i / inner) % x!.shape[1]!]!),
      ),
    ]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null, null]
    const [x, scale] = node.inputs as [Value, Value]
    const axes = shapeOf(x)
      .map((_, i) => i)
      .slice(2)
    const { hat, inverse } = standardized(b, x, axes, node.attrs.epsilon)
    return [
      wanted[0] ? standardizedGrad(b, b.emit(mul, [dy, perChannel(b, scale, x)], {}), hat, inverse, axes) : null,
      wanted[1] ? toChannel(b, b.emit(mul, [dy, hat], {})) : null,
      wanted[2] ? toChannel(b, dy) : null,
    ]
  },
}

/** y = x/(bias + α/size·Σ_{window of channels} x²)^β */
export const localResponseNorm: Op<{ size: number; alpha: number; beta: number; bias: number }> = {
  ...real,
  name: 'localResponseNorm',
  spec: 'ONNX LRN-13',
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x], a) => {
    const from = numbersOf(x!)
    const C = x!.shape[1]!
    const inner = sizeOf(x!.shape.slice(2))
    return [
      tensorOf(
        x!.dtype,
        x!.shape,
        Float64Array.from(from as Float32Array, (v, i) => {
          const c = Math.floor(i / inner) % C
          let sum = 0
          for (const k of channelWindow(c, C, a.size)) sum += from[i + (k - c) * inner]! ** 2
          return v / (a.bias + (a.alpha / a.size) * sum) ** a.beta
        }),
      ),
    ]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const x = node.inputs[0]!
    const a = node.attrs
    const C = knownShape({ dtype: 'float32', shape: [shapeOf(x)[1]!] })[0]!
    const flat = (v: Value): Value => b.emit(reshape, [v], { shape: [0, C, -1] })
    const band = new Float32Array(C * C)
    for (let c = 0; c < C; c++) for (const k of channelWindow(c, C, a.size)) band[c * C + k] = 1
    const sumOver = (m: Float32Array, v: Value): Value => b.emit(matmul, [b.constant(tensorOf(x.dtype, [C, C], m), 'band'), v], {})
    const [fx, fdy] = [flat(x), flat(dy)]
    const u = shifted(b, scaled(b, sumOver(band, b.emit(mul, [fx, fx], {})), a.alpha / a.size), a.bias)
    const power = (p: number): Value => b.emit(pow, [u, b.scalar(p)], {})
    const transposed = Float32Array.from(band, (_, i) => band[(i % C) * C + Math.floor(i / C)]!)
    const spread = sumOver(transposed, b.emit(mul, [b.emit(mul, [fdy, fx], {}), power(-a.beta - 1)], {}))
    const g = b.emit(
      sub,
      [b.emit(mul, [fdy, power(-a.beta)], {}), scaled(b, b.emit(mul, [fx, spread], {}), (2 * a.alpha * a.beta) / a.size)],
      {},
    )
    return [b.emit(reshape, [g], { shape: shapeOf(x).map((d) => (typeof d === 'number' ? d : 0)) })]
  },
}

const channelWindow = (c: number, C: number, size: number): number[] => {
  const first = Math.max(0, c - Math.floor((size - 1) / 2))
  const last = Math.min(C - 1, c + Math.ceil((size - 1) / 2))
  return Array.from({ length: last - first + 1 }, (_, i) => first + i)
}

/** y_i = e^{x_i}/Σ_j e^{x_j} along one axis */
export const softmax: Op<{ axis: number }> = {
  ...real,
  name: 'softmax',
  spec: 'ONNX Softmax-13',
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x], { axis }) => [tensorOf(x!.dtype, x!.shape, Float64Array.from(logProbabilities(x!, axis), Math.exp))],
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const y = node.outputs[0]!
    const along = b.emit(mul, [dy, y], {})
    const sum = b.emit(reduceSum, [along], { axes: [node.attrs.axis], keepDims: true })
    return [b.emit(sub, [along, b.emit(mul, [y, sum], {})], {})]
  },
  lipschitz: 1,
}

/** y_i = x_i − ln Σ_j e^{x_j} along one axis */
export const logSoftmax: Op<{ axis: number }> = {
  ...real,
  name: 'logSoftmax',
  spec: 'ONNX LogSoftmax-13',
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x], { axis }) => [tensorOf(x!.dtype, x!.shape, logProbabilities(x!, axis))],
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const sum = b.emit(reduceSum, [dy], { axes: [node.attrs.axis], keepDims: true })
    return [b.emit(sub, [dy, b.emit(mul, [b.emit(exp, [node.outputs[0]!], {}), sum], {})], {})]
  },
}

function logProbabilities(t: Tensor, axis: number): Float64Array {
  const x = numbersOf(t)
  const a = axisOf(axis, t.shape.length)
  const top = numbersOf(reduceMax.eval([t], { axes: [a], keepDims: true })[0]!)
  const sums = new Float64Array(top.length)
  walkReduction(t.shape, [a], (o, i) => {
    sums[o]! += Math.exp(x[i]! - top[o]!)
  })
  const y = new Float64Array(x.length)
  walkReduction(t.shape, [a], (o, i) => {
    y[i] = x[i]! - top[o]! - Math.log(sums[o]!)
  })
  return y
}
