import * as core from '@dqc/core'
import { type Artifact, type Graph, type Node, type QuantParams, rewrite, type Target } from '@dqc/core'
import { containerOf, writeModel } from '../write/write.ts'
import { inexact, kernelRules } from './kernels.ts'
import { relabelScales } from './relabel.ts'

export interface TfliteOptions {
  readonly integerIO: boolean
  /** Container of activations; uint8 only for networks that came in one. */
  readonly container: 'int8' | 'uint8' | 'int16'
  /** Store weights of at most four bits as packed INT4. */
  readonly packedWeights: boolean
  /** Inputs and outputs stay in the source file's integers. */
  readonly keepContainers?: boolean
  readonly version: string
}

/** Whether a grid needs no clamp beside its container's own ends. */
const fills =
  (kind: TfliteOptions['container']) =>
  (q: QuantParams): boolean => {
    const c = containerOf(q, kind)
    return q.lo === c.lo && q.hi === c.hi
  }

/**
 * TensorFlow Lite on phones and microcontrollers: int8 activations and weights, int32 biases. Grids narrower than eight bits live in int8
 * containers behind a fused activation.
 */
export function tfliteTarget(options: TfliteOptions, perChannelDense = true): Target<'integer'> {
  const { container } = options
  return {
    name: 'tflite',
    accepts: 'integer',
    rules: kernelRules({ integerIO: options.integerIO, perChannelDense, zeroOf: (q) => containerOf(q, container).zero }),
    prepare: splitActivations,
    legalize: (graph) => relabelScales(graph, fills(container)),
    inexact: (graph) => [...new Set(graph.nodes.flatMap((n) => inexact.get(n.op) ?? []))],
    emit(graph: Graph<'integer'>, stem, metadata): Artifact {
      // A transposed convolution is told the sizes of its result, the batch among them.
      const batch = graph.nodes.some((n) => n.op === core.convTranspose) ? { batch: 1 } : {}
      const { bytes, channelsLast } = writeModel(graph, {
        ...batch,
        container,
        packedWeights: options.packedWeights,
        keepContainers: options.keepContainers ?? false,
        metadata,
        description: `dqc ${options.version}`,
      })
      return {
        files: [{ path: `${stem}.tflite`, bytes }],
        storage: { weights: options.packedWeights ? 4 : 8, activations: container === 'int16' ? 16 : 8 },
        channelsLast,
        mapping: null,
        memory: null,
      }
    },
    examples: null,
  }
}

/** Activations without an exact integer kernel, in ops that have one: HardSwish is x·ReLU6(x + 3)/6, SiLU x·σ(x). */
function splitActivations(graph: Graph<'float'>): Graph<'float'> {
  return rewrite(graph, (b, node: Node, [x]) => {
    if (node.op === core.hardSwish) {
      const gate = b.emit(core.clip, [b.emit(core.add, [x!, b.scalar(3)], {})], { min: 0, max: 6 })
      return b.add(core.mul, [b.emit(core.mul, [x!, gate], {}), b.scalar(1 / 6)], {}, { name: node.name, outputs: [node.outputs[0]!.name] })
    }
    if (node.op === core.silu && node.attrs.alpha === 1)
      return b.add(core.mul, [x!, b.emit(core.sigmoid, [x!], {})], {}, { name: node.name, outputs: [node.outputs[0]!.name] })
    return null
  })
}
