import { CompileError } from '../ir/errors.ts'
import type { Dim, Graph } from '../ir/graph.ts'
import { rewrite } from '../ir/rewrite.ts'
import type { ReshapeAttrs } from '../ops/broadcasting.ts'
import { reshape } from '../ops/broadcasting.ts'

/** The name that a lifted batch axis gets. */
export const BATCH = 'batch'

/**
 * Frees a batch of 1 that was fixed at export: the first axis of every input becomes symbolic, and reshapes that wrote the 1 down copy it.
 * Returns null when some op needs the 1, or an output does not carry the batch in front; whoever calls should also compare values.
 */
export function liftBatch<L extends 'float' | 'qdq'>(graph: Graph<L>): Graph<L> | null {
  if (graph.inputs.length === 0 || !graph.inputs.every((v) => v.shape && v.shape.length > 0 && v.shape[0] === 1)) return null
  if (graph.nodes.some((n) => n.op.name === 'foreign')) return null
  const free = (s: readonly Dim[]): Dim[] => [BATCH, ...s.slice(1)]
  try {
    const lifted = rewrite(
      graph,
      (b, node, inputs) => {
        if (node.op !== reshape)
          return inputs.every((v, i) => v === node.inputs[i])
            ? null
            : b.add(node.op, inputs, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
        const from = inputs[0]!.shape!
        const { shape } = node.attrs as ReshapeAttrs
        // [1, …] → [1, …] keeps the batch in front; [1, …] → [−1, …] would swallow it where it is only a stand-in for 1.
        const to =
          from[0] === BATCH && (shape[0] === 1 || shape[0] === -1) && node.outputs[0]!.shape![0] === 1 ? [0, ...shape.slice(1)] : shape
        const known = to[0] === 0 && shape[0] === -1 ? [0, ...(node.outputs[0]!.shape!.slice(1) as number[])] : to
        return b.add(reshape, inputs, { shape: known as number[] }, { name: node.name, outputs: [node.outputs[0]!.name] })
      },
      graph.level,
      (v) => ({ ...v, shape: free(v.shape!) }),
    )
    const same = lifted.outputs.every((v, i) => {
      const old = graph.outputs[i]!.shape
      return (
        v.shape !== null &&
        old !== null &&
        v.shape.length === old.length &&
        v.shape[0] === BATCH &&
        v.shape.slice(1).every((d, k) => d === old[k + 1])
      )
    })
    // A second unknown size means that the batch leaked into another axis.
    const clean = lifted.nodes.every((n) =>
      n.outputs.every((v) => v.shape !== null && v.shape.slice(1).every((d) => typeof d === 'number')),
    )
    return same && clean ? lifted : null
  } catch (e) {
    if (e instanceof CompileError) return null
    throw e
  }
}
