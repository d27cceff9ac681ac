import type { Graph } from '../ir/graph.ts'
import type { Tensor } from '../ir/tensor.ts'

/** A loaded program: tensors in, tensors out, in the graph's order. */
export interface Model {
  (inputs: readonly Tensor[]): Promise<Tensor[]>
  /** Frees what the runtime holds. The model cannot be called afterwards. */
  release(): Promise<void>
}

/** Something that executes graphs of the float and qdq levels. */
export interface Engine {
  readonly name: string
  load(graph: Graph): Promise<Model>
}
