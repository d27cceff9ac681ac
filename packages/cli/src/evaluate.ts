import {
  createRandom,
  errors,
  type Graph,
  isFloat,
  type Measurement,
  type Model,
  prepare,
  quantizeValue,
  type Tensor,
  type Value,
} from '@dqc/core'
import { parseModel } from '@dqc/onnx'
import { forFormat, inputRange, loadOriginal, type OpenedModel, openModel, prepareModel } from './model.ts'
import { checkCommon, type EvaluateOptions } from './options.ts'
import { attackList, measure, ownAnswers, type Plan } from './robustness.ts'
import { createRuntimes } from './runtimes.ts'
import { createSetting } from './setting.ts'
import { VERSION } from './version.ts'

export interface EvaluationReport {
  readonly schema: 'dqc-evaluation-1'
  readonly version: string
  readonly model: { readonly path: string; readonly sha256: string; readonly format: string }
  readonly metric: 'accuracy' | 'relativeError'
  readonly measurement: Measurement
  readonly data: {
    readonly source: string
    readonly samples: number
    readonly labels: 'data' | 'model' | 'none'
    readonly synthetic: boolean
  }
  readonly seed: number
  readonly notes: readonly string[]
}

/**
 * Clean and robust accuracy of any ONNX or TFLite classifier, quantized ones included: the file runs in onnxruntime or LiteRT, gradients come from its graph
 * with integer kernels read as the real numbers they stand for (straight through the rounding), or from a surrogate.
 * Throws CompileError.
 */
export async function evaluate(model: string | Uint8Array, given: EvaluateOptions = {}): Promise<EvaluationReport> {
  checkCommon(given)
  const runtimes = createRuntimes(given)
  const { engine } = runtimes
  try {
    given.onProgress?.('read', 0, null)
    const opened = openModel(model, given.shapes ? { shapes: given.shapes } : {})
    const options = forFormat(given, opened)
    const real = realInput(opened)
    const runner = real.wrap(await loadOriginal(runtimes, opened))
    const notes: string[] = []
    const gradients = options.surrogate
      ? openModel(options.surrogate).graph
      : await gradientGraph(engine, opened, real.graph, runner, notes)
    if (options.surrogate) notes.push(`gradients come from ${options.surrogate}: a transfer attack, weaker than one that knows the network`)
    const fixed = gradients?.inputs[0]?.shape?.[0]
    const setting = createSetting(real.graph, typeof fixed === 'number' ? fixed : null, options, false, inputRange(opened))
    const classes = (g: Graph): unknown => g.outputs[0]?.shape?.[1]
    if (gradients && options.surrogate && setting.objective === 'classify' && classes(gradients) !== classes(real.graph))
      throw errors.usage(`--surrogate: ${classes(gradients)} classes, the model has ${classes(real.graph)}`, options.surrogate)
    if (setting.synthetic) notes.push('no data was given: measured on synthetic images')
    const { all, attacked } = setting
    const own = await ownAnswers(runner, all)
    const truth: Plan['truth'] =
      setting.objective === 'classify' ? { labels: all.evaluation.labels ?? own.labels } : { outputs: own.outputs }
    const { measurement } = await measure(
      { model: runner, gradients },
      { engine, attacks: attackList(options), all, attacked, truth },
      new Map(),
      notes,
    )
    await runner.release()
    return {
      schema: 'dqc-evaluation-1',
      version: VERSION,
      model: { path: opened.path, sha256: opened.sha256, format: opened.format },
      metric: setting.objective === 'classify' ? 'accuracy' : 'relativeError',
      measurement,
      data: {
        source: setting.evaluation.description,
        samples: all.evaluation.samples,
        labels: setting.objective !== 'classify' ? 'none' : all.evaluation.labels ? 'data' : 'model',
        synthetic: setting.synthetic,
      },
      seed: options.seed ?? 0,
      notes,
    }
  } catch (e) {
    throw given.signal?.aborted ? errors.interrupted('interrupted') : e
  } finally {
    await runtimes.close()
  }
}

/** The graph that attacks differentiate: the float graph, batch lifted where it can be, or the integers read as real numbers. */
async function gradientGraph(
  engine: Parameters<typeof prepareModel>[0],
  opened: OpenedModel,
  graph: Graph,
  runner: Model,
  notes: string[],
): Promise<Graph | null> {
  const foreign = graph.nodes.filter((n) => n.op.name === 'foreign').map((n) => n.attrs.type as string)
  if (foreign.length === 0 && graph.level === 'float')
    return (await prepareModel(engine, opened, opened.graph, runner, createRandom(1))).graph
  if (foreign.length === 0) return graph
  notes.push(`no gradient attack: ${[...new Set(foreign)].join(', ')} have no gradient (pass --surrogate FLOAT.onnx for a transfer attack)`)
  return null
}

interface RealView {
  readonly graph: Graph
  readonly wrap: (m: Model) => Model
}

/**
 * How a file looks to data of real numbers. Files that dqc wrote with integer inputs say in their metadata which grid those are on.
 */
function realInput(opened: OpenedModel): RealView {
  // LiteRT is loaded with real numbers on both sides.
  if (opened.format === 'tflite') return { graph: opened.quantized ? opened.real() : opened.graph, wrap: (m) => m }
  const quantized = opened.graph.nodes.some((n) => n.op.name === 'foreign')
  const graph: Graph = quantized ? opened.real() : prepare(opened.graph)
  if (opened.graph.inputs.every((v) => v.dtype === 'float32')) return { graph: quantized ? graph : opened.graph, wrap: (m) => m }
  const entry = parseModel(opened.bytes).metadataProps?.find((p) => p.key === 'dqc.io')?.value
  if (!entry)
    throw errors.unsupportedModel(
      `input ${opened.graph.inputs[0]?.name} is ${opened.graph.inputs[0]?.dtype}`,
      opened.path,
      'dqc evaluates networks with float inputs, or integer ones it wrote itself',
    )
  const io = ioGrids(entry, opened)
  const wrap = (m: Model): Model =>
    Object.assign(
      async (inputs: readonly Tensor[]): Promise<Tensor[]> => {
        const fed = inputs.map((t, i): Tensor => {
          const g = io.inputs[i]
          if (!g) return t
          const { scale, zeroPoint } = g
          return {
            dtype: 'uint8',
            shape: t.shape,
            data: Uint8Array.from(t.data as Float32Array, (v) => quantizeValue(v, scale, -zeroPoint, 255 - zeroPoint) + zeroPoint),
          }
        })
        return (await m(fed)).map((t, i): Tensor => {
          const g = io.outputs[i]
          if (!g) return t
          return { dtype: 'float32', shape: t.shape, data: Float32Array.from(t.data as Uint8Array, (v) => (v - g.zeroPoint) * g.scale) }
        })
      },
      { release: () => m.release() },
    )
  return { graph: { ...opened.graph, inputs: opened.graph.inputs }, wrap }
}

interface IoGrid {
  readonly scale: number
  readonly zeroPoint: number
}

/** The grids of integer inputs and outputs that a file's metadata states; null for real ones. Throws CompileError where one is missing. */
function ioGrids(entry: string, m: OpenedModel): { inputs: readonly (IoGrid | null)[]; outputs: readonly (IoGrid | null)[] } {
  const stated = (values: readonly Value[], list: readonly Partial<IoGrid>[]): (IoGrid | null)[] =>
    values.map((v, i) => {
      if (isFloat(v.dtype)) return null
      const { scale, zeroPoint } = list[i]!
      if (!(scale! > 0 && Number.isInteger(zeroPoint) && zeroPoint! >= 0 && zeroPoint! <= 255)) throw new RangeError(v.name)
      return { scale: scale!, zeroPoint: zeroPoint! }
    })
  try {
    const io = JSON.parse(entry)
    return { inputs: stated(m.graph.inputs, io.inputs), outputs: stated(m.graph.outputs, io.outputs) }
  } catch (e) {
    throw errors.badModel(
      `the metadata dqc.io do not state scale and zero point of every integer input and output: ${(e as Error).message}`,
      m.path,
    )
  }
}
