import type { Graph } from '../ir/graph.ts'
import { isFloat, numbersOf, type Tensor } from '../ir/tensor.ts'
import type { Engine } from './engine.ts'

/** Inputs in batches, as often as they are asked for. */
export type Batches = () => AsyncIterable<readonly Tensor[]>

/** Relative squared error Σ‖a(x) − b(x)‖²/Σ‖a(x)‖² of the float outputs of two graphs over all batches. */
export async function outputError(engine: Engine, a: Graph, b: Graph, batches: Batches): Promise<number> {
  const first = await engine.load(a)
  try {
    const second = await engine.load(b)
    try {
      let error = 0
      let power = 0
      for await (const batch of batches()) {
        const [p, q] = [await first(batch), await second(batch)]
        p.forEach((t, k) => {
          if (!isFloat(t.dtype)) return
          const [x, y] = [numbersOf(t), numbersOf(q[k]!)]
          for (let i = 0; i < x.length; i++) {
            error += (x[i]! - y[i]!) ** 2
            power += x[i]! ** 2
          }
        })
      }
      return error / (power || 1)
    } finally {
      await second.release()
    }
  } finally {
    await first.release()
  }
}
