import { batched, type ChannelsLast, type Engine, type Graph, type Model, quantizeValue, type Tensor } from '@dqc/core'
import { fromContainer, toContainer } from '@dqc/onnx'
import { createOnnxEngine, type OnnxEngine } from '@dqc/onnx/engine'
import { createLiteRt, type LiteRt } from '@dqc/tflite/litert'

/** A written file in its real runtime: as the integer graph it was written from, and in real numbers. */
export interface EmittedModel {
  readonly steps: Model
  readonly real: Model
  release(): Promise<void>
}

/** The runtimes that execute files, each started when it is first needed. */
export interface Runtimes {
  /** Executes graphs. */
  readonly engine: Engine
  /** Executes ONNX files. */
  readonly onnx: OnnxEngine
  readonly litert: () => LiteRt
  /** Loads a file that was written from `integer`. */
  loadEmitted(bytes: Uint8Array, integer: Graph<'integer'>, channelsLast: ChannelsLast | null): Promise<EmittedModel>
  /** Loads a file of real numbers, in the view of the graph it was written from. */
  loadFloat(bytes: Uint8Array, channelsLast: ChannelsLast | null): Promise<Model>
  close(): Promise<void>
}

export const RUNTIME = { onnx: 'onnxruntime-node', tflite: 'litert' } as const

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
    async loadEmitted(bytes, integer, channelsLast) {
      if (channelsLast) {
        const steps = await startLiteRt().loadBytes(bytes, 'steps', channelsLast)
        const real = await startLiteRt().loadBytes(bytes, 'real', channelsLast)
        return {
          steps,
          real,
          async release() {
            await steps.release()
            await real.release()
          },
        }
      }
      const first = integer.inputs[0]?.shape?.[0]
      const raw = batched(await onnx.loadBytes(bytes), typeof first === 'number' ? first : null)
      const release = (): Promise<void> => raw.release()
      const hasIntegers = [...integer.inputs, ...integer.outputs].some((v) => v.quant)
      return hasIntegers ? { steps: viaContainer(raw, integer), real: asReal(raw, integer), release } : { steps: raw, real: raw, release }
    },
    loadFloat: (bytes, channelsLast) => (channelsLast ? startLiteRt().loadBytes(bytes, 'real', channelsLast) : onnx.loadBytes(bytes)),
    async close() {
      await onnx.close()
      await litert?.close()
    },
  }
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

/** Real in, real out, through the network's integer inputs and outputs. */
function asReal(model: Model, g: Graph<'integer'>): Model {
  const inner = viaContainer(model, g)
  const run = async (inputs: readonly Tensor[]): Promise<Tensor[]> =>
    (await inner(inputs.map((t) => onGrid(t, g)))).map((t, i): Tensor => {
      const q = g.outputs[i]!.quant
      return q ? { dtype: 'float32', shape: t.shape, data: Float32Array.from(t.data as Int32Array, (v) => v * q.scale[0]!) } : t
    })
  return Object.assign(run, { release: () => model.release() })
}
