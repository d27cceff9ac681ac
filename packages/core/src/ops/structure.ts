import type { Builder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import type { Dim, Node, QuantParams, Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { isFloat, numbersOf, sizeOf, stridesOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { quantizeValue, roundHalfEven } from '../math/fixedPoint.ts'
import { expandLike, reduceSum, reshape, reshapeTarget } from './broadcasting.ts'
import { add, mul, zerosLike } from './elementwise.ts'
import { axisOf, knownShape, pick, product, shapeOf, typed, walk } from './shapes.ts'

/** What every op that only moves elements shares: the grid passes through untouched. */
const moves = {
  levels: ['float', 'qdq', 'integer'],
  weights: null,
  quant: 'shared',
  positivelyHomogeneous: true,
  clamp: null,
} as const

const sameOp = <A>(b: Builder, node: Node<A>, inputs: readonly (Value | null)[], out: QuantParams): Value =>
  b.emit(node.op as Op<A>, inputs, node.attrs, { quant: out })

/** y[i…] = x[i permuted by perm]: the axes in another order */
export const transpose: Op<{ perm: readonly number[] }> = {
  ...moves,
  name: 'transpose',
  spec: 'ONNX Transpose-13',
  infer: ([x], { perm }) => {
    const s = shapeOf(x)
    if (perm.length !== s.length || [...perm].sort((a, c) => a - c).some((p, i) => p !== i))
      throw errors.shapeMismatch(`[${perm}] does not permute the axes of [${s}]`)
    return [
      typed(
        x!.dtype,
        perm.map((p) => s[p]!),
      ),
    ]
  },
  eval: ([x], { perm }) => {
    const strides = stridesOf(x!.shape)
    const shape = perm.map((p) => x!.shape[p]!)
    const from = new Int32Array(sizeOf(shape))
    walk(shape, [perm.map((p) => strides[p]!)], (i, [o]) => {
      from[i] = o!
    })
    return [pick(x!, shape, (i) => from[i]!)]
  },
  grad: (b, node, [dy]) => {
    const inverse = node.attrs.perm.map((_, i) => node.attrs.perm.indexOf(i))
    return [dy ? b.emit(transpose, [dy], { perm: inverse }) : null]
  },
  lipschitz: 1,
  lower: sameOp,
}

/** A constant on a grid with its axes in another order, its grid's axis with it; other values go through `node`. */
export function transposeValue(b: Builder, v: Value, perm: readonly number[], node: () => Value): Value {
  if (!v.data || !v.quant) return node()
  const { axis } = v.quant
  return b.constant(transpose.eval([v.data], { perm })[0]!, v.name, { ...v.quant, axis: axis === null ? null : perm.indexOf(axis) })
}

/** y = the inputs side by side along one axis */
export const concat: Op<{ axis: number }> = {
  ...moves,
  name: 'concat',
  spec: 'ONNX Concat-13',
  infer: (xs, { axis }) => {
    const first = shapeOf(xs[0])
    const a = axisOf(axis, first.length)
    let total: Dim = 0
    for (const x of xs) {
      const s = shapeOf(x)
      if (s.length !== first.length || s.some((d, i) => i !== a && typeof d === 'number' && typeof first[i] === 'number' && d !== first[i]))
        throw errors.shapeMismatch(`[${s}] does not join [${first}] along axis ${axis}`)
      total = typeof total === 'number' && typeof s[a] === 'number' ? total + (s[a] as number) : '?'
    }
    return [
      typed(
        xs[0]!.dtype,
        first.map((d, i) => (i === a ? total : d)),
      ),
    ]
  },
  eval: (xs, { axis }) => {
    const tensors = xs as Tensor[]
    const a = axisOf(axis, tensors[0]!.shape.length)
    const shape = tensors[0]!.shape.map((d, i) => (i === a ? tensors.reduce((n, t) => n + t.shape[a]!, 0) : d))
    const inner = sizeOf(shape.slice(a + 1))
    const outer = sizeOf(shape.slice(0, a))
    const data = new (tensors[0]!.data.constructor as Float32ArrayConstructor)(sizeOf(shape))
    let at = 0
    for (let o = 0; o < outer; o++)
      for (const t of tensors) {
        const run = t.shape[a]! * inner
        data.set((t.data as Float32Array).subarray(o * run, (o + 1) * run), at)
        at += run
      }
    return [{ dtype: tensors[0]!.dtype, shape, data }]
  },
  grad: (b, node, [dy], wanted) => {
    let at = 0
    return node.inputs.map((x, i) => {
      const s = shapeOf(x)
      const size = knownShape({ dtype: 'float32', shape: [s[axisOf(node.attrs.axis, s.length)]!] })[0]!
      const start = at
      at += size
      return dy && wanted[i] ? b.emit(slice, [dy], { axes: [node.attrs.axis], starts: [start], ends: [at], steps: [1] }) : null
    })
  },
  lipschitz: 1,
  lower: sameOp,
}

export interface SliceAttrs {
  readonly axes: readonly number[]
  readonly starts: readonly number[]
  readonly ends: readonly number[]
  readonly steps: readonly number[]
}

/** First index, and count, of a slice over a known size (ONNX Slice-13 clamping rules). */
function sliceRange(size: number, start: number, end: number, step: number): { first: number; count: number } {
  const wrap = (v: number): number => (v < 0 ? v + size : v)
  const first = step > 0 ? Math.min(Math.max(wrap(start), 0), size) : Math.min(Math.max(wrap(start), 0), size - 1)
  const last = step > 0 ? Math.min(Math.max(wrap(end), 0), size) : Math.min(Math.max(wrap(end), -1), size - 1)
  return { first, count: Math.max(0, Math.ceil((last - first) / step)) }
}

/** y = x[start : end : step] on the given axes */
export const slice: Op<SliceAttrs> = {
  ...moves,
  name: 'slice',
  spec: 'ONNX Slice-13, constant bounds',
  infer: ([x], { axes, starts, ends, steps }) => {
    const s = [...shapeOf(x)]
    axes.forEach((axis, i) => {
      const a = axisOf(axis, s.length)
      const d = s[a]!
      if (steps[i] === 0) throw errors.shapeMismatch('a slice with step 0')
      if (typeof d === 'number') s[a] = sliceRange(d, starts[i]!, ends[i]!, steps[i]!).count
      else if (!(starts[i] === 0 && ends[i]! >= 2 ** 31 - 1 && steps[i] === 1)) s[a] = '?'
    })
    return [typed(x!.dtype, s)]
  },
  eval: ([x], { axes, starts, ends, steps }) => {
    const shape = [...x!.shape]
    const strides = stridesOf(x!.shape)
    let base = 0
    axes.forEach((axis, i) => {
      const a = axisOf(axis, shape.length)
      const r = sliceRange(shape[a]!, starts[i]!, ends[i]!, steps[i]!)
      base += r.first * strides[a]!
      strides[a]! *= steps[i]!
      shape[a] = r.count
    })
    const from = new Int32Array(sizeOf(shape))
    walk(shape, [strides], (i, [o]) => {
      from[i] = base + o!
    })
    return [pick(x!, shape, (i) => from[i]!)]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const x = node.inputs[0]!
    const s = shapeOf(x)
    const { axes, starts, ends, steps } = node.attrs
    // Strided positions are opened with zeros by a gather from [0, dy…]; unit steps are a plain pad.
    let g = dy
    const before = s.map(() => 0)
    const after = s.map(() => 0)
    axes.forEach((axis, i) => {
      const a = axisOf(axis, s.length)
      const size = s[a]
      if (typeof size !== 'number') {
        if (starts[i] === 0 && steps[i] === 1 && ends[i]! >= 2 ** 31 - 1) return
        throw errors.unsupportedModel(`the gradient of a slice along the symbolic axis ${a}`)
      }
      const r = sliceRange(size, starts[i]!, ends[i]!, steps[i]!)
      if (steps[i] === 1) {
        before[a] = r.first
        after[a] = size - r.first - r.count
        return
      }
      const back = new Array<number>(size).fill(0)
      for (let k = 0; k < r.count; k++) back[r.first + k * steps[i]!] = k + 1
      const pads = s.map((_, d) => (d === a ? 1 : 0))
      g = b.emit(pad, [g], { pads: [...pads, ...s.map(() => 0)], mode: 'constant', value: 0 })
      g = b.emit(gather, [g, b.ints(back)], { axis: a })
    })
    const pads = [...before, ...after]
    return [pads.some((p) => p !== 0) ? b.emit(pad, [g], { pads, mode: 'constant', value: 0 }) : g]
  },
  lipschitz: 1,
  lower: sameOp,
}

/** y_0, y_1, … = x cut along one axis into the given sizes */
export const split: Op<{ axis: number; sizes: readonly number[] }> = {
  ...moves,
  name: 'split',
  spec: 'ONNX Split-18, constant sizes',
  infer: ([x], { axis, sizes }) => {
    const s = shapeOf(x)
    const a = axisOf(axis, s.length)
    const sum = sizes.reduce((n, d) => n + d, 0)
    if (typeof s[a] === 'number' && s[a] !== sum) throw errors.shapeMismatch(`sizes [${sizes}] do not add up to ${s[a]}`)
    return sizes.map((size) =>
      typed(
        x!.dtype,
        s.map((d, i) => (i === a ? size : d)),
      ),
    )
  },
  eval: ([x], { axis, sizes }) => {
    let at = 0
    return sizes.flatMap((size) => {
      const y = slice.eval([x!], { axes: [axis], starts: [at], ends: [at + size], steps: [1] })
      at += size
      return y
    })
  },
  grad: (b, node, dys) => [
    b.emit(
      concat,
      dys.map((dy, i) => dy ?? zerosLike(b, node.outputs[i]!)),
      { axis: node.attrs.axis },
    ),
  ],
  lipschitz: 1,
  // Several results: `simplify` takes it apart into slices.
  lower: null,
  quant: 'shared',
}

export interface PadAttrs {
  /** [begin…, end…]; negative sizes crop. */
  readonly pads: readonly number[]
  readonly mode: 'constant' | 'reflect' | 'edge' | 'wrap'
  readonly value: number
}

/** y = x with a border: constant, reflected, repeated or wrapped */
export const pad: Op<PadAttrs> = {
  ...moves,
  name: 'pad',
  spec: 'ONNX Pad-19, constant pads',
  infer: ([x], { pads }) => {
    const s = shapeOf(x)
    if (pads.length !== 2 * s.length) throw errors.shapeMismatch(`${pads.length} pads for rank ${s.length}`)
    return [
      typed(
        x!.dtype,
        s.map((d, i) => (pads[i] === 0 && pads[i + s.length] === 0 ? d : typeof d === 'number' ? d + pads[i]! + pads[i + s.length]! : '?')),
      ),
    ]
  },
  eval: ([x], { pads, mode, value }) => {
    const rank = x!.shape.length
    const shape = x!.shape.map((d, i) => d + pads[i]! + pads[i + rank]!)
    const strides = stridesOf(x!.shape)
    const maps = shape.map((size, a) =>
      Array.from({ length: size }, (_, i) => {
        const n = x!.shape[a]!
        let k = i - pads[a]!
        if (mode === 'edge') k = Math.min(Math.max(k, 0), n - 1)
        else if (mode === 'wrap') k = ((k % n) + n) % n
        else if (mode === 'reflect' && n > 1) {
          const period = 2 * (n - 1)
          k = ((k % period) + period) % period
          if (k >= n) k = period - k
        } else if (mode === 'reflect') k = 0
        return k >= 0 && k < n ? k * strides[a]! : -1
      }),
    )
    const own = stridesOf(shape)
    const data = new (x!.data.constructor as Float32ArrayConstructor)(sizeOf(shape))
    const blank = tensorOf(x!.dtype, [1], [value]).data[0]!
    const source = x!.data as Float32Array
    for (let i = 0; i < data.length; i++) {
      let from = 0
      for (let a = 0; a < rank && from >= 0; a++) {
        const m = maps[a]![Math.floor(i / own[a]!) % shape[a]!]!
        from = m < 0 ? -1 : from + m
      }
      data[i] = from < 0 ? (blank as number) : source[from]!
    }
    return [{ dtype: x!.dtype, shape, data }]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const x = node.inputs[0]!
    const s = shapeOf(x)
    const { pads, mode } = node.attrs
    if (mode === 'constant') return [b.emit(pad, [dy], { pads: pads.map((p) => -p), mode: 'constant', value: 0 })]
    // Borders copy inner elements: per axis the map is a 0/1 matrix, and its transpose adds the copies back.
    let g = dy
    s.forEach((_, a) => {
      const before = pads[a]!
      const after = pads[a + s.length]!
      if (before === 0 && after === 0) return
      const n = knownShape({ dtype: 'float32', shape: [s[a]!] })[0]!
      const line = pad.eval(
        [
          tensorOf(
            'float32',
            [n],
            Float32Array.from({ length: n }, (_, i) => i),
          ),
        ],
        { pads: [before, after], mode, value: 0 },
      )[0]!
      g = gatherTransposed(b, g, a, numbersOf(line) as Float32Array, n)
    })
    return [g]
  },
  lipschitz: null,
  positivelyHomogeneous: false,
  lower: (b, node, [x], out) => {
    const value = quantizeValue(node.attrs.value, out.scale[0]!, out.lo, out.hi)
    return b.emit(pad, [x!], { ...node.attrs, value }, { quant: out })
  },
}

/** Σ over positions i of `g` along `axis` into place index[i] of a result of size n: the transpose of a gather. */
function gatherTransposed(b: Builder, g: Value, axis: number, index: ArrayLike<number>, n: number): Value {
  const s = shapeOf(g)
  const zeros = b.emit(mul, [b.emit(gather, [g, b.ints(new Array<number>(n).fill(0))], { axis }), b.scalar(0)], {})
  const flat = Int32Array.from(index)
  const places = b.constant(
    tensorOf(
      'int64',
      s.map((_, i) => (i === axis ? flat.length : 1)),
      flat,
    ),
    'places',
  )
  return b.emit(scatterAdd, [zeros, expandLike(b, places, g), g], { axis })
}

/** y = data, with updates added at indices along one axis; indices and updates have one shape */
export const scatterAdd: Op<{ axis: number }> = {
  ...moves,
  levels: ['float', 'qdq', 'integer'],
  name: 'scatterAdd',
  spec: 'ONNX ScatterElements-18, reduction = add',
  infer: ([data]) => [typed(data!.dtype, shapeOf(data))],
  eval: ([data, indices, updates], { axis }) => {
    const out = Float64Array.from(numbersOf(data!) as Float32Array)
    const strides = stridesOf(data!.shape)
    const a = axisOf(axis, data!.shape.length)
    const at = numbersOf(indices!)
    const from = numbersOf(updates!)
    const others = strides.map((v, i) => (i === a ? 0 : v))
    walk(indices!.shape, [others], (i, [o]) => {
      const k = at[i]!
      out[o! + (k < 0 ? k + data!.shape[a]! : k) * strides[a]!]! += from[i]!
    })
    return [tensorOf(data!.dtype, data!.shape, out)]
  },
  grad: (b, node, [dy], wanted) => [
    dy,
    null,
    dy && wanted[2] ? b.emit(gatherElements, [dy, node.inputs[1]!], { axis: node.attrs.axis }) : null,
  ],
  quant: 'none',
  lipschitz: null,
  lower: null,
}

/** y[i, j] = x[index[i, j], j] along one axis */
export const gatherElements: Op<{ axis: number }> = {
  ...moves,
  levels: ['float', 'qdq', 'integer'],
  name: 'gatherElements',
  spec: 'ONNX GatherElements-13',
  infer: ([x, indices]) => [typed(x!.dtype, shapeOf(indices))],
  eval: ([x, indices], { axis }) => {
    const strides = stridesOf(x!.shape)
    const a = axisOf(axis, x!.shape.length)
    const at = numbersOf(indices!)
    const from = new Int32Array(at.length)
    const others = strides.map((v, i) => (i === a ? 0 : v))
    walk(indices!.shape, [others], (i, [o]) => {
      const k = at[i]!
      from[i] = o! + (k < 0 ? k + x!.shape[a]! : k) * strides[a]!
    })
    return [pick(x!, indices!.shape, (i) => from[i]!)]
  },
  grad: (b, node, [dy]) => {
    const [x, indices] = node.inputs as [Value, Value]
    return [dy ? b.emit(scatterAdd, [zerosLike(b, x), indices, dy], { axis: node.attrs.axis }) : null, null]
  },
  quant: 'none',
  lipschitz: null,
  lower: null,
}

/** y = x[…, indices, …]: whole slices picked along one axis; the indices' shape takes the axis's place */
export const gather: Op<{ axis: number }> = {
  ...moves,
  name: 'gather',
  spec: 'ONNX Gather-13',
  infer: ([x, indices], { axis }) => {
    const s = shapeOf(x)
    const a = axisOf(axis, s.length)
    return [typed(x!.dtype, [...s.slice(0, a), ...shapeOf(indices), ...s.slice(a + 1)])]
  },
  eval: ([x, indices], { axis }) => {
    const a = axisOf(axis, x!.shape.length)
    const inner = sizeOf(x!.shape.slice(a + 1))
    const size = x!.shape[a]!
    const at = numbersOf(indices!)
    const shape = [...x!.shape.slice(0, a), ...indices!.shape, ...x!.shape.slice(a + 1)]
    for (let i = 0; i < at.length; i++)
      if (at[i]! >= size || at[i]! < -size) throw errors.shapeMismatch(`index ${at[i]} is outside axis ${axis} of size ${size}`)
    return [
      pick(x!, shape, (i) => {
        const within = i % inner
        const j = Math.floor(i / inner)
        const k = at[j % at.length]!
        return (Math.floor(j / at.length) * size + (k < 0 ? k + size : k)) * inner + within
      }),
    ]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy || !wanted[0]) return [null, null]
    const [x, indices] = node.inputs as [Value, Value]
    const s = shapeOf(x)
    const a = axisOf(node.attrs.axis, s.length)
    const count = product(shapeOf(indices))
    const flatShape = [...s.slice(0, a), count, ...s.slice(a + 1)]
    const flat = b.emit(reshape, [dy], { shape: reshapeTarget(shapeOf(dy), flatShape) })
    const column = b.emit(reshape, [indices], { shape: s.map((_, i) => (i === a ? -1 : 1)) })
    return [b.emit(scatterAdd, [zerosLike(b, x), expandLike(b, column, flat), flat], { axis: a }), null]
  },
  lipschitz: null,
  lower: (b, node, [x, indices], out) => (indices ? b.emit(gather, [x!, indices], node.attrs, { quant: out }) : null),
}

/** y = x repeated along each axis */
export const tile: Op<{ repeats: readonly number[] }> = {
  ...moves,
  name: 'tile',
  spec: 'ONNX Tile-13, constant repeats',
  infer: ([x], { repeats }) => [
    typed(
      x!.dtype,
      shapeOf(x).map((d, i) => (repeats[i] === 1 ? d : typeof d === 'number' ? d * repeats[i]! : '?')),
    ),
  ],
  eval: ([x], { repeats }) => {
    const shape = x!.shape.map((d, i) => d * repeats[i]!)
    const own = stridesOf(shape)
    const strides = stridesOf(x!.shape)
    return [
      pick(x!, shape, (i) => {
        let from = 0
        for (let a = 0; a < shape.length; a++) from += ((Math.floor(i / own[a]!) % shape[a]!) % x!.shape[a]!) * strides[a]!
        return from
      }),
    ]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const s = shapeOf(node.inputs[0])
    const { repeats } = node.attrs
    // Each repeated axis splits into (repeat, size); the repeats are summed.
    const folded: number[] = []
    const axes: number[] = []
    s.forEach((d, i) => {
      if (repeats[i] !== 1) {
        axes.push(folded.length)
        folded.push(repeats[i]!)
      }
      folded.push(typeof d === 'number' ? d : axes.length === 0 ? 0 : -1)
    })
    return [axes.length ? b.emit(reduceSum, [b.emit(reshape, [dy], { shape: folded })], { axes, keepDims: false }) : dy]
  },
  lipschitz: null,
  lower: sameOp,
}

/** y = x with blocks of channels laid out in space (mode DCR: depth, column, row; CRD: column, row, depth): [N, C·b², H, W] → [N, C, H·b, W·b] */
export const depthToSpace: Op<{ block: number; mode: 'DCR' | 'CRD' }> = {
  ...moves,
  name: 'depthToSpace',
  spec: 'ONNX DepthToSpace-13',
  infer: ([x], { block }) => {
    const [n, c, h, w] = shapeOf(x)
    const times = (d: Dim): Dim => (typeof d === 'number' ? d * block : '?')
    if (typeof c !== 'number' || c % (block * block) !== 0)
      throw errors.shapeMismatch(`${c} channels do not split into blocks of ${block}²`)
    return [typed(x!.dtype, [n!, c / (block * block), times(h!), times(w!)])]
  },
  eval: ([x], { block: k, mode }) => {
    const [n, c, h, w] = x!.shape as [number, number, number, number]
    const depth = c / (k * k)
    const split = mode === 'DCR' ? [n, k, k, depth, h, w] : [n, depth, k, k, h, w]
    const perm = mode === 'DCR' ? [0, 3, 4, 1, 5, 2] : [0, 1, 4, 2, 5, 3]
    const y = transpose.eval([{ ...x!, shape: split }], { perm })[0]!
    return [{ ...y, shape: [n, depth, h * k, w * k] }]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const { block: k, mode } = node.attrs
    const [n, c, h, w] = shapeOf(node.inputs[0]) as [Dim, number, number, number]
    const depth = c / (k * k)
    const fix = (d: Dim): number => (typeof d === 'number' ? d : 0)
    const open = b.emit(reshape, [dy], { shape: [fix(n), depth, h, k, w, k] })
    const back = b.emit(transpose, [open], { perm: mode === 'DCR' ? [0, 3, 5, 1, 2, 4] : [0, 1, 3, 5, 2, 4] })
    return [b.emit(reshape, [back], { shape: [fix(n), c, h, w] })]
  },
  lipschitz: 1,
  lower: sameOp,
}

/** y = x with blocks of space moved into channels: [N, C, H·b, W·b] → [N, C·b², H, W] */
export const spaceToDepth: Op<{ block: number }> = {
  ...moves,
  name: 'spaceToDepth',
  spec: 'ONNX SpaceToDepth-13',
  infer: ([x], { block }) => {
    const [n, c, h, w] = shapeOf(x)
    const over = (d: Dim): Dim => {
      if (typeof d !== 'number') return '?'
      if (d % block !== 0) throw errors.shapeMismatch(`size ${d} does not split into blocks of ${block}`)
      return d / block
    }
    return [typed(x!.dtype, [n!, typeof c === 'number' ? c * block * block : '?', over(h!), over(w!)])]
  },
  eval: ([x], { block: k }) => {
    const [n, c, h, w] = x!.shape as [number, number, number, number]
    const y = transpose.eval([{ ...x!, shape: [n, c, h / k, k, w / k, k] }], { perm: [0, 3, 5, 1, 2, 4] })[0]!
    return [{ ...y, shape: [n, c * k * k, h / k, w / k] }]
  },
  grad: (b, node, [dy]) => [dy ? b.emit(depthToSpace, [dy], { block: node.attrs.block, mode: 'DCR' }) : null],
  lipschitz: 1,
  lower: sameOp,
}

/** y = the sizes of x, as int64 */
export const shape: Op<{ start: number; end: number | null }> = {
  ...moves,
  name: 'shape',
  spec: 'ONNX Shape-15',
  infer: ([x], a) => [typed('int64', [shapeOf(x).slice(...bounds(a)).length])],
  eval: ([x], a) => {
    const s = x!.shape.slice(...bounds(a))
    return [tensorOf('int64', [s.length], s)]
  },
  grad: null,
  quant: 'none',
  lipschitz: null,
  lower: null,
}
const bounds = (a: { start: number; end: number | null }): [number, number | undefined] => [a.start, a.end ?? undefined]

export interface ResizeAttrs {
  /** Output size per axis; null scales instead. */
  readonly sizes: readonly (number | null)[]
  readonly scales: readonly number[]
  readonly mode: 'nearest' | 'linear' | 'cubic'
  readonly coordinates: 'half_pixel' | 'pytorch_half_pixel' | 'align_corners' | 'asymmetric' | 'half_pixel_symmetric'
  readonly nearest: 'round_prefer_floor' | 'round_prefer_ceil' | 'floor' | 'ceil'
  readonly cubicA: number
  readonly excludeOutside: boolean
}

/** Row i holds the weights of the inputs that make output i, along one axis: every mode of Resize is this matrix (ONNX Resize-19). */
function samples(size: number, out: number, scale: number, a: ResizeAttrs): { at: number[]; weight: number[] }[] {
  const f = Math.fround
  const s = f(scale)
  return Array.from({ length: out }, (_, i) => {
    const exact = size * scale
    // In single precision, as runtimes compute it: which of two pixels is the nearer hangs on the last bit.
    const half = f(f((i + 0.5) / s) - 0.5)
    let x: number
    switch (a.coordinates) {
      case 'align_corners':
        x = out === 1 ? 0 : (i * (size - 1)) / (exact - 1)
        break
      case 'asymmetric':
        x = f(i / s)
        break
      case 'pytorch_half_pixel':
        x = exact > 1 ? half : 0
        break
      case 'half_pixel_symmetric':
        x = (size / 2) * (1 - out / exact) + half
        break
      default:
        x = half
    }
    const inside = (k: number): number => Math.min(Math.max(k, 0), size - 1)
    if (a.mode === 'nearest') {
      const r =
        a.nearest === 'floor'
          ? Math.floor(x)
          : a.nearest === 'ceil'
            ? Math.ceil(x)
            : a.nearest === 'round_prefer_ceil'
              ? Math.floor(x + 0.5)
              : Math.ceil(x - 0.5)
      return { at: [inside(r)], weight: [1] }
    }
    const support = a.mode === 'linear' ? 1 : 2
    const cubic = (t: number): number => {
      const u = Math.abs(t)
      const c = a.cubicA
      return u <= 1 ? ((c + 2) * u - (c + 3)) * u * u + 1 : u < 2 ? ((c * u - 5 * c) * u + 8 * c) * u - 4 * c : 0
    }
    const kernel = (t: number): number => (a.mode === 'linear' ? Math.max(0, 1 - Math.abs(t)) : cubic(t))
    const at: number[] = []
    const weight: number[] = []
    for (let k = Math.floor(x - support); k <= Math.ceil(x + support); k++) {
      const w = kernel(k - x)
      if (w === 0) continue
      const outside = k < 0 || k >= size
      if (outside && a.excludeOutside) continue
      at.push(inside(k))
      weight.push(w)
    }
    const sum = weight.reduce((s, w) => s + w, 0)
    return { at, weight: weight.map((w) => w / sum) }
  })
}

function resizeSizes(from: readonly Dim[], a: ResizeAttrs): Dim[] {
  return from.map(
    (d, i) => a.sizes[i] ?? (a.scales[i] === 1 ? d : typeof d === 'number' ? Math.floor(Math.fround(d * Math.fround(a.scales[i]!))) : '?'),
  )
}

const sampled: Pick<Op<ResizeAttrs>, 'spec' | 'infer' | 'eval' | 'grad' | 'lipschitz'> = {
  spec: 'ONNX Resize-19',
  infer: ([x], a) => [typed(x!.dtype, resizeSizes(shapeOf(x), a))],
  eval: ([x], a) => {
    let t: Tensor = x!
    x!.shape.forEach((size, axis) => {
      const out = resizeSizes(x!.shape, a)[axis] as number
      if (out === size && (a.scales[axis] ?? 1) === 1) return
      const rows = samples(size, out, a.scales[axis]!, a)
      const inner = sizeOf(t.shape.slice(axis + 1))
      const outer = sizeOf(t.shape.slice(0, axis))
      const shape = t.shape.map((d, i) => (i === axis ? out : d))
      const from = numbersOf(t)
      const y = new Float64Array(sizeOf(shape))
      for (let o = 0; o < outer; o++)
        for (let i = 0; i < out; i++) {
          const { at, weight } = rows[i]!
          for (let k = 0; k < at.length; k++)
            for (let j = 0; j < inner; j++) y[(o * out + i) * inner + j]! += weight[k]! * from[(o * size + at[k]!) * inner + j]!
        }
      t = tensorOf(isFloat(t.dtype) ? 'float64' : t.dtype, shape, isFloat(t.dtype) ? y : y.map(roundHalfEven))
    })
    return [tensorOf(x!.dtype, t.shape, numbersOf(t))]
  },
  grad: (b, node, [dy]) => {
    if (!dy) return [null]
    const a = node.attrs
    const s = shapeOf(node.inputs[0])
    let g = dy
    // The transpose of each axis's matrix, tap by tap: nearest has one tap, linear two, cubic four.
    s.forEach((d, axis) => {
      if ((a.scales[axis] ?? 1) === 1) return
      const size = knownShape({ dtype: 'float32', shape: [d] })[0]!
      const out = shapeOf(dy)[axis] as number
      const rows = samples(size, out, a.scales[axis]!, a)
      const taps = Math.max(...rows.map((r) => r.at.length))
      let sum: Value | null = null
      for (let k = 0; k < taps; k++) {
        const w = tensorOf(
          dy.dtype,
          s.map((_, i) => (i === axis ? out : 1)),
          rows.map((r) => r.weight[k] ?? 0),
        )
        const part = gatherTransposed(
          b,
          b.emit(mul, [g, b.constant(w, 'tap')], {}),
          axis,
          rows.map((r) => r.at[k] ?? 0),
          size,
        )
        sum = sum ? b.emit(add, [sum, part], {}) : part
      }
      g = sum!
    })
    return [g]
  },
  lipschitz: null,
}

/** y = the nearest elements of x at other places, axis by axis */
export const resize: Op<ResizeAttrs> = { ...moves, ...sampled, name: 'resize', lower: sameOp }

/** y = x at other places, linear or cubic between its elements, axis by axis: what lies between two steps of a grid lies on none */
export const interpolate: Op<ResizeAttrs> = { ...moves, ...sampled, name: 'interpolate', quant: 'none', lower: null }

/** The op of a mode. */
export const resizing = (a: ResizeAttrs): Op<ResizeAttrs> => (a.mode === 'nearest' ? resize : interpolate)
