import { type Graph, gridBits, isConstant, type Value } from '../ir/graph.ts'
import { numbersOf, sizeOf } from '../ir/tensor.ts'
import { planMemory } from '../math/memory.ts'
import { accumulatorBits, accumulatorBound, intConv, intDense } from '../ops/integer.ts'

/** What one integer layer takes of hardware. */
export interface LayerCost {
  readonly name: string
  readonly op: string
  readonly weightShape: readonly number[]
  /** Multiply–accumulates per sample. */
  readonly macs: number
  readonly weightBits: number
  readonly actBits: number
  /** Bits of a signed accumulator that no input on the grid overflows: ⌈log₂(Σ|w|·max|x| + |b| + 1)⌉ + 1, from the real weights, widest channel. */
  readonly accumulatorBits: number
}

export interface Cost {
  readonly layers: readonly LayerCost[]
  readonly macs: number
  /** Bit operations: Σ MACs·weight bits·activation bits. */
  readonly bops: number
  /** Bits of all weights on their grids. */
  readonly weightBits: number
  /** Bytes of activations alive at once, each in as few whole bytes as its grid takes, buffers placed greedily. */
  readonly activationBytes: number
}

const known = (shape: Value['shape']): number => (shape ?? []).slice(1).reduce<number>((p, d) => p * (typeof d === 'number' ? d : 1), 1)

/** Counts what an integer network takes. Islands of real numbers are not counted. */
export function countCost(graph: Graph<'integer'>): Cost {
  const layers = graph.nodes.flatMap((n): LayerCost[] => {
    const [x, w, b] = n.inputs
    if ((n.op !== intConv && n.op !== intDense) || !x?.quant || !isConstant(w) || !w.quant) return []
    const channels = w.data.shape[0]!
    const bound = accumulatorBound(numbersOf(w.data), channels, isConstant(b) ? numbersOf(b.data) : null, x.quant)
    return [
      {
        name: n.outputs[0]!.name,
        op: n.op.name,
        weightShape: w.data.shape,
        macs: (known(n.outputs[0]!.shape) * sizeOf(w.data.shape)) / channels,
        weightBits: gridBits(w.quant),
        actBits: gridBits(x.quant),
        accumulatorBits: accumulatorBits(bound.reduce((m, v) => Math.max(m, v), 0)),
      },
    ]
  })
  const sum = (f: (l: LayerCost) => number): number => layers.reduce((s, l) => s + f(l), 0)
  return {
    layers,
    macs: sum((l) => l.macs),
    bops: sum((l) => l.macs * l.weightBits * l.actBits),
    weightBits: sum((l) => sizeOf(l.weightShape) * l.weightBits),
    activationBytes: activationBytes(graph),
  }
}

function activationBytes(graph: Graph<'integer'>): number {
  const first = new Map<Value, number>(graph.inputs.map((v) => [v, -1]))
  const last = new Map<Value, number>()
  graph.nodes.forEach((n, i) => {
    for (const v of n.outputs) first.set(v, i)
    for (const v of n.inputs) if (v && !isConstant(v)) last.set(v, i)
  })
  for (const v of graph.outputs) last.set(v, graph.nodes.length)
  const buffers = [...first].map(([v, at]) => ({
    size: known(v.shape) * (v.quant ? Math.ceil(gridBits(v.quant) / 8) : 4),
    first: at,
    last: last.get(v) ?? at,
  }))
  return planMemory(buffers).size
}
