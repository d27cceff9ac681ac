import * as core from '@dqc/core'
import { errors, isConstant, type Node, type Op, shapeOf, tensorOf, type Value } from '@dqc/core'
import type { Tables } from '../format/schema.gen.ts'
import { codeOf } from '../format/tensors.ts'
import { activationFor } from './activation.ts'
import { type Laid, type OperatorReader, type OperatorWriter, PERM_TO_FILE, type Read, type Write } from './spelling.ts'

// ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

const here = (r: OperatorReader, v: Value): Laid => ({ value: v, layout: r.layout })

const unary =
  <A>(op: Op<A>, attrs: (r: OperatorReader) => NoInfer<A>): Read =>
  (r) =>
    here(r, r.finish(r.emit(op, [r.operand(0)], attrs(r))))

const none = (): Record<string, never> => ({})

const binary =
  (op: Op<Record<string, never>>): Read =>
  (r) => {
    const rank = Math.max(r.rank(0), r.rank(1))
    return here(r, r.finish(r.emit(op, [r.operand(0, rank), r.operand(1, rank)], {}), r.options.fusedActivationFunction))
  }

const slope: Read = (r) => here(r, r.finish(r.emit(core.leakyRelu, [r.operand(0)], { alpha: r.options.alpha ?? 0 })))

export const read: Record<string, Read> = {
  RELU: unary(core.relu, none),
  RELU6: unary(core.clip, () => ({ min: 0, max: 6 })),
  RELU_N1_TO_1: unary(core.clip, () => ({ min: -1, max: 1 })),
  RELU_0_TO_1: unary(core.clip, () => ({ min: 0, max: 1 })),
  LEAKY_RELU: slope,
  ELU: unary(core.elu, () => ({ alpha: 1 })),
  LOGISTIC: unary(core.sigmoid, none),
  TANH: unary(core.tanh, none),
  HARD_SWISH: unary(core.hardSwish, none),
  GELU: unary(core.gelu, (r) => ({ approximate: r.options.approximate ?? false })),
  EXP: unary(core.exp, none),
  LOG: unary(core.log, none),
  SQRT: unary(core.sqrt, none),
  ABS: unary(core.abs, none),
  NEG: unary(core.neg, none),
  SIN: unary(core.sin, none),
  COS: unary(core.cos, none),
  SIGN: unary(core.sign, none),
  FLOOR: unary(core.floor, none),
  CEIL: unary(core.ceil, none),
  ROUND: unary(core.round, none),
  LOGICAL_NOT: unary(core.not, none),
  RSQRT: (r) => here(r, r.finish(r.b.emit(core.reciprocal, [r.emit(core.sqrt, [r.operand(0)], {})], {}))),
  SQUARE: (r) => {
    const x = r.operand(0)
    return here(r, r.finish(r.emit(core.mul, [x, x], {})))
  },
  SQUARED_DIFFERENCE: (r) => {
    const rank = Math.max(r.rank(0), r.rank(1))
    const d = r.emit(core.sub, [r.operand(0, rank), r.operand(1, rank)], {})
    return here(r, r.finish(r.b.emit(core.mul, [d, d], {})))
  },
  ADD: binary(core.add),
  SUB: binary(core.sub),
  MUL: binary(core.mul),
  DIV: binary(core.div),
  POW: binary(core.pow),
  FLOOR_MOD: binary(core.mod),
  MAXIMUM: binary(core.maximum),
  MINIMUM: binary(core.minimum),
  GREATER: binary(core.greater),
  GREATER_EQUAL: binary(core.greaterOrEqual),
  LESS: binary(core.less),
  LESS_EQUAL: binary(core.lessOrEqual),
  EQUAL: binary(core.equal),
  LOGICAL_AND: binary(core.and),
  LOGICAL_OR: binary(core.or),
  ADD_N: (r) => {
    let sum = r.operand(0)
    for (let i = 1; i < r.inputCount; i++) sum = r.b.emit(core.add, [sum, r.operand(i)], {})
    return here(r, r.finish(sum))
  },
  SELECT_V2: (r) => {
    const rank = Math.max(r.rank(0), r.rank(1), r.rank(2))
    return here(r, r.finish(r.emit(core.where, [r.operand(0, rank), r.operand(1, rank), r.operand(2, rank)], {})))
  },
  PRELU: (r) => here(r, r.finish(r.emit(core.prelu, [r.operand(0), r.operand(1, r.rank(0))], {}))),
  // The grid of the result is all there is to it: core holds real numbers on both sides.
  QUANTIZE: (r) => here(r, r.finish(r.operand(0))),
  DEQUANTIZE: (r) => here(r, r.operand(0)),
  // Kernels go by the tensor's type; the options say it too, or nothing.
  CAST: (r) => here(r, r.emit(core.cast, [r.operand(0)], { to: r.outType() })),
}

// ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** A value as an operand that broadcasts against others of `rank`, whose layout is given. */
function operand(w: OperatorWriter, v: Value, rank: number, layout: 'file' | 'core'): number {
  const own = shapeOf(v).length
  if (own === rank || layout === 'core' || rank !== 4) return w.tensor(v, layout)
  // Lower ranks broadcast to the right: in the file's order their axes are other ones.
  const shape = [...Array<number>(4 - own).fill(1), ...shapeOf(v)]
  if (isConstant(v)) {
    const t = core.transpose.eval([{ ...v.data, shape: shape as number[] }], { perm: [...PERM_TO_FILE] })[0]!
    return v.quant ? w.weights(t, v.quant, null, v.name, false) : w.constant(t, v.name)
  }
  const from = w.tensor(v, 'core')
  const turned = PERM_TO_FILE.map((k) => shape[k]!)
  if (shape.filter((d) => d !== 1).length > 1) {
    const wide = w.temp(shape, v.quant)
    w.add('RESHAPE', {
      inputs: [from, w.ints(core.reshapeTarget(shapeOf(v), shape).map((d) => d || -1))],
      outputs: [wide],
      options: ['ReshapeOptions', {}],
    })
    const out = w.temp(turned, v.quant)
    w.add('TRANSPOSE', { inputs: [wide, w.ints(PERM_TO_FILE)], outputs: [out], options: ['TransposeOptions', {}] })
    return out
  }
  const out = w.temp(turned, v.quant)
  w.add('RESHAPE', {
    inputs: [from, w.ints(turned.map((d) => (typeof d === 'number' ? d : -1)))],
    outputs: [out],
    options: ['ReshapeOptions', {}],
  })
  return out
}

const binaryWrite =
  (type: string, options: keyof Tables, fused: boolean, version = 2): Write =>
  (w, node) => {
    const rank = shapeOf(node.outputs[0]).length
    const layout = w.layoutOf(node.inputs)
    const inputs = node.inputs.map((v) => operand(w, v!, rank, layout))
    w.output(node, layout, fused, (out, fusedActivationFunction) =>
      w.add(type, {
        inputs,
        outputs: [out],
        options: [options, fused ? { fusedActivationFunction, ...(type === 'ADD' || type === 'SUB' ? { potScaleInt16: true } : {}) } : {}],
        version: node.outputs[0]!.quant ? version : 1,
      }),
    )
  }

const unaryWrite =
  (type: string, options?: (attrs: any) => readonly [keyof Tables, object], version = 1): Write =>
  (w, node) => {
    const x = node.inputs[0]!
    const layout = w.layoutOf([x])
    const from = w.tensor(x, layout)
    w.output(node, layout, false, (out) =>
      w.add(type, {
        inputs: [from],
        outputs: [out],
        ...(options ? { options: options(node.attrs) } : {}),
        version: x.quant ? Math.max(2, version) : version,
      }),
    )
  }

/** A chain of operators with a constant each: x → x ∘ c₁ ∘ c₂ … */
function chain(
  w: OperatorWriter,
  node: Node,
  x: Value,
  steps: readonly (readonly [type: string, options: keyof Tables, c: number])[],
): void {
  const layout = w.layoutOf([x])
  let from = w.tensor(x, layout)
  const s = shapeOf(x)
  const shape = s.length === 4 && layout === 'file' ? PERM_TO_FILE.map((k) => s[k]!) : s
  const scalar = (c: number): number => w.constant(tensorOf('float32', [], [c]), 'constant')
  steps.slice(0, -1).forEach(([type, options, c]) => {
    const to = w.temp(shape, null)
    w.add(type, { inputs: [from, scalar(c)], outputs: [to], options: [options, {}] })
    from = to
  })
  const [type, options, c] = steps.at(-1)!
  w.output(node, layout, type !== 'MINIMUM' && type !== 'MAXIMUM', (out, fusedActivationFunction) =>
    w.add(type, {
      inputs: [from, scalar(c)],
      outputs: [out],
      options: [options, fusedActivationFunction ? { fusedActivationFunction } : {}],
    }),
  )
}

const clipWrite: Write = (w, node) => {
  const { min, max } = node.attrs as { min: number; max: number }
  const code = activationFor([min, max])
  const named = code === null ? null : (['RELU', 'RELU_N1_TO_1', 'RELU6'] as const)[code - 1]!
  if (named) unaryWrite(named)(w, node)
  else
    chain(w, node, node.inputs[0]!, [
      ...(max === Number.POSITIVE_INFINITY ? [] : [['MINIMUM', 'MaximumMinimumOptions', max] as const]),
      ...(min === Number.NEGATIVE_INFINITY ? [] : [['MAXIMUM', 'MaximumMinimumOptions', min] as const]),
    ])
}

/** x·σ(α·x) */
const siluWrite: Write = (w, node) => {
  const x = node.inputs[0]!
  const layout = w.layoutOf([x])
  const from = w.tensor(x, layout)
  const s = shapeOf(x)
  const shape = s.length === 4 && layout === 'file' ? PERM_TO_FILE.map((k) => s[k]!) : s
  let inner = from
  if (node.attrs.alpha !== 1) {
    inner = w.temp(shape, null)
    w.add('MUL', {
      inputs: [from, w.constant(tensorOf('float32', [], [node.attrs.alpha]), 'alpha')],
      outputs: [inner],
      options: ['MulOptions', {}],
    })
  }
  const gate = w.temp(shape, null)
  w.add('LOGISTIC', { inputs: [inner], outputs: [gate] })
  w.output(node, layout, true, (out, fusedActivationFunction) =>
    w.add('MUL', { inputs: [from, gate], outputs: [out], options: ['MulOptions', { fusedActivationFunction }] }),
  )
}

const preluWrite: Write = (w, node) => {
  const [x, slope] = node.inputs as [Value, Value]
  const rank = shapeOf(x).length
  const layout = w.layoutOf([x])
  const from = w.tensor(x, layout)
  if (!isConstant(slope)) throw errors.unsupportedTarget('its slopes are computed at run time')
  const own = slope.data.shape
  const wide = [...Array<number>(rank - own.length).fill(1), ...own]
  const t = { ...slope.data, shape: wide }
  const turned = layout === 'file' && rank === 4 ? core.transpose.eval([t], { perm: [...PERM_TO_FILE] })[0]! : t
  // The batch has no slope of its own.
  const alpha = w.constant({ ...turned, shape: turned.shape.slice(1) }, slope.name)
  w.output(node, layout, false, (out) => w.add('PRELU', { inputs: [from, alpha], outputs: [out] }))
}

const whereWrite: Write = (w, node) => {
  const rank = shapeOf(node.outputs[0]).length
  const layout = w.layoutOf(node.inputs)
  const inputs = node.inputs.map((v) => operand(w, v!, rank, layout))
  w.output(node, layout, false, (out) => w.add('SELECT_V2', { inputs, outputs: [out], options: ['SelectV2Options', {}] }))
}

export const write: readonly (readonly [Op, Write])[] = [
  [core.relu, unaryWrite('RELU')],
  [core.clip, clipWrite],
  [core.leakyRelu, unaryWrite('LEAKY_RELU', ({ alpha }) => ['LeakyReluOptions', { alpha }])],
  [
    core.elu,
    (w, node) => {
      if (node.attrs.alpha !== 1) throw errors.unsupportedTarget('an ELU with α ≠ 1')
      unaryWrite('ELU')(w, node)
    },
  ],
  [core.sigmoid, unaryWrite('LOGISTIC')],
  [core.tanh, unaryWrite('TANH')],
  [core.hardSwish, unaryWrite('HARD_SWISH', () => ['HardSwishOptions', {}])],
  [core.gelu, unaryWrite('GELU', ({ approximate }) => ['GeluOptions', { approximate }])],
  [core.silu, siluWrite],
  [
    core.hardSigmoid,
    (w, node) =>
      chain(w, node, node.inputs[0]!, [
        ['MUL', 'MulOptions', node.attrs.alpha],
        ['ADD', 'AddOptions', node.attrs.beta],
        ['MINIMUM', 'MaximumMinimumOptions', 1],
        ['MAXIMUM', 'MaximumMinimumOptions', 0],
      ]),
  ],
  [
    core.reciprocal,
    (w, node) => {
      const x = node.inputs[0]!
      const layout = w.layoutOf([x])
      const inputs = [w.constant(tensorOf('float32', [], [1]), 'one'), w.tensor(x, layout)]
      w.output(node, layout, true, (out, fusedActivationFunction) =>
        w.add('DIV', { inputs, outputs: [out], options: ['DivOptions', { fusedActivationFunction }] }),
      )
    },
  ],
  [core.exp, unaryWrite('EXP', () => ['ExpOptions', {}])],
  [core.log, unaryWrite('LOG')],
  [core.sqrt, unaryWrite('SQRT')],
  [core.abs, unaryWrite('ABS', () => ['AbsOptions', {}])],
  [core.neg, unaryWrite('NEG', () => ['NegOptions', {}])],
  [core.sin, unaryWrite('SIN')],
  [core.cos, unaryWrite('COS', () => ['CosOptions', {}])],
  [core.sign, unaryWrite('SIGN', () => ['SignOptions', {}])],
  [core.floor, unaryWrite('FLOOR')],
  [core.ceil, unaryWrite('CEIL')],
  [core.round, unaryWrite('ROUND')],
  [core.not, unaryWrite('LOGICAL_NOT', () => ['LogicalNotOptions', {}])],
  [core.prelu, preluWrite],
  [core.where, whereWrite],
  [core.add, binaryWrite('ADD', 'AddOptions', true)],
  [
    core.fixedAdd,
    (w, node) => binaryWrite(node.attrs.sign === 1 ? 'ADD' : 'SUB', node.attrs.sign === 1 ? 'AddOptions' : 'SubOptions', true)(w, node),
  ],
  [core.sub, binaryWrite('SUB', 'SubOptions', true)],
  [core.mul, binaryWrite('MUL', 'MulOptions', true)],
  [core.fixedMul, binaryWrite('MUL', 'MulOptions', true)],
  [core.div, binaryWrite('DIV', 'DivOptions', true)],
  [core.pow, binaryWrite('POW', 'PowOptions', false)],
  [core.mod, binaryWrite('FLOOR_MOD', 'FloorModOptions', false)],
  [core.maximum, binaryWrite('MAXIMUM', 'MaximumMinimumOptions', false)],
  [core.minimum, binaryWrite('MINIMUM', 'MaximumMinimumOptions', false)],
  [core.greater, binaryWrite('GREATER', 'GreaterOptions', false)],
  [core.greaterOrEqual, binaryWrite('GREATER_EQUAL', 'GreaterEqualOptions', false)],
  [core.less, binaryWrite('LESS', 'LessOptions', false)],
  [core.lessOrEqual, binaryWrite('LESS_EQUAL', 'LessEqualOptions', false)],
  [core.equal, binaryWrite('EQUAL', 'EqualOptions', false)],
  [core.and, binaryWrite('LOGICAL_AND', 'LogicalAndOptions', false)],
  [core.or, binaryWrite('LOGICAL_OR', 'LogicalOrOptions', false)],
  [core.cast, unaryWrite('CAST', ({ to }) => ['CastOptions', { outDataType: codeOf(to) }])],
  [
    core.quantize,
    (w, node) => {
      const x = node.inputs[0]!
      const layout = w.layoutOf([x])
      const from = w.tensor(x, layout)
      w.output(node, layout, false, (out) => w.add('QUANTIZE', { inputs: [from], outputs: [out], options: ['QuantizeOptions', {}] }))
    },
  ],
  [
    core.dequantize,
    (w, node) => {
      const x = node.inputs[0]!
      const layout = w.layoutOf([x])
      const from = w.tensor(x, layout)
      w.output(node, layout, false, (out) =>
        w.add('DEQUANTIZE', { inputs: [from], outputs: [out], options: ['DequantizeOptions', {}], version: 2 }),
      )
    },
  ],
  [core.lookup, lookupWrite],
]

/** Functions of one integer that kernels tabulate themselves, and moves between grids with a clamp. */
function lookupWrite(w: OperatorWriter, node: Node): void {
  const { of, table } = node.attrs as { of: string; table: readonly number[] }
  const kernel = TABULATED.get(of)
  if (!kernel) throw errors.unsupportedTarget(`no integer kernel computes ${of}`)
  const x = node.inputs[0]!
  const layout = w.layoutOf([x])
  const from = w.tensor(x, layout)
  const ends = { lo: Math.min(...table), hi: Math.max(...table) }
  w.output(
    node,
    layout,
    false,
    (out) =>
      w.add(kernel, {
        inputs: [from],
        outputs: [out],
        ...(kernel === 'QUANTIZE' ? { options: ['QuantizeOptions', {}] as const } : {}),
        version: 2,
      }),
    kernel === 'QUANTIZE' ? ends : undefined,
  )
}

/** The operator that computes a tabulated function; clamps are moves to another grid, stopped at the table's ends. */
const TABULATED: ReadonlyMap<string, string> = new Map([
  ['sigmoid', 'LOGISTIC'],
  ['tanh', 'TANH'],
  ['identity', 'QUANTIZE'],
  ['relu', 'QUANTIZE'],
  ['clip', 'QUANTIZE'],
])

/** Ops that work in either order of axes. */
export const agnostic: readonly Op[] = [
  core.relu,
  core.clip,
  core.leakyRelu,
  core.elu,
  core.sigmoid,
  core.tanh,
  core.hardSwish,
  core.gelu,
  core.silu,
  core.hardSigmoid,
  core.prelu,
  core.add,
  core.sub,
  core.mul,
  core.div,
  core.maximum,
  core.minimum,
  core.fixedAdd,
  core.fixedMul,
  core.quantize,
  core.dequantize,
  core.lookup,
  core.batchNorm,
  core.identity,
]
