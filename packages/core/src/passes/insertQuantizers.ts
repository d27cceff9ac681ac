import type { Builder } from '../ir/builder.ts'
import { createBuilder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import { type Graph, isConstant, type Node, type QuantParams, usesOf, type Value } from '../ir/graph.ts'
import { liveNodes } from '../ir/rewrite.ts'
import { isFloat, numbersOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { mul } from '../ops/elementwise.ts'
import { fakeQuant } from '../ops/fakeQuant.ts'
import { detach, identity } from '../ops/foreign.ts'
import { containerZero } from '../ops/integer.ts'
import { pad } from '../ops/structure.ts'
import type { Ranges } from '../quant/calibrate.ts'
import { chooseScale, type Range } from '../quant/observer.ts'
import type { KernelRules } from '../quant/rules.ts'
import { activationGrid, checkSpec, type QuantSpec, signedGrid } from '../quant/spec.ts'
import { fitScales, pairScales, weightScale, weightScales } from '../quant/weights.ts'
import { assignIslands, type Side } from './assignIslands.ts'

/** Where each quantized value's grid came from, for the report. */
export interface QuantPlan {
  /** Nodes that will run in integers, by the name of their first output. */
  readonly integer: ReadonlySet<string>
  /** Results that have no grid of their own because the clamp behind them is part of the op. */
  readonly absorbed: ReadonlySet<string>
  /** Grid of each quantized value, by name. */
  readonly grids: ReadonlyMap<string, QuantParams>
  /** Grid of each layer's weights, by the name of the layer's output. */
  readonly weights: ReadonlyMap<string, QuantParams>
  /** Grid of each layer's bias, where it has one of its own. */
  readonly biases: ReadonlyMap<string, QuantParams>
  /** First and last layers, by the name of their output. */
  readonly edges: ReadonlySet<string>
}

/**
 * Plans the grids: which values are quantized, with how many bits and which scale. Values whose ops pass numbers through (pools, Reshape,
 * Concat …) share one grid. An activation that only clamps is absorbed into the grid of the op before it.
 * `rules` say what the target has integer kernels for. Throws CompileError when a range is missing or not finite.
 */
export function planQuantization(graph: Graph<'float'>, spec: QuantSpec, ranges: Ranges, rules: KernelRules): QuantPlan {
  checkSpec(spec)
  const { powerOfTwo } = spec.scheme
  const uses = usesOf(graph)
  const isLayer = (n: Node): boolean => n.op.weights !== null
  const constantWeights = (n: Node): boolean => {
    const info = n.op.weights!(n.attrs)
    const bias = info.bias === null ? null : n.inputs[info.bias]
    return isConstant(n.inputs[info.weight]) && (!bias || isConstant(bias)) && !isConstant(n.inputs[0])
  }
  const able = (n: Node): boolean =>
    rules.lowering(n) !== null &&
    !spec.exclude(n) &&
    n.outputs.every((v) => v.dtype === 'float32') &&
    n.inputs.every((v) => v === null || v.dtype === 'float32' || isConstant(v))
  // A clamp behind a float op belongs to it: quantized behind the clamp, the value loses nothing twice.
  const behindFloat = (n: Node): boolean => {
    const maker = n.op.clamp && n.inputs[0] ? uses.producer(n.inputs[0]) : null
    return maker !== null && (isLayer(maker) ? !able(maker) || !constantWeights(maker) : !able(maker))
  }
  const side = (n: Node): Side => (!able(n) || behindFloat(n) ? 'float' : !isLayer(n) ? 'either' : constantWeights(n) ? 'integer' : 'float')
  const integer = assignIslands(graph, side, spec.integerIO)

  // Values that share one grid.
  const shares = (n: Node): boolean => n.op.quant === 'shared' || rules.tied(n)
  const parent = new Map<Value, Value>()
  const root = (v: Value): Value => {
    const p = parent.get(v) ?? v
    return p === v ? v : root(p)
  }
  const join = (a: Value, c: Value): void => {
    parent.set(root(a), root(c))
  }
  const data = (n: Node): Value[] => n.inputs.filter((v): v is Value => v !== null && isFloat(v.dtype) && !isConstant(v))
  for (const n of graph.nodes) if (integer.has(n) && shares(n)) for (const v of [...data(n), ...n.outputs.slice(1)]) join(v, n.outputs[0]!)

  // A clamp right behind an integer op (or a conversion) needs no op of its own.
  const candidates = absorbedClamps(graph, integer, rules)
  const quantized = new Set<Value>()
  for (const n of graph.nodes) {
    if (!integer.has(n)) continue
    for (const v of data(n)) quantized.add(v)
    for (const v of n.outputs) if (!candidates.has(v)) quantized.add(v)
  }
  if (spec.integerIO) for (const v of [...graph.inputs, ...graph.outputs]) if (isFloat(v.dtype)) quantized.add(v)

  const groups = new Map<Value, Value[]>()
  for (const v of quantized) {
    const r = root(v)
    groups.set(r, [...(groups.get(r) ?? []), v])
  }
  const edges = edgeLayers(graph, isLayer)
  const grids = new Map<string, QuantParams>()
  for (const members of groups.values()) {
    const bits = bitsOf(members, uses, spec, edges, integer, shares)
    const seen = members.map((v) => rangeOf(ranges, v))
    // What is only moved on inside the group need not fit; of all that is read elsewhere, the widest must. A mean narrows what it averages, which
    // needs its grid all the same.
    const averaged = members.some((v) => rules.tied(uses.producer(v) ?? NOBODY))
    const moves = (n: Node): boolean => integer.has(n) && shares(n)
    const read = members.filter((v) => averaged || uses.isOutput(v) || uses.consumers(v).length === 0 || !uses.consumers(v).every(moves))
    const reach = (v: Value): number => Math.max(-rangeOf(ranges, v).min, rangeOf(ranges, v).max)
    const widest = read.reduce((a, v) => (reach(v) >= reach(a) ? v : a))
    const grid = activationGrid(
      bits,
      seen.some((r) => r.min < 0),
      spec.scheme.signedContainers,
    )
    const range = rangeOf(ranges, widest)
    // The largest scores decide: a clip that lowers the mean error would make them equal.
    const observer = members.some((v) => uses.isOutput(v)) ? 'minmax' : spec.observer
    const fixed = members.flatMap((v) => rules.fixedGrid(uses.producer(v) ?? NOBODY) ?? [])[0]
    const q: QuantParams = fixed ?? {
      scale: Float32Array.of(chooseScale(range, observer, grid.lo, grid.hi, powerOfTwo)),
      axis: null,
      ...grid,
    }
    for (const v of members) grids.set(v.name, q)
  }
  // Where the clamp's grid reaches beyond its interval (it is shared with other values), the clamp stays an op and its input needs a grid.
  const absorbed = new Set<string>()
  for (const v of candidates) {
    const clamp = uses.consumers(v)[0]!
    if (absorbs(clamp, grids.get(clamp.outputs[0]!.name)!)) absorbed.add(v.name)
    else {
      const r = rangeOf(ranges, v)
      const grid = activationGrid(spec.sumBits, r.min < 0, spec.scheme.signedContainers)
      grids.set(v.name, { scale: Float32Array.of(chooseScale(r, spec.observer, grid.lo, grid.hi, powerOfTwo)), axis: null, ...grid })
    }
  }

  const weights = new Map<string, QuantParams>()
  const biases = new Map<string, QuantParams>()
  for (const n of graph.nodes) {
    if (!integer.has(n)) continue
    const name = n.outputs[0]!.name
    if (!isLayer(n)) {
      // A constant operand of a sum or product: one scale, eight bits.
      for (const v of n.inputs)
        if (isConstant(v) && isFloat(v.dtype))
          weights.set(
            name,
            n.op.quant === 'shared' ? grids.get(name)! : { scale: scaleOfConstant(v.data, powerOfTwo), axis: null, ...signedGrid(8) },
          )
      continue
    }
    const info = n.op.weights!(n.attrs)
    const w = n.inputs[info.weight]!.data!
    const bias = info.bias === null ? null : n.inputs[info.bias]
    const bits = edges.has(n) ? spec.edgeBits : spec.weightBits
    const { lo, hi } = signedGrid(bits)
    const x = grids.get(n.inputs[0]!.name)!
    const scales = rules.perChannel(n)
      ? weightScales(w, info.axis, hi, spec.observer !== 'minmax', powerOfTwo)
      : new Float32Array(w.shape[info.axis]!).fill(weightScale(w, hi, spec.observer !== 'minmax', powerOfTwo))
    // First and last layers keep their whole grid: what they lose counts most, and they are a small part of the work.
    const paired =
      rules.pairLimit === null || edges.has(n)
        ? scales
        : pairScales(scales, w, info.axis, hi, Math.floor(rules.pairLimit / (x.hi + containerZero(x))), powerOfTwo)
    const fitted = fitScales(paired, w, info.axis, bias ? numbersOf(bias.data!) : null, x.scale[0]!, Math.max(-x.lo, x.hi), hi)
    // One scale has to fit all channels.
    const one = Float32Array.of(fitted.reduce((m, s) => Math.max(m, s), 0))
    weights.set(name, rules.perChannel(n) ? { scale: fitted, axis: info.axis, lo, hi } : { scale: one, axis: null, lo, hi })
    if (bias && spec.scheme.biasBits !== null)
      biases.set(name, biasGrid(numbersOf(bias.data!), spec.scheme.biasBits, x.scale[0]! * one[0]!))
  }
  const names = (nodes: Iterable<Node>): Set<string> => new Set([...nodes].map((n) => n.outputs[0]!.name))
  return { integer: names(integer), absorbed, grids, weights, biases, edges: names(edges) }
}

/** Stands for the maker of a network input. */
const NOBODY: Node = { op: identity, name: '', inputs: [], outputs: [], attrs: {} }

function scaleOfConstant(t: Tensor, powerOfTwo: boolean): Float32Array {
  const full = (numbersOf(t) as Float32Array).reduce((m, v) => Math.max(m, Math.abs(v)), 0) / 127 || 1
  return Float32Array.of(powerOfTwo ? 2 ** Math.ceil(Math.log2(full)) : full)
}

/** A power-of-two grid for a layer's bias, no finer than its accumulator, which then holds every step of it. */
function biasGrid(bias: ArrayLike<number>, bits: number, accumulator: number): QuantParams {
  const { lo, hi } = signedGrid(bits)
  const top = Array.from(bias).reduce((m, v) => Math.max(m, Math.abs(v)), 0)
  const fits = top > 0 ? 2 ** Math.ceil(Math.log2(top / hi)) : accumulator
  return { scale: Float32Array.of(Math.max(fits, accumulator)), axis: null, lo, hi }
}

/** Refuses networks whose layers hold NaN or infinities, which no grid has room for. Throws CompileError naming the layer. */
export function checkWeights(graph: Graph): void {
  for (const n of graph.nodes)
    if (n.op.weights) for (const v of n.inputs) if (isConstant(v) && isFloat(v.dtype)) checkFinite(v.data, n.name || n.outputs[0]!.name)
}

function checkFinite(t: Tensor, where: string): void {
  const bad = (numbersOf(t) as Float32Array).findIndex((v) => !Number.isFinite(v))
  if (bad >= 0)
    throw errors.badModel(
      `the weights hold ${numbersOf(t)[bad]} at element ${bad}`,
      `layer ${where}`,
      'a diverged training or a damaged file',
    )
}

function rangeOf(ranges: Ranges, v: Value): Range {
  const r = ranges.get(v.name)
  if (!r) throw errors.badData(`calibration saw no values of ${v.name}`)
  if (!Number.isFinite(r.min) || !Number.isFinite(r.max))
    throw errors.badModel(
      `calibration met ${r.min} … ${r.max} in ${v.name}`,
      null,
      'the network overflows on this data: check --scale, --mean and --std',
    )
  return r
}

/** Outputs of integer ops whose only use is a clamp: the clamp's grid is theirs. */
function absorbedClamps(graph: Graph, integer: ReadonlySet<Node>, rules: KernelRules): ReadonlySet<Value> {
  const uses = usesOf(graph)
  const absorbed = new Set<Value>()
  for (const n of graph.nodes) {
    const x = n.inputs[0]
    if (!integer.has(n) || !x || !n.op.clamp?.(n.inputs, n.attrs)) continue
    const maker = uses.producer(x)
    // Results whose grid the kernel decides keep it.
    const own = maker && integer.has(maker) && maker.op.quant === 'own' && !rules.tied(maker) && !rules.fixedGrid(maker)
    if (own && uses.consumers(x).length === 1 && !uses.isOutput(x)) absorbed.add(x)
  }
  return absorbed
}

/** Layers that no other layer separates from an input or an output of the network. */
function edgeLayers(graph: Graph, isLayer: (n: Node) => boolean): ReadonlySet<Node> {
  const edges = new Set<Node>()
  const uses = usesOf(graph)
  const sweep = (start: readonly Value[], next: (v: Value) => readonly Node[], through: (n: Node) => readonly (Value | null)[]): void => {
    const seen = new Set<Value>(start)
    const queue = [...start]
    for (let i = 0; i < queue.length; i++)
      for (const n of next(queue[i]!)) {
        if (isLayer(n)) {
          edges.add(n)
          continue
        }
        for (const v of through(n))
          if (v && !seen.has(v)) {
            seen.add(v)
            queue.push(v)
          }
      }
  }
  sweep(
    graph.inputs,
    (v) => uses.consumers(v),
    (n) => n.outputs,
  )
  sweep(
    graph.outputs,
    (v) => [uses.producer(v)].filter((n): n is Node => n !== null),
    (n) => n.inputs,
  )
  return edges
}

/**
 * Bits of a group of values that share a grid. Where layers read it, no more than they multiply, whatever else reads it; elsewhere as many as
 * the most demanding reader wants.
 */
function bitsOf(
  members: readonly Value[],
  uses: ReturnType<typeof usesOf>,
  spec: QuantSpec,
  edges: ReadonlySet<Node>,
  integer: ReadonlySet<Node>,
  shares: (n: Node) => boolean,
): number {
  const inside = new Set(members)
  const readers = members.flatMap((v) => uses.consumers(v).filter((n) => !(integer.has(n) && shares(n) && inside.has(n.outputs[0]!))))
  // Both operands of a product of matrices are multiplied; the operands of sums and means are not.
  const multiplies = (n: Node): boolean => integer.has(n) && (n.op.weights !== null || (n.op.name === 'matmul' && n.op.lower !== null))
  const layers = readers.filter(multiplies).map((n) => (edges.has(n) ? spec.edgeBits : spec.actBits))
  if (layers.length > 0) return Math.min(...layers)
  const others = readers.map((n) => (integer.has(n) ? spec.sumBits : spec.edgeBits))
  if (members.some((v) => uses.isOutput(v))) others.push(spec.edgeBits)
  return others.length === 0 ? spec.actBits : Math.max(...others)
}

/** A qdq graph, and where each value of the float graph went: its real number before any quantizer. */
export interface Quantized {
  readonly graph: Graph<'qdq'>
  readonly real: ReadonlyMap<string, Value>
}

/** Where a network's numbers come from: its own constants, or parameters that training moves. */
export interface Numbers {
  /** A constant of the float graph. */
  constant(v: Value): Value
  /** The scales of a grid: a scalar, or one per channel. */
  scale(q: QuantParams, name: string): Value
}

/** Makes the qdq graph that a plan describes: every quantized value passes a fakeQuant, layers read quantized weights. */
export function insertQuantizers(graph: Graph<'float'>, plan: QuantPlan): Quantized {
  const b = createBuilder()
  const inputs = graph.inputs.map((v) => b.input(v.name, v))
  const { outputs, real } = quantizeInto(b, graph, plan, inputs, { constant: (v) => v, scale: scaleConstants(b) })
  const built = b.build('qdq', outputs, { name: graph.name, outputNames: graph.outputNames, origin: graph.origin })
  return { graph: { ...built, nodes: Object.freeze(liveNodes(built.nodes, outputs)) }, real }
}

/** Adds the quantized network to `b`, fed by `fed` and with its numbers from `numbers`; a plan without grids gives the float network. */
export function quantizeInto(
  b: Builder,
  graph: Graph<'float'>,
  plan: QuantPlan,
  fed: readonly Value[],
  numbers: Numbers,
): { outputs: Value[]; real: ReadonlyMap<string, Value> } {
  const uses = usesOf(graph)
  const map = new Map<Value, Value>()
  /** Real values before their quantizer, for float readers of float values. */
  const raw = new Map<Value, Value>()
  const { absorbed } = plan
  const onGrid = (n: Node): boolean => plan.integer.has(n.outputs[0]!.name)
  const quantize = (v: Value, q: QuantParams, fused: boolean, name: string): Value =>
    b.emit(fakeQuant, [v, numbers.scale(q, name)], { lo: q.lo, hi: q.hi, axis: q.axis, fused }, { outputs: [name] })

  graph.inputs.forEach((v, i) => {
    raw.set(v, fed[i]!)
    const q = plan.grids.get(v.name)
    map.set(v, q && isFloat(v.dtype) ? quantize(fed[i]!, q, false, `${v.name}.q`) : fed[i]!)
  })
  for (const n of graph.nodes) {
    const isInteger = onGrid(n)
    const inputs = n.inputs.map((v, i) => {
      if (v === null) return null
      if (isConstant(v)) return isInteger ? integerConstant(b, n, i, v, plan, numbers, quantize) : numbers.constant(v)
      const maker = uses.producer(v)
      // Between two float ops nothing is converted.
      return !isInteger && (maker === null || !onGrid(maker)) ? (raw.get(v) ?? map.get(v)!) : map.get(v)!
    })
    if (isInteger && n.op.clamp && absorbed.has(n.inputs[0]!.name)) {
      // relu(x) on a grid that starts at 0 is the grid's own lower end.
      map.set(n.outputs[0]!, quantize(inputs[0]!, plan.grids.get(n.outputs[0]!.name)!, true, n.outputs[0]!.name))
      continue
    }
    const names = n.outputs.map((v) =>
      isInteger && n.op.quant !== 'shared' && plan.grids.has(v.name) && !absorbed.has(v.name) ? `${v.name}.real` : v.name,
    )
    const outs = b.add(n.op, inputs, n.attrs, { name: n.name, outputs: names, ...(n.op.name === 'foreign' ? { types: n.outputs } : {}) })
    n.outputs.forEach((v, i) => {
      raw.set(v, outs[i]!)
      const q = plan.grids.get(v.name)
      // Ops that pass numbers through stay on their input's grid without another quantizer, unless they add numbers that need not lie on it.
      const passes = isInteger && n.op.quant === 'shared' && !(n.op === pad && n.attrs.value !== 0)
      map.set(
        v,
        q && !passes && !absorbed.has(v.name) && isFloat(v.dtype)
          ? quantize(outs[i]!, q, isInteger, isInteger ? v.name : `${v.name}.q`)
          : outs[i]!,
      )
    })
  }
  const outputs = graph.outputs.map((v) => {
    const maker = uses.producer(v)
    return maker && !onGrid(maker) && !plan.grids.has(v.name) ? (raw.get(v) ?? v) : (map.get(v) ?? v)
  })
  return { outputs, real: new Map([...raw].map(([v, r]) => [v.name, r])) }
}

/** Whether the clamp's interval holds the whole grid, so that the grid's ends do its work. */
export function absorbs(n: Node, q: QuantParams): boolean {
  const [min, max] = n.op.clamp!(n.inputs, n.attrs)!
  const tolerance = 1e-6 * Math.max(1, Math.abs(max))
  return q.lo * q.scale[0]! >= min && q.hi * q.scale[0]! <= max + tolerance
}

/** A constant that an integer op reads: weights on their grid, biases on the accumulator's. */
function integerConstant(
  b: Builder,
  n: Node,
  i: number,
  v: Value & { data: Tensor },
  plan: QuantPlan,
  numbers: Numbers,
  quantize: (v: Value, q: QuantParams, fused: boolean, name: string) => Value,
): Value {
  const q = plan.weights.get(n.outputs[0]!.name)
  const info = n.op.weights?.(n.attrs)
  const own = numbers.constant(v)
  if (q && info?.bias === i) {
    const x = plan.grids.get(n.inputs[0]!.name)!
    const grid = plan.biases.get(n.outputs[0]!.name)
    if (grid) return onBiasGrid(b, own, grid)
    return onAccumulator(b, own, numbers.scale(x, ''), numbers.scale(q, ''), q.axis === null ? null : 0)
  }
  return q && (info ? i === info.weight : isFloat(v.dtype)) ? quantize(own, q, false, `${v.name}.q`) : own
}

/** b as an accumulator in steps of s_x·s_w holds it: a whole number of them. What rounding does to it says nothing about the scales. */
function onAccumulator(b: Builder, bias: Value, x: Value, w: Value, axis: number | null): Value {
  const attrs = { lo: -(2 ** 31), hi: 2 ** 31 - 1, axis, fused: false }
  if (!bias.data || !x.data || !w.data) return b.emit(fakeQuant, [bias, b.emit(detach, [b.emit(mul, [x, w], {})], {})], attrs)
  return b.constant(fakeQuant.eval([bias.data, mul.eval([x.data, w.data], {})[0]!], attrs)[0]!, bias.name)
}

/** b on a grid of its own, which a constant takes along. */
function onBiasGrid(b: Builder, bias: Value, q: QuantParams): Value {
  const scale = b.constant(tensorOf('float32', [], q.scale), `${bias.name}.scale`)
  const attrs = { lo: q.lo, hi: q.hi, axis: null, fused: false }
  if (!bias.data) return b.emit(fakeQuant, [bias, scale], attrs)
  return b.constant(fakeQuant.eval([bias.data, scale.data!], attrs)[0]!, bias.name, q)
}

/** One scale constant per grid object. */
function scaleConstants(b: Builder): (q: QuantParams, name: string) => Value {
  const known = new Map<QuantParams, Value>()
  return (q, name) => {
    let v = known.get(q)
    if (!v)
      known.set(
        q,
        (v = b.constant(
          q.axis === null ? tensorOf('float32', [], q.scale) : tensorOf('float32', [q.scale.length], q.scale),
          `${name}.scale`,
        )),
      )
    return v
  }
}
