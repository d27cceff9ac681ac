import { type ChannelsLast, cTarget, errors, freeScheme, type Graph, type Scheme, type Target } from '@dqc/core'
import { ortTarget, qcdqTarget, qonnxTarget, writeModel as writeOnnx } from '@dqc/onnx'
import { edgeTpuTarget, tfliteOriginOf, tfliteTarget, writeModel as writeTflite } from '@dqc/tflite'
import type { OpenedModel } from './model.ts'
import type { ConvertOptions } from './options.ts'
import type { Format } from './runtimes.ts'
import { VERSION } from './version.ts'

/** A target as one conversion uses it. */
export interface Choice {
  readonly target: Target<'integer'> | Target<'qdq'>
  /** The file format that it writes, and that its runtime reads. */
  readonly format: Format
  /** How integers are spelt in it, for the report. */
  readonly form: string
  readonly integerIO: boolean
  /** What the target, or the user, asks of all grids. */
  readonly scheme: Scheme
  /** The network in real numbers in the target's format; null where it has no real numbers. */
  readonly writeFloat:
    | ((
        graph: Graph<'float'>,
        metadata: Readonly<Record<string, string>>,
      ) => { readonly bytes: Uint8Array; readonly channelsLast: ChannelsLast | null })
    | null
  /** Bits in which real weights are stored. */
  readonly weightStorage: 16 | 32
}

export const TARGETS = ['ort', 'tflite', 'edgetpu', 'c', 'qonnx', 'qcdq', 'vitis-ai'] as const
export type TargetName = (typeof TARGETS)[number]

/** The target of a source file when none is asked for: the runtime of its own format. */
const defaultTarget = (m: OpenedModel): TargetName => (m.format === 'tflite' ? 'tflite' : 'ort')

/** Flags that only some targets know: of several targets asked for, one must, and the others go without. */
const FLAGS: readonly { readonly flag: string; readonly given: (o: ConvertOptions) => boolean; readonly targets: readonly string[] }[] = [
  { flag: '--float16', given: (o) => o.float16 ?? false, targets: ['tflite'] },
  { flag: '--strict', given: (o) => o.strict ?? false, targets: ['edgetpu'] },
  { flag: '--rounding', given: (o) => o.rounding !== undefined, targets: ['c'] },
  { flag: '--hls', given: (o) => o.hls ?? false, targets: ['c'] },
  { flag: '--flavor', given: (o) => o.flavor !== undefined, targets: ['qonnx'] },
  { flag: '--format', given: (o) => o.format !== undefined, targets: ['ort'] },
  { flag: '--pack-weights', given: (o) => o.packWeights ?? false, targets: ['ort', 'tflite', 'c'] },
]

/** Throws CompileError for options that no target asked for has a use for. */
export function chooseTargets(o: ConvertOptions, m: OpenedModel): Choice[] {
  const names = [...new Set(o.targets ?? [defaultTarget(m)])]
  for (const { flag, given, targets } of FLAGS)
    if (given(o) && !names.some((n) => targets.includes(n)))
      throw errors.usage(`${flag} is for the ${targets.length > 1 ? 'targets' : 'target'} ${targets.join(', ')}, not ${names.join(', ')}`)
  return names.map((name) => chooseTarget(name, o, m))
}

function chooseTarget(name: string, o: ConvertOptions, m: OpenedModel): Choice {
  const packedWeights = o.packWeights ?? false
  const scheme: Scheme = { ...freeScheme, powerOfTwo: o.pow2Scales ?? false }
  const writeFloat: Choice['writeFloat'] = (graph, metadata) => ({
    bytes: writeOnnx(
      { ...graph, origin: m.format === 'onnx' ? graph.origin : null },
      { metadata, producer: { name: 'dqc', version: VERSION } },
    ),
    channelsLast: null,
  })
  if (name === 'qonnx' || name === 'qcdq' || name === 'vitis-ai') {
    if (o.io === 'int8') throw errors.usage(`--io int8 is not for the target ${name}`)
    if (name === 'vitis-ai' && [o.bits, o.weightBits, o.actBits, o.edgeBits].some((b) => b !== undefined && b !== 8))
      throw errors.usage('Vitis AI computes on eight bits', null, 'pass --bits 8')
    if (name === 'vitis-ai' && o.pow2Scales === false) throw errors.usage('--no-pow2-scales: Vitis AI multiplies by shifting')
    const flavor = o.flavor ?? 'generic'
    return {
      target: name === 'qonnx' ? qonnxTarget({ flavor, version: VERSION }) : qcdqTarget({ kind: name, version: VERSION }),
      format: 'onnx',
      form: name === 'qonnx' ? flavor : name,
      integerIO: false,
      scheme:
        name === 'vitis-ai'
          ? { powerOfTwo: true, signedContainers: true, biasBits: 8 }
          : // Whoever runs QONNX adds real numbers in single precision: exact where every scale is a power of two.
            { ...scheme, powerOfTwo: o.pow2Scales ?? name === 'qonnx' },
      writeFloat,
      weightStorage: 32,
    }
  }
  if (name === 'ort') {
    const form = o.format ?? 'qoperator'
    return {
      target: ortTarget({ format: form, packedWeights, fixedPoint: (o.keepScales ?? false) && m.format === 'tflite', version: VERSION }),
      format: 'onnx',
      form,
      integerIO: o.io === 'int8',
      scheme,
      writeFloat,
      weightStorage: 32,
    }
  }
  if (name === 'c') {
    if (o.io === 'float') throw errors.usage('--io float: C takes and gives integers')
    const rounding = o.rounding ?? 'rne'
    return {
      target: cTarget({ rounding, packedWeights, hls: o.hls ?? false, version: VERSION }),
      format: 'c',
      form: packedWeights ? 'c99 packed' : 'c99',
      integerIO: true,
      scheme,
      writeFloat: null,
      weightStorage: 32,
    }
  }
  if (name === 'edgetpu' && o.io === 'float') throw errors.usage('the Edge TPU takes integer inputs and outputs only')
  // Integers that are kept keep the containers they came in.
  const origin = o.keepScales ? tfliteOriginOf(m.real()) : null
  const integerIO = name === 'edgetpu' || (o.io ? o.io === 'int8' : origin?.inputs[0]?.grid != null)
  const common = { integerIO, version: VERSION }
  const weightStorage = o.float16 ? 16 : 32
  return {
    target:
      name === 'edgetpu'
        ? edgeTpuTarget(common)
        : tfliteTarget({ ...common, container: origin?.container ?? 'int8', packedWeights, keepContainers: o.keepScales ?? false }),
    format: 'tflite',
    form: origin?.container ?? 'int8',
    integerIO,
    scheme,
    writeFloat: (graph, metadata) =>
      writeTflite(graph, { metadata, floatWeights: weightStorage === 16 ? 'float16' : 'float32', description: `dqc ${VERSION}` }),
    weightStorage,
  }
}
