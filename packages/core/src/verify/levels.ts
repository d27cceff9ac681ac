import { type Graph, gridBits } from '../ir/graph.ts'
import { numbersOf, type Tensor } from '../ir/tensor.ts'
import { roundHalfEven } from '../math/fixedPoint.ts'
import { fakeQuant, gridOf } from '../ops/fakeQuant.ts'
import type { Batches } from '../run/compare.ts'
import type { Engine } from '../run/engine.ts'

/** How a quantized activation uses its grid on real data. */
export interface ActivationUse {
  readonly name: string
  readonly bits: number
  /** Levels of the grid that at least one value in ten thousand falls on. */
  readonly levels: number
  readonly of: number
  /** Share of zeros. */
  readonly zeros: number
  /** Share of values at the upper end of the grid. */
  readonly clipped: number
  /** Whether so few levels are left that the quantizer hides what it computes, from accuracy and from attacks alike. */
  readonly degenerate: boolean
}

/** A level counts as used from this share of values on. */
const USED = 1e-4
/** A quantizer is degenerate when it uses no more than this share of its levels (four bits that act like two), or nearly all is zero. */
const FEW = 0.25
const ZEROS = 0.97

/** Levels used and zeros of every quantized activation of a qdq graph, over some batches. */
export async function activationUse(engine: Engine, graph: Graph<'qdq'>, batches: Batches): Promise<ActivationUse[]> {
  const nodes = graph.nodes.filter((n) => n.op === fakeQuant && n.inputs[0]!.data === null && n.inputs[1]!.data !== null)
  if (nodes.length === 0) return []
  const outputs = nodes.map((n) => n.outputs[0]!)
  const model = await engine.load({ ...graph, outputs, outputNames: outputs.map((v) => v.name), origin: null })
  const grids = nodes.map((n) => gridOf(n.inputs[1]!, n.attrs))
  const counts = grids.map((q) => new Float64Array(q.hi - q.lo + 1))
  try {
    for await (const batch of batches()) {
      ;(await model(batch)).forEach((t: Tensor, k) => {
        const q = grids[k]!
        const [s, c] = [q.scale[0]!, counts[k]!]
        for (const v of numbersOf(t) as Float32Array) c[roundHalfEven(v / s) - q.lo]!++
      })
    }
  } finally {
    await model.release()
  }
  return nodes.map((n, k) => {
    const q = grids[k]!
    const c = counts[k]!
    const total = c.reduce((s, v) => s + v, 0) || 1
    const levels = c.reduce((m, v) => m + (v >= USED * total ? 1 : 0), 0)
    const zeros = q.lo <= 0 && q.hi >= 0 ? c[-q.lo]! / total : 0
    // Wide grids spread thin: they are judged by their zeros alone.
    const few = c.length <= 32 && levels <= Math.max(2, FEW * c.length)
    return {
      name: n.outputs[0]!.name,
      bits: gridBits(q),
      levels,
      of: c.length,
      zeros,
      clipped: c.at(-1)! / total,
      degenerate: few || zeros > ZEROS,
    }
  })
}
