import { errors } from '@dqc/core'
import type { AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto } from '../proto/messages.ts'

/** A few functions that call one another twice make any number of nodes. */
const MOST_NODES = 1e6
/** Calls nested deeper than this are taken for recursion, which ONNX forbids. */
const DEEPEST = 64

const keyOf = (domain: string | undefined, name: string | undefined, overload: string | undefined): string =>
  `${domain ?? ''}:${name ?? ''}:${overload ?? ''}`

/**
 * Replaces every call of a model-local function by the function's nodes, so that passes see through it (ONNX IR, "Functions").
 * Throws CompileError when functions call each other in a circle, or make more nodes than a network has.
 */
export function inlineFunctions(model: ModelProto): ModelProto {
  const functions = new Map((model.functions ?? []).map((f) => [keyOf(f.domain, f.name, f.overload), f]))
  if (functions.size === 0 || !model.graph) return model
  let calls = 0
  let made = 0
  const expand = (nodes: readonly NodeProto[], depth: number): NodeProto[] =>
    nodes.flatMap((node) => {
      const f = functions.get(keyOf(node.domain, node.opType, node.overload))
      if (!f) return [withSubgraphs(node, (g) => ({ ...g, node: expand(g.node ?? [], depth) }))]
      if (depth >= DEEPEST) throw errors.badModel('functions call each other without end', `function ${f.name}`)
      const nodes = body(f, node, `${node.name || f.name}/${calls++}/`)
      made += nodes.length
      if (made > MOST_NODES) throw errors.badModel(`its functions make more than ${MOST_NODES} nodes`, `function ${f.name}`)
      return expand(nodes, depth + 1)
    })
  const used = { ...model.graph, node: expand(model.graph.node ?? [], 0) }
  const imports = [...(model.opsetImport ?? [])]
  for (const f of functions.values())
    for (const o of f.opsetImport ?? []) if (!imports.some((i) => (i.domain ?? '') === (o.domain ?? ''))) imports.push(o)
  return { ...model, graph: used, opsetImport: imports, functions: [] }
}

function withSubgraphs(node: NodeProto, map: (g: GraphProto) => GraphProto): NodeProto {
  if (!node.attribute?.some((a) => a.g || a.graphs?.length)) return node
  const attribute = node.attribute.map(
    (a): AttributeProto => ({ ...a, ...(a.g ? { g: map(a.g) } : {}), ...(a.graphs?.length ? { graphs: a.graphs.map(map) } : {}) }),
  )
  return { ...node, attribute }
}

/** One call's nodes: inputs and outputs take the caller's names, everything else a prefix; attribute references take the caller's values. */
function body(f: FunctionProto, call: NodeProto, prefix: string): NodeProto[] {
  const names = new Map<string, string>()
  for (const [i, n] of (f.input ?? []).entries()) names.set(n, call.input?.[i] ?? '')
  for (const [i, n] of (f.output ?? []).entries()) names.set(n, call.output?.[i] || `${prefix}${n}`)
  const given = new Map([...(f.attributeProto ?? []), ...(call.attribute ?? [])].map((a) => [a.name, a]))
  const rename = (n: string): string => (n === '' ? '' : (names.get(n) ?? `${prefix}${n}`))
  const attribute = (list: readonly AttributeProto[] | undefined): AttributeProto[] =>
    (list ?? []).flatMap((a) => {
      if (!a.refAttrName) return [a]
      const value = given.get(a.refAttrName)
      return value ? [{ ...value, name: a.name! }] : []
    })
  const copy = (nodes: readonly NodeProto[]): NodeProto[] =>
    nodes.map((n) =>
      withSubgraphs(
        {
          ...n,
          name: `${prefix}${n.name ?? ''}`,
          input: (n.input ?? []).map(rename),
          output: (n.output ?? []).map(rename),
          attribute: attribute(n.attribute),
        },
        (g) => ({
          ...g,
          node: copy(g.node ?? []),
          initializer: (g.initializer ?? []).map((t) => ({ ...t, name: rename(t.name ?? '') })),
          input: (g.input ?? []).map((v) => ({ ...v, name: rename(v.name ?? '') })),
          output: (g.output ?? []).map((v) => ({ ...v, name: rename(v.name ?? '') })),
        }),
      ),
    )
  return copy(f.node ?? [])
}
