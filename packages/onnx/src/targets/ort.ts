import * as core from '@dqc/core'
import { type Artifact, type Graph, isConstant, type Node, shapeOf, type Target } from '@dqc/core'
import { writeModel } from '../write/write.ts'
import { type Format, integerRules, MICROSOFT, PAIR_LIMIT } from './integerRules.ts'

export interface OrtOptions {
  readonly format: Format
  /** Store weights of at most four bits as packed INT4 (operator set 21); kernels still get int8. */
  readonly packedWeights: boolean
  /** Sums, products and means round as LiteRT's kernels do, for networks whose integers come from there: exact, and slower than kernels of the runtime's own. */
  readonly fixedPoint: boolean
  readonly version: string
}

/** Ops with an integer form in dqc that ONNX Runtime's CPU provider has no kernel for. */
const lacking: ReadonlySet<core.Op> = new Set<core.Op>([core.sub])

/** LiteRT's arithmetic, in the containers that it computes in. */
const fixed: ReadonlyMap<core.Op, core.Lowering> = new Map([...core.fixedLowerings, [core.averagePool, core.averageOnGrid(core.int8Zero)]])

/** Whether ONNX Runtime has an integer kernel for a node. */
function supports(node: Node): boolean {
  if (lacking.has(node.op)) return false
  // QLinearAveragePool has no dilations, and counts what a last window in ceil mode sticks out over the padding.
  if (node.op === core.averagePool) {
    const a = node.attrs as core.AveragePoolAttrs
    const overhangs = a.ceil && a.countIncludePad && a.pads.some((p) => p !== 0)
    return !overhangs && a.dilations.every((d) => d === 1) && shapeOf(node.inputs[0]).length === 4
  }
  if (node.op === core.globalAveragePool) return shapeOf(node.inputs[0]).length === 4
  if (node.op === core.gather) return isConstant(node.inputs[1])
  return true
}

/**
 * ONNX Runtime on CPUs: uint8 activations, weights per output channel in int8 (uint8 where int8's kernels could saturate), int32 biases. Grids
 * narrower than eight bits live in uint8 containers behind an integer Clip.
 */
export function ortTarget(options: OrtOptions): Target<'integer'> {
  return {
    name: 'ort',
    accepts: 'integer',
    rules: {
      lowering: (node) => (supports(node) ? (options.fixedPoint && fixed.get(node.op)) || node.op.lower : null),
      tied: (node) => options.fixedPoint && node.op === core.averagePool && !core.coversImage(node),
      fixedGrid: () => null,
      perChannel: () => true,
      pairLimit: PAIR_LIMIT,
    },
    prepare: (graph) => graph,
    legalize: (graph) => graph,
    inexact: () => [],
    emit(graph: Graph<'integer'>, stem, metadata): Artifact {
      const bytes = writeModel(graph, {
        rules: integerRules({ format: options.format, packed: options.packedWeights }),
        metadata,
        domains: { [MICROSOFT]: 1 },
        dtypeOf: (v) => (v.quant ? 'uint8' : v.dtype),
        producer: { name: 'dqc', version: options.version },
      })
      return {
        files: [{ path: `${stem}.onnx`, bytes }],
        storage: { weights: options.packedWeights ? 4 : 8, activations: 8 },
        channelsLast: null,
        mapping: null,
        memory: null,
      }
    },
    examples: null,
  }
}
