import * as core from '@dqc/core'
import { axisOf, type DType, knownShape, type Node, numbersOf, type Op, shapeOf, type Value } from '@dqc/core'
import { codeOf, dtypeOf } from '../proto/tensors.ts'
import { Foreign, float, int, type NodeReader, type NodeWriter, plain, type Read, string, type Write } from './spelling.ts'

/** An op of so many operands and no attributes. */
const noAttrs =
  (op: Op<Record<string, never>>, operands = 1): Read =>
  (r) =>
    r.emit(
      op,
      Array.from({ length: operands }, (_, i) => r.input(i)),
      {},
    )

/** Sum, Max, Min: any number of operands, as a chain. */
const chain =
  (op: Op<Record<string, never>>): Read =>
  (r) => {
    let v = r.input(0)
    if (r.inputCount === 1) return r.emit(core.identity, [v], {})
    for (let i = 1; i < r.inputCount; i++) v = r.emit(op, [v, r.input(i)], {})
    return v
  }

/** Before opset 7, operands broadcast only when told to, along an axis. */
const arithmetic =
  (op: Op<Record<string, never>>): Read =>
  (r) => {
    if (r.opset < 7 && r.int('broadcast', 0) === 1) {
      const [x, y] = [r.input(0), r.input(1)]
      const [a, c] = [shapeOf(x), knownShape(y)]
      const axis = r.has('axis') ? axisOf(r.int('axis'), a.length) : a.length - c.length
      const spread = r.emit(core.reshape, [y], { shape: [...c, ...new Array<number>(a.length - axis - c.length).fill(1)] })
      return r.emit(op, [x, spread], {})
    }
    return r.emit(op, [r.input(0), r.input(1)], {})
  }

const bound = (r: NodeReader, i: number, name: string, fallback: number): number => r.constant(i)?.[0] ?? r.float(name, fallback)

const clipRead: Read = (r) => {
  const x = r.input(0)
  const limit = Number.POSITIVE_INFINITY
  const [min, max] =
    r.opset < 11 ? [r.float('min', -limit), r.float('max', limit)] : [bound(r, 1, 'min', -limit), bound(r, 2, 'max', limit)]
  // FLT_MAX is how exporters spell "no bound".
  const open = (v: number): number => (Math.abs(v) >= 3.4028234e38 ? Math.sign(v) * limit : v)
  return r.emit(core.clip, [x], { min: open(min), max: open(max) })
}

const clipWrite: Write = (w, node, [x], outs) => {
  const { min, max } = node.attrs as { min: number; max: number }
  const dtype = node.inputs[0]!.dtype
  const side = (v: number): string => (Number.isFinite(v) ? w.constant(core.scalar(v, dtype)) : '')
  w.node(
    'Clip',
    [x!, side(min), side(max)].filter((s, i, all) => s !== '' || all.slice(i + 1).some((t) => t !== '')),
    outs,
  )
}

const castRead: Read = (r) => {
  const to = dtypeOf(r.int('to', 0))
  if (to === 'opaque') throw new Foreign('the target type is only carried')
  return r.emit(core.cast, [r.input(0)], { to })
}

const meanRead: Read = (r) => {
  let v = r.input(0)
  for (let i = 1; i < r.inputCount; i++) v = r.emit(core.add, [v, r.input(i)], {})
  return r.emit(core.mul, [v, r.b.constant(core.scalar(1 / r.inputCount, v.dtype))], {})
}

const powRead: Read = (r) => {
  const [x, y] = [r.input(0), r.input(1)]
  if (!core.isFloat(x.dtype)) throw new Foreign('integer powers')
  if (r.opset < 7 && r.int('broadcast', 0) === 1) return arithmetic(core.pow)(r)
  return r.emit(core.pow, [x, x.dtype === y.dtype ? y : r.emit(core.cast, [y], { to: x.dtype })], {})
}

/** ONNX takes the remainder with the divisor's sign of integers alone. */
const modWrite: Write = (w, node, [x, y], outs) => {
  if (!core.isFloat(node.outputs[0]!.dtype)) {
    w.node('Mod', [x!, y!], outs)
    return
  }
  const [quotient, whole, product] = [w.temp('quotient'), w.temp('whole'), w.temp('product')]
  w.node('Div', [x!, y!], [quotient])
  w.node('Floor', [quotient], [whole])
  w.node('Mul', [whole, y!], [product])
  w.node('Sub', [x!, product], outs)
}

export const read: Record<string, Read> = {
  Relu: noAttrs(core.relu),
  Sigmoid: noAttrs(core.sigmoid),
  Tanh: noAttrs(core.tanh),
  HardSwish: noAttrs(core.hardSwish),
  Mish: noAttrs(core.mish),
  Softplus: noAttrs(core.softplus),
  Softsign: noAttrs(core.softsign),
  Exp: noAttrs(core.exp),
  Log: noAttrs(core.log),
  Sqrt: noAttrs(core.sqrt),
  Reciprocal: noAttrs(core.reciprocal),
  Abs: noAttrs(core.abs),
  Neg: noAttrs(core.neg),
  Erf: noAttrs(core.erf),
  Sin: noAttrs(core.sin),
  Cos: noAttrs(core.cos),
  Sign: noAttrs(core.sign),
  Floor: noAttrs(core.floor),
  Ceil: noAttrs(core.ceil),
  Round: noAttrs(core.round),
  Not: noAttrs(core.not),
  Identity: noAttrs(core.identity),
  Where: noAttrs(core.where, 3),
  PRelu: (r) => {
    const [x, slope] = [r.input(0), r.input(1)]
    const s = shapeOf(slope)
    // Before opset 7 a vector of slopes belongs to the channels.
    const aligned =
      r.opset < 7 && s.length === 1 && s[0] !== 1
        ? r.emit(core.reshape, [slope], {
            shape: shapeOf(x)
              .slice(1)
              .map((_, i) => (i === 0 ? -1 : 1)),
          })
        : slope
    return r.emit(core.prelu, [x, aligned], {})
  },
  LeakyRelu: (r) => r.emit(core.leakyRelu, [r.input(0)], { alpha: r.float('alpha', 0.01) }),
  ThresholdedRelu: (r) => r.emit(core.thresholdedRelu, [r.input(0)], { alpha: r.float('alpha', 1) }),
  Elu: (r) => r.emit(core.elu, [r.input(0)], { alpha: r.float('alpha', 1) }),
  Selu: (r) =>
    r.emit(core.selu, [r.input(0)], {
      alpha: r.float('alpha', 1.6732631921768188),
      gamma: r.float('gamma', 1.0507010221481323),
    }),
  Celu: (r) => r.emit(core.celu, [r.input(0)], { alpha: r.float('alpha', 1) }),
  HardSigmoid: (r) => r.emit(core.hardSigmoid, [r.input(0)], { alpha: r.float('alpha', 0.2), beta: r.float('beta', 0.5) }),
  Gelu: (r) => r.emit(core.gelu, [r.input(0)], { approximate: r.string('approximate', 'none') === 'tanh' }),
  Swish: (r) => r.emit(core.silu, [r.input(0)], { alpha: r.float('alpha', 1) }),
  Clip: clipRead,
  Cast: castRead,
  Add: arithmetic(core.add),
  Sub: arithmetic(core.sub),
  Mul: arithmetic(core.mul),
  Div: arithmetic(core.div),
  Pow: powRead,
  Mod: (r) => noAttrs(r.int('fmod', 0) === 1 ? core.fmod : core.mod, 2)(r),
  Sum: chain(core.add),
  Max: chain(core.maximum),
  Min: chain(core.minimum),
  Mean: meanRead,
  Greater: noAttrs(core.greater, 2),
  Less: noAttrs(core.less, 2),
  GreaterOrEqual: noAttrs(core.greaterOrEqual, 2),
  LessOrEqual: noAttrs(core.lessOrEqual, 2),
  Equal: noAttrs(core.equal, 2),
  And: noAttrs(core.and, 2),
  Or: noAttrs(core.or, 2),
  Xor: noAttrs(core.xor, 2),
  Dropout: (r) => {
    if (r.outputCount > 1 || (r.opset >= 12 && r.inputCount > 2 && r.constant(2)?.[0])) throw new Foreign('dropout in training')
    return r.emit(core.identity, [r.input(0)], {})
  },
  CastLike: (r) => r.emit(core.cast, [r.input(0)], { to: r.input(1).dtype }),
}

const siluWrite: Write = (w, node, [x], outs) => {
  const { alpha } = node.attrs as { alpha: number }
  const inner = alpha === 1 ? x! : w.temp('scaled')
  if (alpha !== 1) w.node('Mul', [x!, w.constant(core.scalar(alpha, node.inputs[0]!.dtype))], [inner])
  const gate = w.temp('gate')
  w.node('Sigmoid', [inner], [gate])
  w.node('Mul', [x!, gate], outs)
}

/**
 * x no further out than its grid reaches, in steps of s where channels have scales of their own; and x itself, in the same unit. A quantizer and
 * its gradient write the same nodes, which the runtime then computes once.
 */
function clipped(w: NodeWriter, node: Node<core.GridEnds>, x: string, s: string): { from: string; inside: string; unit: string } {
  const { lo, hi, axis } = node.attrs
  const [value, scale] = node.inputs as [Value, Value]
  const inside = w.temp('inside')
  if (axis === null) {
    // Steps are not computed for their own sake: quantizing divides anyway, and gradients only ask what was clipped.
    const end = (steps: number): string => {
      if (scale.data) return w.constant(core.scalar(steps * numbersOf(scale.data)[0]!))
      if (steps === 0) return w.constant(core.scalar(0))
      const name = w.temp('end')
      w.node('Mul', [s, w.constant(core.scalar(steps))], [name])
      return name
    }
    w.node('Clip', [x, end(lo), end(hi)], [inside])
    return { from: x, inside, unit: s }
  }
  const shape = shapeOf(value).map((_, i) => (i === axis ? -1 : 1))
  let unit: string
  if (scale.data) {
    const sizes = shape.map((d) => (d === -1 ? scale.data!.data.length : 1))
    unit = w.constant(core.tensorOf('float32', sizes, numbersOf(scale.data)), 'scale')
  } else w.node('Reshape', [s, w.constant(core.tensorOf('int64', [shape.length], shape))], [(unit = w.temp('scale'))])
  const from = w.temp('steps')
  w.node('Div', [x, unit], [from])
  w.node('Clip', [from, w.constant(core.scalar(lo)), w.constant(core.scalar(hi))], [inside])
  return { from, inside, unit }
}

const insideGridWrite: Write = (w, node, [x, s], outs) => {
  const { from, inside } = clipped(w, node, x!, s!)
  const same = w.temp('same')
  w.node('Equal', [from, inside], [same])
  w.node('Cast', [same], outs, [int('to', codeOf(node.outputs[0]!.dtype))])
}

/** s·RNE(clip(x/s, lo, hi)) in plain float ops: what gradients and attacks run on. Clipping first, between whole bounds, gives the same. */
const fakeQuantWrite: Write = (w, node, [x, s], outs) => {
  const { lo, hi, axis } = node.attrs as core.FakeQuantAttrs
  const { inside, unit } = clipped(w, node, x!, s!)
  const byte = lo >= 0 && hi <= 255 ? 'uint8' : lo >= -128 && hi <= 127 ? 'int8' : null
  const rounded = w.temp('rounded')
  if (axis === null && byte) {
    // Steps that fit a byte are rounded on their way through one, which takes half as long.
    const zero = w.constant(core.tensorOf(byte, [], [0]), 'zero')
    w.node('QuantizeLinear', [inside, unit, zero], [rounded])
    w.node('DequantizeLinear', [rounded, unit, zero], outs)
    return
  }
  let steps = inside
  if (axis === null) w.node('Div', [inside, unit], [(steps = w.temp('steps'))])
  w.node('Round', [steps], [rounded])
  w.node('Mul', [rounded, unit], outs)
}

const binaryNames: [Op, string][] = [
  [core.add, 'Add'],
  [core.sub, 'Sub'],
  [core.mul, 'Mul'],
  [core.div, 'Div'],
  [core.pow, 'Pow'],
  [core.minimum, 'Min'],
  [core.maximum, 'Max'],
  [core.greater, 'Greater'],
  [core.less, 'Less'],
  [core.greaterOrEqual, 'GreaterOrEqual'],
  [core.lessOrEqual, 'LessOrEqual'],
  [core.equal, 'Equal'],
  [core.and, 'And'],
  [core.or, 'Or'],
  [core.xor, 'Xor'],
  [core.where, 'Where'],
  [core.prelu, 'PRelu'],
  [core.relu, 'Relu'],
  [core.sigmoid, 'Sigmoid'],
  [core.tanh, 'Tanh'],
  [core.hardSwish, 'HardSwish'],
  [core.mish, 'Mish'],
  [core.softplus, 'Softplus'],
  [core.softsign, 'Softsign'],
  [core.exp, 'Exp'],
  [core.log, 'Log'],
  [core.sqrt, 'Sqrt'],
  [core.reciprocal, 'Reciprocal'],
  [core.abs, 'Abs'],
  [core.neg, 'Neg'],
  [core.erf, 'Erf'],
  [core.sin, 'Sin'],
  [core.cos, 'Cos'],
  [core.sign, 'Sign'],
  [core.floor, 'Floor'],
  [core.ceil, 'Ceil'],
  [core.round, 'Round'],
  [core.not, 'Not'],
  [core.identity, 'Identity'],
  [core.detach, 'Identity'],
]

export const write: [Op, Write][] = [
  ...binaryNames.map(([op, type]): [Op, Write] => [op, plain(type)]),
  [core.leakyRelu, plain('LeakyRelu', (a) => [float('alpha', a.alpha)])],
  [core.thresholdedRelu, plain('ThresholdedRelu', (a) => [float('alpha', a.alpha)])],
  [core.elu, plain('Elu', (a) => [float('alpha', a.alpha)])],
  [core.selu, plain('Selu', (a) => [float('alpha', a.alpha), float('gamma', a.gamma)])],
  [core.celu, plain('Celu', (a) => [float('alpha', a.alpha)])],
  [core.hardSigmoid, plain('HardSigmoid', (a) => [float('alpha', a.alpha), float('beta', a.beta)])],
  [
    core.gelu,
    (w: NodeWriter, node, ins, outs) => {
      w.atLeast(20)
      w.node('Gelu', ins, outs, [string('approximate', node.attrs.approximate ? 'tanh' : 'none')])
    },
  ],
  [core.silu, siluWrite],
  [core.mod, modWrite],
  [core.fmod, plain('Mod', () => [int('fmod', 1)])],
  [core.clip, clipWrite],
  [core.cast, plain('Cast', (a: { to: DType }) => [int('to', codeOf(a.to))])],
  [core.fakeQuant, fakeQuantWrite],
  [core.insideGrid, insideGridWrite],
]
