import { errors } from '../ir/errors.ts'
import type { Node } from '../ir/graph.ts'
import type { ObserverKind } from './observer.ts'

/** How a network is to be quantized. Bits count the grid, not the container. */
export interface QuantSpec {
  /** Weights of inner layers, 2–8. */
  readonly weightBits: number
  /** Activations that feed a multiply–accumulate of an inner layer, 2–8. */
  readonly actBits: number
  /** Weights and inputs of the first and last layers, and the results of the network, 2–8. */
  readonly edgeBits: number
  /** Values that only feed sums, products and means: no multiplier sees them, so they cost nothing to keep fine. */
  readonly sumBits: number
  readonly observer: ObserverKind
  /** Nodes that stay float. */
  readonly exclude: (node: Node) => boolean
  /** Whether inputs and outputs of the network are integers. */
  readonly integerIO: boolean
  readonly scheme: Scheme
}

/** What a target asks of all grids. */
export interface Scheme {
  /** Scales are powers of two. */
  readonly powerOfTwo: boolean
  /** Activations lie in signed containers around zero, unsigned ones too. */
  readonly signedContainers: boolean
  /** Bits of biases on a grid of their own, one scale per layer; null: on that of the accumulator. */
  readonly biasBits: number | null
}

/** Any scales, containers as grids want them, biases on the accumulator's grid. */
export const freeScheme: Scheme = { powerOfTwo: false, signedContainers: false, biasBits: null }

/** Throws CompileError unless every width is a whole number of 2–8 bits. */
export function checkSpec(spec: QuantSpec): void {
  for (const [name, bits] of Object.entries({
    'weight bits': spec.weightBits,
    'activation bits': spec.actBits,
    'edge bits': spec.edgeBits,
  }))
    if (!Number.isInteger(bits) || bits < 2 || bits > 8) throw errors.usage(`${name} must be a whole number from 2 to 8, not ${bits}`)
}

/** Signed symmetric grid without its lowest value: ±(2^(k−1) − 1). */
export const signedGrid = (bits: number): { lo: number; hi: number } => ({ lo: -(2 ** (bits - 1) - 1), hi: 2 ** (bits - 1) - 1 })
/** Grid of activations. Eight bits fill their container, so that no kernel has to clamp them; fewer are symmetric without the lowest value. */
export const activationGrid = (bits: number, signed: boolean, signedContainer = false): { lo: number; hi: number } =>
  !signed ? unsignedGrid(signedContainer && bits === 8 ? 7 : bits) : bits === 8 ? { lo: -128, hi: 127 } : signedGrid(bits)

/** Unsigned grid: 0 … 2^k − 1. */
export const unsignedGrid = (bits: number): { lo: number; hi: number } => ({ lo: 0, hi: 2 ** bits - 1 })
