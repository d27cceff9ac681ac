import { type Builder, createBuilder } from '../ir/builder.ts'
import { type Graph, isConstant, type Level, type Node, type QuantParams, type Value } from '../ir/graph.ts'
import { prune, rewrite } from '../ir/rewrite.ts'
import { numbersOf, sizeOf, tensorOf } from '../ir/tensor.ts'
import { reshape } from '../ops/broadcasting.ts'
import { add, exp, mul, round, sub } from '../ops/elementwise.ts'
import { detach } from '../ops/foreign.ts'
import { slice } from '../ops/structure.ts'
import { scores } from '../passes/attackStep.ts'
import { differentiate } from '../passes/autodiff.ts'
import { type QuantPlan, quantizeInto } from '../passes/insertQuantizers.ts'
import { fitScales } from '../quant/weights.ts'

export type ParameterRole = 'weight' | 'bias' | 'scale'

/** One tensor that training moves, and its place in the flat vector of all of them. Scales are stored as logarithms. */
export interface Parameter {
  readonly name: string
  readonly role: ParameterRole
  readonly shape: readonly number[]
  readonly offset: number
  readonly size: number
  /** Length of a step at a learning rate of 1, so that one rate serves tensors of every size. */
  readonly rate: number
  /** Bounds of every element. */
  readonly lo: number
  readonly hi: number
}

/** How far activation scales may move: factors on where they start; [1, 1] freezes them. */
export type ScaleBounds = readonly [number, number]

export interface TrainableOptions {
  /** Layers that keep their numbers: node names, output names or op names. */
  readonly frozen?: (node: Node) => boolean
  readonly activationBounds?: ScaleBounds
  /** Whether a node's results have a grid that its kernel prescribes. */
  readonly fixedGrid?: (node: Node) => boolean
  /** Scales stay powers of two: the nearest to what is learned. */
  readonly powerOfTwo?: boolean
}

/** A network whose weights, biases and quantizer scales lie in one flat vector. */
export interface Trainable {
  /** What it came from. */
  readonly source: Graph<'float'>
  readonly parameters: readonly Parameter[]
  /** The source's layers with trained weights, and the parameter that holds them. */
  readonly layers: readonly { readonly node: Node; readonly weight: Parameter }[]
  readonly initial: Float32Array
  /** The parameters in their order, out of the flat vector. */
  split(b: Builder, flat: Value): readonly Value[]
  /** Adds the network to `b`: its scores for `x`. */
  forward(b: Builder, values: readonly Value[], x: Value): Value
  /** (x, flat) → scores. */
  readonly network: Graph
  /** The network with the numbers of `flat`. */
  restore(flat: Float32Array): { graph: Graph<'float'>; plan: QuantPlan }
}

/** Nothing is quantized. */
export const floatPlan: QuantPlan = {
  integer: new Set(),
  absorbed: new Set(),
  grids: new Map(),
  weights: new Map(),
  biases: new Map(),
  edges: new Set(),
}

/** A learned log-scale moves by this times the learning rate: 0.003 per step at the default rate of 0.01. */
const SCALE_RATE = 0.3
/** A bias that starts near zero still moves, by this share of what its layer's weights can add up to. */
const BIAS_SHARE = 0.02

const rms = (v: ArrayLike<number>): number => {
  let s = 0
  for (let i = 0; i < v.length; i++) s += v[i]! ** 2
  return Math.sqrt(s / Math.max(1, v.length))
}

/**
 * Makes a network trainable: weights and biases of its layers, and with a plan the scales of its grids (learned step sizes: Esser et al. 2020,
 * arXiv 1902.08153; stored as logarithms, so that they stay positive and move in proportion). Grids that the standard or the input fix stay.
 */
export function createTrainable(graph: Graph<'float'>, plan: QuantPlan, options: TrainableOptions = {}): Trainable {
  const powerOfTwo = options.powerOfTwo ?? false
  const parameters: Parameter[] = []
  const initial: number[][] = []
  const ofConstant = new Map<Value, Parameter>()
  const ofGrid = new Map<QuantParams, Parameter>()
  const layers: { node: Node; weight: Parameter }[] = []
  let offset = 0
  const addParameter = (p: Omit<Parameter, 'offset' | 'size'>, start: ArrayLike<number>): Parameter => {
    const q: Parameter = { ...p, offset, size: start.length }
    offset += start.length
    parameters.push(q)
    initial.push(Array.from(start))
    return q
  }
  const free = { lo: Number.NEGATIVE_INFINITY, hi: Number.POSITIVE_INFINITY }
  const addGrid = (q: QuantParams, name: string, bounds: ScaleBounds | null): void => {
    if (ofGrid.has(q)) return
    const start = Float32Array.from(q.scale, Math.log)
    const [lo, hi] = bounds
      ? [start[0]! + Math.log(bounds[0]), start[0]! + Math.log(bounds[1])]
      : [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
    ofGrid.set(q, addParameter({ name, role: 'scale', shape: q.axis === null ? [] : [q.scale.length], rate: SCALE_RATE, lo, hi }, start))
  }
  const frozen = (node: Node): boolean => options.frozen?.(node) ?? false
  // Grids that the input or a kernel prescribes, whoever else shares them, and numbers that a frozen layer reads, whoever else reads them.
  const makers = graph.nodes.filter((n) => options.fixedGrid?.(n)).flatMap((n) => n.outputs)
  const fixed = new Set([...graph.inputs, ...makers].flatMap((v) => plan.grids.get(v.name) ?? []))
  const kept = new Set(graph.nodes.filter(frozen).flatMap((n) => n.inputs))
  for (const node of graph.nodes) {
    const info = node.op.weights?.(node.attrs)
    const weight = info ? node.inputs[info.weight] : null
    const name = node.outputs[0]!.name
    if (info && isConstant(weight) && weight.dtype === 'float32' && !kept.has(weight)) {
      const w = numbersOf(weight.data) as Float32Array
      const shape = weight.data.shape
      let p = ofConstant.get(weight)
      if (!p) {
        p = addParameter({ name: weight.name, role: 'weight', shape, rate: rms(w) || 1e-3, ...free }, w)
        ofConstant.set(weight, p)
      }
      layers.push({ node, weight: p })
      const bias = info.bias === null ? null : node.inputs[info.bias]
      if (isConstant(bias) && !ofConstant.has(bias) && !kept.has(bias)) {
        const v = numbersOf(bias.data) as Float32Array
        const fanIn = sizeOf(shape) / shape[info.axis]!
        const rate = Math.max(rms(v), BIAS_SHARE * rms(w) * Math.sqrt(fanIn))
        ofConstant.set(bias, addParameter({ name: bias.name, role: 'bias', shape: bias.data.shape, rate, ...free }, v))
      }
    }
    const grid = plan.weights.get(name)
    if (grid && info && !frozen(node)) addGrid(grid, `${name}.weights`, null)
  }
  for (const node of graph.nodes)
    for (const v of node.outputs) {
      const q = plan.grids.get(v.name)
      if (q && !fixed.has(q)) addGrid(q, v.name, options.activationBounds ?? null)
    }

  const split = (b: Builder, flat: Value): readonly Value[] =>
    parameters.map((p) => {
      const part = b.emit(slice, [flat], { axes: [0], starts: [p.offset], ends: [p.offset + p.size], steps: [1] })
      return p.shape.length === 1 ? part : b.emit(reshape, [part], { shape: p.shape })
    })
  const index = new Map(parameters.map((p, i) => [p, i]))
  const closed = scoring(graph)
  const forward = (b: Builder, values: readonly Value[], x: Value): Value => {
    const scales = new Map<QuantParams, Value>()
    const scale = (q: QuantParams): Value => {
      let v = scales.get(q)
      if (!v) {
        const p = ofGrid.get(q)
        const shape = q.axis === null ? [] : [q.scale.length]
        v = p ? scaleFrom(b, values[index.get(p)!]!, powerOfTwo) : b.constant(tensorOf('float32', shape, q.scale), 'scale')
        scales.set(q, v)
      }
      return v
    }
    const constant = (v: Value): Value => {
      const p = ofConstant.get(v)
      return p ? values[index.get(p)!]! : v
    }
    return quantizeInto(b, closed, plan, [x], { constant, scale }).outputs[0]!
  }
  const network = (): Graph => {
    const b = createBuilder()
    const x = b.input('x', graph.inputs[0]!)
    const flat = b.input('parameters', { dtype: 'float32', shape: [offset] })
    const z = forward(b, split(b, flat), x)
    return b.build('qdq', [z], { outputNames: [z.name] })
  }
  return {
    source: graph,
    parameters,
    layers,
    initial: Float32Array.from(initial.flat()),
    split,
    forward,
    network: network(),
    restore: (flat) => restore(graph, plan, flat, ofConstant, ofGrid, powerOfTwo ? (v) => 2 ** Math.round(v / Math.LN2) : Math.exp),
  }
}

/** Throws CompileError where something between a network's layers and its results has no derivative. */
export function checkTrainable(graph: Graph<'float'>, frozen: (node: Node) => boolean, batch: number): void {
  const t = createTrainable(graph, floatPlan, { frozen })
  const b = createBuilder()
  const fed = b.input('x', { dtype: 'float32', shape: [batch, ...(graph.inputs[0]!.shape ?? []).slice(1)] })
  const values = t.split(b, b.input('parameters', { dtype: 'float32', shape: [t.initial.length] }))
  const z = t.forward(b, values, fed)
  if (values.length) differentiate(b, [{ y: z, dy: z }], values)
}

/** exp(v), or the nearest power of two, through which gradients pass straight. */
function scaleFrom(b: Builder, log: Value, powerOfTwo: boolean): Value {
  if (!powerOfTwo) return b.emit(exp, [log], {})
  const exponent = b.emit(mul, [log, b.scalar(Math.LOG2E)], {})
  const missing = b.emit(detach, [b.emit(sub, [b.emit(round, [exponent], {}), exponent], {})], {})
  return b.emit(exp, [b.emit(mul, [b.emit(add, [exponent, missing], {}), b.scalar(Math.LN2)], {})], {})
}

/** The part of a network that gives the scores: a closing softmax needs no training. */
export function scoring<L extends Level>(graph: Graph<L>): Graph<L> {
  const z = scores(graph)
  return prune({ ...graph, outputs: [z], outputNames: [z.name] })
}

function restore(
  graph: Graph<'float'>,
  plan: QuantPlan,
  flat: Float32Array,
  ofConstant: ReadonlyMap<Value, Parameter>,
  ofGrid: ReadonlyMap<QuantParams, Parameter>,
  scaleOf: (log: number) => number,
): { graph: Graph<'float'>; plan: QuantPlan } {
  const part = (p: Parameter): Float32Array => flat.slice(p.offset, p.offset + p.size)
  const fresh = new Map<Value, Value>()
  const constant = (v: Value): Value => {
    const p = ofConstant.get(v)
    if (!p) return v
    let n = fresh.get(v)
    if (!n) fresh.set(v, (n = { ...v, data: tensorOf('float32', p.shape, part(p)) }))
    return n
  }
  const moved = rewrite(graph, (b, node, inputs) =>
    node.inputs.some((v) => v && ofConstant.has(v))
      ? b.add(
          node.op,
          inputs.map((v) => (v ? constant(v) : null)),
          node.attrs,
          { name: node.name, outputs: node.outputs.map((v) => v.name) },
        )
      : null,
  )
  const grids = new Map<QuantParams, QuantParams>()
  const grid = (q: QuantParams): QuantParams => {
    const p = ofGrid.get(q)
    if (!p) return q
    let n = grids.get(q)
    if (!n) grids.set(q, (n = { ...q, scale: Float32Array.from(part(p), scaleOf) }))
    return n
  }
  const activations = new Map([...plan.grids].map(([name, q]) => [name, grid(q)]))
  const makers = new Map(moved.nodes.map((n) => [n.outputs[0]!.name, n]))
  const weights = new Map(
    [...plan.weights].map(([name, q]) => {
      const learned = grid(q)
      const node = makers.get(name)
      const info = node?.op.weights?.(node.attrs)
      const x = node ? activations.get(node.inputs[0]!.name) : undefined
      if (!node || !info || !x) return [name, learned]
      const bias = info.bias === null ? null : node.inputs[info.bias]
      const each = learned.axis === null ? new Float32Array(numbersAlong(node, info)).fill(learned.scale[0]!) : learned.scale
      const fitted = fitScales(
        each,
        node.inputs[info.weight]!.data!,
        info.axis,
        bias ? numbersOf(bias.data!) : null,
        x.scale[0]!,
        Math.max(-x.lo, x.hi),
        learned.hi,
      )
      return [name, { ...learned, scale: learned.axis === null ? Float32Array.of(Math.max(...fitted)) : fitted }]
    }),
  )
  // An accumulator that became coarser than a bias's grid takes the grid along.
  const biases = new Map(
    [...plan.biases].map(([name, q]) => {
      const x = activations.get(makers.get(name)!.inputs[0]!.name)!
      return [name, { ...q, scale: Float32Array.of(Math.max(q.scale[0]!, x.scale[0]! * weights.get(name)!.scale[0]!)) }]
    }),
  )
  return { graph: moved, plan: { ...plan, grids: activations, weights, biases } }
}

const numbersAlong = (node: Node, info: { weight: number; axis: number }): number => node.inputs[info.weight]!.data!.shape[info.axis]!
