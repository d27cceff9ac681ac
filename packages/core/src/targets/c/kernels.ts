import { isConstant, type Node, type Value } from '../../ir/graph.ts'
import type { Op } from '../../ir/op.ts'
import { numbersOf, sizeOf, tensorOf } from '../../ir/tensor.ts'
import type { ConvAttrs } from '../../ops/convolve.ts'
import {
  type AveragePoolAttrs,
  intConv,
  intDense,
  intMatMul,
  intSoftmax,
  lookup,
  type Requantization,
  type Saturation,
} from '../../ops/integer.ts'
import { type MaxPoolAttrs, maxPool } from '../../ops/pool.ts'
import { axisOf, broadcastStrides } from '../../ops/shapes.ts'
import { type FixedAdd, fixedAdd, fixedAveragePool, fixedMean, fixedMul, meanScale, sumMultipliers } from '../../ops/tflite.ts'
import { type FunctionName, packBits, takeApart } from './arithmetic.ts'

/** How a value lies in memory: images with their channels last, everything else as it is. */
export interface Place {
  readonly shape: readonly number[]
  /** Elements between neighbours along each axis. */
  readonly strides: readonly number[]
  readonly type: CType
  readonly size: number
}

export type CType = 'int8_t' | 'uint8_t' | 'int16_t' | 'int32_t'

/** What the kernels need of the program around them. */
export interface Program {
  readonly packed: boolean
  place(v: Value): Place
  /** The name of an array of constants. */
  constant(type: CType | 'uint16_t' | 'uint32_t', values: ArrayLike<number>, stem: string): string
  use(f: FunctionName): void
  /** Room for one output channel's unpacked weights. */
  row(size: number): string
  /** A row of 32-bit accumulators. */
  accumulators(size: number): string
}

/** The body of a function that computes `y` from x0, x1 …; constants among the inputs are arrays of that name too. */
type Kernel = (p: Program, node: Node) => string

/** Loops over axes of which each has a size and a stride per operand, merged where all operands allow it; the first operand decides the order. */
function nest(
  axes: readonly { readonly n: number; readonly strides: readonly number[] }[],
  body: (at: readonly string[]) => string,
): string {
  const loops: { n: number; strides: readonly number[] }[] = []
  for (const a of [...axes].filter((x) => x.n !== 1).sort((x, y) => y.strides[0]! - x.strides[0]!)) {
    const outer = loops.at(-1)
    if (outer?.strides.every((s, k) => s === a.strides[k]! * a.n)) loops[loops.length - 1] = { n: outer.n * a.n, strides: a.strides }
    else loops.push(a)
  }
  const operands = axes[0]?.strides.length ?? 0
  const at = Array.from({ length: operands }, (_, k) => {
    const terms = loops.flatMap((l, i) => (l.strides[k] === 0 ? [] : [l.strides[k] === 1 ? `i${i}` : `i${i} * ${l.strides[k]}`]))
    return terms.length ? terms.join(' + ') : '0'
  })
  const open = loops.map((l, i) => `for (i${i} = 0; i${i} < ${l.n}; i${i}++) {`)
  return [...(loops.length ? [`int32_t ${loops.map((_, i) => `i${i}`).join(', ')};`] : []), ...open, body(at), ...open.map(() => '}')].join(
    '\n',
  )
}

const cast = (type: CType, expression: string): string => (type === 'int32_t' ? expression : `(${type})${expression}`)

/** Accumulator → output steps. Multipliers that are powers of two need a shift alone. */
function requantizer(
  p: Program,
  multipliers: readonly number[],
  a: Saturation & { readonly halvesUp?: boolean },
  stem: string,
): (acc: string, channel: string) => string {
  const parts = multipliers.map(takeApart)
  const one = parts.length === 1
  const list = (name: string, type: 'int32_t' | 'int8_t', of: (k: number) => number): ((c: string) => string) => {
    const values = parts.map((_, k) => of(k))
    if (one || values.every((v) => v === values[0])) return () => String(values[0])
    const array = p.constant(type, values, `${stem}_${name}`)
    return (c) => `${array}[${c}]`
  }
  const shift = list('shift', 'int8_t', (k) => Math.min(parts[k]!.shift, 100))
  if (parts.every((m) => m.mantissa === 1)) {
    const f = a.halvesUp ? 'shiftUp' : 'shiftEven'
    p.use(f)
    return (acc, c) => `${f === 'shiftUp' ? 'shift_up' : 'shift_even'}(${acc}, ${shift(c)}, ${a.lo}, ${a.hi})`
  }
  p.use('requantize')
  const mantissa = list('multiplier', 'int32_t', (k) => parts[k]!.mantissa)
  return (acc, c) => `requantize(${acc}, ${mantissa(c)}, ${shift(c)}, ${a.lo}, ${a.hi})`
}

/** Height and width of an image or a window; a sequence is an image of height 1. */
const two = (xs: readonly number[], fill: number): [number, number] => (xs.length === 1 ? [fill, xs[0]!] : [xs[0]!, xs[1]!])

interface Geometry {
  readonly H: number
  readonly W: number
  readonly OH: number
  readonly OW: number
  readonly KH: number
  readonly KW: number
  readonly s: readonly [number, number]
  readonly d: readonly [number, number]
  readonly p: readonly [number, number]
  /** Whether every window lies inside the image, along each axis. */
  readonly inside: readonly [boolean, boolean]
}

function geometry(x: Place, y: Place, kernel: readonly number[], a: Pick<ConvAttrs, 'strides' | 'dilations' | 'pads'>): Geometry {
  const [H, W] = two(x.shape.slice(2), 1)
  const [OH, OW] = two(y.shape.slice(2), 1)
  const [KH, KW] = two(kernel, 1)
  const [s, d, p] = [two(a.strides, 1), two(a.dilations, 1), two(a.pads.slice(0, kernel.length), 0)]
  const inside = (size: number, out: number, taps: number, i: 0 | 1): boolean => p[i] === 0 && (out - 1) * s[i] + (taps - 1) * d[i] < size
  return { H, W, OH, OW, KH, KW, s, d, p, inside: [inside(H, OH, KH, 0), inside(W, OW, KW, 1)] }
}

/** Whether a window has a loop along an axis: one place inside the image needs none. */
const loops = (g: Geometry, i: 0 | 1): boolean => (i === 0 ? g.KH : g.KW) > 1 || !g.inside[i]

/** `index * n`, without a factor of 1. */
const times = (index: string, n: number): string => (n === 1 ? index : `${index} * ${n}`)
const minus = (n: number): string => (n ? ` - ${n}` : '')

/** The loop over a window's places along one axis that lie inside the image; `row` or `column` is theirs. */
function along(g: Geometry, i: 0 | 1, body: string): string {
  const [name, k, o, taps, size] = i === 0 ? ['row', 'kh', 'oh', g.KH, g.H] : ['column', 'kw', 'ow', g.KW, g.W]
  const at = [times(o, g.s[i]), ...(loops(g, i) ? [times(k, g.d[i])] : [])].join(' + ')
  return [
    loops(g, i) ? `for (${k} = 0; ${k} < ${taps}; ${k}++) {` : '{',
    `const int32_t ${name} = ${at}${minus(g.p[i])};`,
    ...(g.inside[i] ? [] : [`if (${name} < 0 || ${name} >= ${size}) {`, 'continue;', '}']),
    body,
    '}',
  ].join('\n')
}

/** Loops over all of a window's places that lie inside the image. */
const window = (g: Geometry, body: string): string => along(g, 0, along(g, 1, body))

const counters = (g: Geometry, ...more: string[]): string =>
  `int32_t ${['oh', 'ow', ...(loops(g, 0) ? ['kh'] : []), ...(loops(g, 1) ? ['kw'] : []), ...more].join(', ')};`

/** The element of a channels-last image. */
const pixel = (W: number, C: number, row: string, column: string, channel: string): string =>
  `(${row} * ${W} + ${column}) * ${C} + ${channel}`

const pointers = (g: Geometry, O: number, inner: string): string =>
  [
    `for (oh = 0; oh < ${g.OH}; oh++) {`,
    `for (ow = 0; ow < ${g.OW}; ow++) {`,
    inner.replaceAll('$Y', pixel(g.OW, O, 'oh', 'ow', 'o')),
    '}',
    '}',
  ].join('\n')

/** Depthwise: all channels of a place together, as they lie in memory, on a row of accumulators. */
const depthwiseKernel: Kernel = (p, node) => {
  const [vx, vw, vb] = node.inputs as [Value, Value & { data: NonNullable<Value['data']> }, Value | null]
  const a = node.attrs as ConvAttrs & Requantization
  const [x, y] = [p.place(vx), p.place(node.outputs[0]!)]
  const [C, , ...kernel] = vw.data.shape as [number, number, ...number[]]
  const name = node.outputs[0]!.name
  const g = geometry(x, y, kernel, a)
  const taps = g.KH * g.KW
  // [C, 1, KH, KW] → [KH, KW, C]
  const from = numbersOf(vw.data)
  const w = Int32Array.from({ length: from.length }, (_, i) => from[(i % C) * taps + Math.floor(i / C)]!)
  const { weights, type, unpacked } = layerWeights(p, w, w.length, bitsOf(vw), name)
  const bias = vb?.data ? p.constant('int32_t', numbersOf(vb.data), `${name}_bias`) : null
  const requantize = requantizer(p, a.multipliers, a, name)
  const acc = p.accumulators(C)
  const tap = [...(loops(g, 0) ? [times('kh', g.KW)] : []), ...(loops(g, 1) ? ['kw'] : [])].join(' + ')
  const channels = (body: string): string => `for (o = 0; o < ${C}; o++) {\nDQC_PIPELINE\n${body}\n}`
  return [
    counters(g, 'o'),
    unpacked ? `const int8_t *const wo = ${p.row(w.length)};` : `const ${type} *const wo = ${weights};`,
    ...(unpacked ? [unpacked('0')] : []),
    pointers(
      g,
      C,
      [
        channels(`${acc}[o] = ${bias ? `${bias}[o]` : '0'};`),
        window(
          g,
          [
            `const ${x.type} *xs = x0 + ${times(`(row * ${g.W} + column)`, C)};`,
            `const ${type} *ws = wo${tap ? ` + ${times(`(${tap})`, C)}` : ''};`,
            channels(`${acc}[o] += (int32_t)xs[o] * ws[o];`),
          ].join('\n'),
        ),
        channels(`y[$Y] = ${cast(y.type, requantize(`${acc}[o]`, 'o'))};`),
      ].join('\n'),
    ),
  ].join('\n')
}

const convKernel: Kernel = (p, node) => {
  const info = node.inputs[1]!.data!.shape
  if (node.attrs.group > 1 && info[1] === 1 && info[0] === node.attrs.group) return depthwiseKernel(p, node)
  const [vx, vw, vb] = node.inputs as [Value, Value & { data: NonNullable<Value['data']> }, Value | null]
  const a = node.attrs as ConvAttrs & Requantization
  const [x, y] = [p.place(vx), p.place(node.outputs[0]!)]
  const [O, cg, ...kernel] = vw.data.shape as [number, number, ...number[]]
  const C = x.shape[1]!
  const g = geometry(x, y, kernel, a)
  const taps = g.KH * g.KW
  // [O, Cg, KH, KW] → [O, KH, KW, Cg]: the innermost loop runs over neighbours.
  const from = numbersOf(vw.data)
  const per = cg * taps
  const w = Int32Array.from({ length: from.length }, (_, i) => {
    const [o, t, c] = [Math.floor(i / per), Math.floor(i / cg) % taps, i % cg]
    return from[o * per + c * taps + t]!
  })
  const bits = bitsOf(vw)
  const requantize = requantizer(p, a.multipliers, a, node.outputs[0]!.name)
  const bias = vb?.data ? p.constant('int32_t', numbersOf(vb.data), `${node.outputs[0]!.name}_bias`) : null
  const { weights, type, unpacked } = layerWeights(p, w, per, bits, node.outputs[0]!.name)
  const product = a.group === 1 && g.d[1] === 1 ? runs(g, C, x.type, type) : perPlace(g, C, cg, a.group, O, x.type, type)
  // Every channel of a depthwise layer reads one element per place.
  const counted =
    a.group === 1 && g.d[1] === 1
      ? counters({ ...g, KW: 1, inside: [g.inside[0], true] }, 'o', 'c')
      : counters(g, ...(cg === 1 ? ['o'] : ['o', 'c']))
  const channel = [`int32_t acc = ${bias ? `${bias}[o]` : '0'};`, product, `y[$Y] = ${cast(y.type, requantize('acc', 'o'))};`].join('\n')
  if (unpacked)
    return [
      counted,
      `for (o = 0; o < ${O}; o++) {`,
      `const int8_t *const wo = ${p.row(per)};`,
      unpacked('o'),
      pointers(g, O, channel),
      '}',
    ].join('\n')
  return [
    counted,
    pointers(g, O, [`for (o = 0; o < ${O}; o++) {`, `const ${type} *const wo = ${weights} + o * ${per};`, channel, '}'].join('\n')),
  ].join('\n')
}

/** One row of a window after the other: its places are neighbours in memory, and so are their weights. */
function runs(g: Geometry, C: number, xType: CType, wType: CType): string {
  const whole = g.inside[1]
  const start = `${times('ow', g.s[1])}${minus(g.p[1])}`
  return along(
    g,
    0,
    [
      `const int32_t column = ${start};`,
      ...(whole
        ? []
        : [`const int32_t from = column < 0 ? -column : 0;`, `const int32_t to = column + ${g.KW} > ${g.W} ? ${g.W} - column : ${g.KW};`]),
      `const ${xType} *xs = x0 + ${times(`(row * ${g.W} + column${whole ? '' : ' + from'})`, C)};`,
      `const ${wType} *ws = wo${g.KH > 1 || !whole ? ` + ${times(`(${[...(loops(g, 0) ? [times('kh', g.KW)] : []), ...(whole ? [] : ['from'])].join(' + ')})`, C)}` : ''};`,
      `for (c = 0; c < ${whole ? g.KW * C : times('(to - from)', C)}; c++) {`,
      'DQC_PIPELINE',
      'acc += (int32_t)xs[c] * ws[c];',
      '}',
    ].join('\n'),
  )
}

/** One place of a window after the other. */
function perPlace(g: Geometry, C: number, cg: number, group: number, O: number, xType: CType, wType: CType): string {
  const first = group === 1 ? '' : cg === 1 && O === C ? ' + o' : ` + o / ${O / group} * ${cg}`
  const tap = [...(loops(g, 0) ? [times('kh', g.KW)] : []), ...(loops(g, 1) ? ['kw'] : [])].join(' + ')
  return window(
    g,
    [
      `const ${xType} *xs = x0 + ${times(`(row * ${g.W} + column)`, C)}${first};`,
      `const ${wType} *ws = wo${tap ? ` + ${times(`(${tap})`, cg)}` : ''};`,
      ...(cg === 1
        ? ['acc += (int32_t)xs[0] * ws[0];']
        : [`for (c = 0; c < ${cg}; c++) {`, 'DQC_PIPELINE', 'acc += (int32_t)xs[c] * ws[c];', '}']),
    ].join('\n'),
  )
}

/** Bits that a constant's grid takes, its sign included. */
const bitsOf = (v: Value): number => {
  const q = v.quant!
  return Math.ceil(Math.log2(Math.max(-q.lo, q.hi + 1))) + 1
}

/** Weights as an array, or packed with the line that unpacks one output channel. */
function layerWeights(
  p: Program,
  w: ArrayLike<number>,
  per: number,
  bits: number,
  stem: string,
): { weights: string; type: CType; unpacked: ((o: string) => string) | null } {
  const type = bits > 8 ? 'int16_t' : 'int8_t'
  if (!p.packed || bits >= 8) return { weights: p.constant(type, w, `${stem}_weights`), type, unpacked: null }
  p.use('unpack')
  const packed = p.constant('uint8_t', packBits(w, bits), `${stem}_weights`)
  return { weights: packed, type, unpacked: (o) => `unpack(${packed}, (uint32_t)${o} * ${per * bits}, ${per}, ${bits}, ${p.row(per)});` }
}

const denseKernel: Kernel = (p, node) => {
  const [vx, vw, vb] = node.inputs as [Value, Value & { data: NonNullable<Value['data']> }, Value | null]
  const a = node.attrs as Requantization
  const [x, y] = [p.place(vx), p.place(node.outputs[0]!)]
  const [O, K] = vw.data.shape as [number, number]
  const requantize = requantizer(p, a.multipliers, a, node.outputs[0]!.name)
  const bias = vb?.data ? p.constant('int32_t', numbersOf(vb.data), `${node.outputs[0]!.name}_bias`) : null
  const { weights, type, unpacked } = layerWeights(p, numbersOf(vw.data), K, bitsOf(vw), node.outputs[0]!.name)
  const [sx, sy] = [x.strides.at(-1)!, y.strides.at(-1)!]
  const rows = x.shape.slice(0, -1).map((n, i) => ({ n, strides: [y.strides[i]!, x.strides[i]!] }))
  const dot = (at: readonly string[]): string =>
    [
      `int32_t acc = ${bias ? `${bias}[o]` : '0'};`,
      `for (k = 0; k < ${K}; k++) {`,
      'DQC_PIPELINE',
      `acc += (int32_t)x0[${at[1] === '0' ? '' : `${at[1]} + `}k${sx === 1 ? '' : ` * ${sx}`}] * wo[k];`,
      '}',
      `y[${at[0] === '0' ? '' : `${at[0]} + `}o${sy === 1 ? '' : ` * ${sy}`}] = ${cast(y.type, requantize('acc', 'o'))};`,
    ].join('\n')
  return [
    'int32_t o, k;',
    `for (o = 0; o < ${O}; o++) {`,
    unpacked ? `const int8_t *const wo = ${p.row(K)};` : `const ${type} *const wo = ${weights} + o * ${K};`,
    ...(unpacked ? [unpacked('o')] : []),
    nest(rows.length ? rows : [{ n: 1, strides: [0, 0] }], dot),
    '}',
  ].join('\n')
}

const matmulKernel: Kernel = (p, node) => {
  const [vx, vw] = node.inputs as [Value, Value]
  const a = node.attrs as Saturation & { multiplier: number }
  const [x, w, y] = [p.place(vx), p.place(vw), p.place(node.outputs[0]!)]
  const rank = y.shape.length
  const requantize = requantizer(p, [a.multiplier], a, node.outputs[0]!.name)
  // Leading axes of size one repeat.
  const stride = (q: Place, axis: number, own: boolean): number => {
    const i = axis - (rank - q.shape.length)
    return i < 0 || !own || (axis < rank - 2 && q.shape[i] === 1) ? 0 : q.strides[i]!
  }
  const axes = y.shape.map((n, i) => ({ n, strides: [y.strides[i]!, stride(x, i, i !== rank - 1), stride(w, i, i !== rank - 2)] }))
  const [K, sx, sw] = [x.shape.at(-1)!, x.strides.at(-1)!, w.strides.at(-2)!]
  return [
    'int32_t k;',
    nest(axes, ([to, from, other]) =>
      [
        'int32_t acc = 0;',
        `for (k = 0; k < ${K}; k++) {`,
        'DQC_PIPELINE',
        `acc += (int32_t)x0[${from} + k * ${sx}] * x1[${other} + k * ${sw}];`,
        '}',
        `y[${to}] = ${cast(y.type, requantize('acc', '0'))};`,
      ].join('\n'),
    ),
  ].join('\n')
}

/** Axes of an elementwise op over the shape of its result. */
const elementwise = (y: Place, xs: readonly Place[]): { n: number; strides: number[] }[] => {
  const spread = xs.map((x) => {
    // Where an operand is broadcast its stride is zero; elsewhere it is its place's own.
    const repeats = broadcastStrides(x.shape, y.shape)
    const rank = y.shape.length
    return y.shape.map((n, i) => (n === 1 || repeats[i] === 0 ? 0 : x.strides[i - (rank - x.shape.length)]!))
  })
  return y.shape.map((n, i) => ({ n, strides: [y.strides[i]!, ...spread.map((s) => s[i]!)] }))
}

const sumKernel: Kernel = (p, node) => {
  const [vx, vy] = node.inputs as [Value, Value]
  const a = node.attrs as FixedAdd
  const y = p.place(node.outputs[0]!)
  const { mx, my, shift } = sumMultipliers(a)
  const reach = (v: Value): number => Math.max(-v.quant!.lo, v.quant!.hi)
  const half = 2 ** (shift - 1)
  const wide = Math.abs(mx) * reach(vx) + Math.abs(my) * reach(vy) + half >= 2 ** 31 || shift > 30
  p.use(wide ? 'floorShift64' : 'floorShift')
  p.use('clamp')
  const term = (m: number, v: string): string => (wide ? `(int64_t)${v} * ${m}` : `(int32_t)${v} * ${m}`)
  return nest(elementwise(y, [p.place(vx), p.place(vy)]), ([to, at0, at1]) => {
    const sum = `${term(mx, `x0[${at0}]`)} + ${term(my, `x1[${at1}]`)} + ${wide ? `((int64_t)1 << ${shift - 1})` : half}`
    return `DQC_PIPELINE\ny[${to}] = ${cast(y.type, `clamp(${wide ? 'floor_shift64' : 'floor_shift'}(${sum}, ${shift}), ${a.lo}, ${a.hi})`)};`
  })
}

const productKernel: Kernel = (p, node) => {
  const [vx, vy] = node.inputs as [Value, Value]
  const a = node.attrs as Saturation & { multiplier: number }
  const y = p.place(node.outputs[0]!)
  const requantize = requantizer(p, [a.multiplier], a, node.outputs[0]!.name)
  return nest(
    elementwise(y, [p.place(vx), p.place(vy)]),
    ([to, at0, at1]) => `DQC_PIPELINE\ny[${to}] = ${cast(y.type, requantize(`(int32_t)x0[${at0}] * x1[${at1}]`, '0'))};`,
  )
}

const lookupKernel: Kernel = (p, node) => {
  const { lo, table } = node.attrs as { lo: number; table: readonly number[] }
  const [x, y] = [p.place(node.inputs[0]!), p.place(node.outputs[0]!)]
  const array = p.constant(y.type, table, `${node.outputs[0]!.name}_table`)
  return nest(elementwise(y, [x]), ([to, at]) => `y[${to}] = ${array}[x0[${at}]${lo === 0 ? '' : ` - (${lo})`}];`)
}

const maxPoolKernel: Kernel = (p, node) => {
  const a = node.attrs as MaxPoolAttrs
  const [x, y] = [p.place(node.inputs[0]!), p.place(node.outputs[0]!)]
  const g = geometry(x, y, a.kernel, a)
  const C = x.shape[1]!
  return [
    counters(g, 'o'),
    pointers(
      g,
      C,
      [
        `for (o = 0; o < ${C}; o++) {`,
        `int32_t top = ${-32768};`,
        window(g, `if (x0[${pixel(g.W, C, 'row', 'column', 'o')}] > top) {\ntop = x0[${pixel(g.W, C, 'row', 'column', 'o')}];\n}`),
        `y[$Y] = ${cast(y.type, 'top')};`,
        '}',
      ].join('\n'),
    ),
  ].join('\n')
}

const averagePoolKernel: Kernel = (p, node) => {
  const a = node.attrs as AveragePoolAttrs & Saturation & { zero: number }
  const [x, y] = [p.place(node.inputs[0]!), p.place(node.outputs[0]!)]
  const g = geometry(x, y, a.kernel, a)
  const C = x.shape[1]!
  p.use('clamp')
  return [
    counters(g, 'o'),
    pointers(
      g,
      C,
      [
        `for (o = 0; o < ${C}; o++) {`,
        'int32_t sum = 0, n = 0;',
        window(g, `sum += x0[${pixel(g.W, C, 'row', 'column', 'o')}]${a.zero ? ` + ${a.zero}` : ''};\nn++;`),
        ...(a.countIncludePad ? [`n = ${g.KH * g.KW};`] : []),
        `y[$Y] = ${cast(y.type, `clamp((sum >= 0 ? sum + n / 2 : sum - n / 2) / n${a.zero ? ` - ${a.zero}` : ''}, ${a.lo}, ${a.hi})`)};`,
        '}',
      ].join('\n'),
    ),
  ].join('\n')
}

const meanKernel: Kernel = (p, node) => {
  const a = node.attrs as Saturation & { scaleX: number; scaleOut: number }
  const [x, y] = [p.place(node.inputs[0]!), p.place(node.outputs[0]!)]
  const area = sizeOf(x.shape.slice(2))
  const C = x.shape[1]!
  const requantize = requantizer(p, [meanScale(a.scaleX, a.scaleOut, area)], a, node.outputs[0]!.name)
  return [
    'int32_t o, i;',
    `for (o = 0; o < ${C}; o++) {`,
    'int32_t sum = 0;',
    `for (i = 0; i < ${area}; i++) {`,
    'DQC_PIPELINE',
    `sum += x0[i * ${C} + o];`,
    '}',
    `y[o] = ${cast(y.type, requantize('sum', '0'))};`,
    '}',
  ].join('\n')
}

const softmaxKernel: Kernel = (p, node) => {
  const a = node.attrs as Saturation & { axis: number; table: readonly number[]; levels: number }
  const [x, y] = [p.place(node.inputs[0]!), p.place(node.outputs[0]!)]
  const axis = axisOf(a.axis, x.shape.length)
  const [n, sx, sy] = [x.shape[axis]!, x.strides[axis]!, y.strides[axis]!]
  const table = p.constant('int32_t', a.table, `${node.outputs[0]!.name}_exponentials`)
  p.use('clamp')
  const others = x.shape.flatMap((d, i) => (i === axis ? [] : [{ n: d, strides: [y.strides[i]!, x.strides[i]!] }]))
  return [
    'int32_t i;',
    nest(others.length ? others : [{ n: 1, strides: [0, 0] }], ([to, from]) =>
      [
        'int64_t sum = 0;',
        `int32_t top = x0[${from}];`,
        `for (i = 1; i < ${n}; i++) {`,
        `if (x0[${from} + i * ${sx}] > top) {`,
        `top = x0[${from} + i * ${sx}];`,
        '}',
        '}',
        `for (i = 0; i < ${n}; i++) {`,
        `sum += ${table}[top - x0[${from} + i * ${sx}]];`,
        '}',
        `for (i = 0; i < ${n}; i++) {`,
        `y[${to} + i * ${sy}] = ${cast(y.type, `clamp(((int64_t)${table}[top - x0[${from} + i * ${sx}]] * ${2 * a.levels} + sum) / (2 * sum), ${a.lo}, ${a.hi})`)};`,
        '}',
      ].join('\n'),
    ),
  ].join('\n')
}

/** Numbers an input's elements from here on, so that one number says which input and which element. */
const INPUT_SPAN = 2 ** 26

/** Where each element of a result comes from: the input and its element in memory, or −1 for a border; in the result's memory order. */
function origins(p: Program, node: Node): Int32Array | Float64Array {
  const inputs = node.inputs.map((v, k) => {
    if (!v) return null
    // Indices and sizes stay what they are.
    if (isConstant(v) && !v.quant) return v.data
    const q = p.place(v)
    const order = memoryOrder(q)
    return tensorOf(
      'float64',
      q.shape,
      Float64Array.from(order, (m) => k * INPUT_SPAN + m),
    )
  })
  const attrs = typeof node.attrs?.value === 'number' ? { ...node.attrs, value: -1 } : node.attrs
  const out = numbersOf(node.op.eval(inputs, attrs)[0]!)
  const y = p.place(node.outputs[0]!)
  const result = new Float64Array(y.size)
  memoryOrder(y).forEach((m, i) => {
    result[m] = out[i]!
  })
  return result
}

/** The place in memory of each element, in the order of the axes. */
export function memoryOrder(q: Place): Int32Array {
  const order = new Int32Array(q.size)
  for (let i = 0; i < q.size; i++) {
    let rest = i
    let at = 0
    for (let d = q.shape.length - 1; d >= 0; d--) {
      at += (rest % q.shape[d]!) * q.strides[d]!
      rest = Math.floor(rest / q.shape[d]!)
    }
    order[i] = at
  }
  return order
}

/** The strides by which `map` (given per element of a shape, in the order of its axes) grows, and its start; null where it is not regular. */
function regular(shape: readonly number[], map: (i: number) => number): { start: number; strides: number[] } | null {
  const steps = shape.map((_, d) => sizeOf(shape.slice(d + 1)))
  const start = map(0)
  const strides = shape.map((n, d) => (n === 1 ? 0 : map(steps[d]!) - start))
  const size = sizeOf(shape)
  for (let i = 0; i < size; i++) {
    let at = start
    for (let d = 0; d < shape.length; d++) at += (Math.floor(i / steps[d]!) % shape[d]!) * strides[d]!
    if (at !== map(i)) return null
  }
  return { start, strides }
}

/** Whether an op leaves memory as it is, so that its result can stand in its input's place. */
export const isStill = (p: Program, node: Node): boolean => {
  const [x] = node.inputs
  if (node.op.quant !== 'shared' || !x || isConstant(x) || kernels.has(node.op)) return false
  return p.place(x).size === p.place(node.outputs[0]!).size && origins(p, node).every((v, i) => v === i)
}

/** Ops that only move elements: their own semantics, applied to places instead of numbers, say where everything goes. */
const moveKernel: Kernel = (p, node) => {
  const y = p.place(node.outputs[0]!)
  const from = origins(p, node)
  const offset = (start: number): string => (start === 0 ? '' : ` + ${start}`)
  const lines: string[] = []
  const sources = [...new Set(Array.from(from, (v) => (v < 0 ? -1 : Math.floor(v / INPUT_SPAN))))]
  if (sources.includes(-1)) lines.push(`{\nint32_t i;\nfor (i = 0; i < ${y.size}; i++) {\ny[i] = ${node.attrs.value};\n}\n}`)
  for (const k of sources) {
    if (k < 0) continue
    const x = p.place(node.inputs[k]!)
    const to = new Map<number, number>()
    let single = true
    from.forEach((v, i) => {
      if (Math.floor(v / INPUT_SPAN) !== k || v < 0) return
      single &&= !to.has(v % INPUT_SPAN)
      to.set(v % INPUT_SPAN, i)
    })
    // Over the input's axes where all of it goes somewhere, else over the result's.
    const order = memoryOrder(x)
    const sent = single && to.size === x.size ? regular(x.shape, (i) => to.get(order[i]!)!) : null
    if (sent) {
      const axes = x.shape.map((n, d) => ({ n, strides: [sent.strides[d]!, x.strides[d]!] }))
      lines.push(`{\n${nest(axes, ([at, of]) => `y[${at}${offset(sent.start)}] = x${k}[${of}];`)}\n}`)
      continue
    }
    const places = memoryOrder(y)
    const taken = sources.length === 1 ? regular(y.shape, (i) => from[places[i]!]! % INPUT_SPAN) : null
    if (taken) {
      const axes = y.shape.map((n, d) => ({ n, strides: [y.strides[d]!, taken.strides[d]!] }))
      lines.push(`{\n${nest(axes, ([at, of]) => `y[${at}] = x${k}[${of}${offset(taken.start)}];`)}\n}`)
      continue
    }

    const list = Array.from(from, (v, i) => [v, i] as const).filter(([v]) => v >= 0 && Math.floor(v / INPUT_SPAN) === k)

    const type = Math.max(y.size, x.size) < 65536 ? 'uint16_t' : 'uint32_t'
    const sourcesOf = p.constant(
      type,
      list.map(([v]) => v % INPUT_SPAN),
      `${node.outputs[0]!.name}_from${k}`,
    )
    const whole = list.length === y.size
    const targets = whole
      ? null
      : p.constant(
          type,
          list.map(([, i]) => i),
          `${node.outputs[0]!.name}_to${k}`,
        )
    lines.push(
      `{\nint32_t i;\nfor (i = 0; i < ${list.length}; i++) {\ny[${targets ? `${targets}[i]` : 'i'}] = x${k}[${sourcesOf}[i]];\n}\n}`,
    )
  }
  return lines.join('\n')
}

const kernels: ReadonlyMap<Op, Kernel> = new Map<Op, Kernel>([
  [intConv, convKernel],
  [intDense, denseKernel],
  [intMatMul, matmulKernel],
  [fixedAdd, sumKernel],
  [fixedMul, productKernel],
  [lookup, lookupKernel],
  [maxPool, maxPoolKernel],
  [fixedAveragePool, averagePoolKernel],
  [fixedMean, meanKernel],
  [intSoftmax, softmaxKernel],
])

/** The kernel of a node, or null where there is none. */
export const kernelOf = (node: Node): Kernel | null => kernels.get(node.op) ?? (node.op.quant === 'shared' ? moveKernel : null)
