import { join } from 'node:path'
import {
  agree,
  type Batches,
  CompileError,
  checkWeights,
  describeLayers,
  errors,
  type Graph,
  type Measurement,
  type Model,
  type Node,
  preprocess,
  type QuantizedNetwork,
  quantize,
  quantizeNetwork,
  roundHalfEven,
  type Tensor,
} from '@dqc/core'
import { fromContainer, ortTarget, toContainer } from '@dqc/onnx'
import { createOnnxEngine, type OnnxEngine } from '@dqc/onnx/engine'
import { createStaging, readBytes, type Staging, sha256 } from './files.ts'
import { loadOriginal, type OpenedModel, openModel, prepareModel } from './model.ts'
import { type ConvertOptions, checkConvert, TARGETS } from './options.ts'
import { type Gate, REPORT_SCHEMA, type Report } from './report.ts'
import { attackList, measure, ownAnswers, type Plan } from './robustness.ts'
import { createSetting, type Setting } from './setting.ts'
import { VERSION } from './version.ts'

/** What a conversion made: a report per target, and the files' bytes by path. */
export interface ConvertResult {
  readonly reports: readonly Report[]
  readonly files: ReadonlyMap<string, Uint8Array>
}

/** Share of outputs that may differ where float islands feed quantizers. */
const ISLAND_TOLERANCE = 0.02
/** Multiply–accumulates that the integer reference may take for the agreement check, and its most samples. */
const REFERENCE = { macs: 4e9, samples: 256 }

/**
 * Quantizes a trained network, writes it for each target, loads every written file again in its runtime, and measures clean and robust
 * accuracy before and after. `model` is a path or the bytes of an ONNX file.
 * Throws CompileError: usage, unreadable, unsupported, accuracy, robustness, recheck, interrupted. When a gate fails, the files and the
 * report are there all the same; on every other error nothing is.
 */
export async function convert(model: string | Uint8Array, options: ConvertOptions): Promise<ConvertResult> {
  checkConvert(options)
  const staging = createStaging()
  const engine = createOnnxEngine(options.threads ? { threads: options.threads } : {})
  try {
    const result = await run(engine, model, options, staging)
    staging.commit()
    const failed = result.reports.flatMap((r) => failures(r))
    if (failed.length) throw Object.assign(failed[0]!, { result })
    return result
  } catch (e) {
    throw options.signal?.aborted ? errors.interrupted('interrupted') : e
  } finally {
    staging.rollback()
    await engine.close()
  }
}

/** Batches that are made once and kept: a few hundred samples, which decisions go over many times. */
function kept(batches: Batches): Batches {
  let all: Promise<(readonly Tensor[])[]> | null = null
  const gather = async (): Promise<(readonly Tensor[])[]> => {
    const list: (readonly Tensor[])[] = []
    for await (const b of batches()) list.push(b)
    return list
  }
  return async function* () {
    all ??= gather()
    yield* await all
  }
}

function failures(r: Report): CompileError[] {
  const out: CompileError[] = []
  const points = (v: number): string => `${(100 * v).toFixed(2)} points`
  const { maxDrop, maxRobustDrop } = r.gates
  if (maxDrop && !maxDrop.passed)
    out.push(
      errors.accuracyGate(`clean ${r.metric} fell by ${points(maxDrop.value)}, --max-drop allows ${points(maxDrop.limit)}`, r.target),
    )
  if (maxRobustDrop && !maxRobustDrop.passed)
    out.push(
      errors.robustnessGate(
        `robust ${r.metric} fell by ${points(maxRobustDrop.value)}, --max-robust-drop allows ${points(maxRobustDrop.limit)}`,
        r.target,
      ),
    )
  return out
}

async function run(engine: OnnxEngine, path: string | Uint8Array, o: ConvertOptions, staging: Staging): Promise<ConvertResult> {
  const progress = (stage: string, done = 0, of: number | null = null): void => {
    o.signal?.throwIfAborted()
    o.onProgress?.(stage, done, of)
  }
  progress('read')
  const opened = openModel(path, o.shapes ? { shapes: o.shapes } : {})
  refuseQuantized(opened)
  const original = await loadOriginal(engine, opened)
  const setting = createSetting(opened.graph, opened.fixedBatch, o, true)
  const { graph, batch } = await prepareModel(engine, opened, original, setting.random.fork('lift'))
  checkWeights(graph)
  const context = { ...setting, batch: typeof batch === 'number' ? batch : setting.batch }
  const all = { ...setting.all, batch: typeof batch === 'number' ? batch : Math.max(setting.all.batch, lifted(setting, o)) }
  const attacked = { ...setting.attacked, batch: all.batch }
  const notes: string[] = []
  if (setting.synthetic)
    notes.push(
      'no data was given: calibrated and measured on synthetic images; the numbers say how far the converted network follows the original, not how well it classifies',
    )
  const judged: Setting = { ...context, all, attacked, batch: all.batch }

  progress('measure the original')
  const own = await ownAnswers(original, all)
  const labels = setting.objective === 'classify' ? (all.evaluation.labels ?? own.labels) : null
  const truth: Plan['truth'] = labels ? { labels } : { outputs: own.outputs }
  const plan: Plan = { engine, attacks: attackList(o), all, attacked, truth }
  const before = await measure({ model: original, gradients: graph }, plan, new Map(), notes)
  const reports: Report[] = []
  const files = new Map<string, Uint8Array>()
  for (const name of new Set(o.targets ?? TARGETS)) {
    const report = await toTarget(name, engine, opened, graph, judged, o, plan, before, notes, staging, files, progress)
    reports.push({ ...report, model: { ...report.model, batch } })
  }
  await original.release()
  return { reports, files }
}

/** Batch for a network whose fixed batch was lifted: as if it had been symbolic all along. */
function lifted(s: Setting, o: ConvertOptions): number {
  const values = s.feed.shape.reduce((p, d) => p * d, 1)
  return Math.max(1, Math.min(o.batch ?? 64, Math.floor(2 ** 20 / values)))
}

const QUANTIZED = /^(com\.microsoft:)?(QLinear|QGemm|QuantizeLinear|DequantizeLinear|ConvInteger|MatMulInteger|DynamicQuantize)/

function refuseQuantized(m: OpenedModel): void {
  const ops = m.graph.nodes.filter((n) => n.op.name === 'foreign' && QUANTIZED.test(n.attrs.type))
  if (ops.length)
    throw errors.unsupportedModel(
      `the model is already quantized (${ops.length} nodes such as ${ops[0]!.attrs.type})`,
      m.path,
      'convert the float model it came from; dqc evaluate measures quantized ones',
    )
}

async function toTarget(
  name: string,
  engine: OnnxEngine,
  opened: OpenedModel,
  graph: Graph<'float'>,
  s: Setting,
  o: ConvertOptions,
  plan: Plan,
  before: Awaited<ReturnType<typeof measure>>,
  commonNotes: readonly string[],
  staging: Staging,
  files: Map<string, Uint8Array>,
  progress: (stage: string, done?: number, of?: number | null) => void,
): Promise<Report> {
  const notes = [...commonNotes]
  const weightBits = o.weightBits ?? o.bits
  const actBits = o.actBits ?? o.bits
  const edgeBits = o.edgeBits ?? 8
  const integerIO = o.io === 'int8'
  const target = ortTarget({ format: o.format ?? 'qoperator', packedWeights: o.packWeights ?? false, version: VERSION })
  const coarse = Math.min(weightBits, actBits, edgeBits) < 8
  const excluded = exclusion(graph, o.exclude ?? [])
  const spec = { weightBits, actBits, edgeBits, sumBits: 8, observer: o.observer ?? 'mse', exclude: excluded, integerIO } as const

  const batches = (n: number): Batches =>
    async function* () {
      for (let from = 0; from < n; from += s.batch) {
        const to = Math.min(n, from + s.batch)
        // A fixed batch takes no remainder.
        if (typeof graph.inputs[0]!.shape![0] === 'number' && to - from !== s.batch) return
        yield [preprocess(await s.calibrationFeed.pixels(from, to), s.calibrationFeed.preprocessing)]
      }
    }
  const count = s.calibration.count
  let seen = 0
  const network = await quantizeNetwork(engine, graph, batches(count), kept(batches(Math.min(s.tuning, count))), {
    spec,
    // At eight bits equalization has nothing left to gain.
    equalize: o.equalize ?? (coarse ? 'auto' : 'off'),
    biasCorrection: o.biasCorrection ?? true,
    supports: target.supports,
    onProgress: (step, n) => {
      seen = n === 0 ? 0 : seen + n
      progress(step, Math.min(seen, count), count)
    },
  })
  if (network.plan.integer.size === 0)
    throw errors.unsupportedTarget(
      'no layer of the network has an integer form',
      opened.path,
      'layers need constant weights; see `dqc inspect`',
    )

  progress('emit')
  const stem = `${opened.name}.${name}.w${weightBits}a${actBits}`
  const settings = publicOptions(o)
  const metadata = {
    'dqc.version': VERSION,
    'dqc.options': JSON.stringify(settings),
    'dqc.seed': String(o.seed ?? 0),
    'dqc.model.sha256': opened.sha256,
    'dqc.data.sha256': sha256(await dataFingerprint(s)),
    ...(integerIO ? { 'dqc.io': JSON.stringify(ioGrids(network.integer)) } : {}),
  }
  const artifact = target.emit(network.integer, stem, metadata)
  const folder = o.out === null ? null : (o.out ?? '.')
  const listed = artifact.files.map((f) => ({
    path: folder === null ? f.path : join(folder, f.path),
    bytes: f.bytes.length,
    sha256: sha256(f.bytes),
    data: f.bytes,
  }))
  let emitted = listed[0]!.data
  for (const [i, f] of listed.entries()) {
    files.set(f.path, f.data)
    if (folder === null) continue
    const temporary = staging.stage(f.path, f.data)
    // What is checked is what lies on the disk.
    if (i === 0) emitted = readBytes(temporary)
  }

  progress('check the emitted file')
  const raw = await loadEmitted(engine, emitted)
  const checked = Math.max(1, Math.min(REFERENCE.samples, s.all.evaluation.samples, Math.floor(REFERENCE.macs / Math.max(1, s.macs))))
  const sampled = async function* (): AsyncIterable<readonly Tensor[]> {
    const size = typeof graph.inputs[0]!.shape![0] === 'number' ? (graph.inputs[0]!.shape![0] as number) : 16
    for (let from = 0; from < checked; from += size) {
      const to = Math.min(checked, from + size)
      if (to - from !== size && typeof graph.inputs[0]!.shape![0] === 'number') return
      const x = preprocess(await s.feed.pixels(from, to), s.feed.preprocessing)
      yield [integerIO ? onGrid(x, network.integer) : x]
    }
  }
  const agreement = await agree(network.integer, integerIO ? viaContainer(raw, network.integer) : raw, sampled())
  // Float islands round differently in every runtime, and a value near a rounding border then lands on the next step.
  const islands = feedsIslands(network.integer)
  if (islands && agreement.mismatches > 0)
    notes.push(
      `float islands inside the network: ${agreement.mismatches} of ${agreement.compared} output elements differ from the integer reference, by up to ${agreement.maxErrorSteps.toPrecision(3)} steps`,
    )
  if (agreement.mismatches > (islands ? ISLAND_TOLERANCE * agreement.compared : 0))
    throw errors.recheckFailed(
      `${agreement.mismatches} of ${agreement.compared} output elements differ from the integer reference, by up to ${agreement.maxErrorSteps.toPrecision(3)} steps`,
      stem,
      'processors without VNNI saturate products of 8-bit weights: try --weight-bits 7',
    )
  const emittedModel = integerIO ? asReal(raw, network.integer) : raw
  progress('measure the emitted file')
  const after = await measure({ model: emittedModel, gradients: network.qdq }, plan, before.found, notes)
  await raw.release()

  const report: Report = {
    schema: REPORT_SCHEMA,
    version: VERSION,
    model: { path: opened.path, sha256: opened.sha256, format: 'onnx', batch: 'symbolic', macs: s.macs },
    target: name,
    format: o.format ?? 'qoperator',
    metric: s.objective === 'classify' ? 'accuracy' : 'relativeError',
    before: before.measurement,
    after: after.measurement,
    artifact: {
      files: listed.map(({ path, bytes, sha256: hash }) => ({ path, bytes, sha256: hash })),
      runtime: 'onnxruntime-node',
      compared: agreement.compared,
      mismatches: agreement.mismatches,
      maxErrorSteps: agreement.maxErrorSteps,
      skipped: agreement.skipped,
    },
    bits: {
      weights: { grid: weightBits, storage: artifact.storage.weights, edges: edgeBits },
      activations: { grid: actBits, storage: artifact.storage.activations, edges: edgeBits, sums: spec.sumBits },
    },
    data: {
      source: s.evaluation.description,
      samples: s.all.evaluation.samples,
      labels: s.objective !== 'classify' ? 'none' : s.all.evaluation.labels ? 'data' : 'model',
      calibration: { source: s.calibration.description, samples: count },
      synthetic: s.synthetic,
    },
    layers: describeLayers(network.float, network.plan),
    floatNodes: floatNodes(network, excluded, target.supports),
    equalized: network.equalized,
    seed: o.seed ?? 0,
    options: settings,
    gates: gatesOf(o, before.measurement, after.measurement, s.objective === 'classify'),
    notes,
  }
  if (folder !== null) staging.stage(join(folder, `${stem}.report.json`), `${JSON.stringify(report, null, 2)}\n`)
  return report
}

/** Whether real numbers computed inside the network are quantized again. */
const feedsIslands = (g: Graph<'integer'>): boolean => g.nodes.some((n) => n.op === quantize && !g.inputs.includes(n.inputs[0]!))

/** Options that shape the result: no callbacks, no folders. */
function publicOptions(o: ConvertOptions): Record<string, unknown> {
  const { onProgress: _p, signal: _s, out: _o, threads: _t, data: _d, evalData: _e, ...rest } = o
  return Object.fromEntries(Object.entries(rest).filter(([, v]) => v !== undefined))
}

/** The first calibration items stand for the data: hashing all of a large image folder would take longer than converting. */
async function dataFingerprint(s: Setting): Promise<Uint8Array> {
  const x = await s.calibrationFeed.pixels(0, Math.min(16, s.calibration.count))
  return new Uint8Array((x.data as Float32Array).buffer)
}

function exclusion(graph: Graph<'float'>, wanted: readonly string[]): (node: Node) => boolean {
  const unknown = wanted.filter((w) => !graph.nodes.some((n) => matches(n, w)))
  if (unknown.length)
    throw errors.usage(
      `--exclude ${unknown.join(', ')} matches no node`,
      null,
      'names, output names and op types are listed by `dqc inspect`',
    )
  return (n) => wanted.some((w) => matches(n, w))
}
const matches = (n: Node, w: string): boolean =>
  n.name === w || n.outputs.some((v) => v.name === w) || n.op.name.toLowerCase() === w.toLowerCase() || n.attrs?.type === w

/** The batch that an emitted file insists on is the graph's own. */
const loadEmitted = async (engine: OnnxEngine, bytes: Uint8Array): Promise<Model> => {
  try {
    return await engine.loadBytes(bytes)
  } catch (e) {
    throw e instanceof CompileError ? errors.recheckFailed(`the emitted file does not load: ${e.what}`) : e
  }
}

// ── integer inputs and outputs ───────────────────────────────────────────────────────────────────────────────────

const ioGrids = (g: Graph<'integer'>): unknown => ({
  inputs: g.inputs.map((v) =>
    v.quant ? { name: v.name, scale: v.quant.scale[0], zeroPoint: v.quant.lo < 0 ? 128 : 0 } : { name: v.name },
  ),
  outputs: g.outputs.map((v, i) =>
    v.quant ? { name: g.outputNames[i], scale: v.quant.scale[0], zeroPoint: v.quant.lo < 0 ? 128 : 0 } : { name: g.outputNames[i] },
  ),
})

/** Real input → steps of the network's own input grid. */
function onGrid(x: Tensor, g: Graph<'integer'>): Tensor {
  const q = g.inputs[0]!.quant
  if (!q) return x
  const steps = Int32Array.from(x.data as Float32Array, (v) => Math.min(Math.max(roundHalfEven(Math.fround(v / q.scale[0]!)), q.lo), q.hi))
  return { dtype: 'int32', shape: x.shape, data: steps }
}

/** Steps in, steps out, over the file's uint8 containers. */
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

function floatNodes(n: QuantizedNetwork, excluded: (node: Node) => boolean, supports: (node: Node) => boolean): Report['floatNodes'] {
  return n.float.nodes
    .filter((node) => !n.plan.integer.has(node.outputs[0]?.name ?? ''))
    .map((node) => ({
      name: node.name || (node.outputs[0]?.name ?? ''),
      op: node.op.name === 'foreign' ? node.attrs.type : node.op.name,
      reason:
        node.op.name === 'foreign'
          ? node.attrs.reason
          : excluded(node)
            ? 'excluded'
            : node.op.lower === null || !supports(node)
              ? 'no integer kernel'
              : 'fewer conversions',
    }))
}

function gatesOf(o: ConvertOptions, before: Measurement, after: Measurement, accuracy: boolean): Report['gates'] {
  const sign = accuracy ? 1 : -1
  const gate = (limit: number | undefined, value: number): Gate | null =>
    limit === undefined ? null : { limit, value, passed: value <= limit + 1e-12 }
  const drops = before.attacks.map((a) => {
    const b = after.attacks.find((x) => x.name === a.name && x.epsilon === a.epsilon && x.norm === a.norm)
    return b ? sign * (a.robust - b.robust) : 0
  })
  if (o.maxRobustDrop !== undefined && drops.length === 0)
    throw errors.unsupportedModel('no gradient attack is possible, so --max-robust-drop cannot be checked')
  return {
    maxDrop: gate(o.maxDrop, sign * (before.clean - after.clean)),
    maxRobustDrop: drops.length ? gate(o.maxRobustDrop, Math.max(...drops)) : null,
  }
}
