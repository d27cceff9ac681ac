import { type DType, dataType, errors, isFloat, numbersOf, type QuantParams, sizeOf, stridesOf, type Tensor, tensorOf } from '@dqc/core'
import { bufferOf, type ParsedModel } from './model.ts'
import { type Tensor as TensorTable, TensorType } from './schema.gen.ts'

/** How an element type is held in core, and for integers the container's range. */
interface Element {
  readonly dtype: DType
  /** Bits that an element takes up in the file. */
  readonly bits: number
  readonly range: readonly [number, number] | null
}

const signed = (bits: number): readonly [number, number] => [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
const elements = new Map<number, Element>([
  [TensorType.FLOAT32, { dtype: 'float32', bits: 32, range: null }],
  [TensorType.FLOAT16, { dtype: 'float16', bits: 16, range: null }],
  [TensorType.BFLOAT16, { dtype: 'bfloat16', bits: 16, range: null }],
  [TensorType.FLOAT64, { dtype: 'float64', bits: 64, range: null }],
  [TensorType.INT8, { dtype: 'int8', bits: 8, range: signed(8) }],
  [TensorType.UINT8, { dtype: 'uint8', bits: 8, range: [0, 255] }],
  [TensorType.INT16, { dtype: 'int16', bits: 16, range: signed(16) }],
  [TensorType.INT4, { dtype: 'int8', bits: 4, range: signed(4) }],
  [TensorType.UINT4, { dtype: 'uint8', bits: 4, range: [0, 15] }],
  [TensorType.INT2, { dtype: 'int8', bits: 2, range: signed(2) }],
  [TensorType.INT32, { dtype: 'int32', bits: 32, range: null }],
  [TensorType.INT64, { dtype: 'int64', bits: 64, range: null }],
  [TensorType.UINT16, { dtype: 'uint16', bits: 16, range: null }],
  [TensorType.UINT32, { dtype: 'uint32', bits: 32, range: null }],
  [TensorType.UINT64, { dtype: 'uint64', bits: 64, range: null }],
  [TensorType.BOOL, { dtype: 'bool', bits: 8, range: null }],
])

export const elementOf = (type: number | undefined): Element => elements.get(type ?? 0) ?? { dtype: 'opaque', bits: 8, range: null }
const typeNames = new Map<number, string>(Object.entries(TensorType).map(([name, code]) => [code, name]))
export const elementName = (type: number | undefined): string => typeNames.get(type ?? 0) ?? `type ${type}`

/** TFLite's code of a plain element type. */
export const codeOf = (dtype: DType): number => {
  for (const [code, e] of elements) if (e.dtype === dtype && e.bits >= 8) return code
  throw errors.unsupportedTarget(`TFLite has no tensors of type ${dtype}`)
}

/** The scales and zero points of a tensor: real = scale·(q − zero), along one axis of the file's layout or for all. */
export interface FileGrid {
  readonly scale: Float32Array
  readonly zero: readonly number[]
  readonly axis: number | null
  readonly lowest: number
  readonly highest: number
}

/** A tensor's quantization, or null when it holds plain numbers. Throws CompileError when scales are broken. */
export function gridOf(t: TensorTable): FileGrid | null {
  const q = t.quantization
  const range = elementOf(t.type).range
  if (!q?.scale?.length || !range) return null
  const where = `tensor ${t.name ?? ''}`
  if (q.scale.some((s) => !(s > 0) || !Number.isFinite(s))) throw errors.badModel(`a scale of ${q.scale.find((s) => !(s > 0))}`, where)
  const axis = q.scale.length > 1 ? (q.quantizedDimension ?? 0) : null
  if (axis !== null && t.shape?.[axis] !== q.scale.length)
    throw errors.badModel(`${q.scale.length} scales along axis ${axis} of [${t.shape}]`, where)
  const zero = Array.from(q.zeroPoint ?? [], Number)
  if (zero.length > 1 && zero.length !== q.scale.length)
    throw errors.badModel(`${zero.length} zero points for ${q.scale.length} scales`, where)
  return { scale: q.scale, zero: zero.length ? zero : [0], axis, lowest: range[0], highest: range[1] }
}

const entry = (list: ArrayLike<number>, i: number): number => list[list.length === 1 ? 0 : i]!

/** A stored tensor's elements, sub-byte ones unpacked; null when it holds none. Throws CompileError when their number is wrong. */
export function constantOf(parsed: ParsedModel, t: TensorTable): Tensor | null {
  const bytes = bufferOf(parsed, t.buffer ?? 0)
  const shape = Array.from(t.shape ?? [])
  const n = sizeOf(shape)
  if (bytes.length === 0) return null
  const { dtype, bits } = elementOf(t.type)
  if (dtype === 'opaque' || t.sparsity) return null
  const need = Math.ceil((n * bits) / 8)
  if (bytes.length !== need)
    throw errors.badModel(`${bytes.length} bytes for [${shape}] of ${elementName(t.type)}`, `tensor ${t.name ?? ''}`)
  if (bits < 8) return tensorOf(dtype, shape, unpack(bytes, n, bits, dtype === 'int8'))
  const array = dataType(dtype)
  const data = new array(bytes.slice().buffer)
  return { dtype, shape, data }
}

/** First element in the low bits. */
function unpack(bytes: Uint8Array, n: number, bits: number, isSigned: boolean): Float64Array {
  const per = 8 / bits
  const half = 2 ** (bits - 1)
  return Float64Array.from({ length: n }, (_, i) => {
    const v = (bytes[Math.floor(i / per)]! >> ((i % per) * bits)) & (2 ** bits - 1)
    return isSigned && v >= half ? v - 2 * half : v
  })
}

/** Integers of two or four bits as the file packs them. */
export function pack(values: ArrayLike<number>, bits: number): Uint8Array {
  const per = 8 / bits
  const bytes = new Uint8Array(Math.ceil(values.length / per))
  for (let i = 0; i < values.length; i++) bytes[Math.floor(i / per)]! |= (values[i]! & (2 ** bits - 1)) << ((i % per) * bits)
  return bytes
}

/** Stored integers → the real numbers that they stand for. Floats of any width become float32. */
export function realTensor(t: Tensor, g: FileGrid | null): Tensor {
  if (!g)
    return isFloat(t.dtype) && t.dtype !== 'float32' ? tensorOf('float32', t.shape, Float32Array.from(numbersOf(t) as Float32Array)) : t
  const step = g.axis === null ? 1 : stridesOf(t.shape)[g.axis]!
  const n = g.axis === null ? 1 : t.shape[g.axis]!
  const real = Float32Array.from(numbersOf(t) as Int8Array, (q, i) => {
    const c = Math.floor(i / step) % n
    return (q - entry(g.zero, c)) * entry(g.scale, c)
  })
  return tensorOf('float32', t.shape, real)
}

/** The grid in core's terms. Throws CompileError where channels differ in their zero points. */
export function paramsOf(g: FileGrid, where: string): QuantParams {
  if (new Set(g.zero).size > 1) throw errors.unsupportedModel('zero points differ between channels', where)
  return { scale: g.scale, axis: g.axis, lo: g.lowest - g.zero[0]!, hi: g.highest - g.zero[0]! }
}
