import { correctionPasses, countMacs, createRandom, errors, type Graph, type MeasureContext, type Objective, type Random } from '@dqc/core'
import { createFeed, drawn, evaluationOf, type Feed, itemShape, layoutOf, splitSources, syntheticSource } from './data/feed.ts'
import { openData } from './data/open.ts'
import { type Source, subset } from './data/source.ts'
import type { CommonOptions } from './options.ts'
import { firstOf } from './robustness.ts'

/** Multiply–accumulates that a default evaluation, a default attack, and the choices made on calibration data may take. Flags override them. */
const BUDGET = { clean: 4e11, attack: 4e11, calibration: 1e11, tuning: 4e11 }
/** Activations that default calibration looks at. */
const OBSERVED = 1e9
/** Values of synthetic images that are drawn by default: they cost more to make than to look at. */
const DRAWN = { values: 1.5e7, most: 256, least: 16 }
/** Samples on which equalization and bias correction are decided, at most and at least. */
const TUNING = { most: 256, least: 4 }
/** A backward pass costs about twice a forward pass. */
const STEP = 3
/** Synthetic images that training draws from, and those its checkpoints are judged on. */
const SYNTHETIC = { training: 24576, validation: 256 }
/** Share of the training data that is held out for validation, and its most samples. Fewer than these are not split. */
const HELD_OUT = { share: 0.06, most: 512, least: 64 }
/** Bytes that one training step may hold: each activation about eight times over, forward, backward and between. */
const TRAINING_BYTES = 3e9
const TRAINING_COPIES = 8
const FEWEST = { clean: 16, attack: 2, calibration: 16 }
/** Largest batch of input values, so that wide activations of large images fit in memory. */
const BATCH_VALUES = 2 ** 20

/** Data, its way into the model, and the measuring contexts. */
export interface Setting {
  readonly feed: Feed
  readonly calibrationFeed: Feed
  readonly calibration: Source
  readonly evaluation: Source
  readonly synthetic: boolean
  /** What there is to say of the data. */
  readonly note: string | null
  /** Where the range of synthetic inputs is from; null where there is data, and for images that are drawn as bytes. */
  readonly rangeFrom: 'declared' | 'file' | 'guessed' | null
  readonly objective: Objective
  readonly all: MeasureContext
  readonly attacked: MeasureContext
  readonly batch: number
  readonly random: Random
  readonly macs: number
  /** Calibration samples that choices are measured on. */
  readonly tuning: number
  /** What fine-tuning learns from, and the held-out part that its checkpoints are judged on. */
  readonly training: Source
  readonly validation: Source
  /** Largest training batch whose activations fit in memory. */
  readonly trainingBatch: number
}

const affordable = (budget: number, cost: number, most: number, least: number): number =>
  Math.max(least, Math.min(most, Math.floor(budget / Math.max(1, cost))))

/** Elements of all values a network computes for one sample. */
const activationsOf = (graph: Graph): number =>
  graph.nodes.reduce(
    (n, node) =>
      n + node.outputs.reduce((m, v) => m + (v.shape ?? []).slice(1).reduce<number>((p, d) => p * (typeof d === 'number' ? d : 1), 1), 0),
    0,
  )

/** Opens the data (or makes some), decides how much of it is used, and what the network is for. `fixedBatch` is a batch that could not be lifted. */
export function createSetting(
  graph: Graph,
  fixedBatch: number | null,
  o: CommonOptions & { calibSamples?: number },
  calibrates: boolean,
  inferredRange: readonly [number, number] | null = null,
): Setting {
  const seed = o.seed ?? 0
  const random = createRandom(seed)
  const macs = countMacs(graph)
  if (graph.inputs.length !== 1)
    throw errors.unsupportedModel(`the network has ${graph.inputs.length} inputs`, null, 'dqc feeds networks with one input')
  const calibCount =
    o.calibSamples ??
    Math.min(
      affordable(BUDGET.calibration, macs, 512, FEWEST.calibration),
      affordable(OBSERVED, activationsOf(graph), 512, FEWEST.calibration),
    )
  const made = (values: number): number => (o.data ? Number.POSITIVE_INFINITY : affordable(DRAWN.values, values, DRAWN.most, DRAWN.least))
  const cleanCount = o.samples ?? affordable(BUDGET.clean, macs, 1000, FEWEST.clean)
  const split = o.data ? splitSources(openData(o.data), o.evalData ? openData(o.evalData) : null, calibrates, random) : null
  const shape = itemShape(graph, split?.evaluation ?? null, o)
  const layout = layoutOf(shape, o.layout)
  const values = shape.reduce((p, d) => p * d, 1)
  // Preprocessing says how bytes become inputs; without, a quantized file's own grid does.
  const preprocessed = layout !== null && [o.scale, o.mean, o.std].some((v) => v !== undefined)
  if (o.inputRange && o.data) throw errors.usage('--input-range is for runs without --data')
  if (o.inputRange && preprocessed) throw errors.usage('--input-range and --scale, --mean or --std exclude one another')
  const range = preprocessed ? null : (o.inputRange ?? inferredRange)
  const calibrated = o.calibSamples ?? Math.min(calibCount, made(values))
  const evaluated = o.samples ?? Math.min(cleanCount, made(values))
  const calibration = split
    ? drawn(split.calibration, calibrated, seed)
    : syntheticSource(shape, layout, calibrated, random.fork('calibration'), range)
  const evaluation = split ? split.evaluation : syntheticSource(shape, layout, evaluated, random.fork('evaluation'), range)
  const feed = createFeed(graph, evaluation, o)
  const batch = fixedBatch ?? Math.max(1, Math.min(o.batch ?? 64, Math.floor(BATCH_VALUES / values)))
  const objective = objectiveOf(graph, o, split !== null && evaluation.labels !== null)
  const common = {
    preprocessing: feed.preprocessing,
    objective,
    batch,
    channelsLast: layout === 'nhwc',
    seed,
    ...(o.signal ? { signal: o.signal } : {}),
  }
  const all = { ...common, evaluation: evaluationOf(evaluation, feed, evaluated) }
  const attackCount =
    o.attackSamples ?? (o.samples ? evaluated : affordable(BUDGET.attack, macs * STEP * (o.steps ?? 20), evaluated, FEWEST.attack))
  const attacked = {
    ...common,
    evaluation: firstOf(all.evaluation, attackCount),
    onProgress: (done: number, of: number) => o.onProgress?.('attack', done, of),
  }
  const layers = graph.nodes.filter((n) => n.op.weights !== null).length
  const tuning = Math.min(calibrated, affordable(BUDGET.tuning, 2 * macs * correctionPasses(layers), TUNING.most, TUNING.least))
  if (objective === 'classify')
    for (const source of split ? [split.calibration, split.evaluation] : []) {
      if (source.otherLabels) throw source.otherLabels
      if (source.labels) checkLabels(source.labels, graph, source.description)
    }
  const pool = split ? held(split.calibration, random) : null
  const drawnFor = (purpose: 'training' | 'validation'): Source =>
    syntheticSource(
      shape,
      layout,
      Math.min(SYNTHETIC[purpose], Math.max(FEWEST.calibration, Math.floor((20 * DRAWN.values) / values))),
      random.fork(purpose),
      range,
    )
  return {
    training: pool?.training ?? drawnFor('training'),
    validation: pool?.validation ?? drawnFor('validation'),
    trainingBatch:
      fixedBatch ?? Math.max(1, Math.min(o.batch ?? 64, Math.floor(TRAINING_BYTES / (4 * TRAINING_COPIES * activationsOf(graph))))),
    feed,
    calibrationFeed: createFeed(graph, calibration, o),
    calibration,
    evaluation,
    synthetic: split === null,
    note: split?.note ?? null,
    rangeFrom: split !== null ? null : range ? (o.inputRange ? 'declared' : 'file') : layout === null ? 'guessed' : null,
    objective,
    all,
    attacked,
    batch,
    random,
    macs,
    tuning,
  }
}

/** Splits what may be learned from; too few samples serve for both. */
function held(source: Source, random: Random): { training: Source; validation: Source } {
  const n = Math.min(HELD_OUT.most, Math.floor(source.count * HELD_OUT.share))
  if (n < HELD_OUT.least) return { training: source, validation: source }
  const order = random.fork('validation').permutation(source.count)
  return { training: subset(source, order.slice(n), 'training part'), validation: subset(source, order.slice(0, n), 'validation part') }
}

/** A classifier's output is one score per class; one as large as the input, or of more axes, is something else. */
function objectiveOf(graph: Graph, o: CommonOptions, labelled: boolean): Objective {
  if (o.task === 'classify') return 'classify'
  if (o.task === 'regress') return 'deviate'
  const out = graph.outputs[0]!.shape
  const input = graph.inputs[0]!.shape
  if (!out || out.length < 2 || typeof out[1] !== 'number' || out[1] < 2 || out.slice(2).some((d) => d !== 1)) return 'deviate'
  return labelled || out[1] !== input?.[1] || out.length !== input?.length ? 'classify' : 'deviate'
}

function checkLabels(labels: Int32Array, graph: Graph, where: string): void {
  const classes = graph.outputs[0]!.shape?.[1]
  const bad = labels.findIndex((l) => l < 0 || (typeof classes === 'number' && l >= classes))
  if (bad >= 0)
    throw errors.badData(
      `label ${labels[bad]} of item ${bad} is outside the network's ${classes} classes`,
      where,
      'the data set belongs to another model',
    )
}
