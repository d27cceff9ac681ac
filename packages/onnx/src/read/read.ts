import {
  type Builder,
  CompileError,
  createBuilder,
  type Dim,
  type DType,
  errors,
  foreign,
  type Graph,
  isConstant,
  isFloat,
  type Node,
  numbersOf,
  type Tensor,
  type TensorType,
  tensorOf,
  type Value,
} from '@dqc/core'
import {
  type AttributeProto,
  decodeModel,
  type GraphProto,
  type ModelProto,
  type NodeProto,
  toNumber,
  type ValueInfoProto,
} from '../proto/messages.ts'
import { dtypeOf, type LoadExternal, readSparse, readTensor, subByteEnds } from '../proto/tensors.ts'
import { quantizedReads, reads } from '../spelling/index.ts'
import type { ContainerGrid } from '../spelling/quantized.ts'
import { Foreign, type NodeReader, type Read } from '../spelling/spelling.ts'
import { createSizes, type Sizes } from './sizes.ts'

export interface ReadOptions {
  /** Reads external data by a path relative to the model. Without it, models with external data are refused. */
  readonly loadExternal?: LoadExternal
  /** Sizes that replace an input's declared ones. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>
}

/** One source node and the IR nodes it became. */
export interface Spelling {
  readonly proto: NodeProto
  readonly nodes: readonly Node[]
}

/** What a graph read from ONNX remembers for being written as ONNX again. */
export interface OnnxOrigin {
  readonly format: 'onnx'
  readonly model: ModelProto
  readonly spellings: ReadonlyMap<Node, Spelling>
  /** Source nodes that became constants, by the names of their outputs. */
  readonly constants: ReadonlyMap<string, NodeProto>
  /** Version of the default operator set that the model declares. */
  readonly opset: number
}

export const onnxOriginOf = (graph: Graph): OnnxOrigin | null => {
  const o = graph.origin as OnnxOrigin | null
  return o?.format === 'onnx' ? o : null
}

/** What a node that is only carried remembers of its file. */
export interface ForeignNode {
  readonly proto: NodeProto
  /** Names that its subgraphs know its further inputs by, behind those of the node itself. */
  readonly captures: readonly string[]
  /** Version of the default operator set that says what it means. */
  readonly opset: number
  /** Versions of the other operator sets that the file declares, by domain. */
  readonly domains: ReadonlyMap<string, number>
}

export const DEFAULT_DOMAINS: ReadonlySet<string> = new Set(['', 'ai.onnx'])
const text = new TextDecoder()

/** Bytes of a ModelProto → message. Throws CompileError when they are none. */
export function parseModel(bytes: Uint8Array): ModelProto {
  let model: ModelProto
  try {
    model = decodeModel(bytes)
  } catch (e) {
    const what = e instanceof Error ? e.message : String(e)
    throw errors.badModel(
      /recursion|depth|exceeded/i.test(what) ? 'messages are nested too deeply' : `not an ONNX model: ${what}`,
      null,
      'the file is damaged or of another format',
    )
  }
  if (!model.graph) throw errors.badModel('the file holds no graph', null, 'the file is damaged or of another format')
  return model
}

/**
 * Reads an ONNX model (IR 3–13, opsets 7–26; others as far as their ops mean the same) into a float graph. Nodes outside core's vocabulary are carried as `foreign`.
 * Throws CompileError when the file is malformed or contradicts itself.
 */
export function readModel(bytes: Uint8Array, options: ReadOptions = {}): Graph<'float'> {
  return modelToGraph(parseModel(bytes), options)
}

/** The message → graph half of {@link readModel}. */
export const modelToGraph = (model: ModelProto, options: ReadOptions = {}): Graph<'float'> => build(model, options, 'float')

/**
 * Reads integer kernels (QuantizeLinear, QLinearConv …) as the real numbers that their integers stand for, rounding included, so that
 * quantized files have gradients.
 */
export const modelToRealGraph = (model: ModelProto, options: ReadOptions = {}): Graph<'qdq'> => build(model, options, 'qdq')

function build<L extends 'float' | 'qdq'>(model: ModelProto, options: ReadOptions, level: L): Graph<L> {
  const graph = model.graph!
  const load: LoadExternal =
    options.loadExternal ??
    ((location) => {
      throw errors.badModel(`external data ${location} cannot be read here`, null, 'open the model by its path')
    })
  const opset = toNumber(model.opsetImport?.find((o) => DEFAULT_DOMAINS.has(o.domain ?? ''))?.version ?? 0) || 1
  const imports = new Set((model.opsetImport ?? []).map((o) => o.domain ?? ''))
  if (model.graph!.node?.some((n) => DEFAULT_DOMAINS.has(n.domain ?? '')) && ![...imports].some((d) => DEFAULT_DOMAINS.has(d)))
    throw errors.badModel('the model declares no version of the default operator set', 'opset_import')

  const b = createBuilder()
  const values = new Map<string, Value>()
  const spellings = new Map<Node, Spelling>()
  const constants = new Map<string, NodeProto>()
  const sizes = createSizes()
  const declared = new Map<string, TensorType>()
  for (const v of [...(graph.valueInfo ?? []), ...(graph.output ?? [])]) if (v.name) declared.set(v.name, typeOf(v))

  const hold = (name: string, t: Tensor | null): void => {
    // Tensors that core cannot hold stay with the source message; whoever uses them is foreign.
    values.set(name, t ? b.constant(t, name) : { name, dtype: 'opaque', shape: null, data: null, quant: null })
  }
  for (const t of graph.initializer ?? []) {
    if (!t.name) throw errors.badModel('an initializer has no name')
    if (values.has(t.name)) throw errors.badModel('two initializers have one name', `initializer ${t.name}`)
    hold(t.name, readTensor(t, load, `initializer ${t.name}`))
  }
  for (const s of graph.sparseInitializer ?? []) hold(s.values?.name ?? '', readSparse(s, load, `sparse initializer ${s.values?.name}`))

  const unknown = new Set(Object.keys(options.shapes ?? {}))
  for (const info of graph.input ?? []) {
    const name = info.name ?? ''
    unknown.delete(name)
    if (values.has(name)) continue
    const type = typeOf(info)
    const given = options.shapes?.[name]
    if (given && type.shape && given.length !== type.shape.length)
      throw errors.usage(`--shape ${name} has ${given.length} sizes, the input ${type.shape.length}`)
    if (given && type.shape?.some((d, i) => typeof d === 'number' && d !== given[i]))
      throw errors.usage(`input ${name} has the fixed shape [${type.shape}]`, null, '--shape is for symbolic sizes')
    const shape = given ?? type.shape?.map((d, i) => (d === '?' ? `${name}_${i}` : d)) ?? null
    values.set(name, b.input(name, { dtype: type.dtype, shape }))
  }
  if (unknown.size > 0)
    throw errors.usage(
      `the model has no input ${[...unknown].join(', ')}`,
      null,
      `its inputs are ${(graph.input ?? []).map((v) => v.name).join(', ')}`,
    )

  // Results that nobody asks for (a Dropout's mask) put no demand on the node.
  const asked = new Set<string>((graph.output ?? []).map((o) => o.name ?? ''))
  for (const n of graph.node ?? []) for (const i of [...(n.input ?? []), ...capturesOf(n)]) asked.add(i)
  const domains = new Map(
    (model.opsetImport ?? []).filter((o) => !DEFAULT_DOMAINS.has(o.domain ?? '')).map((o) => [o.domain ?? '', toNumber(o.version)]),
  )
  const scope: Scope = {
    asked,
    b,
    values,
    sizes,
    declared,
    load,
    opset,
    domains,
    spellings,
    constants,
    grids: level === 'qdq' ? new Map() : null,
  }
  for (const t of graph.initializer ?? []) {
    const ends = subByteEnds(t.dataType)
    if (ends) scope.grids?.set(values.get(t.name!)!, { scale: [1], zero: [0], axis: null, ...ends })
  }
  for (const proto of sortNodes(graph, values)) readNode(scope, proto)

  const outputs = (graph.output ?? []).map((o) => {
    const v = values.get(o.name ?? '')
    if (!v) throw errors.badModel(`output ${o.name} is never made`)
    return v
  })
  if (outputs.length === 0) throw errors.badModel('the graph has no outputs')
  const origin: OnnxOrigin = { format: 'onnx', model, spellings, constants, opset }
  return b.build(level, outputs, { name: graph.name ?? '', outputNames: (graph.output ?? []).map((o) => o.name ?? ''), origin })
}

function typeOf(info: ValueInfoProto): TensorType {
  const t = info.type?.tensorType
  if (!t) return { dtype: 'opaque', shape: null }
  const shape = t.shape
    ? (t.shape.dim ?? []).map((d): Dim => {
        // Absent fields read as their defaults; only what the file holds counts.
        if (Object.hasOwn(d, 'dimValue')) {
          const n = toNumber(d.dimValue)
          if (n > 2 ** 40) throw errors.badModel(`a size of ${n}`, `value ${info.name}`)
          return n >= 0 ? n : '?'
        }
        return d.dimParam || '?'
      })
    : null
  return { dtype: dtypeOf(t.elemType), shape }
}

/** The graphs that a node holds in its attributes: branches and loop bodies. */
export const subgraphsOf = (node: NodeProto): GraphProto[] =>
  (node.attribute ?? []).flatMap((a) => [...(a.g ? [a.g] : []), ...(a.graphs ?? [])])

/** A node, its subgraphs' nodes, theirs and so on. */
export const withInner = (node: NodeProto): NodeProto[] => [node, ...subgraphsOf(node).flatMap((g) => (g.node ?? []).flatMap(withInner))]

/** Names that a node's subgraphs make for themselves. */
export const innerNames = (node: NodeProto): string[] =>
  subgraphsOf(node).flatMap((g) => [
    ...(g.input ?? []).map((v) => v.name ?? ''),
    ...(g.initializer ?? []).map((t) => t.name ?? ''),
    ...(g.node ?? []).flatMap((n) => [...(n.output ?? []), ...innerNames(n)]),
  ])

/** A node whose subgraphs take values from outside by other names. */
export function renameCaptures(node: NodeProto, names: ReadonlyMap<string, string>): NodeProto {
  if ([...names].every(([from, to]) => from === to)) return node
  const rename = (n: string): string => names.get(n) ?? n
  const within = (g: GraphProto): GraphProto => ({
    ...g,
    node: (g.node ?? []).map((n) => ({ ...renameCaptures(n, names), input: (n.input ?? []).map(rename) })),
    output: (g.output ?? []).map((o) => (o.name && names.has(o.name) ? { ...o, name: rename(o.name) } : o)),
  })
  return {
    ...node,
    attribute: (node.attribute ?? []).map((a) => ({
      ...a,
      ...(a.g ? { g: within(a.g) } : {}),
      ...(a.graphs?.length ? { graphs: a.graphs.map(within) } : {}),
    })),
  }
}

/** Names that a node's subgraphs take from outside. */
export function capturesOf(node: NodeProto): string[] {
  const taken = new Set<string>()
  const visit = (g: GraphProto): void => {
    const own = new Set<string>([...(g.input ?? []).map((v) => v.name ?? ''), ...(g.initializer ?? []).map((t) => t.name ?? '')])
    const inner = new Set<string>()
    for (const n of g.node ?? []) {
      for (const i of [...(n.input ?? []), ...capturesOf(n)]) if (i !== '' && !own.has(i)) inner.add(i)
      for (const o of n.output ?? []) own.add(o)
    }
    for (const o of g.output ?? []) if (o.name && !own.has(o.name)) inner.add(o.name)
    for (const n of inner) taken.add(n)
  }
  for (const g of subgraphsOf(node)) visit(g)
  return [...taken]
}

/** Nodes in an order in which everything is made before it is used; the file's own order where that is one. Throws on cycles. */
function sortNodes(graph: GraphProto, given: ReadonlyMap<string, Value>): NodeProto[] {
  const nodes = graph.node ?? []
  const makers = new Map<string, NodeProto>()
  for (const n of nodes)
    for (const o of n.output ?? []) {
      if (o === '') continue
      if (makers.has(o) || given.has(o)) throw errors.badModel(`${o} is made twice`, `node ${n.name || n.opType}`)
      makers.set(o, n)
    }
  const needs = (n: NodeProto): string[] => [...(n.input ?? []).filter((i) => i !== ''), ...capturesOf(n).filter((c) => makers.has(c))]
  const state = new Map<NodeProto, 1 | 2>()
  const sorted: NodeProto[] = []
  for (const root of nodes) {
    if (state.get(root) === 2) continue
    const stack: { node: NodeProto; names: string[]; at: number }[] = [{ node: root, names: needs(root), at: 0 }]
    state.set(root, 1)
    while (stack.length > 0) {
      const top = stack.at(-1)!
      const name = top.names[top.at++]
      if (name === undefined) {
        state.set(top.node, 2)
        sorted.push(top.node)
        stack.pop()
        continue
      }
      if (given.has(name)) continue
      const maker = makers.get(name)
      if (!maker)
        throw errors.badModel(
          `${name} is used but nothing makes it`,
          `node ${top.node.name || top.node.opType}`,
          'a missing initializer or a misspelt name',
        )
      if (state.get(maker) === 2) continue
      if (state.get(maker) === 1) throw errors.badModel('the graph has a cycle', `node ${maker.name || maker.opType}`)
      state.set(maker, 1)
      stack.push({ node: maker, names: needs(maker), at: 0 })
    }
  }
  return sorted
}

interface Scope {
  readonly asked: ReadonlySet<string>
  readonly b: Builder
  readonly values: Map<string, Value>
  readonly sizes: Sizes
  readonly declared: ReadonlyMap<string, TensorType>
  readonly load: LoadExternal
  readonly opset: number
  readonly domains: ReadonlyMap<string, number>
  readonly spellings: Map<Node, Spelling>
  readonly constants: Map<string, NodeProto>
  /** Grids of integers read as real numbers; null when integers are carried as they are. */
  readonly grids: Map<Value, ContainerGrid> | null
}

/** Operators for real numbers that are also met with integers that stand for them, or constants that will. */
const BOTH: ReadonlySet<string> = new Set(['Clip', 'Cast', 'Pad'])
/** Operators that take integers off their grid. */
const LEAVING: ReadonlySet<string> = new Set(['DequantizeLinear', 'Cast'])

/** The rule for a node, if dqc has one. */
function ruleOf(scope: Scope, proto: NodeProto, inputs: readonly (Value | null)[]): Read | undefined {
  const type = proto.opType ?? ''
  const isDefault = DEFAULT_DOMAINS.has(proto.domain ?? '')
  const integers = (v: Value | null | undefined): boolean => v != null && (scope.grids!.has(v) || (isConstant(v) && !isFloat(v.dtype)))
  if (scope.grids && (!BOTH.has(type) || integers(inputs[0]))) {
    const rule = quantizedReads.get(isDefault ? type : `${proto.domain}:${type}`)
    if (rule) return rule
  }
  return isDefault ? reads.get(type) : undefined
}

function readNode(scope: Scope, proto: NodeProto): void {
  const { b, values } = scope
  const where = `node ${proto.name || proto.output?.[0] || proto.opType}`
  const type = proto.opType ?? ''
  const isDefault = DEFAULT_DOMAINS.has(proto.domain ?? '')
  const attributes = new Map((proto.attribute ?? []).map((a) => [a.name ?? '', a]))
  const inputs = (proto.input ?? []).map((n) => (n === '' ? null : values.get(n)!))
  const outputs = proto.output ?? []

  if (isDefault && type === 'Constant') {
    const t = constantOf(attributes, scope.load, where)
    const name = outputs[0] ?? ''
    values.set(
      name,
      t ? b.constant(t, name) : { name, ...(scope.declared.get(name) ?? { dtype: 'opaque', shape: null }), data: null, quant: null },
    )
    const ends = subByteEnds(attributes.get('value')?.t?.dataType)
    if (ends) scope.grids?.set(values.get(name)!, { scale: [1], zero: [0], axis: null, ...ends })
    scope.constants.set(name, proto)
    return
  }

  const before = b.nodes.length
  let made: readonly (Value | null)[] | null = null
  let reason = ''
  try {
    const rule = ruleOf(scope, proto, inputs)
    if (!rule) throw new Foreign(isDefault ? `${type} is not in dqc's vocabulary` : `the operator set ${proto.domain} is not known`)
    const opaque = inputs.find((v) => v?.dtype === 'opaque')
    if (opaque) throw new Foreign(`${opaque.name} is of a type that is only carried`)
    const result = rule(nodeReader(scope, proto, inputs, attributes, where))
    made = Array.isArray(result) ? (result as readonly (Value | null)[]) : [result as Value]
  } catch (e) {
    const cannotTell = e instanceof Foreign || (e instanceof CompileError && e.code === 'unsupported-model')
    if (!cannotTell)
      throw e instanceof CompileError && (e.where === null || !e.where.startsWith('node '))
        ? new CompileError(e.code, e.kind, e.what, where, e.hint)
        : e
    reason = (e as Error).message
  }
  if (made) {
    const nodes = b.nodes.slice(before)
    const spelling: Spelling = { proto, nodes }
    for (const n of nodes) {
      scope.spellings.set(n, spelling)
      scope.sizes.follow(n)
    }
    // Ops that move integers leave them on their grid.
    const own = inputs[0] ? scope.grids?.get(inputs[0]) : undefined
    const reversed = inputs[0]?.shape ? inputs[0].shape.map((_, i) => inputs[0]!.shape!.length - 1 - i) : null
    const grid = own && moved(own, type, attributes.get('perm')?.ints?.map(toNumber) ?? reversed)
    const constant = scope.grids && made.length === 1 ? foldedIntegers(b, inputs, made[0]!) : null
    if (constant) made = [constant]
    outputs.forEach((name, i) => {
      const v = made![i]
      if (name !== '' && v) values.set(name, v)
      const stays = v && (isConstant(v) ? !isFloat(v.dtype) : isFloat(v.dtype) && !LEAVING.has(type))
      if (grid && stays && !scope.grids!.has(v)) scope.grids!.set(v, grid)
    })
    if (nodes.length === 0) for (const name of outputs) scope.constants.set(name, proto)
    return
  }
  // Half-made nodes of the rule that gave up have no users and are pruned; the foreign node stands for all of it.
  const captures = capturesOf(proto).filter((n) => values.has(n))
  const payload: ForeignNode = { proto, captures, opset: scope.opset, domains: scope.domains }
  const types = outputs.map((n) => scope.declared.get(n) ?? { dtype: 'opaque' as DType, shape: null })
  const outs = b.add(
    foreign,
    [...inputs, ...captures.map((n) => values.get(n)!)],
    { type: isDefault ? type : `${proto.domain}:${type}`, reason, payload },
    {
      name: proto.name ?? '',
      types,
      outputs: outputs.map((n) => n),
    },
  )
  scope.spellings.set(b.nodes.at(-1)!, { proto, nodes: [b.nodes.at(-1)!] })
  outputs.forEach((name, i) => {
    if (name !== '') values.set(name, outs[i]!)
  })
}

/** Operators that leave every axis where it is. */
const IN_PLACE: ReadonlySet<string> = new Set(['Identity', 'Relu', 'Clip', 'MaxPool', 'Dropout', 'Cast'])

/** A grid behind an operator that moves integers; its axis is no number (and equals none) where it is not known which one its scales belong to. */
function moved(g: ContainerGrid, type: string, perm: readonly number[] | null): ContainerGrid {
  if (g.axis === null || IN_PLACE.has(type)) return g
  return { ...g, axis: type === 'Transpose' && perm ? perm.indexOf(g.axis) : Number.NaN }
}

/** Integer constants that are moved or cast before they are weights: a constant again, so that whoever dequantizes them knows it. */
function foldedIntegers(b: Builder, inputs: readonly (Value | null)[], made: Value | null): Value | null {
  const node = made && b.producer(made)
  if (!node || !isConstant(inputs[0]) || isFloat(inputs[0].dtype) || isFloat(made.dtype) || !node.inputs.every((v) => isConstant(v)))
    return null
  return b.constant(
    node.op.eval(
      node.inputs.map((v) => v!.data),
      node.attrs,
    )[0]!,
    made.name,
  )
}

function constantOf(attributes: ReadonlyMap<string, AttributeProto>, load: LoadExternal, where: string): Tensor | null {
  const one = [...attributes.values()][0]
  if (!one) throw errors.badModel('a Constant without a value', where)
  switch (one.name) {
    case 'value':
      return one.t ? readTensor(one.t, load, where) : null
    case 'sparse_value':
      return one.sparseTensor ? readSparse(one.sparseTensor, load, where) : null
    case 'value_float':
      return tensorOf('float32', [], [one.f ?? 0])
    case 'value_int':
      return { dtype: 'int64', shape: [], data: BigInt64Array.of(BigInt((one.i ?? 0).toString())) }
    case 'value_floats':
      return tensorOf('float32', [one.floats?.length ?? 0], one.floats ?? [])
    case 'value_ints':
      return { dtype: 'int64', shape: [one.ints?.length ?? 0], data: BigInt64Array.from((one.ints ?? []).map((v) => BigInt(v.toString()))) }
    default:
      return null
  }
}

function nodeReader(
  scope: Scope,
  proto: NodeProto,
  inputs: readonly (Value | null)[],
  attributes: ReadonlyMap<string, AttributeProto>,
  where: string,
): NodeReader {
  const { b } = scope
  // Split counts its outputs; for every other op, trailing results that nobody uses do not count.
  const names = proto.output ?? []
  const made =
    proto.opType === 'Split'
      ? names.length
      : names.reduce((n, name, i) => (name !== '' && (i === 0 || scope.asked.has(name)) ? i + 1 : n), 0)
  let emitted = 0
  const constantAt =
    (from: readonly (Value | null)[]) =>
    (i: number): number[] | null => {
      const v = from[i]
      if (!v) return null
      if (isConstant(v)) return Array.from(numbersOf(v.data) as Float64Array)
      const known = scope.sizes.of(v)
      if (known?.every((d) => typeof d === 'number')) return known as number[]
      throw new Foreign(`input ${i} of ${proto.opType} is computed at run time`)
    }
  const r: NodeReader = {
    b,
    type: proto.opType ?? '',
    opset: scope.opset,
    inputCount: inputs.length,
    outputCount: made,
    maybe: (i) => inputs[i] ?? null,
    input(i) {
      const v = inputs[i]
      if (!v) throw errors.badModel(`${proto.opType} lacks its input ${i}`, where)
      return v
    },
    constant: constantAt(inputs),
    sizes(i) {
      const v = inputs[i]
      if (!v) return null
      if (isConstant(v)) return Array.from(numbersOf(v.data) as Float64Array)
      const known = scope.sizes.of(v)
      if (!known) throw new Foreign(`input ${i} of ${proto.opType} is computed at run time`)
      return known
    },
    int(name, fallback) {
      const a = attributes.get(name)
      if (a?.i !== undefined && a.i !== null) return toNumber(a.i)
      if (fallback === undefined) throw errors.badModel(`${proto.opType} lacks its attribute ${name}`, where)
      return fallback
    },
    float: (name, fallback) => attributes.get(name)?.f ?? fallback,
    string: (name, fallback) => (attributes.get(name)?.s?.length ? text.decode(attributes.get(name)!.s) : fallback),
    ints: (name) => (attributes.has(name) ? (attributes.get(name)!.ints ?? []).map(toNumber) : null),
    floats: (name) => attributes.get(name)?.floats ?? null,
    tensor: (name) => {
      const t = attributes.get(name)?.t
      return t ? readTensor(t, scope.load, where) : null
    },
    has: (name) => attributes.has(name),
    grids: scope.grids ?? new Map(),
    rule(type, ins) {
      const result = reads.get(type)!({
        ...r,
        type,
        inputCount: ins.length,
        maybe: (i) => ins[i] ?? null,
        input: (i) => ins[i]!,
        constant: constantAt(ins),
      })
      return (Array.isArray(result) ? result[0] : result) as Value
    },
    emit: (op, ins, attrs) => {
      const name = proto.output?.[0]
      emitted++
      return b.emit(op, ins, attrs, { name: proto.name ?? '', ...(name && emitted === 1 ? { outputs: proto.output! } : {}) })
    },
  }
  return r
}
