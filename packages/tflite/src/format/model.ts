import { errors } from '@dqc/core'
import { decode, encode } from './flatbuffer.ts'
import { BuiltinOperator, type Model, type Operator, type Tensor } from './schema.gen.ts'

/** File identifier and schema version of TensorFlow Lite's format. */
const IDENTIFIER = 'TFL3'
const VERSION = 3

/** Whether bytes look like a TFLite model at all. */
export const isTflite = (bytes: Uint8Array): boolean => bytes.length >= 8 && new TextDecoder().decode(bytes.subarray(4, 8)) === IDENTIFIER

/** A model whose indices all lead somewhere, with what the runtime takes for granted present. */
export interface ParsedModel {
  readonly model: Model
  readonly bytes: Uint8Array
  /** The first subgraph. */
  readonly graph: {
    readonly name: string | undefined
    readonly tensors: readonly Tensor[]
    readonly operators: readonly Operator[]
    readonly inputs: Int32Array
    readonly outputs: Int32Array
  }
}

/** Bytes → verified message. Throws CompileError where the file is damaged or contradicts itself. */
export function parseModel(bytes: Uint8Array): ParsedModel {
  const model = decode(bytes, 'Model', IDENTIFIER)
  if (model.version !== VERSION) throw errors.badModel(`schema version ${model.version}, not ${VERSION}`, 'Model.version')
  const first = model.subgraphs?.[0]
  if (!first) throw errors.badModel('the file holds no graph', 'Model.subgraphs')
  const graph = {
    name: first.name,
    tensors: first.tensors ?? [],
    operators: first.operators ?? [],
    inputs: first.inputs ?? new Int32Array(),
    outputs: first.outputs ?? new Int32Array(),
  }
  const codes = model.operatorCodes?.length ?? 0
  const buffers = model.buffers?.length ?? 0
  const tensor = (i: number, where: string, optional: boolean): void => {
    if (!(i >= (optional ? -1 : 0) && i < graph.tensors.length)) throw errors.badModel(`tensor ${i} of ${graph.tensors.length}`, where)
  }
  graph.tensors.forEach((t, i) => {
    if ((t.buffer ?? 0) >= buffers) throw errors.badModel(`buffer ${t.buffer} of ${buffers}`, `tensor ${t.name || i}`)
    const shape = Array.from(t.shape ?? [])
    if (shape.some((d) => d < 0) || shape.reduce((p, d) => p * d, 1) > 2 ** 31)
      throw errors.badModel(`a shape of [${t.shape}]`, `tensor ${t.name || i}`)
  })
  for (const i of graph.inputs) tensor(i, 'the inputs', false)
  for (const i of graph.outputs) tensor(i, 'the outputs', false)
  if (graph.outputs.length === 0) throw errors.badModel('the graph has no outputs', 'SubGraph.outputs')
  graph.operators.forEach((o, k) => {
    if ((o.opcodeIndex ?? 0) >= codes) throw errors.badModel(`operator code ${o.opcodeIndex} of ${codes}`, `operator ${k}`)
    for (const i of o.inputs ?? []) tensor(i, `operator ${k}`, true)
    for (const i of o.outputs ?? []) tensor(i, `operator ${k}`, false)
  })
  return { model, bytes, graph }
}

export const encodeModel = (model: Model): Uint8Array => encode({ ...model, version: VERSION }, 'Model', IDENTIFIER)

const names = new Map<number, string>(Object.entries(BuiltinOperator).map(([name, code]) => [code, name]))

/** Name of an operator's kind: CONV_2D, or custom:NAME. */
export function typeOf(model: Model, o: Operator): string {
  const code = model.operatorCodes![o.opcodeIndex ?? 0]!
  // Codes above 127 do not fit the old byte field; readers take the larger of the two.
  const builtin = Math.max(code.deprecatedBuiltinCode ?? 0, code.builtinCode ?? 0)
  return builtin === BuiltinOperator.CUSTOM ? `custom:${code.customCode ?? ''}` : (names.get(builtin) ?? `builtin:${builtin}`)
}

/** Bytes of a buffer, wherever the file keeps them; empty when it has none. */
export function bufferOf({ model, bytes }: ParsedModel, index: number): Uint8Array {
  const b = model.buffers![index]!
  if (b.data && b.data.length > 0) return b.data
  // Files beyond 2 GiB keep weights behind the FlatBuffer; offsets 0 and 1 mean that they do not.
  const [offset, size] = [Number(b.offset ?? 0n), Number(b.size ?? 0n)]
  if (offset <= 1) return new Uint8Array()
  if (offset + size > bytes.length)
    throw errors.badModel(`bytes ${offset} … ${offset + size} of a file of ${bytes.length}`, `buffer ${index}`)
  return bytes.subarray(offset, offset + size)
}
