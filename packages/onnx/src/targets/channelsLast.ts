import { type ChannelsLast, transpose } from '@dqc/core'
import type { ModelProto, NodeProto, ValueInfoProto } from '../proto/messages.ts'
import { readTensor, writeTensor } from '../proto/tensors.ts'
import { int, ints } from '../spelling/spelling.ts'

/** Ops that have a form for images with their channels last, and their attributes in ONNX's first operator set, which version 1 of the domain means. */
const WINDOWS: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ['Conv', new Set(['kernel_shape', 'strides', 'pads', 'dilations', 'group'])],
  ['MaxPool', new Set(['kernel_shape', 'strides', 'pads'])],
])
const TO_SECOND = [0, 3, 1, 2]
const TO_LAST = [0, 2, 3, 1]

/**
 * A model whose images have their channels second, rewritten so that they come last: inputs, outputs and everything between change their
 * order, convolutions (their weights with them) and pools move to `domain`, and where numbers are counted through (Reshape) a Transpose restores the old order.
 */
export function toChannelsLast(model: ModelProto, domain: string): { model: ModelProto; channelsLast: ChannelsLast } {
  const graph = model.graph!
  const isImage = (v: ValueInfoProto): boolean => v.type?.tensorType?.shape?.dim?.length === 4
  const turned = (v: ValueInfoProto): ValueInfoProto => {
    if (!isImage(v)) return v
    const t = v.type!.tensorType!
    return { ...v, type: { ...v.type, tensorType: { ...t, shape: { dim: TO_LAST.map((d) => t.shape!.dim![d]!) } } } }
  }
  const images = new Set((graph.input ?? []).filter(isImage).map((v) => v.name))
  const nodes: NodeProto[] = []
  const initializers = new Map((graph.initializer ?? []).map((t) => [t.name!, t]))
  const makers = new Map((graph.node ?? []).map((n) => [n.output![0]!, n]))
  // Weights may stand behind a quantizer.
  const turnWeights = (name: string): void => {
    if (images.has(name)) return
    images.add(name)
    const maker = makers.get(name)
    if (maker) {
      turnWeights(maker.input![0]!)
      return
    }
    const t = readTensor(initializers.get(name)!, () => new Uint8Array(), name)!
    initializers.set(name, writeTensor(name, transpose.eval([t], { perm: TO_LAST })[0]!))
  }
  for (const n of graph.node ?? []) {
    const x = n.input?.find((i) => images.has(i))
    if (x === undefined) {
      nodes.push(n)
      continue
    }
    if (n.opType === 'Reshape') {
      const second = `${x}_second`
      if (!nodes.some((m) => m.output?.[0] === second))
        nodes.push({
          opType: 'Transpose',
          name: `Transpose_${nodes.length}`,
          input: [x],
          output: [second],
          attribute: [ints('perm', TO_SECOND)],
        })
      nodes.push({ ...n, input: n.input!.map((i) => (i === x ? second : i)) })
      continue
    }
    for (const o of n.output ?? []) images.add(o)
    if (n.opType === 'Conv') turnWeights(n.input![1]!)
    if (WINDOWS.has(n.opType!)) nodes.push({ ...n, domain, attribute: n.attribute!.filter((a) => WINDOWS.get(n.opType!)!.has(a.name!)) })
    else if (n.opType === 'Concat') nodes.push({ ...n, attribute: [int('axis', 3)] })
    else nodes.push(n)
  }
  const outputs = graph.output ?? []
  return {
    model: {
      ...model,
      opsetImport: [...(model.opsetImport ?? []), ...(nodes.some((n) => n.domain === domain) ? [{ domain, version: 1 }] : [])],
      graph: {
        ...graph,
        node: nodes,
        initializer: [...initializers.values()],
        input: (graph.input ?? []).map(turned),
        output: outputs.map((v) => (images.has(v.name) ? turned(v) : v)),
        valueInfo: (graph.valueInfo ?? []).map((v) => (images.has(v.name) ? turned(v) : v)),
      },
    },
    channelsLast: {
      inputs: (graph.input ?? []).map(isImage),
      outputs: outputs.map((v) => images.has(v.name)),
    },
  }
}
