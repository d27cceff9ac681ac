import * as core from '@dqc/core'
import { type Artifact, type Graph, type MappedOperator, rewrite, runPasses, shapeOf, simplify, type Target } from '@dqc/core'
import { type ParsedModel, parseModel, typeOf } from '../format/model.ts'
import type { Operator } from '../format/schema.gen.ts'
import { elementName, elementOf } from '../format/tensors.ts'
import { writeModel } from '../write/write.ts'
import { type TfliteOptions, tfliteTarget } from './tflite.ts'

/** Operators that the Edge TPU's compiler takes (Coral documentation, "TensorFlow models on the Edge TPU"). */
const TAKEN = new Set([
  'ADD',
  'AVERAGE_POOL_2D',
  'CONCATENATION',
  'CONV_2D',
  'DEPTHWISE_CONV_2D',
  'EXPAND_DIMS',
  'FULLY_CONNECTED',
  'L2_NORMALIZATION',
  'LOGISTIC',
  'LSTM',
  'MAXIMUM',
  'MAX_POOL_2D',
  'MEAN',
  'MINIMUM',
  'MUL',
  'PACK',
  'PAD',
  'PRELU',
  'QUANTIZE',
  'REDUCE_MAX',
  'REDUCE_MIN',
  'RELU',
  'RELU6',
  'RELU_N1_TO_1',
  'RESHAPE',
  'RESIZE_BILINEAR',
  'RESIZE_NEAREST_NEIGHBOR',
  'RSQRT',
  'SLICE',
  'SOFTMAX',
  'SPACE_TO_DEPTH',
  'SPLIT',
  'SQUEEZE',
  'STRIDED_SLICE',
  'SUB',
  'SUM',
  'SQUARED_DIFFERENCE',
  'TANH',
  'TRANSPOSE',
  'TRANSPOSE_CONV',
])

/** Longest softmax that it takes. */
const SOFTMAX_LIMIT = 16000

/** What to write in place of operators that it does not take. */
const REMEDIES: Readonly<Record<string, string>> = {
  HARD_SWISH: 'write it as x·ReLU6(x + 3)/6, as dqc convert --target edgetpu does',
  LEAKY_RELU: 'use ReLU or PReLU',
  ELU: 'use ReLU or ReLU6',
  GELU: 'use ReLU or ReLU6',
  EXP: 'keep it behind the last layer',
  DEQUANTIZE: 'make inputs and outputs integers: --io int8',
  SPLIT_V: 'split into equal parts',
  PADV2: 'pad with zeros',
  DEPTH_TO_SPACE: 'use a transposed convolution',
  BATCH_MATMUL: 'use dense layers or 1×1 convolutions with constant weights',
}

type Finding = { readonly reason: string; readonly remedy: string | null }

/**
 * Where the Edge TPU's compiler will put each operator of a TFLite file, by its documented rules (the compiler itself is not needed). It maps
 * one connected part: an operator that it does not take runs on the CPU, and so does everything behind it.
 */
export function mapEdgeTpu(parsed: ParsedModel): MappedOperator[] {
  const { graph, model } = parsed
  const onCpu = new Map<number, string>()
  return graph.operators.map((o) => {
    const op = typeOf(model, o)
    const name = graph.tensors[o.outputs?.[0] ?? -1]?.name ?? ''
    const found = findingOf(parsed, o, op)
    const before = found ? undefined : Array.from(o.inputs ?? []).flatMap((i) => onCpu.get(i) ?? [])[0]
    if (!found && before === undefined) return { name, op, place: 'accelerator', reason: null, remedy: null }
    for (const i of o.outputs ?? []) onCpu.set(i, before ?? `${op} ${name}`)
    return {
      name,
      op,
      place: 'cpu',
      reason: found?.reason ?? `it comes behind ${before}, which runs on the CPU`,
      remedy: found?.remedy ?? null,
    }
  })
}

function findingOf({ graph, model }: ParsedModel, o: Operator, op: string): Finding | null {
  if (!TAKEN.has(op)) return { reason: `the Edge TPU has no ${op}`, remedy: REMEDIES[op] ?? null }
  const ins = Array.from(o.inputs ?? []).flatMap((i) => (i < 0 ? [] : [graph.tensors[i]!]))
  const outs = Array.from(o.outputs ?? [], (i) => graph.tensors[i]!)
  const data = [...ins, ...outs]
  const open = data.find((t) => t.shapeSignature?.some((d) => d < 0))
  if (open)
    return {
      reason: `${open.name} has the open shape [${Array.from(open.shapeSignature!, (d) => (d < 0 ? '?' : d))}]`,
      remedy: `fix its sizes: --shape ${graph.tensors[graph.inputs[0]!]?.name}=${Array.from(graph.tensors[graph.inputs[0]!]?.shape ?? [])}`,
    }
  const real = data.find(
    (t) =>
      elementOf(t.type).dtype !== 'int8' &&
      elementOf(t.type).dtype !== 'uint8' &&
      (elementOf(t.type).dtype !== 'int32' || outs.includes(t)),
  )
  if (real)
    return {
      reason: `${real.name} is ${elementName(real.type)}, not an 8-bit integer`,
      remedy: 'quantize the whole network: --bits 8 --io int8',
    }
  const constant = (t: (typeof ins)[number] | undefined): boolean =>
    t !== undefined && (model.buffers?.[t.buffer ?? 0]?.data?.length ?? 0) > 0
  const deep = data.find(
    (t) =>
      !constant(t) &&
      Array.from(t.shape ?? [])
        .slice(0, -3)
        .some((d) => d > 1),
  )
  if (deep)
    return {
      reason: `${deep.name} has the shape [${deep.shape}]: only its last three sizes may be above 1`,
      remedy: 'merge or drop axes; dqc convert does so around transposes',
    }
  const options = (o.builtinOptions ?? {}) as Record<string, any>
  if (/POOL|CONCAT/.test(op) && options['fusedActivationFunction'])
    return { reason: 'its activation is fused', remedy: 'make the activation an operator of its own, or leave it to the layer before' }
  if (op === 'DEPTHWISE_CONV_2D' && options['dilationHFactor'] !== options['dilationWFactor'])
    return { reason: 'its dilations differ', remedy: 'use equal dilations' }
  const size = Array.from(outs[0]?.shape ?? []).reduce((p, d) => p * d, 1)
  if (op === 'FULLY_CONNECTED' && size !== outs[0]?.shape?.at(-1))
    return { reason: `its output [${outs[0]?.shape}] has more than one row`, remedy: 'use a 1×1 convolution' }
  if (op === 'SOFTMAX' && (size !== outs[0]?.shape?.at(-1) || size > SOFTMAX_LIMIT))
    return {
      reason: `a softmax of [${outs[0]?.shape}]: one row of at most ${SOFTMAX_LIMIT}`,
      remedy: 'leave it out and take the largest score',
    }
  if (op === 'STRIDED_SLICE') {
    const steps = graph.tensors[o.inputs?.[3] ?? -1]
    const bytes = steps ? model.buffers?.[steps.buffer ?? 0]?.data : undefined
    if (bytes && new Int32Array(bytes.slice().buffer).some((s) => s !== 1))
      return { reason: 'its steps are not 1', remedy: 'use a pool or a strided convolution' }
  }
  if (/CONV|FULLY/.test(op) && !constant(ins[1])) return { reason: 'its weights are computed at run time', remedy: 'use constant weights' }
  return null
}

/** The Edge TPU: a full-integer TFLite file under its compiler's rules, with every operator's place. */
export function edgeTpuTarget(
  options: Omit<TfliteOptions, 'container' | 'integerIO' | 'packedWeights'> & { readonly integerIO: boolean },
): Target<'integer'> {
  // Dense layers have one scale: its compiler is older than per-channel ones.
  const base = tfliteTarget({ ...options, container: 'int8', packedWeights: false }, false)
  return {
    ...base,
    name: 'edgetpu',
    prepare: (graph) => runPasses(narrowAxes(base.prepare(graph)), [simplify]),
    emit(graph: Graph<'integer'>, stem, metadata): Artifact {
      const { bytes, channelsLast } = writeModel(graph, { batch: 1, metadata, description: `dqc ${options.version}` })
      return {
        files: [{ path: `${stem}.tflite`, bytes }],
        storage: { weights: 8, activations: 8 },
        channelsLast,
        mapping: mapEdgeTpu(parseModel(bytes)),
        memory: null,
      }
    },
  }
}

/**
 * Fewer axes for the same data: transposes move runs of neighbouring axes as one (a channel shuffle of five axes needs three), and dense
 * layers on a single row see it as one.
 */
function narrowAxes(graph: Graph<'float'>): Graph<'float'> {
  return rewrite(graph, (b, node, inputs) => {
    const x = inputs[0]
    const s = x?.shape
    if (!x || !s) return null
    if (node.op === core.transpose && s.length > 4 && s.filter((d) => typeof d === 'string').length <= 1) {
      const perm = node.attrs.perm as readonly number[]
      // Runs of axes that stay together, axes of size 1 left out.
      const runs: number[][] = []
      for (const p of perm) {
        if (s[p] === 1) continue
        const last = runs.at(-1)
        const between = last ? s.slice(last.at(-1)! + 1, p) : []
        if (last && p > last.at(-1)! && between.every((d) => d === 1) && typeof s[last[0]!] === 'number' && typeof s[p] === 'number')
          last.push(p)
        else runs.push([p])
      }
      if (runs.length > 4) return null
      const source = [...runs].sort((p, q) => p[0]! - q[0]!)
      const sizes = source.map((run) =>
        run.map((a) => s[a]!).reduce<core.Dim>((p, d) => (typeof p === 'number' && typeof d === 'number' ? p * d : d), 1),
      )
      const merged = b.emit(core.reshape, [x], { shape: core.reshapeTarget(s, sizes) })
      const turned = b.emit(core.transpose, [merged], { perm: runs.map((r) => source.indexOf(r)) })
      return b.add(
        core.reshape,
        [turned],
        { shape: core.reshapeTarget(shapeOf(turned), shapeOf(node.outputs[0])) },
        { outputs: [node.outputs[0]!.name] },
      )
    }
    if (node.op === core.dense && s.length > 2 && s.slice(1, -1).every((d) => d === 1)) {
      const row = b.emit(core.reshape, [x], { shape: [0, s.at(-1) as number] })
      const y = b.emit(core.dense, [row, ...inputs.slice(1)], {}, { name: node.name })
      return b.add(
        core.reshape,
        [y],
        { shape: core.reshapeTarget(shapeOf(y), shapeOf(node.outputs[0])) },
        { outputs: [node.outputs[0]!.name] },
      )
    }
    return null
  })
}
