import { type Graph, isConstant, type Node, usesOf, type Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { rewrite } from '../ir/rewrite.ts'
import { numbersOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { reshape } from '../ops/broadcasting.ts'
import { convTranspose } from '../ops/conv.ts'
import { leakyRelu, relu } from '../ops/elementwise.ts'
import { identity } from '../ops/foreign.ts'
import { averagePool, globalAveragePool, globalMaxPool, maxPool } from '../ops/pool.ts'
import { axisOf, product, shapeOf } from '../ops/shapes.ts'
import { slices } from '../quant/weights.ts'
import { scaleAlong } from './foldAffine.ts'
import type { Pass } from './pass.ts'

/** Pools keep channels apart that are second. */
const pools: ReadonlySet<Op> = new Set<Op>([maxPool, averagePool, globalAveragePool, globalMaxPool])
/** Positively homogeneous ops that keep channels apart and in place. */
const channelWise: ReadonlySet<Op> = new Set<Op>([identity, relu, leakyRelu, ...pools])

/** Sweeps over all pairs; each pair is solved exactly, a chain of them converges geometrically. */
const SWEEPS = 20
/** A channel's factors stay inside 2^±6 over all sweeps, so that nearly dead channels and their biases are not blown up. */
const LIMIT = 64

/** Two layers with only positively homogeneous, channel-wise ops between them. */
interface Pair {
  readonly first: Node
  readonly second: Node
  /** Consecutive inputs of the second layer that belong to one channel of the first (a flattened image has its area). */
  readonly block: number
}

/**
 * Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, eq. 11): f(W₂ f(W₁x)) is unchanged when channel c of W₁ is divided by
 * s_c and the matching input of W₂ is multiplied by it, for f positively homogeneous. s_c = √(r₁/r₂) makes both ranges √(r₁·r₂).
 * Biases scale along. The function is exactly preserved up to rounding.
 */
export const equalize: Pass<'float'> = {
  name: 'equalize',
  preserves: 'function',
  run(graph) {
    const pairs = pairsOf(graph)
    const weights = new Map<Node, { w: Tensor; bias: Float64Array | null }>()
    const layer = (n: Node): { w: Tensor; bias: Float64Array | null } => {
      const info = n.op.weights!(n.attrs)
      const bias = info.bias === null ? null : n.inputs[info.bias]
      return (
        weights.get(n) ?? { w: n.inputs[info.weight]!.data!, bias: bias ? Float64Array.from(numbersOf(bias.data!) as Float32Array) : null }
      )
    }
    const total = new Map<Pair, Float64Array>()
    for (let sweep = 0; sweep < SWEEPS; sweep++)
      for (const pair of pairs) {
        const { first, second, block } = pair
        const [p, q] = [layer(first), layer(second)]
        const axis = first.op.weights!(first.attrs).axis
        const inAxis = inputAxis(second)
        const r1 = slices(p.w, axis).map(largest)
        const columns = slices(q.w, inAxis).map(largest)
        const r2 = r1.map((_, c) => Math.max(...columns.slice(c * block, (c + 1) * block)))
        const before = total.get(pair) ?? new Float64Array(r1.length).fill(1)
        const after = before.map((f, c) =>
          r1[c]! > 0 && r2[c]! > 0 ? Math.min(LIMIT, Math.max(1 / LIMIT, f * Math.sqrt(r1[c]! / r2[c]!))) : f,
        )
        total.set(pair, after)
        const s = after.map((f, c) => f / before[c]!)
        weights.set(first, { w: scaleAlong(p.w, axis, (c) => 1 / s[c]!), bias: p.bias?.map((v, c) => v / s[c]!) ?? null })
        weights.set(second, { ...layer(second), w: scaleAlong(layer(second).w, inAxis, (i) => s[Math.floor(i / block)]!) })
      }
    return rewrite(graph, (b, node, inputs) => {
      const changed = weights.get(node)
      if (!changed) return null
      const info = node.op.weights!(node.attrs)
      const next = [...inputs]
      const old = node.inputs[info.weight]!
      next[info.weight] = b.constant(changed.w, old.name)
      if (changed.bias && info.bias !== null) {
        const bias = node.inputs[info.bias]!
        next[info.bias] = b.constant(tensorOf(bias.dtype, bias.data!.shape, changed.bias), bias.name)
      }
      return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
    })
  },
}

const largest = (v: Float64Array): number => v.reduce((m, x) => Math.max(m, Math.abs(x)), 0)

/** Axis of the weights that counts input channels: 0 for a depthwise convolution, whose inputs are its outputs. */
const inputAxis = (n: Node): number => (n.attrs.group > 1 ? 0 : 1)

function pairsOf(graph: Graph<'float'>): Pair[] {
  const uses = usesOf(graph)
  const movable = (n: Node): boolean => {
    const info = n.op.weights?.(n.attrs)
    if (!info || n.op === convTranspose || info.bias === null) return false
    const depthwise = n.attrs.group === undefined || n.attrs.group === 1 || shapeOf(n.inputs[info.weight])[1] === 1
    return (
      depthwise &&
      isConstant(n.inputs[info.weight]) &&
      uses.consumers(n.inputs[info.weight]!).length === 1 &&
      (!n.inputs[info.bias] || isConstant(n.inputs[info.bias]))
    )
  }
  const pairs: Pair[] = []
  for (const first of graph.nodes) {
    if (!movable(first)) continue
    const channels = first.inputs[1]!.data!.shape[0]!
    let v: Value = first.outputs[0]!
    // Where the channels are: last behind a dense layer, second behind a convolution.
    const axis = axisOf(first.op.weights!(first.attrs).outAxis, shapeOf(v).length)
    let block = 1
    for (;;) {
      const readers = uses.consumers(v)
      const next = readers[0]
      if (readers.length !== 1 || !next || uses.isOutput(v) || next.inputs[0] !== v) break
      if (next.op.weights) {
        const depthwise = (next.attrs.group ?? 1) > 1
        const wanted = next.inputs[1] && isConstant(next.inputs[1]) ? next.inputs[1].data.shape[depthwise ? 0 : 1]! : -1
        const there = axisOf(next.op.weights(next.attrs).inAxis, shapeOf(v).length) === axis
        if (movable(next) && there && wanted === channels * block) pairs.push({ first, second: next, block })
        break
      }
      // A flattening reshape spreads a channel over its area.
      const [from, to] = [shapeOf(v), shapeOf(next.outputs[0])]
      if (next.op === reshape) {
        const all = product(from.slice(1))
        const flat = axis === 1 && from.length >= 2 && to.length === 2 && typeof all === 'number' && to[1] === all
        if (!flat) break
        block = all / channels
      } else if (!channelWise.has(next.op) || (axis !== 1 && pools.has(next.op))) break
      v = next.outputs[0]!
    }
  }
  return pairs
}
