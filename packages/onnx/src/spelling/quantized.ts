import * as core from '@dqc/core'
import { type DType, isConstant, numbersOf, type Op, type QuantParams, stridesOf, type Tensor, tensorOf, type Value } from '@dqc/core'
import { dtypeOf } from '../proto/tensors.ts'
import { Foreign, type NodeReader, type Read } from './spelling.ts'

/** How a container's integers stand for real numbers: real = scale·(q − zero). */
export interface ContainerGrid {
  readonly scale: readonly number[]
  readonly zero: readonly number[]
  readonly axis: number | null
  readonly lowest: number
  readonly highest: number
}

const limits: Partial<Record<DType, readonly [number, number]>> = {
  uint8: [0, 255],
  int8: [-128, 127],
  uint16: [0, 65535],
  int16: [-32768, 32767],
}

/** Ends of an integer type; none for those of accumulators. */
const containerEnds = (d: DType): { lowest: number; highest: number } => ({ lowest: limits[d]?.[0] ?? 0, highest: limits[d]?.[1] ?? 0 })

/** The scales at input i: one, or one per channel. */
function scalesAt(r: NodeReader, i: number): number[] {
  const scale = r.constant(i)
  if (!scale) throw new Foreign('no scale')
  if (r.int('block_size', 0) !== 0 || (r.maybe(i)?.shape?.length ?? 0) > 1) throw new Foreign('scales of blocks')
  return scale
}

/** The grid that scale and zero-point inputs i and i + 1 describe. A missing zero point is an uint8 zero. */
function gridAt(r: NodeReader, i: number, axis: number | null = null): ContainerGrid {
  const scale = scalesAt(r, i)
  const zero = r.constant(i + 1) ?? [0]
  const type = r.maybe(i + 1)
  // Four-bit zero points are held as bytes, whose own ends are remembered.
  const own = type && r.grids.get(type)
  const range = own
    ? ([own.lowest, own.highest] as const)
    : limits[type?.dtype ?? (r.has('output_dtype') ? dtypeOf(r.int('output_dtype')) : 'uint8')]
  if (!range) throw new Foreign('an integer type of neither 8 nor 16 bits')
  return { scale, zero, axis: scale.length > 1 ? axis : null, lowest: range[0], highest: range[1] }
}

/** Constant integers → the real numbers they stand for. */
function dequantizeConstant(t: Tensor, g: ContainerGrid): Tensor {
  const q = numbersOf(t)
  const step = g.axis === null ? 1 : stridesOf(t.shape)[g.axis]!
  const n = g.axis === null ? 1 : t.shape[g.axis]!
  const at = (list: readonly number[], i: number): number => list[list.length === 1 ? 0 : Math.floor(i / step) % n]!
  return tensorOf(
    'float32',
    t.shape,
    Float32Array.from(q as Int8Array, (v, i) => (v - at(g.zero, i)) * at(g.scale, i)),
  )
}

/** A constant's grid, which travels with its real numbers; null where zero points differ or the integers are accumulators. */
const constantGrid = (g: ContainerGrid): QuantParams | null =>
  new Set(g.zero).size === 1 && g.highest > g.lowest
    ? { scale: Float32Array.from(g.scale), axis: g.axis, lo: g.lowest - g.zero[0]!, hi: g.highest - g.zero[0]! }
    : null

/** Whether two descriptions of a grid agree, but for the last bits of their scales. */
function sameGrid(a: ContainerGrid, b: ContainerGrid): boolean {
  const near = (p: readonly number[], q: readonly number[]): boolean =>
    p.length === q.length && p.every((v, i) => Math.abs(v - q[i]!) <= 1e-6 * Math.abs(v))
  const all = (list: readonly number[]): boolean => list.every((v) => v === list[0])
  const zeros = all(a.zero) && all(b.zero) ? a.zero[0] === b.zero[0] : near(a.zero, b.zero)
  return a.axis === b.axis && near(a.scale, b.scale) && zeros
}

/** The real numbers of an integer operand. */
function realOf(r: NodeReader, i: number, g: ContainerGrid): Value {
  const v = r.input(i)
  if (isConstant(v)) return r.b.constant(dequantizeConstant(v.data, g), v.name, constantGrid(g))
  if (core.isFloat(v.dtype)) {
    const own = r.grids.get(v)
    if (own && !sameGrid(own, g)) throw new Foreign('integers of one grid read as those of another')
    return v
  }
  if (g.scale.length > 1 || g.zero.length > 1) throw new Foreign('integers with a scale for every channel that are computed at run time')
  // An integer input of the network itself.
  const float = r.emit(core.cast, [v], { to: 'float32' })
  return r.emit(core.mul, [r.emit(core.add, [float, r.b.scalar(-g.zero[0]!)], {}), r.b.scalar(g.scale[0]!)], {})
}

/** Puts a real result on the grid of the output, and remembers the grid. */
function onto(r: NodeReader, y: Value, g: ContainerGrid): Value {
  const zeros = new Set(g.zero)
  if (zeros.size > 1) throw new Foreign('zero points differ between channels')
  const scale = r.b.constant(tensorOf('float32', g.axis === null ? [] : [g.scale.length], g.scale), 'scale')
  const out = r.emit(core.fakeQuant, [y, scale], { lo: g.lowest - g.zero[0]!, hi: g.highest - g.zero[0]!, axis: g.axis, fused: true })
  r.grids.set(out, g)
  return out
}

/** The real numbers of a layer's bias, whose integers are those of accumulators. */
function biasOf(r: NodeReader, bias: Value | null, g: ContainerGrid): Value | null {
  if (bias && !isConstant(bias)) throw new Foreign('a bias that is computed at run time')
  return bias && r.b.constant(dequantizeConstant(bias.data, g), bias.name)
}

const convRead: Read = (r) => {
  const [gx, gw, gy] = [gridAt(r, 1), gridAt(r, 4, 0), gridAt(r, 6)]
  const x = realOf(r, 0, gx)
  const w = realOf(r, 3, gw)
  const bias = r.maybe(8)
  const scale = { scale: gw.scale.map((s) => s * gx.scale[0]!), zero: [0], axis: gw.scale.length > 1 ? 0 : null, lowest: 0, highest: 0 }
  return onto(r, r.rule('Conv', [x, w, biasOf(r, bias, scale)]), gy)
}

const gemmRead: Read = (r) => {
  const transB = r.int('transB', 0) === 1
  const [gx, gw] = [gridAt(r, 1), gridAt(r, 4, transB ? 0 : 1)]
  const bias = r.maybe(6)
  const alpha = r.float('alpha', 1)
  const scale = {
    scale: gw.scale.map((s) => s * gx.scale[0]! * alpha),
    zero: [0],
    axis: gw.scale.length > 1 ? 0 : null,
    lowest: 0,
    highest: 0,
  }
  const y = r.rule('Gemm', [realOf(r, 0, gx), realOf(r, 3, gw), biasOf(r, bias, scale)])
  return r.maybe(7) ? onto(r, y, gridAt(r, 7)) : y
}

const pair =
  (op: Op<Record<string, never>>): Read =>
  (r) =>
    onto(r, r.emit(op, [realOf(r, 0, gridAt(r, 1)), realOf(r, 3, gridAt(r, 4))], {}), gridAt(r, 6))

const unary =
  (type: string): Read =>
  (r) => {
    if (r.int('channels_last', 0)) throw new Foreign('channels last')
    return onto(r, r.rule(type, [realOf(r, 0, gridAt(r, 1))]), gridAt(r, 3))
  }

const inputsOf = (r: NodeReader): (Value | null)[] => Array.from({ length: r.inputCount }, (_, i) => r.maybe(i))

export const read: Record<string, Read> = {
  QuantizeLinear: (r) => {
    const rank = core.shapeOf(r.input(0)).length
    const g = gridAt(r, 1, core.axisOf(r.int('axis', 1), Math.max(rank, 2)))
    return onto(r, r.input(0), g)
  },
  DequantizeLinear: (r) => {
    const v = r.input(0)
    const rank = v.shape?.length ?? 1
    const scale = scalesAt(r, 1)
    const zero = r.constant(2) ?? [0]
    const { lowest, highest } = (isConstant(v) && r.grids.get(v)) || containerEnds(v.dtype)
    const g = { scale, zero, axis: scale.length > 1 ? core.axisOf(r.int('axis', 1), rank) : null, lowest, highest }
    if (isConstant(v)) return r.b.constant(dequantizeConstant(v.data, g), v.name, constantGrid(g))
    return r.emit(core.identity, [realOf(r, 0, g)], {})
  },
  Clip: (r) => {
    const x = r.input(0)
    if (isConstant(x)) {
      // Integers of a grid that is narrower than their container: what reads them takes its ends from here.
      const ends = containerEnds(x.dtype)
      const [lowest, highest] = [r.constant(1)?.[0] ?? ends.lowest, r.constant(2)?.[0] ?? ends.highest]
      const clipped = Float64Array.from(numbersOf(x.data) as Int8Array, (v) => Math.min(Math.max(v, lowest), highest))
      const out = r.b.constant(tensorOf(x.dtype, x.data.shape, clipped), x.name)
      r.grids.set(out, { scale: [1], zero: [0], axis: null, lowest, highest })
      return out
    }
    const g = r.grids.get(x)!
    if (new Set(g.zero).size > 1) throw new Foreign('zero points differ between channels')
    const steps = (i: number, open: number): number => {
      const c = r.constant(i)
      return c ? c[0]! - g.zero[0]! : open
    }
    const [lo, hi] = [steps(1, Number.NEGATIVE_INFINITY), steps(2, Number.POSITIVE_INFINITY)]
    // A Clip right behind a quantizer narrows its grid: one quantizer, whose gradient ends where the narrow grid ends.
    const maker = r.b.producer(x)
    if (maker?.op !== core.fakeQuant) {
      if (g.axis !== null) throw new Foreign('integers whose scales differ between channels')
      return r.emit(core.clip, [x], { min: lo * g.scale[0]!, max: hi * g.scale[0]! })
    }
    const attrs = maker.attrs as core.FakeQuantAttrs
    const narrow = { ...attrs, lo: Math.max(attrs.lo, lo), hi: Math.min(attrs.hi, hi) }
    return r.emit(core.fakeQuant, maker.inputs, narrow)
  },
  Pad: (r) => {
    const g = r.grids.get(r.input(0))
    if (!g || r.string('mode', 'constant') !== 'constant') return r.rule('Pad', inputsOf(r))
    if (g.axis !== null) throw new Foreign('integers whose scales differ between channels')
    // What is filled in is an integer of the container.
    const fill = r.maybe(2) ? r.constant(2)![0]! : 0
    return r.rule('Pad', [r.input(0), r.maybe(1), r.b.scalar((fill - g.zero[0]!) * g.scale[0]!), ...inputsOf(r).slice(3)])
  },
  Cast: (r) => {
    const x = r.input(0)
    const g = r.grids.get(x)
    if (isConstant(x) || !g) return r.rule('Cast', [x])
    if (g.axis !== null) throw new Foreign('integers whose scales differ between channels')
    // The integers themselves, no longer what they stand for. Conversions to integers cut digits off: they get whole ones.
    const steps = r.emit(core.mul, [x, r.b.scalar(1 / g.scale[0]!)], {})
    const whole = core.isFloat(dtypeOf(r.int('to', 0))) ? steps : r.emit(core.round, [steps], {})
    return r.rule('Cast', [g.zero[0] === 0 ? whole : r.emit(core.add, [whole, r.b.scalar(g.zero[0]!)], {})])
  },
  QLinearConv: convRead,
  QLinearMatMul: (r) => onto(r, r.rule('MatMul', [realOf(r, 0, gridAt(r, 1)), realOf(r, 3, gridAt(r, 4, 1))]), gridAt(r, 6)),
  'com.microsoft:QGemm': gemmRead,
  'com.microsoft:QLinearAdd': pair(core.add),
  'com.microsoft:QLinearMul': pair(core.mul),
  'com.microsoft:QLinearGlobalAveragePool': unary('GlobalAveragePool'),
  'com.microsoft:QLinearAveragePool': unary('AveragePool'),
  'com.microsoft:QLinearLeakyRelu': unary('LeakyRelu'),
  'com.microsoft:QLinearSigmoid': unary('Sigmoid'),
  'com.microsoft:QLinearConcat': (r) => {
    const xs = Array.from({ length: (r.inputCount - 2) / 3 }, (_, i) => realOf(r, 2 + 3 * i, gridAt(r, 3 + 3 * i)))
    return onto(r, r.emit(core.concat, xs, { axis: r.int('axis') }), gridAt(r, 0))
  },
}
