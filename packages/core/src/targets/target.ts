import type { Graph, Level, Node } from '../ir/graph.ts'

/** A file that a target wants written. */
export interface ArtifactFile {
  /** Name relative to the output folder. */
  readonly path: string
  readonly bytes: Uint8Array
}

/** What a target makes of a graph: its files, the first of them the model itself. */
export interface Artifact {
  readonly files: readonly ArtifactFile[]
  /** Bits that a weight and an activation take up in the files. */
  readonly storage: { readonly weights: number; readonly activations: number }
}

/** Facts that a target writes into its files' metadata. */
export type Metadata = Readonly<Record<string, string>>

/** One carrier of integer networks. */
export interface Target<L extends Level = Level> {
  readonly name: string
  readonly accepts: L
  /** Whether there is an integer kernel for a node of the float graph. */
  supports(node: Node): boolean
  emit(graph: Graph<L>, stem: string, metadata: Metadata): Artifact
}
