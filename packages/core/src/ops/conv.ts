import type { Builder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import type { Dim, QuantParams, Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, tensorOf } from '../ir/tensor.ts'
import { requantScale, roundHalfEven } from '../math/fixedPoint.ts'
import { reduceSum, reduceTo, reshape } from './broadcasting.ts'
import { type ConvAttrs, type ConvTransposeAttrs, convolve, convolveTransposed, transposedSize, windowSize } from './convolve.ts'
import { checkAccumulator, intConv, intDense, intMatMul, multipliers, multiplyMatrices } from './integer.ts'
import { broadcast, knownShape, sameDim, shapeOf, typed } from './shapes.ts'
import { concat, pad, slice, transpose } from './structure.ts'

const needs = (condition: boolean, what: string): void => {
  if (!condition) throw errors.shapeMismatch(what)
}

/** The bias in accumulator steps: int32, scale s_x·s_w. Throws CompileError when it does not fit. */
export function quantizeBias(b: Builder, bias: Value | null | undefined, x: QuantParams, w: QuantParams): Value | null {
  if (!bias) return null
  const scale = Float32Array.from(w.scale, (sw) => x.scale[0]! * sw)
  const q = Float64Array.from(numbersOf(bias.data!) as Float32Array, (v, i) => roundHalfEven(v / scale[scale.length === 1 ? 0 : i]!))
  q.forEach((v, i) => {
    if (Math.abs(v) > 2147483647 || Number.isNaN(v))
      throw errors.accumulatorOverflow(`bias ${bias.name}[${i}] does not fit int32`, null, 'raise the bits or --exclude the layer')
  })
  return b.constant(tensorOf('int32', bias.data!.shape, q), `${bias.name}.q`, {
    scale,
    axis: scale.length === 1 ? null : 0,
    lo: -2147483648,
    hi: 2147483647,
  })
}

/** y[n,o,p] = b_o + Σ_{c,k} w[o,c,k]·x[n, g·C/G + c, p·s + k·d − pad]. x [N, C, …], w [O, C/G, …], b [O] → [N, O, …] */
export const conv: Op<ConvAttrs> = {
  name: 'conv',
  spec: 'ONNX Conv-11, explicit pads, one to three spatial axes',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x, w, b], a) => {
    const s = shapeOf(x)
    const k = knownShape(w, 'the weights')
    needs(x!.dtype === w!.dtype, `a convolution of ${x!.dtype} with ${w!.dtype}`)
    needs(s.length === k.length && s.length >= 3 && s.length <= 5, `a convolution of [${s}] with [${k}]`)
    needs(
      a.strides.length === s.length - 2 && a.pads.length === 2 * a.strides.length && a.dilations.length === a.strides.length,
      'strides, pads and dilations must match the spatial axes',
    )
    needs(a.strides.every((v) => v > 0) && a.dilations.every((v) => v > 0), 'strides and dilations must be positive')
    if (typeof s[1] === 'number') needs(s[1] === k[1]! * a.group, `${s[1]} channels do not feed ${a.group} groups of ${k[1]}`)
    needs(k[0]! % a.group === 0, `${k[0]} outputs do not split into ${a.group} groups`)
    if (b) needs(shapeOf(b).length === 1 && shapeOf(b)[0] === k[0], `a bias of [${shapeOf(b)}] for ${k[0]} outputs`)
    return [typed(x!.dtype, [s[0]!, k[0]!, ...s.slice(2).map((d, i) => windowSize(d, k[i + 2]!, i, a))])]
  },
  eval: ([x, w, b], a) => {
    const shape = conv.infer([x!, w!, b ?? null], a)[0]!.shape as number[]
    const y = convolve(numbersOf(x!), x!.shape, numbersOf(w!), w!.shape, shape.slice(2), a)
    if (b) addChannelBias(y, shape, numbersOf(b))
    return [tensorOf(x!.dtype, shape, y)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null, null]
    const [x, w] = node.inputs as [Value, Value]
    const spatial = shapeOf(dy)
      .map((_, i) => i)
      .slice(2)
    return [
      wanted[0] ? convInputGrad(b, dy, w, x, node.attrs) : null,
      wanted[1] ? convWeightGrad(b, x, dy, knownShape(w), node.attrs) : null,
      node.inputs[2] && wanted[2] ? b.emit(reduceSum, [dy], { axes: [0, ...spatial], keepDims: false }) : null,
    ].slice(0, node.inputs.length)
  },
  weights: () => ({ weight: 1, bias: 2, axis: 0, outAxis: 1, inAxis: 1 }),
  quant: 'own',
  lipschitz: 'weights',
  positivelyHomogeneous: false,
  clamp: null,
  lower: (b, node, [x, w, bias], out) => {
    if (!x?.quant || !w?.quant || !w.data || (bias && !bias.data) || x.quant.axis !== null) return null
    const qb = quantizeBias(b, bias, x.quant, w.quant)
    checkAccumulator(w, w.data.shape[0]!, qb, x.quant)
    return b.emit(
      intConv,
      [x, w, qb],
      { ...node.attrs, multipliers: multipliers(x.quant, w.quant, out), lo: out.lo, hi: out.hi },
      { quant: out },
    )
  },
}

function addChannelBias(y: Float64Array, shape: readonly number[], bias: ArrayLike<number>): void {
  const inner = sizeOf(shape.slice(2))
  for (let i = 0; i < y.length; i++) y[i]! += bias[Math.floor(i / inner) % shape[1]!]!
}

/** ∂L/∂x of a convolution: the transposed convolution of dy with w, cropped or grown to the shape of x. */
export function convInputGrad(b: Builder, dy: Value, w: Value, x: Value, a: ConvAttrs): Value {
  const space = knownShape({ dtype: 'float32', shape: shapeOf(x).slice(2) }, 'the spatial size')
  const out = knownShape({ dtype: 'float32', shape: shapeOf(dy).slice(2) }, 'the spatial size')
  const k = knownShape(w)
  const rank = space.length
  const left = space.map(
    (d, i) => d - (a.strides[i]! * (out[i]! - 1) + a.dilations[i]! * (k[i + 2]! - 1) + 1 - a.pads[i]! - a.pads[i + rank]!),
  )
  // With one filter for every channel there is nothing to swap.
  const each = k[1] === 1 && k[0] === a.group
  if (a.strides.every((s) => s === 1) && left.every((v) => v === 0) && (a.group === 1 || each)) {
    // Stride 1: a convolution with the kernel reversed and its channels swapped, which runtimes execute far faster.
    const axes = space.map((_, i) => i + 2)
    const reversed = b.emit(slice, [w], { axes, starts: axes.map(() => -1), ends: axes.map(() => -(2 ** 31)), steps: axes.map(() => -1) })
    const swapped = each ? reversed : b.emit(transpose, [reversed], { perm: [1, 0, ...axes] })
    const full = (i: number): number => a.dilations[i]! * (k[i + 2]! - 1)
    const pads = [...space.map((_, i) => full(i) - a.pads[i]!), ...space.map((_, i) => full(i) - a.pads[i + rank]!)]
    if (pads.every((p) => p >= 0)) return b.emit(conv, [dy, swapped], { strides: a.strides, pads, dilations: a.dilations, group: a.group })
  }
  const pads = [...a.pads.slice(0, rank), ...space.map((_, i) => a.pads[i + rank]! + Math.max(0, -left[i]!))]
  return b.emit(convTranspose, [dy, w], { ...a, pads, outputPadding: left.map((v) => Math.max(0, v)) })
}

/**
 * ∂L/∂w of a convolution: what each place of the kernel sees of x, multiplied with dy over all positions and samples. Copying what it sees
 * takes longer than multiplying it.
 */
export function convWeightGrad(b: Builder, x: Value, dy: Value, wShape: readonly number[], a: ConvAttrs): Value {
  const [O, cg, ...kernel] = wShape as [number, number, ...number[]]
  const rank = kernel.length
  const out = knownShape({ dtype: 'float32', shape: shapeOf(dy).slice(2) }, 'the spatial size')
  const space = knownShape({ dtype: 'float32', shape: shapeOf(x).slice(2) }, 'the spatial size')
  const C = cg * a.group
  // Only what the windows reach is padded in (floor division may leave a rest that no window reads).
  const end = space.map((d, i) => Math.max(0, (out[i]! - 1) * a.strides[i]! + a.dilations[i]! * (kernel[i]! - 1) + 1 - d - a.pads[i]!))
  const pads = [...a.pads.slice(0, rank), ...end]
  const K = sizeOf(kernel)
  const L = sizeOf(out)
  if (a.group === 1 && rank === 2 && K > 1 && a.strides.every((s) => s === 1)) {
    // Columns of the kernel shift x, its rows shift dy: kw + kh copies in place of kh·kw, and one product has all pairs.
    const [kh, kw] = kernel as [number, number]
    const [rows, columns] = out as [number, number]
    const [dh, dw] = a.dilations as [number, number]
    const high = rows + dh * (kh - 1)
    const wide = b.emit(reshape, [whatPlacesSee(b, x, [1, kw], { strides: [1, 1], dilations: [1, dw], pads })], {
      shape: [0, C * kw, high * columns],
    })
    // dy with as many rows of zeros in between that, cut into pieces of `high` rows, every next piece has it one kernel row further down.
    const none = b.emit(slice, [dy], { axes: [2], starts: [0], ends: [0], steps: [1] })
    const gap = b.emit(pad, [none], { pads: [0, 0, 0, 0, 0, 0, kh * dh, 0], mode: 'constant', value: 0 })
    const spaced = Array.from({ length: 2 * kh - 1 }, (_, i) => (i % 2 ? gap : dy))
    const down = b.emit(reshape, [kh === 1 ? dy : b.emit(concat, spaced, { axis: 2 })], { shape: [0, O * kh, high * columns] })
    // [N, C·kw, L] · [N, L, O·kh] → Σ_N → [C, kw, O, kh]
    const product = b.emit(matmul, [wide, b.emit(transpose, [down], { perm: [0, 2, 1] })], {})
    const sum = b.emit(reduceSum, [product], { axes: [0], keepDims: false })
    return b.emit(transpose, [b.emit(reshape, [sum], { shape: [C, kw, O, kh] })], { perm: [2, 0, 3, 1] })
  }
  const still = K === 1 && [...pads, ...a.strides.map((v) => v - 1)].every((v) => v === 0)
  // [N, G, C/G·K, L] · [N, G, L, O/G] → Σ_N → [G, C/G·K, O/G]
  const left = b.emit(reshape, [still ? x : cropTo(b, whatPlacesSee(b, x, kernel, { ...a, pads }), dy)], {
    shape: [0, a.group, cg * K, L],
  })
  const right = b.emit(reshape, [dy], { shape: [0, a.group, O / a.group, L] })
  const sum = b.emit(reduceSum, [b.emit(matmul, [left, swapLast(b, right)], {})], { axes: [0], keepDims: false })
  return b.emit(reshape, [swapLast(b, sum)], { shape: [O, cg, ...kernel] })
}

/** For each channel and each place of the kernel, what it sees of x: convolved with a kernel of a single one. [N, C, …] → [N, C·K, …] */
function whatPlacesSee(b: Builder, x: Value, kernel: readonly number[], a: Omit<ConvAttrs, 'group'>): Value {
  const [C, K] = [shapeOf(x)[1] as number, sizeOf(kernel)]
  const places = Float32Array.from({ length: C * K * K }, (_, i) => (i % K === Math.floor(i / K) % K ? 1 : 0))
  return b.emit(conv, [x, b.constant(tensorOf(x.dtype, [C * K, 1, ...kernel], places), 'places')], { ...a, group: C })
}

/** y[n, o, p·s + k·d − pad] = b_o + Σ_{c,p} w[c,o,k]·x[n,c,p]. x [N, C, …], w [C, O/G, …], b [O] → [N, O, …] */
export const convTranspose: Op<ConvTransposeAttrs> = {
  name: 'convTranspose',
  spec: 'ONNX ConvTranspose-11, explicit pads',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x, w], a) => {
    const s = shapeOf(x)
    const k = knownShape(w, 'the weights')
    needs(s.length === k.length && s.length >= 3 && s.length <= 5, `a transposed convolution of [${s}] with [${k}]`)
    if (typeof s[1] === 'number') needs(s[1] === k[0], `${s[1]} channels for weights [${k}]`)
    return [typed(x!.dtype, [s[0]!, k[1]! * a.group, ...s.slice(2).map((d, i) => transposedSize(d, k[i + 2]!, i, a))])]
  },
  eval: ([x, w, b], a) => {
    const shape = convTranspose.infer([x!, w!], a)[0]!.shape as number[]
    const y = convolveTransposed(numbersOf(x!), x!.shape, numbersOf(w!), w!.shape, shape.slice(2), a)
    if (b) addChannelBias(y, shape, numbersOf(b))
    return [tensorOf(x!.dtype, shape, y)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null, null]
    const [x, w] = node.inputs as [Value, Value]
    const { outputPadding: _, ...a } = node.attrs
    const spatial = shapeOf(dy)
      .map((_d, i) => i)
      .slice(2)
    return [
      wanted[0] ? cropTo(b, b.emit(conv, [dy, w], a), x) : null,
      // With the roles of data and gradient exchanged, this is the weight gradient of the convolution that maps dy to x.
      wanted[1] ? convWeightGrad(b, dy, x, knownShape(w), a) : null,
      node.inputs[2] && wanted[2] ? b.emit(reduceSum, [dy], { axes: [0, ...spatial], keepDims: false }) : null,
    ].slice(0, node.inputs.length)
  },
  weights: (a) => ({ weight: 1, bias: 2, axis: a.group === 1 ? 1 : 0, outAxis: 1, inAxis: 1 }),
  quant: 'own',
  lipschitz: 'weights',
  positivelyHomogeneous: false,
  clamp: null,
  // No runtime has an integer kernel that all targets share; targets that do lower it themselves.
  lower: null,
}

/** Drops the rows that output padding made possible but no input position owns. */
function cropTo(b: Builder, y: Value, x: Value): Value {
  const [from, to] = [shapeOf(y), shapeOf(x)]
  const axes = from.flatMap((d, i) => (i >= 2 && !sameDim(d, to[i]!) ? [i] : []))
  return axes.length === 0
    ? y
    : b.emit(slice, [y], { axes, starts: axes.map(() => 0), ends: axes.map((i) => to[i] as number), steps: axes.map(() => 1) })
}

/** y[…, o] = b_o + Σ_k x[…, k]·w[o, k]. w [O, K], b [O] */
export const dense: Op<Record<string, never>> = {
  name: 'dense',
  spec: 'ONNX Gemm-13 with transB = 1, α = β = 1, any leading axes',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x, w, b]) => {
    const s = shapeOf(x)
    const k = knownShape(w, 'the weights')
    needs(x!.dtype === w!.dtype, `a dense layer of ${x!.dtype} with ${w!.dtype}`)
    needs(k.length === 2 && s.length >= 1 && (typeof s.at(-1) === 'string' || s.at(-1) === k[1]), `a dense layer of [${s}] with [${k}]`)
    if (b) needs(shapeOf(b).length === 1 && shapeOf(b)[0] === k[0], `a bias of [${shapeOf(b)}] for ${k[0]} outputs`)
    return [typed(x!.dtype, [...s.slice(0, -1), k[0]!])]
  },
  eval: ([x, w, b]) => {
    const [O, K] = w!.shape as [number, number]
    const rows = sizeOf(x!.shape) / K
    const y = convolve(numbersOf(x!), [rows, K, 1], numbersOf(w!), [O, K, 1], [1], { strides: [1], pads: [0, 0], dilations: [1], group: 1 })
    if (b) addChannelBias(y, [rows, O], numbersOf(b))
    return [tensorOf(x!.dtype, [...x!.shape.slice(0, -1), O], y)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null, null]
    const [x, w] = node.inputs as [Value, Value]
    const [O, K] = knownShape(w) as [number, number]
    const flat = (v: Value, n: number): Value => (shapeOf(v).length === 2 ? v : b.emit(reshape, [v], { shape: [-1, n] }))
    const rows = flat(dy, O)
    const dx = wanted[0] ? b.emit(matmul, [shapeOf(dy).length === 1 ? rows : dy, w], {}) : null
    return [
      dx && shapeOf(dy).length === 1 ? b.emit(reshape, [dx], { shape: [K] }) : dx,
      wanted[1] ? b.emit(matmul, [b.emit(transpose, [rows], { perm: [1, 0] }), flat(x, K)], {}) : null,
      node.inputs[2] && wanted[2] ? b.emit(reduceSum, [rows], { axes: [0], keepDims: false }) : null,
    ].slice(0, node.inputs.length)
  },
  weights: () => ({ weight: 1, bias: 2, axis: 0, outAxis: -1, inAxis: -1 }),
  quant: 'own',
  lipschitz: 'weights',
  positivelyHomogeneous: false,
  clamp: null,
  lower: (b, _, [x, w, bias], out) => {
    if (!x?.quant || !w?.quant || !w.data || (bias && !bias.data) || x.quant.axis !== null) return null
    const qb = quantizeBias(b, bias, x.quant, w.quant)
    checkAccumulator(w, w.data.shape[0]!, qb, x.quant)
    return b.emit(intDense, [x, w, qb], { multipliers: multipliers(x.quant, w.quant, out), lo: out.lo, hi: out.hi }, { quant: out })
  },
}

/** z[…, i, j] = Σ_k x[…, i, k]·y[…, k, j], leading axes broadcast; both operands have rank ≥ 2 */
export const matmul: Op<Record<string, never>> = {
  name: 'matmul',
  spec: 'ONNX MatMul-13, ranks of two and more',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x, y]) => {
    const [p, q] = [shapeOf(x), shapeOf(y)]
    const [k, l] = [p.at(-1) as Dim, q.at(-2) as Dim]
    needs(
      p.length >= 2 && q.length >= 2 && (typeof k === 'string' || typeof l === 'string' || k === l),
      `[${p}] and [${q}] do not multiply`,
    )
    needs(x!.dtype === y!.dtype, `a product of ${x!.dtype} and ${y!.dtype}`)
    return [typed(x!.dtype, [...broadcast(p.slice(0, -2), q.slice(0, -2)), p.at(-2)!, q.at(-1)!])]
  },
  eval: ([x, y]) => {
    const z = multiplyMatrices(x!, y!)
    return [tensorOf(x!.dtype, z.shape, z.data)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null]
    const [x, y] = node.inputs as [Value, Value]
    return [
      wanted[0] ? reduceTo(b, b.emit(matmul, [dy, swapLast(b, y)], {}), x) : null,
      wanted[1] ? reduceTo(b, b.emit(matmul, [swapLast(b, x), dy], {}), y) : null,
    ]
  },
  weights: null,
  quant: 'own',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: (b, _, [x, y], out) => {
    if (!x?.quant || !y?.quant || x.quant.axis !== null || y.quant.axis !== null) return null
    const K = shapeOf(x).at(-1)
    const reach = (q: QuantParams): number => Math.max(-q.lo, q.hi)
    if (typeof K === 'number' && K * reach(x.quant) * reach(y.quant) > 2147483647) return null
    return b.emit(
      intMatMul,
      [x, y],
      { multiplier: requantScale(x.quant.scale[0]!, y.quant.scale[0]!, out.scale[0]!), lo: out.lo, hi: out.hi },
      { quant: out },
    )
  },
}

/** Σ x·y over all elements, a scalar: one product of rows per sample, which runtimes spread over their threads. */
export function dot(b: Builder, x: Value, y: Value): Value {
  const rows = (v: Value): Value => b.emit(reshape, [v], { shape: shapeOf(x).length < 2 ? [1, 1, -1] : [0, 1, -1] })
  const each = b.emit(matmul, [rows(x), swapLast(b, rows(y))], {})
  return b.emit(reduceSum, [each], { axes: [0, 1, 2], keepDims: false })
}

/** The last two axes exchanged. */
export function swapLast(b: Builder, v: Value): Value {
  const n = shapeOf(v).length
  return b.emit(transpose, [v], { perm: [...Array(n - 2).keys(), n - 1, n - 2] })
}
