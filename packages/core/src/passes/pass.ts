import type { Graph, Level } from '../ir/graph.ts'
import { verifyGraph } from '../ir/verify.ts'

/** One rewrite of a graph. `preserves`: every bit of every output · the function up to rounding · shapes and types only. */
export interface Pass<A extends Level = Level, B extends Level = A> {
  readonly name: string
  readonly preserves: 'bits' | 'function' | 'shapes'
  run(graph: Graph<A>): Graph<B>
}

/** Runs passes in order, verifying after each. */
export function runPasses<L extends Level>(graph: Graph<L>, passes: readonly Pass<L>[]): Graph<L> {
  return passes.reduce((g, pass) => {
    const next = pass.run(g)
    if (next !== g) verifyGraph(next)
    return next
  }, graph)
}
