import { type DType, errors, type Graph, type Node, type Op, type Tensor, type Value } from '@dqc/core'
import {
  encodeModel,
  type GraphProto,
  type ModelProto,
  type NodeProto,
  type TensorProto,
  type TypeProto,
  toNumber,
  type ValueInfoProto,
} from '../proto/messages.ts'
import { codeOf, writeTensor } from '../proto/tensors.ts'
import {
  capturesOf,
  DEFAULT_DOMAINS,
  type ForeignNode,
  innerNames,
  type OnnxOrigin,
  onnxOriginOf,
  renameCaptures,
  withInner,
} from '../read/read.ts'
import { writes } from '../spelling/index.ts'
import type { NodeWriter, Write } from '../spelling/spelling.ts'

/** Versions of the default operator set and the IR version that introduced them (ONNX "Versioning", released versions). */
const IR_OF_OPSET: readonly (readonly [number, number])[] = [
  [25, 13],
  [24, 12],
  [23, 11],
  [21, 10],
  [19, 9],
  [15, 8],
  [13, 7],
]
const irFor = (opset: number): number => IR_OF_OPSET.find(([o]) => opset >= o)?.[1] ?? 7

/** The operator set that rules write for; they raise it where an op is younger. */
export const BASE_OPSET = 18

/**
 * Versions of the default operator set that gave operators another meaning or form, and which nodes notice (ONNX "Operator Changelog"). An axis
 * that is not said is taken for one that matters.
 */
const CHANGES: Readonly<Record<string, readonly (readonly [number, (n: NodeProto) => boolean])[]>> = (() => {
  const has =
    (...names: readonly string[]) =>
    (n: NodeProto): boolean =>
      (n.attribute ?? []).some((a) => names.includes(a.name ?? ''))
  const always = (): boolean => true
  const inputs = (n: NodeProto): number => (n.input ?? []).filter((i) => i !== '').length
  const lastAxis = (n: NodeProto): boolean => (n.attribute ?? []).some((a) => a.name === 'axis' && toNumber(a.i ?? 0) === -1)
  const flattened = [[13, (n: NodeProto) => !lastAxis(n)]] as const
  const reductions = ['Max', 'Mean', 'Min', 'Prod', 'L1', 'L2', 'LogSum', 'LogSumExp', 'SumSquare']
  return {
    Softmax: flattened,
    LogSoftmax: flattened,
    Hardmax: flattened,
    Squeeze: [[13, has('axes')]],
    Unsqueeze: [[13, has('axes')]],
    ReduceSum: [[13, has('axes')]],
    ...Object.fromEntries(reductions.map((r) => [`Reduce${r}`, [[18, has('axes')] as const]])),
    Split: [
      [13, has('split')],
      [18, (n) => inputs(n) < 2],
    ],
    TopK: [[10, has('k')]],
    Slice: [[10, has('starts')]],
    Pad: [[11, has('pads', 'paddings')]],
    Clip: [[11, has('min', 'max')]],
    Dropout: [[12, has('ratio')]],
    Scatter: [[11, always]],
    Upsample: [[10, always]],
    Resize: [[11, always]],
    RoiAlign: [[16, (n) => !has('coordinate_transformation_mode')(n)]],
    Scan: [[9, always]],
    GridSample: [[20, has('mode')]],
    DFT: [[20, always]],
    GroupNormalization: [[21, always]],
  }
})()

/** A protobuf message ends at 2 GiB. */
const LARGEST = 2 ** 31 - 1

export interface WriteOptions {
  /** Rules that come before the common ones: a target's own spelling of integer ops. */
  readonly rules?: ReadonlyMap<Op, Write>
  readonly metadata?: Readonly<Record<string, string>>
  /** Further operator sets that the rules use, by domain. */
  readonly domains?: Readonly<Record<string, number>>
  /** Element type of a graph input or output, where the IR's differs from the file's. */
  readonly dtypeOf?: (v: Value) => DType
  /** Write the shape of every value between the nodes, for tools that infer none. */
  readonly valueInfo?: boolean
  readonly producer?: { readonly name: string; readonly version: string }
}

/**
 * Writes a graph as ONNX. Nodes that are still as an ONNX file spelt them are written the same way, with everything else that the file
 * held; the result of {@link readModel} therefore loses nothing. Throws CompileError when the message would exceed 2 GiB.
 */
export function writeModel(graph: Graph, options: WriteOptions = {}): Uint8Array {
  return encode(graphToModel(graph, options))
}

export function encode(model: ModelProto): Uint8Array {
  const bytes = (model.graph?.initializer ?? []).reduce((n, t) => n + (t.rawData?.length ?? 0), 0)
  if (bytes > LARGEST) throw errors.unsupportedTarget(`the model holds ${bytes} bytes of weights, one ONNX file at most ${LARGEST}`)
  return encodeModel(model)
}

/** The graph → message half of {@link writeModel}. */
export function graphToModel(graph: Graph, options: WriteOptions = {}): ModelProto {
  const origin = onnxOriginOf(graph)
  return origin && untouched(graph, origin) ? origin.model : canonical(graph, origin, options)
}

/** Whether every source node is still there as it was read. */
function untouched(graph: Graph, origin: OnnxOrigin): boolean {
  const present = new Set(graph.nodes)
  for (const node of graph.nodes) if (!origin.spellings.has(node)) return false
  return [...origin.spellings.keys()].every((n) => present.has(n))
}

/** A graph in the vocabulary of {@link BASE_OPSET} or the lowest later set that has all its ops. */
function canonical(graph: Graph, origin: OnnxOrigin | null, options: WriteOptions): ModelProto {
  const out = createWriter(graph, options)
  const carried = graph.nodes.filter((n) => n.op.name === 'foreign').map((n) => n.attrs.payload as ForeignNode)
  const domains = new Map<string, number>(Object.entries(options.domains ?? {}))
  for (const f of carried) {
    out.atLeast(f.opset)
    for (const { domain } of withInner(f.proto)) if (domain && f.domains.has(domain)) domains.set(domain, f.domains.get(domain)!)
  }
  for (const node of graph.nodes) out.write(node)
  const { nodes, initializers, opset } = out.finish()
  checkMeanings(carried, opset)
  const dtypeOf = options.dtypeOf ?? ((v: Value) => v.dtype)
  const proto: GraphProto = {
    name: graph.name || 'graph',
    node: nodes,
    initializer: initializers,
    input: graph.inputs.map((v) => valueInfo(out.name(v), v, dtypeOf(v))),
    output: graph.outputs.map((v, i) => valueInfo(graph.outputNames[i]!, v, dtypeOf(v))),
    ...(options.valueInfo
      ? {
          valueInfo: graph.nodes
            .flatMap((n) => n.outputs)
            .filter((v) => !graph.outputs.includes(v))
            .map((v) => valueInfo(out.name(v), v, dtypeOf(v))),
        }
      : {}),
  }
  return {
    irVersion: Math.max(irFor(opset), 8),
    opsetImport: [{ domain: '', version: opset }, ...[...domains].map(([domain, version]) => ({ domain, version }))],
    producerName: options.producer?.name ?? 'dqc',
    producerVersion: options.producer?.version ?? '',
    graph: proto,
    metadataProps: Object.entries(options.metadata ?? {}).map(([key, value]) => ({ key, value })),
    functions: origin && carried.length > 0 ? (origin.model.functions ?? []) : [],
  }
}

/** Nodes that are only carried mean what their own operator set says. Throws CompileError naming those that mean something else in the file's. */
function checkMeanings(carried: readonly ForeignNode[], opset: number): void {
  const changed = carried.flatMap((f) =>
    withInner(f.proto)
      .filter(
        (n) =>
          DEFAULT_DOMAINS.has(n.domain ?? '') && CHANGES[n.opType ?? '']?.some(([v, notices]) => f.opset < v && v <= opset && notices(n)),
      )
      .map((n) => `${n.opType} ${n.name || n.output?.[0]} of operator set ${f.opset}`),
  )
  if (changed.length)
    throw errors.unsupportedModel(
      `${changed.slice(0, 4).join(', ')}${changed.length > 4 ? ` and ${changed.length - 4} more` : ''} would mean something else in operator set ${opset}, which dqc writes`,
      null,
      `export the model with operator set ${BASE_OPSET} or newer; the first operator that dqc only carries is ${carried[0]!.proto.opType}, and what follows it is carried along; --shape settles sizes that are open`,
    )
}

function valueInfo(name: string, v: Value, dtype: DType): ValueInfoProto {
  const type: TypeProto = {
    tensorType: {
      elemType: codeOf(dtype),
      ...(v.shape
        ? { shape: { dim: v.shape.map((d) => (typeof d === 'number' ? { dimValue: d } : d === '?' ? {} : { dimParam: d })) } }
        : {}),
    },
  }
  return { name, type }
}

interface GraphWriter extends NodeWriter {
  write(node: Node): void
  name(v: Value): string
  finish(): { nodes: NodeProto[]; initializers: TensorProto[]; opset: number }
}

function createWriter(graph: Graph, options: WriteOptions): GraphWriter {
  const nodes: NodeProto[] = []
  const initializers: TensorProto[] = []
  const names = new Map<Value, string>()
  const taken = new Set<string>()
  const shared = new Map<string, string>()
  let opset = BASE_OPSET
  let counter = 0

  const fresh = (stem: string): string => {
    let name = stem || 'value'
    while (taken.has(name)) name = `${stem || 'value'}_${counter++}`
    taken.add(name)
    return name
  }
  const nodeNames = new Set<string>()
  /** A node's name: the one wanted, unless another node has it. No name at all is free to everyone. */
  const nodeName = (wanted: string): string => {
    let n = wanted
    for (let k = 1; n && nodeNames.has(n); k++) n = `${wanted}_${k}`
    nodeNames.add(n)
    return n
  }
  // Names that the outside knows come first: inputs and outputs. Those that subgraphs make are theirs.
  for (const n of graph.outputNames) taken.add(n)
  for (const n of graph.nodes)
    if (n.op.name === 'foreign') for (const inner of innerNames((n.attrs.payload as ForeignNode).proto)) taken.add(inner)
  for (const v of graph.inputs) {
    names.set(v, v.name)
    taken.add(v.name)
  }
  const finals: string[] = []
  graph.outputs.forEach((v, i) => {
    const wanted = graph.outputNames[i]!
    if (!names.has(v) && !v.data) names.set(v, wanted)
    else if (names.get(v) !== wanted) finals.push(wanted)
  })
  const name = (v: Value): string => {
    let n = names.get(v)
    if (n === undefined) {
      n = fresh(v.name)
      names.set(v, n)
      if (v.data) initializers.push(writeTensor(n, v.data))
    }
    return n
  }

  const writer: GraphWriter = {
    node(type, inputs, outputs, attributes = [], domain = '') {
      nodes.push({
        opType: type,
        name: nodeName(`${type}_${nodes.length}`),
        input: [...inputs],
        output: [...outputs],
        attribute: [...attributes],
        ...(domain ? { domain } : {}),
      })
    },
    temp: (stem) => fresh(`${stem}_t`),
    constant(t: Tensor, stem = 'c') {
      const key =
        t.data.length <= 64
          ? `${t.dtype}[${t.shape}]${Array.from(t.data as Float32Array, (x) => (Object.is(x, -0) ? '-0' : String(x)))}`
          : null
      const have = key === null ? undefined : shared.get(key)
      if (have) return have
      const n = fresh(stem)
      initializers.push(writeTensor(n, t))
      if (key !== null) shared.set(key, n)
      return n
    },
    raw(t) {
      const n = fresh(t.name ?? 'c')
      initializers.push({ ...t, name: n })
      return n
    },
    isOutput: (v) => graph.outputs.includes(v),
    atLeast(version) {
      opset = Math.max(opset, version)
    },
    name,
    write(node) {
      const ins = node.inputs.map((v) => (v ? name(v) : ''))
      const outs = node.outputs.map(name)
      if (node.op.name === 'foreign') {
        const { proto, captures } = node.attrs.payload as ForeignNode
        const own = (proto.input ?? []).length
        nodes.push({
          // Subgraphs reach outside by name.
          ...renameCaptures(proto, new Map(captures.map((c, i) => [c, ins[own + i]!]))),
          name: nodeName(proto.name ?? ''),
          input: ins.slice(0, own),
          output: outs.map((o, i) => (proto.output?.[i] === '' ? '' : o)),
        })
        return
      }
      const rule = options.rules?.get(node.op) ?? writes.get(node.op)
      if (!rule) throw errors.unsupportedTarget(`${node.op.name} has no ONNX form`, `node ${node.name || node.op.name}`)
      rule(writer, node, ins, outs)
    },
    finish() {
      for (const wanted of finals) {
        const v = graph.outputs[graph.outputNames.indexOf(wanted)]!
        writer.node('Identity', [name(v)], [wanted])
      }
      // A rule may store a constant in another form than it was given in; the given form is then nobody's.
      const used = new Set<string>(nodes.flatMap((n) => [...(n.input ?? []), ...capturesOf(n)]))
      return { nodes, initializers: initializers.filter((t) => used.has(t.name!)), opset }
    },
  }
  return writer
}
