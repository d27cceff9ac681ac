import { errors } from '@dqc/core'
import { typeOf } from '../format/model.ts'
import type { Model, Tensor } from '../format/schema.gen.ts'

/** Operators whose results must be on the grid of their inputs (TensorFlow Lite 8-bit quantization specification). */
const SAME = new Set([
  'AVERAGE_POOL_2D',
  'MAX_POOL_2D',
  'RESHAPE',
  'TRANSPOSE',
  'PAD',
  'STRIDED_SLICE',
  'SPLIT',
  'SPLIT_V',
  'CONCATENATION',
  'GATHER',
  'MAXIMUM',
  'MINIMUM',
  'RESIZE_NEAREST_NEIGHBOR',
  'SPACE_TO_DEPTH',
  'DEPTH_TO_SPACE',
])
/** Input that holds the data, by operators with weights in the input behind it and a bias behind those. */
const LAYERS: Readonly<Record<string, number>> = { CONV_2D: 0, DEPTHWISE_CONV_2D: 0, FULLY_CONNECTED: 0 }

const scaleOf = (t: Tensor | undefined): Float32Array | null => (t?.quantization?.scale?.length ? t.quantization.scale : null)
const zeroOf = (t: Tensor): bigint => t.quantization?.zeroPoint?.[0] ?? 0n

/**
 * The rules that no runtime checks and every kernel relies on: ops that move numbers keep their grid, biases are in steps of the product of
 * their input's and weights' scales. Throws CompileError where a model breaks one: the runtime would run it, and compute something else.
 */
export function checkConstraints(model: Model): void {
  const graph = model.subgraphs![0]!
  for (const o of graph.operators ?? []) {
    const type = typeOf(model, o)
    const at = (list: Int32Array | undefined, i: number): Tensor | undefined => graph.tensors![list?.[i] ?? -1]
    const out = at(o.outputs, 0)
    const fail = (what: string): never => {
      throw errors.unsupportedTarget(what, `${type} ${out?.name ?? ''}`, 'runtimes do not notice, and compute something else')
    }
    if (SAME.has(type) && scaleOf(out))
      for (const i of o.inputs ?? []) {
        const t = graph.tensors![i]
        const s = scaleOf(t)
        if (t && s && (s[0] !== scaleOf(out)![0] || zeroOf(t) !== zeroOf(out!))) fail(`${t.name} and ${out!.name} are on different grids`)
      }
    const first = LAYERS[type]
    if (first === undefined) continue
    const [x, w, b] = [at(o.inputs, first), at(o.inputs, first + 1), at(o.inputs, first + 2)]
    const [sx, sw, sb] = [scaleOf(x), scaleOf(w), scaleOf(b)]
    if (!sx || !sw || !sb) continue
    sb.forEach((s, i) => {
      const want = sx[0]! * sw[sw.length === 1 ? 0 : i]!
      if (Math.abs(s - want) > 1e-5 * want) fail(`bias ${b!.name} has the scale ${s}, not ${want}`)
    })
  }
}
