import { isConstant, type Node, usesOf, type Value } from '../ir/graph.ts'
import { rewrite } from '../ir/rewrite.ts'
import { isFloat, numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { solve, spectralNorm } from '../math/linalg.ts'
import { transpose } from '../ops/structure.ts'
import type { Pass } from './pass.ts'

/** Layers larger than this keep their scale: their norm takes too long to find. */
const LARGEST = 4e7
/** A layer whose norm is zero has no scale. */
const TINY = 1e-12

/**
 * Canonical scaling: networks of positively homogeneous ops compute the same when the results of some layers are multiplied by a factor and
 * whatever reads them is divided by it, but their layers' spectral norms, and with them any penalty on these, are not the same. Of all such
 * networks this is the one whose norms are nearest to one another: the factors e^F solve min Σ_l (log σ_l + F_out − F_in)². Values that ops
 * tie together (both sides of a relu, all operands of a sum) share one factor; inputs, outputs and what touches other ops keep theirs.
 * `inputScale` is what a layer that reads the network's input multiplies it by, pixels being in [0, 1]. `frozen` layers stay as they are.
 */
export const balance = (inputScale: number, frozen: (node: Node) => boolean = () => false): Pass<'float'> => ({
  name: 'balance',
  preserves: 'function',
  run(graph) {
    const uses = usesOf(graph)
    const parent = new Map<Value, Value>()
    const root = (v: Value): Value => {
      const p = parent.get(v)
      return p === undefined || p === v ? v : root(p)
    }
    const join = (a: Value, c: Value): void => {
      parent.set(root(a), root(c))
    }
    const fixed = new Set<Value>([...graph.inputs, ...graph.outputs])
    const layers: Node[] = []
    for (const n of graph.nodes) {
      const data = n.inputs.filter((v): v is Value => v !== null && !isConstant(v) && isFloat(v.dtype))
      if (scalable(n, uses) && !frozen(n)) {
        layers.push(n)
        continue
      }
      // A constant operand would have to be scaled as well.
      const alone = !n.inputs.some((v) => isConstant(v) && isFloat(v.dtype))
      if (n.op.positivelyHomogeneous && alone && data.length > 0) for (const v of [...data.slice(1), ...n.outputs]) join(v, data[0]!)
      else for (const v of [...data, ...n.outputs]) fixed.add(v)
    }
    const still = new Set([...fixed].map(root))
    const index = new Map<Value, number>()
    for (const n of layers)
      for (const v of [n.inputs[0]!, n.outputs[0]!]) {
        const r = root(v)
        if (!still.has(r) && !index.has(r)) index.set(r, index.size)
      }
    const N = index.size
    if (N === 0) return graph
    // Normal equations; groups that no layer's norm determines stay where they are.
    const A = Array.from({ length: N }, (_, i) => Float64Array.from({ length: N }, (_, j) => (i === j ? 1e-9 : 0)))
    const rhs = new Float64Array(N)
    for (const n of layers) {
      const sigma = normOf(n) * (graph.inputs.includes(movedFrom(n.inputs[0]!, uses.producer)) ? inputScale : 1)
      if (!(sigma > TINY)) continue
      const [o, i] = [index.get(root(n.outputs[0]!)), index.get(root(n.inputs[0]!))]
      const terms = [...(o === undefined ? [] : [[o, 1] as const]), ...(i === undefined ? [] : [[i, -1] as const])]
      for (const [p, s] of terms) {
        rhs[p]! -= s * Math.log(sigma)
        for (const [q, t] of terms) A[p]![q]! += s * t
      }
    }
    const F = solve(A, rhs)
    const factor = (v: Value): number => {
      const k = index.get(root(v))
      return k === undefined ? 1 : Math.exp(F[k]!)
    }
    return rewrite(graph, (b, node, inputs) => {
      if (!layers.includes(node)) return null
      const [into, out] = [factor(node.inputs[0]!), factor(node.outputs[0]!)]
      if (into === 1 && out === 1) return null
      const info = node.op.weights!(node.attrs)
      const next = [...inputs]
      const times = (v: Value, by: number): Value =>
        b.constant(
          tensorOf(
            v.dtype,
            v.data!.shape,
            Float32Array.from(numbersOf(v.data!) as Float32Array, (x) => x * by),
          ),
          v.name,
        )
      next[info.weight] = times(node.inputs[info.weight]!, out / into)
      const bias = info.bias === null ? null : node.inputs[info.bias]
      if (info.bias !== null && bias) next[info.bias] = times(bias, out)
      return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
    })
  },
})

/** Whether a layer can be multiplied by a number: its weights and bias are constants of its own. */
function scalable(n: Node, uses: ReturnType<typeof usesOf>): boolean {
  const info = n.op.weights?.(n.attrs)
  if (!info) return false
  const own = (v: Value | null | undefined): boolean => isConstant(v) && uses.consumers(v).length === 1
  const bias = info.bias === null ? null : n.inputs[info.bias]
  return (
    own(n.inputs[info.weight]) && (!bias || own(bias)) && !isConstant(n.inputs[0]) && sizeOf(n.inputs[info.weight]!.data!.shape) <= LARGEST
  )
}

/** The value whose numbers these are, before ops that only move them. */
export function movedFrom(v: Value, producer: (v: Value) => Node | null): Value {
  const maker = producer(v)
  return maker?.op.quant === 'shared' && maker.op.lipschitz === 1 && maker.inputs[0] ? movedFrom(maker.inputs[0], producer) : v
}

/** Spectral norm of the [channels × rest] matrix. */
function normOf(n: Node): number {
  const info = n.op.weights!(n.attrs)
  const w: Tensor = n.inputs[info.weight]!.data!
  const order = [info.axis, ...w.shape.map((_, i) => i).filter((i) => i !== info.axis)]
  const front = info.axis === 0 ? w : transpose.eval([w], { perm: order })[0]!
  const rows = front.shape[0]!
  return spectralNorm(numbersOf(front), rows, sizeOf(front.shape) / rows, 30)
}
