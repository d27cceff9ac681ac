import {
  type ArtifactFile,
  batched,
  type ChannelsLast,
  type Engine,
  evaluate,
  type Graph,
  type Model,
  quantizeValue,
  type Target,
  type Tensor,
  transpose,
} from '@dqc/core'
import { fromContainer, modelToGraph, parseModel, toContainer, withQuantFunctions } from '@dqc/onnx'
import { createOnnxEngine, type OnnxEngine } from '@dqc/onnx/engine'
import { createLiteRt, type LiteRt } from '@dqc/tflite/litert'
import { compileC, findCompiler } from './compiler.ts'

/** A written file in its real runtime: as the integer graph it was written from, and in real numbers. */
export interface EmittedModel {
  readonly steps: Model
  readonly real: Model
  /** What runs it. */
  readonly runtime: string
  /** Why the integer graph's reference evaluation stands for the file; null where the file itself runs. */
  readonly instead: string | null
  /** Bytes of code and constants, where the runtime tells. */
  readonly flash: number | null
  release(): Promise<void>
}

/** The runtimes that execute files, each started when it is first needed. */
export interface Runtimes {
  /** Executes graphs. */
  readonly engine: Engine
  /** Executes ONNX files. */
  readonly onnx: OnnxEngine
  readonly litert: () => LiteRt
  /** Loads files that were written from `integer`, the model itself first. ONNX Runtime only stands in for the tools that `qdq` files are for: it computes what is written. */
  loadEmitted(
    format: Format,
    files: readonly ArtifactFile[],
    integer: Graph<'integer'>,
    channelsLast: ChannelsLast | null,
    accepts: Target['accepts'],
  ): Promise<EmittedModel>
  /** Loads a file of real numbers, in the view of the graph it was written from. */
  loadFloat(bytes: Uint8Array, channelsLast: ChannelsLast | null): Promise<Model>
  close(): Promise<void>
}

export const RUNTIME = { onnx: 'onnxruntime-node', tflite: 'litert' } as const

/** Formats that targets write. */
export type Format = keyof typeof RUNTIME | 'c'

/** TensorFlow.js, loaded when a graph is. */
const tfjs = (): Engine => {
  const engine = import('@dqc/tflite/tfjs').then((m) => m.createTfjsEngine())
  return { name: 'tfjs', load: async (graph) => (await engine).load(graph) }
}

export function createRuntimes(o: { readonly threads?: number; readonly engine?: 'ort' | 'tfjs' }): Runtimes {
  const options = o.threads ? { threads: o.threads } : {}
  const onnx = createOnnxEngine(options)
  let litert: LiteRt | null = null
  const startLiteRt = (): LiteRt => (litert ??= createLiteRt(options))
  return {
    engine: o.engine === 'tfjs' ? tfjs() : onnx,
    onnx,
    litert: startLiteRt,
    async loadEmitted(format, files, integer, channelsLast, accepts) {
      const bytes = files[0]!.bytes
      const here = { instead: null, flash: null }
      if (format === 'c') {
        const compiler = findCompiler()
        if (!compiler) {
          const reference = Object.assign(async (x: readonly Tensor[]) => evaluate(integer, x), { release: async () => {} })
          const instead = 'no C compiler on this machine (cc, gcc, clang, or $CC)'
          return { steps: reference, real: asReal(reference, integer), runtime: 'reference', instead, flash: null, release: async () => {} }
        }
        const { steps, flash, release } = await compileC(compiler, files, integer, channelsLast!)
        return { steps, real: asReal(steps, integer), runtime: compiler, instead: null, flash, release }
      }
      if (format === 'tflite' && channelsLast) {
        const steps = await startLiteRt().loadBytes(bytes, 'steps', channelsLast)
        const real = await startLiteRt().loadBytes(bytes, 'real', channelsLast)
        return {
          steps,
          real,
          runtime: RUNTIME.tflite,
          ...here,
          async release() {
            await steps.release()
            await real.release()
          },
        }
      }
      const first = integer.inputs[0]?.shape?.[0]
      // Tools' files take one sample at a time, whatever the graph they were written from.
      const runnable = withQuantFunctions(bytes) ?? bytes
      const own = modelToGraph(parseModel(runnable)).inputs[0]?.shape?.[0]
      const plain = batched(
        await onnx.loadBytes(runnable, accepts === 'qdq' ? 'as written' : 'fused'),
        typeof own === 'number' ? own : typeof first === 'number' ? first : null,
      )
      const raw = channelsLast ? inGraphOrder(plain, channelsLast) : plain
      const release = (): Promise<void> => raw.release()
      const hasIntegers = [...integer.inputs, ...integer.outputs].some((v) => v.quant)
      const steps = hasIntegers ? viaContainer(raw, integer) : raw
      return { steps, real: hasIntegers ? asReal(steps, integer) : raw, runtime: RUNTIME.onnx, ...here, release }
    },
    loadFloat: (bytes, channelsLast) => (channelsLast ? startLiteRt().loadBytes(bytes, 'real', channelsLast) : onnx.loadBytes(bytes)),
    async close() {
      await onnx.close()
      await litert?.close()
    },
  }
}

/** A file whose images have their channels last, as a graph sees it that has them second. */
function inGraphOrder(model: Model, last: ChannelsLast): Model {
  const turn = (t: Tensor, yes: boolean | undefined, perm: number[]): Tensor => (yes ? transpose.eval([t], { perm })[0]! : t)
  const run = async (inputs: readonly Tensor[]): Promise<Tensor[]> =>
    (await model(inputs.map((t, i) => turn(t, last.inputs[i], [0, 2, 3, 1])))).map((t, i) => turn(t, last.outputs[i], [0, 3, 1, 2]))
  return Object.assign(run, { release: () => model.release() })
}

/** Real input → steps of the network's own input grid, where it has one. */
export function onGrid(x: Tensor, g: Graph<'integer'>): Tensor {
  const q = g.inputs[0]!.quant
  if (!q) return x
  const steps = Int32Array.from(x.data as Float32Array, (v) => quantizeValue(v, q.scale[0]!, q.lo, q.hi))
  return { dtype: 'int32', shape: x.shape, data: steps }
}

/** Steps in, steps out, over an ONNX file's uint8 containers. */
function viaContainer(model: Model, g: Graph<'integer'>): Model {
  const run = async (inputs: readonly Tensor[]): Promise<Tensor[]> => {
    const fed = inputs.map((t, i): Tensor => {
      const q = g.inputs[i]!.quant
      return q ? { dtype: 'uint8', shape: t.shape, data: toContainer(t.data as Int32Array, q) } : t
    })
    return (await model(fed)).map((t, i): Tensor => {
      const q = g.outputs[i]!.quant
      return q ? { dtype: 'int32', shape: t.shape, data: fromContainer(t.data as Uint8Array, q) } : t
    })
  }
  return Object.assign(run, { release: () => model.release() })
}

/** Real in, real out, over a model of steps. */
function asReal(steps: Model, g: Graph<'integer'>): Model {
  const run = async (inputs: readonly Tensor[]): Promise<Tensor[]> =>
    (await steps(inputs.map((t) => onGrid(t, g)))).map((t, i): Tensor => {
      const q = g.outputs[i]!.quant
      return q ? { dtype: 'float32', shape: t.shape, data: Float32Array.from(t.data as Int32Array, (v) => v * q.scale[0]!) } : t
    })
  return Object.assign(run, { release: () => steps.release() })
}
