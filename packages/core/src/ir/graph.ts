import type { Op } from './op.ts'
import type { DType, Tensor } from './tensor.ts'

/** What kinds of numbers a graph holds: real values; real values on a quantization grid; the grid's integers. */
export type Level = 'float' | 'qdq' | 'integer'

/** A size: known, or a name shared by equal unknown sizes ('?' is equal to nothing, not even itself). */
export type Dim = number | string

/**
 * A quantization grid: real value = scale · q, q an integer in [lo, hi].
 * The grid has no zero point: a container's zero point (uint8 with 128, int8 with −128 …) is chosen by the target that writes it.
 */
export interface QuantParams {
  /** One scale, or one per index of `axis`. */
  readonly scale: Float32Array
  readonly axis: number | null
  readonly lo: number
  readonly hi: number
}

/** Bits that the grid needs: [−7, 7] and [−8, 7] → 4, [0, 15] → 4. */
export const gridBits = (q: { lo: number; hi: number }): number =>
  q.lo < 0 ? Math.ceil(Math.log2(Math.max(-q.lo, q.hi + 1))) + 1 : Math.max(1, Math.ceil(Math.log2(q.hi + 1)))

export interface TensorType {
  readonly dtype: DType
  /** null: not even the rank is known. */
  readonly shape: readonly Dim[] | null
}

/** A tensor in the graph, by identity. Constants carry `data`; integer-level values carry `quant`. */
export interface Value extends TensorType {
  readonly name: string
  readonly data: Tensor | null
  readonly quant: QuantParams | null
}

export interface Node<A = any> {
  readonly op: Op
  readonly name: string
  /** null: an optional input that is absent. */
  readonly inputs: readonly (Value | null)[]
  readonly outputs: readonly Value[]
  readonly attrs: A
}

/** Frozen, topologically ordered, single assignment. Constants are values with data, shared by reference. */
export interface Graph<L extends Level = Level> {
  readonly level: L
  readonly name: string
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  /** Names under which the outputs are known outside; `outputs[i].name` may differ after a rewrite. */
  readonly outputNames: readonly string[]
  readonly nodes: readonly Node[]
  /** How the source format spelt these nodes and what it holds beside them (metadata, opsets, …), for a writer of that format. */
  readonly origin: unknown
}

export const isConstant = (v: Value | null | undefined): v is Value & { data: Tensor } => v != null && v.data !== null
export const isKnown = (shape: readonly Dim[] | null): shape is readonly number[] =>
  shape !== null && shape.every((d) => typeof d === 'number')

/** Where each value is made and used. Built once per graph by whoever needs it. */
export interface Uses {
  producer(v: Value): Node | null
  consumers(v: Value): readonly Node[]
  isOutput(v: Value): boolean
}

export function usesOf(graph: Graph): Uses {
  const producers = new Map<Value, Node>()
  const consumers = new Map<Value, Node[]>()
  for (const node of graph.nodes) {
    for (const v of node.outputs) producers.set(v, node)
    for (const v of new Set(node.inputs)) {
      if (v === null) continue
      const list = consumers.get(v)
      if (list) list.push(node)
      else consumers.set(v, [node])
    }
  }
  const outputs = new Set(graph.outputs)
  return {
    producer: (v) => producers.get(v) ?? null,
    consumers: (v) => consumers.get(v) ?? [],
    isOutput: (v) => outputs.has(v),
  }
}

/** All constants a graph refers to, each once, in order of first use. */
export function constantsOf(graph: Graph): (Value & { data: Tensor })[] {
  const seen = new Set<Value>()
  for (const v of [...graph.nodes.flatMap((n) => n.inputs), ...graph.outputs]) if (isConstant(v)) seen.add(v)
  return [...seen] as (Value & { data: Tensor })[]
}
