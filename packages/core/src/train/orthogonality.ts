import type { Builder } from '../ir/builder.ts'
import type { Graph, Node, Value } from '../ir/graph.ts'
import { type Tensor, tensorOf } from '../ir/tensor.ts'
import { reduceSum, reshape } from '../ops/broadcasting.ts'
import { matmul, swapLast } from '../ops/conv.ts'
import { add, div, maximum, mul, sqrt, sub } from '../ops/elementwise.ts'
import { transpose } from '../ops/structure.ts'
import { differentiate } from '../passes/autodiff.ts'
import { movedFrom } from '../passes/balance.ts'

/**
 * orthogonal: ½‖WWᵀ − I‖²_F of the [channels × rest] matrix (Lin, Gan, Han 2019, eq. 8).
 * hinge: the same of its positive part alone, so that singular values below 1 are left as they are.
 * operator: ½‖(AᵀA − I)u‖² of the layer's true linear operator A (padding, strides and all) for a random u with E uuᵀ = I/positions,
 * whose mean is ½‖AᵀA − I‖²_F per place of the image.
 */
export type PenaltyForm = 'orthogonal' | 'hinge' | 'operator'
export const penaltyForms: readonly PenaltyForm[] = ['orthogonal', 'hinge', 'operator']

/** The weights of a layer as a batch of matrices [groups, channels/groups, rest]; groups read different inputs and are orthogonal anyway. */
function matrices(b: Builder, node: Node, w: Value): { m: Value; back: (d: Value) => Value } {
  const info = node.op.weights!(node.attrs)
  const shape = w.shape as readonly number[]
  const rank = shape.length
  const perm = [info.axis, ...Array.from({ length: rank }, (_, i) => i).filter((i) => i !== info.axis)]
  const front = info.axis === 0 ? w : b.emit(transpose, [w], { perm })
  const groups: number = info.axis === 0 ? (node.attrs.group ?? 1) : 1
  const rows = shape[info.axis]! / groups
  const m = b.emit(reshape, [front], { shape: [groups, rows, -1] })
  const back = (d: Value): Value => {
    const r = b.emit(reshape, [d], { shape: perm.map((i) => shape[i]!) })
    return info.axis === 0 ? r : b.emit(transpose, [r], { perm: perm.map((_, i) => perm.indexOf(i)) })
  }
  return { m, back }
}

/** Newton–Schulz iterations X ← ½X(3I − X²), which send every eigenvalue in (−√3, √3) to its sign (Higham 2008, "Functions of Matrices", §5.3). */
const SIGN_ITERATIONS = 14

/** The positive part of symmetric matrices: (R + R·sign(R))/2. */
function positivePart(b: Builder, r: Value, n: number): Value {
  const square = b.emit(reduceSum, [b.emit(mul, [r, r], {})], { axes: [1, 2], keepDims: true })
  let x = b.emit(div, [r, b.emit(maximum, [b.emit(sqrt, [square], {}), b.scalar(1e-12)], {})], {})
  const three = identityOf(b, n, 3)
  for (let i = 0; i < SIGN_ITERATIONS; i++) {
    const rest = b.emit(sub, [three, b.emit(matmul, [x, x], {})], {})
    x = b.emit(mul, [b.emit(matmul, [x, rest], {}), b.scalar(0.5)], {})
  }
  return b.emit(mul, [b.emit(add, [r, b.emit(matmul, [r, x], {})], {}), b.scalar(0.5)], {})
}

const identityOf = (b: Builder, n: number, by = 1): Value =>
  b.constant(
    tensorOf(
      'float32',
      [1, n, n],
      Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? by : 0)),
    ),
    'identity',
  )

/**
 * The penalty ½‖R‖²_F of one layer's weights and its gradient 2RM, R = MMᵀ − I. Where there are more channels than inputs, MMᵀ cannot be I
 * and MᵀM takes its place.
 */
export function matrixPenalty(b: Builder, node: Node, w: Value, form: 'orthogonal' | 'hinge'): { value: Value; gradient: Value } {
  const { m, back } = matrices(b, node, w)
  const [, rows, cols] = m.shape as [number, number, number]
  const wide = rows <= cols
  const n = Math.min(rows, cols)
  const t = swapLast(b, m)
  const gram = wide ? b.emit(matmul, [m, t], {}) : b.emit(matmul, [t, m], {})
  const defect = b.emit(sub, [gram, identityOf(b, n)], {})
  const r = form === 'hinge' ? positivePart(b, defect, n) : defect
  const product = wide ? b.emit(matmul, [r, m], {}) : b.emit(matmul, [m, r], {})
  const gradient = b.emit(mul, [product, b.scalar(2)], {})
  const square = b.emit(reduceSum, [b.emit(mul, [r, r], {})], { axes: [0, 1, 2], keepDims: false })
  return { value: b.emit(mul, [square, b.scalar(0.5)], {}), gradient: back(gradient) }
}

/** Adds a layer's linear operator to `b`: its node without the bias. */
export function applyLayer(b: Builder, node: Node, u: Value, w: Value): Value {
  const info = node.op.weights!(node.attrs)
  const inputs = node.inputs.map((v, i) => (i === info.weight ? w : i === info.bias ? null : i === 0 ? u : v))
  return b.emit(node.op, inputs, node.attrs)
}

/** The transpose of a layer's operator applied to y = A u, by its own derivative: Aᵀy. */
export function applyTranspose(b: Builder, y: Value, u: Value, dy: Value): Value {
  return differentiate(b, [{ y, dy }], [u])[0]!
}

/** The operator penalty of one layer for one random direction u [1, …] and its gradient in the weights. */
export function operatorPenalty(b: Builder, node: Node, w: Value, u: Value): { value: Value; gradient: Value } {
  const y = applyLayer(b, node, u, w)
  const back = applyTranspose(b, y, u, y)
  const r = b.emit(sub, [back, u], {})
  const square = b.emit(reduceSum, [b.emit(mul, [r, r], {})], { axes: r.shape!.map((_, i) => i), keepDims: false })
  const value = b.emit(mul, [square, b.scalar(0.5)], {})
  return { value, gradient: differentiate(b, [{ y: r, dy: r }], [w])[0]! }
}

/**
 * How the input's preprocessing stretches a first layer's weights: on pixels in [0, 1] its weights are W·factor, and it is there that its
 * Lipschitz constant has a meaning. A tensor that broadcasts to W, or null where nothing is stretched.
 */
export function inputFactor(node: Node, scale: Tensor, input: Value, producer: (v: Value) => Node | null): Tensor | null {
  if (movedFrom(node.inputs[0]!, producer) !== input) return null
  const info = node.op.weights!(node.attrs)
  const values = Array.from(scale.data as Float32Array)
  const mean = values.reduce((s, x) => s + x, 0) / values.length
  const w = node.inputs[info.weight]!.shape as readonly number[]
  const axis = info.axis === 0 ? 1 : 0
  const each = w[axis] === values.length && values.length > 1
  return tensorOf('float32', each ? w.map((_, i) => (i === axis ? values.length : 1)) : w.map(() => 1), each ? values : [mean])
}

/**
 * What the weights of layers are multiplied by, before they are held to norm 1, where residual sums are to be convex combinations (Cisse et
 * al. 2017, "Parseval Networks", arXiv 1704.08847; Lin, Gan, Han 2019). With layers of norm 1 the summands have known Lipschitz constants g₁, g₂, …, and
 * Σxᵢ/Σgᵢ is such a combination. In a positively homogeneous network the division may as well wait for the layers that no other follows:
 * these are held to 1/g, g the constant that outputs would have, and all others to 1 as ever. Layers that need no factor are left out.
 */
export function sumFactors(graph: Graph): ReadonlyMap<Node, number> {
  const gains = new Map<Value, number>(graph.inputs.map((v) => [v, 1]))
  const last = new Map<Value, readonly Node[]>()
  for (const node of graph.nodes) {
    const read = node.inputs.filter((v): v is Value => v !== null && gains.has(v))
    const each = read.map((v) => gains.get(v)!)
    const { lipschitz, positivelyHomogeneous, weights } = node.op
    const joint = Math.sqrt(each.reduce((s, g) => s + g * g, 0))
    const gain = typeof lipschitz === 'number' || !positivelyHomogeneous || weights ? joint : each.reduce((s, g) => s + g, 0)
    const ends = weights ? [node] : [...new Set(read.flatMap((v) => last.get(v) ?? []))]
    for (const v of read.length ? node.outputs : []) {
      gains.set(v, gain)
      last.set(v, ends)
    }
  }
  const factors = new Map<Node, number>()
  for (const v of graph.outputs)
    for (const node of last.get(v) ?? []) {
      const gain = Math.max(gains.get(v)!, factors.get(node) ?? 1)
      if (gain > 1) factors.set(node, gain)
    }
  return factors
}
