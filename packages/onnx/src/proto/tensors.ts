import { type DType, dataType, errors, type Tensor, tensorOf } from '@dqc/core'
import { type EntryProto, type Int64, type SparseTensorProto, type TensorProto, toNumber } from './messages.ts'

/** Reads a file that a model refers to, by a path relative to the model. */
export type LoadExternal = (location: string, offset: number, length: number | null) => Uint8Array

/** TensorProto.DataType codes (onnx.proto). */
const codes: Record<number, DType> = {
  1: 'float32',
  2: 'uint8',
  3: 'int8',
  4: 'uint16',
  5: 'int16',
  6: 'int32',
  7: 'int64',
  9: 'bool',
  10: 'float16',
  11: 'float64',
  12: 'uint32',
  13: 'uint64',
  16: 'bfloat16',
}
/** Sub-byte integers, unpacked on reading: code → bits, signed. */
const packed: Record<number, { bits: number; signed: boolean }> = {
  21: { bits: 4, signed: false },
  22: { bits: 4, signed: true },
  25: { bits: 2, signed: false },
  26: { bits: 2, signed: true },
}

/** Ends of a sub-byte integer type; null for all others. */
export function subByteEnds(code: number | undefined): { readonly lowest: number; readonly highest: number } | null {
  const sub = packed[code ?? 0]
  if (!sub) return null
  return sub.signed ? { lowest: -(2 ** (sub.bits - 1)), highest: 2 ** (sub.bits - 1) - 1 } : { lowest: 0, highest: 2 ** sub.bits - 1 }
}

export const dtypeOf = (code: number | undefined): DType => codes[code ?? 0] ?? 'opaque'
export const codeOf = (dtype: DType): number => Number(Object.keys(codes).find((k) => codes[Number(k)] === dtype) ?? 0)

/** Elements beyond which a declared shape is taken for a broken file rather than a tensor. */
const MOST_ELEMENTS = 2 ** 31

const entry = (props: readonly EntryProto[] | undefined, key: string): string | undefined => props?.find((p) => p.key === key)?.value

/** The bytes of a tensor that lies outside the file. Throws CompileError where it does not say where. */
export function externalBytes(t: TensorProto, load: LoadExternal, where: string): Uint8Array {
  const location = entry(t.externalData, 'location')
  if (!location) throw errors.badModel('external data without a location', where)
  const length = entry(t.externalData, 'length')
  const offset = Number(entry(t.externalData, 'offset') ?? 0)
  if (!Number.isSafeInteger(offset) || offset < 0)
    throw errors.badModel(`external data at offset ${entry(t.externalData, 'offset')}`, where)
  return load(location, offset, length === undefined ? null : Number(length))
}

/** TensorProto → Tensor, or null when its elements are of a type that core only carries. Throws CompileError on contradictions. */
export function readTensor(t: TensorProto, load: LoadExternal, where: string): Tensor | null {
  const shape = (t.dims ?? []).map(toNumber)
  const n = shape.reduce((p, d) => p * d, 1)
  if (shape.some((d) => d < 0) || !Number.isSafeInteger(n) || n > MOST_ELEMENTS) throw errors.badModel(`tensor of shape [${shape}]`, where)
  const sub = packed[t.dataType ?? 0]
  const dtype = sub ? (sub.signed ? 'int8' : 'uint8') : dtypeOf(t.dataType)
  if (dtype === 'opaque') return null
  if (t.segment) throw errors.badModel('tensors split into segments are not supported', where)
  let raw = t.rawData && t.rawData.length > 0 ? t.rawData : null
  if (t.dataLocation === 1) raw = externalBytes(t, load, where)
  if (sub) {
    const bytes = raw ?? Uint8Array.from(t.int32Data ?? [])
    const want = Math.ceil((n * sub.bits) / 8)
    if (bytes.length < want) throw errors.badModel(`${bytes.length} bytes for ${n} elements of ${sub.bits} bits (${want} expected)`, where)
    return tensorOf(dtype, shape, unpack(bytes, n, sub.bits, sub.signed))
  }
  const type = dataType(dtype)
  if (raw) {
    const want = n * type.BYTES_PER_ELEMENT
    if (raw.length < want || (raw.length > want && t.dataLocation !== 1))
      throw errors.badModel(`${raw.length} bytes for ${n} elements of ${dtype} (${want} expected)`, where)
    // The bytes sit anywhere in the file's buffer; typed arrays want them aligned.
    const copy = new Uint8Array(want)
    copy.set(raw.subarray(0, want))
    return { dtype, shape, data: new (type as Float32ArrayConstructor)(copy.buffer) }
  }
  const field: ArrayLike<number | Int64> =
    dtype === 'float32'
      ? (t.floatData ?? [])
      : dtype === 'float64'
        ? (t.doubleData ?? [])
        : dtype === 'int64'
          ? (t.int64Data ?? [])
          : dtype === 'uint64' || dtype === 'uint32'
            ? (t.uint64Data ?? [])
            : (t.int32Data ?? [])
  if (field.length !== n) throw errors.badModel(`${field.length} elements for shape [${shape}]`, where)
  if (dtype === 'int64' || dtype === 'uint64') {
    const big = dtype === 'int64' ? BigInt64Array : BigUint64Array
    return { dtype, shape, data: big.from(Array.from(field, (v) => BigInt(v.toString()))) }
  }
  // float16 and bfloat16 sit in int32Data as bit patterns.
  return { dtype, shape, data: (type as Float32ArrayConstructor).from(Array.from(field, (v) => toNumber(v))) }
}

function unpack(bytes: Uint8Array, n: number, bits: number, signed: boolean): Int8Array | Uint8Array {
  const out = signed ? new Int8Array(n) : new Uint8Array(n)
  const per = 8 / bits
  const mask = (1 << bits) - 1
  for (let i = 0; i < n; i++) {
    const v = (bytes[Math.floor(i / per)]! >> ((i % per) * bits)) & mask
    out[i] = signed && v >> (bits - 1) ? v - (1 << bits) : v
  }
  return out
}

/** Integers in [−8, 7] → INT4 TensorProto, the first element in the low nibble (TensorProto.DataType.INT4). */
export function int4Tensor(name: string, shape: readonly number[], values: ArrayLike<number>): TensorProto {
  const raw = new Uint8Array(Math.ceil(values.length / 2))
  for (let i = 0; i < values.length; i++) raw[i >> 1]! |= (values[i]! & 15) << (4 * (i & 1))
  return { name, dims: [...shape], dataType: 22, rawData: raw }
}

/** Sparse COO tensor → dense. */
export function readSparse(s: SparseTensorProto, load: LoadExternal, where: string): Tensor | null {
  const values = s.values && readTensor(s.values, load, where)
  const indices = s.indices && readTensor(s.indices, load, where)
  if (!values || !indices) return null
  const shape = (s.dims ?? []).map(toNumber)
  const n = shape.reduce((p, d) => p * d, 1)
  if (n > MOST_ELEMENTS) throw errors.badModel(`sparse tensor of shape [${shape}]`, where)
  const data = new (values.data.constructor as Float32ArrayConstructor)(n)
  const rank = indices.shape.length === 2 ? shape.length : 1
  const at = Array.from(indices.data as BigInt64Array, Number)
  for (let k = 0; k < values.data.length; k++) {
    let i = at[k * rank]!
    for (let d = 1; d < rank; d++) i = i * shape[d]! + at[k * rank + d]!
    if (!(i >= 0 && i < n)) throw errors.badModel(`sparse index ${i} outside [${shape}]`, where)
    data[i] = values.data[k] as number
  }
  return { dtype: values.dtype, shape, data }
}

/** Tensor → TensorProto with raw bytes. */
export function writeTensor(name: string, t: Tensor): TensorProto {
  return {
    name,
    dims: [...t.shape],
    dataType: codeOf(t.dtype),
    rawData: new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength),
  }
}
