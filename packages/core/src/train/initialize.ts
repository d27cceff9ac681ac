import { type Graph, isConstant, type Node } from '../ir/graph.ts'
import { prune, rewrite } from '../ir/rewrite.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import type { Random } from '../math/random.ts'
import type { Engine } from '../run/engine.ts'

/**
 * Random weights in place of trained ones: rows of each layer's [channels × rest] matrix orthogonal (Saxe et al. 2014, arXiv 1312.6120), which
 * is where the Lipschitz penalty is zero; biases zero. Groups are orthogonal each in itself. `frozen` layers keep theirs.
 */
export function initializeWeights(graph: Graph<'float'>, random: Random, frozen: (node: Node) => boolean = () => false): Graph<'float'> {
  return rewrite(graph, (b, node, inputs) => {
    const info = node.op.weights?.(node.attrs)
    const weight = info ? node.inputs[info.weight] : null
    if (!info || !isConstant(weight) || frozen(node)) return null
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
      for (let j = 0; j < cols; j++) data[Math.floor(j / inner) * inner * rows + i * inner + (j % inner)] = q[i]![j]!
    next[info.weight] = b.constant(tensorOf('float32', shape, data), weight.name)
    const bias = info.bias === null ? null : node.inputs[info.bias]
    if (isConstant(bias) && info.bias !== null)
      next[info.bias] = b.constant(tensorOf('float32', bias.data.shape, new Float32Array(sizeOf(bias.data.shape))), bias.name)
    return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })
}

/**
 * Layer-sequential unit variance (Mishkin and Matas 2016, arXiv 1511.06422): from the input on, divides each layer's weights by the standard
 * deviation of its results on a batch, so that networks without normalization start where gradients neither vanish nor explode. `frozen` layers
 * are left alone.
 */
export async function normalizeLayers(
  engine: Engine,
  graph: Graph<'float'>,
  batch: readonly Tensor[],
  frozen: (node: Node) => boolean = () => false,
): Promise<Graph<'float'>> {
  let scaled = graph
  for (const node of graph.nodes) {
    const info = node.op.weights?.(node.attrs)
    if (!info || !isConstant(node.inputs[info.weight]) || frozen(node)) continue
    const name = node.outputs[0]!.name
    const value = scaled.nodes.find((n) => n.outputs[0]!.name === name)!.outputs[0]!
    const model = await engine.load(prune({ ...scaled, outputs: [value], outputNames: [name], origin: null }))
    const y = numbersOf((await model(batch))[0]!) as Float32Array
    await model.release()
    const mean = y.reduce((s, v) => s + v, 0) / y.length
    const deviation = Math.sqrt(y.reduce((s, v) => s + (v - mean) ** 2, 0) / y.length)
    if (deviation > 1e-12) scaled = divideWeights(scaled, name, deviation)
  }
  return scaled
}

const divideWeights = (graph: Graph<'float'>, name: string, by: number): Graph<'float'> =>
  rewrite(graph, (b, node, inputs) => {
    if (node.outputs[0]!.name !== name) return null
    const { weight } = node.op.weights!(node.attrs)
    const w = node.inputs[weight]!
    const next = [...inputs]
    next[weight] = b.constant(
      tensorOf(
        'float32',
        w.data!.shape,
        Float32Array.from(numbersOf(w.data!) as Float32Array, (v) => v / by),
      ),
      w.name,
    )
    return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })

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
