import type { Op } from '../ir/op.ts'
import { type Tensor, tensorOf } from '../ir/tensor.ts'
import { expand, reduceSum, reshape } from './broadcasting.ts'
import { conv, convTranspose, dense, matmul } from './conv.ts'
import * as e from './elementwise.ts'
import { fakeQuant, insideGrid } from './fakeQuant.ts'
import { detach, identity } from './foreign.ts'
import * as int from './integer.ts'
import { batchNorm, instanceNorm, layerNorm, localResponseNorm, logSoftmax, softmax } from './normalize.ts'
import { averagePool, globalAveragePool, globalMaxPool, maxPool, maxPoolGrad } from './pool.ts'
import * as r from './reduce.ts'
import * as s from './structure.ts'
import * as fixed from './tflite.ts'

/** One point at which an op record is held against itself. */
export interface Case {
  readonly op: Op
  readonly note?: string
  /** Shapes to fill with random reals, or given tensors. */
  readonly inputs: readonly (readonly number[] | Tensor | null)[]
  readonly attrs: unknown
  readonly range?: readonly [number, number]
  readonly expect?: readonly number[]
  /** Inputs besides the first whose axis 0 is the batch. */
  readonly batched?: readonly number[]
  readonly symbolic?: false
  readonly straightThrough?: true
  /** Inputs that are scaled together in the homogeneity check. */
  readonly homogeneousIn?: readonly number[]
  readonly notHomogeneousIn?: true
}

const ints = (shape: readonly number[], values: readonly number[]): Tensor => tensorOf('int64', shape, values)
const q = (shape: readonly number[], values: readonly number[]): Tensor => tensorOf('int32', shape, values)
const x4 = [2, 3, 5, 6]
const win = (over: Partial<{ strides: number[]; pads: number[]; dilations: number[]; group: number }> = {}) => ({
  strides: [1, 1],
  pads: [0, 0, 0, 0],
  dilations: [1, 1],
  group: 1,
  ...over,
})
const unary = (op: Op, attrs: unknown = {}, range: readonly [number, number] = [-4, 4]): Case => ({ op, inputs: [x4], attrs, range })
const resized = (mode: string, scales: number[], over: object = {}): Case => ({
  op: mode === 'nearest' ? s.resize : s.interpolate,
  note: `${mode} ×${scales}`,
  inputs: [x4],
  attrs: {
    sizes: [null, null, null, null],
    scales: [1, 1, ...scales],
    mode,
    coordinates: 'half_pixel',
    nearest: 'round_prefer_floor',
    cubicA: -0.75,
    excludeOutside: false,
    ...over,
  },
})
const sat = { lo: -7, hi: 7 }

export const cases: readonly Case[] = [
  // elementwise
  ...[e.relu, e.sigmoid, e.tanh, e.hardSwish, e.mish, e.softplus, e.softsign, e.exp, e.abs, e.neg, e.erf, e.sin, e.cos].map((op) =>
    unary(op),
  ),
  ...[e.log, e.sqrt, e.reciprocal].map((op) => unary(op, {}, [0.5, 3])),
  ...[e.sign, e.floor, e.ceil].map((op) => unary(op)),
  { ...unary(e.round), straightThrough: true },
  unary(e.clip, { min: -1, max: 2 }),
  unary(e.leakyRelu, { alpha: 0.1 }),
  unary(e.thresholdedRelu, { alpha: 1 }),
  unary(e.elu, { alpha: 1.5 }),
  unary(e.selu, { alpha: 1.6733, gamma: 1.0507 }),
  unary(e.celu, { alpha: 0.7 }),
  unary(e.hardSigmoid, { alpha: 0.2, beta: 0.5 }),
  unary(e.gelu, { approximate: false }),
  unary(e.gelu, { approximate: true }),
  unary(e.silu, { alpha: 1 }),
  unary(e.silu, { alpha: 1.7 }),
  { op: e.erf, note: 'known values', inputs: [tensorOf('float64', [3], [0.5, 1, 3])], attrs: {}, expect: [0.5205, 0.842701, 0.999978] },
  { op: e.not, inputs: [tensorOf('bool', [2], [1, 0])], attrs: {}, expect: [0, 1] },
  { op: e.cast, inputs: [x4], attrs: { to: 'float64' } },
  { op: e.cast, note: 'truncates', inputs: [tensorOf('float64', [2], [-1.7, 2.9])], attrs: { to: 'int32' }, expect: [-1, 2] },
  ...[e.add, e.sub].map((op) => ({ op, inputs: [x4, x4], attrs: {}, batched: [1], homogeneousIn: [0, 1] })),
  ...[e.add, e.sub, e.mul, e.div].map((op) => ({
    op,
    note: 'broadcast',
    inputs: [x4, [3, 1, 1]],
    attrs: {},
    range: [0.5, 3] as const,
    homogeneousIn: [0, 1],
  })),
  { op: e.pow, inputs: [x4, [1, 3, 1, 1]], attrs: {}, range: [0.5, 2] },
  ...[e.mod, e.fmod].flatMap((op): Case[] => [
    { op, inputs: [x4, tensorOf('float64', [3, 1, 1], [0.9, 7, 11])], attrs: {}, range: [1, 1.7] },
    {
      op,
      note: 'signs',
      inputs: [tensorOf('int64', [4], [7, -7, 7, -7]), tensorOf('int64', [4], [3, 3, -3, -3])],
      attrs: {},
      expect: op === e.mod ? [1, 2, -2, -1] : [1, -1, 1, -1],
    },
  ]),
  ...[e.minimum, e.maximum].map((op) => ({ op, inputs: [x4, [5, 6]], attrs: {}, homogeneousIn: [0, 1] })),
  ...[e.greater, e.less, e.greaterOrEqual, e.lessOrEqual, e.equal].map((op) => ({ op, inputs: [x4, [1]], attrs: {} })),
  ...[e.and, e.or, e.xor].map((op) => ({ op, inputs: [tensorOf('bool', [2], [1, 0]), tensorOf('bool', [2], [1, 1])], attrs: {} })),
  { op: e.where, inputs: [tensorOf('bool', [3], [1, 0, 1]), [2, 3], [1, 3]], attrs: {}, homogeneousIn: [1, 2] },
  { op: e.prelu, inputs: [x4, [3, 1, 1]], attrs: {} },
  // structure
  { op: identity, inputs: [x4], attrs: {} },
  { op: detach, inputs: [x4], attrs: {} },
  { op: reshape, inputs: [x4], attrs: { shape: [0, -1] } },
  { op: reshape, note: 'to several axes', inputs: [x4], attrs: { shape: [0, 5, 3, 6] } },
  { op: expand, inputs: [[2, 1, 3]], attrs: { shape: [1, 4, 1] }, symbolic: false },
  {
    op: expand,
    note: 'like another',
    inputs: [
      [1, 3],
      [4, 3],
    ],
    attrs: { shape: null },
    notHomogeneousIn: true,
  },
  { op: s.transpose, inputs: [x4], attrs: { perm: [0, 2, 3, 1] } },
  { op: s.concat, inputs: [x4, [2, 1, 5, 6], [2, 4, 5, 6]], attrs: { axis: 1 }, batched: [1, 2], homogeneousIn: [0, 1, 2] },
  { op: s.slice, inputs: [x4], attrs: { axes: [2, 3], starts: [1, -1], ends: [4, -(2 ** 31)], steps: [1, -2] } },
  { op: s.slice, note: 'channels', inputs: [x4], attrs: { axes: [1], starts: [1], ends: [9], steps: [1] } },
  { op: s.split, inputs: [x4], attrs: { axis: 2, sizes: [2, 3] } },
  { op: s.pad, inputs: [x4], attrs: { pads: [0, 1, 0, 2, 0, 0, 1, -1], mode: 'constant', value: 0.5 } },
  ...['reflect', 'edge', 'wrap'].map((mode) => ({
    op: s.pad,
    note: mode,
    inputs: [x4],
    attrs: { pads: [0, 0, 2, 1, 0, 0, 1, 3], mode, value: 0 },
  })),
  { op: s.gather, inputs: [x4, ints([2, 2], [0, 2, -1, 0])], attrs: { axis: 1 } },
  { op: s.gatherElements, inputs: [[3, 4], ints([2, 4], [0, 1, 2, 0, 2, 2, 0, 1])], attrs: { axis: 0 } },
  { op: s.scatterAdd, inputs: [[3, 4], ints([2, 4], [0, 1, 2, 0, 0, 2, 0, 1]), [2, 4]], attrs: { axis: 0 }, homogeneousIn: [0, 2] },
  { op: s.tile, inputs: [x4], attrs: { repeats: [1, 2, 1, 3] } },
  { op: s.depthToSpace, inputs: [[2, 8, 2, 3]], attrs: { block: 2, mode: 'DCR' } },
  { op: s.depthToSpace, note: 'CRD', inputs: [[2, 8, 2, 3]], attrs: { block: 2, mode: 'CRD' } },
  { op: s.spaceToDepth, inputs: [[2, 3, 4, 6]], attrs: { block: 2 } },
  { op: s.shape, inputs: [x4], attrs: { start: 0, end: null }, symbolic: false, notHomogeneousIn: true, expect: x4 },
  resized('nearest', [2, 2]),
  resized('nearest', [0.6, 1.5], { coordinates: 'asymmetric', nearest: 'floor' }),
  resized('linear', [2, 1.5]),
  resized('linear', [0.6, 2], { coordinates: 'align_corners' }),
  resized('cubic', [1.6, 0.7], { excludeOutside: true }),
  // reductions
  ...[reduceSum, r.reduceMean, r.reduceMax, r.reduceMin, r.reduceL1, r.reduceL2, r.reduceSumSquare, r.reduceLogSumExp].map((op) => ({
    op,
    inputs: [x4],
    attrs: { axes: [1, 3], keepDims: true },
  })),
  ...[reduceSum, r.reduceMean, r.reduceMax].map((op) => ({
    op,
    note: 'axes dropped',
    inputs: [x4],
    attrs: { axes: [-1], keepDims: false },
  })),
  { op: r.reduceProd, inputs: [[2, 3]], attrs: { axes: [1], keepDims: true }, range: [0.5, 2] },
  { op: r.reduceLogSum, inputs: [[2, 3]], attrs: { axes: [1], keepDims: true }, range: [0.5, 2] },
  {
    op: r.argMax,
    inputs: [tensorOf('float64', [2, 3], [1, 3, 3, 5, 4, 5])],
    attrs: { axis: 1, keepDims: false, last: false },
    expect: [1, 0],
  },
  {
    op: r.argMin,
    inputs: [tensorOf('float64', [2, 3], [1, 3, 1, 5, 4, 4])],
    attrs: { axis: 1, keepDims: false, last: true },
    expect: [2, 2],
  },
  // convolutions and products
  { op: conv, inputs: [x4, [4, 3, 3, 3], [4]], attrs: win({ pads: [1, 1, 1, 1] }) },
  { op: conv, note: 'strided, uneven pads', inputs: [x4, [4, 3, 3, 2], null], attrs: win({ strides: [2, 3], pads: [1, 0, 0, 2] }) },
  {
    op: conv,
    note: 'stride leaves a rest',
    inputs: [
      [1, 2, 6, 6],
      [3, 2, 3, 3],
    ],
    attrs: win({ strides: [2, 2] }),
  },
  { op: conv, note: '1×1', inputs: [x4, [2, 3, 1, 1], [2]], attrs: win() },
  { op: conv, note: '1×1 strided', inputs: [x4, [2, 3, 1, 1]], attrs: win({ strides: [2, 2] }) },
  {
    op: conv,
    note: 'dilated',
    inputs: [
      [1, 2, 7, 7],
      [2, 2, 3, 3],
    ],
    attrs: win({ dilations: [2, 3], pads: [2, 3, 2, 3] }),
  },
  { op: conv, note: 'grouped', inputs: [[2, 4, 5, 5], [6, 2, 3, 3], [6]], attrs: win({ group: 2, pads: [1, 1, 1, 1] }) },
  {
    op: conv,
    note: 'depthwise, strided',
    inputs: [
      [2, 4, 5, 5],
      [4, 1, 3, 3],
    ],
    attrs: win({ group: 4, strides: [2, 2], pads: [1, 1, 1, 1] }),
  },
  {
    op: conv,
    note: 'depthwise, uneven pads and sides',
    inputs: [
      [2, 3, 6, 5],
      [3, 1, 2, 3],
    ],
    attrs: win({ group: 3, pads: [1, 0, 0, 2] }),
  },
  { op: conv, note: '1-D', inputs: [[2, 3, 9], [4, 3, 3], [4]], attrs: { strides: [2], pads: [1, 1], dilations: [1], group: 1 } },
  {
    op: conv,
    note: '3-D',
    inputs: [
      [1, 2, 3, 4, 4],
      [2, 2, 2, 3, 3],
    ],
    attrs: { strides: [1, 1, 1], pads: [0, 1, 1, 0, 1, 1], dilations: [1, 1, 1], group: 1 },
  },
  { op: convTranspose, inputs: [x4, [3, 2, 3, 3], [2]], attrs: { ...win({ strides: [2, 2], pads: [1, 1, 1, 1] }), outputPadding: [1, 0] } },
  {
    op: convTranspose,
    note: 'grouped',
    inputs: [
      [1, 4, 4, 4],
      [4, 2, 2, 2],
    ],
    attrs: { ...win({ group: 2, strides: [2, 2] }), outputPadding: [0, 0] },
  },
  { op: dense, inputs: [[4, 5], [3, 5], [3]], attrs: {} },
  { op: dense, note: 'leading axes', inputs: [[2, 4, 5], [3, 5], null], attrs: {} },
  {
    op: matmul,
    inputs: [
      [2, 3, 4],
      [2, 4, 5],
    ],
    attrs: {},
    batched: [1],
  },
  {
    op: matmul,
    note: 'broadcast',
    inputs: [
      [2, 3, 4],
      [4, 5],
    ],
    attrs: {},
  },
  // pools
  { op: maxPool, inputs: [x4], attrs: { ...win({ strides: [2, 2] }), kernel: [2, 2], ceil: false } },
  {
    op: maxPool,
    note: 'overlapping, padded, ceil',
    inputs: [x4],
    attrs: { ...win({ strides: [2, 2], pads: [1, 1, 1, 1] }), kernel: [3, 3], ceil: true },
  },
  {
    op: maxPoolGrad,
    inputs: [
      [1, 2, 4, 4],
      [1, 2, 2, 2],
    ],
    attrs: { ...win({ strides: [2, 2] }), kernel: [2, 2], ceil: false },
    symbolic: false,
  },
  {
    op: averagePool,
    inputs: [x4],
    attrs: { ...win({ strides: [2, 2], pads: [1, 1, 1, 1] }), kernel: [3, 3], ceil: false, countIncludePad: false },
  },
  {
    op: averagePool,
    note: 'padding counted, ceil',
    inputs: [x4],
    attrs: { ...win({ strides: [2, 2], pads: [0, 1, 1, 0] }), kernel: [2, 3], ceil: true, countIncludePad: true },
  },
  { op: averagePool, note: 'one window', inputs: [x4], attrs: { ...win(), kernel: [5, 6], ceil: false, countIncludePad: false } },
  { op: globalAveragePool, inputs: [x4], attrs: {} },
  { op: globalMaxPool, inputs: [x4], attrs: {} },
  // normalization
  { op: batchNorm, inputs: [x4, [3], [3], [3], tensorOf('float64', [3], [0.5, 1, 2])], attrs: { epsilon: 1e-3 } },
  {
    op: layerNorm,
    inputs: [
      [2, 3, 5],
      [3, 5],
      [3, 5],
    ],
    attrs: { axis: 1, epsilon: 1e-3 },
  },
  { op: layerNorm, note: 'without bias', inputs: [[2, 3, 5], [5], null], attrs: { axis: -1, epsilon: 1e-3 } },
  { op: instanceNorm, inputs: [x4, [3], [3]], attrs: { epsilon: 1e-3 } },
  { op: localResponseNorm, inputs: [[2, 5, 2, 3]], attrs: { size: 3, alpha: 0.3, beta: 0.75, bias: 1 } },
  { op: localResponseNorm, note: 'even window', inputs: [[2, 5, 2, 3]], attrs: { size: 4, alpha: 0.3, beta: 0.75, bias: 1 } },
  { op: softmax, inputs: [[2, 3, 4]], attrs: { axis: 1 } },
  { op: logSoftmax, inputs: [[2, 3, 4]], attrs: { axis: -1 } },
  // quantization
  {
    op: fakeQuant,
    inputs: [[2, 3, 4], tensorOf('float64', [], [0.25])],
    attrs: { lo: -7, hi: 7, axis: null, fused: false },
    straightThrough: true,
  },
  {
    op: fakeQuant,
    note: 'per channel',
    inputs: [[2, 3, 4], tensorOf('float64', [3], [0.25, 0.5, 0.1])],
    attrs: { lo: 0, hi: 15, axis: 1, fused: false },
    straightThrough: true,
  },
  {
    op: insideGrid,
    note: 'ends included',
    inputs: [tensorOf('float32', [5], [-1.75, -1.76, 1.75, 1.76, 0]), tensorOf('float32', [], [0.25])],
    attrs: { lo: -7, hi: 7, axis: null },
    expect: [1, 0, 1, 0, 1],
  },
  {
    op: insideGrid,
    note: 'per channel',
    inputs: [tensorOf('float32', [2, 2], [-0.1, 7.5, 7.5, 7.6]), tensorOf('float32', [2], [0.25, 0.5])],
    attrs: { lo: 0, hi: 15, axis: 1 },
    expect: [0, 1, 0, 0],
  },
  {
    op: int.quantize,
    note: 'half to even',
    inputs: [tensorOf('float32', [5], [0.25, 0.75, -0.25, 9, -9])],
    attrs: { ...sat, scale: 0.5 },
    expect: [0, 2, 0, 7, -7],
  },
  { op: int.dequantize, inputs: [q([2], [-3, 4])], attrs: { scale: 0.5 }, expect: [-1.5, 2] },
  { op: int.lookup, inputs: [q([3], [-1, 0, 1])], attrs: { lo: -1, table: [5, 6, 7], of: 'identity' }, expect: [5, 6, 7] },
  {
    op: int.intConv,
    inputs: [q([1, 1, 2, 2], [1, 2, 3, 4]), q([2, 1, 1, 1], [1, -2]), q([2], [1, 0])],
    attrs: { ...win(), ...sat, multipliers: [0.5, 1] },
    expect: [1, 2, 2, 2, -2, -4, -6, -7],
    symbolic: false,
  },
  {
    op: int.intDense,
    inputs: [q([1, 2], [1, 2]), q([2, 2], [1, 1, 3, 4]), q([2], [0, 1])],
    attrs: { ...sat, multipliers: [0.5] },
    expect: [2, 6],
  },
  { op: int.intMatMul, inputs: [q([1, 2], [1, 2]), q([2, 1], [3, 1])], attrs: { ...sat, multiplier: 0.5 }, expect: [2] },
  {
    op: int.intAdd,
    inputs: [q([2], [3, -4]), q([2], [1, 1])],
    attrs: { ...sat, scaleX: 1, scaleY: 0.5, scaleOut: 1, zeroX: 128, zeroY: 128, zeroOut: 128, sign: 1 },
    expect: [4, -4],
  },
  {
    op: int.intMul,
    inputs: [q([2], [3, -4]), q([2], [1, 1])],
    attrs: { ...sat, scaleX: 1, scaleY: 0.5, scaleOut: 1, zeroX: 128, zeroY: 128, zeroOut: 128 },
    expect: [2, -2],
  },
  {
    op: int.intAveragePool,
    inputs: [q([1, 1, 2, 2], [1, 2, 3, 4])],
    attrs: { ...win(), ...sat, kernel: [2, 2], ceil: false, countIncludePad: false, scaleX: 1, scaleOut: 1, zeroOut: 128 },
    expect: [2],
    symbolic: false,
  },
  {
    op: int.intGlobalAveragePool,
    inputs: [q([1, 1, 2, 2], [1, 2, 3, 5])],
    attrs: { ...sat, scaleX: 1, scaleOut: 0.5 },
    expect: [6],
    symbolic: false,
  },
  {
    op: int.intSoftmax,
    note: 'two equal, one 20 steps below',
    inputs: [q([1, 3], [30, 30, 10])],
    attrs: { axis: 1, table: int.exponentials({ scale: Float32Array.of(0.1), axis: null, lo: 0, hi: 63 }), levels: 256, lo: 0, hi: 255 },
    expect: [120, 120, 16],
  },
  {
    op: fixed.fixedAdd,
    note: 'half upwards',
    inputs: [q([2], [3, -4]), q([2], [1, 1])],
    attrs: { ...sat, scaleX: 1, scaleY: 0.5, scaleOut: 1, sign: 1 },
    expect: [4, -3],
  },
  { op: fixed.fixedMul, inputs: [q([2], [3, -4]), q([2], [1, 1])], attrs: { ...sat, multiplier: 0.5 }, expect: [2, -2] },
  {
    op: fixed.fixedAveragePool,
    note: 'half away from zero, in the container',
    inputs: [q([1, 1, 2, 2], [1, 2, 3, 4])],
    attrs: { ...win(), ...sat, kernel: [2, 2], ceil: false, countIncludePad: false, zero: -128 },
    expect: [2],
    symbolic: false,
  },
  {
    op: fixed.fixedMean,
    inputs: [q([1, 1, 2, 2], [1, 2, 3, 5])],
    attrs: { ...sat, scaleX: 1, scaleOut: 0.5 },
    expect: [6],
    symbolic: false,
  },
  {
    op: fixed.fixedSoftmax,
    inputs: [q([1, 2], [5, 5])],
    attrs: { axis: 1, scaleX: 0.1, scaleOut: 1 / 256, lo: 0, hi: 255 },
    expect: [128, 128],
  },
]
