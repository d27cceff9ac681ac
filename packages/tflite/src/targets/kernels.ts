import * as core from '@dqc/core'
import {
  averageOnGrid,
  coversImage,
  fixedLowerings,
  isConstant,
  type KernelRules,
  type Lowering,
  type Node,
  type Op,
  oneScale,
  type QuantParams,
  shapeOf,
} from '@dqc/core'
import { paddingFor } from '../spelling/padding.ts'

/** Grids that the kernels fix (TensorFlow Lite 8-bit quantization specification). */
const PROBABILITIES: QuantParams = { scale: Float32Array.of(1 / 256), axis: null, lo: 0, hi: 255 }
const fixed = new Map<Op, QuantParams>([
  [core.softmax, PROBABILITIES],
  [core.sigmoid, PROBABILITIES],
  [core.tanh, { scale: Float32Array.of(1 / 128), axis: null, lo: -128, hi: 127 }],
])

const softmax: Lowering = (b, node, [x], out) =>
  oneScale(x)
    ? b.emit(
        core.fixedSoftmax,
        [x!],
        { axis: node.attrs.axis, scaleX: x!.quant!.scale[0]!, scaleOut: out.scale[0]!, lo: out.lo, hi: out.hi },
        { quant: out },
      )
    : null

/** Ops whose own integer form is LiteRT's too. */
const common: ReadonlySet<Op> = new Set<Op>([
  core.conv,
  core.dense,
  core.maxPool,
  core.globalMaxPool,
  core.concat,
  core.reshape,
  core.transpose,
  core.pad,
  core.slice,
  core.identity,
  core.relu,
  core.clip,
  core.sigmoid,
  core.tanh,
  core.gather,
  core.resize,
  core.depthToSpace,
  core.spaceToDepth,
])

const window = (node: Node): boolean => {
  const a = node.attrs as core.MaxPoolAttrs
  return shapeOf(node.inputs[0]).length === 4 && a.dilations.every((d) => d === 1)
}

/** What the writer has no operator for stays float, where it may be spelt in several. */
function writable(node: Node): boolean {
  const rank = node.inputs[0]?.shape?.length ?? 0
  switch (node.op) {
    case core.conv:
    case core.globalAveragePool:
    case core.globalMaxPool:
      return rank === 4
    case core.maxPool:
      return window(node)
    case core.averagePool: {
      const a = node.attrs as core.AveragePoolAttrs
      const s = shapeOf(node.inputs[0])
      const axes = [0, 1].map((i) => ({ size: s[i + 2]!, kernel: a.kernel[i]!, stride: a.strides[i]!, dilation: 1 }))
      return window(node) && !a.ceil && paddingFor(a.pads, axes) !== null && !(a.countIncludePad && a.pads.some((p) => p !== 0))
    }
    case core.softmax:
      return rank < 5 && core.axisOf(node.attrs.axis, rank) === (rank === 4 ? 1 : rank - 1)
    case core.pad:
      return node.attrs.mode === 'constant' && (node.attrs.pads as number[]).every((p) => p >= 0)
    case core.gather:
      return isConstant(node.inputs[1])
    case core.resize: {
      const a = node.attrs as core.ResizeAttrs
      return (
        rank === 4 &&
        (a.coordinates === 'asymmetric' ? a.nearest === 'floor' : a.coordinates === 'half_pixel' && a.nearest === 'round_prefer_ceil')
      )
    }
    default:
      return rank < 6
  }
}

export interface KernelOptions {
  /** Whether the network ends in integers: only then are its probabilities worth eight bits. */
  readonly integerIO: boolean
  /** One scale per output of a dense layer. */
  readonly perChannelDense: boolean
  readonly zeroOf: (q: QuantParams) => number
}

/** LiteRT's integer kernels: XNNPACK's where it has them, the built-in ones elsewhere. */
export function kernelRules({ integerIO, perChannelDense, zeroOf }: KernelOptions): KernelRules {
  const table = new Map<Op, Lowering>([
    ...fixedLowerings,
    [core.averagePool, averageOnGrid(zeroOf)],
    ...(integerIO ? [[core.softmax, softmax] as const] : []),
  ])
  return {
    lowering: (node) => (!writable(node) ? null : (table.get(node.op) ?? (common.has(node.op) ? node.op.lower : null))),
    tied: (node) => node.op === core.averagePool && !coversImage(node),
    fixedGrid: (node) => fixed.get(node.op) ?? null,
    perChannel: (node) => perChannelDense || node.op !== core.dense,
    pairLimit: null,
  }
}

/** Ops that no fixed rule of rounding describes: the runtime's results may differ by one step. */
export const inexact = new Map<Op, string>([
  [core.fixedSoftmax, 'SOFTMAX: the built-in kernel tabulates the exponential'],
  [core.lookup, 'QUANTIZE, LOGISTIC, TANH: kernels compute in fixed point'],
  [core.fixedMean, 'MEAN: a mean within 1e-5 of the middle between two steps may go either way'],
])
