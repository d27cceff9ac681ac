import type { Graph, Value } from '../ir/graph.ts'
import { isFloat, numbersOf, type Tensor } from '../ir/tensor.ts'
import type { Engine } from '../run/engine.ts'
import { createObserver, type Range } from './observer.ts'

/** What calibration learned, by value name. */
export type Ranges = ReadonlyMap<string, Range>

/** Values that a quantizer may sit on: real, computed or fed. */
export const observable = (graph: Graph): Value[] =>
  [...graph.inputs, ...graph.nodes.flatMap((n) => n.outputs)].filter((v) => isFloat(v.dtype))

/**
 * Streams batches through the float graph and observes every value of it. Memory depends on the number of values and the batch size,
 * not on the number of samples. `onBatch` is told after each batch.
 */
export async function calibrate(
  engine: Engine,
  graph: Graph<'float'>,
  batches: AsyncIterable<readonly Tensor[]>,
  onBatch: (samples: number) => void = () => {},
): Promise<Ranges> {
  const watched = observable(graph)
  const observers = new Map(watched.map((v) => [v.name, createObserver()]))
  const computed = watched.filter((v) => !graph.inputs.includes(v))
  const model = await engine.load({ ...graph, outputs: computed, outputNames: computed.map((v) => v.name), origin: null })
  try {
    for await (const batch of batches) {
      graph.inputs.forEach((v, i) => {
        observers.get(v.name)?.add(numbersOf(batch[i]!))
      })
      const results = await model(batch)
      computed.forEach((v, i) => {
        observers.get(v.name)!.add(numbersOf(results[i]!))
      })
      onBatch(batch[0]?.shape[0] ?? 1)
    }
  } finally {
    await model.release()
  }
  return new Map([...observers].map(([name, o]) => [name, o.range()]))
}
