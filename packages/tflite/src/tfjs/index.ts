import {
  CompileError,
  type Engine,
  errors,
  type Graph,
  isConstant,
  type Model,
  numbersOf,
  type Tensor,
  tensorOf,
  type Value,
} from '@dqc/core'
import type * as Core from '@tensorflow/tfjs'
import { kernels, type Tf } from './kernels.ts'

/** TensorFlow.js as a second engine: slow, and written by others, so that it checks what dqc computes and derives. */
export interface TfjsEngine extends Engine {
  /** tensorflow: the native binding of @tensorflow/tfjs-node. cpu: plain JavaScript. */
  readonly backend: 'tensorflow' | 'cpu'
  /**
   * ∂⟨seed, y⟩/∂x of the graph's first output for each of its float inputs, by TensorFlow.js's own differentiation.
   * Throws CompileError (unsupported) when an op on the way has no TensorFlow.js form.
   */
  gradients(graph: Graph, inputs: readonly Tensor[], seed: Tensor): Promise<Tensor[]>
  /** Whether an op runs in TensorFlow.js; others are evaluated by their reference semantics. */
  supports(name: string): boolean
}

/**
 * Takes @tensorflow/tfjs-node where its native binding is installed and loads, @tensorflow/tfjs-core with its plain backend otherwise.
 * `native: false` forces the plain one.
 */
export async function createTfjsEngine(options: { readonly native?: boolean } = {}): Promise<TfjsEngine> {
  const { tf, backend } = await start(options.native ?? true)
  const run = (graph: Graph, inputs: readonly Core.Tensor[], strict: boolean): Core.Tensor[] => {
    const values = new Map<Value, Core.Tensor>()
    graph.inputs.forEach((v, i) => values.set(v, inputs[i]!))
    const read = (v: Value): Core.Tensor => {
      let t = values.get(v)
      if (!t && isConstant(v)) values.set(v, (t = toTf(tf, v.data)))
      if (!t) throw errors.badModel(`${v.name} has no value`)
      return t
    }
    for (const node of graph.nodes) {
      const ins = node.inputs.map((v) => (v ? read(v) : null))
      const kernel = kernels.get(node.op.name)
      let outs = kernel?.(tf, ins as Core.Tensor[], node.attrs, node) ?? null
      if (!outs) {
        if (strict) throw errors.unsupportedModel(`${node.op.name} has no TensorFlow.js form`, 'tfjs')
        const fed = node.inputs.map((v, i) => (v ? fromTf(ins[i]!, v.dtype) : null))
        outs = node.op.eval(fed, node.attrs).map((t) => toTf(tf, t))
      }
      const list = Array.isArray(outs) ? outs : [outs]
      node.outputs.forEach((v, k) => {
        if (list[k]) values.set(v, list[k])
      })
    }
    return graph.outputs.map(read)
  }
  return {
    name: 'tfjs',
    backend,
    supports: (name) => kernels.has(name),
    async load(graph): Promise<Model> {
      const model = async (inputs: readonly Tensor[]): Promise<Tensor[]> => {
        try {
          const results = tf.tidy(() =>
            run(
              graph,
              inputs.map((t) => toTf(tf, t)),
              false,
            ),
          )
          const tensors = results.map((t, i) => fromTf(t, graph.outputs[i]!.dtype))
          for (const t of results) t.dispose()
          return tensors
        } catch (e) {
          throw e instanceof CompileError ? e : errors.unsupportedModel((e as Error).message.replace(/\s+/g, ' '), 'tfjs')
        }
      }
      return Object.assign(model, { release: async () => {} })
    },
    async gradients(graph, inputs, seed) {
      const f = (...xs: Core.Tensor[]): Core.Tensor => run(graph, xs, true)[0]!
      const fed = inputs.map((t) => toTf(tf, t))
      const gradients = tf.tidy(() => tf.grads(f)(fed, toTf(tf, seed)))
      return gradients.map((t, i) => fromTf(t, graph.inputs[i]!.dtype))
    },
  }
}

async function start(native: boolean): Promise<{ tf: Tf; backend: TfjsEngine['backend'] }> {
  if (native) {
    try {
      // An optional peer: a name that the bundler and the type checker need not resolve.
      const name = '@tensorflow/tfjs-node'
      const tf = (await import(name)) as Tf
      await tf.ready()
      return { tf, backend: 'tensorflow' }
    } catch {
      // Not installed, or its native library does not load here: the plain backend computes the same.
    }
  }
  const tf = await import('@tensorflow/tfjs')
  // The library advertises its native binding on first use; libraries here do not print.
  tf.env().set('PROD', true)
  await tf.setBackend('cpu')
  return { tf, backend: 'cpu' }
}

/** TensorFlow.js knows single-precision floats, 32-bit integers and booleans. */
function toTf(tf: Tf, t: Tensor): Core.Tensor {
  const values = numbersOf(t)
  if (t.dtype === 'bool') return tf.tensor(Uint8Array.from(values as Uint8Array), t.shape as number[], 'bool')
  const isReal = t.dtype === 'float32' || t.dtype === 'float64' || t.dtype === 'float16' || t.dtype === 'bfloat16'
  return isReal
    ? tf.tensor(Float32Array.from(values as Float32Array), t.shape as number[], 'float32')
    : tf.tensor(Int32Array.from(values as Int32Array), t.shape as number[], 'int32')
}

const fromTf = (t: Core.Tensor, dtype: Tensor['dtype']): Tensor => tensorOf(dtype, t.shape, Float64Array.from(t.dataSync() as Float32Array))
