import * as core from '@dqc/core'
import { axisOf, type Dim, isConstant, knownShape, type Op, shapeOf, type Value } from '@dqc/core'
import { Foreign, float, int, ints, type NodeReader, plain, type Read, shapeTensor, trimmed, type Write } from './spelling.ts'
import { axesOf } from './structure.ts'

/** Explicit pads from `pads` or `auto_pad` (ONNX Conv-11: SAME_UPPER puts the odd one at the end, SAME_LOWER at the start). */
function windowOf(r: NodeReader, kernel: readonly number[], spatial: readonly Dim[]): core.Window {
  const rank = kernel.length
  const strides = r.ints('strides') ?? kernel.map(() => 1)
  const dilations = r.ints('dilations') ?? kernel.map(() => 1)
  const auto = r.string('auto_pad', 'NOTSET')
  let pads = r.ints('pads') ?? new Array<number>(2 * rank).fill(0)
  if (auto === 'VALID') pads = pads.map(() => 0)
  if (auto === 'SAME_UPPER' || auto === 'SAME_LOWER') {
    const total = spatial.map((d, i) => {
      if (typeof d !== 'number') throw new Foreign('auto_pad over a symbolic size')
      const out = Math.ceil(d / strides[i]!)
      return Math.max(0, (out - 1) * strides[i]! + (kernel[i]! - 1) * dilations[i]! + 1 - d)
    })
    const small = total.map((p) => Math.floor(p / 2))
    const large = total.map((p, i) => p - small[i]!)
    pads = auto === 'SAME_UPPER' ? [...small, ...large] : [...large, ...small]
  }
  if (pads.length !== 2 * rank || strides.length !== rank || dilations.length !== rank)
    throw new Foreign('strides, pads and dilations do not match the kernel')
  return { strides, pads, dilations }
}

const convRead: Read = (r) => {
  const [x, w] = [r.input(0), r.input(1)]
  const kernel = knownShape(w, 'the weights').slice(2)
  return r.emit(core.conv, [x, w, r.maybe(2)], { ...windowOf(r, kernel, shapeOf(x).slice(2)), group: r.int('group', 1) })
}

const convTransposeRead: Read = (r) => {
  const [x, w] = [r.input(0), r.input(1)]
  const kernel = knownShape(w, 'the weights').slice(2)
  const space = shapeOf(x).slice(2)
  const strides = r.ints('strides') ?? kernel.map(() => 1)
  const dilations = r.ints('dilations') ?? kernel.map(() => 1)
  const outputPadding = r.ints('output_padding') ?? kernel.map(() => 0)
  const wanted = r.ints('output_shape')?.slice(-kernel.length) ?? null
  const auto = r.string('auto_pad', 'NOTSET')
  let pads = r.ints('pads') ?? new Array<number>(2 * kernel.length).fill(0)
  if (wanted || auto === 'SAME_UPPER' || auto === 'SAME_LOWER') {
    const total = space.map((d, i) => {
      if (typeof d !== 'number') throw new Foreign('output_shape over a symbolic size')
      return strides[i]! * (d - 1) + outputPadding[i]! + (kernel[i]! - 1) * dilations[i]! + 1 - (wanted?.[i] ?? d * strides[i]!)
    })
    // ONNX ConvTranspose-11: SAME_UPPER puts the odd one at the end, everything else at the start.
    const small = total.map((p) => Math.floor(p / 2))
    const large = total.map((p, i) => p - small[i]!)
    pads = auto === 'SAME_UPPER' ? [...small, ...large] : [...large, ...small]
    if (total.some((p) => p < 0)) throw new Foreign('an output larger than the window reaches')
  } else if (auto === 'VALID') pads = pads.map(() => 0)
  return r.emit(core.convTranspose, [x, w, r.maybe(2)], { strides, dilations, pads, outputPadding, group: r.int('group', 1) })
}

/** A [rows × cols] constant transposed in place of a node. */
function transposed(r: NodeReader, w: Value): Value {
  return core.transposeValue(r.b, w, [1, 0], () => r.emit(core.transpose, [w], { perm: [1, 0] }))
}

const gemmRead: Read = (r) => {
  let [a, w] = [r.input(0), r.input(1)]
  if (r.int('transA', 0)) a = transposed(r, a)
  if (!r.int('transB', 0)) w = transposed(r, w)
  const alpha = r.float('alpha', 1)
  const beta = r.float('beta', 1)
  const c = r.maybe(2)
  const units = shapeOf(w)[0]
  const times = (v: Value, k: number): Value => (k === 1 ? v : r.emit(core.mul, [v, r.b.constant(core.scalar(k, v.dtype))], {}))
  if (core.isKnown(w.shape)) {
    // Only a bias vector fits dense; anything else is added afterwards.
    const s = c && shapeOf(c)
    const vector = s?.at(-1) === units && s.slice(0, -1).every((d) => d === 1)
    const weight = times(w, alpha)
    if (!c) return r.emit(core.dense, [a, weight, null], {})
    const bias = times(c, beta)
    if (!vector) return r.emit(core.add, [r.emit(core.dense, [a, weight, null], {}), bias], {})
    return r.emit(core.dense, [a, weight, s.length === 1 ? bias : r.emit(core.reshape, [bias], { shape: [-1] })], {})
  }
  const product = times(r.emit(core.matmul, [a, transposed(r, w)], {}), alpha)
  return c ? r.emit(core.add, [product, times(c, beta)], {}) : product
}

const matmulRead: Read = (r) => {
  let [x, y] = [r.input(0), r.input(1)]
  const [p, q] = [shapeOf(x), shapeOf(y)]
  if (isConstant(y) && q.length === 2 && p.length >= 2) return r.emit(core.dense, [x, transposed(r, y), null], {})
  if (p.length >= 2 && q.length >= 2) return r.emit(core.matmul, [x, y], {})
  if (p.length === 0 || q.length === 0) throw new Foreign('a scalar operand')
  if (p.length === 1) x = r.emit(core.reshape, [x], { shape: [1, -1] })
  if (q.length === 1) y = r.emit(core.reshape, [y], { shape: [-1, 1] })
  const z = r.emit(core.matmul, [x, y], {})
  const s = shapeOf(z)
  const kept = s.filter((_, i) => !(p.length === 1 && i === s.length - 2) && !(q.length === 1 && i === s.length - 1))
  return r.emit(core.reshape, [z], { shape: core.reshapeTarget(s, kept) })
}

const poolWindow = (r: NodeReader): { kernel: number[]; window: core.Window; ceil: boolean } => {
  const kernel = r.ints('kernel_shape')
  if (!kernel) throw new Foreign('no kernel shape')
  const space = shapeOf(r.input(0)).slice(2)
  if (space.length !== kernel.length) throw new Foreign(`a window of rank ${kernel.length} over ${space.length} axes`)
  return { kernel, window: windowOf(r, kernel, space), ceil: r.int('ceil_mode', 0) === 1 }
}

const reduceRead =
  (op: Op<core.ReduceAttrs>, byInput: number): Read =>
  (r) => {
    const x = r.input(0)
    const rank = shapeOf(x).length
    const given = r.opset < byInput ? r.ints('axes') : axesOf(r, 1)
    const keepDims = r.int('keepdims', 1) === 1
    if ((given === null || given.length === 0) && r.int('noop_with_empty_axes', 0) === 1) {
      if (op === core.reduceSum || op === core.reduceMean || op === core.reduceMax || op === core.reduceMin || op === core.reduceProd)
        return r.emit(core.identity, [x], {})
      throw new Foreign('a reduction over nothing')
    }
    const axes = given?.length ? given.map((a) => axisOf(a, rank)) : Array.from({ length: rank }, (_, i) => i)
    return r.emit(op, [x], { axes, keepDims })
  }

/** Before opset 13, softmax worked on the input flattened to two axes at `axis`. */
const softmaxRead =
  (op: Op<{ axis: number }>): Read =>
  (r) => {
    const x = r.input(0)
    const s = shapeOf(x)
    const axis = axisOf(r.int('axis', r.opset < 13 ? 1 : -1), s.length)
    if (r.opset >= 13 || axis === s.length - 1 || s.slice(axis + 1).every((d) => d === 1)) return r.emit(op, [x], { axis })
    const lead = core.product(s.slice(0, axis))
    const flat = r.emit(core.reshape, [x], {
      shape: [
        typeof lead === 'number' ? lead : axis === 1 ? 0 : -1,
        knownShape({ dtype: 'float32', shape: [core.product(s.slice(axis))] })[0]!,
      ],
    })
    return r.emit(core.reshape, [r.emit(op, [flat], { axis: 1 })], { shape: core.reshapeTarget(shapeOf(flat), s) })
  }

const groupNormRead: Read = (r) => {
  const [x, scale, bias] = [r.input(0), r.input(1), r.input(2)]
  const s = shapeOf(x)
  const groups = r.int('num_groups')
  const C = knownShape({ dtype: 'float32', shape: [s[1]!] })[0]!
  const flat = r.emit(core.reshape, [x], { shape: [0, groups, -1] })
  const unit = (v: number): Value => r.b.constant(core.filled(x.dtype, [groups], v))
  const hat = r.emit(core.instanceNorm, [flat, unit(1), unit(0)], { epsilon: r.float('epsilon', 1e-5) })
  const back = r.emit(core.reshape, [hat], { shape: core.reshapeTarget(shapeOf(hat), s) })
  // Opset 18 has one scale per group, 21 one per channel.
  const perChannel = (v: Value): Value => {
    const n = knownShape(v)[0]!
    const ones = s.slice(2).map(() => 1)
    if (n === C) return r.emit(core.reshape, [v], { shape: [C, ...ones] })
    const spread = r.emit(core.expand, [r.emit(core.reshape, [v], { shape: [n, 1] })], { shape: [n, C / n] })
    return r.emit(core.reshape, [spread], { shape: [C, ...ones] })
  }
  return r.emit(core.add, [r.emit(core.mul, [back, perChannel(scale)], {}), perChannel(bias)], {})
}

const rmsNormRead: Read = (r) => {
  const [x, scale] = [r.input(0), r.input(1)]
  const rank = shapeOf(x).length
  const axes = Array.from({ length: rank }, (_, i) => i).slice(axisOf(r.int('axis', -1), rank))
  const square = r.emit(core.reduceMean, [r.emit(core.mul, [x, x], {})], { axes, keepDims: true })
  const shifted = r.emit(core.add, [square, r.b.constant(core.scalar(r.float('epsilon', 1e-5), x.dtype))], {})
  return r.emit(core.mul, [r.emit(core.div, [x, r.emit(core.sqrt, [shifted], {})], {}), scale], {})
}

export const read: Record<string, Read> = {
  Conv: convRead,
  ConvTranspose: convTransposeRead,
  Gemm: gemmRead,
  MatMul: matmulRead,
  MaxPool: (r) => {
    if (r.outputCount > 1) throw new Foreign('indices are asked for')
    const { kernel, window, ceil } = poolWindow(r)
    return r.emit(core.maxPool, [r.input(0)], { ...window, kernel, ceil })
  },
  AveragePool: (r) => {
    const { kernel, window, ceil } = poolWindow(r)
    // Without pads there are none to count.
    const countIncludePad = r.int('count_include_pad', 0) === 1 && window.pads.some((p) => p !== 0)
    return r.emit(core.averagePool, [r.input(0)], { ...window, kernel, ceil, countIncludePad })
  },
  GlobalAveragePool: (r) => r.emit(core.globalAveragePool, [r.input(0)], {}),
  GlobalMaxPool: (r) => r.emit(core.globalMaxPool, [r.input(0)], {}),
  BatchNormalization: (r) => {
    if (r.int('training_mode', 0) === 1 || r.outputCount > 1) throw new Foreign('batch statistics in training')
    if (r.opset < 9 && r.int('spatial', 1) === 0) throw new Foreign('statistics per position')
    return r.emit(core.batchNorm, [r.input(0), r.input(1), r.input(2), r.input(3), r.input(4)], { epsilon: r.float('epsilon', 1e-5) })
  },
  LayerNormalization: (r) => {
    if (r.outputCount > 1) throw new Foreign('the statistics are asked for')
    return r.emit(core.layerNorm, [r.input(0), r.input(1), r.maybe(2)], { axis: r.int('axis', -1), epsilon: r.float('epsilon', 1e-5) })
  },
  InstanceNormalization: (r) => r.emit(core.instanceNorm, [r.input(0), r.input(1), r.input(2)], { epsilon: r.float('epsilon', 1e-5) }),
  GroupNormalization: groupNormRead,
  RMSNormalization: rmsNormRead,
  LRN: (r) =>
    r.emit(core.localResponseNorm, [r.input(0)], {
      size: r.int('size'),
      alpha: r.float('alpha', 1e-4),
      beta: r.float('beta', 0.75),
      bias: r.float('bias', 1),
    }),
  Softmax: softmaxRead(core.softmax),
  LogSoftmax: softmaxRead(core.logSoftmax),
  ReduceSum: reduceRead(core.reduceSum, 13),
  ReduceMean: reduceRead(core.reduceMean, 18),
  ReduceMax: reduceRead(core.reduceMax, 18),
  ReduceMin: reduceRead(core.reduceMin, 18),
  ReduceProd: reduceRead(core.reduceProd, 18),
  ReduceL1: reduceRead(core.reduceL1, 18),
  ReduceL2: reduceRead(core.reduceL2, 18),
  ReduceSumSquare: reduceRead(core.reduceSumSquare, 18),
  ReduceLogSum: reduceRead(core.reduceLogSum, 18),
  ReduceLogSumExp: reduceRead(core.reduceLogSumExp, 18),
  ArgMax: (r) => r.emit(core.argMax, [r.input(0)], argAttrs(r)),
  ArgMin: (r) => r.emit(core.argMin, [r.input(0)], argAttrs(r)),
}

const argAttrs = (r: NodeReader) => ({
  axis: axisOf(r.int('axis', 0), shapeOf(r.input(0)).length),
  keepDims: r.int('keepdims', 1) === 1,
  last: r.int('select_last_index', 0) === 1,
})

export const windowAttrs = (a: core.Window) => [ints('strides', a.strides), ints('pads', a.pads), ints('dilations', a.dilations)]

/** ONNX's Gemm takes two axes; more go through MatMul. */
const denseWrite: Write = (w, node, [x, weight, bias], outs) => {
  if (shapeOf(node.inputs[0]).length === 2) {
    w.node('Gemm', trimmed([x!, weight!, bias ?? '']), outs, [int('transB', 1)])
    return
  }
  const [turned, product] = [w.temp('turned'), bias ? w.temp('product') : outs[0]!]
  w.node('Transpose', [weight!], [turned], [ints('perm', [1, 0])])
  w.node('MatMul', [x!, turned], [product])
  if (bias) w.node('Add', [product, bias], outs)
}

/** The forward indices say where each maximum came from. Windows that neither overlap nor hang over the end are unpooled; others scatter. */
const maxPoolGradWrite: Write = (w, node, [x, dy], outs) => {
  const a = node.attrs as core.MaxPoolAttrs
  const attributes = [ints('kernel_shape', a.kernel), ...windowAttrs(a), int('ceil_mode', a.ceil ? 1 : 0)]
  const [y, indices, shape] = [w.temp('pooled'), w.temp('indices'), w.temp('shape')]
  w.node('MaxPool', [x!], [y, indices], attributes)
  w.node('Shape', [x!], [shape])
  if (!a.ceil && a.kernel.every((k, i) => k <= a.strides[i]! && a.dilations[i] === 1) && a.pads.every((p) => p === 0)) {
    w.node('MaxUnpool', [dy!, indices, shape], outs, [ints('kernel_shape', a.kernel), ints('strides', a.strides)])
    return
  }
  const flat = w.constant(shapeTensor([-1]))
  const [fx, fi, fd, zeros, sum] = ['x', 'i', 'dy', 'zeros', 'sum'].map((s) => w.temp(s)) as [string, string, string, string, string]
  w.node('Reshape', [x!, flat], [fx])
  w.node('Mul', [fx, w.constant(core.scalar(0))], [zeros])
  w.node('Reshape', [indices, flat], [fi])
  w.node('Reshape', [dy!, flat], [fd])
  w.node('ScatterElements', [zeros, fi, fd], [sum], [int('axis', 0), { name: 'reduction', type: 3, s: new TextEncoder().encode('add') }])
  w.node('Reshape', [sum, shape], outs)
}

const reduceWrite =
  (type: string): Write =>
  (w, node, [x], outs) =>
    w.node(type, [x!, w.constant(shapeTensor(node.attrs.axes))], outs, [int('keepdims', node.attrs.keepDims ? 1 : 0)])

export const write: [Op, Write][] = [
  [core.conv, plain('Conv', (a) => [...windowAttrs(a), int('group', a.group)])],
  [core.convTranspose, plain('ConvTranspose', (a) => [...windowAttrs(a), int('group', a.group), ints('output_padding', a.outputPadding)])],
  [core.dense, denseWrite],
  [core.matmul, plain('MatMul')],
  [core.maxPool, plain('MaxPool', (a) => [ints('kernel_shape', a.kernel), ...windowAttrs(a), int('ceil_mode', a.ceil ? 1 : 0)])],
  [core.maxPoolGrad, maxPoolGradWrite],
  [
    core.averagePool,
    (w, node, ins, outs) => {
      const a = node.attrs as core.AveragePoolAttrs
      const dilated = a.dilations.some((d) => d !== 1)
      if (dilated) w.atLeast(19)
      w.node('AveragePool', ins, outs, [
        ints('kernel_shape', a.kernel),
        ints('strides', a.strides),
        ints('pads', a.pads),
        ...(dilated ? [ints('dilations', a.dilations)] : []),
        int('ceil_mode', a.ceil ? 1 : 0),
        int('count_include_pad', a.countIncludePad ? 1 : 0),
      ])
    },
  ],
  [core.globalAveragePool, plain('GlobalAveragePool')],
  [core.globalMaxPool, plain('GlobalMaxPool')],
  [core.batchNorm, plain('BatchNormalization', (a) => [float('epsilon', a.epsilon)])],
  [core.layerNorm, plain('LayerNormalization', (a) => [int('axis', a.axis), float('epsilon', a.epsilon)])],
  [core.instanceNorm, plain('InstanceNormalization', (a) => [float('epsilon', a.epsilon)])],
  [
    core.localResponseNorm,
    plain('LRN', (a) => [int('size', a.size), float('alpha', a.alpha), float('beta', a.beta), float('bias', a.bias)]),
  ],
  [core.softmax, plain('Softmax', (a) => [int('axis', a.axis)])],
  [core.logSoftmax, plain('LogSoftmax', (a) => [int('axis', a.axis)])],
  ...(
    [
      [core.reduceSum, 'ReduceSum'],
      [core.reduceMean, 'ReduceMean'],
      [core.reduceMax, 'ReduceMax'],
      [core.reduceMin, 'ReduceMin'],
      [core.reduceProd, 'ReduceProd'],
      [core.reduceL1, 'ReduceL1'],
      [core.reduceL2, 'ReduceL2'],
      [core.reduceSumSquare, 'ReduceSumSquare'],
      [core.reduceLogSum, 'ReduceLogSum'],
      [core.reduceLogSumExp, 'ReduceLogSumExp'],
    ] as [Op, string][]
  ).map(([op, type]): [Op, Write] => [op, reduceWrite(type)]),
  ...(
    [
      [core.argMax, 'ArgMax'],
      [core.argMin, 'ArgMin'],
    ] as [Op, string][]
  ).map(([op, type]): [Op, Write] => [
    op,
    plain(type, (a) => [int('axis', a.axis), int('keepdims', a.keepDims ? 1 : 0), int('select_last_index', a.last ? 1 : 0)]),
  ]),
]
