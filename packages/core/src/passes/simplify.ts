import type { Node, Value } from '../ir/graph.ts'
import { isConstant, usesOf } from '../ir/graph.ts'
import { rewrite } from '../ir/rewrite.ts'
import { numbersOf, tensorOf } from '../ir/tensor.ts'
import { reshape, reshapeTarget } from '../ops/broadcasting.ts'
import { dense, matmul } from '../ops/conv.ts'
import { add, clip, relu, sub } from '../ops/elementwise.ts'
import { globalAveragePool } from '../ops/pool.ts'
import { reduceMean } from '../ops/reduce.ts'
import { axisOf, shapeOf } from '../ops/shapes.ts'
import { slice, split, transpose, transposeValue } from '../ops/structure.ts'
import type { Pass } from './pass.ts'

/** Shapes equal size by size, unknown ones excepted. */
const sameShape = (x: Value, y: Value): boolean =>
  x.shape !== null && y.shape !== null && x.shape.length === y.shape.length && x.shape.every((d, i) => d === y.shape![i] && d !== '?')

/**
 * Rewrites that make later passes see more: transposes cancel or merge, reshapes of reshapes merge and idle ones vanish, a mean over all
 * spatial axes becomes a global pool, a split the slices that integer kernels have, a product with a constant matrix a dense layer, a clamp of a clamp one clamp, subtraction of a constant becomes addition.
 */
export const simplify: Pass<'float'> = {
  name: 'simplify',
  preserves: 'function',
  run(graph) {
    const uses = usesOf(graph)
    return rewrite(graph, (b, node, inputs) => {
      const x = inputs[0]
      const maker: Node | null = x ? b.producer(x) : null
      if (node.op === transpose) {
        const perm = node.attrs.perm as readonly number[]
        if (perm.every((p, i) => p === i)) return [x!]
        if (maker?.op === transpose) {
          const merged = perm.map((p) => maker.attrs.perm[p])
          return merged.every((p, i) => p === i)
            ? [maker.inputs[0]!]
            : b.add(transpose, [maker.inputs[0]!], { perm: merged }, { outputs: [node.outputs[0]!.name] })
        }
        // Axes of size 1 that move carry no data: a reshape says the same and fuses further.
        const s = shapeOf(x!)
        const moved = perm.filter((p) => s[p] !== 1)
        if (moved.every((p, i) => i === 0 || p > moved[i - 1]!) && s.filter((d) => typeof d === 'string').length <= 1)
          return b.add(
            reshape,
            [x!],
            {
              shape: reshapeTarget(
                s,
                perm.map((p) => s[p]!),
              ),
            },
            { outputs: [node.outputs[0]!.name] },
          )
      }
      if (node.op === reshape) {
        if (sameShape(x!, node.outputs[0]!)) return [x!]
        if (maker?.op === reshape && uses.consumers(node.inputs[0]!).length === 1) {
          const from = shapeOf(maker.inputs[0]!)
          const to = shapeOf(node.outputs[0]!)
          if (to.filter((d, i) => typeof d === 'string' && d !== from[i]).length <= 1)
            return b.add(reshape, [maker.inputs[0]!], { shape: reshapeTarget(from, to) }, { outputs: [node.outputs[0]!.name] })
        }
      }
      if (node.op === reduceMean) {
        const rank = shapeOf(x!).length
        const axes = (node.attrs.axes as number[]).map((a) => axisOf(a, rank)).sort((p, q) => p - q)
        if (rank >= 3 && axes.length === rank - 2 && axes.every((a, i) => a === i + 2)) {
          const pooled = b.emit(globalAveragePool, [x!], {}, { name: node.name })
          return [
            node.attrs.keepDims ? pooled : b.emit(reshape, [pooled], { shape: reshapeTarget(shapeOf(pooled), shapeOf(node.outputs[0]!)) }),
          ]
        }
      }
      if (node.op.clamp && maker?.op.clamp && uses.consumers(node.inputs[0]!).length === 1 && !uses.isOutput(node.inputs[0]!)) {
        const [first, then] = [maker.op.clamp(maker.inputs, maker.attrs), node.op.clamp(inputs, node.attrs)]
        const [min, max] = first && then ? [Math.max(first[0], then[0]), Math.min(first[1], then[1])] : [1, 0]
        const names = { name: node.name, outputs: [node.outputs[0]!.name] }
        if (min === 0 && max === Number.POSITIVE_INFINITY) return b.add(relu, [maker.inputs[0]!], {}, names)
        if (min <= max) return b.add(clip, [maker.inputs[0]!], { min, max }, names)
      }
      if (node.op === matmul && isConstant(inputs[1]) && inputs[1].data.shape.length === 2 && shapeOf(x!).length >= 2) {
        const [y] = [inputs[1]]
        const w = transposeValue(b, y, [1, 0], () => b.constant(transpose.eval([y.data], { perm: [1, 0] })[0]!, y.name))
        return b.add(dense, [x!, w, null], {}, { name: node.name, outputs: [node.outputs[0]!.name] })
      }
      if (node.op === sub && isConstant(inputs[1]) && !isConstant(inputs[0])) {
        const c = inputs[1].data
        const negative = tensorOf(
          c.dtype,
          c.shape,
          Float64Array.from(numbersOf(c) as Float32Array, (v) => -v),
        )
        const { quant } = inputs[1]
        const grid = quant && { ...quant, lo: -quant.hi, hi: -quant.lo }
        return b.add(
          add,
          [inputs[0]!, b.constant(negative, inputs[1].name, grid)],
          {},
          { name: node.name, outputs: [node.outputs[0]!.name] },
        )
      }
      // Slices of an axis of open size would not know theirs.
      if (node.op === split && typeof shapeOf(x!)[axisOf(node.attrs.axis, shapeOf(x!).length)] === 'number') {
        let from = 0
        return (node.attrs.sizes as readonly number[]).map((size, i) => {
          const [start, end] = [from, (from += size)]
          const attrs = { axes: [axisOf(node.attrs.axis, shapeOf(x!).length)], starts: [start], ends: [end], steps: [1] }
          return b.emit(slice, [x!], attrs, { name: node.name, outputs: [node.outputs[i]!.name] })
        })
      }
      return null
    })
  },
}
