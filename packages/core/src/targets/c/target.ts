import { errors } from '../../ir/errors.ts'
import { type Graph, isConstant, type Node, type QuantParams, type Value } from '../../ir/graph.ts'
import type { Op } from '../../ir/op.ts'
import { rewrite } from '../../ir/rewrite.ts'
import { numbersOf, sizeOf, stridesOf } from '../../ir/tensor.ts'
import { planMemory } from '../../math/memory.ts'
import { conv, matmul } from '../../ops/conv.ts'
import { type AveragePoolAttrs, exponentials, intConv, intDense, intSoftmax, oneScale } from '../../ops/integer.ts'
import { softmax } from '../../ops/normalize.ts'
import { averagePool, globalMaxPool, maxPool } from '../../ops/pool.ts'
import { axisOf, shapeOf } from '../../ops/shapes.ts'
import { fixedAveragePool, fixedMean } from '../../ops/tflite.ts'
import { averageOnGrid, coversImage, fixedLowerings, int8Zero, type Lowering } from '../fixedPoint.ts'
import type { Artifact, Target } from '../target.ts'
import { type FunctionName, functionsFor, type Rounding, takeApart } from './arithmetic.ts'
import { type CType, isStill, kernelOf, memoryOrder, type Place, type Program } from './kernels.ts'

export interface COptions {
  readonly rounding: Rounding
  /** Store weights of fewer than eight bits as a stream of their grid bits. */
  readonly packedWeights: boolean
  /** Mark inner loops for high-level synthesis. */
  readonly hls: boolean
  readonly version: string
}

/** Probabilities in steps of 1/256. */
const PROBABILITIES: QuantParams = { scale: Float32Array.of(1 / 256), axis: null, lo: 0, hi: 255 }

const lowerSoftmax: Lowering = (b, node, [x], out) =>
  oneScale(x) && Number.isInteger(1 / out.scale[0]!)
    ? b.emit(
        intSoftmax,
        [x!],
        {
          axis: axisOf(node.attrs.axis, shapeOf(x).length),
          table: exponentials(x!.quant!),
          levels: 1 / out.scale[0]!,
          lo: out.lo,
          hi: out.hi,
        },
        { quant: out },
      )
    : null

/** Padding that counts would have to be averaged as the container's integer for zero: no kernel here does that. */
const lowerAverage: Lowering = (b, node, inputs, out) => {
  const a = node.attrs as AveragePoolAttrs
  return a.countIncludePad && (a.ceil || a.pads.some((p) => p !== 0)) ? null : averageOnGrid(int8Zero)(b, node, inputs, out)
}

const own: ReadonlyMap<Op, Lowering> = new Map<Op, Lowering>([...fixedLowerings, [averagePool, lowerAverage], [softmax, lowerSoftmax]])

/** Ops whose kernels know images and sequences only. */
const spatial: ReadonlySet<Op> = new Set<Op>([conv, maxPool, averagePool, globalMaxPool])

/**
 * Plain C99: one source file and a header, integers only, no heap, nothing but stdint.h. Convolutions and dense layers round as all runtimes
 * do, sums and means in fixed point.
 */
export function cTarget(options: COptions): Target<'integer'> {
  const lowering = (node: Node): Op['lower'] => {
    const rank = node.inputs[0]?.shape?.length ?? 0
    if (spatial.has(node.op) && (rank < 3 || rank > 4)) return null
    return own.get(node.op) ?? node.op.lower
  }
  return {
    name: 'c',
    accepts: 'integer',
    rules: {
      lowering,
      tied: (node) => node.op === averagePool && !coversImage(node),
      fixedGrid: (node) => (node.op === softmax ? PROBABILITIES : null),
      perChannel: (node) => node.op !== matmul,
      pairLimit: null,
    },
    prepare: (graph) => graph,
    legalize: (graph) => (options.rounding === 'shift' ? roundUp(graph) : graph),
    inexact: () => [],
    emit: (graph, stem, metadata) => emit(graph, stem, metadata, options),
    examples: null,
  }
}

/** Layers whose multipliers are powers of two, rounded as an adder and a shifter do it. */
const roundUp = (graph: Graph<'integer'>): Graph<'integer'> =>
  rewrite(graph, (b, node, inputs) => {
    const multipliers = node.attrs?.multipliers as readonly number[] | undefined
    if (!multipliers?.every((m) => takeApart(m).mantissa === 1)) return null
    const facts = { name: node.name, quant: node.outputs[0]!.quant, outputs: [node.outputs[0]!.name] }
    return b.add(node.op, inputs, { ...node.attrs, halvesUp: true }, facts)
  })

const identifier = (name: string): string => name.replace(/[^A-Za-z0-9_]+/g, '_').replace(/^(?=\d)/, '_')

/** C's keywords and what the program itself declares. */
const RESERVED =
  'auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while arena row_weights sums input output main floor_shift floor_shift64 nearest round24 clamp requantize shift_even shift_up unpack'.split(
    ' ',
  )

/** Text from outside, as a C comment may hold it: it neither ends the comment nor begins another. */
const comment = (text: string): string =>
  text
    .replace(/[^\x20-\x7e]|[\\]|\?\?/g, '?')
    .replaceAll('*', '+')
    .replaceAll('/', '|')

const container = (q: QuantParams): CType => {
  if (q.lo >= -128 && q.hi <= 127) return 'int8_t'
  if (q.lo >= 0 && q.hi <= 255) return 'uint8_t'
  if (q.lo >= -32768 && q.hi <= 32767) return 'int16_t'
  return 'int32_t'
}
const BYTES: Record<string, number> = { int8_t: 1, uint8_t: 1, int16_t: 2, uint16_t: 2, int32_t: 4, uint32_t: 4 }

/** Integer ops whose kernels run over an image. */
const SPATIAL: ReadonlySet<string> = new Set([intConv, maxPool, fixedAveragePool, fixedMean].map((o) => o.name))

/** Ranks of which some value is an image: these lie in memory with their channels last. */
function imageRanks(graph: Graph): ReadonlySet<number> {
  const ranks = new Set<number>()
  for (const n of graph.nodes) if (SPATIAL.has(n.op.name)) ranks.add(n.inputs[0]!.shape!.length)
  return ranks
}

function emit(graph: Graph<'integer'>, stem: string, metadata: Readonly<Record<string, string>>, o: COptions): Artifact {
  const bad = graph.nodes.filter((n) => kernelOf(n) === null || n.outputs.length !== 1)
  const floats = [...graph.inputs, ...graph.nodes.flatMap((n) => n.outputs)].filter((v) => !v.quant)
  if (bad.length || floats.length)
    throw errors.unsupportedTarget(
      bad.length
        ? `C has no integer form of ${bad.map((n) => `${n.op.name === 'foreign' ? n.attrs.type : n.op.name} (${n.name || n.outputs[0]?.name})`).join(', ')}`
        : `${floats.map((v) => v.name).join(', ')} would stay real`,
      'c',
      'every layer needs constant weights and every op an integer kernel; see `dqc inspect`',
    )
  const batch = graph.inputs[0]!.shape![0]
  const ranks = imageRanks(graph)
  const places = new Map<Value, Place>()
  const place = (v: Value): Place => {
    let p = places.get(v)
    if (!p) {
      const shape = shapeOf(v).map((d) => (d === batch && typeof d === 'string' ? 1 : d))
      if (shape.some((d) => typeof d !== 'number'))
        throw errors.unsupportedTarget(`the shape [${v.shape}] of ${v.name} is not known`, 'c', 'fix it with --shape')
      if (v === graph.inputs[0] && shape[0] !== 1)
        throw errors.unsupportedTarget(`a fixed batch of ${shape[0]}`, 'c', 'the function takes one sample: export with a batch of 1')
      const own = shape as number[]
      const last = ranks.has(own.length)
      const order = last ? [0, ...own.slice(2).map((_, i) => i + 2), 1] : own.map((_, i) => i)
      const inMemory = stridesOf(order.map((d) => own[d]!))
      const strides = own.map((_, d) => inMemory[order.indexOf(d)]!)
      places.set(v, (p = { shape: own, strides, type: container(v.quant!), size: sizeOf(own) }))
    }
    return p
  }

  const many = graph.nodes.filter((n) => SPATIAL.has(n.op.name) && place(n.inputs[0]!).shape[0] !== 1)
  if (many.length)
    throw errors.unsupportedTarget(
      `${many.map((n) => n.outputs[0]!.name).join(', ')}: several images at once`,
      'c',
      'its kernels take one image',
    )
  const prefix = identifier(stem)
  const constants: string[] = []
  // Names of the program's own, which a model's may not hide.
  const taken = new Set<string>(RESERVED)
  let constantBytes = 0
  let rowSize = 0
  let sums = 0
  const functions = new Set<FunctionName>()
  const unique = (stem: string): string => {
    let name = identifier(stem)
    for (let i = 2; taken.has(name); i++) name = `${identifier(stem)}_${i}`
    taken.add(name)
    return name
  }
  const known = new Map<string, string>()
  const program: Program = {
    packed: o.packedWeights,
    place,
    constant(type, values, stem) {
      const text = lines(values)
      const key = `${type} ${text}`
      let name = known.get(key)
      if (!name) {
        known.set(key, (name = unique(stem)))
        constantBytes += values.length * BYTES[type]!
        constants.push(`static const ${type} ${name}[${values.length}] = {\n${text}\n};`)
      }
      return name
    },
    use: (f) => functions.add(f),
    row(size) {
      rowSize = Math.max(rowSize, size)
      return 'row_weights'
    },
    accumulators(size) {
      sums = Math.max(sums, size)
      return 'sums'
    },
  }

  // Values that stand in the place of others: ops that leave memory as it is.
  const home = new Map<Value, Value>()
  const homeOf = (v: Value): Value => home.get(v) ?? v
  const outputs = new Set(graph.outputs)
  const steps = graph.nodes.filter((n) => {
    const [y] = n.outputs
    if (outputs.has(y!) || !isStill(program, n)) return true
    home.set(y!, homeOf(n.inputs[0]!))
    return false
  })
  const first = new Map<Value, number>()
  const last = new Map<Value, number>()
  steps.forEach((n, i) => {
    first.set(n.outputs[0]!, i)
    for (const v of n.inputs) if (v && !isConstant(v)) last.set(homeOf(v), i)
  })
  const inside = steps.map((n) => n.outputs[0]!).filter((v) => !outputs.has(v))
  const memory = planMemory(
    inside.map((v) => ({ size: aligned(place(v).size * BYTES[place(v).type]!), first: first.get(v)!, last: last.get(v) ?? first.get(v)! })),
  )
  const wide = inside.some((v) => BYTES[place(v).type]! > 1)
  const arena = wide ? 'arena.bytes' : 'arena'
  const pointer = (v: Value): string => {
    const h = homeOf(v)
    if (graph.inputs.includes(h)) return argument(graph.inputs, h, 'input')
    if (outputs.has(h)) return argument(graph.outputs, h, 'output')
    const { type } = place(h)
    const at = memory.offsets[inside.indexOf(h)]!
    const start = `${arena}${at ? ` + ${at}` : ''}`
    return type === 'uint8_t' ? start : `(${type} *)(${wide ? 'void *)(' : ''}${start})`
  }

  const bodies: string[] = []
  const calls: string[] = []
  for (const n of steps) {
    const y = place(n.outputs[0]!)
    const name = unique(`${n.op.name}_${n.outputs[0]!.name}`)
    const operands = n.inputs.flatMap((v, k) =>
      v && !(isConstant(v) && (n.op === intConv || n.op === intDense || !v.quant)) ? [{ v, k }] : [],
    )
    const body = kernelOf(n)!(program, n)
    const parameters = [...operands.map(({ v, k }) => `const ${place(v).type} *x${k}`), `${y.type} *y`]
    bodies.push(`static void ${name}(${parameters.join(', ')})\n{\n${body}\n}`)
    const given = operands.map(({ v }) => (isConstant(v) ? program.constant(place(v).type, inMemory(v, place(v)), v.name) : pointer(v)))
    calls.push(`    ${name}(${[...given, pointer(n.outputs[0]!)].join(', ')});`)
  }

  if (new Set([...graph.inputs, ...graph.outputs]).size < graph.inputs.length + graph.outputs.length)
    throw errors.unsupportedTarget('one value is two outputs, or an output is an input', null, 'C writes every result once')
  const guard = `${prefix.toUpperCase()}_H`
  const signature = `void ${prefix}_run(${[
    ...graph.inputs.map((v) => `const ${place(v).type} *${argument(graph.inputs, v, 'input')}`),
    ...graph.outputs.map((v) => `${place(v).type} *${argument(graph.outputs, v, 'output')}`),
  ].join(', ')})`
  const ram = memory.size + rowSize + 4 * sums
  const about = (v: Value, role: string, list: readonly Value[]): string => {
    const p = place(v)
    const q = v.quant!
    const what = `${prefix}_${argument(list, v, role)}`.toUpperCase()
    const axes = ranks.has(p.shape.length) ? 'channels last' : 'row by row'
    const order = ranks.has(p.shape.length) ? [...p.shape.slice(2), p.shape[1]] : p.shape.slice(1)
    return [
      `/* ${role} "${comment(v.name)}": ${order.join(' x ') || '1'}, ${axes}; real value = scale * step, steps ${q.lo} .. ${q.hi} */`,
      `#define ${what}_SIZE ${p.size}`,
      `#define ${what}_SCALE ${Number(q.scale[0]!.toPrecision(9))}`,
    ].join('\n')
  }
  const banner = `/* ${comment(graph.name || stem)}, written by dqc ${o.version}.\n${Object.entries(metadata)
    .map(([k, v]) => ` * ${comment(k)}: ${comment(v)}`)
    .join('\n')}\n */`
  const header = [
    banner,
    `#ifndef ${guard}`,
    `#define ${guard}`,
    '#include <stdint.h>',
    '',
    ...graph.inputs.map((v) => about(v, 'input', graph.inputs)),
    ...graph.outputs.map((v) => about(v, 'output', graph.outputs)),
    '',
    `/* Bytes of static memory, and of constants. */`,
    `#define ${prefix.toUpperCase()}_RAM ${ram}`,
    `#define ${prefix.toUpperCase()}_CONSTANTS ${constantBytes}`,
    '',
    '#ifdef __cplusplus',
    'extern "C" {',
    '#endif',
    '/* One inference. Not reentrant: intermediate results are static. */',
    `${signature};`,
    '#ifdef __cplusplus',
    '}',
    '#endif',
    '#endif',
    '',
  ].join('\n')
  const source = [
    banner,
    `#include "${stem}.h"`,
    '',
    ...(o.hls
      ? ['#ifdef __SYNTHESIS__', '#define DQC_PIPELINE _Pragma("HLS pipeline II=1")', '#else', '#define DQC_PIPELINE', '#endif', '']
      : []),
    ...constants,
    '',
    ...(memory.size
      ? [
          wide
            ? `static union {\n    int32_t align;\n    uint8_t bytes[${memory.size}];\n} arena;`
            : `static uint8_t arena[${memory.size}];`,
        ]
      : []),
    ...(rowSize ? [`static int8_t row_weights[${rowSize}];`] : []),
    ...(sums ? [`static int32_t sums[${sums}];`] : []),
    '',
    functionsFor(functions),
    '',
    ...bodies.map((text) => indent(o.hls ? text : text.replaceAll('DQC_PIPELINE\n', ''))).flatMap((t) => [t, '']),
    signature,
    '{',
    ...calls,
    '}',
    '',
  ].join('\n')
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
  return {
    files: [
      { path: `${stem}.c`, bytes: bytes(source) },
      { path: `${stem}.h`, bytes: bytes(header) },
    ],
    storage: { weights: o.packedWeights ? packedBits(graph) : 8, activations: 8 },
    channelsLast: {
      inputs: graph.inputs.map((v) => ranks.has(place(v).shape.length)),
      outputs: graph.outputs.map((v) => ranks.has(place(v).shape.length)),
    },
    mapping: null,
    memory: { ram, constants: constantBytes },
  }
}

/** Widest grid of the weights below eight bits, 8 where there is none. */
const packedBits = (graph: Graph): number => {
  const bits = graph.nodes.flatMap((n) =>
    n.inputs.flatMap((v) => (v && isConstant(v) && v.quant && v.dtype === 'int8' ? [Math.ceil(Math.log2(v.quant.hi + 1)) + 1] : [])),
  )
  const narrow = bits.filter((b) => b < 8)
  return narrow.length ? Math.max(...narrow) : 8
}

const aligned = (n: number): number => 4 * Math.ceil(n / 4)

const argument = (list: readonly Value[], v: Value, role: string): string => (list.length === 1 ? role : `${role}${list.indexOf(v)}`)

/** A constant operand in memory order. */
function inMemory(v: Value & { data: NonNullable<Value['data']> }, p: Place): Int32Array {
  const out = new Int32Array(p.size)
  const from = numbersOf(v.data)
  memoryOrder(p).forEach((m, i) => {
    out[m] = from[i]!
  })
  return out
}

/** Numbers in lines of readable length. */
function lines(values: ArrayLike<number>): string {
  const out: string[] = []
  for (let i = 0; i < values.length; i += 24)
    out.push(`    ${Array.from({ length: Math.min(24, values.length - i) }, (_, k) => values[i + k]).join(', ')}`)
  return out.join(',\n')
}

/** Blocks indented by their braces. */
function indent(text: string): string {
  let depth = 0
  return text
    .split('\n')
    .map((line) => {
      if (line.startsWith('}')) depth--
      const out = line === '' ? '' : `${'    '.repeat(depth)}${line}`
      if (line.endsWith('{')) depth++
      return out
    })
    .join('\n')
}
