import { InvariantError } from './errors.ts'
import type { Dim, Graph, Value } from './graph.ts'
import { sizeOf } from './tensor.ts'

const clash = (a: readonly Dim[] | null, b: readonly Dim[] | null): boolean =>
  a !== null && b !== null && (a.length !== b.length || a.some((d, i) => typeof d === 'number' && typeof b[i] === 'number' && d !== b[i]))

/**
 * Checks what every pass must leave true: single assignment, definitions before uses, unique names, levels, and types that
 * agree with inference. Throws InvariantError naming the first offence.
 */
export function verifyGraph(graph: Graph): void {
  const defined = new Set<Value>()
  const names = new Map<string, Value>()
  const fail = (message: string): never => {
    throw new InvariantError(`graph ${graph.name || '(unnamed)'}: ${message}`)
  }
  const define = (v: Value): void => {
    if (defined.has(v)) fail(`${v.name} is defined twice`)
    const other = names.get(v.name)
    if (other && other !== v) fail(`two values are named ${v.name}`)
    names.set(v.name, v)
    defined.add(v)
  }
  const constant = (v: Value): void => {
    if (defined.has(v)) return
    if (v.data!.dtype !== v.dtype || clash(v.data!.shape, v.shape)) fail(`constant ${v.name} differs from its declared type`)
    if (v.data!.data.length !== sizeOf(v.data!.shape)) fail(`constant ${v.name} has the wrong number of elements`)
    define(v)
  }
  graph.inputs.forEach(define)
  for (const node of graph.nodes) {
    if (!node.op.levels.includes(graph.level)) fail(`${node.op.name} does not exist at the ${graph.level} level`)
    for (const v of node.inputs) {
      if (v === null) continue
      if (v.data) constant(v)
      else if (!defined.has(v)) fail(`${node.name || node.op.name} uses ${v.name} before it is made`)
    }
    const types = node.op.name === 'foreign' ? node.outputs : node.op.infer(node.inputs, node.attrs)
    node.outputs.forEach((v, i) => {
      if (types[i] && (types[i].dtype !== v.dtype || clash(types[i].shape, v.shape)))
        fail(`${v.name} is ${v.dtype}[${v.shape}], inference says ${types[i].dtype}[${types[i].shape}]`)
      define(v)
    })
  }
  for (const v of graph.outputs) {
    if (v.data) constant(v)
    else if (!defined.has(v)) fail(`output ${v.name} is never made`)
  }
  if (graph.outputNames.length !== graph.outputs.length) fail('outputs and their names differ in number')
}
