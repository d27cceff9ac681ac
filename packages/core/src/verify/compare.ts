import { CompileError } from '../ir/errors.ts'
import { type Graph, usesOf } from '../ir/graph.ts'
import { numbersOf, type Tensor } from '../ir/tensor.ts'
import { dequantize } from '../ops/integer.ts'
import type { Model } from '../run/engine.ts'
import { evaluate } from '../run/reference.ts'

/** Agreement of an emitted file with the integer reference. */
export interface Agreement {
  /** Output elements compared. */
  readonly compared: number
  /** Elements that differ at all (real outputs behind a float tail: by more than the tolerance). */
  readonly mismatches: number
  /** Largest difference, in steps of the output grid; for float tails, relative to the tolerance. */
  readonly maxErrorSteps: number
  /** Why nothing was compared. */
  readonly skipped: string | null
}

/** Why a comparison without samples says nothing. */
export const NOTHING_COMPARED = 'there are fewer samples than the network takes at once'

/** Behind a float island (softmax, say) runtimes round differently: |a − b| ≤ 1e-5 + 1e-4·|b|. */
const tolerance = (b: number): number => 1e-5 + 1e-4 * Math.abs(b)

/**
 * Compares a file in its runtime with the reference evaluation of the integer graph, element by element. Outputs on a grid must agree bit
 * for bit. Graphs with nodes that have no reference semantics are reported as skipped.
 */
export async function agree(
  integer: Graph<'integer'>,
  model: Model,
  batches: AsyncIterable<readonly Tensor[]>,
  toReference: (outputs: Tensor[]) => Tensor[] = (o) => o,
): Promise<Agreement> {
  const uses = usesOf(integer)
  const steps = integer.outputs.map((v) => {
    if (v.quant) return 1
    const maker = uses.producer(v)
    return maker?.op === dequantize ? (maker.attrs.scale as number) : null
  })
  let compared = 0
  let mismatches = 0
  let maxErrorSteps = 0
  for await (const batch of batches) {
    let expected: Tensor[]
    try {
      expected = evaluate(integer, batch)
    } catch (e) {
      if (e instanceof CompileError && e.kind === 'unsupported') return { compared, mismatches, maxErrorSteps, skipped: e.message }
      throw e
    }
    const have = toReference(await model(batch))
    expected.forEach((t, k) => {
      const [p, q] = [numbersOf(have[k]!), numbersOf(t)]
      const step = steps[k]!
      for (let i = 0; i < q.length; i++) {
        compared++
        if (p[i] === q[i]) continue
        const d = Math.abs(p[i]! - q[i]!) / (step ?? tolerance(q[i]!))
        if (step === null && d <= 1) continue
        mismatches++
        maxErrorSteps = Math.max(maxErrorSteps, Number.isNaN(d) ? Number.POSITIVE_INFINITY : d)
      }
    })
  }
  return { compared, mismatches, maxErrorSteps, skipped: compared === 0 ? NOTHING_COMPARED : null }
}
