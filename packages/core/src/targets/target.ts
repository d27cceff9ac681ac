import type { Graph, Level } from '../ir/graph.ts'
import type { Tensor } from '../ir/tensor.ts'
import type { KernelRules } from '../quant/rules.ts'

/** A file that a target wants written. */
export interface ArtifactFile {
  /** Name relative to the output folder. */
  readonly path: string
  readonly bytes: Uint8Array
}

/** Where an accelerator's compiler will put one operator of the file, and what would put it elsewhere. */
export interface MappedOperator {
  readonly name: string
  readonly op: string
  readonly place: 'accelerator' | 'cpu'
  /** Why it is on the CPU; null on the accelerator. */
  readonly reason: string | null
  /** What to change; null where nothing needs to, or can. */
  readonly remedy: string | null
}

/** Which inputs and outputs a file has with their channels last, where the graph has them second. */
export interface ChannelsLast {
  readonly inputs: readonly boolean[]
  readonly outputs: readonly boolean[]
}

/** What a target makes of a graph: its files, the first of them the model itself. */
export interface Artifact {
  readonly files: readonly ArtifactFile[]
  /** Bits that a weight and an activation take up in the files. */
  readonly storage: { readonly weights: number; readonly activations: number }
  /** Inputs and outputs whose channels the file has last and the graph second; null where the format keeps the graph's axes. */
  readonly channelsLast: ChannelsLast | null
  /** For targets with an accelerator: every operator's place. */
  readonly mapping: readonly MappedOperator[] | null
  /** For targets that plan their memory: bytes of static memory and of constants. */
  readonly memory: { readonly ram: number; readonly constants: number } | null
}

/** Facts that a target writes into its files' metadata. */
export type Metadata = Readonly<Record<string, string>>

/** One carrier of integer networks. */
export interface Target<L extends Level = Level> {
  readonly name: string
  readonly accepts: L
  /** What its integer kernels can do. */
  readonly rules: KernelRules
  /** The float graph in the ops that the target has; the same function. */
  prepare(graph: Graph<'float'>): Graph<'float'>
  /** The integer graph as the target's kernels want its scales; the same integers. */
  legalize(graph: Graph<'integer'>): Graph<'integer'>
  /** Kernels whose results may differ from the reference by one step, with the reason; none where all are exact. */
  inexact(graph: Graph<'integer'>): readonly string[]
  emit(graph: Graph<L>, stem: string, metadata: Metadata): Artifact
  /** Files that show a tool's flow what the network makes of one sample; null for targets whose tools ask for none. */
  readonly examples: ((stem: string, input: Tensor, output: Tensor) => readonly ArtifactFile[]) | null
}
