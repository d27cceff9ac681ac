import type { AttackName, Norm, ObserverKind } from '@dqc/core'
import { attackNames, errors, observerKinds } from '@dqc/core'
import type { FeedOptions } from './data/feed.ts'
import { TARGETS } from './targets.ts'

/** Told what is going on: a stage, how far it is, and of how much (null: not known). */
export type OnProgress = (stage: string, done: number, of: number | null) => void

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

export interface ConvertOptions extends CommonOptions {
  /** 2–8; sets weight and activation bits together. Needed unless `dequantize` or `keepScales` says that nothing is to be quantized. */
  readonly bits?: number
  readonly weightBits?: number
  readonly actBits?: number
  /** First and last layers, and the outputs. Default 8. */
  readonly edgeBits?: number
  /** ort, tflite, edgetpu. Default: the runtime of the source file's own format. */
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
  /** Store weights of at most four bits as packed INT4. */
  readonly packWeights?: boolean
  readonly observer?: ObserverKind
  /** Default: auto below 8 bits, off at 8. */
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
  /** Largest loss of robust accuracy (share), per attack and radius. */
  readonly maxRobustDrop?: number
}

export interface EvaluateOptions extends CommonOptions {
  /** A model whose gradients attack this one, where it has none of its own. */
  readonly surrogate?: string
}

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
  oneOf('--format', o.format, ['qoperator', 'qdq'])
  oneOf('--io', o.io, ['float', 'int8'])
  oneOf('--observer', o.observer, observerKinds)
  oneOf('--equalize', o.equalize, ['auto', 'on', 'off'])
  if (o.packWeights && (o.weightBits ?? o.bits ?? 0) > 4)
    throw errors.usage(`--pack-weights stores weights of at most 4 bits, not ${o.weightBits ?? o.bits}`)
  if (o.maxRobustDrop !== undefined && o.attacks?.length === 0) throw errors.usage('--max-robust-drop needs an attack to be measured by')
  for (const [name, v] of [
    ['--max-drop', o.maxDrop],
    ['--max-robust-drop', o.maxRobustDrop],
  ] as const)
    if (v !== undefined && !(v >= 0 && v <= 1)) throw errors.usage(`${name} is a share of samples, like 0.01 or 1%, not ${v}`)
}
