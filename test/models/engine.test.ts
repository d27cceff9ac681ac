import assert from 'node:assert/strict'
import { after, describe, it } from 'node:test'
import * as core from '@dqc/core'
import { createBuilder, differentiate, evaluate, type Graph, inline, numbersOf, prepare, type Tensor, tensorOf } from '@dqc/core'
import { decodeModel, readModel, writeModel } from '@dqc/onnx'
import { createOnnxEngine } from '@dqc/onnx/engine'
import onnxProto from 'onnx-proto'
import { cases } from '../../packages/core/src/ops/ops.cases.ts'
import { smallNetwork, uniformBatch } from '../support/models.ts'

const engine = createOnnxEngine({ threads: 2 })
after(() => engine.close())

const relative = (a: Tensor, b: Tensor): number => {
  const [p, q] = [numbersOf(a), numbersOf(b)]
  let top = 0
  let worst = 0
  for (let i = 0; i < q.length; i++) top = Math.max(top, Math.abs(q[i]!))
  for (let i = 0; i < p.length; i++) worst = Math.max(worst, Math.abs(p[i]! - q[i]!))
  return p.length === q.length ? worst / (top || 1) : Number.POSITIVE_INFINITY
}

/** Outputs and gradients with respect to inputs and weights, as one graph. */
function withGradients(network: Graph<'float'>): Graph {
  const b = createBuilder()
  const x = b.input('x', network.inputs[0]!)
  const weights = core.constantsOf(network).filter((v) => v.dtype === 'float32' && v.data.shape.length > 1)
  const fed = weights.map((v) => b.input(v.name, v))
  // Constants become inputs, so that they can be differentiated.
  const swapped = core.rewrite(network, (c, n, ins) =>
    ins.some((v) => v && weights.includes(v as never))
      ? c.add(
          n.op,
          ins.map((v) => (v && weights.includes(v as never) ? fed[weights.indexOf(v as never)]! : v)),
          n.attrs,
        )
      : null,
  )
  const [y] = inline(b, swapped, [x])
  const grads = differentiate(
    b,
    [{ y: y!, dy: b.constant(tensorOf('float32', [3, 5], [1, -1, 0.5, 2, -0.3, 0.1, 0.2, 1, -2, 0.4, 0.3, -0.7, 0.9, 1.1, -1])) }],
    [x, ...fed],
  )
  return b.build('float', [y!, ...grads])
}

describe('onnxruntime as the engine', () => {
  it('computes what the reference computes, gradients of inputs and weights included', async () => {
    const graph = withGradients(smallNetwork())
    const weights = core.constantsOf(smallNetwork()).filter((v) => v.dtype === 'float32' && v.data.shape.length > 1)
    const inputs = [uniformBatch(4, [3, 3, 12, 12]), ...weights.map((v) => v.data)]
    const model = await engine.load(graph)
    const [have, want] = [await model(inputs), evaluate(graph, inputs)]
    await model.release()
    assert.equal(have.length, 2 + weights.length)
    have.forEach((t, i) => assert.ok(relative(t, want[i]!) < 1e-4, `output ${i}: ${relative(t, want[i]!)}`))
    assert.ok(want.slice(1).every((t) => numbersOf(t).some((v) => v !== 0)))
  })

  // Every op with a gradient, as the runtime sees it (which has no local response normalization over an even window).
  for (const c of cases) {
    if (!c.op.grad || c.op.levels.length < 2 || c.op === core.fakeQuant || c.note === 'even window') continue
    it(`${c.op.name} ${c.note ?? ''}: forward and gradient as in the reference`, async () => {
      const b = createBuilder()
      const random = core.createRandom(6)
      const [lo, hi] = c.range ?? [-2, 2]
      const fed: Tensor[] = []
      const values = c.inputs.map((s, i) => {
        if (s === null) return null
        const t =
          'data' in s
            ? core.isFloat(s.dtype)
              ? tensorOf('float32', s.shape, numbersOf(s))
              : s
            : tensorOf(
                'float32',
                s,
                Float32Array.from({ length: core.sizeOf(s) }, () => lo + random.uniform() * (hi - lo)),
              )
        if (!core.isFloat(t.dtype)) return b.constant(t)
        fed.push(t)
        return b.input(`x${i}`, t)
      })
      const attrs = c.op === core.cast ? { to: 'float32' } : c.attrs
      const outs = b.add(c.op, values, attrs as never)
      const wrt = values.filter((v): v is core.Value => v !== null && v.data === null)
      const seeds = outs.map((y) => ({
        y,
        dy: b.constant(
          tensorOf(
            'float32',
            y.shape as number[],
            Float32Array.from({ length: core.sizeOf(y.shape as number[]) }, () => random.normal()),
          ),
          'dy',
        ),
      }))
      const graph = b.build('float', [...outs, ...differentiate(b, seeds, wrt)])
      const model = await engine.load(graph)
      const [have, want] = [await model(fed), evaluate(graph, fed)]
      await model.release()
      have.forEach((t, i) => {
        assert.deepEqual(t.shape, want[i]!.shape)
        assert.ok(relative(t, want[i]!) < 2e-4, `output ${i}: ${relative(t, want[i]!)}`)
      })
    })
  }

  it('reports its own refusals, and goes on', async () => {
    await assert.rejects(engine.loadBytes(new Uint8Array([1, 2, 3])), /onnxruntime/)
    const model = await engine.load(prepare(smallNetwork()))
    await assert.rejects(model([uniformBatch(1, [1, 3, 5, 5])]), /onnxruntime/)
    assert.equal((await model([uniformBatch(1, [1, 3, 12, 12])]))[0]!.shape[1], 5)
    await model.release()
    await assert.rejects(model([uniformBatch(1, [1, 3, 12, 12])]), /released/)
  })
})

describe('files', () => {
  it('decode with onnx-proto, and read back as the same graph', () => {
    const bytes = writeModel(smallNetwork())
    const decoded = onnxProto.onnx.ModelProto.decode(bytes)
    assert.equal(decoded.graph?.node?.length, decodeModel(bytes).graph?.node?.length)
    assert.equal(onnxProto.onnx.ModelProto.verify(decoded), null)
    const again = readModel(bytes)
    const x = uniformBatch(4, [2, 3, 12, 12])
    assert.ok(relative(evaluate(again, [x])[0]!, evaluate(smallNetwork(), [x])[0]!) < 1e-5)
  })
})
