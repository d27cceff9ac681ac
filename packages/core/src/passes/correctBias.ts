import { createBuilder } from '../ir/builder.ts'
import { type Graph, isConstant, type Node, type Value } from '../ir/graph.ts'
import { inline, prune, rewrite } from '../ir/rewrite.ts'
import { numbersOf, tensorOf } from '../ir/tensor.ts'
import { reduceMean } from '../ops/reduce.ts'
import { axisOf, shapeOf } from '../ops/shapes.ts'
import type { Engine } from '../run/engine.ts'
import { insertQuantizers, type QuantPlan } from './insertQuantizers.ts'
import { type Batches, outputError } from '../run/compare.ts'

const layersOf = (graph: Graph, plan: QuantPlan): Node[] =>
  graph.nodes.filter((n) => n.op.weights !== null && n.op.weights(n.attrs).bias !== null && plan.integer.has(n.outputs[0]!.name))

/** Mean of one value per channel, over all batches. */
async function channelMean(engine: Engine, graph: Graph, value: Value, outAxis: number, batches: Batches): Promise<Float64Array> {
  const b = createBuilder()
  const inputs = graph.inputs.map((v) => b.input(v.name, v))
  const [v] = inline(b, prune({ ...graph, outputs: [value], outputNames: [value.name] }), inputs) as [Value]
  const rank = shapeOf(v).length
  const keep = axisOf(outAxis, rank)
  const mean = b.emit(reduceMean, [v], { axes: Array.from({ length: rank }, (_, a) => a).filter((a) => a !== keep), keepDims: false })
  const model = await engine.load(b.build(graph.level, [mean]))
  let sum: Float64Array | null = null
  let total = 0
  try {
    for await (const batch of batches()) {
      const n = batch[0]!.shape[0]!
      const m = numbersOf((await model(batch))[0]!)
      total += n
      sum ??= new Float64Array(m.length)
      for (let c = 0; c < m.length; c++) sum[c]! += n * m[c]!
    }
  } finally {
    await model.release()
  }
  return (sum ?? new Float64Array(0)).map((s) => s / total)
}

/**
 * Bias correction (Nagel et al. 2019, arXiv 1906.04721, §4.2, empirical): layer by layer from the input on, moves the bias by the mean
 * error that quantization so far causes in the layer's output, channel by channel. A correction that does not lower the error of the
 * network's outputs is taken back. Returns the float graph with the corrected biases; the plan stays valid for it.
 */
export async function correctBias(engine: Engine, graph: Graph<'float'>, plan: QuantPlan, batches: Batches): Promise<Graph<'float'>> {
  let corrected = graph
  const quantized = (g: Graph<'float'>): Graph<'qdq'> => insertQuantizers(g, plan).graph
  let least = await outputError(engine, graph, quantized(graph), batches)
  for (const layer of layersOf(graph, plan)) {
    const name = layer.outputs[0]!.name
    const axis = layer.op.weights!(layer.attrs).outAxis
    const wanted = await channelMean(engine, graph, layer.outputs[0]!, axis, batches)
    const q = insertQuantizers(corrected, plan)
    const have = await channelMean(engine, q.graph, q.real.get(name)!, axis, batches)
    const trial = shiftBiases(corrected, new Map([[name, wanted.map((v, c) => v - have[c]!)]]))
    const error = await outputError(engine, graph, quantized(trial), batches)
    if (error >= least) continue
    least = error
    corrected = trial
  }
  return corrected
}

function shiftBiases(graph: Graph<'float'>, shift: ReadonlyMap<string, Float64Array>): Graph<'float'> {
  return rewrite(graph, (b, node, inputs) => {
    const by = shift.get(node.outputs[0]!.name)
    const info = node.op.weights?.(node.attrs)
    if (!by || !info || info.bias === null) return null
    const bias = node.inputs[info.bias]
    const old = isConstant(bias) ? numbersOf(bias.data) : new Float64Array(by.length)
    const next = [...inputs]
    while (next.length <= info.bias) next.push(null)
    next[info.bias] = b.constant(tensorOf('float32', [by.length], by.map((v, c) => v + old[c]!)), bias?.name ?? `${node.inputs[info.weight]!.name}.bias`)
    return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })
}
