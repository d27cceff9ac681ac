import { invariant } from './errors.ts'

export type DType =
  | 'float32'
  | 'float64'
  | 'float16'
  | 'bfloat16'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'bool'
  /** Anything core only carries: strings, sequences, optionals, complex numbers, 8-bit floats. */
  | 'opaque'

export type TensorData =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array

/** A dense array in row-major order. float16 and bfloat16 hold their bit patterns in a Uint16Array. */
export interface Tensor {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly data: TensorData
}

const arrays = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const

export const dataType = (dtype: DType): (typeof arrays)[Exclude<DType, 'opaque'>] => {
  invariant(dtype !== 'opaque', 'opaque tensors hold no numbers')
  return arrays[dtype]
}

export const isFloat = (dtype: DType): boolean => dtype === 'float32' || dtype === 'float64' || dtype === 'float16' || dtype === 'bfloat16'
export const isInteger = (dtype: DType): boolean => !isFloat(dtype) && dtype !== 'bool' && dtype !== 'opaque'

/** Number of elements. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)

/** Row-major strides, in elements. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length)
  let step = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step
    step *= shape[i]!
  }
  return strides
}

const halfBits = new Float32Array(1)
const halfInt = new Uint32Array(halfBits.buffer)

/** IEEE 754 binary16 bit pattern → number. */
export function halfToNumber(h: number): number {
  const sign = h & 0x8000 ? -1 : 1
  const e = (h >> 10) & 31
  const m = h & 1023
  if (e === 0) return sign * m * 2 ** -24
  if (e === 31) return m ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (1 + m / 1024) * 2 ** (e - 15)
}

/** Number → IEEE 754 binary16 bit pattern, round half to even. */
export function numberToHalf(x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const a = Math.abs(x)
  if (Number.isNaN(x)) return 0x7e00
  if (a >= 65520) return sign | 0x7c00
  if (a < 2 ** -14) {
    const m = a * 2 ** 24
    const r = Math.floor(m)
    const up = m - r > 0.5 || (m - r === 0.5 && r % 2 === 1) ? 1 : 0
    return sign | (r + up)
  }
  let e = Math.floor(Math.log2(a))
  if (a < 2 ** e) e--
  if (a >= 2 ** (e + 1)) e++
  const m = (a / 2 ** e - 1) * 1024
  let r = Math.floor(m)
  if (m - r > 0.5 || (m - r === 0.5 && r % 2 === 1)) r++
  if (r === 1024) {
    r = 0
    e++
  }
  return sign | ((e + 15) << 10) | r
}

const bfloatToNumber = (h: number): number => {
  halfInt[0] = h << 16
  return halfBits[0]!
}
const numberToBfloat = (x: number): number => {
  if (Number.isNaN(x)) return 0x7fc0
  halfBits[0] = x
  const b = halfInt[0]!
  return ((b + 0x7fff + ((b >>> 16) & 1)) >>> 16) & 0xffff
}

/**
 * The elements as numbers. Shares memory where the storage already holds numbers; 64-bit integers lose precision beyond 2^53.
 */
export function numbersOf(t: Tensor): Exclude<TensorData, BigInt64Array | BigUint64Array> {
  switch (t.dtype) {
    case 'int64':
    case 'uint64':
      return Float64Array.from(t.data as BigInt64Array, Number)
    case 'float16':
      return Float32Array.from(t.data as Uint16Array, halfToNumber)
    case 'bfloat16':
      return Float32Array.from(t.data as Uint16Array, bfloatToNumber)
    default:
      return t.data as Exclude<TensorData, BigInt64Array | BigUint64Array>
  }
}

/** A number's whole part, or the end of the range that it lies beyond: 2^63 − 1, which ends open slices, is 2^63 as a number. NaN counts as 0. */
function wholeWithin(x: number, lo: bigint, hi: bigint): bigint {
  if (x >= Number(hi)) return hi
  if (x <= Number(lo)) return lo
  return Number.isNaN(x) ? 0n : BigInt(Math.trunc(x))
}

/** A tensor from numbers, rounded to the storage type. Float32Array input for float32 is taken as is, not copied. */
export function tensorOf(dtype: DType, shape: readonly number[], values: ArrayLike<number>): Tensor {
  invariant(values.length === sizeOf(shape), `${values.length} elements do not fill [${shape}]`)
  let data: TensorData
  switch (dtype) {
    case 'int64':
      data = BigInt64Array.from(values as ArrayLike<never>, (x: number) => wholeWithin(x, -(2n ** 63n), 2n ** 63n - 1n))
      break
    case 'uint64':
      data = BigUint64Array.from(values as ArrayLike<never>, (x: number) => wholeWithin(x, 0n, 2n ** 64n - 1n))
      break
    case 'float16':
      data = Uint16Array.from(values as ArrayLike<never>, numberToHalf)
      break
    case 'bfloat16':
      data = Uint16Array.from(values as ArrayLike<never>, numberToBfloat)
      break
    default: {
      const type = dataType(dtype) as Float32ArrayConstructor
      data = values instanceof type ? values : type.from(values)
    }
  }
  return { dtype, shape: [...shape], data }
}

export const scalar = (value: number, dtype: DType = 'float32'): Tensor => tensorOf(dtype, [], [value])

/** Bytes that the elements take in memory. */
export const byteSize = (t: Tensor): number => t.data.byteLength
