import { basename, extname } from 'node:path'
import {
  batched,
  errors,
  type Graph,
  liftBatch,
  type Model,
  numbersOf,
  prepare,
  type Random,
  sizeOf,
  type Tensor,
  tensorOf,
  widenToFloat32,
} from '@dqc/core'
import { embedExternalData, encodeModel, hasExternalData, inlineFunctions, modelToGraph, modelToRealGraph, parseModel } from '@dqc/onnx'
import type { OnnxEngine } from '@dqc/onnx/engine'
import { externalLoader, readBytes, sha256 } from './files.ts'

/** A model file, opened. */
export interface OpenedModel {
  readonly path: string
  readonly name: string
  readonly sha256: string
  readonly bytes: Uint8Array
  /** The same model with all its data inside, for runtimes that take bytes. */
  readonly runnable: Uint8Array
  readonly graph: Graph<'float'>
  /** The same network with integer kernels read as real numbers. */
  readonly real: () => Graph<'qdq'>
  /** The batch size that the file insists on, or null. */
  readonly fixedBatch: number | null
}

export interface OpenOptions {
  readonly shapes?: Readonly<Record<string, readonly number[]>>
}

/** Reads a model from a path (or from bytes, then `path` only names it). */
export function openModel(model: string | Uint8Array, o: OpenOptions = {}): OpenedModel {
  const path = typeof model === 'string' ? model : '(bytes)'
  const bytes = typeof model === 'string' ? readBytes(model) : model
  if (bytes.length === 0) throw errors.badModel('the file is empty', path)
  const parsed = parseModel(bytes)
  const load =
    typeof model === 'string'
      ? externalLoader(model)
      : () => {
          throw errors.badModel('a model given as bytes cannot refer to external data', path, 'open it by its path')
        }
  const message = inlineFunctions(parsed)
  const options = { loadExternal: load, ...(o.shapes ? { shapes: o.shapes } : {}) }
  const graph = widenToFloat32(modelToGraph(message, options))
  const first = graph.inputs[0]?.shape?.[0]
  return {
    path,
    name: typeof model === 'string' ? basename(model, extname(model)) : 'model',
    sha256: sha256(bytes),
    bytes,
    runnable: hasExternalData(parsed) ? encodeModel(embedExternalData(parsed, load)) : bytes,
    graph,
    real: () => modelToRealGraph(message, options),
    fixedBatch: typeof first === 'number' ? first : null,
  }
}

/** Random inputs of a graph, for checks that need no real data. */
export function randomInputs(graph: Graph, batch: number, random: Random): Tensor[] {
  return graph.inputs.map((v) => {
    const shape = (v.shape ?? []).map((d, i) => (i === 0 ? batch : typeof d === 'number' ? d : 1))
    return tensorOf(
      v.dtype,
      shape,
      Float32Array.from({ length: sizeOf(shape) }, () => random.uniform()),
    )
  })
}

const close = (a: Tensor, b: Tensor): boolean => {
  const [p, q] = [numbersOf(a), numbersOf(b)]
  let top = 0
  for (let i = 0; i < q.length; i++) top = Math.max(top, Math.abs(q[i]!))
  return p.length === q.length && (p as Float32Array).every((v, i) => Math.abs(v - q[i]!) <= 1e-4 * Math.max(top, 1e-6))
}

/** The file as it is, in its runtime, for any batch size; numbers go in and come out in single precision whatever the file's own. */
export async function loadOriginal(engine: OnnxEngine, m: OpenedModel): Promise<Model> {
  const model = batched(await engine.loadBytes(m.runnable), m.fixedBatch)
  const own = modelToGraph(parseModel(m.runnable)).inputs.map((v) => v.dtype)
  const narrow = (d: string | undefined): d is 'float16' | 'float64' => d === 'float16' || d === 'float64'
  if (!own.some(narrow)) return model
  const inType = (t: Tensor, dtype: Tensor['dtype']): Tensor => tensorOf(dtype, t.shape, Float64Array.from(numbersOf(t) as Float32Array))
  const run = async (inputs: readonly Tensor[]): Promise<Tensor[]> => {
    const results = await model(inputs.map((t, i) => (narrow(own[i]) ? inType(t, own[i]) : t)))
    return results.map((t) => (narrow(t.dtype) ? inType(t, 'float32') : t))
  }
  return Object.assign(run, { release: () => model.release() })
}

/**
 * The prepared float graph: passes run, and a batch fixed at export lifted where the lifted graph gives the file's own results.
 */
export async function prepareModel(
  engine: OnnxEngine,
  m: OpenedModel,
  original: Model,
  random: Random,
): Promise<{ graph: Graph<'float'>; batch: 'symbolic' | 'lifted' | number }> {
  if (m.fixedBatch === null) return { graph: prepare(m.graph), batch: 'symbolic' }
  const lifted = liftBatch(m.graph)
  if (
    lifted &&
    m.graph.inputs.every((v) => v.dtype === 'float32') &&
    lifted.inputs.every((v) => v.shape!.slice(1).every((d) => typeof d === 'number'))
  ) {
    const graph = prepare(lifted)
    const inputs = randomInputs(lifted, 2, random)
    const model = await engine.load(graph)
    try {
      const [have, want] = [await model(inputs), await original(inputs)]
      if (want.every((t, i) => close(have[i]!, t))) return { graph, batch: 'lifted' }
    } catch {
      // A graph that cannot run with two samples keeps its one.
    } finally {
      await model.release()
    }
  }
  return { graph: prepare(m.graph), batch: m.fixedBatch }
}
