import { type Graph, gridBits, isConstant, type QuantParams } from '../ir/graph.ts'
import { numbersOf, sizeOf, tensorOf } from '../ir/tensor.ts'
import { roundHalfEven } from '../math/fixedPoint.ts'
import { orthogonalityDefect, spectralNorm } from '../math/linalg.ts'
import { accumulatorBits, accumulatorBound } from '../ops/integer.ts'
import { transpose } from '../ops/structure.ts'
import type { QuantPlan } from '../passes/insertQuantizers.ts'

/** One layer with weights, as the report shows it. */
export interface LayerReport {
  readonly name: string
  readonly op: string
  readonly shape: readonly number[]
  /** Multiply–accumulates per sample. */
  readonly macs: number
  readonly parameters: number
  /** 32 where the layer stays float. */
  readonly weightBits: number
  /** Grid of the activations it reads. */
  readonly actBits: number
  /** Bits of a signed accumulator that cannot overflow, from the real weights; null for float layers. */
  readonly accumulatorBits: number | null
  /** Largest singular value of the [channels × rest] matrix of the float weights. */
  readonly spectralNorm: number | null
  /** ‖WWᵀ − I‖_F of the same matrix (Lin, Gan, Han 2019, eq. 8). */
  readonly orthogonalityDefect: number | null
  /** Largest singular value of the layer's true operator, padding and strides included: of the original, and as it ships. */
  readonly operatorNorm: { readonly before: number | null; readonly after: number | null }
  /** Relative change of the layer's output under the first gradient attack, each network under its own: see {@link perturbations}. */
  readonly perturbation: { readonly before: number | null; readonly after: number | null }
}

/** Matrices beyond this many multiply–adds per Gram matrix are not analysed. */
const LARGEST_GRAM = 2e9

/** Multiply–accumulates of a graph for one sample, known sizes only. */
export function countMacs(graph: Graph): number {
  return graph.nodes.reduce((n, node) => n + macsOf(node), 0)
}

function macsOf(node: Graph['nodes'][number]): number {
  const info = node.op.weights?.(node.attrs)
  const w = info ? node.inputs[info.weight]?.shape : null
  const out = node.outputs[0]?.shape
  if (!info || !w || !out) return 0
  const known = (dims: readonly (number | string)[]): number => dims.reduce<number>((p, d) => p * (typeof d === 'number' ? d : 1), 1)
  const places = known(out.slice(1)) * (typeof out[0] === 'number' && out.length === 1 ? out[0] : 1)
  return (places * known(w)) / (w[info.axis] as number)
}

/** Layers of the float graph beside their quantized form. */
export function describeLayers(graph: Graph<'float'>, plan: QuantPlan): LayerReport[] {
  return graph.nodes.flatMap((node) => {
    const info = node.op.weights?.(node.attrs)
    const weight = info ? node.inputs[info.weight] : null
    if (!info || !isConstant(weight)) return []
    const name = node.outputs[0]!.name
    const q = plan.integer.has(name) ? plan.weights.get(name) : undefined
    const x = plan.grids.get(node.inputs[0]!.name)
    const rank = weight.data.shape.length
    const front =
      info.axis === 0
        ? weight.data
        : transpose.eval([weight.data], {
            perm: [info.axis, ...Array.from({ length: rank }, (_, i) => i).filter((i) => i !== info.axis)],
          })[0]!
    const rows = front.shape[0]!
    const cols = sizeOf(front.shape) / rows
    const small = rows * rows * cols <= LARGEST_GRAM
    return [
      {
        name,
        op: node.op.name,
        shape: weight.data.shape,
        macs: macsOf(node),
        parameters: sizeOf(weight.data.shape),
        weightBits: q ? gridBits(q) : 32,
        actBits: q && x ? gridBits(x) : 32,
        accumulatorBits: q && x ? Math.max(...steps(front, q, x, rows)) : null,
        spectralNorm: small ? spectralNorm(numbersOf(front), rows, cols) : null,
        orthogonalityDefect: small ? orthogonalityDefect(numbersOf(front), rows, cols) : null,
        operatorNorm: { before: null, after: null },
        perturbation: { before: null, after: null },
      },
    ]
  })
}

function steps(front: Parameters<typeof numbersOf>[0], q: QuantParams, x: QuantParams, rows: number): number[] {
  const w = numbersOf(front)
  const per = w.length / rows
  const grid = Float64Array.from(w as Float32Array, (v, i) =>
    Math.min(Math.max(roundHalfEven(v / q.scale[q.axis === null ? 0 : Math.floor(i / per)]!), q.lo), q.hi),
  )
  return Array.from(accumulatorBound(tensorOf('float64', [grid.length], grid).data as Float64Array, rows, null, x), accumulatorBits)
}
