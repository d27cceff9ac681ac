import { countMacs, type MappedOperator, numbersOf } from '@dqc/core'
import { constantOf, elementName, gridOf, mapEdgeTpu, type ParsedModel, parseModel, typeOf } from '@dqc/tflite'
import { bitsOf, type Inspection } from './inspect.ts'
import type { OpenedModel } from './model.ts'

/** The part of an inspection that is read off a TFLite file. */
export type FileFacts = Omit<Inspection, 'schema' | 'version' | 'path' | 'sha256' | 'format' | 'bytes'>

/** Facts about a TFLite file: its first subgraph, in the file's own terms. */
export function tfliteFacts(opened: OpenedModel): FileFacts {
  const parsed = parseModel(opened.bytes)
  const { model, graph } = parsed
  const shapeOf = (i: number): number[] => {
    const t = graph.tensors[i]!
    return Array.from(t.shapeSignature?.length ? t.shapeSignature : (t.shape ?? []))
  }
  const facts = (i: number) => ({
    name: graph.tensors[i]!.name ?? '',
    dtype: elementName(graph.tensors[i]!.type).toLowerCase(),
    shape: shapeOf(i).map((d) => (d < 0 ? '?' : d)),
  })
  const ops: Record<string, number> = {}
  const versions: Record<string, number> = {}
  for (const o of graph.operators) {
    const type = typeOf(model, o)
    ops[type] = (ops[type] ?? 0) + 1
    versions[type] = model.operatorCodes![o.opcodeIndex ?? 0]!.version ?? 1
  }
  const storage: Record<string, number> = {}
  let parameters = 0
  graph.tensors.forEach((t) => {
    const stored = constantOf(parsed, t)
    if (!stored) return
    const type = elementName(t.type).toLowerCase()
    parameters += stored.data.length
    storage[type] = (storage[type] ?? 0) + (model.buffers?.[t.buffer ?? 0]?.data?.length ?? stored.data.byteLength)
  })
  return {
    producer: model.description ?? '',
    irVersion: model.version ?? 0,
    opsets: versions,
    metadata: metadataOf(parsed),
    inputs: Array.from(graph.inputs, facts),
    outputs: Array.from(graph.outputs, facts),
    ops: Object.fromEntries(Object.entries(ops).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))),
    foreign: opened.graph.nodes
      .filter((n) => n.op.name === 'foreign')
      .map((n) => ({ name: n.name, type: n.attrs.type, reason: n.attrs.reason })),
    nodes: graph.operators.map((o) => {
      const outputs = Array.from(o.outputs ?? [])
      return {
        name: graph.tensors[outputs[0] ?? -1]?.name ?? '',
        op: typeOf(model, o),
        outputs: outputs.map((i) => graph.tensors[i]!.name ?? ''),
        shape: outputs[0] === undefined ? '?' : `[${shapeOf(outputs[0]).join(', ')}]`,
      }
    }),
    parameters,
    storage,
    macs: countMacs(opened.graph),
    quantization: graph.tensors.flatMap((t) => {
      const grid = gridOf(t)
      const stored = grid ? constantOf(parsed, t) : null
      if (!grid || !stored) return []
      const steps = Array.from(numbersOf(stored) as Int8Array, (v) => v - grid.zero[0]!)
      return [
        {
          name: t.name ?? '',
          type: elementName(t.type).toLowerCase(),
          shape: stored.shape,
          bits: bitsOf(steps),
          scales: grid.scale.length,
        },
      ]
    }),
    activations: graph.operators.flatMap((o) =>
      Array.from(o.outputs ?? []).flatMap((i) => {
        const t = graph.tensors[i]!
        const g = gridOf(t)
        return g ? [{ name: t.name ?? '', type: elementName(t.type).toLowerCase(), scale: g.scale[0]!, zeroPoint: g.zero[0]! }] : []
      }),
    ),
    mapping: null,
  }
}

/** Where the Edge TPU's compiler would put each operator. */
export const edgeTpuMapping = (opened: OpenedModel): MappedOperator[] => mapEdgeTpu(parseModel(opened.bytes))

/** Metadata that is text; what else there is by its size. */
function metadataOf({ model }: ParsedModel): Record<string, string> {
  const printable = (bytes: Uint8Array): string | null => {
    const text = new TextDecoder().decode(bytes).replace(/\0+$/, '')
    return /^[\x20-\x7e\s]*$/.test(text) && text.length <= 4096 ? text : null
  }
  return Object.fromEntries(
    (model.metadata ?? []).map((m) => {
      const data = model.buffers?.[m.buffer ?? 0]?.data ?? new Uint8Array()
      return [m.name ?? '', printable(data) ?? `${data.length} bytes`]
    }),
  )
}
