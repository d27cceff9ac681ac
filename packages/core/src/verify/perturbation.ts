import { createBuilder } from '../ir/builder.ts'
import type { Graph, Value } from '../ir/graph.ts'
import { inline, prune } from '../ir/rewrite.ts'
import { numbersOf } from '../ir/tensor.ts'
import { sub } from '../ops/elementwise.ts'
import { reduceSumSquare } from '../ops/reduce.ts'
import { shapeOf } from '../ops/shapes.ts'
import type { Engine } from '../run/engine.ts'
import { type Adversaries, batchesOf, type MeasureContext, preprocess } from './measure.ts'

/** Samples that {@link perturbations} looks at, at most. */
const SAMPLES = 128

/**
 * What an attack does inside a network, layer by layer (the error amplification of Lin, Gan, Han 2019, §3): the mean over samples of
 * ‖z(x + δ) − z(x)‖₂ / ‖z(x)‖₂ for every value z of `values`, x the evaluation's inputs, x + δ the first run of `adversaries`; ≥ 0, same
 * order. Values that are zero for a sample count as unchanged where they stay zero, and are left out for that sample otherwise. The
 * first 128 samples are looked at.
 */
export async function perturbations(
  engine: Engine,
  graph: Graph,
  values: readonly Value[],
  adversaries: Adversaries,
  c: MeasureContext,
): Promise<number[]> {
  const cut = prune({ ...graph, outputs: values, outputNames: values.map((v) => v.name) })
  const b = createBuilder()
  const runs = ['clean', 'attacked'].map((run) =>
    inline(
      b,
      cut,
      graph.inputs.map((v) => b.input(`${run}.${v.name}`, v)),
    ),
  )
  const squared = (v: Value): Value =>
    b.emit(reduceSumSquare, [v], { axes: Array.from({ length: shapeOf(v).length - 1 }, (_, a) => a + 1), keepDims: false })
  const outputs = values.flatMap((_, i) => {
    const [z, y] = [runs[0]![i]!, runs[1]![i]!]
    return [squared(z), squared(b.emit(sub, [y, z], {}))]
  })
  const model = await engine.load(b.build(graph.level, outputs))
  const sums = new Float64Array(values.length)
  const counts = new Float64Array(values.length)
  try {
    for (const [i, [from, to]] of batchesOf(c.evaluation.samples, c.batch).entries()) {
      if (from >= SAMPLES) break
      c.signal?.throwIfAborted()
      const x = preprocess(await c.evaluation.pixels(from, to), c.preprocessing)
      const found = (await model([x, preprocess(adversaries[i]![0]!, c.preprocessing)])).map(numbersOf)
      for (let k = 0; k < values.length; k++) {
        const [power, change] = [found[2 * k]!, found[2 * k + 1]!]
        for (let s = 0; s < to - from; s++) {
          if (power[s] === 0 && change[s] !== 0) continue
          sums[k]! += power[s] === 0 ? 0 : Math.sqrt(change[s]! / power[s]!)
          counts[k]!++
        }
      }
    }
  } finally {
    await model.release()
  }
  return Array.from(sums, (s, k) => (counts[k]! > 0 ? s / counts[k]! : 0))
}
