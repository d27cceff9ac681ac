import { invariant } from '../ir/errors.ts'
import type { Tensor } from '../ir/tensor.ts'
import type { Model } from './engine.ts'

/** Samples [from, to) of a batch. */
export function rows(t: Tensor, from: number, to: number): Tensor {
  const n = t.shape[0]!
  const per = n === 0 ? 0 : t.data.length / n
  return { dtype: t.dtype, shape: [to - from, ...t.shape.slice(1)], data: (t.data as Float32Array).slice(from * per, to * per) }
}

/** Batches joined along the first axis. */
export function joinRows(parts: readonly Tensor[]): Tensor {
  const first = parts[0]!
  const data = new (first.data.constructor as Float32ArrayConstructor)(parts.reduce((n, t) => n + t.data.length, 0))
  let at = 0
  for (const t of parts) {
    data.set(t.data as Float32Array, at)
    at += t.data.length
  }
  return { dtype: first.dtype, shape: [parts.reduce((n, t) => n + t.shape[0]!, 0), ...first.shape.slice(1)], data }
}

/** A batch of so many samples: what is missing is its first one again. */
export const filledUp = (t: Tensor, size: number): Tensor => {
  const missing = size - t.shape[0]!
  return missing > 0 ? joinRows([t, ...Array.from({ length: missing }, () => rows(t, 0, 1))]) : t
}

/** A model whose batch was fixed at `size`, made to take any: chunks go one by one, the last is filled up with its own first sample. */
export function batched(model: Model, size: number | null): Model {
  if (size === null) return model
  const run = async (inputs: readonly Tensor[]): Promise<Tensor[]> => {
    const n = inputs[0]!.shape[0]!
    if (n === size) return model(inputs)
    const results: Tensor[][] = []
    for (let at = 0; at < n; at += size) {
      const end = Math.min(n, at + size)
      const chunk = inputs.map((t) => filledUp(rows(t, at, end), size))
      results.push((await model(chunk)).map((t) => rows(t, 0, end - at)))
    }
    invariant(results.length > 0, 'an empty batch')
    return results[0]!.map((_, k) => joinRows(results.map((r) => r[k]!)))
  }
  return Object.assign(run, { release: () => model.release() })
}
