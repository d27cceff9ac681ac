import { errors } from '../ir/errors.ts'
import { type Graph, isConstant } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { rewrite } from '../ir/rewrite.ts'
import { numbersOf } from '../ir/tensor.ts'
import { matmul } from '../ops/conv.ts'
import { add, clip, div, leakyRelu, mul, relu, sub } from '../ops/elementwise.ts'
import { fakeQuant } from '../ops/fakeQuant.ts'
import { batchNorm } from '../ops/normalize.ts'

/** Ops besides layers whose results can be negative behind a grid that is not. */
const SIGNED: ReadonlySet<Op> = new Set<Op>([add, sub, mul, div, leakyRelu, matmul, batchNorm])

/**
 * The float network that a quantized one stands for: weights are the real numbers of their integers, activations are not rounded. Where a
 * grid starts at zero the activation before it was clamped there, and where it is narrower than eight bits at its other end too.
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
      const narrow = hi - lo < 255
      if (axis !== null) {
        if (!narrow && lo !== 0) return [x!]
        throw errors.unsupportedModel(`${node.outputs[0]!.name} is clamped to another range in every channel`)
      }
      // Where nothing can fall below zero there was no clamp to restore, unless the other end is near.
      const maker = b.producer(x!)
      if (maker && maker.op.weights === null && !SIGNED.has(maker.op) && !narrow) return [x!]
      const name = { outputs: [node.outputs[0]!.name] }
      // RELU6 on eight bits: the last step lies on 6 up to half a step.
      const six = lo === 0 && Math.abs(hi * step - 6) < step / 2
      if (narrow || six) return b.add(clip, [x!], { min: lo * step, max: six ? 6 : hi * step }, name)
      return lo === 0 ? b.add(relu, [x!], {}, name) : [x!]
    },
    'float',
  )
}
