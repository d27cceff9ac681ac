import type { Builder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import { type Graph, isConstant, type Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { rewrite } from '../ir/rewrite.ts'
import { isFloat, numbersOf } from '../ir/tensor.ts'
import { abs, clip, exp, hardSigmoid, relu, sigmoid, softplus, sqrt } from '../ops/elementwise.ts'
import { fakeQuant } from '../ops/fakeQuant.ts'
import { softmax } from '../ops/normalize.ts'
import { averagePool, globalAveragePool, globalMaxPool, maxPool } from '../ops/pool.ts'
import { reduceMean } from '../ops/reduce.ts'

/** Ops whose results are never below zero. */
const POSITIVE: ReadonlySet<Op> = new Set<Op>([sigmoid, hardSigmoid, softmax, softplus, exp, abs, sqrt])
/** Ops besides those that move numbers whose results lie between their inputs. */
const BETWEEN: ReadonlySet<Op> = new Set<Op>([maxPool, averagePool, globalMaxPool, globalAveragePool, reduceMean])

/** Whether a value is known to have nothing below zero. */
function nonNegative(b: Builder, v: Value): boolean {
  const maker = b.producer(v)
  if (!maker) return false
  const interval = maker.op.clamp?.(maker.inputs, maker.attrs)
  if (POSITIVE.has(maker.op) || (interval && interval[0] >= 0)) return true
  const data = maker.inputs.filter((x): x is Value => x !== null && !isConstant(x) && isFloat(x.dtype))
  return (maker.op.quant === 'shared' || BETWEEN.has(maker.op)) && data.length > 0 && data.every((x) => nonNegative(b, x))
}

/**
 * The float network that a quantized one stands for: weights are the real numbers of their integers, activations are not rounded. Where a
 * grid starts at zero the activation before it was clamped there, and where it is narrower than eight bits at its other end too. Full eight-bit grids
 * are taken to reach as far as their values do.
 */
export function removeQuantizers(graph: Graph<'qdq'>): Graph<'float'> {
  const inputs = new Set(graph.inputs)
  return rewrite(
    graph,
    (b, node, [x, scale]) => {
      if (node.op !== fakeQuant) return null
      if (isConstant(x)) return [b.constant(fakeQuant.eval([x.data, scale!.data], node.attrs)[0]!, x.name)]
      const { lo, hi, axis } = node.attrs
      const step = isConstant(scale) ? numbersOf(scale.data)[0]! : null
      // What the network is fed is a matter of its data, and not of the container it came in.
      if (step === null || inputs.has(node.inputs[0]!)) return [x!]
      const name = { outputs: [node.outputs[0]!.name] }
      const narrow = hi - lo < 255
      if (narrow && axis !== null) throw errors.unsupportedModel(`${name.outputs[0]} is clamped to another range in every channel`)
      if (narrow) return b.add(clip, [x!], { min: lo * step, max: hi * step }, name)
      if (lo !== 0 || nonNegative(b, x!)) return [x!]
      // RELU6 on eight bits: the last step lies on 6 up to half a step.
      return axis === null && Math.abs(hi * step - 6) < step / 2 ? b.add(clip, [x!], { min: 0, max: 6 }, name) : b.add(relu, [x!], {}, name)
    },
    'float',
  )
}
