import type { Graph } from '../ir/graph.ts'
import { foldAffine } from '../passes/foldAffine.ts'
import { foldConstants } from '../passes/foldConstants.ts'
import { type Pass, runPasses } from '../passes/pass.ts'
import { simplify } from '../passes/simplify.ts'

/** The passes that every float graph goes through before anything is measured on it. Each leaves the function as it is. */
export const preparation: readonly Pass<'float'>[] = [foldConstants, simplify, foldAffine, simplify, foldAffine, foldConstants]

/** A float graph in the form that quantization starts from: constants folded, normalization inside the layers, transposes cancelled. */
export const prepare = (graph: Graph<'float'>): Graph<'float'> => runPasses(graph, preparation)
