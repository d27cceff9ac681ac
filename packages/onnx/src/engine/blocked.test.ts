import assert from 'node:assert/strict'
import { after, describe, it } from 'node:test'
import {
  type ConvAttrs,
  conv,
  createBuilder,
  createRandom,
  differentiate,
  evaluate,
  type Graph,
  numbersOf,
  sizeOf,
  type Tensor,
  tensorOf,
} from '@dqc/core'
import { decodeModel } from '../proto/messages.ts'
import { writeModel } from '../write/write.ts'
import { blockedConvolutions, blockLength, blockProbe } from './blocked.ts'
import { createOnnxEngine } from './index.ts'

const engine = createOnnxEngine({ threads: 2 })
after(() => engine.close())

interface Case {
  readonly what: string
  readonly x: readonly number[]
  readonly w: readonly number[]
  readonly attrs?: Partial<ConvAttrs>
  readonly bias?: boolean
  /** Convolutions in blocks of eight, of the forward one and those of its gradients. */
  readonly blocked: number
}

const cases: readonly Case[] = [
  // Forward, and the gradient of x, which is a convolution with the weights turned round.
  { what: 'all channels with all', x: [9, 16, 9, 7], w: [32, 16, 3, 3], attrs: { pads: [1, 1, 1, 1] }, bias: true, blocked: 2 },
  { what: 'strides, one-sided pads', x: [33, 32, 8, 8], w: [16, 32, 3, 3], attrs: { strides: [2, 2], pads: [0, 0, 1, 1] }, blocked: 1 },
  {
    what: 'dilations, a kernel of unequal sides',
    x: [8, 16, 9, 12],
    w: [16, 16, 2, 3],
    attrs: { dilations: [2, 1] },
    bias: true,
    blocked: 2,
  },
  {
    what: 'a filter for every channel',
    x: [8, 48, 8, 8],
    w: [48, 1, 3, 3],
    attrs: { group: 48, pads: [1, 1, 1, 1] },
    bias: true,
    blocked: 2,
  },
  { what: 'channels that fill no block', x: [32, 12, 6, 6], w: [16, 12, 3, 3], blocked: 0 },
  { what: 'a kernel of one place', x: [32, 16, 6, 6], w: [16, 16, 1, 1], blocked: 0 },
  { what: 'groups of several channels', x: [32, 32, 6, 6], w: [32, 16, 3, 3], attrs: { group: 2 }, blocked: 0 },
  { what: 'too few positions for turning weights', x: [2, 16, 9, 7], w: [32, 16, 3, 3], attrs: { pads: [1, 1, 1, 1] }, blocked: 0 },
  { what: 'one dimension', x: [64, 16, 12], w: [16, 16, 3], attrs: { strides: [1], pads: [1, 1], dilations: [1] }, blocked: 0 },
]

function drawn(shape: readonly number[], seed: number): Tensor {
  const random = createRandom(seed)
  return tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => random.normal()),
  )
}

/** A convolution whose weights are an input, and its gradients. */
function convolution(c: Case): { graph: Graph; fed: Tensor[] } {
  const b = createBuilder()
  const fed = [drawn(c.x, 1), drawn(c.w, 2), ...(c.bias ? [drawn([c.w[0]!], 3)] : [])]
  const ins = fed.map((t, i) => b.input(`in${i}`, t))
  const y = b.emit(conv, ins, { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1, ...c.attrs })
  const dy = b.constant(drawn(y.shape as number[], 4), 'dy')
  return { graph: b.build('float', [y, ...differentiate(b, [{ y, dy }], ins)]), fed }
}

const blocksIn = (graph: Graph, b: number): number =>
  decodeModel(writeModel(graph, blockedConvolutions(graph, b))).graph!.node!.filter((n) => n.opType === 'Conv' && n.domain).length

describe('convolutions with computed weights', () => {
  for (const c of cases)
    it(`${c.what}: ${c.blocked} in blocks, the reference's numbers`, async () => {
      const { graph, fed } = convolution(c)
      assert.equal(blocksIn(graph, 8), c.blocked)
      const model = await engine.load(graph)
      const have = await model(fed)
      await model.release()
      evaluate(graph, fed).forEach((want, i) => {
        assert.deepEqual(have[i]!.shape, want.shape)
        const [p, q] = [numbersOf(have[i]!), numbersOf(want)]
        const top = Math.max(...Array.from(q, Math.abs))
        for (let k = 0; k < q.length; k++) assert.ok(Math.abs(p[k]! - q[k]!) < 1e-4 * top, `output ${i}[${k}]: ${p[k]}, not ${q[k]}`)
      })
    })

  it('those with constant weights are left to the runtime', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: [1, 16, 5, 5] })
    const w = b.constant(drawn([16, 16, 3, 3], 1), 'w')
    const y = b.emit(conv, [x, w], { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1 })
    assert.equal(blocksIn(b.build('float', [y]), 8), 0)
  })

  it('the runtime says how long its blocks are, and blocks of one are none', async () => {
    const probe = await engine.loadBytes(blockProbe())
    const length = await blockLength(probe)
    await probe.release()
    assert.ok([1, 8, 16].includes(length), `blocks of ${length}`)
    assert.equal(blocksIn(convolution(cases[0]!).graph, 1), 0)
  })
})
