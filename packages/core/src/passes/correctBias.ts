import { createBuilder } from '../ir/builder.ts'
import { type Graph, isConstant, type Node, type Value } from '../ir/graph.ts'
import { inline, prune, rewrite } from '../ir/rewrite.ts'
import { isFloat, numbersOf, tensorOf } from '../ir/tensor.ts'
import { sub } from '../ops/elementwise.ts'
import { reduceMean, reduceSumSquare } from '../ops/reduce.ts'
import { axisOf, shapeOf } from '../ops/shapes.ts'
import type { Batches } from '../run/compare.ts'
import type { Engine } from '../run/engine.ts'
import { insertQuantizers, type QuantPlan } from './insertQuantizers.ts'

const layersOf = (graph: Graph, plan: QuantPlan): Node[] =>
  graph.nodes.filter((n) => n.op.weights !== null && n.op.weights(n.attrs).bias !== null && plan.integer.has(n.outputs[0]!.name))

/** Layers are corrected one by one up to this many; deeper networks in as many groups. */
const GROUPS = 24

/** Passes over the tuning data that {@link correctBias} makes, each through both networks, for whoever budgets them. */
export const correctionPasses = (layers: number): number => 2 * (1 + Math.min(layers, GROUPS))

/** What quantization does to a network: relative squared error of its outputs, and the means of its layers' outputs, channel by channel. */
interface Effect {
  readonly error: number
  readonly wanted: readonly Float64Array[]
  readonly have: readonly Float64Array[]
}

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
  let corrected = graph
  let effect = await effectOf(engine, graph, graph, plan, layers, batches)
  const size = Math.ceil(layers.length / GROUPS)
  for (let first = 0; first < layers.length; first += size) {
    onStep()
    const { wanted, have } = effect
    const shift = layers.slice(first, first + size).map((n, i) => {
      const [to, from] = [wanted[first + i]!, have[first + i]!]
      return [n.outputs[0]!.name, to.map((v, c) => v - from[c]!)] as const
    })
    const trial = shiftBiases(corrected, new Map(shift))
    const next = await effectOf(engine, graph, trial, plan, layers, batches)
    if (next.error >= effect.error) continue
    effect = next
    corrected = trial
  }
  return corrected
}

/** Runs the network beside `corrected` as the plan quantizes it, in one graph that gives sums and means alone. */
async function effectOf(
  engine: Engine,
  graph: Graph<'float'>,
  corrected: Graph<'float'>,
  plan: QuantPlan,
  layers: readonly Node[],
  batches: Batches,
): Promise<Effect> {
  const b = createBuilder()
  const inputs = graph.inputs.map((v) => b.input(v.name, v))
  const run = (g: Graph, extra: readonly Value[]): Value[] => {
    const outputs = [...g.outputs, ...extra]
    return inline(b, prune({ ...g, outputs, outputNames: outputs.map((_, i) => `${i}`) }), inputs)
  }
  const names = layers.map((n) => n.outputs[0]!.name)
  const q = insertQuantizers(corrected, plan)
  const real = run(
    graph,
    layers.map((n) => n.outputs[0]!),
  )
  const quantized = run(
    q.graph,
    names.map((n) => q.real.get(n)!),
  )
  const power = (v: Value): Value => b.emit(reduceSumSquare, [v], { axes: shapeOf(v).map((_, a) => a), keepDims: false })
  const judged = graph.outputs.flatMap((v, i) => (isFloat(v.dtype) ? [i] : []))
  const channelMean = (v: Value, i: number): Value => {
    const rank = shapeOf(v).length
    const { op, attrs } = layers[i]!
    const channels = axisOf(op.weights!(attrs).outAxis, rank)
    return b.emit(reduceMean, [v], { axes: Array.from({ length: rank }, (_, a) => a).filter((a) => a !== channels), keepDims: false })
  }
  const outs = graph.outputs.length
  const model = await engine.load(
    b.build('qdq', [
      ...judged.map((i) => power(b.emit(sub, [quantized[i]!, real[i]!], {}))),
      ...judged.map((i) => power(real[i]!)),
      ...real.slice(outs).map(channelMean),
      ...quantized.slice(outs).map(channelMean),
    ]),
  )
  const means = Array.from({ length: 2 * layers.length }, () => new Float64Array(0))
  let [error, size, samples] = [0, 0, 0]
  try {
    for await (const batch of batches()) {
      const n = batch[0]!.shape[0]!
      samples += n
      const found = (await model(batch)).map(numbersOf)
      judged.forEach((_, i) => {
        error += found[i]![0]!
        size += found[judged.length + i]![0]!
      })
      found.slice(2 * judged.length).forEach((m, i) => {
        if (means[i]!.length === 0) means[i] = new Float64Array(m.length)
        for (let c = 0; c < m.length; c++) means[i]![c]! += n * m[c]!
      })
    }
  } finally {
    await model.release()
  }
  const mean = means.map((m) => m.map((v) => v / samples))
  return { error: error / (size || 1), wanted: mean.slice(0, layers.length), have: mean.slice(layers.length) }
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
