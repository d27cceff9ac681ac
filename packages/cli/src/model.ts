import { basename, extname } from 'node:path'
import {
  batched,
  type Engine,
  errors,
  fakeQuant,
  type Graph,
  gridOf,
  liftBatch,
  type Model,
  numbersOf,
  prepare,
  type Random,
  removeQuantizers,
  sizeOf,
  type Tensor,
  tensorOf,
  widenToFloat32,
} from '@dqc/core'
import {
  embedExternalData,
  encodeModel,
  hasExternalData,
  inlineFunctions,
  modelToGraph,
  modelToRealGraph,
  parseModel,
  withQuantFunctions,
} from '@dqc/onnx'
import { isTflite, readModel as readTflite, tfliteOriginOf } from '@dqc/tflite'
import { externalLoader, readBytes, sha256 } from './files.ts'
import type { CommonOptions } from './options.ts'
import type { Runtimes } from './runtimes.ts'

/** A model file, opened. */
export interface OpenedModel {
  readonly path: string
  readonly name: string
  /** Of the file; of one whose data lie outside, of the same model with them inside. */
  readonly sha256: string
  readonly bytes: Uint8Array
  readonly format: 'onnx' | 'tflite'
  /** The same model with all its data inside, for runtimes that take bytes. */
  readonly runnable: Uint8Array
  /** The network in real numbers; of a quantized file, the one its integers stand for. */
  readonly graph: Graph<'float'>
  /** Whether the file computes in integers. */
  readonly quantized: boolean
  /** The same network with its integers read as real numbers, rounding included. */
  readonly real: () => Graph<'qdq'>
  /** The batch size that the file insists on, or null. */
  readonly fixedBatch: number | null
}

export interface OpenOptions {
  readonly shapes?: Readonly<Record<string, readonly number[]>>
}

/** Reads a model from a path (or from bytes, then `path` only names it). Its format is told by its content. */
export function openModel(model: string | Uint8Array, o: OpenOptions = {}): OpenedModel {
  const path = typeof model === 'string' ? model : '(bytes)'
  // A Buffer's slices share its memory: inside there are only plain arrays.
  const bytes = typeof model === 'string' ? readBytes(model) : new Uint8Array(model.buffer, model.byteOffset, model.byteLength)
  if (bytes.length === 0) throw errors.badModel('the file is empty', path)
  const options = o.shapes ? { shapes: o.shapes } : {}
  const facts = {
    path,
    name: typeof model === 'string' ? basename(model, extname(model)) : 'model',
    bytes,
  }
  const content = isTflite(bytes) ? openTflite(bytes, options) : openOnnx(bytes, model, options)
  const first = content.graph.inputs[0]?.shape?.[0]
  return { ...facts, ...content, sha256: sha256(content.runnable), fixedBatch: typeof first === 'number' ? first : null }
}

type Content = Pick<OpenedModel, 'format' | 'runnable' | 'graph' | 'quantized' | 'real'>

function openTflite(bytes: Uint8Array, options: OpenOptions): Content {
  const read = readTflite(bytes, options)
  const quantized = read.level === 'qdq'
  return {
    format: 'tflite',
    runnable: bytes,
    graph: read.level === 'qdq' ? removeQuantizers(read) : read,
    quantized,
    real: () => (read.level === 'qdq' ? read : { ...read, level: 'qdq' }),
  }
}

/** Operators of files that compute in integers. */
const QUANTIZED =
  /^(com\.microsoft:)?(QLinear|QGemm|QuantizeLinear|DequantizeLinear|ConvInteger|MatMulInteger|DynamicQuantize)|:(Int|Bipolar)?Quant$|:Trunc$/
const integers = (g: Graph): string[] =>
  g.nodes.filter((n) => n.op.name === 'foreign' && QUANTIZED.test(n.attrs.type)).map((n) => n.attrs.type)

function openOnnx(bytes: Uint8Array, model: string | Uint8Array, options: OpenOptions): Content {
  const parsed = parseModel(bytes)
  const load =
    typeof model === 'string'
      ? externalLoader(model)
      : () => {
          throw errors.badModel('a model given as bytes cannot refer to external data', '(bytes)', 'open it by its path')
        }
  const message = inlineFunctions(parsed)
  const reading = { loadExternal: load, ...options }
  return {
    format: 'onnx',
    runnable: hasExternalData(parsed) ? encodeModel(embedExternalData(parsed, load)) : bytes,
    graph: widenToFloat32(modelToGraph(message, reading)),
    quantized: integers(modelToGraph(message, reading)).length > 0,
    real: () => modelToRealGraph(message, reading),
  }
}

/** The float network to convert: of a quantized file, the one its integers stand for. Throws CompileError where dqc cannot tell it. */
export function floatNetwork(m: OpenedModel): Graph<'float'> {
  if (!m.quantized || m.format === 'tflite') return m.graph
  const real = m.real()
  const left = integers(real)
  if (left.length)
    throw errors.unsupportedModel(
      `the model is already quantized, with ${left.length} nodes such as ${left[0]} that dqc cannot read as real numbers`,
      m.path,
      'convert the float model it came from; dqc evaluate measures quantized ones',
    )
  return removeQuantizers(real)
}

/** The range that a quantized file's own input grid covers; null for files of real numbers. */
export function inputRange(m: OpenedModel): readonly [number, number] | null {
  if (!m.quantized) return null
  const real = m.real()
  const reader = real.nodes.find((n) => n.op === fakeQuant && n.inputs[0] === real.inputs[0] && n.inputs[1]!.data !== null)
  if (!reader) return null
  const q = gridOf(reader.inputs[1]!, reader.attrs)
  return [q.lo * q.scale[0]!, q.hi * q.scale[0]!]
}

/** Options for the graph that was read from a file: TFLite's images have their channels last, core's second. */
export function forFormat<T extends CommonOptions>(o: T, m: OpenedModel): T {
  const lies = m.format === 'tflite' ? tfliteOriginOf(m.real())?.inputs[0]?.layout : 'file'
  if (lies !== 'core' || o.layout === undefined) return o
  if (o.layout === 'nchw') throw errors.usage('--layout nchw: the input of this TFLite model has its channels last')
  return { ...o, layout: 'nchw' }
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
export async function loadOriginal(runtimes: Runtimes, m: OpenedModel): Promise<Model> {
  if (m.format === 'tflite') return runtimes.litert().loadBytes(m.runnable, 'real')
  // No runtime has QONNX's ops: they are given as functions, or where the file's operator set is too old for that, as dqc reads them.
  const strange =
    m.quantized && integers(modelToGraph(parseModel(m.runnable))).some((type) => type.includes(':') && !type.startsWith('com.'))
  const bytes = strange ? withQuantFunctions(m.runnable) : m.runnable
  const model = batched(bytes ? await runtimes.onnx.loadBytes(bytes) : await runtimes.onnx.load(m.real()), m.fixedBatch)
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
 * The prepared float graph: passes run, and a batch fixed at export lifted where the lifted graph gives the file's own results (of a
 * quantized file, those of the float network that it stands for).
 */
export async function prepareModel(
  engine: Engine,
  m: OpenedModel,
  source: Graph<'float'>,
  original: Model,
  random: Random,
): Promise<{ graph: Graph<'float'>; batch: 'symbolic' | 'lifted' | number }> {
  if (m.fixedBatch === null) return { graph: prepare(source), batch: 'symbolic' }
  const lifted = liftBatch(source)
  if (
    lifted &&
    source.inputs.every((v) => v.dtype === 'float32') &&
    lifted.inputs.every((v) => v.shape!.slice(1).every((d) => typeof d === 'number'))
  ) {
    const graph = prepare(lifted)
    const inputs = randomInputs(lifted, 2, random)
    const model = await engine.load(graph)
    const unlifted = m.quantized ? batched(await engine.load(prepare(source)), m.fixedBatch) : null
    try {
      const [have, want] = [await model(inputs), await (unlifted ?? original)(inputs)]
      if (want.every((t, i) => close(have[i]!, t))) return { graph, batch: 'lifted' }
    } catch {
      // A graph that cannot run with two samples keeps its one.
    } finally {
      await model.release()
      await unlifted?.release()
    }
  }
  return { graph: prepare(source), batch: m.fixedBatch }
}
