import { Worker } from 'node:worker_threads'
import { createWorkerCalls, type Engine, type Graph, type Model, type Tensor } from '@dqc/core'
import { writeModel } from '../write/write.ts'
import { blockedConvolutions, blockLength, blockProbe } from './blocked.ts'

export interface EngineOptions {
  /** Threads inside one operator. Default: onnxruntime's own choice (one per core). */
  readonly threads?: number
  /** onnxruntime execution providers in order of preference. Default: ['cpu']. */
  readonly providers?: readonly string[]
  readonly optimization?: 'disabled' | 'basic' | 'extended' | 'all'
}

/** ONNX Runtime in a worker thread. */
export interface OnnxEngine extends Engine {
  /** Loads the bytes of an ONNX file. `quantizers` around ops of real numbers are fused with them, as is the runtime's default, or computed as the file says. */
  loadBytes(bytes: Uint8Array, quantizers?: 'fused' | 'as written'): Promise<LoadedModel>
  /** Ends the worker. Every model is gone afterwards. */
  close(): Promise<void>
}

export interface LoadedModel extends Model {
  readonly inputNames: readonly string[]
  readonly outputNames: readonly string[]
}

/** Quantizers stay as they are written: fused with layers they would count differently, on x86 processors without VNNI even saturate, and each reader would get a copy. */
const AS_WRITTEN = { extra: { session: { disable_quant_qdq: '1' } } }

/**
 * Starts a worker with onnxruntime-node. Models take and give tensors in the order of their inputs and outputs.
 * Loading and running reject with CompileError carrying onnxruntime's own message.
 */
export function createOnnxEngine(options: EngineOptions = {}): OnnxEngine {
  const { ask, close } = createWorkerCalls('onnxruntime', () => new Worker(new URL('./worker.js', import.meta.url)))
  const session = {
    executionProviders: [...(options.providers ?? ['cpu'])],
    graphOptimizationLevel: options.optimization ?? 'all',
    enableMemPattern: false,
    executionMode: 'sequential',
    logSeverityLevel: 3,
    ...(options.threads ? { intraOpNumThreads: options.threads } : {}),
  }
  let sessions = 0
  const start = async (bytes: Uint8Array, extra: object): Promise<LoadedModel> => {
    const id = sessions++
    const options = { ...session, ...extra }
    const { inputs, outputs } = await ask<{ inputs: string[]; outputs: string[] }>({ type: 'load', session: id, bytes, options })
    const run = (tensors: readonly Tensor[]): Promise<Tensor[]> => ask({ type: 'run', session: id, inputs: tensors })
    return Object.assign(run, { inputNames: inputs, outputNames: outputs, release: () => ask<void>({ type: 'release', session: id }) })
  }
  let asked: Promise<number> | null = null
  /** Length of the runtime's channel blocks; 1 where it has none. */
  const blocks = async (): Promise<number> => {
    if (session.graphOptimizationLevel !== 'all' || session.executionProviders.some((p) => p !== 'cpu')) return 1
    try {
      const probe = await start(blockProbe(), { logSeverityLevel: 4 })
      const length = await blockLength(probe)
      await probe.release()
      return length
    } catch {
      // A runtime that lacks these operators computes without them.
      return 1
    }
  }
  return {
    name: 'onnxruntime',
    loadBytes: (bytes, quantizers = 'fused') => start(bytes, quantizers === 'fused' ? {} : AS_WRITTEN),
    load: async (graph: Graph) => {
      asked ??= blocks()
      return start(writeModel({ ...graph, origin: null }, blockedConvolutions(graph, await asked)), AS_WRITTEN)
    },
    close,
  }
}
