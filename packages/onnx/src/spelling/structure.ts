import * as core from '@dqc/core'
import { axisOf, type Dim, type Op, shapeOf, type Value } from '@dqc/core'
import { Foreign, float, int, ints, type NodeReader, plain, type Read, shapeTensor, string, trimmed, type Write } from './spelling.ts'

/** Axes from an attribute (older opsets) or from a constant input; null when neither is there. */
export const axesOf = (r: NodeReader, i: number): number[] | null => r.constant(i) ?? r.ints('axes')

/** Sizes that a reshape can take: known ones, at most one unknown; sizes equal to the input's at the same place are copied. */
function target(r: NodeReader, sizes: readonly Dim[], from: readonly Dim[]): number[] {
  let open = sizes.includes(-1) ? 1 : 0
  return sizes.map((d, i) => {
    if (typeof d === 'number') return d
    if (from[i] === d && d !== '?') return 0
    if (open++) throw new Foreign(`${r.type} to [${sizes}] has more than one unknown size`)
    return -1
  })
}

const reshapeRead: Read = (r) => {
  const x = r.input(0)
  const sizes = r.opset < 5 ? r.ints('shape') : r.sizes(1)
  if (!sizes) throw new Foreign('the shape is computed at run time')
  if (r.int('allowzero', 0) === 1 && sizes.includes(0)) throw new Foreign('allowzero with a zero size')
  return r.emit(core.reshape, [x], { shape: target(r, sizes, shapeOf(x)) })
}

const flattenRead: Read = (r) => {
  const x = r.input(0)
  const s = shapeOf(x)
  const axis = r.int('axis', 1)
  const a = axis < 0 ? axis + s.length : axis
  if (a === 1 && s.length >= 1)
    return r.emit(core.reshape, [x], {
      shape: [s[0] === 0 ? 0 : typeof s[0] === 'string' ? 0 : s[0]!, s[0] === 0 || s.includes(0) ? knownProduct(s.slice(1)) : -1],
    })
  const lead = knownProduct(s.slice(0, a))
  return r.emit(core.reshape, [x], { shape: [lead, s.includes(0) ? knownProduct(s.slice(a)) : -1] })
}

const knownProduct = (dims: readonly Dim[]): number => {
  const p = core.product(dims)
  if (typeof p !== 'number') throw new Foreign(`the size of [${dims}] is not known`)
  return p
}

const squeezeRead: Read = (r) => {
  const x = r.input(0)
  const s = shapeOf(x)
  const axes = (axesOf(r, 1) ?? s.flatMap((d, i) => (d === 1 ? [i] : []))).map((a) => axisOf(a, s.length))
  const kept = s.filter((_, i) => !axes.includes(i))
  return r.emit(core.reshape, [x], { shape: moved(kept, s) })
}

const unsqueezeRead: Read = (r) => {
  const x = r.input(0)
  const s = shapeOf(x)
  const given = axesOf(r, 1)
  if (!given) throw new Foreign('the axes are computed at run time')
  const rank = s.length + given.length
  const axes = given.map((a) => axisOf(a, rank))
  const rest = [...s]
  const shape: Dim[] = Array.from({ length: rank }, (_, i) => (axes.includes(i) ? 1 : rest.shift()!))
  return r.emit(core.reshape, [x], { shape: moved(shape, s) })
}

/** A reshape target for sizes that only moved: one symbolic size at most, unless it stays in place. */
function moved(to: readonly Dim[], from: readonly Dim[]): number[] {
  let open = 0
  return to.map((d, i) => {
    if (typeof d === 'number') {
      // A literal 0 in a reshape copies; a true zero size can only be copied.
      if (d === 0 && from[i] !== 0) throw new Foreign('an empty tensor changes rank')
      return d
    }
    if (from[i] === d && d !== '?') return 0
    if (open++) throw new Foreign(`[${from}] → [${to}] has more than one unknown size`)
    return -1
  })
}

const sliceRead: Read = (r) => {
  const x = r.input(0)
  const rank = shapeOf(x).length
  const from = r.opset < 10 ? { starts: r.ints('starts'), ends: r.ints('ends'), axes: r.ints('axes'), steps: null } : null
  const known = (i: number): number[] | null => {
    const v = r.sizes(i)
    if (v?.some((d) => typeof d === 'string')) throw new Foreign('slice bounds depend on a symbolic size')
    return v as number[] | null
  }
  const starts = from ? from.starts : known(1)
  const ends = from ? from.ends : known(2)
  if (!starts || !ends) throw new Foreign('slice bounds are computed at run time')
  const axes = (from ? from.axes : known(3)) ?? starts.map((_, i) => i)
  const steps = (from ? null : known(4)) ?? starts.map(() => 1)
  return r.emit(core.slice, [x], { starts, ends, axes: axes.map((a) => axisOf(a, rank)), steps })
}

const splitRead: Read = (r) => {
  const x = r.input(0)
  const s = shapeOf(x)
  const axis = axisOf(r.int('axis', 0), s.length)
  const given = r.opset < 13 ? r.ints('split') : r.constant(1)
  if (given && given.length === 0) throw new Foreign('a split into nothing')
  const n = r.outputCount
  const whole = s[axis]!
  const sizes =
    given ??
    (typeof whole === 'number'
      ? Array.from({ length: n }, (_, i) => Math.max(0, Math.min(Math.ceil(whole / n), whole - i * Math.ceil(whole / n))))
      : null)
  if (!sizes) throw new Foreign('the size to split is not known')
  return r.b.add(core.split, [x], { axis, sizes })
}

const padRead: Read = (r) => {
  const x = r.input(0)
  const rank = shapeOf(x).length
  const mode = r.string('mode', 'constant') as core.PadAttrs['mode']
  let pads = r.opset < 11 ? (r.ints('pads') ?? r.ints('paddings')) : r.constant(1)
  if (!pads) throw new Foreign('pads are computed at run time')
  const value = r.opset < 11 ? r.float('value', 0) : (r.constant(2)?.[0] ?? 0)
  const axes = r.opset >= 18 ? r.constant(3) : null
  if (axes) {
    const full = new Array<number>(2 * rank).fill(0)
    axes.forEach((a, i) => {
      full[axisOf(a, rank)] = pads![i]!
      full[axisOf(a, rank) + rank] = pads![i + axes.length]!
    })
    pads = full
  }
  return r.emit(core.pad, [x], { pads, mode, value })
}

const expandRead: Read = (r) => {
  const x = r.input(0)
  const sizes = r.sizes(1)
  if (!sizes) throw new Foreign('the shape is computed at run time')
  const from = shapeOf(x)
  const lead = sizes.length - from.length
  const shape = sizes.map((d, i) => {
    if (typeof d === 'number') return d
    if (from[i - lead] === d && d !== '?') return 1
    throw new Foreign(`expansion to the symbolic size ${d}`)
  })
  return r.emit(core.expand, [x], { shape })
}

const constantOfShapeRead: Read = (r) => {
  const sizes = r.sizes(0)
  if (!sizes?.every((d) => typeof d === 'number')) throw new Foreign('the shape is computed at run time')
  const t = r.tensor('value')
  if (r.has('value') && !t) throw new Foreign('the value is only carried')
  const shape = sizes as number[]
  if (core.sizeOf(shape) > 2 ** 28) throw core.errors.badModel(`ConstantOfShape of [${shape}]`, `node ${r.type}`)
  const data = t ? t.data : new Float32Array(1)
  const filled = new (data.constructor as Float32ArrayConstructor)(core.sizeOf(shape)).fill(data[0] as number)
  return r.b.constant({ dtype: t?.dtype ?? 'float32', shape, data: filled }, 'filled')
}

const resizeRead: Read = (r) => {
  const x = r.input(0)
  const s = shapeOf(x)
  const upsample = r.type === 'Upsample'
  const old = upsample || r.opset < 11
  const scaleInput = upsample && r.opset < 9 ? null : old ? 1 : 2
  let scales = scaleInput === null ? r.floats('scales') : r.constant(scaleInput)
  let sizes = old ? null : r.sizes(3)
  if (scales?.length === 0) scales = null
  if (sizes?.length === 0) sizes = null
  const axes = r.ints('axes')
  if (axes) {
    const place = <T>(list: readonly T[] | null, fill: (i: number) => T): T[] | null => {
      if (!list) return null
      const full = s.map((_, i) => fill(i))
      axes.forEach((a, i) => {
        full[axisOf(a, s.length)] = list[i]!
      })
      return full
    }
    scales = place(scales, () => 1)
    sizes = place<Dim>(sizes, (i) => s[i]!)
  }
  if (r.int('antialias', 0) === 1) throw new Foreign('antialias')
  if (r.string('keep_aspect_ratio_policy', 'stretch') !== 'stretch') throw new Foreign('keep_aspect_ratio_policy')
  const coordinates = old ? 'asymmetric' : r.string('coordinate_transformation_mode', 'half_pixel')
  if (!['half_pixel', 'pytorch_half_pixel', 'align_corners', 'asymmetric', 'half_pixel_symmetric'].includes(coordinates))
    throw new Foreign(`coordinates ${coordinates}`)
  if (!scales && !sizes) throw new Foreign('sizes are computed at run time')
  const mode = r.string('mode', 'nearest')
  const fixed = sizes?.map((d, i) => (typeof d === 'number' && d !== s[i] ? d : null)) ?? s.map(() => null)
  const ratio =
    scales ??
    s.map((d, i) => {
      const to = sizes![i]!
      if (to === d) return 1
      if (typeof d !== 'number' || typeof to !== 'number') throw new Foreign('a symbolic size is resized')
      return to / d
    })
  // Before operator set 11 the nearest element lay before a place when it grew, behind it when it shrank.
  const shrinks = ratio.some((k) => k < 1)
  if (old && mode === 'nearest' && shrinks && ratio.some((k) => k > 1))
    throw new Foreign('a resize that grows along one axis and shrinks along another')
  const attrs: core.ResizeAttrs = {
    sizes: fixed,
    scales: ratio,
    mode: (mode === 'bilinear' ? 'linear' : mode) as core.ResizeAttrs['mode'],
    coordinates: coordinates as core.ResizeAttrs['coordinates'],
    nearest: (old ? (shrinks ? 'ceil' : 'floor') : r.string('nearest_mode', 'round_prefer_floor')) as core.ResizeAttrs['nearest'],
    cubicA: r.float('cubic_coeff_a', -0.75),
    excludeOutside: r.int('exclude_outside', 0) === 1,
  }
  return r.emit(core.resizing(attrs), [x], attrs)
}

export const read: Record<string, Read> = {
  Reshape: reshapeRead,
  Flatten: flattenRead,
  Squeeze: squeezeRead,
  Unsqueeze: unsqueezeRead,
  Transpose: (r) => {
    const n = shapeOf(r.input(0)).length
    const perm = r.ints('perm') ?? Array.from({ length: n }, (_, i) => n - 1 - i)
    return core.transposeValue(r.b, r.input(0), perm, () => r.emit(core.transpose, [r.input(0)], { perm }))
  },
  Concat: (r) => {
    const xs = Array.from({ length: r.inputCount }, (_, i) => r.input(i))
    return r.emit(core.concat, xs, { axis: axisOf(r.int('axis', 1), shapeOf(xs[0]!).length) })
  },
  Slice: sliceRead,
  Split: splitRead,
  Pad: padRead,
  Expand: expandRead,
  Tile: (r) => {
    const repeats = r.constant(1)
    if (!repeats || r.opset < 6) throw new Foreign('repeats are computed at run time')
    return r.emit(core.tile, [r.input(0)], { repeats })
  },
  Gather: (r) => {
    const [x, i] = [r.input(0), r.input(1)]
    return r.emit(core.gather, [x, i], { axis: axisOf(r.int('axis', 0), shapeOf(x).length) })
  },
  GatherElements: (r) =>
    r.emit(core.gatherElements, [r.input(0), r.input(1)], { axis: axisOf(r.int('axis', 0), shapeOf(r.input(0)).length) }),
  ScatterElements: (r) => {
    if (r.string('reduction', 'none') !== 'add') throw new Foreign('a scatter that replaces')
    return r.emit(core.scatterAdd, [r.input(0), r.input(1), r.input(2)], { axis: axisOf(r.int('axis', 0), shapeOf(r.input(0)).length) })
  },
  DepthToSpace: (r) =>
    r.emit(core.depthToSpace, [r.input(0)], { block: r.int('blocksize'), mode: r.string('mode', 'DCR') as 'DCR' | 'CRD' }),
  SpaceToDepth: (r) => r.emit(core.spaceToDepth, [r.input(0)], { block: r.int('blocksize') }),
  Shape: (r) => r.emit(core.shape, [r.input(0)], { start: r.int('start', 0), end: r.has('end') ? r.int('end') : null }),
  ConstantOfShape: constantOfShapeRead,
  Resize: resizeRead,
  Upsample: resizeRead,
}

const resizeWrite: Write = (w, node, [x], outs) => {
  const a = node.attrs as core.ResizeAttrs
  if (a.coordinates === 'half_pixel_symmetric') w.atLeast(19)
  const from = shapeOf(node.inputs[0])
  // Scales give these sizes by themselves, whatever the batch, unless rounding comes in between.
  const byScale = a.sizes.every((d, i) => d === null || Math.floor(Math.fround((from[i] as number) * Math.fround(a.scales[i]!))) === d)
  let [sizes, scales] = ['', '']
  if (byScale) scales = w.constant(core.tensorOf('float32', [a.scales.length], a.scales))
  else {
    // Sizes of every axis: runtimes lose those of some axes when they turn layouts round. Axes without one, a symbolic batch among them, keep the input's.
    const shape = w.temp('shape')
    w.node('Shape', [x!], [shape])
    const each = a.sizes.map((d, i) => {
      if (d !== null) return w.constant(shapeTensor([d]))
      const kept = w.temp('kept')
      w.node('Slice', [shape, w.constant(shapeTensor([i])), w.constant(shapeTensor([i + 1]))], [kept])
      return kept
    })
    w.node('Concat', each, [(sizes = w.temp('sizes'))], [int('axis', 0)])
  }
  w.node('Resize', trimmed([x!, '', scales, sizes]), outs, [
    string('mode', a.mode),
    string('coordinate_transformation_mode', a.coordinates),
    string('nearest_mode', a.nearest),
    float('cubic_coeff_a', a.cubicA),
    int('exclude_outside', a.excludeOutside ? 1 : 0),
  ])
}

const withShape =
  (type: string, key: (a: any) => readonly number[]): Write =>
  (w, node, [x], outs) =>
    w.node(type, [x!, w.constant(shapeTensor(key(node.attrs)))], outs)

export const write: [Op, Write][] = [
  [core.reshape, withShape('Reshape', (a) => a.shape)],
  [core.transpose, plain('Transpose', (a) => [ints('perm', a.perm)])],
  [core.concat, plain('Concat', (a) => [int('axis', a.axis)])],
  [
    core.slice,
    (w, node, [x], outs) => {
      const a = node.attrs as core.SliceAttrs
      w.node('Slice', [x!, ...[a.starts, a.ends, a.axes, a.steps].map((v) => w.constant(shapeTensor(v)))], outs)
    },
  ],
  [
    core.split,
    (w, node, [x], outs) => w.node('Split', [x!, w.constant(shapeTensor(node.attrs.sizes))], outs, [int('axis', node.attrs.axis)]),
  ],
  [
    core.pad,
    (w, node, [x], outs) => {
      const a = node.attrs as core.PadAttrs
      if (a.mode === 'wrap') w.atLeast(19)
      const value = a.mode === 'constant' ? [w.constant(core.scalar(a.value, (node.inputs[0] as Value).dtype))] : []
      w.node('Pad', [x!, w.constant(shapeTensor(a.pads)), ...value], outs, [string('mode', a.mode)])
    },
  ],
  [
    core.expand,
    (w, node, [x, like], outs) => {
      const shape = (node.attrs as core.ExpandAttrs).shape
      const to = shape ? w.constant(shapeTensor(shape)) : w.temp('shape')
      if (!shape) w.node('Shape', [like!], [to])
      w.node('Expand', [x!, to], outs)
    },
  ],
  [core.tile, withShape('Tile', (a) => a.repeats)],
  [core.gather, plain('Gather', (a) => [int('axis', a.axis)])],
  [core.gatherElements, plain('GatherElements', (a) => [int('axis', a.axis)])],
  [core.scatterAdd, plain('ScatterElements', (a) => [int('axis', a.axis), string('reduction', 'add')])],
  [core.depthToSpace, plain('DepthToSpace', (a) => [int('blocksize', a.block), string('mode', a.mode)])],
  [core.spaceToDepth, plain('SpaceToDepth', (a) => [int('blocksize', a.block)])],
  [core.shape, plain('Shape', (a) => [int('start', a.start), ...(a.end === null ? [] : [int('end', a.end)])])],
  [core.resize, resizeWrite],
  [core.interpolate, resizeWrite],
]
