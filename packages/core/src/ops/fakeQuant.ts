import type { Builder } from '../ir/builder.ts'
import type { QuantParams, Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { quantizeValue } from '../math/fixedPoint.ts'
import { reduceTo, reshape } from './broadcasting.ts'
import { dot } from './conv.ts'
import { div, mul, sub } from './elementwise.ts'
import { quantize } from './integer.ts'
import { shapeOf, typed } from './shapes.ts'

export interface GridEnds {
  readonly lo: number
  readonly hi: number
  /** Axis of x that the scales belong to; null for one scale. */
  readonly axis: number | null
}

export interface FakeQuantAttrs extends GridEnds {
  /** Whether the op that makes x computes on this grid in integers; otherwise x is real and is quantized here. */
  readonly fused: boolean
}

/** The scales shaped to broadcast against x. */
const against = (b: Builder, scale: Value, x: Value, axis: number | null): Value =>
  axis === null ? scale : b.emit(reshape, [scale], { shape: shapeOf(x).map((_, i) => (i === axis ? -1 : 1)) })

/** The scale of every element of x, by its place. */
const scalesOf = (x: Tensor, scale: Tensor, axis: number | null): ((i: number) => number) => {
  const s = numbersOf(scale)
  const inner = axis === null ? 1 : sizeOf(x.shape.slice(axis + 1))
  return axis === null ? () => s[0]! : (i) => s[Math.floor(i / inner) % s.length]!
}

/** y = 1 where lo·s ≤ x ≤ hi·s, 0 elsewhere: where quantizing is a matter of rounding alone, and gradients pass. */
export const insideGrid: Op<GridEnds> = {
  name: 'insideGrid',
  spec: 'Esser et al. 2020 (LSQ, arXiv 1902.08153) eq. 5',
  levels: ['qdq'],
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x, scale], { lo, hi, axis }) => {
    const from = numbersOf(x!)
    const s = scalesOf(x!, scale!, axis)
    return [
      tensorOf(
        x!.dtype,
        x!.shape,
        Float64Array.from({ length: from.length }, (_, i) => (from[i]! >= lo * s(i) && from[i]! <= hi * s(i) ? 1 : 0)),
      ),
    ]
  },
  grad: null,
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
}

/** y = s·clip(RNE(x/s), lo, hi); s is one scale, or one per index of `axis` */
export const fakeQuant: Op<FakeQuantAttrs> = {
  name: 'fakeQuant',
  spec: 'Jacob et al. 2018 (arXiv 1712.05877) §3, symmetric; gradients: Esser et al. 2020 (LSQ, arXiv 1902.08153) eq. 3 and 5',
  levels: ['qdq'],
  infer: ([x]) => [typed(x!.dtype, shapeOf(x))],
  eval: ([x, scale], { lo, hi, axis }) => {
    const from = numbersOf(x!)
    const s = scalesOf(x!, scale!, axis)
    const y = Float64Array.from({ length: from.length }, (_, i) => s(i) * quantizeValue(from[i]!, s(i), lo, hi))
    return [tensorOf(x!.dtype, x!.shape, y)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null]
    const [x, scale] = node.inputs as [Value, Value]
    const { lo, hi, axis } = node.attrs
    const dx = b.emit(mul, [dy, b.emit(insideGrid, [x, scale], { lo, hi, axis })], {})
    if (!wanted[1]) return [dx, null]
    const s = against(b, scale, x, axis)
    // With y = s·r, LSQ's Σ dy·(r − [inside]·v) is (Σ dy·y − Σ dx·x)/s: two scalar products of tensors that are there already.
    const y = node.outputs[0]!
    const product = (p: Value, q: Value): Value => b.emit(mul, [p, q], {})
    const total =
      axis === null ? b.emit(sub, [dot(b, dy, y), dot(b, dx, x)], {}) : reduceTo(b, b.emit(sub, [product(dy, y), product(dx, x)], {}), s)
    const ds = b.emit(div, [total, s], {})
    return [dx, axis === null ? ds : b.emit(reshape, [ds], { shape: [-1] })]
  },
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: (b, node, [x], out) => b.emit(quantize, [x!], { scale: out.scale[0]!, lo: node.attrs.lo, hi: node.attrs.hi }, { quant: out }),
}

/** The grid a fakeQuant node with constant scales describes. */
export const gridOf = (scale: Value, attrs: FakeQuantAttrs): QuantParams => ({
  scale: Float32Array.from(numbersOf(scale.data!) as Float32Array),
  axis: attrs.axis,
  lo: attrs.lo,
  hi: attrs.hi,
})
