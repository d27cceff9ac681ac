import * as core from '@dqc/core'
import { axisOf, type Dim, errors, isConstant, type Op, shapeOf, tensorOf, type Value } from '@dqc/core'
import {
  Foreign,
  inCore,
  inFile,
  type Laid,
  type Layout,
  type OperatorReader,
  type OperatorWriter,
  PERM_TO_CORE,
  PERM_TO_FILE,
  type Read,
  TO_CORE,
  type Write,
} from './spelling.ts'

// ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** An axis of the file as an axis of the operand in the reader's layout. */
const axisIn = (r: OperatorReader, axis: number, rank: number): number => {
  const a = axis < 0 ? axis + rank : axis
  return rank === 4 && r.layout === 'core' ? TO_CORE[a as 0]! : a
}
const here = (r: OperatorReader, value: Value): Laid => ({ value, layout: r.layout })

/** A declared shape as a target for core's reshape: an open first size is the batch where the others hold as much as before, and one size may be open. */
function target(r: OperatorReader, x: Value, k = 0): number[] {
  const from = shapeOf(x)
  const to = r.outShape(k)
  const batch = from[0]
  const size = (s: readonly Dim[]): number => s.reduce<number>((p, d) => p * (typeof d === 'number' ? d : 1), 1)
  const others = to.slice(1)
  const keepsBatch = typeof batch === 'string' && (others.some((d) => d < 0) || size(others) === size(from))
  const open = to.map((d, i): Dim => (d >= 0 ? d : i === 0 && keepsBatch ? batch : '?'))
  // A batch of one written down where the input's is open: the first size is the batch.
  if (typeof batch === 'string' && to[0] === 1 && !open.some((d) => typeof d === 'string') && size(from) === size(open)) open[0] = batch
  return core.reshapeTarget(from, open)
}

const reshapeRead: Read = (r) => {
  const x = r.file(0)
  return inFile(r.emit(core.reshape, [x], { shape: target(r, x) }))
}

const padRead: Read = (r) => {
  const rank = r.rank(0)
  const list = r.numbers(1)
  const pads = new Array<number>(2 * rank).fill(0)
  for (let a = 0; a < rank; a++) {
    pads[axisIn(r, a, rank)] = list[2 * a]!
    pads[axisIn(r, a, rank) + rank] = list[2 * a + 1]!
  }
  const fill = r.type === 'PADV2' ? r.real(2) : null
  if (r.type === 'PADV2' && !fill) throw new Foreign('a PADV2 whose fill is computed at run time')
  const value = fill ? (fill.data[0] as number) : 0
  const mode = r.type !== 'MIRROR_PAD' ? 'constant' : r.options.mode === 1 ? null : 'reflect'
  if (mode === null) throw new Foreign('a symmetric MIRROR_PAD')
  return here(r, r.emit(core.pad, [r.operand(0)], { pads, mode, value }))
}

const resizeRead =
  (mode: 'linear' | 'nearest'): Read =>
  (r) => {
    const x = r.core(0)
    const to = r.numbers(1)
    const { alignCorners, halfPixelCenters } = r.options
    const s = core.knownShape({ dtype: 'float32', shape: shapeOf(x).slice(2) }, 'the image')
    const attrs: core.ResizeAttrs = {
      sizes: [null, null, to[0]!, to[1]!],
      scales: [1, 1, to[0]! / s[0]!, to[1]! / s[1]!],
      mode,
      coordinates: alignCorners ? 'align_corners' : halfPixelCenters ? 'half_pixel' : 'asymmetric',
      nearest: alignCorners || halfPixelCenters ? 'round_prefer_ceil' : 'floor',
      cubicA: -0.75,
      excludeOutside: false,
    }
    return inCore(r.finish(r.emit(core.resizing(attrs), [x], attrs)))
  }

export const read: Record<string, Read> = {
  RESHAPE: reshapeRead,
  SQUEEZE: reshapeRead,
  EXPAND_DIMS: reshapeRead,
  TRANSPOSE: (r) => inFile(r.emit(core.transpose, [r.file(0)], { perm: r.numbers(1) })),
  CONCATENATION: (r) => {
    const rank = r.rank(0)
    const xs = Array.from({ length: r.inputCount }, (_, i) => r.operand(i))
    return here(r, r.finish(r.emit(core.concat, xs, { axis: axisIn(r, r.options.axis ?? 0, rank) }), r.options.fusedActivationFunction))
  },
  PAD: padRead,
  PADV2: padRead,
  MIRROR_PAD: padRead,
  SPLIT: (r) => {
    const rank = r.rank(1)
    const axis = r.numbers(0)[0]!
    const size = r.outShape()[axis < 0 ? axis + rank : axis]!
    const x = r.operand(1)
    return r.b.add(core.split, [x], { axis: axisIn(r, axis, rank), sizes: Array<number>(r.outputCount).fill(size) }).map((v) => here(r, v))
  },
  SPLIT_V: (r) => {
    const rank = r.rank(0)
    const axis = r.numbers(2)[0]!
    const sizes = Array.from({ length: r.outputCount }, (_, k) => r.outShape(k)[axis < 0 ? axis + rank : axis]!)
    return r.b.add(core.split, [r.operand(0)], { axis: axisIn(r, axis, rank), sizes }).map((v) => here(r, v))
  },
  SLICE: (r) => {
    const rank = r.rank(0)
    const [starts, sizes] = [r.numbers(1), r.numbers(2)]
    const axes = Array.from({ length: rank }, (_, a) => axisIn(r, a, rank))
    const ends = starts.map((s, a) => (sizes[a] === -1 ? 2 ** 31 - 1 : s + sizes[a]!))
    const x = r.operand(0)
    // A whole batch of one is the batch, whatever its size.
    const first = shapeOf(x)[0]
    const isBatch = (a: number): boolean => a === 0 && rank > 1 && sizes[a] === 1 && (typeof first === 'string' || first === 1)
    const keep = axes.flatMap((_, a) => (starts[a] === 0 && (sizes[a] === -1 || isBatch(a)) ? [] : [a]))
    return here(
      r,
      r.emit(core.slice, [x], {
        axes: keep.map((a) => axes[a]!),
        starts: keep.map((a) => starts[a]!),
        ends: keep.map((a) => ends[a]!),
        steps: keep.map(() => 1),
      }),
    )
  },
  STRIDED_SLICE: (r) => {
    const o = r.options
    if (o.ellipsisMask || o.newAxisMask || o.offset) throw new Foreign('a strided slice with ellipsis, new axes or offsets')
    const [begin, end, steps] = [r.numbers(1), r.numbers(2), r.numbers(3)]
    const bit = (mask: number, a: number): boolean => ((mask ?? 0) & (1 << a)) !== 0
    const axes = begin.map((_, a) => a)
    const starts = axes.map((a) => (bit(o.beginMask, a) ? (steps[a]! > 0 ? 0 : 2 ** 31 - 1) : begin[a]!))
    const ends = axes.map((a) =>
      bit(o.shrinkAxisMask, a)
        ? begin[a] === -1
          ? 2 ** 31 - 1
          : begin[a]! + 1
        : bit(o.endMask, a)
          ? steps[a]! > 0
            ? 2 ** 31 - 1
            : -(2 ** 31) + 1
          : end[a]!,
    )
    const x = r.file(0)
    const y = r.emit(core.slice, [x], { axes, starts, ends, steps: axes.map((a) => (bit(o.shrinkAxisMask, a) ? 1 : steps[a]!)) })
    return inFile(o.shrinkAxisMask ? r.b.emit(core.reshape, [y], { shape: target(r, y) }) : y)
  },
  GATHER: (r) => {
    if (r.options.batchDims) throw new Foreign('a gather with batch axes')
    const rank = r.rank(0)
    const axis = r.options.axis ?? 0
    return inFile(r.emit(core.gather, [r.file(0), r.file(1)], { axis: axis < 0 ? axis + rank : axis }))
  },
  PACK: (r) => {
    const rank = r.rank(0)
    const axis = r.options.axis < 0 ? r.options.axis + rank + 1 : (r.options.axis ?? 0)
    const xs = Array.from({ length: r.inputCount }, (_, i) => {
      const x = r.file(i)
      const s = shapeOf(x)
      return r.b.emit(core.reshape, [x], { shape: core.reshapeTarget(s, [...s.slice(0, axis), 1, ...s.slice(axis)]) })
    })
    return inFile(r.finish(r.emit(core.concat, xs, { axis })))
  },
  UNPACK: (r) => {
    const rank = r.rank(0)
    const axis = r.options.axis < 0 ? r.options.axis + rank : (r.options.axis ?? 0)
    return r.b
      .add(core.split, [r.file(0)], { axis, sizes: Array<number>(r.outputCount).fill(1) })
      .map((v, k) => inFile(r.b.emit(core.reshape, [v], { shape: target(r, v, k) })))
  },
  TILE: (r) => inFile(r.emit(core.tile, [r.file(0)], { repeats: r.numbers(1) })),
  BROADCAST_TO: (r) => inFile(r.emit(core.expand, [r.file(0)], { shape: r.numbers(1) })),
  SHAPE: (r) => inFile(r.emit(core.shape, [r.file(0)], { start: 0, end: null })),
  RESIZE_BILINEAR: resizeRead('linear'),
  RESIZE_NEAREST_NEIGHBOR: resizeRead('nearest'),
  SPACE_TO_DEPTH: (r) => inCore(r.emit(core.spaceToDepth, [r.core(0)], { block: r.options.blockSize })),
  DEPTH_TO_SPACE: (r) => inCore(r.emit(core.depthToSpace, [r.core(0)], { block: r.options.blockSize, mode: 'DCR' })),
}

// ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

const inLayout = (axis: number, rank: number, layout: Layout): number =>
  rank === 4 && layout === 'file' ? TO_CORE.indexOf(axis as 0) : axis
const sizesOf = (shape: readonly Dim[]): number[] => {
  if (shape.filter((d) => typeof d === 'string').length > 1)
    throw errors.unsupportedTarget(`a reshape to [${shape}] with more than one open size`)
  return shape.map((d) => (typeof d === 'number' ? d : -1))
}

const reshapeWrite: Write = (w, node) => {
  const [x, y] = [node.inputs[0]!, node.outputs[0]!]
  const [from, to] = [shapeOf(x), shapeOf(y)]
  const [, c, h, wd] = from
  const put = (tensor: number): void => {
    const out = w.result(y, 'core')
    w.add('RESHAPE', {
      inputs: [tensor, w.ints(sizesOf(to))],
      outputs: [out],
      options: ['ReshapeOptions', { newShape: Int32Array.from(sizesOf(to)) }],
    })
  }
  const image = from.length === 4 && typeof c === 'number' && typeof h === 'number' && typeof wd === 'number'
  // One pixel, or one channel: both orders hold the same sequence.
  if (image && (h * wd === 1 || c === 1)) return put(w.tensor(x, w.layoutOf([x])))
  const denseOnly =
    w.consumers(y).length > 0 &&
    !w.isOutput(y) &&
    w.consumers(y).every((n) => (n.op === core.dense || n.op === core.intDense) && n.inputs[0] === y && isConstant(n.inputs[1]))
  if (image && w.layoutOf([x]) === 'file' && denseOnly && to.length === 2 && to[1] === c * h * wd) {
    w.flattened.set(y, [c, h, wd])
    return put(w.tensor(x, 'file'))
  }
  put(w.tensor(x, 'core'))
}

const transposeWrite: Write = (w, node) => {
  const [x, y] = [node.inputs[0]!, node.outputs[0]!]
  const perm = node.attrs.perm as readonly number[]
  // A change of layout is what the other order of axes is there for.
  if (String(perm) === String(PERM_TO_FILE)) return w.alias(y, 'core', w.tensor(x, 'file'))
  if (String(perm) === String(PERM_TO_CORE)) return w.alias(y, 'file', w.tensor(x, 'core'))
  const from = w.tensor(x, 'core')
  w.add('TRANSPOSE', {
    inputs: [from, w.ints(perm)],
    outputs: [w.result(y, 'core')],
    options: ['TransposeOptions', {}],
    version: x.quant ? 2 : 1,
  })
}

const concatWrite: Write = (w, node) => {
  const rank = shapeOf(node.outputs[0]).length
  const layout = w.layoutOf(node.inputs)
  const inputs = node.inputs.map((v) => w.tensor(v!, layout))
  const axis = inLayout(axisOf(node.attrs.axis, rank), rank, layout)
  w.add('CONCATENATION', {
    inputs,
    outputs: [w.result(node.outputs[0]!, layout)],
    options: ['ConcatenationOptions', { axis }],
    version: node.outputs[0]!.quant ? 2 : 1,
  })
}

const padWrite: Write = (w, node) => {
  const x = node.inputs[0]!
  const { pads, mode, value } = node.attrs as core.PadAttrs
  const rank = shapeOf(x).length
  const layout = w.layoutOf([x])
  if (mode === 'edge' || mode === 'wrap' || pads.some((p) => p < 0))
    throw errors.unsupportedTarget(`a padding of mode ${mode}${pads.some((p) => p < 0) ? ' that crops' : ''}`)
  const table = new Array<number>(2 * rank)
  for (let a = 0; a < rank; a++) {
    const to = inLayout(a, rank, layout)
    table[2 * to] = pads[a]!
    table[2 * to + 1] = pads[a + rank]!
  }
  const inputs = [w.tensor(x, layout), w.constant(tensorOf('int32', [rank, 2], table), 'pads')]
  const outputs = [w.result(node.outputs[0]!, layout)]
  const version = x.quant ? 2 : 1
  if (mode === 'reflect') w.add('MIRROR_PAD', { inputs, outputs, options: ['MirrorPadOptions', { mode: 0 }], version })
  else if (value === 0) w.add('PAD', { inputs, outputs, options: ['PadOptions', {}], version })
  else {
    const fill = x.quant
      ? w.weights(tensorOf('int8', [1], [value]), x.quant, null, 'fill', false)
      : w.constant(tensorOf('float32', [1], [value]), 'fill')
    w.add('PADV2', { inputs: [...inputs, fill], outputs, options: ['PadV2Options', {}], version })
  }
}

const sliceWrite: Write = (w, node) => {
  const x = node.inputs[0]!
  const a = node.attrs as core.SliceAttrs
  const s = shapeOf(x)
  const rank = s.length
  const layout = w.layoutOf([x])
  const begin = new Array<number>(rank).fill(0)
  const end = new Array<number>(rank).fill(0)
  const steps = new Array<number>(rank).fill(1)
  let [beginMask, endMask] = [0, 0]
  const touched = new Map(a.axes.map((axis, i) => [axisOf(axis, rank), i]))
  for (let axis = 0; axis < rank; axis++) {
    const to = inLayout(axis, rank, layout)
    const i = touched.get(axis)
    const big = (v: number): boolean => Math.abs(v) >= 2 ** 31 - 2
    if (i === undefined) {
      beginMask |= 1 << to
      endMask |= 1 << to
      continue
    }
    steps[to] = a.steps[i]!
    if (big(a.starts[i]!)) beginMask |= 1 << to
    else begin[to] = a.starts[i]!
    if (big(a.ends[i]!)) endMask |= 1 << to
    else {
      const d = s[axis]
      end[to] = typeof d === 'number' ? Math.min(a.ends[i]!, d) : a.ends[i]!
    }
  }
  const inputs = [w.tensor(x, layout), w.ints(begin), w.ints(end), w.ints(steps)]
  const outputs = [w.result(node.outputs[0]!, layout)]
  w.add('STRIDED_SLICE', { inputs, outputs, options: ['StridedSliceOptions', { beginMask, endMask }], version: x.quant ? 2 : 1 })
}

const splitWrite: Write = (w, node) => {
  const x = node.inputs[0]!
  const rank = shapeOf(x).length
  const layout = w.layoutOf([x])
  const from = w.tensor(x, layout)
  const axis = inLayout(axisOf(node.attrs.axis, rank), rank, layout)
  const sizes = node.attrs.sizes as readonly number[]
  w.add('SPLIT_V', {
    inputs: [from, w.ints(sizes), w.constant(tensorOf('int32', [], [axis]), 'axis')],
    outputs: node.outputs.map((v) => w.result(v, layout)),
    options: ['SplitVOptions', { numSplits: sizes.length }],
    version: x.quant ? 2 : 1,
  })
}

const gatherWrite: Write = (w, node) => {
  const [x, indices] = node.inputs as [Value, Value]
  // Kernels index with 32 bits, and from the front only.
  const size = shapeOf(x)[axisOf(node.attrs.axis, shapeOf(x).length)]
  const fromFront = (i: number): number => {
    if (i >= 0) return i
    if (typeof size !== 'number') throw errors.unsupportedTarget('Gather counts from the end of an axis of open size', `node ${node.name}`)
    return i + size
  }
  const at = isConstant(indices)
    ? w.constant(tensorOf('int32', indices.data.shape, Array.from(core.numbersOf(indices.data) as Int32Array, fromFront)), indices.name)
    : w.tensor(indices, 'core')
  w.add('GATHER', {
    inputs: [w.tensor(x, 'core'), at],
    outputs: [w.result(node.outputs[0]!, 'core')],
    options: ['GatherOptions', { axis: node.attrs.axis }],
    version: x.quant ? 2 : 1,
  })
}

const resizeWrite: Write = (w, node) => {
  const x = node.inputs[0]!
  const a = node.attrs as core.ResizeAttrs
  const shape = core.knownShape({ dtype: 'float32', shape: shapeOf(node.outputs[0]).slice(2) }, 'the image')
  const from = core.knownShape({ dtype: 'float32', shape: shapeOf(x).slice(2) }, 'the image')
  const whole = shape.every((d, i) => Math.abs((a.scales[i + 2] ?? 1) * from[i]! - d) < 1e-6)
  const plain = shapeOf(x).length === 4 && (a.scales[0] ?? 1) === 1 && (a.scales[1] ?? 1) === 1 && whole
  const half = a.coordinates === 'half_pixel' || (a.coordinates === 'pytorch_half_pixel' && shape.every((d) => d > 1))
  const align = a.coordinates === 'align_corners'
  const fits =
    a.mode === 'linear'
      ? half || align || a.coordinates === 'asymmetric'
      : a.mode === 'nearest' &&
        (a.coordinates === 'asymmetric' ? a.nearest === 'floor' : (half || align) && a.nearest === 'round_prefer_ceil')
  if (!plain || !fits)
    throw errors.unsupportedTarget(`a ${a.mode} resize with ${a.coordinates} coordinates${a.mode === 'nearest' ? ` and ${a.nearest}` : ''}`)
  const inputs = [w.tensor(x, 'file'), w.ints(shape)]
  const options = { alignCorners: align, halfPixelCenters: half }
  w.output(node, 'file', false, (out) =>
    a.mode === 'linear'
      ? w.add('RESIZE_BILINEAR', {
          inputs,
          outputs: [out],
          options: ['ResizeBilinearOptions', options],
          version: half ? 3 : x.quant ? 2 : 1,
        })
      : w.add('RESIZE_NEAREST_NEIGHBOR', {
          inputs,
          outputs: [out],
          options: ['ResizeNearestNeighborOptions', options],
          version: half ? 3 : x.quant ? 2 : 1,
        }),
  )
}

/** The channels of an image in the order in which TFLite lays out blocks: depth last, where ONNX's mode CRD has it first. */
function depthFirst(w: OperatorWriter, x: Value, block: number): number {
  const [n, c, h, wd] = shapeOf(x) as [Dim, number, Dim, Dim]
  const depth = c / block ** 2
  const order = Int32Array.from({ length: c }, (_, i) => (i % depth) * block ** 2 + Math.floor(i / depth))
  const out = w.temp([n, h, wd, c], x.quant)
  w.add('GATHER', {
    inputs: [w.tensor(x, 'file'), w.constant(tensorOf('int32', [c], order), 'channels')],
    outputs: [out],
    options: ['GatherOptions', { axis: 3 }],
    version: x.quant ? 2 : 1,
  })
  return out
}

const blocks =
  (type: 'DEPTH_TO_SPACE' | 'SPACE_TO_DEPTH', options: 'DepthToSpaceOptions' | 'SpaceToDepthOptions'): Write =>
  (w, node) => {
    const x = node.inputs[0]!
    w.add(type, {
      inputs: [node.attrs.mode === 'CRD' ? depthFirst(w, x, node.attrs.block) : w.tensor(x, 'file')],
      outputs: [w.result(node.outputs[0]!, 'file')],
      options: [options, { blockSize: node.attrs.block }],
      version: x.quant ? 2 : 1,
    })
  }

const identityWrite: Write = (w, node) => {
  const layout = w.layoutOf(node.inputs)
  w.alias(node.outputs[0]!, layout, w.tensor(node.inputs[0]!, layout))
}

export const write: readonly (readonly [Op, Write])[] = [
  [core.reshape, reshapeWrite],
  [core.transpose, transposeWrite],
  [core.concat, concatWrite],
  [core.pad, padWrite],
  [core.slice, sliceWrite],
  [core.split, splitWrite],
  [core.gather, gatherWrite],
  [core.resize, resizeWrite],
  [core.interpolate, resizeWrite],
  [core.depthToSpace, blocks('DEPTH_TO_SPACE', 'DepthToSpaceOptions')],
  [core.spaceToDepth, blocks('SPACE_TO_DEPTH', 'SpaceToDepthOptions')],
  [core.identity, identityWrite],
  [
    core.tile,
    (w, node) =>
      w.add('TILE', {
        inputs: [w.tensor(node.inputs[0]!, 'core'), w.ints(node.attrs.repeats)],
        outputs: [w.result(node.outputs[0]!, 'core')],
        options: ['TileOptions', {}],
      }),
  ],
  [
    core.expand,
    (w, node) => {
      const shape = core.knownShape(node.outputs[0], 'the result')
      w.add('BROADCAST_TO', {
        inputs: [w.tensor(node.inputs[0]!, 'core'), w.ints(shape)],
        outputs: [w.result(node.outputs[0]!, 'core')],
        options: ['BroadcastToOptions', {}],
        version: 2,
      })
    },
  ],
  [
    core.shape,
    (w, node) => {
      if (node.attrs.start !== 0 || node.attrs.end !== null) throw errors.unsupportedTarget('a part of a shape')
      w.add('SHAPE', {
        inputs: [w.tensor(node.inputs[0]!, 'core')],
        outputs: [w.result(node.outputs[0]!, 'core')],
        options: ['ShapeOptions', { outType: 4 }],
      })
    },
  ],
]

/** Ops whose rank-4 data has channels: their tensors have them last in the file. */
export const channels: readonly Op[] = [core.resize, core.interpolate, core.depthToSpace, core.spaceToDepth]
export const agnostic: readonly Op[] = [core.concat, core.pad, core.slice, core.split]
