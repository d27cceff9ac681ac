import { errors, invariant } from '../ir/errors.ts'
import type { Graph, Value } from '../ir/graph.ts'
import type { Tensor } from '../ir/tensor.ts'
import type { Engine, Model } from './engine.ts'

/** Evaluates a graph of any level node by node, by the ops' own reference semantics. Slow and obviously right. */
export function evaluate(graph: Graph, inputs: readonly Tensor[]): Tensor[] {
  invariant(inputs.length === graph.inputs.length, `${graph.inputs.length} inputs wanted, ${inputs.length} given`)
  const values = new Map<Value, Tensor>()
  graph.inputs.forEach((v, i) => {
    const t = inputs[i]!
    if (v.shape && (v.shape.length !== t.shape.length || v.shape.some((d, k) => typeof d === 'number' && d !== t.shape[k])))
      throw errors.shapeMismatch(`[${t.shape}] fed to an input of [${v.shape}]`, `input ${v.name}`)
    values.set(v, t)
  })
  const read = (v: Value): Tensor => {
    const t = v.data ?? values.get(v)
    invariant(t, `${v.name} has no value`)
    return t
  }
  // Each intermediate is dropped after its last use, so that memory follows the widest cut and not the depth.
  const last = new Map<Value, number>()
  graph.nodes.forEach((n, i) => {
    for (const v of n.inputs) if (v) last.set(v, i)
  })
  const kept = new Set(graph.outputs)
  graph.nodes.forEach((node, i) => {
    const results = node.op.eval(
      node.inputs.map((v) => (v ? read(v) : null)),
      node.attrs,
    )
    node.outputs.forEach((v, k) => values.set(v, results[k]!))
    for (const v of node.inputs) if (v && last.get(v) === i && !kept.has(v)) values.delete(v)
  })
  return graph.outputs.map(read)
}

/** The reference evaluation as an engine: the check for all others. */
export const referenceEngine: Engine = {
  name: 'reference',
  async load(graph): Promise<Model> {
    const run = async (inputs: readonly Tensor[]): Promise<Tensor[]> => evaluate(graph, inputs)
    return Object.assign(run, { release: async () => {} })
  },
}
