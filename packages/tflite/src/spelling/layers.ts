import * as core from '@dqc/core'
import {
  type Dim,
  errors,
  isConstant,
  isKnown,
  type Node,
  numbersOf,
  type Op,
  reshape,
  shapeOf,
  type Tensor,
  tensorOf,
  transpose,
  type Value,
} from '@dqc/core'
import { Padding } from '../format/schema.gen.ts'
import { paddingFor, padsOf, transposedPaddingFor, transposedPads } from './padding.ts'
import { Foreign, inCore, inFile, type OperatorReader, type OperatorWriter, PERM_TO_FILE, type Read, type Write } from './spelling.ts'

// ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

const needReal = (r: OperatorReader, i: number): Tensor => {
  const t = r.real(i)
  if (!t) throw new Foreign(`the weights of ${r.type} are computed at run time`)
  return t
}
const turn = (t: Tensor, perm: readonly number[]): Tensor => transpose.eval([t], { perm })[0]!

function convAttrs(r: OperatorReader, x: Value, kernel: readonly number[], group: number): core.ConvAttrs {
  const o = r.options
  const strides = [o.strideH, o.strideW] as const
  const dilations = [o.dilationHFactor ?? 1, o.dilationWFactor ?? 1] as const
  const axes = [0, 1].map((i) => ({ size: shapeOf(x)[i + 2]!, kernel: kernel[i]!, stride: strides[i]!, dilation: dilations[i]! }))
  return { strides, dilations, pads: padsOf(o.padding, axes), group }
}

const windowOf = (r: OperatorReader, x: Value) => {
  const o = r.options
  const kernel = [o.filterHeight, o.filterWidth] as number[]
  const strides = [o.strideH, o.strideW] as number[]
  const axes = [0, 1].map((i) => ({ size: shapeOf(x)[i + 2]!, kernel: kernel[i]!, stride: strides[i]!, dilation: 1 }))
  return { kernel, strides, dilations: [1, 1], pads: padsOf(o.padding, axes), ceil: false }
}

/** Layers of an image that was flattened in the file's order: the same on core's order, with the columns of the weights exchanged. */
function flattened(r: OperatorReader, x: Value): { from: Value; chw: readonly [number, number, number] } | null {
  const flat = r.b.producer(x)
  const turned = flat?.op === reshape && flat.inputs[0] ? r.b.producer(flat.inputs[0]) : null
  if (turned?.op !== transpose || String(turned.attrs.perm) !== String(PERM_TO_FILE) || shapeOf(x).length !== 2) return null
  const [, c, h, w] = shapeOf(turned.inputs[0])
  if (typeof c !== 'number' || typeof h !== 'number' || typeof w !== 'number' || shapeOf(x)[1] !== c * h * w) return null
  return { from: turned.inputs[0]!, chw: [c, h, w] }
}

/** Columns [h, w, c] → [c, h, w] of a weight matrix, or back. */
export function exchangeColumns(t: Tensor, [c, h, w]: readonly [number, number, number], to: 'core' | 'file'): Tensor {
  const rows = t.shape[0]!
  const split = to === 'core' ? [rows, h, w, c] : [rows, c, h, w]
  return { ...turn({ ...t, shape: split }, to === 'core' ? [0, 3, 1, 2] : [0, 2, 3, 1]), shape: t.shape }
}

const mean =
  (op: Op<core.ReduceAttrs>): Read =>
  (r) => {
    const rank = r.rank(0)
    const axes = r.numbers(1).map((a) => (a < 0 ? a + rank : a))
    const keepDims = r.options.keepDims ?? false
    const spatial = rank === 4 && String([...axes].sort()) === '1,2'
    if (op === core.reduceMean && spatial) {
      const pooled = r.finish(r.emit(core.globalAveragePool, [r.core(0)], {}))
      return keepDims ? inCore(pooled) : inFile(r.b.emit(reshape, [pooled], { shape: [0, -1] }))
    }
    return inFile(r.finish(r.emit(op, [r.file(0)], { axes, keepDims })))
  }

export const read: Record<string, Read> = {
  CONV_2D: (r) => {
    const w = needReal(r, 1)
    const x = r.core(0)
    const [, kh, kw, per] = w.shape as [number, number, number, number]
    const channels = shapeOf(x)[1]
    const group = typeof channels === 'number' ? channels / per : 1
    const weight = r.weight(1, turn(w, [0, 3, 1, 2]), 0)
    return inCore(
      r.finish(r.emit(core.conv, [x, weight, r.bias(2, 0, 1)], convAttrs(r, x, [kh, kw], group)), r.options.fusedActivationFunction),
    )
  },
  DEPTHWISE_CONV_2D: (r) => {
    const w = needReal(r, 1)
    const x = r.core(0)
    const [, kh, kw, outs] = w.shape as [number, number, number, number]
    const group = outs / (r.options.depthMultiplier || 1)
    const weight = r.weight(1, turn(w, [3, 0, 1, 2]), 0)
    return inCore(
      r.finish(r.emit(core.conv, [x, weight, r.bias(2, 0, 1)], convAttrs(r, x, [kh, kw], group)), r.options.fusedActivationFunction),
    )
  },
  TRANSPOSE_CONV: (r) => {
    const w = needReal(r, 1)
    const x = r.core(2)
    const [, kh, kw] = w.shape as [number, number, number, number]
    const o = r.options
    const strides = [o.strideH, o.strideW] as const
    const out = r.outShape().slice(1, 3)
    const axes = [0, 1].map((i) => {
      const [size, kernel, stride] = [shapeOf(x)[i + 2]!, [kh, kw][i]!, strides[i]!]
      // Where the declared size is open it is what the padding gives.
      const given = typeof size === 'number' ? (o.padding === Padding.SAME ? size * stride : (size - 1) * stride + kernel) : -1
      return { size, kernel, stride, dilation: 1, out: out[i]! < 0 ? given : out[i]! }
    })
    const attrs = { strides, dilations: [1, 1], group: 1, ...transposedPads(o.padding, axes) }
    const weight = r.weight(1, turn(w, [3, 0, 1, 2]), 1)
    return inCore(r.finish(r.emit(core.convTranspose, [x, weight, r.bias(3, 2, 1)], attrs), o.fusedActivationFunction))
  },
  FULLY_CONNECTED: (r) => {
    const o = r.options
    if (o.weightsFormat) throw new Foreign('shuffled weights')
    let x = r.file(0)
    const stored = r.real(1)
    const inner = stored ? stored.shape[1]! : (shapeOf(r.file(1))[1] as number)
    if (!o.keepNumDims && shapeOf(x).length !== 2) x = r.b.emit(reshape, [x], { shape: [-1, inner] })
    if (!stored) {
      const product = r.emit(core.matmul, [x, core.swapLast(r.b, r.file(1))], {})
      const bias = r.has(2) ? r.b.emit(core.add, [product, r.file(2)], {}) : product
      return inFile(r.finish(bias, o.fusedActivationFunction))
    }
    const image = flattened(r, x)
    const w = image ? exchangeColumns(stored, image.chw, 'core') : stored
    const from = image ? r.b.emit(reshape, [image.from], { shape: [0, -1] }) : x
    return inFile(r.finish(r.emit(core.dense, [from, r.weight(1, w, 0), r.bias(2, 0, 1)], {}), o.fusedActivationFunction))
  },
  BATCH_MATMUL: (r) => {
    const [x, y] = [r.file(0), r.file(1)]
    const turned = (v: Value, swap: boolean): Value => (swap ? core.swapLast(r.b, v) : v)
    return inFile(r.finish(r.emit(core.matmul, [turned(x, r.options.adjX), turned(y, r.options.adjY)], {})))
  },
  MAX_POOL_2D: (r) => {
    const x = r.core(0)
    return inCore(r.finish(r.emit(core.maxPool, [x], windowOf(r, x)), r.options.fusedActivationFunction))
  },
  AVERAGE_POOL_2D: (r) => {
    const x = r.core(0)
    return inCore(r.finish(r.emit(core.averagePool, [x], { ...windowOf(r, x), countIncludePad: false }), r.options.fusedActivationFunction))
  },
  MEAN: mean(core.reduceMean),
  SUM: mean(core.reduceSum),
  REDUCE_MAX: mean(core.reduceMax),
  REDUCE_MIN: mean(core.reduceMin),
  REDUCE_PROD: mean(core.reduceProd),
  SOFTMAX: (r) => {
    if ((r.options.beta ?? 1) !== 1) throw new Foreign('a softmax with β ≠ 1')
    return softmaxOn(r, core.softmax)
  },
  LOG_SOFTMAX: (r) => softmaxOn(r, core.logSoftmax),
}

const softmaxOn = (r: OperatorReader, op: Op<{ axis: number }>) => {
  const rank = r.rank(0)
  return rank === 4 && r.layout === 'core'
    ? inCore(r.finish(r.emit(op, [r.core(0)], { axis: 1 })))
    : inFile(r.finish(r.emit(op, [r.file(0)], { axis: rank - 1 })))
}

// ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

const constantOf = (v: Value | null | undefined): Tensor => {
  if (!isConstant(v)) throw errors.unsupportedTarget('its weights are computed at run time')
  return v.data
}

/** Where a window's pads are no code of their own, a PAD in front says them: zeros, or what never wins a maximum. */
function padded(w: OperatorWriter, x: Value, pads: readonly number[], lowest: boolean): number {
  const from = w.tensor(x, 'file')
  const s = shapeOf(x)
  const grown: Dim[] = s.map((d, i) => (i < 2 ? d : typeof d === 'number' ? d + pads[i - 2]! + pads[i]! : '?'))
  const out = w.temp(
    PERM_TO_FILE.map((k) => grown[k]!),
    x.quant,
  )
  const table = w.constant(tensorOf('int32', [4, 2], [0, 0, pads[0]!, pads[2]!, pads[1]!, pads[3]!, 0, 0]), 'pads')
  if (!lowest) w.add('PAD', { inputs: [from, table], outputs: [out], options: ['PadOptions', {}], version: x.quant ? 2 : 1 })
  else {
    const fill = x.quant
      ? w.weights(tensorOf('int8', [1], [Math.max(x.quant.lo, w.container(x.quant).lo)]), x.quant, null, 'lowest', false)
      : w.constant(tensorOf('float32', [1], [-3.4028234663852886e38]), 'lowest')
    w.add('PADV2', { inputs: [from, table, fill], outputs: [out], options: ['PadV2Options', {}], version: x.quant ? 2 : 1 })
  }
  return out
}

const axesOf = (x: Value, kernel: readonly number[], a: core.Window) =>
  [0, 1].map((i) => ({ size: shapeOf(x)[i + 2]!, kernel: kernel[i]!, stride: a.strides[i]!, dilation: a.dilations[i]! }))

/** x in the file's layout, and the padding code to go with it. */
function windowed(w: OperatorWriter, x: Value, kernel: readonly number[], a: core.Window, lowest = false): [number, number] {
  const code = paddingFor(a.pads, axesOf(x, kernel, a))
  return code === null ? [padded(w, x, a.pads, lowest), Padding.VALID] : [w.tensor(x, 'file'), code]
}

const needImage = (node: Node): void => {
  if (shapeOf(node.inputs[0]).length !== 4) throw errors.unsupportedTarget('TFLite has it for images only (four axes)')
}

const biasTensor = (w: OperatorWriter, b: Value | null | undefined, channels: number, x: Value, weight: Value, name: string): number => {
  if (b) return w.weights(constantOf(b), b.quant, 0, b.name, false)
  // Kernels take a missing bias, but the Edge TPU's compiler and older runtimes do not.
  if (!x.quant) return w.constant(tensorOf('float32', [channels], new Float32Array(channels)), `${name}.bias`)
  const scale = Float32Array.from(weight.quant!.scale, (s) => s * x.quant!.scale[0]!)
  return w.weights(tensorOf('int32', [channels], new Int32Array(channels)), { scale, axis: null, lo: 0, hi: 0 }, 0, `${name}.bias`, false)
}

const convWrite: Write = (w, node) => {
  needImage(node)
  const [x, wv, bv] = node.inputs as [Value, Value, Value | null | undefined]
  const a = node.attrs as core.ConvAttrs
  const t = constantOf(wv)
  const [O, per, kh, kw] = t.shape as [number, number, number, number]
  const C = shapeOf(x)[1] as number
  const name = node.outputs[0]!.name
  const [from, padding] = windowed(w, x, [kh, kw], a)
  const common = { padding, strideH: a.strides[0], strideW: a.strides[1], dilationHFactor: a.dilations[0], dilationWFactor: a.dilations[1] }
  const axis = wv.quant?.axis ?? null
  if (a.group === C && per === 1 && a.group > 1) {
    // Runtimes compute depthwise layers on packed weights otherwise than on whole bytes.
    const weights = w.weights(turn(t, [1, 2, 3, 0]), wv.quant, axis === null ? null : 3, wv.name, false)
    const bias = biasTensor(w, bv, O, x, wv, name)
    w.output(node, 'file', true, (out, fusedActivationFunction) =>
      w.add('DEPTHWISE_CONV_2D', {
        inputs: [from, weights, bias],
        outputs: [out],
        options: ['DepthwiseConv2DOptions', { ...common, depthMultiplier: O / C, fusedActivationFunction }],
        version: wv.quant ? 3 : a.dilations.some((d) => d !== 1) ? 2 : 1,
      }),
    )
    return
  }
  const conv = (input: number, kernel: Tensor, quant: Value['quant'], bias: number, out: number, fusedActivationFunction: number): void =>
    w.add('CONV_2D', {
      inputs: [input, w.weights(turn(kernel, [0, 2, 3, 1]), quant, axis === null ? null : 0, wv.name, true), bias],
      outputs: [out],
      options: ['Conv2DOptions', { ...common, fusedActivationFunction }],
      version: wv.quant ? 3 : 1,
    })
  if (a.group === 1) {
    const bias = biasTensor(w, bv, O, x, wv, name)
    w.output(node, 'file', true, (out, activation) => conv(from, t, wv.quant, bias, out, activation))
    return
  }
  // Groups, as separate convolutions: few kernels have them.
  const s = shapeOf(x)
  const space = s.slice(2).map((d, i): Dim => (typeof d === 'number' && padding === Padding.VALID ? d + a.pads[i]! + a.pads[i + 2]! : d))
  const parts = Array.from({ length: a.group }, () => w.temp([s[0]!, ...space, per], x.quant))
  w.add('SPLIT', {
    inputs: [w.constant(tensorOf('int32', [], [3]), 'axis'), from],
    outputs: parts,
    options: ['SplitOptions', { numSplits: a.group }],
    version: x.quant ? 2 : 1,
  })
  const og = O / a.group
  const y = node.outputs[0]!
  const rows = (v: Tensor, g: number): Tensor => core.rows(v, g * og, (g + 1) * og)
  const cut = (q: core.QuantParams | null, g: number): core.QuantParams | null =>
    q && q.scale.length > 1 ? { ...q, scale: q.scale.slice(g * og, (g + 1) * og) } : q
  w.output(node, 'file', true, (out, activation) => {
    const outs = parts.map((part, g) => {
      const piece = w.temp([shapeOf(y)[0]!, shapeOf(y)[2]!, shapeOf(y)[3]!, og], y.quant)
      const bias = bv
        ? w.weights(rows(constantOf(bv), g), cut(bv.quant, g), 0, `${bv.name}.${g}`, false)
        : biasTensor(w, null, og, x, { ...wv, quant: cut(wv.quant, g) }, `${name}.${g}`)
      conv(part, rows(t, g), cut(wv.quant, g), bias, piece, activation)
      return piece
    })
    w.add('CONCATENATION', { inputs: outs, outputs: [out], options: ['ConcatenationOptions', { axis: 3 }], version: y.quant ? 2 : 1 })
  })
}

const denseWrite: Write = (w, node) => {
  const [x, wv, bv] = node.inputs as [Value, Value, Value | null | undefined]
  const t = constantOf(wv)
  const image = w.flattened.get(x)
  const weights = w.weights(image ? exchangeColumns(t, image, 'file') : t, wv.quant, wv.quant?.axis === null ? null : 0, wv.name, true)
  const bias = biasTensor(w, bv, t.shape[0]!, x, wv, node.outputs[0]!.name)
  const inputs = [w.tensor(x, 'core'), weights, bias]
  w.output(node, 'core', true, (out, fusedActivationFunction) =>
    w.add('FULLY_CONNECTED', {
      inputs,
      outputs: [out],
      options: ['FullyConnectedOptions', { fusedActivationFunction, keepNumDims: shapeOf(x).length > 2 }],
      version: wv.quant ? 4 : shapeOf(x).length > 2 ? 5 : 1,
    }),
  )
}

const poolWrite =
  (type: string): Write =>
  (w, node) => {
    needImage(node)
    const x = node.inputs[0]!
    const a = node.attrs as core.MaxPoolAttrs & Partial<core.AveragePoolAttrs>
    if (a.dilations.some((d) => d !== 1)) throw errors.unsupportedTarget('a dilated pool')
    let pads = [...a.pads]
    const out = shapeOf(node.outputs[0]).slice(2)
    // Windows that hang over the end, as pads: the same number of windows without rounding up.
    if (a.ceil)
      pads = pads.map((p, i) => {
        const d = shapeOf(x)[(i % 2) + 2]
        return i < 2 || typeof d !== 'number'
          ? p
          : Math.max(p, ((out[i - 2] as number) - 1) * a.strides[i - 2]! + a.kernel[i - 2]! - d - pads[i - 2]!)
      })
    const window = { ...a, pads }
    const code = paddingFor(pads, axesOf(x, a.kernel, window))
    const average = type === 'AVERAGE_POOL_2D' && code !== Padding.VALID
    // An average counts no pads of its own: those that count are zeros of the tensor.
    const counted = average && a.countIncludePad
    const hangsOver = a.ceil && (pads.some((p, i) => p !== a.pads[i]) || !isKnown(shapeOf(x).slice(2)))
    if (average && (counted ? hangsOver : code === null))
      throw errors.unsupportedTarget(`an average over pads [${pads}] that are ${counted ? 'counted in part' : 'neither SAME nor counted'}`)
    const [from, padding] = counted ? [padded(w, x, pads, false), Padding.VALID] : windowed(w, x, a.kernel, window, true)
    w.output(node, 'file', true, (to, fusedActivationFunction) =>
      w.add(type, {
        inputs: [from],
        outputs: [to],
        options: [
          'Pool2DOptions',
          {
            padding,
            strideH: a.strides[0],
            strideW: a.strides[1],
            filterHeight: a.kernel[0],
            filterWidth: a.kernel[1],
            fusedActivationFunction,
          },
        ],
        version: x.quant ? 2 : 1,
      }),
    )
  }

/** What is left of each channel, over all axes behind it. */
const globalWrite =
  (type: string): Write =>
  (w, node) => {
    const x = node.inputs[0]!
    const rank = shapeOf(x).length
    const layout = rank === 4 ? 'file' : 'core'
    const from = w.tensor(x, layout)
    const axes = rank === 4 ? [1, 2] : Array.from({ length: rank - 2 }, (_, i) => i + 2)
    w.output(node, layout, false, (out) =>
      w.add(type, {
        inputs: [from, w.ints(axes)],
        outputs: [out],
        options: ['ReducerOptions', { keepDims: true }],
        version: x.quant ? 2 : 1,
      }),
    )
  }

const reduceWrite =
  (type: string): Write =>
  (w, node) => {
    const x = node.inputs[0]!
    const { axes, keepDims } = node.attrs as core.ReduceAttrs
    const from = w.tensor(x, 'core')
    const rank = shapeOf(x).length
    w.output(node, 'core', false, (out) =>
      w.add(type, {
        inputs: [from, w.ints(axes.map((a) => core.axisOf(a, rank)))],
        outputs: [out],
        options: ['ReducerOptions', { keepDims }],
        version: x.quant ? 2 : 1,
      }),
    )
  }

const softmaxWrite =
  (type: string, options: 'SoftmaxOptions' | 'LogSoftmaxOptions'): Write =>
  (w, node) => {
    const x = node.inputs[0]!
    const rank = shapeOf(x).length
    const axis = core.axisOf(node.attrs.axis, rank)
    const layout = rank === 4 && axis === 1 ? 'file' : 'core'
    if (layout === 'core' && axis !== rank - 1)
      throw errors.unsupportedTarget(`a softmax along axis ${axis} of ${rank}: TFLite has the last one only`)
    const from = w.tensor(x, layout)
    w.output(node, layout, false, (out) =>
      w.add(type, {
        inputs: [from],
        outputs: [out],
        options: [options, options === 'SoftmaxOptions' ? { beta: 1 } : {}],
        version: x.quant ? 2 : 1,
      }),
    )
  }

const transposedWrite: Write = (w, node) => {
  needImage(node)
  const [x, wv, bv] = node.inputs as [Value, Value, Value | null | undefined]
  const a = node.attrs as core.ConvTransposeAttrs
  const t = constantOf(wv)
  if (a.group !== 1 || a.dilations.some((d) => d !== 1)) throw errors.unsupportedTarget('a transposed convolution with groups or dilations')
  const [, O, kh, kw] = t.shape as [number, number, number, number]
  const shape = core.knownShape({ ...node.outputs[0]!, shape: w.sized(shapeOf(node.outputs[0])) }, 'the result')
  const axes = axesOf(x, [kh, kw], a).map((axis, i) => ({ ...axis, out: shape[i + 2]! }))
  const padding = transposedPaddingFor(a.pads, a.outputPadding, axes)
  // Other pads are cut off the whole result.
  const ends = [0, 1].map((i) => a.pads[i + 2]! - a.outputPadding[i]!)
  if (padding === null && ends.some((e) => e < 0))
    throw errors.unsupportedTarget(`a transposed convolution with pads [${a.pads}] and output padding [${a.outputPadding}]`)
  const whole = padding === null ? shape.map((d, i) => (i < 2 ? d : d + a.pads[i - 2]! + ends[i - 2]!)) : shape
  const weights = w.weights(turn(t, [1, 2, 3, 0]), wv.quant, 0, wv.name, false)
  const inFile = (s: readonly number[]): number[] => PERM_TO_FILE.map((k) => s[k]!)
  const inputs = [w.ints(inFile(whole)), weights, w.tensor(x, 'file'), biasTensor(w, bv, O, x, wv, node.outputs[0]!.name)]
  w.output(node, 'file', true, (out, fusedActivationFunction) => {
    const to = padding === null ? w.temp(inFile(whole), node.outputs[0]!.quant) : out
    w.add('TRANSPOSE_CONV', {
      inputs,
      outputs: [to],
      options: [
        'TransposeConvOptions',
        { padding: padding ?? Padding.VALID, strideH: a.strides[0], strideW: a.strides[1], fusedActivationFunction },
      ],
      version: fusedActivationFunction ? 4 : 3,
    })
    if (padding !== null) return
    w.add('SLICE', {
      inputs: [to, w.ints(inFile([0, 0, a.pads[0]!, a.pads[1]!])), w.ints(inFile(shape))],
      outputs: [out],
      options: ['SliceOptions', {}],
      version: node.outputs[0]!.quant ? 2 : 1,
    })
  })
}

const matmulWrite: Write = (w, node) => {
  const inputs = node.inputs.map((v) => w.tensor(v!, 'core'))
  w.output(node, 'core', false, (out) =>
    w.add('BATCH_MATMUL', { inputs, outputs: [out], options: ['BatchMatMulOptions', {}], version: node.outputs[0]!.quant ? 2 : 1 }),
  )
}

/** γ·(x − μ)/√(σ² + ε) + β as one product and one sum. */
const batchNormWrite: Write = (w, node) => {
  const [x, ...params] = node.inputs as Value[]
  const [s, o, m, v] = params.map((p) => numbersOf(constantOf(p))) as [Float32Array, Float32Array, Float32Array, Float32Array]
  const rank = shapeOf(x).length
  const layout = rank === 4 ? 'file' : 'core'
  const scale = Float32Array.from(s, (k, i) => k / Math.sqrt(v[i]! + node.attrs.epsilon))
  const shift = Float32Array.from(o, (k, i) => k - m[i]! * scale[i]!)
  const shape = layout === 'file' || rank === 2 ? [scale.length] : [scale.length, ...Array<number>(rank - 2).fill(1)]
  const y = node.outputs[0]!
  const between = w.temp(layout === 'file' ? PERM_TO_FILE.map((k) => shapeOf(y)[k]!) : shapeOf(y), null)
  w.add('MUL', {
    inputs: [w.tensor(x!, layout), w.constant(tensorOf('float32', shape, scale), 'scale')],
    outputs: [between],
    options: ['MulOptions', {}],
  })
  w.output(node, layout, true, (out, fusedActivationFunction) =>
    w.add('ADD', {
      inputs: [between, w.constant(tensorOf('float32', shape, shift), 'shift')],
      outputs: [out],
      options: ['AddOptions', { fusedActivationFunction }],
    }),
  )
}

export const write: readonly (readonly [Op, Write])[] = [
  [core.conv, convWrite],
  [core.intConv, convWrite],
  [core.convTranspose, transposedWrite],
  [core.dense, denseWrite],
  [core.intDense, denseWrite],
  [core.matmul, matmulWrite],
  [core.maxPool, poolWrite('MAX_POOL_2D')],
  [core.averagePool, poolWrite('AVERAGE_POOL_2D')],
  [core.fixedAveragePool, poolWrite('AVERAGE_POOL_2D')],
  [core.globalAveragePool, globalWrite('MEAN')],
  [core.fixedMean, globalWrite('MEAN')],
  [core.globalMaxPool, globalWrite('REDUCE_MAX')],
  [core.reduceMean, reduceWrite('MEAN')],
  [core.reduceSum, reduceWrite('SUM')],
  [core.reduceMax, reduceWrite('REDUCE_MAX')],
  [core.reduceMin, reduceWrite('REDUCE_MIN')],
  [core.reduceProd, reduceWrite('REDUCE_PROD')],
  [core.softmax, softmaxWrite('SOFTMAX', 'SoftmaxOptions')],
  [core.fixedSoftmax, softmaxWrite('SOFTMAX', 'SoftmaxOptions')],
  [core.logSoftmax, softmaxWrite('LOG_SOFTMAX', 'LogSoftmaxOptions')],
  [core.batchNorm, batchNormWrite],
]
