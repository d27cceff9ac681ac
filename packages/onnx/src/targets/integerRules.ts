import * as core from '@dqc/core'
import {
  containerZero,
  isConstant,
  type Node,
  numbersOf,
  type Op,
  type QuantParams,
  shapeOf,
  type Tensor,
  tensorOf,
  type Value,
} from '@dqc/core'
import { int4Tensor } from '../proto/tensors.ts'
import { int, ints, type NodeWriter, shapeTensor, trimmed, type Write } from '../spelling/spelling.ts'

/** Operator set of ONNX Runtime's own integer kernels. */
export const MICROSOFT = 'com.microsoft'

/** How integer ops go into the file: as QLinear… kernels, or as float ops between DequantizeLinear and QuantizeLinear. */
export type Format = 'qoperator' | 'qdq'

const uint8 = (v: number): Tensor => tensorOf('uint8', [], [v])
const scaleOf = (w: NodeWriter, q: QuantParams): string =>
  w.constant(q.axis === null ? core.scalar(q.scale[0]!) : tensorOf('float32', [q.scale.length], q.scale), 'scale')
const zeroOf = (w: NodeWriter, q: QuantParams): string => w.constant(uint8(containerZero(q)), 'zero')

/** Steps → uint8 container. */
export const toContainer = (steps: ArrayLike<number>, q: QuantParams): Uint8Array => Uint8Array.from(steps, (v) => v + containerZero(q))
/** uint8 container → steps. */
export const fromContainer = (bytes: ArrayLike<number>, q: QuantParams): Int32Array => Int32Array.from(bytes, (v) => v - containerZero(q))

/** A grid narrower than its container is kept by an integer Clip, which the runtime runs at next to no cost. */
function clamped(w: NodeWriter, q: QuantParams, out: string, make: (to: string) => void): void {
  const z = containerZero(q)
  if (q.lo + z === 0 && q.hi + z === 255) {
    make(out)
    return
  }
  const wide = w.temp('wide')
  make(wide)
  // A saturating kernel already stops at the container's own ends.
  w.node(
    'Clip',
    q.lo + z === 0 ? [wide, '', w.constant(uint8(q.hi + z))] : [wide, w.constant(uint8(q.lo + z)), w.constant(uint8(q.hi + z))],
    [out],
  )
}

/** A constant operand on its grid, in the container that activations use. */
function operand(w: NodeWriter, v: Value, name: string): string {
  if (!isConstant(v)) return name
  return w.constant(tensorOf('uint8', v.data.shape, toContainer(numbersOf(v.data), v.quant!)), 'operand')
}

/** The weights and their zeros: int8, packed to INT4 and widened at load time, which the runtime folds away, or uint8 around a zero in the middle. */
function weights(w: NodeWriter, x: Value, v: Value, name: string, packed: boolean): { readonly stored: string; readonly zeros: string } {
  const q = quantOf(v)
  const channels = q.axis === null ? 1 : q.scale.length
  const zeros = (like: 'int8' | 'uint8', zero: number): string =>
    w.constant(tensorOf(like, q.axis === null ? [] : [channels], new Array<number>(channels).fill(zero)), 'zeros')
  const { shape } = v.data!
  const steps = numbersOf(v.data!)
  // Weights that others quantized around a zero point of their own need the unsigned container too.
  if (q.lo < -128 || q.hi > 127 || overflowsPairs(quantOf(x), steps, shape[0]!))
    return { stored: w.constant(tensorOf('uint8', shape, toContainer(steps, q)), v.name), zeros: zeros('uint8', containerZero(q)) }
  if (!packed || q.hi > 7 || q.lo < -8) return { stored: name, zeros: zeros('int8', 0) }
  w.atLeast(21)
  const wide = w.temp('weights')
  w.node('Cast', [w.raw(int4Tensor(`${v.name}_int4`, shape, steps))], [wide], [int('to', 3)])
  return { stored: wide, zeros: zeros('int8', 0) }
}

/**
 * What two neighbouring products may add up to: x86 processors without VNNI add uint8·int8 in pairs that saturate at 16 bits (VPMADDUBSW), and
 * silently give other numbers. Kernels for uint8·uint8 widen first.
 */
export const PAIR_LIMIT = 0x7fff

/** `steps`: [rows, …] weights of a layer that reads x. */
function overflowsPairs(x: QuantParams, steps: ArrayLike<number>, rows: number): boolean {
  const most = PAIR_LIMIT / (x.hi + containerZero(x))
  const row = steps.length / rows
  return Array.from({ length: rows }, (_, r) => core.widestPair(steps, r * row, (r + 1) * row)).some((pair) => pair > most)
}

const quantOf = (v: Value | null | undefined): QuantParams => {
  core.invariant(v?.quant, `${v?.name} has no grid`)
  return v.quant
}

const windowAttrs = (a: core.Window) => [ints('strides', a.strides), ints('pads', a.pads)]

interface Rules {
  readonly format: Format
  readonly packed: boolean
}

const dequantized = (w: NodeWriter, v: Value, name: string, as = operand(w, v, name)): string => {
  const out = w.temp('real')
  w.node('DequantizeLinear', [as, scaleOf(w, quantOf(v)), zeroOf(w, quantOf(v))], [out])
  return out
}

/** Weights or bias between DequantizeLinear: the runtime's fusion takes the integers. */
const dequantizedConstant = (w: NodeWriter, v: Value, name: string, zero: string, axis: number | null): string => {
  const out = w.temp('real')
  w.node(
    'DequantizeLinear',
    zero === '' ? [name, scaleOf(w, quantOf(v))] : [name, scaleOf(w, quantOf(v)), zero],
    [out],
    axis === null ? [] : [int('axis', axis)],
  )
  return out
}

/** A float op between conversions. */
function between(
  w: NodeWriter,
  node: Node,
  out: string,
  type: string,
  reals: readonly string[],
  attributes: Parameters<NodeWriter['node']>[3],
): void {
  const q = quantOf(node.outputs[0])
  const y = w.temp('real')
  w.node(type, trimmed(reals), [y], attributes)
  clamped(w, q, out, (to) => w.node('QuantizeLinear', [y, scaleOf(w, q), zeroOf(w, q)], [to]))
}

const convRule =
  ({ format, packed }: Rules): Write =>
  (w, node, [x, wn, bn], [out]) => {
    const a = node.attrs as core.ConvAttrs
    const [vx, vw, vb] = node.inputs as [Value, Value, Value | null]
    const attributes = [
      ...windowAttrs(a),
      ints('dilations', a.dilations),
      int('group', a.group),
      ints('kernel_shape', shapeOf(vw).slice(2) as number[]),
    ]
    const { stored, zeros } = weights(w, vx, vw, wn!, packed)
    if (format === 'qdq') {
      const real = dequantizedConstant(w, vw, stored, zeros, vw.quant!.axis === null ? null : 0)
      const bias = vb ? dequantizedConstant(w, vb, bn!, '', vb.quant!.axis) : ''
      between(w, node, out!, 'Conv', [dequantized(w, vx, x!), real, bias], attributes)
      return
    }
    const q = quantOf(node.outputs[0])
    clamped(w, q, out!, (to) =>
      w.node(
        'QLinearConv',
        trimmed([
          x!,
          scaleOf(w, quantOf(vx)),
          zeroOf(w, quantOf(vx)),
          stored,
          scaleOf(w, vw.quant!),
          zeros,
          scaleOf(w, q),
          zeroOf(w, q),
          bn ?? '',
        ]),
        [to],
        attributes,
      ),
    )
  }

/** QGemm takes two axes; further leading ones are folded away around it. */
const denseRule =
  ({ format, packed }: Rules): Write =>
  (w, node, [x, wn, bn], [out]) => {
    const [vx, vw, vb] = node.inputs as [Value, Value, Value | null]
    const q = quantOf(node.outputs[0])
    const shape = shapeOf(node.outputs[0])
    const flat = shape.length !== 2
    const { stored, zeros } = weights(w, vx, vw, wn!, packed)
    let from = x!
    if (flat) w.node('Reshape', [x!, w.constant(shapeTensor([-1, shapeOf(vw)[1] as number]))], [(from = w.temp('rows'))])
    const to = flat ? w.temp('rows') : out!
    if (format === 'qdq') {
      const real = dequantizedConstant(w, vw, stored, zeros, vw.quant!.axis === null ? null : 0)
      const bias = vb ? dequantizedConstant(w, vb, bn!, '', vb.quant!.axis) : ''
      between(w, node, to, 'Gemm', [dequantized(w, vx, from), real, bias], [int('transB', 1)])
    } else
      clamped(w, q, to, (dst) =>
        w.node(
          'QGemm',
          [
            from,
            scaleOf(w, quantOf(vx)),
            zeroOf(w, quantOf(vx)),
            stored,
            scaleOf(w, vw.quant!),
            zeros,
            bn ?? '',
            scaleOf(w, q),
            zeroOf(w, q),
          ],
          [dst],
          [int('transB', 1)],
          MICROSOFT,
        ),
      )
    // The rows that come back are those of all leading axes: no size of theirs is the batch's.
    if (flat) w.node('Reshape', [to, w.constant(shapeTensor(core.reshapeTarget([], shape)))], [out!])
  }

/** Two activations: x, scale, zero, y, scale, zero, scale, zero. */
const pairRule =
  ({ format }: Rules, kernel: string, domain: string, float: string): Write =>
  (w, node, [x, y], [out]) => {
    const [vx, vy] = node.inputs as [Value, Value]
    const q = quantOf(node.outputs[0])
    if (format === 'qdq') {
      between(w, node, out!, float, [dequantized(w, vx, x!), dequantized(w, vy, y!)], [])
      return
    }
    const of = (v: Value, name: string): string[] => [operand(w, v, name), scaleOf(w, quantOf(v)), zeroOf(w, quantOf(v))]
    clamped(w, q, out!, (to) => w.node(kernel, [...of(vx, x!), ...of(vy, y!), scaleOf(w, q), zeroOf(w, q)], [to], [], domain))
  }

const poolRule =
  ({ format }: Rules, kernel: string, float: string, attributes: (a: any) => Parameters<NodeWriter['node']>[3]): Write =>
  (w, node, [x], [out]) => {
    const vx = node.inputs[0]!
    const q = quantOf(node.outputs[0])
    if (format === 'qdq') {
      between(w, node, out!, float, [dequantized(w, vx, x!)], attributes(node.attrs))
      return
    }
    clamped(w, q, out!, (to) =>
      w.node(
        kernel,
        [x!, scaleOf(w, quantOf(vx)), zeroOf(w, quantOf(vx)), scaleOf(w, q), zeroOf(w, q)],
        [to],
        [...(attributes(node.attrs) ?? []), int('channels_last', 0)],
        MICROSOFT,
      ),
    )
  }

const single = (w: NodeWriter, v: Value, name: string): string => {
  const out = w.temp('real')
  w.node('Cast', [operand(w, v, name)], [out], [int('to', 1)])
  return steps(w, out, -containerZero(quantOf(v)))
}

/** x + k */
function steps(w: NodeWriter, x: string, k: number): string {
  if (k === 0) return x
  const out = w.temp('moved')
  w.node('Add', [x, w.constant(core.scalar(k))], [out])
  return out
}

/** Whole numbers in single precision → the container of a grid. */
function contain(w: NodeWriter, q: QuantParams, value: string, out: string): void {
  const z = containerZero(q)
  const inside = w.temp('inside')
  w.node('Clip', [steps(w, value, z), w.constant(core.scalar(q.lo + z)), w.constant(core.scalar(q.hi + z))], [inside])
  w.node('Cast', [inside], [out], [int('to', 2)])
}

const chain = (w: NodeWriter, type: string, inputs: readonly string[], attributes: Parameters<NodeWriter['node']>[3] = []): string => {
  const out = w.temp(type.toLowerCase())
  w.node(type, inputs, [out], attributes)
  return out
}

/** Round(x·m), as requantization does it. */
const scaledRound = (w: NodeWriter, x: string, m: number): string => chain(w, 'Round', [chain(w, 'Mul', [x, w.constant(core.scalar(m))])])

/** (m_x·x + m_y·y + half) >> h needs more bits than single precision has. */
const fixedAddRule: Write = (w, node, [x, y], [out]) => {
  const [vx, vy] = node.inputs as [Value, Value]
  const { mx, my, shift } = core.sumMultipliers(node.attrs as core.FixedAdd)
  const double = (v: number): string => w.constant(core.scalar(v, 'float64'))
  const term = (v: Value, name: string, m: number): string =>
    chain(w, 'Mul', [chain(w, 'Cast', [single(w, v, name)], [int('to', 11)]), double(m / 2 ** shift)])
  const sum = chain(w, 'Add', [chain(w, 'Add', [term(vx, x!, mx), term(vy, y!, my)]), double(0.5)])
  contain(w, quantOf(node.outputs[0]), chain(w, 'Cast', [chain(w, 'Floor', [sum])], [int('to', 1)]), out!)
}

const fixedMulRule: Write = (w, node, [x, y], [out]) => {
  const [vx, vy] = node.inputs as [Value, Value]
  contain(w, quantOf(node.outputs[0]), scaledRound(w, chain(w, 'Mul', [single(w, vx, x!), single(w, vy, y!)]), node.attrs.multiplier), out!)
}

const fixedMeanRule: Write = (w, node, [x], [out]) => {
  const vx = node.inputs[0]!
  const space = shapeOf(vx).slice(2) as number[]
  const { scaleX, scaleOut } = node.attrs as { scaleX: number; scaleOut: number }
  const sum = chain(w, 'ReduceSum', [single(w, vx, x!), w.constant(shapeTensor(space.map((_, i) => i + 2)))], [int('keepdims', 1)])
  contain(w, quantOf(node.outputs[0]), scaledRound(w, sum, core.meanScale(scaleX, scaleOut, core.sizeOf(space))), out!)
}

/** Sums of windows by a convolution with ones; then an integer division that rounds half away from zero. */
const fixedAverageRule: Write = (w, node, [x], [out]) => {
  const vx = node.inputs[0]!
  const a = node.attrs as core.AveragePoolAttrs & { zero: number }
  const [, C, ...space] = shapeOf(vx) as number[]
  const to = shapeOf(node.outputs[0]!).slice(2) as number[]
  const ones = w.constant(tensorOf('float32', [C!, 1, ...a.kernel], new Float32Array(C! * core.sizeOf(a.kernel)).fill(1)), 'ones')
  const sums = chain(
    w,
    'Conv',
    [steps(w, single(w, vx, x!), a.zero), ones],
    [...windowAttrs(a), ints('dilations', a.dilations), int('group', C!)],
  )
  const counts = core.windowCounts(space, to, a)
  const map = (f: (n: number) => number): string => w.constant(tensorOf('float32', [1, 1, ...to], Float32Array.from(counts, f)), 'counts')
  const away = chain(w, 'Add', [chain(w, 'Abs', [sums]), map((n) => Math.floor(n / 2))])
  const whole = chain(w, 'Floor', [chain(w, 'Div', [away, map((n) => n)])])
  contain(w, quantOf(node.outputs[0]), steps(w, chain(w, 'Mul', [whole, chain(w, 'Sign', [sums])]), -a.zero), out!)
}

/** A table over the container's 256 values, indexed by the input itself. */
const lookupRule: Write = (w, node, [x], [out]) => {
  const { lo, table } = node.attrs as { lo: number; table: readonly number[] }
  const [from, to] = [quantOf(node.inputs[0]), quantOf(node.outputs[0])]
  const z = containerZero(from)
  const bytes = toContainer(
    Array.from({ length: 256 }, (_, c) => table[Math.min(Math.max(c - z - lo, 0), table.length - 1)]!),
    to,
  )
  const index = w.temp('index')
  w.node('Cast', [x!], [index], [int('to', 6)])
  w.node('Gather', [w.constant(tensorOf('uint8', [256], bytes), 'table'), index], [out!], [int('axis', 0)])
}

/** The integer vocabulary as ONNX Runtime runs it. */
export function integerRules(rules: Rules): ReadonlyMap<Op, Write> {
  return new Map<Op, Write>([
    [
      core.quantize,
      (w, node, [x], [out]) => {
        const q = quantOf(node.outputs[0])
        clamped(w, q, out!, (to) => w.node('QuantizeLinear', [x!, scaleOf(w, q), zeroOf(w, q)], [to]))
      },
    ],
    [
      core.dequantize,
      (w, node, [x], [out]) => {
        const q = quantOf(node.inputs[0])
        const from = operand(w, node.inputs[0]!, x!)
        if (w.isOutput(node.outputs[0]!)) {
          w.node('DequantizeLinear', [from, scaleOf(w, q), zeroOf(w, q)], [out!])
          return
        }
        // Into a float island the same arithmetic goes as Cast, Sub, Mul: between DequantizeLinear and QuantizeLinear the runtime would
        // quantize the island itself, float weights included.
        const z = containerZero(q)
        const raw = w.temp('raw')
        w.node('Cast', [from], [raw], [int('to', 1)])
        const centred = z === 0 ? raw : w.temp('centred')
        if (z !== 0) w.node('Sub', [raw, w.constant(core.scalar(z))], [centred])
        w.node('Mul', [centred, scaleOf(w, q)], [out!])
      },
    ],
    [core.intConv, convRule(rules)],
    [core.intDense, denseRule(rules)],
    [core.intMatMul, pairRule(rules, 'QLinearMatMul', '', 'MatMul')],
    [core.intAdd, pairRule(rules, 'QLinearAdd', MICROSOFT, 'Add')],
    [core.intMul, pairRule(rules, 'QLinearMul', MICROSOFT, 'Mul')],
    [
      core.intAveragePool,
      poolRule(rules, 'QLinearAveragePool', 'AveragePool', (a: core.AveragePoolAttrs) => [
        ints('kernel_shape', a.kernel),
        ...windowAttrs(a),
        int('ceil_mode', a.ceil ? 1 : 0),
        int('count_include_pad', a.countIncludePad ? 1 : 0),
      ]),
    ],
    [core.intGlobalAveragePool, poolRule(rules, 'QLinearGlobalAveragePool', 'GlobalAveragePool', () => [])],
    [core.lookup, lookupRule],
    [core.fixedAdd, fixedAddRule],
    [core.fixedMul, fixedMulRule],
    [core.fixedMean, fixedMeanRule],
    [core.fixedAveragePool, fixedAverageRule],
    [
      core.concat,
      (w, node, ins, outs) =>
        w.node(
          'Concat',
          ins.map((n, i) => (node.inputs[i]!.quant ? operand(w, node.inputs[i]!, n) : n)),
          outs,
          [int('axis', node.attrs.axis)],
        ),
    ],
    [
      core.pad,
      (w, node, [x], outs) => {
        const a = node.attrs as core.PadAttrs
        const q = node.inputs[0]!.quant
        const value = q ? uint8(a.value + containerZero(q)) : core.scalar(a.value, node.inputs[0]!.dtype)
        if (a.mode === 'wrap') w.atLeast(19)
        w.node('Pad', [x!, w.constant(shapeTensor(a.pads)), ...(a.mode === 'constant' ? [w.constant(value)] : [])], outs, [
          { name: 'mode', type: 3, s: new TextEncoder().encode(a.mode) },
        ])
      },
    ],
  ])
}
