import type { Builder } from './builder.ts'
import type { Level, Node, QuantParams, TensorType, Value } from './graph.ts'
import type { Tensor } from './tensor.ts'

/** Which input holds the weights, which the bias, and which axis of the weights counts output channels. */
export interface WeightsInfo {
  readonly weight: number
  readonly bias: number | null
  /** Output-channel axis of the weight tensor. */
  readonly axis: number
  /** Output-channel axis of the result. */
  readonly outAxis: number
  /** Input-channel axis of the data input. */
  readonly inAxis: number
}

/** Everything dqc knows about one operation, in one place. Every field is required: what does not apply is null. */
export interface Op<A = any> {
  readonly name: string
  /** Where the semantics are written down. */
  readonly spec: string
  readonly levels: readonly Level[]
  /** Shapes and types of the outputs. Sizes may be symbolic. Throws CompileError when the inputs cannot be. */
  infer(inputs: readonly (TensorType | null)[], attrs: A): TensorType[]
  /** Reference semantics. */
  eval(inputs: readonly (Tensor | null)[], attrs: A): Tensor[]
  /** Vector–Jacobian product per input, built from ops; null for inputs (or ops) without a derivative. */
  readonly grad: ((b: Builder, node: Node<A>, dys: readonly (Value | null)[], wanted: readonly boolean[]) => (Value | null)[]) | null
  readonly weights: ((attrs: A) => WeightsInfo) | null
  /** Output grid: its own scale · the same as its inputs' · stays float · fixed by the standard. */
  readonly quant: 'own' | 'shared' | 'none' | QuantParams
  /** ℓ₂ Lipschitz constant: a number, the weights' own norm, or unknown. */
  readonly lipschitz: number | 'weights' | null
  /** f(c·x) = c·f(x) for c > 0. */
  readonly positivelyHomogeneous: boolean
  /** The interval this op clamps its input to, where it does nothing else: [lo, hi] of Relu is [0, ∞]. */
  readonly clamp: ((inputs: readonly (Value | null)[], attrs: A) => readonly [number, number] | null) | null
  /**
   * The same computation in integers. `inputs` carry grids (`quant`), `out` is the grid of the result.
   * Returns null when these inputs have no integer form (a non-constant weight, say).
   */
  readonly lower: ((b: Builder, node: Node<A>, inputs: readonly (Value | null)[], out: QuantParams) => Value | null) | null
}
