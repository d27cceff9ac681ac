import type { Builder } from '../ir/builder.ts'
import { errors } from '../ir/errors.ts'
import type { Value } from '../ir/graph.ts'
import { isFloat } from '../ir/tensor.ts'
import { add, zerosLike } from '../ops/elementwise.ts'

/**
 * Reverse-mode differentiation: adds to `b` the nodes that compute Σ_k ⟨dy_k, ∂y_k/∂x⟩ for every x in `wrt`.
 * Gradients are graphs of ordinary ops, so every engine can run them. A value that no y depends on gets zeros.
 * Throws CompileError when an op on the way has no derivative.
 */
export function differentiate(b: Builder, ys: readonly { readonly y: Value; readonly dy: Value }[], wrt: readonly Value[]): Value[] {
  const forward = [...b.nodes]
  const active = new Set<Value>(wrt)
  for (const node of forward)
    if (node.inputs.some((v) => v && active.has(v))) for (const v of node.outputs) if (isFloat(v.dtype)) active.add(v)

  const gradients = new Map<Value, Value>()
  const accumulate = (v: Value, g: Value): void => {
    const have = gradients.get(v)
    gradients.set(v, have ? b.emit(add, [have, g], {}) : g)
  }
  for (const { y, dy } of ys) accumulate(y, dy)
  for (let i = forward.length - 1; i >= 0; i--) {
    const node = forward[i]!
    const dys = node.outputs.map((v) => gradients.get(v) ?? null)
    const wanted = node.inputs.map((v) => v !== null && active.has(v))
    if (dys.every((d) => d === null) || !wanted.some(Boolean)) continue
    if (!node.op.grad) {
      // Piecewise constant ops pass nothing back; ops that core does not know cannot say.
      if (node.op.name === 'foreign') throw errors.unsupportedModel(`${node.attrs.type} has no gradient`, `node ${node.name}`)
      continue
    }
    const dxs = node.op.grad(b, node, dys, wanted)
    node.inputs.forEach((v, k) => {
      const g = dxs[k]
      if (v && g && wanted[k]) accumulate(v, g)
    })
  }
  return wrt.map((v) => gradients.get(v) ?? zerosLike(b, v))
}
