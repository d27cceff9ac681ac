import { createBuilder } from '../ir/builder.ts'
import { type Graph, isConstant, type Node, type Value } from '../ir/graph.ts'
import { inline, prune, rewrite } from '../ir/rewrite.ts'
import { numbersOf, tensorOf } from '../ir/tensor.ts'
import { reduceMean } from '../ops/reduce.ts'
import { axisOf, shapeOf } from '../ops/shapes.ts'
import { type Batches, outputError } from '../run/compare.ts'
import type { Engine } from '../run/engine.ts'
import { insertQuantizers, type QuantPlan } from './insertQuantizers.ts'

const layersOf = (graph: Graph, plan: QuantPlan): Node[] =>
  graph.nodes.filter((n) => n.op.weights !== null && n.op.weights(n.attrs).bias !== null && plan.integer.has(n.outputs[0]!.name))

/** Mean of each given value per channel, over all batches. */
async function channelMeans(
  engine: Engine,
  graph: Graph,
  values: readonly Value[],
  outAxes: readonly number[],
  batches: Batches,
): Promise<Float64Array[]> {
  const b = createBuilder()
  const inputs = graph.inputs.map((v) => b.input(v.name, v))
  const outputs = inline(b, prune({ ...graph, outputs: values, outputNames: values.map((v) => v.name) }), inputs)
  const means = outputs.map((v, i) => {
    const rank = shapeOf(v).length
    const keep = axisOf(outAxes[i]!, rank)
    return b.emit(reduceMean, [v], { axes: Array.from({ length: rank }, (_, a) => a).filter((a) => a !== keep), keepDims: false })
  })
  const model = await engine.load(b.build(graph.level, means))
  const sums: Float64Array[] = []
  let total = 0
  try {
    for await (const batch of batches()) {
      const n = batch[0]!.shape[0]!
      total += n
      ;(await model(batch)).forEach((t, i) => {
        const m = numbersOf(t)
        sums[i] ??= new Float64Array(m.length)
        for (let c = 0; c < m.length; c++) sums[i]![c]! += n * m[c]!
      })
    }
  } finally {
    await model.release()
  }
  return sums.map((s) => s.map((v) => v / total))
}

/** Layers are corrected one by one up to this many; deeper networks in as many groups. */
const GROUPS = 24

/** Passes over the tuning data that {@link correctBias} makes, for whoever budgets them. */
export const correctionPasses = (layers: number): number => 2 + 2 * Math.min(layers, GROUPS)

/**
 * Bias correction (Nagel et al. 2019, arXiv 1906.04721, §4.2, empirical): layer by layer from the input on, moves the bias by the mean
 * error that quantization so far causes in the layer's output, channel by channel. A correction that does not lower the error of the
 * network's outputs is taken back. Returns the float graph with the corrected biases; the plan stays valid for it.
 */
export async function correctBias(
  engine: Engine,
  graph: Graph<'float'>,
  plan: QuantPlan,
  batches: Batches,
  onStep: () => void = () => {},
): Promise<Graph<'float'>> {
  const layers = layersOf(graph, plan)
  if (layers.length === 0) return graph
  const names = layers.map((n) => n.outputs[0]!.name)
  const outAxes = layers.map((n) => n.op.weights!(n.attrs).outAxis)
  const wanted = await channelMeans(
    engine,
    graph,
    layers.map((n) => n.outputs[0]!),
    outAxes,
    batches,
  )
  let corrected = graph
  let least = await outputError(engine, graph, insertQuantizers(graph, plan).graph, batches)
  const size = Math.ceil(layers.length / GROUPS)
  for (let first = 0; first < layers.length; first += size) {
    onStep()
    const group = names.slice(first, first + size)
    const q = insertQuantizers(corrected, plan)
    const have = await channelMeans(
      engine,
      q.graph,
      group.map((n) => q.real.get(n)!),
      outAxes.slice(first, first + size),
      batches,
    )
    const trial = shiftBiases(corrected, new Map(group.map((n, i) => [n, wanted[first + i]!.map((v, c) => v - have[i]![c]!)])))
    const error = await outputError(engine, graph, insertQuantizers(trial, plan).graph, batches)
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
    next[info.bias] = b.constant(
      tensorOf(
        'float32',
        [by.length],
        by.map((v, c) => v + old[c]!),
      ),
      bias?.name ?? `${node.inputs[info.weight]!.name}.bias`,
    )
    return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })
}
