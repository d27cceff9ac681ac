import { createBuilder } from '../ir/builder.ts'
import { type Graph, isConstant, isKnown, type Node, usesOf, type Value } from '../ir/graph.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { createRandom } from '../math/random.ts'
import { reduceSum } from '../ops/broadcasting.ts'
import { div, maximum, mul, sqrt } from '../ops/elementwise.ts'
import { fakeQuant } from '../ops/fakeQuant.ts'
import type { QuantPlan } from '../passes/insertQuantizers.ts'
import type { Engine } from '../run/engine.ts'
import { applyLayer, applyTranspose, inputFactor } from './orthogonality.ts'

/** Power iterations: σ is then known to a few parts in a thousand, from below. */
const ITERATIONS = 40

/**
 * Spectral norm ‖A‖₂ of each layer's true linear operator, convolutions with their padding and strides, by power iteration on AᵀA
 * (Yoshida and Miyato 2017, arXiv 1705.10941, with the operator in place of its reshaped matrix). Layers that read the input are taken on
 * pixels in [0, 1]. With a plan, of the weights on their grid. By the name of the layer's output; layers of unknown size are left out.
 */
export async function operatorNorms(
  engine: Engine,
  graph: Graph<'float'>,
  pixelScale: Tensor,
  plan: QuantPlan | null,
): Promise<Map<string, number>> {
  const uses = usesOf(graph)
  const layers = graph.nodes.filter((n) => {
    const w = n.op.weights?.(n.attrs)
    return w && isConstant(n.inputs[w.weight]) && n.inputs[0]!.shape && isKnown(n.inputs[0]!.shape.slice(1))
  })
  if (layers.length === 0) return new Map()
  const b = createBuilder()
  const inputs: Value[] = []
  const results: Value[] = []
  for (const node of layers) {
    const u = b.input(`u.${node.outputs[0]!.name}`, { dtype: 'float32', shape: [1, ...node.inputs[0]!.shape!.slice(1)] })
    inputs.push(u)
    const y = applyLayer(b, node, u, b.constant(effectiveWeights(node, graph, pixelScale, plan, uses.producer), 'w'))
    const back = applyTranspose(b, y, u, y)
    const square = b.emit(reduceSum, [b.emit(mul, [back, back], {})], { axes: back.shape!.map((_, i) => i), keepDims: false })
    const norm = b.emit(sqrt, [square], {})
    results.push(b.emit(div, [back, b.emit(maximum, [norm, b.scalar(1e-30)], {})], {}), norm)
  }
  const model = await engine.load(b.build('float', results))
  try {
    const random = createRandom(0)
    let at = inputs.map((v) => direction(v.shape as number[], () => random.normal()))
    const sigma = new Map<string, number>()
    for (let i = 0; i < ITERATIONS; i++) {
      const out = await model(at)
      at = layers.map((_, k) => out[2 * k]!)
      // ‖AᵀA u‖ for a unit vector u near the leading one is σ².
      layers.forEach((n, k) => {
        sigma.set(n.outputs[0]!.name, Math.sqrt(numbersOf(out[2 * k + 1]!)[0]!))
      })
    }
    return sigma
  } finally {
    await model.release()
  }
}

function direction(shape: readonly number[], normal: () => number): Tensor {
  const v = Float32Array.from({ length: sizeOf(shape) }, normal)
  const norm = Math.sqrt(v.reduce((s, x) => s + x * x, 0))
  return tensorOf(
    'float32',
    shape,
    v.map((x) => x / norm),
  )
}

/** A layer's weights as they act on pixels in [0, 1], on their grid where a plan gives them one. */
function effectiveWeights(
  node: Node,
  graph: Graph,
  pixelScale: Tensor,
  plan: QuantPlan | null,
  producer: (v: Value) => Node | null,
): Tensor {
  const info = node.op.weights!(node.attrs)
  const w = node.inputs[info.weight]!.data!
  const q = plan?.integer.has(node.outputs[0]!.name) ? plan.weights.get(node.outputs[0]!.name) : undefined
  const grid = q
    ? fakeQuant.eval([w, tensorOf('float32', q.axis === null ? [] : [q.scale.length], q.scale)], { ...q, fused: false })[0]!
    : w
  const factor = inputFactor(node, pixelScale, graph.inputs[0]!, producer)
  return factor ? mul.eval([grid, factor], {})[0]! : grid
}
