import { errors } from '../ir/errors.ts'
import type { Dim, TensorType, Value } from '../ir/graph.ts'
import { type DType, sizeOf, stridesOf, type Tensor, tensorOf } from '../ir/tensor.ts'

/** The shape of an input that must be present and of known rank. Throws CompileError otherwise. */
export function shapeOf(t: TensorType | null | undefined, what = 'input'): readonly Dim[] {
  if (!t) throw errors.shapeMismatch(`${what} is missing`)
  if (t.shape === null) throw errors.unsupportedModel(`the rank of ${what} is not known`, null, 'run shape inference on the model first')
  return t.shape
}

/** A shape whose every size is known. Throws CompileError otherwise. */
export function knownShape(t: TensorType | null | undefined, what = 'input'): readonly number[] {
  const s = shapeOf(t, what)
  if (!s.every((d) => typeof d === 'number'))
    throw errors.unsupportedModel(`${what} has the symbolic shape [${s}]`, null, 'fix it with --shape name=1,3,224,224')
  return s as readonly number[]
}

/** Axis in [0, rank), counted from the end when negative. Throws CompileError when out of range. */
export function axisOf(axis: number, rank: number): number {
  const a = axis < 0 ? axis + rank : axis
  if (!Number.isInteger(a) || a < 0 || a >= Math.max(rank, 1)) throw errors.shapeMismatch(`axis ${axis} is outside rank ${rank}`)
  return a
}

export const sameDim = (a: Dim, b: Dim): boolean => a === b && a !== '?'

/** NumPy broadcasting of two shapes (ONNX Broadcasting, multidirectional). */
export function broadcast(a: readonly Dim[], b: readonly Dim[]): Dim[] {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1
    const y = b[i - rank + b.length] ?? 1
    if (x === 1) return y
    if (y === 1 || sameDim(x, y)) return x
    if (typeof x === 'number' && typeof y === 'number') throw errors.shapeMismatch(`[${a}] and [${b}] do not broadcast`)
    if (typeof x === 'number') return x
    return typeof y === 'number' ? y : '?'
  })
}

/** Product of sizes; '?' when any is unknown, the name when it is the only factor beside 1. */
export function product(dims: readonly Dim[]): Dim {
  let n = 1
  const names: string[] = []
  for (const d of dims) typeof d === 'number' ? (n *= d) : names.push(d)
  if (n === 0 || names.length === 0) return n
  return names.length === 1 && n === 1 ? names[0]! : '?'
}

/** Strides of `shape` seen through broadcasting to `to`: 0 where repeated. */
export function broadcastStrides(shape: readonly number[], to: readonly number[]): number[] {
  const strides = stridesOf(shape)
  return to.map((_, i) => {
    const k = i - to.length + shape.length
    return k < 0 || shape[k] === 1 ? 0 : strides[k]!
  })
}

/** Calls `visit(outIndex, offsets…)` over a shape with one running offset per stride list. */
export function walk(
  shape: readonly number[],
  strides: readonly (readonly number[])[],
  visit: (out: number, offsets: readonly number[]) => void,
): void {
  const n = sizeOf(shape)
  const rank = shape.length
  const index = new Array<number>(rank).fill(0)
  const offsets = strides.map(() => 0)
  for (let i = 0; i < n; i++) {
    visit(i, offsets)
    for (let d = rank - 1; d >= 0; d--) {
      index[d]!++
      for (let s = 0; s < strides.length; s++) offsets[s]! += strides[s]![d]!
      if (index[d]! < shape[d]!) break
      for (let s = 0; s < strides.length; s++) offsets[s]! -= strides[s]![d]! * shape[d]!
      index[d] = 0
    }
  }
}

/** Where results are gathered: single precision in place, every other type in double before it is stored. */
export const accumulator = (dtype: DType, n: number): Float32Array | Float64Array =>
  dtype === 'float32' ? new Float32Array(n) : new Float64Array(n)

/** Same elements in another order or selection: element i of the result is element `from(i)` of `t`. */
export function pick(t: Tensor, shape: readonly number[], from: (i: number) => number): Tensor {
  const n = sizeOf(shape)
  const data = new (t.data.constructor as Float32ArrayConstructor)(n)
  const source = t.data as Float32Array
  for (let i = 0; i < n; i++) data[i] = source[from(i)]!
  return { dtype: t.dtype, shape: [...shape], data }
}

export const reshaped = (t: Tensor, shape: readonly number[]): Tensor => ({ ...t, shape: [...shape] })

export const typed = (dtype: DType, shape: readonly Dim[]): TensorType => ({ dtype, shape })

export const filled = (dtype: DType, shape: readonly number[], value: number): Tensor =>
  tensorOf(dtype, shape, new Float64Array(sizeOf(shape)).fill(value))

export const rankOf = (v: Value): number => shapeOf(v).length
