import type { AttackName, Norm, ObserverKind, OptimizerName, PenaltyForm, Rounding } from '@dqc/core'
import { attackNames, errors, observerKinds, optimizerNames, penaltyForms } from '@dqc/core'
import { type Flavor, flavors } from '@dqc/onnx'
import type { FeedOptions } from './data/feed.ts'
import { TARGETS } from './targets.ts'

/** Told what is going on: a stage, how far it is, of how much (null: not known), and what there is to say of it. */
export type OnProgress = (stage: string, done: number, of: number | null, detail?: string) => void

/** How data reaches the model, and how much of it is used. */
export interface DataOptions extends FeedOptions {
  /** A folder or file of data. Without it synthetic images are used. */
  readonly data?: string
  /** Data to evaluate on, where `data` is only for calibration. */
  readonly evalData?: string
  /** Evaluation samples. Default 1000, fewer for networks too large for that. */
  readonly samples?: number
  /** Samples attacked. Default: as many as are evaluated, fewer for large networks. */
  readonly attackSamples?: number
  /** Samples per batch. Default 64. */
  readonly batch?: number
}

export interface AttackOptions {
  /** Default ['fgsm', 'pgd']; [] measures clean accuracy only. */
  readonly attacks?: readonly AttackName[]
  /** Radii in pixel units, the original range being 1. Default [2/255]. */
  readonly eps?: readonly number[]
  /** Steps of iterated attacks. Default 20. */
  readonly steps?: number
  /** Random starts of each sample. Default 1. */
  readonly restarts?: number
  readonly norm?: Norm
  /** Queries of the gradient-free attack per sample and restart. Default 1000. */
  readonly queries?: number
}

export interface CommonOptions extends DataOptions, AttackOptions {
  /** Sizes of inputs whose shape is symbolic. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>
  /** Default 0. The same seed, options and inputs give the same bytes. */
  readonly seed?: number
  /** auto: a classifier unless outputs look like something else. */
  readonly task?: 'auto' | 'classify' | 'regress'
  /** What executes calibration and gradients: ONNX Runtime (default), or TensorFlow.js as an independent and slower second. */
  readonly engine?: 'ort' | 'tfjs'
  /** Threads of the runtime. Default: its own choice. */
  readonly threads?: number
  readonly onProgress?: OnProgress
  readonly signal?: AbortSignal
}

/** How the network is trained before it is written. */
export interface FinetuneOptions {
  /** auto: below 8 bits, or where `robust` asks for adversaries. A number: so many steps in each stage. Default auto. */
  readonly finetune?: 'auto' | 'off' | number
  /** How long auto takes: 300, 720 or 4,000 steps a stage, fewer for large networks. */
  readonly effort?: Effort
  /**
   * Weight β of the Lipschitz penalty β/2·Σ‖WWᵀ − I‖²_F; 0 leaves it out. Default 0.001, without data 0. Where a stage in real numbers goes before, the
   * quantized one keeps 40% of it, 15% with `robust`.
   */
  readonly lipschitzBeta?: number
  /** orthogonal: WWᵀ → I. hinge: only singular values above 1 fall. operator: of the whole convolution, not its matrix. */
  readonly lipschitzForm?: PenaltyForm
  /** Residual sums count as convex combinations: the penalty holds the last layers to 1/g, g the Lipschitz constant of what sums give them. */
  readonly convexSums?: boolean
  /**
   * Trains on adversarial samples of this radius, in pixel units, and of half of it through quantizers; 0 on none. Default: 0.75/255, in real numbers only;
   * none without data, from random weights, or for networks that are no classifiers.
   */
  readonly robust?: number
  /** Steps of those adversaries; 1 is R+FGSM, more is PGD. Default 1. */
  readonly robustSteps?: number
  /** ce: labels. kd: the original network's scores. Default: both; kd where there are no labels, ce from random weights. */
  readonly loss?: Loss
  /**
   * Peak learning rate, relative to the rms of each tensor. Default 0.005 in real numbers and 0.008 through quantizers; 0.01 with `robust`, from random
   * weights and for networks that are no classifiers, 0.006 without data, 0.002 through eight-bit quantizers.
   */
  readonly lr?: number
  readonly optimizer?: OptimizerName
  /** Largest norm of the gradient. Default: no limit. */
  readonly clip?: number
  /** Layers (node names, output names or op types) that training leaves as they are. */
  readonly freeze?: readonly string[]
  /** A float network whose scores are followed in place of the original's. A second stage follows what came of the first. */
  readonly teacher?: string
  /** Random mirroring and shifting of images. auto: where the network's answers stand it. */
  readonly augment?: Augment
  /** Start from random weights. */
  readonly reinit?: boolean
  /** Continue from the checkpoint that an interrupted run left beside its results. */
  readonly resume?: boolean
}

export type Effort = 'fast' | 'default' | 'max'
export type Loss = 'ce' | 'kd' | 'ce+kd'
export type Augment = 'auto' | 'none' | 'shift' | 'flip+shift'
export const EFFORTS: readonly Effort[] = ['fast', 'default', 'max']
export const LOSSES: readonly Loss[] = ['ce', 'kd', 'ce+kd']
export const AUGMENTS: readonly Augment[] = ['auto', 'none', 'shift', 'flip+shift']

export interface ConvertOptions extends CommonOptions, FinetuneOptions {
  /** 2–8; sets weight and activation bits together. Needed unless `dequantize` or `keepScales` says that nothing is to be quantized. */
  readonly bits?: number
  readonly weightBits?: number
  readonly actBits?: number
  /** First and last layers, and the outputs. Default 8. */
  readonly edgeBits?: number
  /** ort, tflite, edgetpu, c, qonnx, qcdq, vitis-ai. Default: the runtime of the source file's own format. */
  readonly targets?: readonly string[]
  /** Write the network in real numbers instead of quantizing it; of a quantized file, the one that its integers stand for. */
  readonly dequantize?: boolean
  /** With dequantize: store weights in half precision (TFLite). */
  readonly float16?: boolean
  /** Keep the integers, scales and zero points of a file that is quantized already, and write them for the target. */
  readonly keepScales?: boolean
  /** Fail where an operator would not run on the target's accelerator. */
  readonly strict?: boolean
  readonly format?: 'qoperator' | 'qdq'
  /** Default: float; int8 for edgetpu, and where the scales of an integer file are kept. */
  readonly io?: 'float' | 'int8'
  /** Store weights packed: of at most four bits as INT4, for C at their grid bits. */
  readonly packWeights?: boolean
  /** C: how accumulators are rounded where a shift does it. rne: half to even, as runtimes do. shift: half up. Default rne. */
  readonly rounding?: Rounding
  /** qonnx: the tool that the file is for. Default generic. */
  readonly flavor?: Flavor
  /** Scales are powers of two, which hardware multiplies by shifting. Default: true for qonnx, whose sums of real numbers are exact only then. vitis-ai: always. */
  readonly pow2Scales?: boolean
  /** C: mark inner loops for high-level synthesis. */
  readonly hls?: boolean
  readonly observer?: ObserverKind
  /** Default: auto where bits are below 8 and nothing is trained, else off. */
  readonly equalize?: 'auto' | 'on' | 'off'
  /** Default: on. */
  readonly biasCorrection?: boolean
  /** Node names or op types that stay float. */
  readonly exclude?: readonly string[]
  /** Calibration samples. Default 512. */
  readonly calibSamples?: number
  /** Folder of the results; null writes nothing. Default: the current folder. */
  readonly out?: string | null
  /** Largest loss of clean accuracy (share) before the conversion counts as failed. */
  readonly maxDrop?: number
  /** Largest loss of robust accuracy (share), under each attack and under the worst of all, per radius. */
  readonly maxRobustDrop?: number
}

export interface EvaluateOptions extends CommonOptions {
  /** A model whose gradients attack this one, where it has none of its own. */
  readonly surrogate?: string
}

/** The flag of an option. */
const flagOf = (option: string): string => `--${option.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`

const whole = (name: string, v: number | undefined, least: number): void => {
  if (v !== undefined && (!Number.isInteger(v) || v < least))
    throw errors.usage(`${name} must be a whole number of at least ${least}, not ${v}`)
}
const oneOf = <T extends string>(name: string, v: T | undefined, all: readonly T[]): void => {
  if (v !== undefined && !all.includes(v)) throw errors.usage(`${name} must be one of ${all.join(', ')}, not ${v}`)
}

/** Refuses options that make no sense, before anything is read. Throws CompileError. */
export function checkCommon(o: CommonOptions): void {
  whole('--samples', o.samples, 1)
  whole('--attack-samples', o.attackSamples, 1)
  whole('--batch', o.batch, 1)
  whole('--steps', o.steps, 1)
  whole('--restarts', o.restarts, 1)
  whole('--queries', o.queries, 3)
  whole('--seed', o.seed, 0)
  whole('--threads', o.threads, 1)
  oneOf('--norm', o.norm, ['linf', 'l2'])
  oneOf('--task', o.task, ['auto', 'classify', 'regress'])
  oneOf('--layout', o.layout, ['nchw', 'nhwc'])
  oneOf('--engine', o.engine, ['ort', 'tfjs'])
  for (const a of o.attacks ?? []) oneOf('--attack', a, attackNames)
  for (const e of o.eps ?? [])
    if (!(e >= 0 && Number.isFinite(e))) throw errors.usage(`--eps must be a number of at least 0, like 2/255, not ${e}`)
  if (o.scale !== undefined && !(o.scale > 0)) throw errors.usage('--scale must be positive')
  if (o.evalData && !o.data) throw errors.usage('--eval-data needs --data as well')
}

function checkFinetune(o: ConvertOptions): void {
  const { finetune } = o
  if (finetune !== undefined && finetune !== 'auto' && finetune !== 'off' && !(Number.isInteger(finetune) && finetune >= 1))
    throw errors.usage(`--finetune must be auto, off or a number of steps, not ${finetune}`)
  oneOf('--effort', o.effort, EFFORTS)
  oneOf('--loss', o.loss, LOSSES)
  oneOf('--lipschitz-form', o.lipschitzForm, penaltyForms)
  oneOf('--optimizer', o.optimizer, optimizerNames)
  oneOf('--augment', o.augment, AUGMENTS)
  whole('--robust-steps', o.robustSteps, 1)
  for (const [name, v, least] of [
    ['--lipschitz-beta', o.lipschitzBeta, true],
    ['--robust', o.robust, true],
    ['--lr', o.lr, false],
    ['--clip', o.clip, false],
  ] as const)
    if (v !== undefined && !(Number.isFinite(v) && (least ? v >= 0 : v > 0)))
      throw errors.usage(`${name} must be a number ${least ? 'of at least' : 'above'} 0, not ${v}`)
  if (o.robust !== undefined && o.robust > 1) throw errors.usage('--robust is a radius in units of the pixel range, like 2/255')
  if (o.robustSteps && !o.robust) throw errors.usage('--robust-steps goes with --robust')
  if (typeof finetune === 'number' && o.effort) throw errors.usage('--effort says how long --finetune auto takes, not --finetune STEPS')
  if (o.teacher !== undefined && o.loss === 'ce') throw errors.usage('--loss ce follows labels alone, and no --teacher')
  if (trains(o)) return
  const given = (
    [
      'effort',
      'lipschitzBeta',
      'lipschitzForm',
      'convexSums',
      'robust',
      'loss',
      'lr',
      'optimizer',
      'clip',
      'freeze',
      'teacher',
      'augment',
      'reinit',
      'resume',
    ] as const
  ).filter((k) => o[k] !== undefined)
  if (given.length)
    throw errors.usage(
      `${given.map(flagOf).join(', ')} without fine-tuning`,
      null,
      finetune === 'off' || o.keepScales || o.dequantize
        ? 'leave out --finetune off, --keep-scales or --dequantize; or use dqc finetune'
        : 'on eight bits only --finetune STEPS or --robust EPS trains',
    )
}

/** Bits of a conversion that quantizes: of inner weights, of what inner layers read, and of first and last layers. */
export const bitsFor = (o: ConvertOptions): { weights: number; activations: number; edges: number } => ({
  weights: o.weightBits ?? o.bits ?? 8,
  activations: o.actBits ?? o.bits ?? 8,
  edges: o.edgeBits ?? 8,
})

/** Whether anything has fewer than eight bits. */
export const isCoarse = (o: ConvertOptions): boolean => Object.values(bitsFor(o)).some((b) => b < 8)

/** Whether a conversion trains: as it is told, else below eight bits or where there are to be adversaries. */
export function trains(o: ConvertOptions): boolean {
  if (o.finetune === 'off' || o.keepScales) return false
  if (o.dequantize || typeof o.finetune === 'number') return o.finetune !== undefined
  return isCoarse(o) || (o.robust ?? 0) > 0
}

export function checkConvert(o: ConvertOptions): void {
  checkCommon(o)
  whole('--calib-samples', o.calibSamples, 1)
  for (const [name, v] of [
    ['--bits', o.bits],
    ['--weight-bits', o.weightBits],
    ['--act-bits', o.actBits],
    ['--edge-bits', o.edgeBits],
  ] as const)
    if (v !== undefined && (!Number.isInteger(v) || v < 2 || v > 8))
      throw errors.usage(`${name} must be a whole number from 2 to 8, not ${v}`)
  for (const t of o.targets ?? []) oneOf('--target', t, TARGETS as readonly string[])
  const modes = [o.bits !== undefined && '--bits', o.dequantize && '--dequantize', o.keepScales && '--keep-scales'].filter(Boolean)
  if (modes.length !== 1)
    throw errors.usage(
      modes.length ? `${modes.join(' and ')} exclude one another` : '--bits is missing',
      null,
      'pass --bits 2–8, --dequantize, or --keep-scales for a quantized file',
    )
  if (o.float16 && !o.dequantize) throw errors.usage('--float16 goes with --dequantize')
  if (o.pow2Scales && o.keepScales) throw errors.usage('--pow2-scales chooses new scales, --keep-scales keeps the file’s')
  const quantizing = (['weightBits', 'actBits', 'edgeBits', 'observer', 'equalize', 'exclude', 'pow2Scales'] as const).filter(
    (k) => o[k] !== undefined && o[k] !== false,
  )
  if (o.bits === undefined && quantizing.length)
    throw errors.usage(`${quantizing.map(flagOf).join(', ')} ${quantizing.length > 1 ? 'go' : 'goes'} with --bits`)
  oneOf('--format', o.format, ['qoperator', 'qdq'])
  oneOf('--io', o.io, ['float', 'int8'])
  oneOf('--rounding', o.rounding, ['rne', 'shift'])
  oneOf('--flavor', o.flavor, flavors)
  if (o.rounding === 'shift' && !o.pow2Scales && !o.keepScales) throw errors.usage('--rounding shift goes with --pow2-scales')
  oneOf('--observer', o.observer, observerKinds)
  oneOf('--equalize', o.equalize, ['auto', 'on', 'off'])
  checkFinetune(o)
  if (o.packWeights && !o.targets?.includes('c') && (o.weightBits ?? o.bits ?? 0) > 4)
    throw errors.usage(`--pack-weights stores weights of at most 4 bits, not ${o.weightBits ?? o.bits}`)
  if (o.maxRobustDrop !== undefined && o.attacks?.length === 0) throw errors.usage('--max-robust-drop needs an attack to be measured by')
  for (const [name, v] of [
    ['--max-drop', o.maxDrop],
    ['--max-robust-drop', o.maxRobustDrop],
  ] as const)
    if (v !== undefined && !(v >= 0 && v <= 1)) throw errors.usage(`${name} is a share of samples, like 0.01 or 1%, not ${v}`)
}
