import type { Graph } from '../ir/graph.ts'
import { foldAffine } from '../passes/foldAffine.ts'
import { foldConstants } from '../passes/foldConstants.ts'
import { type Pass, runPasses } from '../passes/pass.ts'
import { settleQuantizers } from '../passes/settleQuantizers.ts'
import { simplify } from '../passes/simplify.ts'

/** The passes that every float graph goes through before anything is measured on it. Each leaves the function as it is. */
export const preparation: readonly Pass<'float'>[] = [foldConstants, simplify, foldAffine, simplify, foldAffine, foldConstants]

/** A float graph in the form that quantization starts from: constants folded, normalization inside the layers, transposes cancelled. */
export const prepare = (graph: Graph<'float'>): Graph<'float'> => runPasses(graph, preparation)

/** A quantized network in the form that lowering starts from, on its own grids; those of weights times what is folded into them. */
export const prepareQuantized = (graph: Graph<'qdq'>): Graph<'qdq'> =>
  // What holds for real numbers holds between quantizers.
  runPasses(runPasses(graph as unknown as Graph<'float'>, preparation) as unknown as Graph<'qdq'>, [settleQuantizers])
