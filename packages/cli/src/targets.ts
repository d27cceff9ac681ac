import { type ChannelsLast, errors, type Graph, type Target } from '@dqc/core'
import { ortTarget, writeModel as writeOnnx } from '@dqc/onnx'
import { edgeTpuTarget, tfliteOriginOf, tfliteTarget, writeModel as writeTflite } from '@dqc/tflite'
import type { OpenedModel } from './model.ts'
import type { ConvertOptions } from './options.ts'
import { VERSION } from './version.ts'

/** A target as one conversion uses it. */
export interface Choice {
  readonly target: Target<'integer'>
  /** The file format that it writes, and that its runtime reads. */
  readonly format: 'onnx' | 'tflite'
  /** How integers are spelt in it, for the report. */
  readonly form: string
  readonly integerIO: boolean
  /** The network in real numbers in the target's format. */
  writeFloat(
    graph: Graph<'float'>,
    metadata: Readonly<Record<string, string>>,
  ): { readonly bytes: Uint8Array; readonly channelsLast: ChannelsLast | null }
}

export const TARGETS = ['ort', 'tflite', 'edgetpu'] as const
export type TargetName = (typeof TARGETS)[number]

/** The target of a source file when none is asked for: the runtime of its own format. */
export const defaultTarget = (m: OpenedModel): TargetName => (m.format === 'tflite' ? 'tflite' : 'ort')

/** Throws CompileError for options that the target has no use for. */
export function chooseTarget(name: string, o: ConvertOptions, m: OpenedModel): Choice {
  const packedWeights = o.packWeights ?? false
  if (name === 'ort') {
    const form = o.format ?? 'qoperator'
    return {
      target: ortTarget({ format: form, packedWeights, version: VERSION }),
      format: 'onnx',
      form,
      integerIO: o.io === 'int8',
      writeFloat: (graph, metadata) => ({
        bytes: writeOnnx(
          { ...graph, origin: m.format === 'onnx' ? graph.origin : null },
          { metadata, producer: { name: 'dqc', version: VERSION } },
        ),
        channelsLast: null,
      }),
    }
  }
  if (o.format) throw errors.usage(`--format ${o.format} is for the target ort, not ${name}`)
  if (name === 'edgetpu' && (packedWeights || o.io === 'float'))
    throw errors.usage(`the Edge TPU takes ${packedWeights ? 'no packed weights' : 'integer inputs and outputs only'}`)
  // Integers that are kept keep the containers they came in.
  const origin = o.keepScales ? tfliteOriginOf(m.real()) : null
  const integerIO = name === 'edgetpu' || (o.io ? o.io === 'int8' : origin?.inputs[0]?.grid != null)
  const common = { integerIO, version: VERSION }
  return {
    target:
      name === 'edgetpu'
        ? edgeTpuTarget(common)
        : tfliteTarget({ ...common, container: origin?.container ?? 'int8', packedWeights, keepContainers: o.keepScales ?? false }),
    format: 'tflite',
    form: origin?.container ?? 'int8',
    integerIO,
    writeFloat: (graph, metadata) =>
      writeTflite(graph, { metadata, floatWeights: o.float16 ? 'float16' : 'float32', description: `dqc ${VERSION}` }),
  }
}
