import type { Builder } from '../ir/builder.ts'
import { isConstant, type Node, type QuantParams, usesOf, type Value } from '../ir/graph.ts'
import { rewrite } from '../ir/rewrite.ts'
import { isFloat, numbersOf, sizeOf, stridesOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { conv } from '../ops/conv.ts'
import { add, div, mul, sub } from '../ops/elementwise.ts'
import { batchNorm } from '../ops/normalize.ts'
import { axisOf, shapeOf } from '../ops/shapes.ts'
import { pad } from '../ops/structure.ts'
import { slices } from '../quant/weights.ts'
import type { Pass } from './pass.ts'

/** y_c = scale_c·x_c + shift_c along one axis. Vectors have one entry, or one per channel. */
interface Affine {
  readonly x: Value
  readonly scale: Float64Array
  readonly shift: Float64Array
}

/** The numbers of a constant that varies along `axis` only (against a value of the given rank), or null. */
function alongAxis(c: Tensor, rank: number, axis: number): Float64Array | null {
  const varying = c.shape.flatMap((d, i) => (d === 1 ? [] : [i + rank - c.shape.length]))
  if (c.shape.length > rank || varying.length > 1 || (varying.length === 1 && varying[0] !== axis)) return null
  return Float64Array.from(numbersOf(c) as Float32Array)
}

/** What a node does to its one data input, when that is a per-channel affine map. */
function affineOf(node: Node, inputs: readonly (Value | null)[], axis: number): Affine | null {
  if (node.op === batchNorm) {
    const params = inputs.slice(1)
    if (!params.every(isConstant) || axis !== 1) return null
    const [s, o, m, v] = params.map((p) => numbersOf((p as Value & { data: Tensor }).data)) as [
      Float32Array,
      Float32Array,
      Float32Array,
      Float32Array,
    ]
    const scale = Float64Array.from(s, (k, i) => k / Math.sqrt(v[i]! + node.attrs.epsilon))
    return { x: inputs[0]!, scale, shift: Float64Array.from(o, (k, i) => k - m[i]! * scale[i]!) }
  }
  if (![add, sub, mul, div].some((o) => o === node.op)) return null
  const [p, q] = inputs as [Value, Value]
  const swapped = isConstant(p)
  if (swapped === isConstant(q)) return null
  const [x, c] = swapped ? [q, p as Value & { data: Tensor }] : [p, q as Value & { data: Tensor }]
  const rank = shapeOf(x).length
  if (shapeOf(node.outputs[0]!).length !== rank || shapeOf(node.outputs[0]!).some((d, i) => d !== shapeOf(x)[i])) return null
  const k = alongAxis(c.data, rank, axis)
  if (!k) return null
  const one = (v: number): Float64Array => new Float64Array(k.length).fill(v)
  if (node.op === add) return { x, scale: one(1), shift: k }
  if (node.op === sub) return swapped ? { x, scale: one(-1), shift: k } : { x, scale: one(1), shift: k.map((v) => -v) }
  if (node.op === mul) return { x, scale: k, shift: one(0) }
  return swapped || k.some((v) => v === 0) ? null : { x, scale: k.map((v) => 1 / v), shift: one(0) }
}

const at = (v: Float64Array, i: number): number => v[v.length === 1 ? 0 : i]!

/** Scales below this are lost in single precision, and channels of such weights with them. */
const SMALLEST = 2 ** -100

/**
 * The grid of weights whose slices along `axis` were multiplied: scales take the factor, a negative one turns the grid round.
 * Null where a factor is 0, or where a turned weight lies beyond the grid's other end.
 */
function scaledGrid(q: QuantParams, axis: number, channels: number, factor: Float64Array, scaled: Tensor): QuantParams | null {
  if (factor.some((f) => f === 0) || (q.axis !== null && q.axis !== axis)) return null
  const scale = Float32Array.from({ length: channels }, (_, i) =>
    Math.max(SMALLEST, q.scale[q.axis === null ? 0 : i]! * Math.abs(at(factor, i))),
  )
  if (factor.every((f) => f > 0)) return { scale, axis, lo: q.lo, hi: q.hi }
  const reach = Math.min(-q.lo, q.hi)
  const inside = slices(scaled, axis).every((w, c) => w.every((v) => Math.abs(v) < (reach + 0.5) * scale[c]!))
  return inside ? { scale, axis, lo: -reach, hi: reach } : null
}

/** A weight tensor with each slice along `axis` multiplied by its factor. */
export function scaleAlong(t: Tensor, axis: number, factor: (i: number) => number): Tensor {
  const step = stridesOf(t.shape)[axis]!
  const n = t.shape[axis]!
  return tensorOf(
    t.dtype,
    t.shape,
    Float64Array.from(numbersOf(t) as Float32Array, (v, i) => v * factor(Math.floor(i / step) % n)),
  )
}

/**
 * Folds per-channel affine maps (batch normalization, constant Mul, Add, Sub, Div) into the convolution or dense layer before them, or a
 * factor into the one behind; a lone batch normalization becomes a 1×1 depthwise convolution, which has an integer form.
 * Constant zero padding moves into the convolution that follows. Exact up to rounding.
 */
export const foldAffine: Pass<'float'> = {
  name: 'foldAffine',
  preserves: 'function',
  run(graph) {
    const uses = usesOf(graph)
    const once = (v: Value | null | undefined): boolean => v != null && uses.consumers(v).length === 1 && !uses.isOutput(v)
    return rewrite(
      graph,
      (b, node, inputs) =>
        foldInto(b, node, inputs, once) ??
        absorbPad(b, node, inputs, once) ??
        absorbFactor(b, node, inputs, once) ??
        alone(b, node, inputs),
    )
  },
}

/** conv → affine: w'_o = w_o·scale_o, b'_o = b_o·scale_o + shift_o */
function foldInto(b: Builder, node: Node, inputs: readonly (Value | null)[], once: (v: Value | null) => boolean): readonly Value[] | null {
  const data = inputs.findIndex((v) => v !== null && !isConstant(v))
  const x = inputs[data]
  const maker = x ? b.producer(x) : null
  const info = maker?.op.weights?.(maker.attrs)
  if (!x || !maker || !info || !once(node.inputs[data]!)) return null
  const rank = shapeOf(x).length
  const affine = affineOf(node, inputs, axisOf(info.outAxis, rank))
  const weight = maker.inputs[info.weight]
  const bias = info.bias === null ? null : (maker.inputs[info.bias] ?? null)
  if (!affine || !isConstant(weight) || (bias && !isConstant(bias)) || info.bias === null) return null
  if (maker.attrs.group > 1 && info.axis !== 0) return null
  // Grouped transposed convolutions keep outputs of several groups in one slice.
  if (maker.op.name === 'convTranspose' && maker.attrs.group > 1) return null
  const w = scaleAlong(weight.data, info.axis, (i) => at(affine.scale, i))
  const channels = weight.data.shape[info.axis]!
  const old = bias?.data ? numbersOf(bias.data) : new Float64Array(channels)
  const shift = tensorOf(
    weight.dtype,
    [channels],
    Float64Array.from({ length: channels }, (_, i) => old[i]! * at(affine.scale, i) + at(affine.shift, i)),
  )
  const next = [...maker.inputs]
  next[info.weight] = b.constant(w, weight.name, weight.quant && scaledGrid(weight.quant, info.axis, channels, affine.scale, w))
  next[info.bias] = b.constant(shift, bias?.name ?? `${weight.name}.bias`)
  return b.add(maker.op, next, maker.attrs, { name: maker.name || node.name, outputs: [node.outputs[0]!.name] })
}

/** pad → conv: the border becomes the convolution's own */
function absorbPad(b: Builder, node: Node, inputs: readonly (Value | null)[], once: (v: Value | null) => boolean): readonly Value[] | null {
  if (node.op !== conv) return null
  const maker = b.producer(inputs[0]!)
  if (maker?.op !== pad || maker.attrs.mode !== 'constant' || maker.attrs.value !== 0 || !once(node.inputs[0]!)) return null
  const p = maker.attrs.pads as readonly number[]
  const rank = p.length / 2
  if (p.some((v, i) => v < 0 || (i % rank < 2 && v !== 0))) return null
  const spatial = [...p.slice(2, rank), ...p.slice(rank + 2)]
  const pads = (node.attrs.pads as number[]).map((v, i) => v + spatial[i]!)
  return b.add(conv, [maker.inputs[0]!, ...inputs.slice(1)], { ...node.attrs, pads }, { name: node.name, outputs: [node.outputs[0]!.name] })
}

/** affine → conv: a pure factor goes into the weights; a shift too where nothing is padded in */
function absorbFactor(
  b: Builder,
  node: Node,
  inputs: readonly (Value | null)[],
  once: (v: Value | null) => boolean,
): readonly Value[] | null {
  const info = node.op.weights?.(node.attrs)
  const x = inputs[0]
  const maker = x ? b.producer(x) : null
  const weight = info ? inputs[info.weight] : null
  if (!info || !maker || !isConstant(weight) || !once(node.inputs[0]!) || info.bias === null) return null
  // Weights on a grid of their own stay on it.
  if (weight.quant) return null
  if (node.attrs.group !== undefined && node.attrs.group !== 1) return null
  const bias = inputs[info.bias] ?? null
  if (bias && !isConstant(bias)) return null
  const affine = affineOf(maker, maker.inputs, axisOf(info.inAxis, shapeOf(x!).length))
  if (!affine || node.op.name === 'convTranspose') return null
  const shifted = affine.shift.some((v) => v !== 0)
  const padded = (node.attrs.pads as number[] | undefined)?.some((p) => p !== 0) ?? false
  if (shifted && padded) return null
  const w = weight.data
  const [O, C] = [w.shape[0]!, w.shape[1]!]
  const inner = sizeOf(w.shape.slice(2))
  const from = numbersOf(w)
  const offset = new Float64Array(O)
  for (let o = 0; o < O; o++)
    for (let c = 0; c < C; c++) for (let k = 0; k < inner; k++) offset[o]! += from[(o * C + c) * inner + k]! * at(affine.shift, c)
  const next = [...inputs]
  next[0] = affine.x
  next[info.weight] = b.constant(
    scaleAlong(w, 1, (c) => at(affine.scale, c)),
    weight.name,
  )
  if (shifted || bias) {
    const old = bias ? numbersOf(bias.data!) : new Float64Array(O)
    next[info.bias] = b.constant(
      tensorOf(
        w.dtype,
        [O],
        offset.map((v, o) => v + old[o]!),
      ),
      bias?.name ?? `${weight.name}.bias`,
    )
  }
  return b.add(node.op, next, node.attrs, { name: node.name, outputs: [node.outputs[0]!.name] })
}

/** A per-channel affine map that nothing could take in: as a depthwise 1×1 convolution it has an integer form. */
function alone(b: Builder, node: Node, inputs: readonly (Value | null)[]): readonly Value[] | null {
  const x = inputs.find((v) => v !== null && !isConstant(v))
  // A constant with a grid of its own keeps it.
  if (!x || !isFloat(x.dtype) || x.shape === null || inputs.some((v) => v?.quant)) return null
  const rank = x.shape.length
  const C = x.shape[1]
  if (rank < 3 || rank > 5 || typeof C !== 'number' || C === 1) return null
  const affine = affineOf(node, inputs, 1)
  // A single scalar Add or Mul is cheaper as it is.
  if (!affine || affine.scale.length !== C || node.op === add || node.op === sub) return null
  const spatial = x.shape.slice(2).map(() => 1)
  const w = b.constant(tensorOf(x.dtype, [C, 1, ...spatial], affine.scale), `${node.outputs[0]!.name}.scale`)
  const shift = b.constant(tensorOf(x.dtype, [C], affine.shift), `${node.outputs[0]!.name}.shift`)
  const attrs = { strides: spatial, dilations: spatial, pads: [...spatial, ...spatial].map(() => 0), group: C }
  return b.add(conv, [affine.x, w, shift], attrs, { name: node.name, outputs: [node.outputs[0]!.name] })
}
