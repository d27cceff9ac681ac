import { type Graph, isConstant, type Node, usesOf, type Value } from '../ir/graph.ts'
import { rewrite } from '../ir/rewrite.ts'
import { numbersOf, tensorOf } from '../ir/tensor.ts'
import { type FakeQuantAttrs, fakeQuant, gridOf } from '../ops/fakeQuant.ts'
import { fitScales } from '../quant/weights.ts'
import { absorbs } from './insertQuantizers.ts'
import type { Pass } from './pass.ts'

/**
 * Brings a quantized network, as other tools leave it, into the form that lowering reads: weights that know their grid behind a quantizer,
 * and every quantizer right behind the op whose result it rounds, before the moves and activations that stood between. Grids stay.
 */
export const settleQuantizers: Pass<'qdq'> = {
  name: 'settleQuantizers',
  preserves: 'function',
  run(graph) {
    let g = exposeWeights(graph)
    // A quantizer may have to pass several ops, one at a time.
    for (;;) {
      const next = hoist(g)
      if (next === g) return fitWeights(g)
      g = next
    }
  },
}

/** Weights that know their grid get a quantizer, which leaves them as they are. */
const exposeWeights = (graph: Graph<'qdq'>): Graph<'qdq'> =>
  rewrite(graph, (b, node, inputs) => {
    const info = node.op.weights?.(node.attrs)
    const places = info ? [info.weight] : node.op.lower ? inputs.map((_, i) => i) : []
    if (!places.some((i) => isConstant(inputs[i]) && inputs[i].quant) || inputs.every((v) => v === null || isConstant(v))) return null
    const next = inputs.map((v, i) => {
      if (!places.includes(i) || !isConstant(v) || !v.quant) return v
      const { scale, ...q } = v.quant
      const s = b.constant(tensorOf('float32', q.axis === null ? [] : [scale.length], scale), `${v.name}.scale`)
      return b.emit(fakeQuant, [b.constant(v.data, v.name), s], { ...q, fused: false }, { outputs: [`${v.name}.q`] })
    })
    return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })

/** The scale of the grid that a value lies on; null where it lies on none. */
function scaleOf(producer: (v: Value) => Node | null, v: Value): { step: number; reach: number } | null {
  const maker = producer(v)
  if (maker?.op === fakeQuant && maker.attrs.axis === null && isConstant(maker.inputs[1]))
    return { step: numbersOf(maker.inputs[1].data)[0]!, reach: Math.max(-maker.attrs.lo, maker.attrs.hi) }
  return maker?.op.quant === 'shared' && maker.inputs[0] ? scaleOf(producer, maker.inputs[0]) : null
}

/**
 * Where folding left a channel's steps so small that its bias does not fit the accumulator, the channel gets larger ones: what its weights
 * lose is below what the bias alone decides.
 */
const fitWeights = (graph: Graph<'qdq'>): Graph<'qdq'> =>
  rewrite(graph, (b, node, inputs) => {
    const info = node.op.weights?.(node.attrs)
    const w = info ? inputs[info.weight] : null
    const quantizer = w ? b.producer(w) : null
    const bias = info && info.bias !== null ? inputs[info.bias] : null
    const x = info && inputs[0] ? scaleOf((v) => b.producer(v), inputs[0]) : null
    if (!info || !x || quantizer?.op !== fakeQuant || !isConstant(bias)) return null
    const [t, scale] = quantizer.inputs as [Value, Value]
    const attrs = quantizer.attrs as FakeQuantAttrs
    if (!isConstant(t) || !isConstant(scale) || attrs.axis !== info.axis) return null
    const own = Float32Array.from(numbersOf(scale.data) as Float32Array)
    const fitted = fitScales(own, t.data, info.axis, numbersOf(bias.data), x.step, x.reach, attrs.hi)
    if (fitted.every((s, i) => s === own[i])) return null
    const coarser = b.emit(fakeQuant, [t, b.constant(tensorOf('float32', [fitted.length], fitted), scale.name)], attrs)
    return b.add(node.op, inputs.with(info.weight, coarser), node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })

/** Moves each quantizer before the op that feeds it where that op only moves numbers, or clamps them no further than the grid does. */
function hoist(graph: Graph<'qdq'>): Graph<'qdq'> {
  const uses = usesOf(graph)
  const once = (v: Value): boolean => uses.consumers(v).length === 1 && !uses.isOutput(v)
  return rewrite(graph, (b, node: Node, [x, scale]) => {
    if (node.op !== fakeQuant || isConstant(x) || !isConstant(scale)) return null
    const attrs = node.attrs as FakeQuantAttrs
    const maker = b.producer(x!)
    if (!maker || attrs.axis !== null || !once(node.inputs[0]!)) return null
    const out = { outputs: [node.outputs[0]!.name] }
    if (maker.op.clamp?.(maker.inputs, maker.attrs) && absorbs(maker, gridOf(scale, attrs)))
      return b.add(fakeQuant, [maker.inputs[0]!, scale], { ...attrs, fused: true }, out)
    const data = maker.inputs.filter((v) => v !== null && !isConstant(v))
    if (maker.op.quant !== 'shared' || data.length !== 1 || maker.outputs.length !== 1 || data[0] !== maker.inputs[0] || !once(data[0]!))
      return null
    // Already on a grid: the move stays where it is.
    if (b.producer(data[0]!)?.op === fakeQuant || graph.inputs.includes(data[0]!)) return null
    const early = b.emit(fakeQuant, [data[0]!, scale], { ...attrs, fused: true })
    return b.add(maker.op, [early, ...maker.inputs.slice(1)], maker.attrs, { name: maker.name, ...out })
  })
}
