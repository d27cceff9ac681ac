import type { AttributeProto, GraphProto, ModelProto, TensorProto } from '../proto/messages.ts'
import { externalBytes, type LoadExternal, readTensor, subByteEnds, writeTensor } from '../proto/tensors.ts'

/** Whether any tensor of the model lives outside its file. */
export const hasExternalData = (model: ModelProto): boolean => {
  let found = false
  mapTensors(model, (t) => {
    found ||= t.dataLocation === 1
    return t
  })
  return found
}

/** The same model with all tensors inside, as a runtime that only gets bytes needs it. */
export const embedExternalData = (model: ModelProto, load: LoadExternal): ModelProto =>
  mapTensors(model, (t) => {
    if (t.dataLocation !== 1) return t
    const where = `initializer ${t.name}`
    // Types narrower than a byte are held as bytes once they are read.
    if (subByteEnds(t.dataType)) return { ...t, rawData: externalBytes(t, load, where), dataLocation: 0, externalData: [] }
    const data = readTensor(t, load, where)
    return data ? { ...t, ...writeTensor(t.name ?? '', data), dataLocation: 0, externalData: [] } : t
  })

function mapTensors(model: ModelProto, f: (t: TensorProto) => TensorProto): ModelProto {
  const attribute = (a: AttributeProto): AttributeProto => ({
    ...a,
    ...(a.t ? { t: f(a.t) } : {}),
    ...(a.g ? { g: graph(a.g) } : {}),
    ...(a.graphs?.length ? { graphs: a.graphs.map(graph) } : {}),
  })
  const graph = (g: GraphProto): GraphProto => ({
    ...g,
    initializer: (g.initializer ?? []).map(f),
    node: (g.node ?? []).map((n) => (n.attribute?.length ? { ...n, attribute: n.attribute.map(attribute) } : n)),
  })
  return model.graph ? { ...model, graph: graph(model.graph) } : model
}
