import assert from 'node:assert/strict'
import { after, describe, it } from 'node:test'
import {
  createBuilder,
  createRandom,
  differentiate,
  evaluate,
  fakeQuant,
  type Graph,
  maxPool,
  numbersOf,
  type Tensor,
  tensorOf,
} from '@dqc/core'
import { createOnnxEngine } from './index.ts'

const engine = createOnnxEngine({ threads: 1 })
after(() => engine.close())

interface Case {
  readonly what: string
  readonly lo: number
  readonly hi: number
  readonly scales: readonly number[]
}

const cases: readonly Case[] = [
  { what: 'an unsigned grid', lo: 0, hi: 15, scales: [0.25] },
  { what: 'a signed grid', lo: -7, hi: 7, scales: [0.25] },
  { what: 'a grid that a byte is too small for', lo: -32767, hi: 32767, scales: [2 ** -14] },
  { what: 'a scale for every channel', lo: -7, hi: 7, scales: [0.25, 0.5, 0.125] },
]

/** Three channels of real numbers, the first of which are ties and the ends of the grid. */
function drawn(c: Case): Tensor {
  const random = createRandom(5)
  const s = c.scales[0]!
  const special = [0.5, 1.5, -0.5, c.lo, c.hi, c.hi + 0.5, c.hi + 1, c.lo - 1].map((v) => v * s)
  const rest = Array.from({ length: 88 }, () => 2 * random.normal())
  return tensorOf('float32', [2, 3, 16], Float32Array.of(...special, ...rest))
}

/** A quantizer, and its gradients where its scale is fed. */
function quantizer(c: Case, learned: boolean): { graph: Graph; fed: Tensor[] } {
  const b = createBuilder()
  const x = drawn(c)
  const one = c.scales.length === 1
  const s = tensorOf('float32', one ? [] : [c.scales.length], c.scales)
  const scale = learned ? b.input('s', s) : b.constant(s, 's')
  const v = b.input('x', x)
  const y = b.emit(fakeQuant, [v, scale], { lo: c.lo, hi: c.hi, axis: one ? null : 1, fused: false })
  const dy = b.constant(tensorOf('float32', x.shape, Float32Array.from(x.data as Float32Array, Math.cos)), 'dy')
  return { graph: b.build('qdq', [y, ...differentiate(b, [{ y, dy }], learned ? [v, scale] : [v])]), fed: learned ? [s, x] : [x] }
}

/** Zero has one sign. */
const listed = (t: Tensor): number[] => Array.from(numbersOf(t), (v) => v + 0)

describe('quantizers that are trained', () => {
  for (const c of cases)
    for (const learned of [true, false])
      it(`${c.what}, ${learned ? 'learned' : 'fixed'}: the reference's steps and gradients`, async () => {
        const { graph, fed } = quantizer(c, learned)
        const model = await engine.load(graph)
        const [y, dx, ds] = await model(fed)
        await model.release()
        const [wantY, wantDx, wantDs] = evaluate(graph, fed)
        assert.deepEqual(listed(y!), listed(wantY!))
        assert.deepEqual(listed(dx!), listed(wantDx!))
        if (learned)
          numbersOf(wantDs!).forEach((want, i) => {
            assert.ok(
              Math.abs(numbersOf(ds!)[i]! - want) <= 1e-4 * Math.max(1, Math.abs(want)),
              `ds[${i}]: ${numbersOf(ds!)[i]}, not ${want}`,
            )
          })
      })
})

describe('maximum pools', () => {
  const none = { pads: [0, 0, 0, 0], dilations: [1, 1], ceil: false }
  const pools = {
    'windows side by side': { ...none, kernel: [2, 2], strides: [2, 2] },
    'the last windows hang over': { ...none, kernel: [2, 2], strides: [2, 2], ceil: true },
    'windows that overlap, with pads': { ...none, kernel: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
    'dilated windows': { ...none, kernel: [2, 2], strides: [2, 2], dilations: [2, 2] },
  }
  for (const [what, attrs] of Object.entries(pools))
    it(`${what}: the reference's gradient`, async () => {
      const random = createRandom(6)
      const x = tensorOf(
        'float32',
        [2, 3, 7, 7],
        Float32Array.from({ length: 294 }, () => random.normal()),
      )
      const b = createBuilder()
      const v = b.input('x', x)
      const y = b.emit(maxPool, [v], attrs)
      const n = (y.shape as number[]).reduce((p, d) => p * d, 1)
      const dy = b.constant(
        tensorOf(
          'float32',
          y.shape as number[],
          Float32Array.from({ length: n }, (_, i) => i + 1),
        ),
        'dy',
      )
      const graph = b.build('float', differentiate(b, [{ y, dy }], [v]))
      const model = await engine.load(graph)
      const [dx] = await model([x])
      await model.release()
      assert.deepEqual(listed(dx!), listed(evaluate(graph, [x])[0]!))
    })
})
