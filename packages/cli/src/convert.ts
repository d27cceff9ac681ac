import { existsSync } from 'node:fs'
import { join } from 'node:path'
import {
  type Agreement,
  type ArtifactFile,
  activationUse,
  agree,
  type Batches,
  balance,
  batchesOf,
  CompileError,
  checkWeights,
  containerZero,
  countCost,
  createRandom,
  describeLayers,
  errors,
  evaluate,
  floatPlan,
  type Graph,
  gridBits,
  initializeWeights,
  insertQuantizers,
  intConv,
  intDense,
  interpolate,
  type KernelRules,
  type LayerReport,
  liftBatch,
  lower,
  type Measurement,
  NOTHING_COMPARED,
  type Node,
  normalizeLayers,
  numbersOf,
  operatorNorms,
  perturbations,
  prepareQuantized,
  preprocess,
  type QuantPlan,
  quantize,
  quantizeNetwork,
  runPasses,
  type Tensor,
  type Value,
} from '@dqc/core'
import { createStaging, probeFolder, readBytes, type Staging, sha256 } from './files.ts'
import { createTrainer, degenerateNote, type FinetuneReport, isUnsupported, type Trainer } from './finetune.ts'
import { floatNetwork, forFormat, inputRange, loadOriginal, type OpenedModel, openModel, prepareModel } from './model.ts'
import { bitsFor, type ConvertOptions, checkConvert, isCoarse, trains } from './options.ts'
import { type Gate, REPORT_SCHEMA, type Report } from './report.ts'
import { attackList, measure, ownAnswers, type Plan } from './robustness.ts'
import { createRuntimes, onGrid, RUNTIME, type Runtimes } from './runtimes.ts'
import { createSetting, type Setting } from './setting.ts'
import { type Choice, chooseTargets } from './targets.ts'
import { VERSION } from './version.ts'

/** What a conversion made: a report per target, and the files' bytes by path. */
export interface ConvertResult {
  readonly reports: readonly Report[]
  readonly files: ReadonlyMap<string, Uint8Array>
}

/** Between elements of one grid an interpolation is often exactly half a step off, and single precision decides which way it goes. */
const HALVES = 'interpolations end half-way between two steps, and runtimes round them by the order of their sums'
/** Share of outputs that may differ where float islands feed quantizers. */
const ISLAND_TOLERANCE = 0.02
/** The same for files that compute with real numbers throughout: at eight bits a few sums in ten thousand land a step off in every layer. */
const CARRIER_TOLERANCE = 0.1
/** Multiply–accumulates that the integer reference may take for the agreement check, and its most samples. */
const REFERENCE = { macs: 4e9, samples: 256 }

/**
 * Quantizes a trained network, writes it for each target, loads every written file again in its runtime, and measures clean and robust
 * accuracy before and after. `model` is a path or the bytes of an ONNX or TFLite file.
 * Throws CompileError: usage, unreadable, unsupported, accuracy, robustness, recheck, interrupted. When a gate fails, the files and the
 * report are there all the same; on every other error nothing is.
 */
export async function convert(model: string | Uint8Array, options: ConvertOptions): Promise<ConvertResult> {
  checkConvert(options)
  const folder = folderOf(options)
  if (folder !== null) probeFolder(folder)
  const staging = createStaging()
  const runtimes = createRuntimes(options)
  try {
    const result = await run(runtimes, model, options, staging)
    staging.commit()
    const failed = result.reports.flatMap((r) => failures(r))
    if (failed.length) throw Object.assign(failed[0]!, { result })
    return result
  } catch (e) {
    if (!options.signal?.aborted) throw e
    const checkpoint = staging.superseded().find((path) => existsSync(path)) ?? null
    throw errors.interrupted(
      'interrupted',
      checkpoint,
      checkpoint && 'the same command with --resume goes on from this checkpoint, if it is that run’s',
    )
  } finally {
    staging.rollback()
    await runtimes.close()
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

async function run(runtimes: Runtimes, path: string | Uint8Array, given: ConvertOptions, staging: Staging): Promise<ConvertResult> {
  const progress: Progress = (stage, done = 0, of = null, detail) => {
    given.signal?.throwIfAborted()
    given.onProgress?.(stage, done, of, detail)
  }
  progress('read')
  const engine = runtimes.engine
  const opened = openModel(path, given.shapes ? { shapes: given.shapes } : {})
  const o = forFormat(given, opened)
  const source = floatNetwork(opened)
  if (o.keepScales && !opened.quantized)
    throw errors.unsupportedModel('the model is not quantized: it has no scales to keep', opened.path, 'pass --bits to quantize it')
  const choices = chooseTargets(o, opened)
  const original = await loadOriginal(runtimes, opened)
  const teacher = o.teacher === undefined ? null : await openTeacher(runtimes, o.teacher, source, given)
  const { graph, batch } = await prepareModel(engine, opened, source, original, createRandom(o.seed ?? 0).fork('lift'))
  checkWeights(graph)
  const setting = createSetting(source, typeof batch === 'number' ? batch : null, o, true, inputRange(opened))
  const { all, attacked } = setting
  const notes: string[] = []
  if (setting.synthetic)
    notes.push(
      'no data was given: calibrated and measured on synthetic images; the numbers say how far the converted network follows the original, not how well it classifies',
    )
  if (setting.note) notes.push(setting.note)
  if (setting.rangeFrom) {
    const range = `a range that ${
      { declared: 'you declared', file: 'the file’s own input grid gives', guessed: 'is a guess (--input-range LO,HI declares it)' }[
        setting.rangeFrom
      ]
    }`
    notes.push(
      setting.feed.layout
        ? `images were drawn in ${range}`
        : `the inputs are no images: signals were drawn in ${range}; real inputs are structured otherwise, so calibrate with real ones before you ship`,
    )
  }

  progress('measure the original')
  const own = await ownAnswers(original, all)
  const labels = setting.objective === 'classify' ? (all.evaluation.labels ?? own.labels) : null
  const truth: Plan['truth'] = labels ? { labels } : { outputs: own.outputs }
  const plan: Plan = { engine, attacks: attackList(o), all, attacked, truth }
  const before = await measure({ model: original, gradients: graph }, plan, new Map(), notes)
  const reports: Report[] = []
  const files = new Map<string, Uint8Array>()
  for (const choice of choices) {
    const job: Job = {
      runtimes,
      opened,
      graph,
      teacher,
      setting,
      options: o,
      plan,
      before,
      notes: [...notes],
      staging,
      files,
      progress,
      choice,
    }
    const report = await (o.dequantize ? toFloat(job) : toIntegers(job))
    reports.push({ ...report, model: { ...report.model, batch } })
  }
  await original.release()
  return { reports, files }
}

type Progress = (stage: string, done?: number, of?: number | null, detail?: string) => void

/** The network of another file, to be followed in training. Throws CompileError where its inputs or outputs are of another shape. */
async function openTeacher(runtimes: Runtimes, path: string, student: Graph, o: ConvertOptions): Promise<NonNullable<Job['teacher']>> {
  const opened = openModel(path, o.shapes ? { shapes: o.shapes } : {})
  const source = floatNetwork(opened)
  const model = await loadOriginal(runtimes, opened)
  const { graph } = await prepareModel(runtimes.engine, opened, source, model, createRandom(o.seed ?? 0).fork('lift teacher'))
  await model.release()
  const shapes = (g: Graph): string => JSON.stringify([...g.inputs, ...g.outputs].map((v) => v.shape?.slice(1)))
  if (shapes(graph) !== shapes(student))
    throw errors.usage(`--teacher: its inputs and outputs ${shapes(graph)} are not the model's ${shapes(student)}`, path)
  return { graph, sha256: opened.sha256 }
}

/** Everything that one target's conversion needs. */
interface Job {
  readonly runtimes: Runtimes
  readonly opened: OpenedModel
  /** The prepared float network. */
  readonly graph: Graph<'float'>
  /** Another network to follow in training. */
  readonly teacher: { readonly graph: Graph<'float'>; readonly sha256: string } | null
  readonly setting: Setting
  readonly options: ConvertOptions
  readonly plan: Plan
  readonly before: Awaited<ReturnType<typeof measure>>
  readonly notes: string[]
  readonly staging: Staging
  readonly files: Map<string, Uint8Array>
  readonly progress: Progress
  readonly choice: Choice
}

/** The network at all levels as this target computes it, and how it was quantized (null where a file's own scales are kept). */
interface Quantization {
  readonly float: Graph<'float'>
  readonly qdq: Graph<'qdq'>
  readonly integer: Graph<'integer'>
  readonly plan: QuantPlan | null
  readonly equalized: boolean
  readonly finetuning: readonly FinetuneReport[]
}

/** The trainer of one target's conversion; null where nothing is trained, which automatic fine-tuning notes. */
async function trainerFor(job: Job, stem: string, frozen: (node: Node) => boolean): Promise<Trainer | null> {
  const { options: o, graph } = job
  if (!trains(o)) return null
  const folder = folderOf(o)
  const { training } = job.setting
  const fingerprint = sha256(
    new TextEncoder().encode(
      JSON.stringify([
        VERSION,
        job.opened.sha256,
        job.teacher?.sha256 ?? null,
        sha256(await dataFingerprint(job.setting)),
        training.count,
        training.labels ? sha256(new Uint8Array(Int32Array.from(training.labels).buffer)) : null,
        publicOptions(o),
        stem,
      ]),
    ),
  )
  const checkpoint = folder === null ? null : join(folder, `${stem}.checkpoint`)
  if (checkpoint) job.staging.supersede(checkpoint)
  try {
    return await createTrainer({
      runtimes: job.runtimes,
      setting: job.setting,
      options: o,
      original: graph,
      teacher: job.teacher?.graph ?? null,
      checkpoint,
      fingerprint,
      frozen,
      // An interruption is for the trainer to notice, which saves its state first.
      progress: (stage, done = 0, of = null, detail) => o.onProgress?.(stage, done, of, detail),
      notes: job.notes,
    })
  } catch (e) {
    if (typeof o.finetune === 'number' || o.dequantize || !isUnsupported(e)) throw e
    job.notes.push(`not fine-tuned: ${e.message}`)
    return null
  }
}

/** What to know, and to do, about operators that dqc does not know; null where there are none. */
function carriedNote(opened: OpenedModel, graph: Graph<'float'>): string | null {
  const types = [...new Set(graph.nodes.flatMap((n) => (n.op.name === 'foreign' ? [n.attrs.type as string] : [])))]
  if (types.length === 0) return null
  const [x] = graph.inputs
  const sizes = x?.shape?.slice(1)
  // Exporters compute sizes from an open batch, by ops that are constants once it is known.
  const remedy =
    opened.fixedBatch === null && x && sizes?.every((d) => typeof d === 'number')
      ? `; if they compute sizes, --shape ${x.name}=1,${sizes} settles them`
      : ''
  return `operators that dqc only carries, and what reads their results, stay in real numbers: ${types.slice(0, 6).join(', ')}${types.length > 6 ? ' …' : ''}${remedy}`
}

async function quantizeFor(job: Job, stem: string): Promise<Quantization> {
  const { runtimes, opened, graph, setting: s, options: o, progress, choice } = job
  const { target } = choice
  if (o.keepScales) {
    // Its batch is free where the float network's is.
    const real = opened.format === 'onnx' ? prepareQuantized(opened.real()) : opened.real()
    const qdq = typeof graph.inputs[0]!.shape![0] === 'string' ? (liftBatch(real) ?? real) : real
    return {
      float: graph,
      qdq,
      integer: target.legalize(lower(qdq, target.rules, choice.integerIO)),
      plan: null,
      equalized: false,
      finetuning: [],
    }
  }
  const bits = bitsFor(o)
  const frozen = selection(graph, o.freeze ?? [], '--freeze')
  const trainer = await trainerFor(job, stem, frozen)
  const canonical = trainer ? balance(meanScale(s), frozen) : null
  const finetuning: FinetuneReport[] = []
  const prepared = runPasses(target.prepare(graph), canonical ? [canonical] : [])
  // Robustness is learned in real numbers first: through a coarse quantizer alone, training learns to hide instead.
  const adversarial = trainer?.adversarial ? await trainer.run('float', prepared, null, () => false) : null
  if (adversarial) finetuning.push(adversarial.report)
  const ready = adversarial?.graph ?? prepared
  const count = s.calibration.count
  let seen = 0
  const network = await quantizeNetwork(runtimes.engine, ready, calibrationBatches(job, count), kept(calibrationBatches(job, s.tuning)), {
    spec: {
      weightBits: bits.weights,
      actBits: bits.activations,
      edgeBits: bits.edges,
      sumBits: SUM_BITS,
      observer: o.observer ?? 'mse',
      exclude: exclusion(ready, o.exclude ?? []),
      integerIO: choice.integerIO,
      scheme: choice.scheme,
    },
    // At eight bits equalization has nothing left to gain, and training gains more without.
    equalize: o.equalize ?? (isCoarse(o) && !trainer ? 'auto' : 'off'),
    biasCorrection: o.biasCorrection ?? true,
    rules: target.rules,
    canonical,
    onProgress: (step, n) => {
      seen = n === 0 ? 0 : seen + n
      progress(step, Math.min(seen, count), count)
    },
  })
  const carried = carriedNote(opened, ready)
  if (network.plan.integer.size === 0)
    throw errors.unsupportedTarget(
      'no layer of the network has an integer form',
      opened.path,
      carried ?? 'layers need constant weights; see `dqc inspect`',
    )
  if (carried && !job.notes.includes(carried)) job.notes.push(carried)
  if (!trainer) return { ...network, integer: target.legalize(network.integer), finetuning }
  const tuned = await trainer.run(
    'quantized',
    network.float,
    network.plan,
    (n) => target.rules.fixedGrid(n) !== null,
    choice.scheme.powerOfTwo,
  )
  finetuning.push(tuned.report)
  const qdq = insertQuantizers(tuned.graph, tuned.plan).graph
  const integer = target.legalize(lower(qdq, target.rules, choice.integerIO))
  return { float: tuned.graph, qdq, integer, plan: tuned.plan, equalized: network.equalized, finetuning }
}

/** What pixels are multiplied by on their way into the network, over all channels. */
const meanScale = (s: Setting): number => {
  const { data } = s.feed.preprocessing.scale
  return (data as Float32Array).reduce((m, v) => m + v, 0) / data.length
}

/** Values that only feed sums keep this many bits: no multiplier reads them. */
const SUM_BITS = 8

/** Quantizes (or keeps the integers of a quantized file), writes, re-reads and measures. */
async function toIntegers(job: Job): Promise<Report> {
  const { opened, setting: s, options: o, notes, choice, progress } = job
  const { target } = choice
  const bits = bitsFor(o)
  const stem = `${opened.name}.${target.name}.${o.keepScales ? 'kept' : `w${bits.weights}a${bits.activations}`}`
  const network = await quantizeFor(job, stem)
  progress('emit')
  const metadata = {
    ...(await provenance(job)),
    ...(choice.integerIO && choice.format === 'onnx' ? { 'dqc.io': JSON.stringify(ioGrids(network.integer)) } : {}),
  }
  const artifact = target.accepts === 'qdq' ? target.emit(network.qdq, stem, metadata) : target.emit(network.integer, stem, metadata)
  const refused = (artifact.mapping ?? []).filter((m) => m.place === 'cpu')
  if (refused.length && o.strict)
    throw errors.unsupportedTarget(
      refused.map((m) => `${m.op} ${m.name}: ${m.reason}${m.remedy ? ` (${m.remedy})` : ''}`).join('; '),
      target.name,
    )
  const { listed, emitted } = place(job, artifact.files)

  progress('check the emitted file')
  const model = await loadWritten(() =>
    job.runtimes.loadEmitted(
      choice.format,
      artifact.files.map((f, i) => (i === 0 ? { ...f, bytes: emitted } : f)),
      network.integer,
      artifact.channelsLast,
      target.accepts,
    ),
  )
  if (model.instead) notes.push(`${model.instead}: the integer reference was measured in place of the emitted file`)
  const sampled = async function* (): AsyncIterable<readonly Tensor[]> {
    for (const [from, to] of checkedBatches(network.integer, s, Math.floor(REFERENCE.macs / Math.max(1, s.macs))))
      yield [onGrid(preprocess(await s.feed.pixels(from, to), s.feed.preprocessing), network.integer)]
  }
  const inexact = [...target.inexact(network.integer), ...(network.integer.nodes.some((n) => n.op === interpolate) ? [HALVES] : [])]
  let agreement: Agreement
  let after: Job['before']
  try {
    agreement = await agree(network.integer, model.steps, sampled())
    checkAgreement(agreement, network.integer, inexact, stem, notes, choice)
    progress('measure the emitted file')
    after = await measure({ model: model.real, gradients: network.qdq }, job.plan, job.before.found, notes)
  } finally {
    await model.release()
  }

  const examples = target.examples ? await exampleFiles(job, stem, target.examples, network.integer) : []
  progress('count the levels in use')
  const uses = await activationUse(job.runtimes.engine, network.qdq, calibrationBatches(job, LEVEL_SAMPLES))
  const warning = degenerateNote(uses)
  if (warning) notes.push(warning)
  const plan = network.plan
  const grid = plan ? { weights: bits.weights, activations: bits.activations } : keptBits(network.integer)
  const { attacks } = job.plan
  if (Math.min(grid.weights, grid.activations) < 8 && attacks.length && attacks.every((a) => !a.gradientFree && a.norm === 'linf'))
    notes.push('gradients through coarse quantizers miss what queries to the file find: --attack pgd,square tries both')
  return finish(job, stem, {
    format: choice.form,
    after: after.measurement,
    artifact: {
      files: [...listed, ...place(job, examples).listed],
      runtime: model.runtime,
      compared: agreement.compared,
      mismatches: agreement.mismatches,
      maxErrorSteps: agreement.maxErrorSteps,
      skipped: model.instead ?? agreement.skipped,
      inexact,
      mapping: artifact.mapping,
      memory: artifact.memory ? { ...artifact.memory, flash: model.flash } : null,
    },
    bits: {
      weights: { grid: grid.weights, storage: artifact.storage.weights, edges: plan ? bits.edges : grid.weights },
      activations: {
        grid: grid.activations,
        storage: artifact.storage.activations,
        edges: plan ? bits.edges : grid.activations,
        sums: plan ? SUM_BITS : grid.activations,
      },
    },
    layers: plan ? await layerReports(job, network.float, plan, after.found) : [],
    cost: countCost(network.integer),
    activations: uses,
    finetuning: network.finetuning,
    floatNodes: plan ? floatNodes(network.float, plan, exclusion(network.float, o.exclude ?? []), target.rules) : [],
    equalized: network.equalized,
  })
}

/** Batches of evaluation samples for a comparison, about as many samples as asked for: whole ones where the network takes no other, and at least one. */
function checkedBatches(graph: Graph, s: Setting, wanted: number): [number, number][] {
  const first = graph.inputs[0]!.shape![0]
  const fixed = typeof first === 'number' ? first : null
  const end = Math.min(s.all.evaluation.samples, Math.max(Math.min(wanted, REFERENCE.samples), fixed ?? 1))
  return batchesOf(end, fixed ?? 16).filter(([from, to]) => fixed === null || to - from === fixed)
}

/** What the network makes of the first evaluation sample, for tools whose flows check themselves with it. */
async function exampleFiles(
  job: Job,
  stem: string,
  files: NonNullable<Job['choice']['target']['examples']>,
  integer: Graph<'integer'>,
): Promise<readonly ArtifactFile[]> {
  const { feed } = job.setting
  const x = preprocess(await feed.pixels(0, 1), feed.preprocessing)
  return files(stem, x, evaluate(integer, [x])[0]!)
}

/** Samples on which the use of levels is counted. */
const LEVEL_SAMPLES = 256

/** The first n calibration samples, as far as there are so many. */
const calibrationBatches = ({ setting: s, graph }: Job, n: number): Batches =>
  async function* () {
    const end = Math.min(n, s.calibration.count)
    // A fixed batch takes no remainder: it is filled up with the first samples again.
    const fixed = typeof graph.inputs[0]!.shape![0] === 'number'
    for (let from = 0; from < end; from += s.batch) {
      const length = fixed ? s.batch : Math.min(end - from, s.batch)
      const indices = Array.from({ length }, (_, i) => (from + i) % end)
      yield [preprocess(await s.calibrationFeed.items(indices), s.calibrationFeed.preprocessing)]
    }
  }

/** Networks up to this size have their layers' operators measured. */
const OPERATOR_MACS = 2e10

/** Layers with the spectral norm of their true operators, and what an attack does to their outputs: as they were and as they ship. */
async function layerReports(job: Job, float: Graph<'float'>, plan: QuantPlan, found: Job['before']['found']): Promise<LayerReport[]> {
  const { runtimes, setting: s, choice } = job
  const layers = describeLayers(float, plan)
  if (s.macs > OPERATOR_MACS) return layers
  const original = choice.target.prepare(job.graph)
  const shipped = insertQuantizers(float, plan)
  try {
    const { scale } = s.feed.preprocessing
    const norms = {
      before: await operatorNorms(runtimes.engine, original, scale, null),
      after: await operatorNorms(runtimes.engine, float, scale, plan),
    }
    const changes = {
      before: await layerPerturbations(job, original, (name) => valueNamed(original, name), layers, job.before.found),
      after: await layerPerturbations(job, shipped.graph, (name) => shipped.real.get(name) ?? null, layers, found),
    }
    const sides = (
      maps: { before: ReadonlyMap<string, number>; after: ReadonlyMap<string, number> },
      name: string,
    ): LayerReport['operatorNorm'] => ({
      before: maps.before.get(name) ?? null,
      after: maps.after.get(name) ?? null,
    })
    return layers.map((l) => ({ ...l, operatorNorm: sides(norms, l.name), perturbation: sides(changes, l.name) }))
  } catch (e) {
    if (!isUnsupported(e)) throw e
    return layers
  }
}

const valueNamed = (graph: Graph, name: string): Value | null => graph.nodes.flatMap((n) => n.outputs).find((v) => v.name === name) ?? null

/** What the first gradient attack does to the outputs of layers, by name. */
async function layerPerturbations(
  job: Job,
  graph: Graph,
  find: (name: string) => Value | null,
  layers: readonly LayerReport[],
  found: Job['before']['found'],
): Promise<ReadonlyMap<string, number>> {
  const adversaries = [...found].find(([a]) => !a.gradientFree)?.[1]
  const values = layers.flatMap((l) => {
    const value = find(l.name)
    return value ? [[l.name, value] as const] : []
  })
  if (!adversaries || values.length === 0) return new Map()
  const changes = await perturbations(
    job.runtimes.engine,
    graph,
    values.map(([, v]) => v),
    adversaries,
    job.plan.attacked,
  )
  return new Map(values.map(([name], i) => [name, changes[i]!]))
}

/** Writes the network in real numbers: nothing is quantized. */
async function toFloat(job: Job): Promise<Report> {
  const { runtimes, opened, setting: s, options: o, choice, progress } = job
  const { writeFloat, format } = choice
  if (!writeFloat || format === 'c') throw errors.usage(`--dequantize: the target ${choice.target.name} has no real numbers`)
  const half = choice.weightStorage === 16
  const stem = `${opened.name}.${choice.target.name}.${trains(o) ? 'finetuned' : half ? 'float16' : 'float'}`
  const frozen = selection(job.graph, o.freeze ?? [], '--freeze')
  const trainer = await trainerFor(job, stem, frozen)
  const start = o.reinit ? await freshWeights(job, frozen) : trainer ? runPasses(job.graph, [balance(meanScale(s), frozen)]) : job.graph
  const tuned = trainer ? await trainer.run('float', start, null, () => false) : null
  const graph = tuned?.graph ?? job.graph
  progress('emit')
  const { bytes, channelsLast } = writeFloat(graph, await provenance(job))
  const { listed, emitted } = place(job, [{ path: `${stem}.${format}`, bytes }])
  progress('check the emitted file')
  const written = await loadWritten(() => runtimes.loadFloat(emitted, channelsLast))
  const reference = await runtimes.engine.load(graph)
  let compared = 0
  let mismatches = 0
  let worst = 0
  for (const [from, to] of checkedBatches(graph, s, REFERENCE.samples)) {
    const x = [preprocess(await s.feed.pixels(from, to), s.feed.preprocessing)]
    const [have, want] = [await written(x), await reference(x)]
    want.forEach((t, k) => {
      const [p, q] = [numbersOf(have[k]!), numbersOf(t)]
      const top = (q as Float32Array).reduce((m, v) => Math.max(m, Math.abs(v)), 1e-6)
      for (let i = 0; i < q.length; i++) {
        const d = Math.abs(p[i]! - q[i]!) / top
        compared++
        if (!(d <= FLOAT_TOLERANCE)) mismatches++
        worst = Math.max(worst, d)
      }
    })
  }
  await reference.release()
  if (mismatches > 0 && !half)
    throw errors.recheckFailed(
      `${mismatches} of ${compared} outputs differ from the network, by up to ${worst.toPrecision(3)} of the largest`,
      stem,
    )
  if (half) job.notes.push(`weights in half precision move outputs by up to ${worst.toPrecision(2)} of the largest`)
  progress('measure the emitted file')
  const after = await measure({ model: written, gradients: graph }, job.plan, job.before.found, job.notes)
  await written.release()
  const storage = { weights: choice.weightStorage, activations: 32 }
  return finish(job, stem, {
    format: half ? 'float16' : 'float32',
    after: after.measurement,
    artifact: {
      files: listed,
      runtime: RUNTIME[format],
      compared,
      mismatches,
      maxErrorSteps: 0,
      skipped: compared === 0 ? NOTHING_COMPARED : null,
      inexact: [],
      mapping: null,
      memory: null,
    },
    bits: {
      weights: { grid: storage.weights, storage: storage.weights, edges: storage.weights },
      activations: { grid: 32, storage: 32, edges: 32, sums: 32 },
    },
    layers: tuned ? await layerReports(job, graph, floatPlan, after.found) : [],
    cost: null,
    activations: [],
    finetuning: tuned ? [tuned.report] : [],
    floatNodes: [],
    equalized: false,
  })
}

/** Samples on which random weights are brought to size. */
const SIZING_SAMPLES = 64

async function freshWeights({ runtimes, graph, setting: s }: Job, frozen: (node: Node) => boolean): Promise<Graph<'float'>> {
  const n = typeof graph.inputs[0]!.shape![0] === 'number' ? graph.inputs[0]!.shape![0] : Math.min(SIZING_SAMPLES, s.calibration.count)
  const x = preprocess(await s.calibrationFeed.pixels(0, n), s.calibrationFeed.preprocessing)
  return normalizeLayers(runtimes.engine, initializeWeights(graph, s.random.fork('weights'), frozen), [x], frozen)
}

/** Runtimes add in different orders. */
const FLOAT_TOLERANCE = 1e-4

/** What a report says beyond what every conversion has in common. */
type Outcome = Pick<
  Report,
  'format' | 'after' | 'artifact' | 'bits' | 'layers' | 'cost' | 'activations' | 'finetuning' | 'floatNodes' | 'equalized'
>

function finish(job: Job, stem: string, outcome: Outcome): Report {
  const { opened, setting: s, options: o, before, choice, staging } = job
  const report: Report = {
    schema: REPORT_SCHEMA,
    version: VERSION,
    model: { path: opened.path, sha256: opened.sha256, format: opened.format, batch: 'symbolic', macs: s.macs },
    target: choice.target.name,
    metric: s.objective === 'classify' ? 'accuracy' : 'relativeError',
    before: before.measurement,
    data: {
      source: s.evaluation.description,
      samples: s.all.evaluation.samples,
      labels: s.objective !== 'classify' ? 'none' : s.all.evaluation.labels ? 'data' : 'model',
      calibration: { source: s.calibration.description, samples: o.bits === undefined ? 0 : s.calibration.count },
      synthetic: s.synthetic,
    },
    seed: o.seed ?? 0,
    options: publicOptions(o),
    gates: gatesOf(o, before.measurement, outcome.after, s.objective === 'classify'),
    notes: job.notes,
    ...outcome,
  }
  const folder = folderOf(o)
  if (folder !== null) staging.stage(join(folder, `${stem}.report.json`), `${JSON.stringify(report, null, 2)}\n`)
  return report
}

const folderOf = (o: ConvertOptions): string | null => (o.out === null ? null : (o.out ?? '.'))

/** Stages the files; returns what the report says of them, and the first one's bytes as they lie on the disk. */
function place(job: Job, written: readonly ArtifactFile[]): { listed: Report['artifact']['files']; emitted: Uint8Array } {
  const folder = folderOf(job.options)
  let emitted = written[0]?.bytes ?? new Uint8Array()
  const listed = written.map((f, i) => {
    const path = folder === null ? f.path : join(folder, f.path)
    job.files.set(path, f.bytes)
    if (folder !== null) {
      const temporary = job.staging.stage(path, f.bytes)
      // What is checked is what lies on the disk.
      if (i === 0) emitted = readBytes(temporary)
    }
    return { path, bytes: f.bytes.length, sha256: sha256(f.bytes) }
  })
  return { listed, emitted }
}

/** Metadata that says where a file came from. */
async function provenance({ opened, options: o, setting }: Job): Promise<Record<string, string>> {
  return {
    'dqc.version': VERSION,
    'dqc.options': JSON.stringify(publicOptions(o)),
    'dqc.seed': String(o.seed ?? 0),
    'dqc.model.sha256': opened.sha256,
    'dqc.data.sha256': sha256(await dataFingerprint(setting)),
  }
}

/**
 * Notes how far the file is from the reference. Float islands round differently in every runtime, and a value near a rounding border then
 * lands on the next step; kernels that round in a way of their own may be one step off. Throws CompileError where it is more than that.
 */
function checkAgreement(
  a: Agreement,
  g: Graph<'integer'>,
  inexact: readonly string[],
  stem: string,
  notes: string[],
  choice: Choice,
): void {
  if (a.mismatches === 0) return
  const islands = feedsIslands(g)
  const what = `${a.mismatches} of ${a.compared} output elements differ from the integer reference, by up to ${a.maxErrorSteps.toPrecision(3)} steps`
  if (islands) notes.push(`float islands inside the network: ${what}`)
  if (inexact.length) notes.push(`${inexact.join('; ')}: ${what}`)
  // Steps are counted in single precision.
  const withinStep = inexact.length > 0 && a.maxErrorSteps < 1.001
  const share = choice.target.accepts === 'qdq' ? CARRIER_TOLERANCE : islands || inexact.length ? ISLAND_TOLERANCE : 0
  if (!withinStep && a.mismatches > share * a.compared) throw errors.recheckFailed(what, stem)
}

/** Bits of the finest grids among a network's layers and activations. */
function keptBits(g: Graph<'integer'>): { weights: number; activations: number } {
  const grids = (weights: boolean): number =>
    g.nodes.reduce((m, n) => {
      const isLayer = n.op === intConv || n.op === intDense
      const q = isLayer ? (weights ? n.inputs[1]?.quant : n.outputs[0]?.quant) : null
      return q ? Math.max(m, Math.min(16, gridBits(q))) : m
    }, 2)
  return { weights: grids(true), activations: grids(false) }
}

/** Whether real numbers computed inside the network are quantized again. */
const feedsIslands = (g: Graph<'integer'>): boolean => g.nodes.some((n) => n.op === quantize && !g.inputs.includes(n.inputs[0]!))

/** Options that shape the result: no callbacks, no folders. */
function publicOptions(o: ConvertOptions): Record<string, unknown> {
  const { onProgress: _p, signal: _s, out: _o, threads: _t, data: _d, evalData: _e, resume: _r, ...rest } = o
  return Object.fromEntries(Object.entries(rest).filter(([, v]) => v !== undefined))
}

/** The first calibration items stand for the data: hashing all of a large image folder would take longer than converting. */
async function dataFingerprint(s: Setting): Promise<Uint8Array> {
  const x = await s.calibrationFeed.pixels(0, Math.min(16, s.calibration.count))
  return new Uint8Array((x.data as Float32Array).buffer)
}

const exclusion = (graph: Graph<'float'>, wanted: readonly string[]): ((node: Node) => boolean) => selection(graph, wanted, '--exclude')

/** The nodes that a flag names. Throws CompileError for names that match none. */
function selection(graph: Graph<'float'>, wanted: readonly string[], flag: string): (node: Node) => boolean {
  const unknown = wanted.filter((w) => !graph.nodes.some((n) => matches(n, w)))
  if (unknown.length)
    throw errors.usage(
      `${flag} ${unknown.join(', ')} matches no node`,
      null,
      'names, output names and op types are listed by `dqc inspect`',
    )
  return (n) => wanted.some((w) => matches(n, w))
}
const matches = (n: Node, w: string): boolean =>
  n.name === w || n.outputs.some((v) => v.name === w) || n.op.name.toLowerCase() === w.toLowerCase() || n.attrs?.type === w

/** A file that dqc wrote and its runtime refuses is a failed re-check. */
async function loadWritten<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (e) {
    throw e instanceof CompileError ? errors.recheckFailed(`the emitted file does not load: ${e.what}`) : e
  }
}

// ── integer inputs and outputs ───────────────────────────────────────────────────────────────────────────────────

const ioGrids = (g: Graph<'integer'>): unknown => ({
  inputs: g.inputs.map((v) => (v.quant ? { name: v.name, scale: v.quant.scale[0], zeroPoint: containerZero(v.quant) } : { name: v.name })),
  outputs: g.outputs.map((v, i) =>
    v.quant ? { name: g.outputNames[i], scale: v.quant.scale[0], zeroPoint: containerZero(v.quant) } : { name: g.outputNames[i] },
  ),
})

function floatNodes(graph: Graph<'float'>, plan: QuantPlan, excluded: (node: Node) => boolean, rules: KernelRules): Report['floatNodes'] {
  return graph.nodes
    .filter((node) => !plan.integer.has(node.outputs[0]?.name ?? ''))
    .map((node) => ({
      name: node.name || (node.outputs[0]?.name ?? ''),
      op: node.op.name === 'foreign' ? node.attrs.type : node.op.name,
      reason:
        node.op.name === 'foreign'
          ? node.attrs.reason
          : excluded(node)
            ? 'excluded'
            : rules.lowering(node) === null
              ? 'no integer kernel'
              : 'fewer conversions',
    }))
}

function gatesOf(o: ConvertOptions, before: Measurement, after: Measurement, accuracy: boolean): Report['gates'] {
  const sign = accuracy ? 1 : -1
  const gate = (limit: number | undefined, value: number): Gate | null =>
    limit === undefined ? null : { limit, value, passed: value <= limit + 1e-12 }
  const outcomes = (m: Measurement): { name: string; epsilon: number; norm: string; robust: number }[] => [
    ...m.attacks,
    ...m.worst.map((w) => ({ name: 'worst', ...w })),
  ]
  const drops = outcomes(before).flatMap((a) => {
    const b = outcomes(after).find((x) => x.name === a.name && x.epsilon === a.epsilon && x.norm === a.norm)
    return b ? [sign * (a.robust - b.robust)] : []
  })
  if (o.maxRobustDrop !== undefined && drops.length === 0)
    throw errors.unsupportedModel('no gradient attack is possible, so --max-robust-drop cannot be checked')
  return {
    maxDrop: gate(o.maxDrop, sign * (before.clean - after.clean)),
    maxRobustDrop: drops.length ? gate(o.maxRobustDrop, Math.max(...drops)) : null,
  }
}
