import { type Graph, isConstant } from '../ir/graph.ts'
import { rewrite } from '../ir/rewrite.ts'
import { sizeOf, tensorOf } from '../ir/tensor.ts'
import type { Random } from '../math/random.ts'

/** Keeps the size of activations through relu, with a little to spare for what pooling and residual averages take away. */
const GAIN = 1.3

/**
 * Random weights in place of trained ones: rows of each layer's [channels × rest] matrix orthogonal (Saxe et al. 2014, arXiv 1312.6120), times
 * a gain; biases zero. Orthogonal rows are where the Lipschitz penalty is zero, up to the gain. Groups are orthogonal each in itself.
 */
export function initializeWeights(graph: Graph<'float'>, random: Random): Graph<'float'> {
  return rewrite(graph, (b, node, inputs) => {
    const info = node.op.weights?.(node.attrs)
    const weight = info ? node.inputs[info.weight] : null
    if (!info || !isConstant(weight)) return null
    const next = [...inputs]
    const shape = weight.data.shape
    const rows = shape[info.axis]!
    const cols = sizeOf(shape) / rows
    const groups: number = info.axis === 0 ? (node.attrs.group ?? 1) : 1
    const r = random.fork(weight.name)
    const q = Array.from({ length: groups }, () => orthogonal(rows / groups, cols, r)).flat()
    // Row-major [rows, cols] → the weight's own axes.
    const inner = sizeOf(shape.slice(info.axis + 1))
    const data = new Float32Array(rows * cols)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < cols; j++) data[Math.floor(j / inner) * inner * rows + i * inner + (j % inner)] = GAIN * q[i]![j]!
    next[info.weight] = b.constant(tensorOf('float32', shape, data), weight.name)
    const bias = info.bias === null ? null : node.inputs[info.bias]
    if (isConstant(bias) && info.bias !== null)
      next[info.bias] = b.constant(tensorOf('float32', bias.data.shape, new Float32Array(sizeOf(bias.data.shape))), bias.name)
    return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })
}

/** Orthonormal rows (columns, where there are more rows) by Gram–Schmidt on normal numbers. */
function orthogonal(rows: number, cols: number, random: Random): Float64Array[] {
  const [n, d] = [Math.min(rows, cols), Math.max(rows, cols)]
  const basis: Float64Array[] = []
  while (basis.length < n) {
    const v = Float64Array.from({ length: d }, () => random.normal())
    // Twice: once loses digits when many directions are taken already.
    for (let pass = 0; pass < 2; pass++)
      for (const u of basis) {
        const dot = v.reduce((s, x, i) => s + x * u[i]!, 0)
        for (let i = 0; i < d; i++) v[i]! -= dot * u[i]!
      }
    const norm = Math.sqrt(v.reduce((s, x) => s + x * x, 0))
    if (norm > 1e-6) basis.push(v.map((x) => x / norm))
  }
  if (rows <= cols) return basis
  return Array.from({ length: rows }, (_, i) => Float64Array.from({ length: cols }, (_, j) => basis[j]![i]!))
}
