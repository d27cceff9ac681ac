import type { Node, QuantParams } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { add, mul, sub } from '../ops/elementwise.ts'
import { type AveragePoolAttrs, oneScale } from '../ops/integer.ts'
import { globalAveragePool } from '../ops/pool.ts'
import { shapeOf } from '../ops/shapes.ts'
import { fixedAdd, fixedAveragePool, fixedMean, fixedMul, productScale } from '../ops/tflite.ts'

/** How an op becomes integers. */
export type Lowering = NonNullable<Op['lower']>

const sum =
  (sign: 1 | -1): Lowering =>
  (b, _, [x, y], out) =>
    oneScale(x, y)
      ? b.emit(
          fixedAdd,
          [x!, y!],
          { scaleX: x!.quant!.scale[0]!, scaleY: y!.quant!.scale[0]!, scaleOut: out.scale[0]!, sign, lo: out.lo, hi: out.hi },
          { quant: out },
        )
      : null

const mean: Lowering = (b, _, [x], out) =>
  oneScale(x)
    ? b.emit(fixedMean, [x!], { scaleX: x!.quant!.scale[0]!, scaleOut: out.scale[0]!, lo: out.lo, hi: out.hi }, { quant: out })
    : null

/** Sums, products and means in fixed point: what LiteRT computes, and what needs no floating-point unit. */
export const fixedLowerings: ReadonlyMap<Op, Lowering> = new Map<Op, Lowering>([
  [add, sum(1)],
  [sub, sum(-1)],
  [
    mul,
    (b, _, [x, y], out) =>
      oneScale(x, y)
        ? b.emit(fixedMul, [x!, y!], { multiplier: productScale(x!.quant!, y!.quant!, out), lo: out.lo, hi: out.hi }, { quant: out })
        : null,
  ],
  [globalAveragePool, mean],
])

/** A window over the whole unpadded image is a mean, which may have a grid of its own. */
export const coversImage = (node: Node): boolean => {
  const a = node.attrs as AveragePoolAttrs
  return (
    a.pads.every((p) => p === 0) &&
    shapeOf(node.inputs[0])
      .slice(2)
      .every((d, i) => d === a.kernel[i])
  )
}

/** What an int8 container adds to a grid's steps: unsigned grids start at its lowest integer, symmetric ones are centred, others fit. */
export const int8Zero = (q: QuantParams): number => (q.lo >= 0 ? -128 : q.lo >= -128 && q.hi <= 127 ? 0 : -128 - q.lo)

/** Windows are averaged on their input's grid; `zeroOf` says what the container adds to its integers, which takes part in the rounding. */
export const averageOnGrid =
  (zeroOf: (q: QuantParams) => number): Lowering =>
  (b, node, inputs, out) => {
    const [x] = inputs
    if (!oneScale(x)) return null
    if (x!.quant!.scale[0] !== out.scale[0]) return coversImage(node) ? mean(b, node, inputs, out) : null
    return b.emit(fixedAveragePool, [x!], { ...node.attrs, zero: zeroOf(out), lo: out.lo, hi: out.hi }, { quant: out })
  }
