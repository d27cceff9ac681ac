import {
  type ActivationUse,
  type Adversary,
  type Augmentation,
  answers,
  attackStep,
  augment,
  CompileError,
  checkTrainable,
  createRandom,
  type Evaluation,
  errors,
  type Finetuned,
  finetuneNetwork,
  type Graph,
  type LearningPoint,
  type Node,
  noAugmentation,
  type QuantPlan,
  type ScaleBounds,
  scoringGraph,
  type TrainingState,
  tensorOf,
} from '@dqc/core'
import { type Checkpoint, readCheckpoint, writeCheckpoint } from './checkpoint.ts'
import { createFeed, type Feed } from './data/feed.ts'
import { type ConvertOptions, type Effort, isCoarse } from './options.ts'
import type { Runtimes } from './runtimes.ts'
import type { Setting } from './setting.ts'

/** Steps of each stage, and the multiply–accumulates they may take: larger networks get fewer. */
const EFFORT: Record<Effort, { readonly steps: number; readonly macs: number }> = {
  fast: { steps: 300, macs: 4e12 },
  default: { steps: 720, macs: 1e13 },
  max: { steps: 4000, macs: 6e13 },
}
/** Forward, backward in the activations, backward in the weights. */
const PASSES = 3
const FEWEST_STEPS = 40
/** Batches smaller than this teach nothing: automatic fine-tuning leaves such networks alone. */
const SMALLEST_BATCH = 4

/** Hyper-parameters chosen on held-out training images of CIFAR-10 with a ResNet-8; the rate without data, on test images behind the first 1,000. */
const RECIPE = {
  /** On eight bits there is little to learn and something to lose. */
  fineRate: 0.002,
  warmup: 20,
  temperature: 4,
  teacherWeight: 1,
  beta: 0.001,
  /** Images that only resemble real ones are learned from in smaller steps, and teach less than the penalty takes. */
  rateWithoutData: 0.006,
  betaWithoutData: 0,
  epsilon: 0.75 / 255,
  averaging: 0.98,
}
/** What depends on how much is asked for. `kept` is the share of β left for the quantized network where the float one was trained before: it only has to keep what was gained. */
interface Pace {
  readonly rate: { readonly float: number; readonly quantized: number }
  readonly labelWeight: number
  readonly kept: number
}
/** The default's small radius is learned as well in smaller steps, which take less of the clean accuracy. */
const GENTLE: Pace = { rate: { float: 0.005, quantized: 0.008 }, labelWeight: 0.5, kept: 0.4 }
const FIRM: Pace = { rate: { float: 0.01, quantized: 0.01 }, labelWeight: 0.25, kept: 0.15 }
/** Share of `--robust`'s radius that is left for the quantized network, which is coarser and starts from a robust one. */
const QUANTIZED_RADIUS = 0.5
/** Adversaries: half of each batch stays clean, ε grows over a quarter of the steps. */
const ADVERSARY = { share: 0.5, ramp: 0.25 }
/** Activation scales of adversarially trained networks may move by so much: free ones grow until few levels are left, and gradients with them. */
const ROBUST_BOUNDS: ScaleBounds = [1 / 2, 1]
/** Validations in one run, and what they use. Three are the fewest that tell a collapse, which is two low scores in a row after a better one. */
const VALIDATION = { times: 3, epsilon: 1 / 255, steps: 5, square: { samples: 128, queries: 100 } }
/** Milliseconds between checkpoints, beside those at validations. */
const CHECKPOINT_EVERY = 20_000

/** What the report says of one training run. */
export interface FinetuneReport {
  readonly stage: 'float' | 'quantized'
  readonly steps: number
  readonly batch: number
  readonly loss: string
  readonly penalty: { readonly form: string; readonly beta: number; readonly convexSums: boolean } | null
  readonly adversary: { readonly epsilon: number; readonly steps: number } | null
  readonly augmentation: Augmentation
  readonly training: { readonly source: string; readonly samples: number; readonly labelled: boolean }
  readonly validation: { readonly source: string; readonly samples: number }
  /** The step whose parameters were kept. */
  readonly best: number
  readonly curve: readonly LearningPoint[]
  /** Why it ended early; null otherwise. */
  readonly diverged: string | null
}

/** Trains networks for one conversion, with checkpoints. */
export interface Trainer {
  /** Whether there are adversaries, against which layers are trained in real numbers before they are quantized. */
  readonly adversarial: boolean
  /** Trains a float network, or with a plan the quantized one. A network that was trained before is what the next stage follows. */
  run(
    stage: 'float' | 'quantized',
    graph: Graph<'float'>,
    plan: QuantPlan | null,
    fixedGrid: (n: Node) => boolean,
    powerOfTwo?: boolean,
  ): Promise<Finetuned & { report: FinetuneReport }>
}

export interface TrainerContext {
  readonly runtimes: Runtimes
  readonly setting: Setting
  readonly options: ConvertOptions
  /** The prepared float network: what is followed, unless another teacher is. */
  readonly original: Graph<'float'>
  readonly teacher: Graph<'float'> | null
  /** Where checkpoints lie; null keeps none. */
  readonly checkpoint: string | null
  readonly fingerprint: string
  readonly frozen: (n: Node) => boolean
  readonly progress: (stage: string, done?: number, of?: number | null, detail?: string) => void
  readonly notes: string[]
}

/** Steps of each stage. */
function stepsFor(o: ConvertOptions, { macs, trainingBatch }: Setting): number {
  if (typeof o.finetune === 'number') return o.finetune
  const e = EFFORT[o.effort ?? 'default']
  return Math.max(FEWEST_STEPS, Math.min(e.steps, Math.floor(e.macs / (PASSES * Math.max(1, macs) * trainingBatch))))
}

/** Reads the data, decides the details, and picks up a checkpoint. Throws CompileError for a checkpoint of another run. */
export async function createTrainer(c: TrainerContext): Promise<Trainer> {
  const { runtimes, setting: s, options: o } = c
  const engine = runtimes.engine
  const batch = s.trainingBatch
  if (batch < SMALLEST_BATCH && typeof o.finetune !== 'number')
    throw errors.unsupportedModel(`training takes batches of ${batch}`, null, 'a fixed batch, or activations too large for memory')
  const smallest = Math.min(s.training.count, s.validation.count)
  if (typeof c.original.inputs[0]!.shape![0] === 'number' && smallest < batch)
    throw errors.unsupportedModel(
      `training takes batches of ${batch}, and there are ${smallest} samples to train or validate on`,
      null,
      'more data, or a model with an open batch',
    )
  // Quantizers still learn their scales where all layers stay as they are.
  const still = c.original.nodes.every((n) => n.op.weights === null || c.frozen(n))
  if (still && o.dequantize) throw errors.usage('no layer is left to train', null, 'see --freeze, and `dqc inspect` for the layers')
  const feed = createFeed(c.original, s.training, o)
  const validationFeed = createFeed(c.original, s.validation, o)
  const validation: Evaluation = {
    samples: s.validation.count,
    labels: s.validation.labels,
    pixels: (from, to) => validationFeed.pixels(from, to),
  }
  const channelsLast = feed.layout === 'nhwc'
  const labelled = s.objective === 'classify' && s.training.labels !== null
  const loss = o.loss ?? (o.reinit && !c.teacher ? 'ce' : labelled ? 'ce+kd' : 'kd')
  if (loss !== 'kd' && !labelled) throw errors.usage(`--loss ${loss} needs labelled data`)
  if (o.reinit && loss !== 'ce' && !c.teacher) throw errors.usage(`--loss ${loss} with random weights needs a --teacher to follow`)
  // Without data there is nothing real to be robust on, and random weights have nothing to keep.
  const radius = o.robust ?? (s.synthetic || o.reinit || s.objective !== 'classify' ? 0 : RECIPE.epsilon)
  const pace = radius > 0 && o.robust === undefined ? GENTLE : FIRM
  const weights = {
    labelWeight: loss === 'kd' ? 0 : loss === 'ce' ? 1 : pace.labelWeight,
    teacherWeight: loss === 'ce' ? 0 : RECIPE.teacherWeight,
  }
  const changes = await augmentationFor(c, validation, feed, loss !== 'kd')
  let teacher = loss === 'ce' ? null : (c.teacher ?? c.original)
  const weight = o.lipschitzBeta ?? (s.synthetic ? RECIPE.betaWithoutData : RECIPE.beta)
  const penalty = weight > 0 ? (o.lipschitzForm ?? 'orthogonal') : null
  if (!penalty && (o.lipschitzForm || o.convexSums))
    throw errors.usage('--lipschitz-form and --convex-sums shape the penalty, whose weight is 0', null, 'pass a --lipschitz-beta above 0')
  const adversaries: Adversary | null = radius > 0 ? { epsilon: radius, steps: o.robustSteps ?? 1, ...ADVERSARY } : null
  // What has no derivative is found out before anything is trained.
  if (s.objective === 'classify' || adversaries) attackStep(c.original, feed.preprocessing, s.objective, 'linf')
  else checkTrainable(c.original, c.frozen, batch)
  const steps = stepsFor(o, s)

  let saved: Checkpoint = { fingerprint: c.fingerprint, stages: {} }
  if (o.resume && c.checkpoint) {
    const found = readCheckpoint(c.checkpoint)
    if (found && found.fingerprint !== c.fingerprint)
      throw errors.usage(
        'the checkpoint belongs to another model, data set or other options',
        c.checkpoint,
        'repeat the options of the interrupted run, or leave out --resume',
      )
    if (!found) c.progress(`no checkpoint at ${c.checkpoint}, so from the start`)
    saved = found ?? saved
  }
  const save = (stage: string, state: TrainingState): void => {
    saved = { ...saved, stages: { ...saved.stages, [stage]: state } }
    if (c.checkpoint) writeCheckpoint(c.checkpoint, saved)
  }
  // Synthetic sources remember what they have drawn themselves.
  const items = s.synthetic ? feed.items : remembered(feed, s.training.count)
  const data = {
    count: s.training.count,
    labels: labelled ? s.training.labels : null,
    batch: async (indices: ArrayLike<number>, random: ReturnType<typeof createRandom>) =>
      augment(await items(indices), channelsLast, changes, random),
  }

  return {
    adversarial: adversaries !== null && !still,
    async run(stage, graph, plan, fixedGrid, powerOfTwo = false) {
      // The default's small radius is learned in real numbers; quantized, the network follows what came of it.
      const adversary =
        stage === 'float' || !adversaries ? adversaries : o.robust ? { ...adversaries, epsilon: QUANTIZED_RADIUS * radius } : null
      const beta = stage === 'quantized' && adversaries ? Number((pace.kept * weight).toPrecision(3)) : weight
      let written = Date.now()
      const label = stage === 'float' ? 'train' : 'fine-tune'
      const started = Date.now()
      const from = saved.stages[stage]
      const first = from?.step ?? 0
      const tuned = await finetuneNetwork(
        engine,
        { graph, plan, teacher, data, objective: s.objective, preprocessing: feed.preprocessing },
        {
          steps,
          batch,
          rate: o.lr ?? (stage === 'quantized' && !isCoarse(o) ? RECIPE.fineRate : s.synthetic ? RECIPE.rateWithoutData : pace.rate[stage]),
          warmup: Math.min(RECIPE.warmup, Math.ceil(steps / 10)),
          optimizer: o.optimizer ?? 'adam',
          clip: o.clip ?? null,
          ...weights,
          temperature: RECIPE.temperature,
          penalty,
          convexSums: o.convexSums ?? false,
          beta,
          adversary,
          averaging: RECIPE.averaging,
          seed: o.seed ?? 0,
          // What two standard errors cannot tell apart is equal; of two shares that are added up.
          tolerance: 2 / Math.sqrt(validation.samples),
          interval: Math.max(1, Math.ceil(steps / VALIDATION.times)),
          frozen: c.frozen,
          fixedGrid,
          powerOfTwo,
          ...(adversary ? { activationBounds: ROBUST_BOUNDS } : {}),
          validation: {
            evaluation: validation,
            batch,
            channelsLast,
            epsilon: Math.max(radius, VALIDATION.epsilon),
            steps: VALIDATION.steps,
            square: adversary ? VALIDATION.square : null,
          },
        },
        {
          onStep: (done, of, m) => {
            const speed = ((done - first) * batch * 1000) / Math.max(1, Date.now() - started)
            const accuracy = s.objective === 'classify' ? `, accuracy ${(100 * m.accuracy).toFixed(1)}%` : ''
            const left = ((of - done) * batch) / Math.max(1e-9, speed)
            c.progress(label, done, of, `loss ${m.loss.toFixed(3)}${accuracy}, ${speed.toFixed(0)} samples/s, ${Math.ceil(left)} s left`)
          },
          onState: (state) => {
            written = Date.now()
            save(stage, state)
          },
          wantsState: () => o.signal?.aborted === true || Date.now() - written > CHECKPOINT_EVERY,
          check: () => {
            if (o.signal?.aborted) throw errors.interrupted('interrupted')
          },
        },
        from,
      )
      const { state } = tuned
      if (teacher) teacher = tuned.graph
      if (state.diverged) c.notes.push(`fine-tuning diverged: ${state.diverged}; the checkpoint of step ${state.best?.step ?? 0} was kept`)
      return {
        ...tuned,
        report: {
          stage,
          steps,
          batch,
          loss,
          penalty: penalty ? { form: penalty, beta, convexSums: o.convexSums ?? false } : null,
          adversary: adversary ? { epsilon: adversary.epsilon, steps: adversary.steps } : null,
          augmentation: changes,
          training: { source: s.training.description, samples: s.training.count, labelled },
          validation: { source: s.validation.description, samples: validation.samples },
          best: state.best?.step ?? 0,
          curve: state.curve,
          diverged: state.diverged,
        },
      }
    },
  }
}

/** Bytes of samples that are kept once they are read. */
const REMEMBERED = 4e8

/** The items of a feed, read once where all of them fit in memory. */
function remembered(feed: Feed, count: number): Feed['items'] {
  const per = feed.shape.reduce((p, d) => p * d, 1)
  if (4 * per * count > REMEMBERED) return feed.items
  const known = new Map<number, Float32Array>()
  return async (indices) => {
    const missing = [...new Set(Array.from(indices))].filter((i) => !known.has(i))
    if (missing.length) {
      const fresh = (await feed.items(missing)).data as Float32Array
      missing.forEach((i, k) => {
        known.set(i, fresh.slice(k * per, (k + 1) * per))
      })
    }
    const data = new Float32Array(indices.length * per)
    for (let k = 0; k < indices.length; k++) data.set(known.get(indices[k]!)!, k * per)
    return tensorOf('float32', [indices.length, ...feed.shape], data)
  }
}

/** Share of answers that have to stay the same for a change to count as harmless. */
const STANDS = 0.7
/** Shift as a share of the image: 2 pixels of 32. */
const SHIFT = 1 / 16

/** Changes that the original network's own answers stand: mirrored digits are other signs, mirrored animals the same. */
async function augmentationFor(c: TrainerContext, validation: Evaluation, feed: Feed, labelled: boolean): Promise<Augmentation> {
  const { options: o, setting: s } = c
  const wanted = o.augment ?? 'auto'
  if (feed.layout === null || wanted === 'none') return noAugmentation
  const size = Math.min(...(feed.layout === 'nhwc' ? feed.shape.slice(0, 2) : feed.shape.slice(1)))
  const shift = Math.floor(size * SHIFT)
  if (wanted !== 'auto') return { flip: wanted === 'flip+shift', shift }
  // A teacher sees the changed image too; only labels can be wrong for it.
  if (!labelled) return s.synthetic ? noAugmentation : { flip: true, shift }
  if (s.objective !== 'classify') return noAugmentation
  if (o.reinit && !c.teacher) return { flip: false, shift }
  const model = await c.runtimes.engine.load(scoringGraph(c.teacher ?? c.original, feed.preprocessing))
  try {
    // Whole batches only: some networks take no other.
    const size = Math.min(s.trainingBatch, validation.samples)
    const n = size * Math.floor(Math.min(validation.samples, Math.max(size, 256)) / size)
    const agreement = async (a: Augmentation): Promise<number> => {
      let same = 0
      for (let from = 0; from < n; from += size) {
        const x = await validation.pixels(from, from + size)
        const [p, q] = [
          answers((await model([x]))[0]!),
          answers((await model([augment(x, feed.layout === 'nhwc', a, createRandom(from))]))[0]!),
        ]
        p.forEach((v, i) => {
          if (v === q[i]) same++
        })
      }
      return same / n
    }
    // Half of the images are mirrored: their share of changed answers counts twice.
    const flip = 1 - 2 * (1 - (await agreement({ flip: true, shift: 0 }))) >= STANDS
    const shifts = (await agreement({ flip: false, shift })) >= STANDS
    return { flip, shift: shifts ? shift : 0 }
  } finally {
    await model.release()
  }
}

export const isUnsupported = (e: unknown): e is CompileError => e instanceof CompileError && e.kind === 'unsupported'

/** What to tell of quantizers that have lost their levels. */
export const degenerateNote = (uses: readonly ActivationUse[]): string | null => {
  const bad = uses.filter((u) => u.degenerate)
  if (bad.length === 0) return null
  return `degenerate quantizers, whose robustness to gradient attacks means little: ${bad.map((u) => `${u.name} uses ${u.levels} of ${u.of} levels, ${(100 * u.zeros).toFixed(0)}% zeros`).join('; ')}`
}
