import { type Builder, type Dim, type Node, type Op, type Tensor, tensorOf, type Value } from '@dqc/core'
import { type AttributeProto, AttributeType, type NodeProto, type TensorProto } from '../proto/messages.ts'
import { writeTensor } from '../proto/tensors.ts'
import type { ContainerGrid } from './quantized.ts'

/** Thrown by a reader rule: this node cannot be told in core's vocabulary, and is carried as it is. */
export class Foreign extends Error {}

/** What a reader rule sees of one node. */
export interface NodeReader {
  readonly b: Builder
  readonly type: string
  readonly opset: number
  readonly inputCount: number
  readonly outputCount: number
  /** The i-th input, or null when it is absent. */
  maybe(i: number): Value | null
  /** The i-th input; a node without it is foreign. */
  input(i: number): Value
  /** The numbers of a constant input; a node whose i-th input is computed at run time is foreign. Null when absent. */
  constant(i: number): number[] | null
  /** The numbers of a shape-like input, computed sizes included. Null when absent. */
  sizes(i: number): readonly Dim[] | null
  int(name: string, fallback?: number): number
  float(name: string, fallback: number): number
  string(name: string, fallback: string): string
  ints(name: string): number[] | null
  floats(name: string): number[] | null
  tensor(name: string): Tensor | null
  has(name: string): boolean
  /** Grids of integer values that are read as real numbers. */
  readonly grids: Map<Value, ContainerGrid>
  /** Applies another type's rule to other inputs, attributes as they are. */
  rule(type: string, inputs: readonly (Value | null)[]): Value
  emit<A>(op: Op<A>, inputs: readonly (Value | null)[], attrs: NoInfer<A>): Value
}

export type Read = (r: NodeReader) => Value | readonly (Value | null)[]

/** What a writer rule can do. Names are those of the file being written. */
export interface NodeWriter {
  /** Adds a node. */
  node(type: string, inputs: readonly string[], outputs: readonly string[], attributes?: readonly AttributeProto[], domain?: string): void
  /** A new name for a value between the nodes of one rule. */
  temp(stem: string): string
  /** The name of a new initializer; equal small tensors are written once. */
  constant(t: Tensor, stem?: string): string
  raw(t: TensorProto): string
  /** Whether a value is a result of the whole graph. */
  isOutput(v: Value): boolean
  /** The file must declare at least this version of the default operator set. */
  atLeast(opset: number): void
}

export type Write = (w: NodeWriter, node: Node, ins: readonly string[], outs: readonly string[]) => void

export const int = (name: string, i: number): AttributeProto => ({ name, type: AttributeType.INT, i })
export const float = (name: string, f: number): AttributeProto => ({ name, type: AttributeType.FLOAT, f })
export const ints = (name: string, v: readonly number[]): AttributeProto => ({ name, type: AttributeType.INTS, ints: [...v] })
export const string = (name: string, s: string): AttributeProto => ({ name, type: AttributeType.STRING, s: new TextEncoder().encode(s) })
export const tensor = (name: string, t: Tensor): AttributeProto => ({ name, type: AttributeType.TENSOR, t: writeTensor('', t) })

export const shapeTensor = (v: readonly number[]): Tensor => tensorOf('int64', [v.length], v)

/** A node with one output and the same inputs. */
export const plain =
  (type: string, attributes: (attrs: any) => readonly AttributeProto[] = () => []): Write =>
  (w, node, ins, outs) =>
    w.node(type, trimmed(ins), outs, attributes(node.attrs))

/** Absent inputs at the end are left out, as ONNX wants them. */
export const trimmed = (ins: readonly string[]): string[] => {
  const out = [...ins]
  while (out.length > 0 && out.at(-1) === '') out.pop()
  return out
}

export type { NodeProto }
