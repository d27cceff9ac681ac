import * as core from '@dqc/core'
import { isConstant, type QuantParams, shapeOf, type Tensor, tensorOf, type Value } from '@dqc/core'
import { Foreign, type NodeReader, type Read } from './spelling.ts'

/** Domains in which QONNX's ops are found: its own, and those that Brevitas and older FINN versions wrote. */
export const QONNX_DOMAINS: readonly string[] = ['qonnx.custom_op.general', 'onnx.brevitas', 'finn.custom_op.general']

/** One number of a constant input. */
function one(r: NodeReader, i: number, what: string): number {
  const c = r.constant(i)
  if (!c) throw new Foreign(`no ${what}`)
  if (c.some((v) => v !== c[0])) throw new Foreign(`a ${what} per channel`)
  return c[0]!
}

/** The scales of a node, and the axis of x that they belong to. */
function scalesOf(r: NodeReader, x: Value): { scale: Float32Array; axis: number | null } {
  const c = r.constant(1)
  if (!c) throw new Foreign('no scale')
  if (c.some((s) => !(s > 0))) throw new Foreign('a scale that is not positive')
  const shape = shapeOf(r.maybe(1))
  const rank = shapeOf(x).length
  const wide = shape.flatMap((d, i) => (d === 1 ? [] : [i + rank - shape.length]))
  if (wide.length > 1) throw new Foreign('scales along several axes')
  return { scale: Float32Array.from(c), axis: wide[0] ?? null }
}

/** A constant on its grid: the grid travels with it. */
const constantOn = (r: NodeReader, x: Value & { data: Tensor }, q: QuantParams): Value =>
  r.b.constant(core.fakeQuant.eval([x.data, tensorOf('float32', [q.scale.length], q.scale)], { ...q, fused: false })[0]!, x.name, q)

function onto(r: NodeReader, x: Value, q: QuantParams): Value {
  if (isConstant(x)) return constantOn(r, x, q)
  const scale = r.b.constant(tensorOf('float32', q.axis === null ? [] : [q.scale.length], q.scale), 'scale')
  if (q.hi - q.lo < 256) return r.emit(core.fakeQuant, [x, scale], { lo: q.lo, hi: q.hi, axis: q.axis, fused: true })
  // No kernel has activations this wide: the same rounding in real numbers.
  if (q.axis !== null) throw new Foreign('activation scales per channel')
  const steps = r.emit(core.clip, [r.emit(core.round, [r.emit(core.div, [x, scale], {})], {})], { min: q.lo, max: q.hi })
  return r.emit(core.mul, [steps, scale], {})
}

/** y = (round(clamp(x/scale + zeropt)) − zeropt)·scale. Grids round before zeropt is added, which for odd ones sends exact halves to the other side. */
const quantRead: Read = (r) => {
  const x = r.input(0)
  const mode = r.string('rounding_mode', 'ROUND').toUpperCase()
  if (mode !== 'ROUND') throw new Foreign(`rounding_mode ${mode}`)
  const zero = one(r, 2, 'zero point')
  const bits = one(r, 3, 'bit width')
  if (!Number.isInteger(zero) || !Number.isInteger(bits) || bits < 1 || bits > 31)
    throw new Foreign(`a grid of ${bits} bits around ${zero}`)
  const signed = r.int('signed', 1) === 1
  const narrow = r.int('narrow', 0)
  const [lo, hi] = signed ? [-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1 - narrow]
  return onto(r, x, { ...scalesOf(r, x), lo: lo - zero, hi: hi - zero })
}

/** y = scale where x ≥ 0, −scale elsewhere */
const bipolarRead: Read = (r) => {
  const x = r.input(0)
  const q = { ...scalesOf(r, x), lo: -1, hi: 1 }
  if (isConstant(x)) {
    const signs = Float32Array.from(core.numbersOf(x.data) as Float32Array, (v) =>
      v >= 0 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY,
    )
    return constantOn(r, { ...x, data: tensorOf('float32', x.data.shape, signs) }, q)
  }
  if (q.axis !== null) throw new Foreign('activation scales per channel')
  const negative = core.mask(r.b, core.less, x, r.b.scalar(0))
  const sign = r.b.emit(core.sub, [r.b.scalar(q.scale[0]!), r.b.emit(core.mul, [negative, r.b.scalar(2 * q.scale[0]!)], {})], {})
  return onto(r, sign, q)
}

/** y = ⌊round(x/scale)/2^n⌋·s: the low bits of a sum cut off. Version 1 keeps the scale, version 2 has the result's own. */
const truncRead: Read = (r) => {
  const x = r.input(0)
  const mode = r.string('rounding_mode', 'FLOOR').toUpperCase()
  if (mode !== 'FLOOR') throw new Foreign(`rounding_mode ${mode}`)
  if (one(r, 2, 'zero point') !== 0) throw new Foreign('a zero point')
  const { scale, axis } = scalesOf(r, x)
  if (axis !== null) throw new Foreign('activation scales per channel')
  const newer = r.inputCount > 5
  const [inBits, outBits] = [one(r, 3, 'bit width'), one(r, newer ? 5 : 4, 'bit width')]
  const outScale = newer ? one(r, 4, 'scale') : scale[0]!
  const cut = newer ? 2 ** Math.round(Math.log2(outScale / scale[0]!)) : 2 ** (inBits - outBits)
  const maker = r.b.producer(x)
  const unsigned = newer ? r.int('signed', 1) === 0 : maker?.op === core.fakeQuant && maker.attrs.lo >= 0
  const steps = r.b.emit(core.round, [r.b.emit(core.div, [x, r.b.scalar(scale[0]!)], {})], {})
  const kept = r.b.emit(core.floor, [r.b.emit(core.mul, [steps, r.b.scalar(1 / cut)], {})], {})
  const grid = unsigned ? core.unsignedGrid(outBits) : { lo: -(2 ** (outBits - 1)), hi: 2 ** (outBits - 1) - 1 }
  return onto(r, r.b.emit(core.mul, [kept, r.b.scalar(outScale)], {}), { scale: Float32Array.of(outScale), axis: null, ...grid })
}

const reads: Record<string, Read> = { Quant: quantRead, IntQuant: quantRead, BipolarQuant: bipolarRead, Trunc: truncRead }

/** Rules by domain and type. */
export const read: Record<string, Read> = Object.fromEntries(
  QONNX_DOMAINS.flatMap((d) => Object.entries(reads).map(([type, rule]) => [`${d}:${type}`, rule])),
)
