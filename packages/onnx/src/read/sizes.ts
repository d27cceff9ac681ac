import * as core from '@dqc/core'
import { type Dim, isConstant, isKnown, type Node, numbersOf, type Value } from '@dqc/core'

/** Most elements that a shape-like tensor has; anything longer is data. */
const LONGEST = 64

/**
 * Sizes computed inside the graph: Shape → Gather → Concat → Reshape and the like, followed with symbolic entries.
 * Exporters write them to carry a batch size through; knowing them turns such reshapes into constant ones.
 */
export interface Sizes {
  of(v: Value): readonly Dim[] | null
  /** Learns what a node says about its outputs. */
  follow(node: Node): void
}

export function createSizes(): Sizes {
  const known = new Map<Value, readonly Dim[]>()
  const of = (v: Value): readonly Dim[] | null => {
    if (known.has(v)) return known.get(v)!
    if (!isConstant(v) || v.data.data.length > LONGEST || core.isFloat(v.dtype)) return null
    return Array.from(numbersOf(v.data) as Float64Array)
  }
  const integer = (v: Value | null): boolean => v !== null && (v.dtype === 'int64' || v.dtype === 'int32')
  const rules = new Map<core.Op, (node: Node, ins: (readonly Dim[] | null)[]) => readonly Dim[] | null>([
    [core.shape, (n) => n.inputs[0]!.shape?.slice(n.attrs.start, n.attrs.end ?? undefined) ?? null],
    [core.reshape, (_, [x]) => x!],
    [core.identity, (_, [x]) => x!],
    [core.cast, (n, [x]) => (core.isFloat(n.attrs.to) ? null : x!)],
    [core.mul, (_, [x, y]) => (y?.length === x!.length ? x!.map((d, i) => core.product([d, y[i]!])) : null)],
    [core.concat, (_, xs) => (xs.every((x) => x !== null) ? xs.flatMap((x) => [...x!]) : null)],
    [
      core.gather,
      (n, [x, i]) => {
        if (!x || !i || n.attrs.axis !== 0) return null
        const picked = i.map((k) => (typeof k === 'number' ? x[k < 0 ? k + x.length : k] : undefined))
        return picked.every((d) => d !== undefined) ? (picked as Dim[]) : null
      },
    ],
    [
      core.slice,
      (n, [x]) => {
        if (!x || n.inputs[0]!.shape?.length !== 1) return null
        const places = core.slice.eval(
          [
            core.tensorOf(
              'int64',
              [x.length],
              x.map((_, i) => i),
            ),
          ],
          n.attrs,
        )[0]!
        return Array.from(numbersOf(places) as Float64Array, (i) => x[i]!)
      },
    ],
  ])
  return {
    of,
    follow(node) {
      const out = node.outputs[0]
      if (!out || !(integer(out) || out.dtype === 'bool')) return
      const ins = node.inputs.map((v) => (v ? of(v) : null))
      // Plain arithmetic on known numbers, by the op's own semantics.
      if (
        isKnown(out.shape) &&
        core.sizeOf(out.shape) <= LONGEST &&
        node.inputs.every((v, i) => v === null || (ins[i]?.every((d) => typeof d === 'number') && isKnown(v.shape)))
      ) {
        try {
          const tensors = node.inputs.map((v, i) => (v ? core.tensorOf(v.dtype, v.shape as number[], ins[i] as number[]) : null))
          known.set(out, Array.from(numbersOf(node.op.eval(tensors, node.attrs)[0]!) as Float64Array))
          return
        } catch {
          return
        }
      }
      const rule = rules.get(node.op)
      const result = rule && (node.op === core.shape || ins[0] !== null) ? rule(node, ins) : null
      if (result && result.length <= LONGEST) known.set(out, result)
    },
  }
}
