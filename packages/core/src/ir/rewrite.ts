import { type Builder, createBuilder } from './builder.ts'
import type { Graph, Level, Node, Value } from './graph.ts'

/** What a visit may answer: replacements for the node's outputs, or null to keep the node. */
export type Visit = (b: Builder, node: Node, inputs: readonly (Value | null)[]) => readonly Value[] | null

/** Copies a node onto new inputs; the same node when nothing changed, so that origins survive. */
export function keep(b: Builder, node: Node, inputs: readonly (Value | null)[]): readonly Value[] {
  if (inputs.every((v, i) => v === node.inputs[i])) return b.adopt(node)
  return b.add(node.op, inputs, node.attrs, {
    name: node.name,
    quant: node.outputs[0]?.quant ?? null,
    outputs: node.outputs.map((v) => v.name),
    ...(node.op.name === 'foreign' ? { types: node.outputs } : {}),
  })
}

/** Nodes that reach an output. */
export function liveNodes(nodes: readonly Node[], outputs: readonly Value[]): Node[] {
  const live = new Set<Value>(outputs)
  const kept: Node[] = []
  for (let i = nodes.length - 1; i >= 0; i--) {
    const node = nodes[i]!
    if (!node.outputs.some((v) => live.has(v))) continue
    kept.push(node)
    for (const v of node.inputs) if (v) live.add(v)
  }
  return kept.reverse()
}

/** The one traversal: visits nodes in order, maps values, drops what no output needs. Returns the same graph when nothing changed. */
export function rewrite<L extends Level, M extends Level = L>(
  graph: Graph<L>,
  visit: Visit,
  level?: M,
  mapInput?: (v: Value) => Value,
): Graph<M> {
  const b = createBuilder('float32', new Set(graph.nodes.flatMap((n) => [...n.outputs, ...n.inputs].flatMap((v) => v?.name ?? []))))
  const map = new Map<Value, Value>()
  for (const v of graph.inputs) {
    const m = mapInput?.(v) ?? v
    b.input(m.name, m, m.quant)
    map.set(v, m)
  }
  const resolve = (v: Value): Value => map.get(v) ?? v
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((v) => (v ? resolve(v) : null))
    const outs = visit(b, node, inputs) ?? keep(b, node, inputs)
    node.outputs.forEach((v, i) => {
      if (outs[i]) map.set(v, outs[i])
    })
  }
  const outputs = graph.outputs.map(resolve)
  const built = b.build(level ?? (graph.level as unknown as M), outputs, { name: graph.name, outputNames: graph.outputNames })
  const nodes = liveNodes(built.nodes, outputs)
  const inputs = graph.inputs.map(resolve)
  if (
    (built.level as Level) === graph.level &&
    nodes.length === graph.nodes.length &&
    nodes.every((n, i) => n === graph.nodes[i]) &&
    inputs.every((v, i) => v === graph.inputs[i])
  )
    return graph as unknown as Graph<M>
  return Object.freeze({ ...built, inputs: Object.freeze(inputs), nodes: Object.freeze(nodes), origin: graph.origin })
}

/** Copies a graph's nodes into `b`, fed by `inputs`, and returns what its outputs became. */
export function inline(b: Builder, graph: Graph, inputs: readonly Value[]): Value[] {
  const map = new Map<Value, Value>(graph.inputs.map((v, i) => [v, inputs[i]!]))
  const resolve = (v: Value): Value => map.get(v) ?? v
  for (const node of graph.nodes) {
    const outs = b.add(
      node.op,
      node.inputs.map((v) => (v ? resolve(v) : null)),
      node.attrs,
      { name: node.name, outputs: node.outputs.map((v) => v.name), ...(node.op.name === 'foreign' ? { types: node.outputs } : {}) },
    )
    node.outputs.forEach((v, i) => map.set(v, outs[i]!))
  }
  return graph.outputs.map(resolve)
}

/** A graph without the nodes that no output needs. */
export const prune = <L extends Level>(graph: Graph<L>): Graph<L> => ({
  ...graph,
  nodes: Object.freeze(liveNodes(graph.nodes, graph.outputs)),
})
