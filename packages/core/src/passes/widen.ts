import { createBuilder } from '../ir/builder.ts'
import { type Graph, isConstant, type Value } from '../ir/graph.ts'
import { type DType, isFloat, numbersOf, tensorOf } from '../ir/tensor.ts'
import { cast } from '../ops/elementwise.ts'

const wide = (dtype: DType): DType => (isFloat(dtype) ? 'float32' : dtype)

/**
 * The same network in single precision: half, bfloat16 and double inputs, constants and casts become float32. Returns the same graph when
 * it is in single precision already. Networks with foreign nodes stay as they are: their types are not ours to change.
 */
export function widenToFloat32(graph: Graph<'float'>): Graph<'float'> {
  const values = [...graph.inputs, ...graph.nodes.flatMap((n) => [...n.inputs, ...n.outputs])]
  if (values.every((v) => v === null || wide(v.dtype) === v.dtype) || graph.nodes.some((n) => n.op.name === 'foreign')) return graph
  const b = createBuilder()
  const map = new Map<Value, Value>()
  const of = (v: Value): Value => {
    let w = map.get(v)
    if (!w) {
      w =
        isConstant(v) && wide(v.dtype) !== v.dtype
          ? b.constant(tensorOf('float32', v.data.shape, Float32Array.from(numbersOf(v.data) as Float32Array)), v.name)
          : v
      map.set(v, w)
    }
    return w
  }
  for (const v of graph.inputs) map.set(v, b.input(v.name, { dtype: wide(v.dtype), shape: v.shape }))
  for (const n of graph.nodes) {
    const inputs = n.inputs.map((v) => (v ? of(v) : null))
    const attrs = n.op === cast ? { to: wide(n.attrs.to) } : n.attrs
    const outs = b.add(n.op, inputs, attrs, { name: n.name, outputs: n.outputs.map((v) => v.name) })
    n.outputs.forEach((v, i) => map.set(v, outs[i]!))
  }
  return b.build('float', graph.outputs.map(of), { name: graph.name, outputNames: graph.outputNames, origin: graph.origin })
}
