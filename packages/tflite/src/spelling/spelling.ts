import type { Builder, Dim, DType, Node, Op, QuantParams, Tensor, Value } from '@dqc/core'
import type { Operator, Tables } from '../format/schema.gen.ts'

/** Order of a rank-4 value's axes: as the file has them (channels last), or as core has them (channels second). */
export type Layout = 'file' | 'core'

/** Core's axis of each axis of a channels-last file, and the other way round. */
export const TO_CORE = [0, 2, 3, 1] as const
export const PERM_TO_CORE = [0, 3, 1, 2] as const
export const PERM_TO_FILE = [0, 2, 3, 1] as const

/** Thrown by a reader rule: this operator cannot be told in core's vocabulary. */
export class Foreign extends Error {}

/** A value in one of the two orders. Values of other ranks than 4 are the same in both. */
export interface Laid {
  readonly value: Value
  readonly layout: Layout
}
export const inFile = (value: Value): Laid => ({ value, layout: 'file' })
export const inCore = (value: Value): Laid => ({ value, layout: 'core' })

/** What a reader rule sees of one operator. */
export interface OperatorReader {
  readonly b: Builder
  readonly type: string
  /** The operator's options, decoded; empty when it has none. */
  readonly options: any
  readonly inputCount: number
  readonly outputCount: number
  has(i: number): boolean
  /** The i-th input with its axes in the file's order. */
  file(i: number): Value
  /** The i-th input with channels second. */
  core(i: number): Value
  /** Where axis-agnostic operators work: with channels second when an input is at hand that way. */
  readonly layout: Layout
  /** The i-th input in that layout, of the given rank (lower ranks broadcast as the file says). */
  operand(i: number, rank?: number): Value
  rank(i: number): number
  /** Declared shape of the k-th output; −1 where a size is open. */
  outShape(k?: number): readonly number[]
  /** Declared type of the first output. */
  outType(): DType
  /** The numbers of a constant input; Foreign when it is computed at run time. */
  numbers(i: number): number[]
  /** The real numbers of a constant input in the file's layout, or null. */
  real(i: number): Tensor | null
  /** A constant in core's layout with the grid of the i-th input along `axis`. */
  weight(i: number, t: Tensor, axis: number, name?: string): Value
  /** The real numbers of a bias in steps of the product of two inputs' scales. */
  bias(i: number, x: number, w: number): Value | null
  emit<A>(op: Op<A>, inputs: readonly (Value | null)[], attrs: NoInfer<A>): Value
  /** A fused activation, then the grid of the k-th output. */
  finish(v: Value, activation?: number, k?: number): Value
}

export type Read = (r: OperatorReader) => Laid | readonly Laid[]

/** What a node that core does not know remembers of its file. */
export interface ForeignPayload {
  readonly operator: Operator
  readonly code: { readonly builtin: number; readonly custom: string | undefined; readonly version: number }
}

/** One operator of the file being written. Versions default to the lowest. */
export interface OperatorSpec {
  readonly inputs: readonly number[]
  readonly outputs: readonly number[]
  /** Name of the options' table, and its fields. */
  readonly options?: readonly [keyof Tables, object]
  readonly version?: number
}

/** What a writer rule can do. Numbers are indices of the file's tensors. */
export interface OperatorWriter {
  /** Tensor of a value in the given layout; a TRANSPOSE is written where it is at hand in the other only. */
  tensor(v: Value, layout: Layout): number
  /** Layout in which axis-agnostic operators find most of their inputs. */
  layoutOf(inputs: readonly (Value | null)[]): Layout
  /**
   * Writes the operator that makes the node's first output in `layout`: `make` gets its tensor and the code of a fused activation. What
   * the activation cannot do follows as MINIMUM and MAXIMUM; `fusable` says whether the operator has one at all, `ends` where results stop
   * when that is not where their grid does.
   */
  output(
    node: Node,
    layout: Layout,
    fusable: boolean,
    make: (out: number, activation: number) => void,
    ends?: { readonly lo: number; readonly hi: number },
  ): void
  /** A further output, or one that no activation touches. */
  result(v: Value, layout: Layout): number
  /** A value is another one's tensor under a new name. */
  alias(v: Value, layout: Layout, tensor: number): void
  /** A shape as the file has it: with the batch that it is written for, if there is one. */
  sized(shape: readonly Dim[]): Dim[]
  /** A tensor between the operators of one rule; `quant` is its grid, null for real numbers. */
  temp(shape: readonly Dim[], quant: QuantParams | null): number
  /** A constant of plain numbers, in the file's order. */
  constant(t: Tensor, name: string): number
  /** 1-D int32. */
  ints(values: readonly number[]): number
  /** Weights in the file's order: real numbers, or integers on `quant` with scales along `axis`. `packable`: kernels read packed ones. */
  weights(t: Tensor, quant: QuantParams | null, axis: number | null, name: string, packable: boolean): number
  add(type: string, o: OperatorSpec): void
  /** Channels, height and width of an image that was flattened in the file's order, where a dense layer will follow. */
  readonly flattened: Map<Value, readonly [number, number, number]>
  consumers(v: Value): readonly Node[]
  isOutput(v: Value): boolean
  /** The integer that stands for zero in a grid's container, and the container's ends in steps. */
  container(q: QuantParams): { readonly zero: number; readonly lo: number; readonly hi: number; readonly dtype: 'int8' | 'uint8' | 'int16' }
}

export type Write = (w: OperatorWriter, node: Node) => void
