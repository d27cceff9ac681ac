import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { createBuilder } from '../ir/builder.ts'
import type { Value } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { isFloat, numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { verifyGraph } from '../ir/verify.ts'
import { createRandom } from '../math/random.ts'
import { differentiate } from '../passes/autodiff.ts'
import { evaluate } from '../run/reference.ts'
import { reduceSum, reshape } from './broadcasting.ts'
import { mul } from './elementwise.ts'
import { fakeQuant } from './fakeQuant.ts'
import { ops } from './index.ts'
import { cases } from './ops.cases.ts'

const random = createRandom(7)

function draw(shape: readonly number[], range: readonly [number, number]): Tensor {
  // Distinct, well separated values: kinks and ties of max, relu, sort … stay away from every sample.
  const n = sizeOf(shape)
  const order = random.permutation(n)
  const [lo, hi] = range
  return tensorOf(
    'float64',
    shape,
    Float64Array.from(order, (k) => lo + ((k + 0.3 + 0.4 * random.uniform()) / Math.max(1, n)) * (hi - lo)),
  )
}

/** ⟨w, f(x)⟩ and its gradient by the op's VJP, against central differences in double precision. */
function checkGradient(op: Op, tensors: readonly (Tensor | null)[], attrs: unknown, straightThrough: boolean): number {
  const b = createBuilder('float64')
  const inputs: (Value | null)[] = tensors.map((t, i) => (t === null ? null : isFloat(t.dtype) ? b.input(`x${i}`, t) : b.constant(t)))
  const outs = b.add(op, inputs, attrs)
  const float = inputs.filter((v): v is Value => v !== null && v.data === null)
  const seeds = outs.filter((v) => isFloat(v.dtype)).map((v) => ({ y: v, dy: b.constant(draw(v.shape as number[], [-1, 1]), 'dy') }))
  const flat = seeds.map(({ y, dy }) => {
    const p = b.emit(mul, [y, dy], {})
    const all = b.emit(reshape, [p], { shape: [-1] })
    return b.emit(reduceSum, [all], { axes: [0], keepDims: false })
  })
  const grads = differentiate(b, seeds, float)
  const graph = b.build('qdq', [...flat, ...grads])
  verifyGraph({ ...graph, nodes: graph.nodes })
  const point = tensors.filter((t): t is Tensor => t !== null && isFloat(t.dtype))
  const results = evaluate(graph, point)
  const analytic = results.slice(flat.length)
  const loss = (at: readonly Tensor[]): number =>
    evaluate({ ...graph, outputs: flat, outputNames: flat.map((v) => v.name) }, at).reduce((s, t) => s + numbersOf(t)[0]!, 0)
  let worst = 0
  point.forEach((t, k) => {
    assert.deepEqual(analytic[k]!.shape, t.shape, `${op.name}: gradient ${k} has the wrong shape`)
    const g = numbersOf(analytic[k]!)
    if (straightThrough) return
    const step = 1e-5
    for (let i = 0; i < g.length; i++) {
      const nudge = (d: number): readonly Tensor[] =>
        point.map((p, j) =>
          j === k
            ? tensorOf(
                'float64',
                p.shape,
                (numbersOf(p) as Float64Array).map((v, m) => (m === i ? v + d : v)),
              )
            : p,
        )
      const numeric = (loss(nudge(step)) - loss(nudge(-step))) / (2 * step)
      worst = Math.max(worst, Math.abs(numeric - g[i]!) / Math.max(1, Math.abs(numeric)))
    }
  })
  return worst
}

describe('fakeQuant', () => {
  /** dx and ds at x for dy, one scale or one per column. */
  const gradients = (x: readonly number[], s: readonly number[], dy: readonly number[]): number[][] => {
    const b = createBuilder()
    const columns = s.length
    const shape = [x.length / columns, columns]
    const [vx, vs] = [b.input('x', { dtype: 'float64', shape }), b.input('s', { dtype: 'float64', shape: columns > 1 ? [columns] : [] })]
    const y = b.emit(fakeQuant, [vx, vs], { lo: 0, hi: 1, axis: columns > 1 ? 1 : null, fused: false })
    const grads = differentiate(b, [{ y, dy: b.constant(tensorOf('float64', shape, dy), 'dy') }], [vx, vs])
    const results = evaluate(b.build('qdq', grads), [tensorOf('float64', shape, x), tensorOf('float64', vs.shape as number[], s)])
    return results.map((t) => Array.from(numbersOf(t) as Float64Array, (v) => Number(v.toFixed(9))))
  }
  it('passes gradients straight inside the grid and none outside; scales learn Σ dy·(r − [inside]·x/s) (LSQ, eq. 3)', () => {
    // x/s = 0.52, 1.8 and −0.8 on the grid 0 … 1: steps 1, 1 and 0, of which only the first lies inside.
    assert.deepEqual(gradients([0.26, 0.9, -0.4], [0.5], [1, 2, 3]), [[1, 0, 0], [1 * (1 - 0.52) + 2 * 1]])
    assert.deepEqual(
      gradients([0.26, 0.9, -0.4, 3], [0.5, 1], [1, 2, 3, 5]),
      [
        [1, 2, 0, 0],
        [1 * (1 - 0.52), 2 * (1 - 0.9) + 5],
      ].map((row) => row.map((v) => Number(v.toFixed(9)))),
    )
  })
})

describe('op records', () => {
  it('every op has cases', () => {
    const missing = ops.filter((o) => !cases.some((c) => c.op === o) && o.name !== 'foreign').map((o) => o.name)
    assert.deepEqual(missing, [])
    assert.equal(new Set(ops.map((o) => o.name)).size, ops.length, 'op names are unique')
  })
  for (const c of cases) {
    const tensors = c.inputs.map((s) => (s === null ? null : 'data' in s ? s : draw(s, c.range ?? [-2, 2])))
    it(`${c.op.name} ${c.note ?? ''} infers what it evaluates`, () => {
      const types = c.op.infer(tensors, c.attrs)
      const results = c.op.eval(tensors, c.attrs)
      assert.deepEqual(
        types.map((t) => [t.dtype, t.shape]),
        results.map((t) => [t.dtype, t.shape]),
      )
      for (const t of results) assert.equal(t.data.length, sizeOf(t.shape))
      if (c.expect)
        assert.deepEqual(
          Array.from(numbersOf(results[0]!), (x) => Number(x.toFixed(6))),
          c.expect,
        )
    })
    if (c.symbolic !== false && c.inputs[0] && !('data' in c.inputs[0]) && c.inputs[0].length >= 3)
      it(`${c.op.name} ${c.note ?? ''} carries a symbolic batch`, () => {
        const symbolic = tensors.map((t, i) =>
          t && (i === 0 || c.batched?.includes(i)) ? { dtype: t.dtype, shape: ['N', ...t.shape.slice(1)] } : t,
        )
        const known = c.op.infer(tensors, c.attrs)
        const types = c.op.infer(symbolic, c.attrs)
        types.forEach((t, i) => assert.deepEqual(t.shape, ['N', ...known[i]!.shape!.slice(1)]))
      })
    if (c.op.grad)
      it(`${c.op.name} ${c.note ?? ''} has ${c.straightThrough ? 'a gradient for every element' : 'the gradient of central differences'}`, () => {
        const worst = checkGradient(c.op, tensors, c.attrs, c.straightThrough ?? false)
        assert.ok(worst < 1e-5, `relative error ${worst}`)
      })
    if (typeof c.op.lipschitz === 'number')
      it(`${c.op.name} ${c.note ?? ''} expands no more than its Lipschitz constant`, () => {
        const x = tensors[0]!
        const other = tensorOf(
          'float64',
          x.shape,
          (numbersOf(x) as Float64Array).map((v) => v + 0.3 * random.normal()),
        )
        const y = c.op.eval(tensors, c.attrs)
        const z = c.op.eval([other, ...tensors.slice(1)], c.attrs)
        const distance = (a: readonly Tensor[], d: readonly Tensor[]): number =>
          Math.sqrt(
            a.reduce((s, t, k) => s + (numbersOf(t) as Float64Array).reduce((u, v, i) => u + (v - numbersOf(d[k]!)[i]!) ** 2, 0), 0),
          )
        assert.ok(distance(y, z) <= (c.op.lipschitz as number) * distance([x], [other]) * (1 + 1e-9))
      })
    if (c.op.positivelyHomogeneous && !c.notHomogeneousIn)
      it(`${c.op.name} ${c.note ?? ''} is positively homogeneous`, () => {
        const data = c.homogeneousIn ?? [0]
        const times = tensors.map((t, i) =>
          t && data.includes(i)
            ? tensorOf(
                t.dtype,
                t.shape,
                Array.from(numbersOf(t), (v) => 3 * v),
              )
            : t,
        )
        const y = c.op.eval(tensors, c.attrs)
        const z = c.op.eval(times, c.attrs)
        y.forEach((t, k) => {
          const [p, q] = [numbersOf(t), numbersOf(z[k]!)]
          for (let i = 0; i < p.length; i++) assert.ok(Math.abs(3 * p[i]! - q[i]!) < 1e-6 * (1 + Math.abs(q[i]!)))
        })
      })
  }
})
