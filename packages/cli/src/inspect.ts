import { countMacs, errors, type Graph, type MappedOperator, numbersOf } from '@dqc/core'
import { onnxOriginOf, parseModel, readTensor } from '@dqc/onnx'
import { edgeTpuMapping, type FileFacts, tfliteFacts } from './inspectTflite.ts'
import { type OpenedModel, openModel } from './model.ts'
import { VERSION } from './version.ts'

export interface Inspection {
  readonly schema: 'dqc-inspection-1'
  readonly version: string
  readonly path: string
  readonly sha256: string
  readonly format: string
  readonly bytes: number
  readonly producer: string
  readonly irVersion: number
  readonly opsets: Readonly<Record<string, number>>
  readonly metadata: Readonly<Record<string, string>>
  readonly inputs: readonly TensorFacts[]
  readonly outputs: readonly TensorFacts[]
  /** Nodes per op type of the file. */
  readonly ops: Readonly<Record<string, number>>
  /** Nodes that dqc only carries, with the reason. */
  readonly foreign: readonly { readonly name: string; readonly type: string; readonly reason: string }[]
  readonly nodes: readonly { readonly name: string; readonly op: string; readonly outputs: readonly string[]; readonly shape: string }[]
  readonly parameters: number
  /** Bytes of stored constants by element type. */
  readonly storage: Readonly<Record<string, number>>
  readonly macs: number
  /** Integer weights of quantized layers: container, and the bits that their values need. */
  readonly quantization: readonly {
    readonly name: string
    readonly type: string
    readonly shape: readonly number[]
    readonly bits: number
    readonly scales: number
  }[]
  /** Grids of activations that the file holds as integers (TFLite). */
  readonly activations: readonly { readonly name: string; readonly type: string; readonly scale: number; readonly zeroPoint: number }[]
  /** With `target`: where each operator would run, why, and what would change it. */
  readonly mapping: readonly MappedOperator[] | null
}

export interface InspectOptions {
  /** Sizes of inputs whose shape is symbolic. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>
  /** edgetpu: say where each operator of a TFLite file would run. */
  readonly target?: 'edgetpu'
}

export interface TensorFacts {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly (number | string)[] | null
}

/** Position of the weights and their scale among the inputs of nodes that read integers. */
const WEIGHTS: Readonly<Record<string, readonly [number, number]>> = {
  QLinearConv: [3, 4],
  QLinearMatMul: [3, 4],
  QGemm: [3, 4],
  DequantizeLinear: [0, 1],
  ConvInteger: [1, 1],
  MatMulInteger: [1, 1],
}

/** Facts about any ONNX or TFLite file. Throws CompileError when it cannot be read. */
export function inspect(model: string | Uint8Array, options: InspectOptions = {}): Inspection {
  const opened = openModel(model, options.shapes ? { shapes: options.shapes } : {})
  if (options.target && (options.target !== 'edgetpu' || opened.format !== 'tflite'))
    throw errors.usage(`--target ${options.target}: the Edge TPU's rules apply to TFLite files`, opened.path)
  const facts = opened.format === 'tflite' ? tfliteFacts(opened) : onnxFacts(opened)
  return {
    schema: 'dqc-inspection-1',
    version: VERSION,
    path: opened.path,
    sha256: opened.sha256,
    format: opened.format,
    bytes: opened.bytes.length,
    ...facts,
    mapping: options.target ? edgeTpuMapping(opened) : null,
  }
}

function onnxFacts(opened: OpenedModel): FileFacts {
  // Integer kernels are shown as what they compute, where dqc can read them so.
  const graph = opened.graph.nodes.some((n) => n.op.name === 'foreign') ? opened.real() : opened.graph
  const message = parseModel(opened.runnable)
  const protos = message.graph?.node ?? []
  const ops: Record<string, number> = {}
  for (const n of protos) {
    const type = n.domain && n.domain !== 'ai.onnx' ? `${n.domain}:${n.opType}` : (n.opType ?? '')
    ops[type] = (ops[type] ?? 0) + 1
  }
  const storage: Record<string, number> = {}
  let parameters = 0
  const tensors = new Map<string, NonNullable<ReturnType<typeof readTensor>>>()
  for (const t of message.graph?.initializer ?? []) {
    const data = readTensor(t, () => new Uint8Array(), `initializer ${t.name}`)
    if (!data) continue
    tensors.set(t.name ?? '', data)
    parameters += data.data.length
    const name = { 21: 'uint4', 22: 'int4', 25: 'uint2', 26: 'int2' }[t.dataType ?? 0] ?? data.dtype
    storage[name] = (storage[name] ?? 0) + (t.rawData?.length || data.data.byteLength)
  }
  const quantization = protos.flatMap((n) => {
    const at = WEIGHTS[n.opType ?? '']
    const w = at ? tensors.get(n.input?.[at[0]] ?? '') : undefined
    // Biases are wider than any weight.
    if (!at || !w || w.dtype === 'int32' || w.dtype === 'float32') return []
    const scale = tensors.get(n.input?.[at[1]] ?? '')
    return [{ name: n.input![at[0]]!, type: w.dtype, shape: w.shape, bits: bitsOf(numbersOf(w)), scales: scale?.data.length ?? 0 }]
  })
  return {
    producer: [message.producerName, message.producerVersion].filter(Boolean).join(' '),
    irVersion: Number(message.irVersion ?? 0),
    opsets: Object.fromEntries((message.opsetImport ?? []).map((o) => [o.domain || 'ai.onnx', Number(o.version)])),
    metadata: Object.fromEntries((message.metadataProps ?? []).map((p) => [p.key ?? '', p.value ?? ''])),
    inputs: opened.graph.inputs.map(factsOf),
    outputs: opened.graph.outputs.map((v, i) => ({ ...factsOf(v), shape: graph.outputs[i]!.shape, name: graph.outputNames[i]! })),
    ops: Object.fromEntries(Object.entries(ops).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))),
    foreign: graph.nodes
      .filter((n) => n.op.name === 'foreign')
      .map((n) => ({ name: n.name || (n.outputs[0]?.name ?? ''), type: n.attrs.type, reason: n.attrs.reason })),
    nodes: nodesOf(graph),
    parameters,
    storage,
    macs: countMacs(graph),
    quantization,
    activations: [],
    mapping: null,
  }
}

const factsOf = (v: Graph['inputs'][number]): TensorFacts => ({ name: v.name, dtype: v.dtype, shape: v.shape })

/** One row per node of the file, in order; a node that became several ops has the shape of the last. */
const nodesOf = (graph: Graph): Inspection['nodes'] => {
  const origin = onnxOriginOf(graph)
  const seen = new Set<unknown>()
  return graph.nodes.flatMap((n) => {
    const spelling = origin?.spellings.get(n)
    if (!spelling || seen.has(spelling)) return []
    seen.add(spelling)
    const { proto, nodes } = spelling
    const type = proto.domain && proto.domain !== 'ai.onnx' ? `${proto.domain}:${proto.opType}` : (proto.opType ?? '')
    const shape = nodes.at(-1)!.outputs[0]?.shape
    return [
      {
        name: proto.name || (proto.output?.[0] ?? ''),
        op: type,
        outputs: proto.output ?? [],
        shape: shape ? `[${shape.join(', ')}]` : '?',
      },
    ]
  })
}

/** Bits of the smallest signed symmetric grid that holds the values. */
export function bitsOf(values: ArrayLike<number>): number {
  let lo = 0
  let hi = 0
  for (let i = 0; i < values.length; i++) {
    lo = Math.min(lo, values[i]!)
    hi = Math.max(hi, values[i]!)
  }
  return Math.ceil(Math.log2(Math.max(-lo, hi + 1))) + 1
}
