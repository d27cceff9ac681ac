import * as core from '@dqc/core'
import { createBuilder, type Graph, isConstant, type Node, type QuantParams, type Value } from '@dqc/core'

/** Scale of a grid that ends at `hi` steps, for the clamps that kernels fuse: RELU6 on unsigned grids, RELU_N1_TO_1 on signed ones. */
const fusable = (q: QuantParams, full: (q: QuantParams) => boolean): number | null =>
  full(q) ? null : q.lo === 0 ? Math.fround(6 / q.hi) : q.lo === -q.hi ? Math.fround(1 / q.hi) : null

/** Ops with a fused activation. */
const fuses: ReadonlySet<core.Op> = new Set<core.Op>([core.intConv, core.intDense, core.fixedAdd])
/** Layers rescale: their weights' scale takes up what their input's and output's factors differ by. */
const rescales: ReadonlySet<core.Op> = new Set<core.Op>([core.intConv, core.intDense])
/** Ops that any common factor of their inputs and outputs leaves as they are. */
const linear: ReadonlySet<core.Op> = new Set<core.Op>([
  core.fixedAdd,
  core.fixedMean,
  core.fixedAveragePool,
  core.maxPool,
  core.concat,
  core.reshape,
  core.transpose,
  core.pad,
  core.slice,
  core.identity,
  core.resize,
  core.depthToSpace,
  core.spaceToDepth,
])

/**
 * Gives scales another unit so that the end of a narrow grid is 6 (or 1): kernels then clamp to it with an activation they have. Every
 * integer stays as it is, real numbers inside the network are multiples of what they were. Values tied by sums and moves share one factor;
 * where they want different ones the most frequent wins, and the others are clamped by operators of their own. `full` tells grids that fill
 * their container.
 */
export function relabelScales(graph: Graph<'integer'>, full: (q: QuantParams) => boolean): Graph<'integer'> {
  const parent = new Map<Value, Value>()
  const root = (v: Value): Value => {
    const p = parent.get(v) ?? v
    return p === v ? v : root(p)
  }
  const onGrid = (v: Value | null): v is Value => v?.quant != null && !isConstant(v)
  const pinned = new Set<Value>([...graph.inputs, ...graph.outputs])
  for (const n of graph.nodes) {
    if (rescales.has(n.op)) continue
    const tied = [...n.inputs, ...n.outputs].filter(onGrid)
    // A constant operand of a sum has a unit of its own.
    if (!linear.has(n.op) || n.inputs.some((v) => isConstant(v) && v.quant)) for (const v of tied) pinned.add(v)
    else for (const v of tied) parent.set(root(v), root(tied[0]!))
  }
  const fixed = new Set([...pinned].map(root))
  const votes = new Map<Value, Map<number, number>>()
  for (const n of graph.nodes) {
    const v = n.outputs[0]
    if (!v || !fuses.has(n.op) || !onGrid(v) || fixed.has(root(v))) continue
    const wanted = fusable(v.quant!, full)
    if (wanted === null) continue
    const factor = wanted / v.quant!.scale[0]!
    const group = votes.get(root(v)) ?? new Map<number, number>()
    group.set(factor, (group.get(factor) ?? 0) + 1)
    votes.set(root(v), group)
  }
  const factors = new Map([...votes].map(([r, group]) => [r, [...group].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0]![0]]))
  if (factors.size === 0) return graph

  const relabelled = new Map<QuantParams, Map<number, QuantParams>>()
  const scaled = (q: QuantParams, factor: number): QuantParams => {
    if (factor === 1) return q
    const known = relabelled.get(q) ?? new Map<number, QuantParams>()
    relabelled.set(q, known)
    let next = known.get(factor)
    if (!next) {
      const ideal = fusable(q, full)
      // The exact end, where the factor was chosen for it: a product could round off it.
      const exact = ideal !== null && Math.abs((q.scale[0]! * factor) / ideal - 1) < 1e-6
      known.set(factor, (next = { ...q, scale: Float32Array.from(q.scale, (s) => (exact ? ideal : s * factor)) }))
    }
    return next
  }
  const factorOf = (v: Value): number => factors.get(root(v)) ?? 1

  const b = createBuilder()
  const map = new Map<Value, Value>()
  for (const v of graph.inputs) map.set(v, b.input(v.name, v, v.quant))
  for (const n of graph.nodes) {
    const inputs = n.inputs.map((v) => (v ? (map.get(v) ?? v) : null))
    const out = n.outputs[0]!
    const quant = out.quant ? scaled(out.quant, factorOf(out)) : null
    const next = rescales.has(n.op) ? relabelLayer(b, n, inputs, quant!, factorOf) : { inputs, attrs: relabelAttrs(n, inputs, quant) }
    const outs = b.add(n.op, next.inputs, next.attrs, {
      name: n.name,
      outputs: n.outputs.map((v) => v.name),
      quant,
      ...(n.op.name === 'foreign' ? { types: n.outputs } : {}),
    })
    n.outputs.forEach((v, i) => map.set(v, outs[i]!))
  }
  const outputs = graph.outputs.map((v) => map.get(v) ?? v)
  return b.build('integer', outputs, { name: graph.name, outputNames: graph.outputNames, origin: graph.origin })
}

function relabelLayer(b: core.Builder, n: Node, inputs: readonly (Value | null)[], quant: QuantParams, factorOf: (v: Value) => number) {
  const [x, w, bias] = inputs as [Value, Value, Value | null | undefined]
  const factor = factorOf(n.outputs[0]!) / factorOf(n.inputs[0]!)
  const grid: QuantParams = factor === 1 ? w.quant! : { ...w.quant!, scale: w.quant!.scale.map((s) => s * factor) }
  const weight = factor === 1 ? w : b.constant(w.data!, w.name, grid)
  const scale = grid.scale.map((s) => Math.fround(s * x.quant!.scale[0]!))
  const shifted = bias ? b.constant(bias.data!, bias.name, { ...bias.quant!, scale }) : bias
  return {
    inputs: [x, weight, ...(shifted === undefined ? [] : [shifted])],
    attrs: { ...n.attrs, multipliers: core.multipliers(x.quant!, grid, quant) },
  }
}

/** Attributes that hold scales, for the new ones. */
function relabelAttrs(n: Node, inputs: readonly (Value | null)[], quant: QuantParams | null): unknown {
  const scale = (i: number): number => inputs[i]!.quant!.scale[0]!
  if (n.op === core.fixedAdd) return { ...n.attrs, scaleX: scale(0), scaleY: scale(1), scaleOut: quant!.scale[0] }
  if (n.op === core.fixedMean) return { ...n.attrs, scaleX: scale(0), scaleOut: quant!.scale[0] }
  return n.attrs
}
