import { Worker } from 'node:worker_threads'
import { type ChannelsLast, createWorkerCalls, errors, type Model, quantizeValue, type Tensor, tensorOf, transpose } from '@dqc/core'
import { type ParsedModel, parseModel } from '../format/model.ts'
import { elementOf } from '../format/tensors.ts'
import { type FileTensor, modelToGraph, type TfliteOrigin, tfliteOriginOf } from '../read/read.ts'
import { PERM_TO_CORE, PERM_TO_FILE } from '../spelling/spelling.ts'

export interface LiteRtOptions {
  /** Threads of the runtime's CPU kernels. Default 1. */
  readonly threads?: number
}

/**
 * What a loaded file is fed and gives. file: what its inputs and outputs hold, axes in the file's order. real: as the graph that dqc reads
 * from it, real numbers with channels second. steps: the same with the integers of the grids in place of real numbers.
 */
export type View = 'file' | 'real' | 'steps'

/** LiteRT in a worker thread. */
export interface LiteRt {
  readonly name: string
  /**
   * Loads a TFLite file as it is. Any multiple of the batch that the file declares (1 where it is open) is taken, and run one by one.
   * `channelsLast` says which axes a graph that the file was written from has exchanged. Rejects with CompileError carrying the runtime's words.
   */
  loadBytes(bytes: Uint8Array, view?: View, channelsLast?: ChannelsLast): Promise<Model>
  close(): Promise<void>
}

/** Starts a worker with LiteRT's WebAssembly build (@litertjs/core). */
export function createLiteRt(options: LiteRtOptions = {}): LiteRt {
  const { ask, close } = createWorkerCalls('litert', () => new Worker(new URL('./worker.js', import.meta.url)))
  let models = 0
  return {
    name: 'litert',
    async loadBytes(bytes, view = 'file', channelsLast) {
      const parsed = parseModel(bytes)
      const { graph } = parsed
      const describe = (i: number): { dtype: Tensor['dtype']; shape: number[] } => ({
        dtype: elementOf(graph.tensors[i]!.type).dtype,
        shape: Array.from(graph.tensors[i]!.shape ?? []),
      })
      const inputs = Array.from(graph.inputs, describe)
      const outputs = Array.from(graph.outputs, describe)
      const origin = view === 'file' ? null : originOf(parsed, channelsLast)
      const model = models++
      await ask({ type: 'load', model, bytes, threads: options.threads ?? 1, inputs, outputs })
      const run = async (tensors: readonly Tensor[]): Promise<Tensor[]> => {
        const fed = tensors.map((t, i) => (origin ? toFile(t, origin.inputs[i]!, view) : t))
        let runs = 1
        fed.forEach((t, i) => {
          const want = inputs[i]!
          runs = (t.shape[0] ?? 1) / (want.shape[0] ?? 1)
          if (t.dtype !== want.dtype || String(t.shape.slice(1)) !== String(want.shape.slice(1)) || !Number.isInteger(runs))
            throw errors.shapeMismatch(`${t.dtype}[${t.shape}] fed to an input of ${want.dtype}[${want.shape}]`, `input ${i}`)
        })
        if (runs !== 1 && outputs.some((o) => o.shape[0] !== inputs[0]!.shape[0]))
          throw errors.unsupportedModel('the outputs do not carry the batch in front', 'litert', 'pass --batch 1')
        const results = await ask<Tensor['data'][]>({ type: 'run', model, inputs: fed, runs })
        return results.map((data, i) => {
          const { dtype, shape } = outputs[i]!
          const t: Tensor = { dtype, shape: runs === 1 ? shape : [shape[0]! * runs, ...shape.slice(1)], data }
          return origin ? fromFile(t, origin.outputs[i]!, view) : t
        })
      }
      return Object.assign(run, { release: () => ask<void>({ type: 'release', model }) })
    },
    close,
  }
}

/** How the file's tensors lie: as dqc would read them, or as whoever wrote the file says. */
function originOf(parsed: ParsedModel, channelsLast: ChannelsLast | undefined): Pick<TfliteOrigin, 'inputs' | 'outputs'> {
  const origin = tfliteOriginOf(modelToGraph(parsed))!
  if (!channelsLast) return origin
  const laid = (list: readonly FileTensor[], last: readonly boolean[]): FileTensor[] =>
    list.map((f, i) => ({ ...f, layout: last[i] ? 'core' : 'file' }))
  return { inputs: laid(origin.inputs, channelsLast.inputs), outputs: laid(origin.outputs, channelsLast.outputs) }
}

/** A tensor with channels second, real or in steps → what the file's input holds. */
function toFile(t: Tensor, f: FileTensor, view: View): Tensor {
  const turned = f.layout === 'core' ? transpose.eval([t], { perm: [...PERM_TO_FILE] })[0]! : t
  const g = f.grid
  if (!g) return turned
  const zero = g.zero[0]!
  const q = Float64Array.from(turned.data as Float32Array, (v) =>
    view === 'steps' ? v + zero : quantizeValue(v, g.scale[0]!, g.lowest - zero, g.highest - zero) + zero,
  )
  return tensorOf(f.dtype, turned.shape, q)
}

/** What a file's output holds → real numbers or steps, with channels second. */
function fromFile(t: Tensor, f: FileTensor, view: View): Tensor {
  const g = f.grid
  const values = t.data as Int8Array
  const read = !g
    ? t
    : view === 'steps'
      ? tensorOf(
          'int32',
          t.shape,
          Int32Array.from(values, (q) => q - g.zero[0]!),
        )
      : tensorOf(
          'float32',
          t.shape,
          Float32Array.from(values, (q) => (q - g.zero[0]!) * g.scale[0]!),
        )
  return f.layout === 'core' ? transpose.eval([read], { perm: [...PERM_TO_CORE] })[0]! : read
}
