import type { Node, QuantParams } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'

/** What a target's integer kernels can do, and what they ask for. */
export interface KernelRules {
  /** The integer form of a node, or null when it stays float. Most targets take the op's own. */
  lowering(node: Node): Op['lower']
  /** Whether the kernel computes on one grid: its results must have that of its inputs. */
  tied(node: Node): boolean
  /** A grid that the kernel's results always have. */
  fixedGrid(node: Node): QuantParams | null
  /** Whether a layer's weights may have one scale per output channel. */
  perChannel(node: Node): boolean
  /**
   * The largest sum of two neighbouring products of inputs (in their uint8 container) and weights that the fastest kernels hold: weights of inner
   * layers get scales at which no two exceed it. null where all sums fit.
   */
  readonly pairLimit: number | null
}
