import type { Builder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import type { Node, TensorType, Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { type DType, isFloat, numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { roundHalfEven } from '../math/fixedPoint.ts'
import { reduceTo } from './broadcasting.ts'
import { lookUp, lowerAdd, lowerMul } from './integer.ts'
import { accumulator, broadcast, broadcastStrides, filled, shapeOf, typed, walk } from './shapes.ts'

// ── unary ────────────────────────────────────────────────────────────────────────────────────────────────────────

type UnaryGrad<A> = (b: Builder, x: Value, y: Value, dy: Value, attrs: A) => Value | null

interface Unary<A> {
  name: string
  spec: string
  f: (x: number, attrs: A) => number
  grad: UnaryGrad<A> | null
  lipschitz?: number
  positivelyHomogeneous?: boolean
  clamp?: (attrs: A) => readonly [number, number]
  result?: DType
}

/** y = f(x), element by element: any shape. Its integer form is a table over the input's grid. */
function unary<A = Record<string, never>>(u: Unary<A>): Op<A> {
  const evaluate = (t: Tensor, attrs: A): Tensor => {
    const x = numbersOf(t)
    const dtype = u.result ?? t.dtype
    const y = accumulator(dtype, x.length)
    for (let i = 0; i < x.length; i++) y[i] = u.f(x[i]!, attrs)
    return tensorOf(dtype, t.shape, y)
  }
  return {
    name: u.name,
    spec: u.spec,
    levels: ['float', 'qdq', 'integer'],
    infer: ([x]) => [typed(u.result ?? x!.dtype, shapeOf(x!))],
    eval: ([x], attrs) => [evaluate(x!, attrs)],
    grad: u.grad ? (b, node, [dy]) => [dy ? u.grad!(b, node.inputs[0]!, node.outputs[0]!, dy, node.attrs) : null] : null,
    weights: null,
    quant: u.result ? 'none' : 'own',
    lipschitz: u.lipschitz ?? null,
    positivelyHomogeneous: u.positivelyHomogeneous ?? false,
    clamp: u.clamp ? (_, attrs) => u.clamp!(attrs) : null,
    lower: u.result ? null : (b, node, [x], out) => lookUp(b, x!, out, u.name, (v) => u.f(v, node.attrs)),
  }
}

const mulBy = (b: Builder, dy: Value, factor: Value): Value => b.emit(mul, [dy, factor], {})
const scaled = (b: Builder, x: Value, k: number): Value => (k === 1 ? x : b.emit(mul, [x, b.scalar(k)], {}))
const shifted = (b: Builder, x: Value, k: number): Value => b.emit(add, [x, b.scalar(k)], {})
/** 1 where the comparison holds, 0 elsewhere, in the type of x. */
const mask = (b: Builder, comparison: Op<Record<string, never>>, x: Value, y: Value): Value =>
  b.emit(cast, [b.emit(comparison, [x, y], {})], { to: x.dtype })

const erfOf = (x: number): number => {
  // Series below 2.5, continued fraction above: both to double precision (Abramowitz & Stegun 7.1.6, 7.1.14).
  const a = Math.abs(x)
  if (a < 2.5) {
    let term = a
    let sum = a
    for (let n = 1; n < 200 && Math.abs(term) > 1e-17 * sum; n++) {
      term *= (2 * a * a) / (2 * n + 1)
      sum += term
    }
    return Math.sign(x) * ((2 / Math.sqrt(Math.PI)) * Math.exp(-a * a) * sum)
  }
  let f = 0
  for (let k = 60; k >= 1; k--) f = k / 2 / (a + f)
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f))
}
const sigmoidOf = (x: number): number => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)))
const softplusOf = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))

/** y = max(x, 0) */
export const relu = unary({
  name: 'relu',
  spec: 'ONNX Relu-14',
  f: (x) => Math.max(x, 0),
  grad: (b, x, _, dy) => mulBy(b, dy, mask(b, greater, x, b.scalar(0))),
  lipschitz: 1,
  positivelyHomogeneous: true,
  clamp: () => [0, Number.POSITIVE_INFINITY],
})

/** y = min(max(x, min), max) */
export const clip = unary<{ min: number; max: number }>({
  name: 'clip',
  spec: 'ONNX Clip-13, constant bounds',
  f: (x, { min, max }) => Math.min(Math.max(x, min), max),
  grad: (b, x, y, dy) => mulBy(b, dy, mask(b, equal, x, y)),
  lipschitz: 1,
  clamp: ({ min, max }) => [min, max],
})

/** y = x for x ≥ 0, α·x below */
export const leakyRelu = unary<{ alpha: number }>({
  name: 'leakyRelu',
  spec: 'ONNX LeakyRelu-16',
  f: (x, { alpha }) => (x >= 0 ? x : alpha * x),
  grad: (b, x, _, dy, { alpha }) => mulBy(b, dy, shifted(b, scaled(b, mask(b, greater, x, b.scalar(0)), 1 - alpha), alpha)),
  positivelyHomogeneous: true,
})

/** y = x for x > α, 0 below */
export const thresholdedRelu = unary<{ alpha: number }>({
  name: 'thresholdedRelu',
  spec: 'ONNX ThresholdedRelu-22',
  f: (x, { alpha }) => (x > alpha ? x : 0),
  grad: (b, x, _, dy, { alpha }) => mulBy(b, dy, mask(b, greater, x, b.scalar(alpha))),
})

/** y = x for x > 0, α·(eˣ − 1) below */
export const elu = unary<{ alpha: number }>({
  name: 'elu',
  spec: 'ONNX Elu-22',
  f: (x, { alpha }) => (x > 0 ? x : alpha * Math.expm1(x)),
  grad: (b, x, y, dy, { alpha }) => {
    const positive = mask(b, greater, x, b.scalar(0))
    const below = b.emit(mul, [shifted(b, y, alpha), b.emit(sub, [b.scalar(1), positive], {})], {})
    return mulBy(b, dy, b.emit(add, [positive, below], {}))
  },
})

/** y = γ·x for x > 0, γ·α·(eˣ − 1) below */
export const selu = unary<{ alpha: number; gamma: number }>({
  name: 'selu',
  spec: 'ONNX Selu-22',
  f: (x, { alpha, gamma }) => gamma * (x > 0 ? x : alpha * Math.expm1(x)),
  grad: (b, x, y, dy, { alpha, gamma }) => {
    const positive = mask(b, greater, x, b.scalar(0))
    const below = b.emit(mul, [shifted(b, y, alpha * gamma), b.emit(sub, [b.scalar(1), positive], {})], {})
    return mulBy(b, dy, b.emit(add, [scaled(b, positive, gamma), below], {}))
  },
})

/** y = max(0, x) + min(0, α·(e^{x/α} − 1)) */
export const celu = unary<{ alpha: number }>({
  name: 'celu',
  spec: 'ONNX Celu-12',
  f: (x, { alpha }) => Math.max(0, x) + Math.min(0, alpha * Math.expm1(x / alpha)),
  grad: (b, x, y, dy, { alpha }) => {
    const positive = mask(b, greater, x, b.scalar(0))
    const below = b.emit(mul, [shifted(b, scaled(b, y, 1 / alpha), 1), b.emit(sub, [b.scalar(1), positive], {})], {})
    return mulBy(b, dy, b.emit(add, [positive, below], {}))
  },
})

/** y = 1/(1 + e⁻ˣ) */
export const sigmoid = unary({
  name: 'sigmoid',
  spec: 'ONNX Sigmoid-13',
  f: sigmoidOf,
  grad: (b, _, y, dy) => mulBy(b, dy, b.emit(mul, [y, b.emit(sub, [b.scalar(1), y], {})], {})),
  lipschitz: 0.25,
})

/** y = tanh x */
export const tanh = unary({
  name: 'tanh',
  spec: 'ONNX Tanh-13',
  f: Math.tanh,
  grad: (b, _, y, dy) => mulBy(b, dy, b.emit(sub, [b.scalar(1), b.emit(mul, [y, y], {})], {})),
  lipschitz: 1,
})

/** y = max(0, min(1, α·x + β)) */
export const hardSigmoid = unary<{ alpha: number; beta: number }>({
  name: 'hardSigmoid',
  spec: 'ONNX HardSigmoid-22',
  f: (x, { alpha, beta }) => Math.max(0, Math.min(1, alpha * x + beta)),
  grad: (b, _, y, dy, { alpha }) =>
    scaled(b, mulBy(b, dy, b.emit(mul, [mask(b, greater, y, b.scalar(0)), mask(b, less, y, b.scalar(1))], {})), alpha),
})

/** y = x·max(0, min(1, x/6 + ½)) */
export const hardSwish = unary({
  name: 'hardSwish',
  spec: 'ONNX HardSwish-22',
  f: (x) => x * Math.max(0, Math.min(1, x / 6 + 0.5)),
  grad: (b, x, _, dy) => {
    const above = mask(b, greater, x, b.scalar(3))
    const inside = b.emit(mul, [mask(b, greater, x, b.scalar(-3)), b.emit(sub, [b.scalar(1), above], {})], {})
    return mulBy(b, dy, b.emit(add, [above, b.emit(mul, [inside, shifted(b, scaled(b, x, 1 / 3), 0.5)], {})], {}))
  },
})

/** y = x·Φ(x): exact, or by tanh */
export const gelu = unary<{ approximate: boolean }>({
  name: 'gelu',
  spec: 'ONNX Gelu-20',
  f: (x, { approximate }) =>
    approximate ? 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))) : 0.5 * x * (1 + erfOf(x / Math.SQRT2)),
  grad: (b, x, _, dy, { approximate }) => {
    if (approximate) {
      const k = Math.sqrt(2 / Math.PI)
      const x2 = b.emit(mul, [x, x], {})
      const t = b.emit(tanh, [scaled(b, b.emit(mul, [x, shifted(b, scaled(b, x2, 0.044715), 1)], {}), k)], {})
      const sech2 = b.emit(sub, [b.scalar(1), b.emit(mul, [t, t], {})], {})
      const inner = scaled(b, shifted(b, scaled(b, x2, 3 * 0.044715), 1), k)
      const second = b.emit(mul, [b.emit(mul, [x, sech2], {}), inner], {})
      return mulBy(b, dy, scaled(b, b.emit(add, [shifted(b, t, 1), second], {}), 0.5))
    }
    const cdf = scaled(b, shifted(b, b.emit(erf, [scaled(b, x, Math.SQRT1_2)], {}), 1), 0.5)
    const pdf = scaled(b, b.emit(exp, [scaled(b, b.emit(mul, [x, x], {}), -0.5)], {}), 1 / Math.sqrt(2 * Math.PI))
    return mulBy(b, dy, b.emit(add, [cdf, b.emit(mul, [x, pdf], {})], {}))
  },
})

/** y = x·σ(α·x) */
export const silu = unary<{ alpha: number }>({
  name: 'silu',
  spec: 'ONNX Swish-24',
  f: (x, { alpha }) => x * sigmoidOf(alpha * x),
  grad: (b, x, y, dy, { alpha }) => {
    const s = b.emit(sigmoid, [scaled(b, x, alpha)], {})
    const rest = b.emit(mul, [scaled(b, y, alpha), b.emit(sub, [b.scalar(1), s], {})], {})
    return mulBy(b, dy, b.emit(add, [s, rest], {}))
  },
})

/** y = x·tanh(ln(1 + eˣ)) */
export const mish = unary({
  name: 'mish',
  spec: 'ONNX Mish-22',
  f: (x) => x * Math.tanh(softplusOf(x)),
  grad: (b, x, _, dy) => {
    const t = b.emit(tanh, [b.emit(softplus, [x], {})], {})
    const slope = b.emit(mul, [b.emit(sub, [b.scalar(1), b.emit(mul, [t, t], {})], {}), b.emit(sigmoid, [x], {})], {})
    return mulBy(b, dy, b.emit(add, [t, b.emit(mul, [x, slope], {})], {}))
  },
})

/** y = ln(1 + eˣ) */
export const softplus = unary({
  name: 'softplus',
  spec: 'ONNX Softplus-22',
  f: softplusOf,
  grad: (b, x, _, dy) => mulBy(b, dy, b.emit(sigmoid, [x], {})),
  lipschitz: 1,
})

/** y = x/(1 + |x|) */
export const softsign = unary({
  name: 'softsign',
  spec: 'ONNX Softsign-22',
  f: (x) => x / (1 + Math.abs(x)),
  grad: (b, x, _, dy) => {
    const r = b.emit(reciprocal, [shifted(b, b.emit(abs, [x], {}), 1)], {})
    return mulBy(b, dy, b.emit(mul, [r, r], {}))
  },
  lipschitz: 1,
})

/** y = eˣ */
export const exp = unary({ name: 'exp', spec: 'ONNX Exp-13', f: Math.exp, grad: (b, _, y, dy) => mulBy(b, dy, y) })
/** y = ln x */
export const log = unary({ name: 'log', spec: 'ONNX Log-13', f: Math.log, grad: (b, x, _, dy) => b.emit(div, [dy, x], {}) })
/** y = √x */
export const sqrt = unary({
  name: 'sqrt',
  spec: 'ONNX Sqrt-13',
  f: Math.sqrt,
  grad: (b, _, y, dy) => scaled(b, b.emit(div, [dy, y], {}), 0.5),
})
/** y = 1/x */
export const reciprocal = unary({
  name: 'reciprocal',
  spec: 'ONNX Reciprocal-13',
  f: (x) => 1 / x,
  grad: (b, _, y, dy) => scaled(b, mulBy(b, dy, b.emit(mul, [y, y], {})), -1),
})
/** y = |x| */
export const abs = unary({
  name: 'abs',
  spec: 'ONNX Abs-13',
  f: Math.abs,
  grad: (b, x, _, dy) => mulBy(b, dy, b.emit(sign, [x], {})),
  lipschitz: 1,
  positivelyHomogeneous: true,
})
/** y = −x */
export const neg = unary({
  name: 'neg',
  spec: 'ONNX Neg-13',
  f: (x) => -x,
  grad: (b, _x, _y, dy) => scaled(b, dy, -1),
  lipschitz: 1,
  positivelyHomogeneous: true,
})
/** y = erf x */
export const erf = unary({
  name: 'erf',
  spec: 'ONNX Erf-13',
  f: erfOf,
  grad: (b, x, _, dy) => mulBy(b, dy, scaled(b, b.emit(exp, [scaled(b, b.emit(mul, [x, x], {}), -1)], {}), 2 / Math.sqrt(Math.PI))),
})
/** y = sin x */
export const sin: Op<Record<string, never>> = unary({
  name: 'sin',
  spec: 'ONNX Sin-22',
  f: Math.sin,
  grad: (b, x, _, dy) => mulBy(b, dy, b.emit(cos, [x], {})),
  lipschitz: 1,
})
/** y = cos x */
export const cos: Op<Record<string, never>> = unary({
  name: 'cos',
  spec: 'ONNX Cos-22',
  f: Math.cos,
  grad: (b, x, _, dy) => scaled(b, mulBy(b, dy, b.emit(sin, [x], {})), -1),
  lipschitz: 1,
})
/** y = sign x. Its derivative is 0 almost everywhere. */
export const sign = unary({ name: 'sign', spec: 'ONNX Sign-13', f: Math.sign, grad: null })
/** y = ⌊x⌋ */
export const floor = unary({ name: 'floor', spec: 'ONNX Floor-13', f: Math.floor, grad: null })
/** y = ⌈x⌉ */
export const ceil = unary({ name: 'ceil', spec: 'ONNX Ceil-13', f: Math.ceil, grad: null })
/** y = x rounded half to even. Its gradient is passed straight through (Bengio et al. 2013, arXiv 1308.3432). */
export const round = unary({
  name: 'round',
  spec: 'ONNX Round-22',
  f: (x) => (Math.abs(x) < 2 ** 51 ? roundHalfEven(x) : x),
  grad: (_b, _x, _y, dy) => dy,
})
/** y = ¬x */
export const not = unary({ name: 'not', spec: 'ONNX Not-1', f: (x) => (x ? 0 : 1), grad: null, result: 'bool' })

/** y = x in another type. Float → integer truncates towards zero. */
export const cast: Op<{ to: DType }> = {
  name: 'cast',
  spec: 'ONNX Cast-13',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x], { to }) => [typed(to, shapeOf(x!))],
  eval: ([x], { to }) => {
    const from = numbersOf(x!)
    if (to === x!.dtype) return [x!]
    if (to === 'bool')
      return [
        tensorOf(
          'bool',
          x!.shape,
          Uint8Array.from(from as Float32Array, (v) => (v !== 0 ? 1 : 0)),
        ),
      ]
    return [tensorOf(to, x!.shape, isFloat(to) ? from : Float64Array.from(from as Float32Array, Math.trunc))]
  },
  grad: (b, node, [dy]) => {
    const x = node.inputs[0]!
    return [dy && isFloat(x.dtype) && isFloat(node.attrs.to) ? b.emit(cast, [dy], { to: x.dtype }) : null]
  },
  weights: null,
  quant: 'none',
  lipschitz: 1,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
}

// ── binary and n-ary ─────────────────────────────────────────────────────────────────────────────────────────────

interface Binary {
  name: string
  spec: string
  f: (x: number, y: number, dtype: DType) => number
  grad: ((b: Builder, node: Node, dy: Value, wanted: readonly boolean[]) => (Value | null)[]) | null
  result?: DType
  positivelyHomogeneous?: boolean
  lower?: Op<Record<string, never>>['lower']
}

/** z = f(x, y) with NumPy broadcasting. */
function binary(d: Binary): Op<Record<string, never>> {
  return {
    name: d.name,
    spec: d.spec,
    levels: ['float', 'qdq', 'integer'],
    infer: ([x, y]) => {
      const shape = broadcast(shapeOf(x, 'first operand'), shapeOf(y, 'second operand'))
      if (x!.dtype !== y!.dtype) throw errors.shapeMismatch(`${d.name} of ${x!.dtype} and ${y!.dtype}`)
      return [typed(d.result ?? x!.dtype, shape)]
    },
    eval: ([x, y]) => [evaluateBinary(x!, y!, d.result ?? x!.dtype, d.f)],
    grad: d.grad ? (b, node, [dy], wanted) => (dy ? d.grad!(b, node, dy, wanted) : [null, null]) : null,
    weights: null,
    quant: d.result ? 'none' : 'own',
    lipschitz: null,
    positivelyHomogeneous: d.positivelyHomogeneous ?? false,
    clamp: null,
    lower: d.lower ?? null,
  }
}

function evaluateBinary(x: Tensor, y: Tensor, dtype: DType, f: (x: number, y: number, dtype: DType) => number): Tensor {
  const shape = broadcast(x.shape, y.shape) as number[]
  const p = numbersOf(x)
  const q = numbersOf(y)
  const out = accumulator(dtype, sizeOf(shape))
  if (p.length === q.length && p.length === out.length) for (let i = 0; i < out.length; i++) out[i] = f(p[i]!, q[i]!, x.dtype)
  else
    walk(shape, [broadcastStrides(x.shape, shape), broadcastStrides(y.shape, shape)], (i, [a, c]) => {
      out[i] = f(p[a!]!, q[c!]!, x.dtype)
    })
  return tensorOf(dtype, shape, out)
}

const both = (b: Builder, node: Node, wanted: readonly boolean[], left: () => Value, right: () => Value): (Value | null)[] => [
  wanted[0] ? reduceTo(b, left(), node.inputs[0]!) : null,
  wanted[1] ? reduceTo(b, right(), node.inputs[1]!) : null,
]

/** z = x + y */
export const add: Op<Record<string, never>> = binary({
  name: 'add',
  spec: 'ONNX Add-14',
  f: (x, y) => x + y,
  positivelyHomogeneous: true,
  grad: (b, node, dy, wanted) =>
    both(
      b,
      node,
      wanted,
      () => dy,
      () => dy,
    ),
  lower: (b, _, [x, y], out) => lowerAdd(b, x!, y!, out, 1),
})
/** z = x − y */
export const sub: Op<Record<string, never>> = binary({
  name: 'sub',
  spec: 'ONNX Sub-14',
  f: (x, y) => x - y,
  positivelyHomogeneous: true,
  grad: (b, node, dy, wanted) =>
    both(
      b,
      node,
      wanted,
      () => dy,
      () => scaled(b, dy, -1),
    ),
  lower: (b, _, [x, y], out) => lowerAdd(b, x!, y!, out, -1),
})
/** z = x · y */
export const mul: Op<Record<string, never>> = binary({
  name: 'mul',
  spec: 'ONNX Mul-14',
  f: (x, y) => x * y,
  grad: (b, node, dy, wanted) =>
    both(
      b,
      node,
      wanted,
      () => mulBy(b, dy, node.inputs[1]!),
      () => mulBy(b, dy, node.inputs[0]!),
    ),
  lower: (b, _, [x, y], out) => lowerMul(b, x!, y!, out),
})
/** z = x / y; integers truncate */
export const div = binary({
  name: 'div',
  spec: 'ONNX Div-14',
  f: (x, y, dtype) => (isFloat(dtype) ? x / y : Math.trunc(x / y)),
  grad: (b, node, dy, wanted) => {
    const [, y] = node.inputs as [Value, Value]
    const q = b.emit(div, [dy, y], {})
    return both(
      b,
      node,
      wanted,
      () => q,
      () => scaled(b, b.emit(mul, [q, node.outputs[0]!], {}), -1),
    )
  },
})
/** z = x^y; the gradient in y needs x > 0 */
export const pow = binary({
  name: 'pow',
  spec: 'ONNX Pow-15',
  f: (x, y) => x ** y,
  grad: (b, node, dy, wanted) => {
    const [x, y] = node.inputs as [Value, Value]
    return both(
      b,
      node,
      wanted,
      () => mulBy(b, dy, b.emit(mul, [y, b.emit(pow, [x, shifted(b, y, -1)], {})], {})),
      () => mulBy(b, dy, b.emit(mul, [node.outputs[0]!, b.emit(log, [x], {})], {})),
    )
  },
})
/** Of a remainder z = x − y·q, q whole and constant between jumps: ∂z/∂y = −q, which is (z − x)/y. */
const remainderGrad: Binary['grad'] = (b, node, dy, wanted) => {
  const [x, y] = node.inputs as [Value, Value]
  return both(
    b,
    node,
    wanted,
    () => dy,
    () => mulBy(b, dy, b.emit(div, [b.emit(sub, [node.outputs[0]!, x], {}), y], {})),
  )
}
/** z = x − y·⌊x/y⌋: the remainder with the sign of y */
export const mod = binary({
  name: 'mod',
  spec: 'ONNX Mod-13, fmod = 0; TFLite FLOOR_MOD',
  f: (x, y) => {
    const z = x % y
    return z !== 0 && z < 0 !== y < 0 ? z + y : z
  },
  grad: remainderGrad,
})
/** z = x − y·trunc(x/y): the remainder with the sign of x */
export const fmod = binary({
  name: 'fmod',
  spec: 'ONNX Mod-13, fmod = 1; C11 §7.12.10.1',
  f: (x, y) => x % y,
  grad: remainderGrad,
})
/** z = min(x, y); a tie belongs to x */
export const minimum = binary({
  name: 'minimum',
  spec: 'ONNX Min-13, two operands',
  f: (x, y) => (Number.isNaN(x) || Number.isNaN(y) ? Number.NaN : Math.min(x, y)),
  positivelyHomogeneous: true,
  grad: (b, node, dy, wanted) => {
    const [x, y] = node.inputs as [Value, Value]
    return both(
      b,
      node,
      wanted,
      () => mulBy(b, dy, mask(b, lessOrEqual, x, y)),
      () => mulBy(b, dy, mask(b, less, y, x)),
    )
  },
})
/** z = max(x, y); a tie belongs to x */
export const maximum = binary({
  name: 'maximum',
  spec: 'ONNX Max-13, two operands',
  f: (x, y) => (Number.isNaN(x) || Number.isNaN(y) ? Number.NaN : Math.max(x, y)),
  positivelyHomogeneous: true,
  grad: (b, node, dy, wanted) => {
    const [x, y] = node.inputs as [Value, Value]
    return both(
      b,
      node,
      wanted,
      () => mulBy(b, dy, mask(b, greaterOrEqual, x, y)),
      () => mulBy(b, dy, mask(b, greater, y, x)),
    )
  },
})

const comparison = (name: string, spec: string, f: (x: number, y: number) => boolean): Op<Record<string, never>> =>
  binary({ name, spec, f: (x, y) => (f(x, y) ? 1 : 0), grad: null, result: 'bool' })

export const greater = comparison('greater', 'ONNX Greater-13', (x, y) => x > y)
export const less = comparison('less', 'ONNX Less-13', (x, y) => x < y)
export const greaterOrEqual = comparison('greaterOrEqual', 'ONNX GreaterOrEqual-16', (x, y) => x >= y)
export const lessOrEqual = comparison('lessOrEqual', 'ONNX LessOrEqual-16', (x, y) => x <= y)
export const equal = comparison('equal', 'ONNX Equal-19', (x, y) => x === y)
export const and = comparison('and', 'ONNX And-7', (x, y) => x !== 0 && y !== 0)
export const or = comparison('or', 'ONNX Or-7', (x, y) => x !== 0 || y !== 0)
export const xor = comparison('xor', 'ONNX Xor-7', (x, y) => (x !== 0) !== (y !== 0))

/** z = condition ? x : y, with broadcasting */
export const where: Op<Record<string, never>> = {
  name: 'where',
  spec: 'ONNX Where-16',
  levels: ['float', 'qdq', 'integer'],
  infer: ([c, x, y]) => [typed(x!.dtype, broadcast(broadcast(shapeOf(c), shapeOf(x)), shapeOf(y)))],
  eval: ([c, x, y]) => {
    const shape = broadcast(broadcast(c!.shape, x!.shape), y!.shape) as number[]
    const [m, p, q] = [numbersOf(c!), numbersOf(x!), numbersOf(y!)]
    const out = accumulator(x!.dtype, sizeOf(shape))
    walk(
      shape,
      [c!, x!, y!].map((t) => broadcastStrides(t.shape, shape)),
      (i, [a, d, e]) => {
        out[i] = m[a!]! ? p[d!]! : q[e!]!
      },
    )
    return [tensorOf(x!.dtype, shape, out)]
  },
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null, null]
    const [c, x, y] = node.inputs as [Value, Value, Value]
    const zero = b.scalar(0)
    return [
      null,
      wanted[1] ? reduceTo(b, b.emit(where, [c, dy, zero], {}), x) : null,
      wanted[2] ? reduceTo(b, b.emit(where, [c, zero, dy], {}), y) : null,
    ]
  },
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: true,
  clamp: null,
  lower: null,
}

/** y = x for x ≥ 0, slope·x below; slope broadcasts to x */
export const prelu: Op<Record<string, never>> = {
  name: 'prelu',
  spec: 'ONNX PRelu-16',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x, slope]) => [typed(x!.dtype, broadcast(shapeOf(x), shapeOf(slope)))],
  eval: ([x, slope]) => [evaluateBinary(x!, slope!, x!.dtype, (v, s) => (v >= 0 ? v : s * v))],
  grad: (b, node, [dy], wanted) => {
    if (!dy) return [null, null]
    const [x, slope] = node.inputs as [Value, Value]
    const negative = mask(b, less, x, b.scalar(0))
    return both(
      b,
      node,
      wanted,
      () => mulBy(b, dy, b.emit(add, [b.emit(mul, [negative, slope], {}), b.emit(sub, [b.scalar(1), negative], {})], {})),
      () => mulBy(b, dy, b.emit(mul, [negative, x], {})),
    )
  },
  weights: null,
  quant: 'own',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
}

export const zerosLike = (b: Builder, x: TensorType & Value): Value =>
  x.shape !== null && x.shape.every((d) => typeof d === 'number')
    ? b.constant(filled(x.dtype, x.shape as readonly number[], 0), 'zeros')
    : b.emit(mul, [x, b.scalar(0)], {})

export { mask, scaled, shifted }
