import type { Builder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import type { Level, QuantParams, TensorType, Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, stridesOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { quantizeValue, requantize, requantizeUp, requantScale, roundHalfEven, saturate } from '../math/fixedPoint.ts'
import { type ConvAttrs, convolve, type Window, windowSize } from './convolve.ts'
import { broadcast, broadcastStrides, shapeOf, typed, walk } from './shapes.ts'

/** What every integer op shares: it exists only after lowering, and is not differentiated. */
export const integerOnly = {
  levels: ['integer'] as readonly Level[],
  grad: null,
  weights: null,
  quant: 'own',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
} as const

export interface Saturation {
  readonly lo: number
  readonly hi: number
}

const same = (x: TensorType | null | undefined): TensorType[] => [typed('int32', shapeOf(x))]

/** q = saturate(RNE(fp32(x/s))): real values → grid steps */
export const quantize: Op<Saturation & { scale: number }> = {
  ...integerOnly,
  name: 'quantize',
  spec: 'ONNX QuantizeLinear-13; TFLite QUANTIZE',
  infer: ([x]) => same(x),
  eval: ([x], { scale, lo, hi }) => {
    const from = numbersOf(x!)
    const q = new Int32Array(from.length)
    for (let i = 0; i < q.length; i++) q[i] = quantizeValue(from[i]!, scale, lo, hi)
    return [tensorOf('int32', x!.shape, q)]
  },
}

/** x = fp32(s·q): grid steps → real values */
export const dequantize: Op<{ scale: number }> = {
  ...integerOnly,
  name: 'dequantize',
  spec: 'ONNX DequantizeLinear-13; TFLite DEQUANTIZE',
  infer: ([x]) => [typed('float32', shapeOf(x))],
  eval: ([x], { scale }) => [
    tensorOf(
      'float32',
      x!.shape,
      Float32Array.from(numbersOf(x!) as Int32Array, (q) => scale * q),
    ),
  ],
}

/** y = table[x − lo]: any function of one integer, already on the output grid. `of` names it; identity moves to another grid */
export const lookup: Op<{ lo: number; table: readonly number[]; of: string }> = {
  ...integerOnly,
  name: 'lookup',
  spec: 'dqc: saturate(RNE(fp32(f(s_x·q))/s_y)) tabulated over the input grid',
  infer: ([x]) => same(x),
  eval: ([x], { lo, table }) => [
    tensorOf(
      'int32',
      x!.shape,
      Int32Array.from(numbersOf(x!) as Int32Array, (q) => table[q - lo]!),
    ),
  ],
}

/** A table of f over the grid of `x`, onto the grid `out`. Null when the grid of `x` is per channel. */
export function lookUp(b: Builder, x: Value, out: QuantParams, of: string, f: (x: number) => number): Value | null {
  const q = x.quant
  if (!q || q.axis !== null || out.axis !== null) return null
  const table = Array.from({ length: q.hi - q.lo + 1 }, (_, i) =>
    quantizeValue(Math.fround(f(Math.fround(q.scale[0]! * (q.lo + i)))), out.scale[0]!, out.lo, out.hi),
  )
  return b.emit(lookup, [x], { lo: q.lo, table, of }, { quant: out })
}

/** Multipliers from accumulator steps to output steps, one per output channel (or a single one). */
export const multipliers = (x: QuantParams, w: QuantParams, out: QuantParams): number[] =>
  Array.from(w.scale, (sw) => requantScale(x.scale[0]!, sw, out.scale[0]!))

/** Largest |accumulator| any input on the grid can cause, per output channel: Σ|w|·max|x| + |bias|. Weights are laid out [channels × rest]. */
export function accumulatorBound(w: ArrayLike<number>, channels: number, bias: ArrayLike<number> | null, x: QuantParams): Float64Array {
  const reach = Math.max(-x.lo, x.hi)
  const per = w.length / channels
  return Float64Array.from({ length: channels }, (_, c) => {
    let sum = 0
    for (let i = 0; i < per; i++) sum += Math.abs(w[c * per + i]!)
    return sum * reach + Math.abs(bias?.[c] ?? 0)
  })
}

/** Bits of a signed accumulator that never overflows. */
export const accumulatorBits = (bound: number): number => Math.ceil(Math.log2(bound + 1)) + 1

/** Throws CompileError when a 32-bit accumulator could overflow. */
export function checkAccumulator(w: Value, channels: number, bias: Value | null, x: QuantParams): void {
  const bounds = accumulatorBound(numbersOf(w.data!), channels, bias?.data ? numbersOf(bias.data) : null, x)
  const worst = bounds.reduce((m, v) => Math.max(m, v), 0)
  if (worst > 2147483647)
    throw errors.accumulatorOverflow(
      `${w.name} needs a ${accumulatorBits(worst)}-bit accumulator, kernels have 32`,
      null,
      'use fewer bits or --exclude the layer',
    )
}

/** How a layer's accumulators become output steps. */
export interface Requantization extends Saturation {
  /** One per output channel, or one for all. */
  readonly multipliers: readonly number[]
  /** Halves are rounded up, where all multipliers are powers of two: what an adder and a shifter do. Else to the even step. */
  readonly halvesUp?: boolean
}

/** y = saturate(RNE(fp32(acc)·m_o)), acc = b_o + Σ w·x in 32 bits */
export const intConv: Op<ConvAttrs & Requantization> = {
  ...integerOnly,
  name: 'intConv',
  spec: 'ONNX QLinearConv-10 as ONNX Runtime computes it; TFLite CONV_2D (XNNPACK)',
  infer: ([x, w], a) => {
    const s = shapeOf(x)
    const k = shapeOf(w) as readonly number[]
    return [typed('int32', [s[0]!, k[0]!, ...s.slice(2).map((d, i) => windowSize(d, k[i + 2]!, i, a))])]
  },
  eval: ([x, w, b], a) => {
    const shape = intConv.infer([x!, w!], a)[0]!.shape as number[]
    const acc = convolve(numbersOf(x!), x!.shape, numbersOf(w!), w!.shape, shape.slice(2), a)
    return [tensorOf('int32', shape, rescale(acc, shape[1]!, sizeOf(shape.slice(2)), b, a))]
  },
}

/** Adds the bias and requantizes accumulators laid out [outer, channels, inner]. */
function rescale(acc: Float64Array, channels: number, inner: number, b: Tensor | null | undefined, a: Requantization): Int32Array {
  const round = a.halvesUp ? requantizeUp : requantize
  const bias = b ? numbersOf(b) : null
  const y = new Int32Array(acc.length)
  for (let i = 0; i < acc.length; i++) {
    const c = Math.floor(i / inner) % channels
    y[i] = round(acc[i]! + (bias?.[c] ?? 0), a.multipliers.length === 1 ? a.multipliers[0]! : a.multipliers[c]!, a.lo, a.hi)
  }
  return y
}

/** y = saturate(RNE(fp32(acc)·m_o)), acc = b_o + Σ_k x[…, k]·w[o, k] */
export const intDense: Op<Requantization> = {
  ...integerOnly,
  name: 'intDense',
  spec: 'com.microsoft QGemm-1; TFLite FULLY_CONNECTED',
  infer: ([x, w]) => [typed('int32', [...shapeOf(x).slice(0, -1), shapeOf(w)[0]!])],
  eval: ([x, w, b], a) => {
    const [O, K] = w!.shape as [number, number]
    const rows = sizeOf(x!.shape) / K
    const acc = convolve(numbersOf(x!), [rows, K, 1], numbersOf(w!), [O, K, 1], [1], {
      strides: [1],
      pads: [0, 0],
      dilations: [1],
      group: 1,
    })
    return [tensorOf('int32', [...x!.shape.slice(0, -1), O], rescale(acc, O, 1, b, a))]
  },
}

/** z = saturate(RNE(fp32(Σ_k x[…, i, k]·y[…, k, j])·m)) */
export const intMatMul: Op<Saturation & { multiplier: number }> = {
  ...integerOnly,
  name: 'intMatMul',
  spec: 'ONNX QLinearMatMul-10 as ONNX Runtime computes it',
  infer: ([x, y]) => {
    const [p, q] = [shapeOf(x), shapeOf(y)]
    return [typed('int32', [...broadcast(p.slice(0, -2), q.slice(0, -2)), p.at(-2)!, q.at(-1)!])]
  },
  eval: ([x, y], a) => {
    const product = multiplyMatrices(x!, y!)
    return [
      tensorOf(
        'int32',
        product.shape,
        Int32Array.from(product.data, (acc) => requantize(acc, a.multiplier, a.lo, a.hi)),
      ),
    ]
  },
}

/** Batched matrix product of [… i, k] and [… k, j] in double precision, batch axes broadcast. */
export function multiplyMatrices(x: Tensor, y: Tensor): { shape: number[]; data: Float64Array } {
  const [I, K] = x.shape.slice(-2) as [number, number]
  const J = y.shape.at(-1)!
  if (y.shape.at(-2) !== K) throw errors.shapeMismatch(`[${x.shape}] and [${y.shape}] do not multiply`)
  const batch = broadcast(x.shape.slice(0, -2), y.shape.slice(0, -2)) as number[]
  const [p, q] = [numbersOf(x), numbersOf(y)]
  const data = new Float64Array(sizeOf(batch) * I * J)
  walk(batch, [broadcastStrides(x.shape.slice(0, -2), batch), broadcastStrides(y.shape.slice(0, -2), batch)], (n, [px, qy]) => {
    for (let i = 0; i < I; i++)
      for (let k = 0; k < K; k++) {
        const f = p[px! * I * K + i * K + k]!
        if (f === 0) continue
        const row = qy! * K * J + k * J
        const out = (n * I + i) * J
        for (let j = 0; j < J; j++) data[out + j]! += f * q[row + j]!
      }
  })
  return { shape: [...batch, I, J], data }
}

/**
 * Where a uint8 container puts zero: unsigned grids at its start, signed ones in its middle, and grids that reach further to one side (from
 * files that others quantized) where they fit. Sums and products of ONNX Runtime are taken in fp32 with these offsets inside, so the last
 * bit depends on them.
 */
export const containerZero = (q: { lo: number; hi: number }): number => (q.lo >= 0 ? 0 : q.lo >= -128 && q.hi <= 127 ? 128 : -q.lo)

interface Affine extends Saturation {
  readonly scaleX: number
  readonly scaleY: number
  readonly scaleOut: number
  readonly zeroX: number
  readonly zeroY: number
  readonly zeroOut: number
}

/** Broadcast of two integer tensors under one scalar rule. */
export function combine(x: Tensor, y: Tensor, f: (p: number, q: number) => number): Tensor {
  const shape = broadcast(x.shape, y.shape) as number[]
  const [p, q] = [numbersOf(x), numbersOf(y)]
  const out = new Int32Array(sizeOf(shape))
  walk(shape, [broadcastStrides(x.shape, shape), broadcastStrides(y.shape, shape)], (i, [a, c]) => {
    out[i] = f(p[a!]!, q[c!]!)
  })
  return tensorOf('int32', shape, out)
}

/** z = saturate(RNE(fma(x, s_x/s_z, fma(±y, s_y/s_z, F)))), F the offset that the containers' zeros leave, all fp32 */
export const intAdd: Op<Affine & { sign: 1 | -1 }> = {
  ...integerOnly,
  name: 'intAdd',
  spec: 'com.microsoft QLinearAdd-1; TFLite ADD, SUB',
  infer: ([x, y]) => [typed('int32', broadcast(shapeOf(x), shapeOf(y)))],
  eval: ([x, y], a) => {
    // Multiply–adds round once; the order (y first) is the kernel's.
    const f = Math.fround
    const rx = f(f(a.scaleX) / f(a.scaleOut))
    const ry = a.sign * f(f(a.scaleY) / f(a.scaleOut))
    const offset = f(a.zeroOut - f(rx * a.zeroX + f(ry * a.zeroY)))
    return [
      combine(x!, y!, (p, q) => saturate(roundHalfEven(f((p + a.zeroX) * rx + f((q + a.zeroY) * ry + offset))) - a.zeroOut, a.lo, a.hi)),
    ]
  },
}

/** z = saturate(RNE(fp32(fp32(x·y·r) + zero)) − zero), r = fp32(fp32(s_x·s_y)/s_z) */
export const intMul: Op<Affine> = {
  ...integerOnly,
  name: 'intMul',
  spec: 'com.microsoft QLinearMul-1; TFLite MUL',
  infer: ([x, y]) => [typed('int32', broadcast(shapeOf(x), shapeOf(y)))],
  eval: ([x, y], a) => {
    const m = requantScale(a.scaleX, a.scaleY, a.scaleOut)
    const f = Math.fround
    return [combine(x!, y!, (p, q) => saturate(roundHalfEven(f(f(p * q * m) + a.zeroOut)) - a.zeroOut, a.lo, a.hi))]
  },
}

/** An operand's grid: its own, or the one chosen for a constant when it was quantized. */
const affine = (x: Value, y: Value, out: QuantParams): Affine => ({
  scaleX: x.quant!.scale[0]!,
  scaleY: y.quant!.scale[0]!,
  scaleOut: out.scale[0]!,
  zeroX: containerZero(x.quant!),
  zeroY: containerZero(y.quant!),
  zeroOut: containerZero(out),
  lo: out.lo,
  hi: out.hi,
})

/** Whether all of these lie on grids of one scale each. */
export const oneScale = (...vs: readonly (Value | null | undefined)[]): boolean => vs.every((v) => v?.quant && v.quant.axis === null)

export const lowerAdd = (b: Builder, x: Value, y: Value, out: QuantParams, sign: 1 | -1): Value | null => {
  if (!oneScale(x, y)) return null
  // A broadcast operand goes second: kernels round differently when it comes first.
  const small = (v: Value): number => shapeOf(v).filter((d) => d !== 1).length
  const [p, q] = sign === 1 && small(x) < small(y) ? [y, x] : [x, y]
  return b.emit(intAdd, [p, q], { ...affine(p, q, out), sign }, { quant: out })
}

export const lowerMul = (b: Builder, x: Value, y: Value, out: QuantParams): Value | null =>
  oneScale(x, y) ? b.emit(intMul, [x, y], affine(x, y, out), { quant: out }) : null

export interface AveragePoolAttrs extends Window {
  readonly kernel: readonly number[]
  readonly ceil: boolean
  readonly countIncludePad: boolean
}

/** y = saturate(RNE(fp32(Σ s_x·x/count/s_y + zero)) − zero), summed in fp32 row by row */
export const intAveragePool: Op<AveragePoolAttrs & Saturation & { scaleX: number; scaleOut: number; zeroOut: number }> = {
  ...integerOnly,
  name: 'intAveragePool',
  spec: 'com.microsoft QLinearAveragePool-1; TFLite AVERAGE_POOL_2D',
  infer: ([x], a) => {
    const s = shapeOf(x)
    return [typed('int32', [s[0]!, s[1]!, ...s.slice(2).map((d, i) => windowSize(d, a.kernel[i]!, i, a, a.ceil))])]
  },
  eval: ([x], a) => {
    const shape = intAveragePool.infer([x!], a)[0]!.shape as number[]
    const from = numbersOf(x!)
    const f = Math.fround
    const sums = new Float32Array(sizeOf(shape))
    const [, , ...space] = x!.shape
    walkWindows(x!.shape, shape.slice(2), a, (o, i) => {
      sums[o] = f(sums[o]! + f(a.scaleX * from[i]!))
    })
    const counts = windowCounts(space, shape.slice(2), a)
    const inner = counts.length
    const y = Int32Array.from(sums, (s, i) =>
      saturate(roundHalfEven(f(f(f(s / counts[i % inner]!) / a.scaleOut) + a.zeroOut)) - a.zeroOut, a.lo, a.hi),
    )
    return [tensorOf('int32', shape, y)]
  },
}

/** y = saturate(RNE(fp32(Σ x)·m)): a mean over all spatial axes, which keep size 1; kernels differ in how they round m */
export const spatialMean = (
  name: string,
  spec: string,
  multiplier: (scaleX: number, scaleOut: number, area: number) => number,
): Op<Saturation & { scaleX: number; scaleOut: number }> => ({
  ...integerOnly,
  name,
  spec,
  infer: ([x]) => [
    typed(
      'int32',
      shapeOf(x).map((d, i) => (i < 2 ? d : 1)),
    ),
  ],
  eval: ([x], a) => {
    const area = sizeOf(x!.shape.slice(2))
    const from = numbersOf(x!)
    const m = multiplier(Math.fround(a.scaleX), Math.fround(a.scaleOut), area)
    const y = new Int32Array(from.length / area)
    for (let i = 0; i < y.length; i++) {
      let sum = 0
      for (let k = 0; k < area; k++) sum += from[i * area + k]!
      y[i] = requantize(sum, m, a.lo, a.hi)
    }
    return [
      tensorOf(
        'int32',
        x!.shape.map((d, i) => (i < 2 ? d : 1)),
        y,
      ),
    ]
  },
})

/** y = saturate(RNE(fp32(Σ x)·fp32(s_x/(s_y·area)))): the mean over all spatial axes, which keep size 1 */
export const intGlobalAveragePool = spatialMean('intGlobalAveragePool', 'com.microsoft QLinearGlobalAveragePool-1', (sx, sy, area) =>
  Math.fround(sx / Math.fround(sy * area)),
)

/** Steps of an exponential's table: 2^24 stands for 1. */
const EXPONENTIAL_ONE = 2 ** 24

/** The exponentials of 0, −s, −2s, … over the width of a grid, in steps of 2^−24. */
export const exponentials = (x: QuantParams): number[] =>
  Array.from({ length: x.hi - x.lo + 1 }, (_, d) => Math.round(EXPONENTIAL_ONE * Math.exp(-x.scale[0]! * d)))

/** y = saturate(⌊(2·levels·E[max x − x_i] + Σ)/(2Σ)⌋), Σ = Σ_j E[max x − x_j], E the table: softmax along one axis in integers alone */
export const intSoftmax: Op<Saturation & { axis: number; table: readonly number[]; levels: number }> = {
  ...integerOnly,
  name: 'intSoftmax',
  spec: 'dqc: exponentials tabulated in steps of 2^−24, one division rounded half up',
  infer: ([x]) => same(x),
  eval: ([x], { axis, table, levels, lo, hi }) => {
    const from = numbersOf(x!)
    const n = x!.shape[axis]!
    const inner = sizeOf(x!.shape.slice(axis + 1))
    const y = new Int32Array(from.length)
    for (let at = 0; at < from.length; at += n * inner)
      for (let k = at; k < at + inner; k++) {
        let top = Number.NEGATIVE_INFINITY
        for (let i = 0; i < n; i++) top = Math.max(top, from[k + i * inner]!)
        let sum = 0
        for (let i = 0; i < n; i++) sum += table[top - from[k + i * inner]!]!
        for (let i = 0; i < n; i++)
          y[k + i * inner] = saturate(Math.floor((2 * levels * table[top - from[k + i * inner]!]! + sum) / (2 * sum)), lo, hi)
      }
    return [tensorOf('int32', x!.shape, y)]
  },
}

/** Calls `visit(outIndex, inIndex)` for each place inside each window, padding left out, row by row within a window. */
export function walkWindows(
  xShape: readonly number[],
  out: readonly number[],
  a: Window & { readonly kernel: readonly number[] },
  visit: (o: number, i: number) => void,
): void {
  const [n, c, ...space] = xShape as [number, number, ...number[]]
  const strides = stridesOf(space)
  const area = sizeOf(space)
  const places = sizeOf(out)
  const taps = sizeOf(a.kernel)
  const own = stridesOf(out)
  const kstrides = stridesOf(a.kernel)
  for (let p = 0; p < places; p++)
    for (let t = 0; t < taps; t++) {
      let at = 0
      for (let d = 0; d < space.length && at >= 0; d++) {
        const k = Math.floor(t / kstrides[d]!) % a.kernel[d]!
        const i = (Math.floor(p / own[d]!) % out[d]!) * a.strides[d]! + k * a.dilations[d]! - a.pads[d]!
        at = i < 0 || i >= space[d]! ? -1 : at + i * strides[d]!
      }
      if (at < 0) continue
      for (let m = 0; m < n * c; m++) visit(m * places + p, m * area + at)
    }
}

/** How many places count in each window: padding when asked for, the overhang of ceil mode never. */
export function windowCounts(space: readonly number[], out: readonly number[], a: AveragePoolAttrs): Float64Array {
  const rank = space.length
  const widths = a.countIncludePad ? space.map((d, i) => d + a.pads[i]! + a.pads[i + rank]!) : space
  const field = new Float64Array(sizeOf(widths)).fill(1)
  const ones = new Float64Array(sizeOf(a.kernel)).fill(1)
  return convolve(field, [1, 1, ...widths], ones, [1, 1, ...a.kernel], out, {
    ...a,
    group: 1,
    ...(a.countIncludePad ? { pads: a.pads.map(() => 0) } : {}),
  })
}
