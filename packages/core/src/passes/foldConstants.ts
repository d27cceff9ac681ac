import { isConstant } from '../ir/graph.ts'
import { rewrite } from '../ir/rewrite.ts'
import { sizeOf } from '../ir/tensor.ts'
import type { Pass } from './pass.ts'

/** Results larger than this stay computed: expanding a scalar to a weight tensor would only make the file larger. */
const LARGEST = 2 ** 26

/** Evaluates nodes whose inputs are all constant, and drops nodes that pass their input on unchanged. */
export const foldConstants: Pass<'float'> = {
  name: 'foldConstants',
  preserves: 'function',
  run: (graph) =>
    rewrite(graph, (b, node, inputs) => {
      if (node.op.name === 'foreign') return null
      const [x] = inputs
      if (node.op.name === 'identity' || (node.op.name === 'cast' && x && node.attrs.to === x.dtype)) return [x!]
      if (inputs.length === 0 || !inputs.every((v) => v === null || isConstant(v))) return null
      const types = node.op.infer(inputs, node.attrs)
      if (types.some((t) => sizeOf(t.shape as readonly number[]) > LARGEST)) return null
      const results = node.op.eval(
        inputs.map((v) => v?.data ?? null),
        node.attrs,
      )
      return results.map((t, i) => b.constant(t, node.outputs[i]!.name))
    }),
}
