import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { createBuilder } from '../ir/builder.ts'
import type { Dim, Graph } from '../ir/graph.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { createRandom } from '../math/random.ts'
import { dense } from '../ops/conv.ts'
import { log, relu } from '../ops/elementwise.ts'
import { fakeQuant } from '../ops/fakeQuant.ts'
import { softmax } from '../ops/normalize.ts'
import type { Norm } from '../passes/attackStep.ts'
import type { Model } from '../run/engine.ts'
import { evaluate, referenceEngine } from '../run/reference.ts'
import { type AttackName, attackNames, namedAttack } from './attack.ts'
import { answers, attackWith, deviation, type MeasureContext, oneHot, preprocess, startPoint, survivors } from './measure.ts'
import { attackByQueries } from './square.ts'

const N = 24
const D = 12
const random = createRandom(4)
const tensor = (shape: readonly number[], f: () => number): ReturnType<typeof tensorOf> =>
  tensorOf('float32', shape, Float32Array.from({ length: sizeOf(shape) }, f))

/** dense · relu · (fakeQuant) · dense · (softmax) */
function network(quantized: boolean, closing: boolean, samples: Dim = 'N'): Graph {
  const r = createRandom(9)
  const b = createBuilder()
  const x = b.input('x', { dtype: 'float32', shape: [samples, D] })
  const weights = (shape: readonly number[]): ReturnType<typeof tensorOf> => tensor(shape, () => r.normal())
  let h = b.emit(relu, [b.emit(dense, [x, b.constant(weights([16, D])), b.constant(weights([16]))], {})], {})
  if (quantized) h = b.emit(fakeQuant, [h, b.scalar(0.3)], { lo: 0, hi: 15, axis: null, fused: true })
  const z = b.emit(dense, [h, b.constant(weights([4, 16])), null], {})
  return b.build('qdq', [closing ? b.emit(softmax, [z], { axis: 1 }) : z])
}

const pixels = tensor([N, D], () => random.uniform())
const preprocessing = { scale: tensorOf('float32', [1, 1], [4]), shift: tensorOf('float32', [1, 1], [-2]) }
const context: MeasureContext = {
  evaluation: {
    samples: N,
    labels: null,
    pixels: async (from, to) => tensorOf('float32', [to - from, D], (pixels.data as Float32Array).slice(from * D, to * D)),
  },
  preprocessing,
  objective: 'classify',
  batch: 10,
  channelsLast: false,
  seed: 3,
}

async function run(name: AttackName, epsilon: number, norm: Norm, quantized = false, steps = 20, restarts = 2) {
  const graph = network(quantized, true)
  const y = evaluate(graph, [preprocess(pixels, preprocessing)])[0]!
  const labels = Int32Array.from({ length: N }, (_, s) => {
    const row = Array.from(numbersOf(y).slice(s * 4, s * 4 + 4))
    return row.indexOf(Math.max(...row))
  })
  const targets = [0, 10, 20].map((from) => oneHot(labels, from, Math.min(N, from + 10), [0, 4]))
  const attack = namedAttack(name, { epsilon, norm, steps, restarts, queries: 60 })
  const model = await referenceEngine.load(graph)
  const found = attack.gradientFree
    ? await attackByQueries(model, attack, (from, to) => ({ labels: labels.subarray(from, to), reference: null }), context)
    : await attackWith(referenceEngine, graph, attack, targets, context)
  const alive = await survivors(model, found, labels, context)
  return { attack, found, alive, robust: alive.reduce((s, v) => s + v, 0) / N }
}

describe('attacks', () => {
  for (const norm of ['linf', 'l2'] as const)
    for (const name of attackNames.filter((n) => n !== 'square' || norm === 'linf'))
      it(`${name} in ${norm} stays in its ball and in the pixel range`, async () => {
        const epsilon = norm === 'linf' ? 0.06 : 0.2
        const { found, attack } = await run(name, epsilon, norm)
        assert.equal(found.length, 3)
        let moved = 0
        for (const [i, runs] of found.entries()) {
          assert.equal(runs.length, attack.restarts)
          for (const x of runs) {
            const v = numbersOf(x)
            const x0 = (pixels.data as Float32Array).slice(i * 10 * D)
            for (let s = 0; s < x.shape[0]!; s++) {
              let square = 0
              for (let k = 0; k < D; k++) {
                const d = v[s * D + k]! - x0[s * D + k]!
                assert.ok(v[s * D + k]! >= 0 && v[s * D + k]! <= 1)
                if (norm === 'linf') assert.ok(Math.abs(d) <= epsilon + 1e-6, `${d}`)
                square += d * d
              }
              if (norm === 'l2') assert.ok(Math.sqrt(square) <= epsilon + 1e-5, `${Math.sqrt(square)}`)
              if (square > 1e-8) moved++
            }
          }
        }
        assert.ok(moved > 0.9 * N * attack.restarts, 'the attack leaves its start')
      })

  it('a radius of zero changes nothing', async () => {
    for (const name of attackNames) {
      const { found, robust } = await run(name, 0, 'linf')
      for (const [i, runs] of found.entries())
        for (const x of runs)
          assert.deepEqual([...numbersOf(x)], [...(pixels.data as Float32Array).slice(i * 10 * D, i * 10 * D + x.data.length)])
      assert.equal(robust, 1)
    }
  })

  it('networks that are no classifiers are driven off from beside the image, where alone there is a gradient', async () => {
    const graph = network(false, false)
    const targets = [0, 10, 20].map((from) => {
      const x = tensorOf('float32', [Math.min(10, N - from), D], (pixels.data as Float32Array).slice(from * D, Math.min(N, from + 10) * D))
      return evaluate(graph, [preprocess(x, preprocessing)])[0]!
    })
    const moved = async (name: AttackName): Promise<number> => {
      const attack = namedAttack(name, { epsilon: 0.05, norm: 'linf', steps: 5, restarts: 1 })
      const found = await attackWith(referenceEngine, graph, attack, targets, { ...context, objective: 'deviate' })
      return deviation(await referenceEngine.load(graph), found, targets, context)
    }
    const pgd = await moved('pgd')
    for (const name of ['fgsm', 'bim'] as const) assert.ok((await moved(name)) > 0.5 * pgd, name)
  })

  it('a batch that the network fixes finds the same, its remainder too', async () => {
    const attack = namedAttack('pgd', { epsilon: 0.05, norm: 'linf', steps: 3, restarts: 2 })
    const targets = [0, 10, 20].map((from) => oneHot(new Int32Array(N), from, Math.min(N, from + 10), [0, 4]))
    const found = (samples: Dim) => attackWith(referenceEngine, network(true, true, samples), attack, targets, context)
    assert.deepEqual(await found(10), await found('N'))
  })

  it('a gradient that is no number moves nothing', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', D] })
    const z = b.emit(dense, [x, b.constant(tensor([4, D], () => 1e4 * random.normal())), null], {})
    const graph = b.build('qdq', [b.emit(log, [b.emit(softmax, [z], { axis: 1 })], {})])
    const targets = [0, 10, 20].map((from) => oneHot(new Int32Array(N), from, Math.min(N, from + 10), [0, 4]))
    for (const norm of ['linf', 'l2'] as const) {
      const attack = namedAttack('pgd', { epsilon: 0.05, norm, steps: 3, restarts: 1 })
      const found = await attackWith(referenceEngine, graph, attack, targets, context)
      for (const runs of found) for (const image of runs) assert.ok(numbersOf(image).every((v) => v >= 0 && v <= 1))
    }
  })

  it('PGD finds at least as much as FGSM, on float and on quantized graphs', async () => {
    for (const quantized of [false, true])
      for (const epsilon of [0.02, 0.05, 0.1]) {
        const [fgsm, pgd] = [await run('fgsm', epsilon, 'linf', quantized), await run('pgd', epsilon, 'linf', quantized)]
        assert.ok(pgd.robust <= fgsm.robust, `ε ${epsilon}: ${pgd.robust} beside ${fgsm.robust}`)
        if (epsilon === 0.1) assert.ok(pgd.robust < 0.5, 'the attack works at all')
      }
  })

  it('larger balls and more restarts never help the network', async () => {
    const small = await run('pgd', 0.02, 'linf')
    const large = await run('pgd', 0.08, 'linf')
    const once = await run('pgd', 0.04, 'linf', false, 5, 1)
    const often = await run('pgd', 0.04, 'linf', false, 5, 6)
    assert.ok(large.robust <= small.robust)
    assert.ok(often.robust <= once.robust)
  })

  it('the gradient-free attack finds what masked gradients hide', async () => {
    // A step so coarse that no gradient says which way: the straight-through one of a saturated activation is zero.
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', D] })
    const wide = numbersOf(network(false, false).nodes[0]!.inputs[1]!.data!) as Float32Array
    const h = b.emit(dense, [x, b.constant(tensorOf('float32', [16, D], wide)), null], {})
    const hard = b.emit(fakeQuant, [b.emit(relu, [h], {}), b.scalar(1e-3)], { lo: 0, hi: 1, axis: null, fused: true })
    const z = b.emit(dense, [hard, b.constant(tensor([4, 16], () => random.normal())), null], {})
    const graph = b.build('qdq', [z])
    const model = await referenceEngine.load(graph)
    const labels = answers((await model([preprocess(pixels, preprocessing)]))[0]!)
    const o = { epsilon: 0.3, norm: 'linf', steps: 20, restarts: 1, queries: 200 } as const
    const targets = [0, 10, 20].map((from) => oneHot(labels, from, Math.min(N, from + 10), [0, 4]))
    const alive = async (found: Awaited<ReturnType<typeof attackWith>>): Promise<number> =>
      (await survivors(model, found, labels, context)).reduce((s, v) => s + v, 0)
    const byGradient = await alive(await attackWith(referenceEngine, graph, namedAttack('pgd', o), targets, context))
    const byQueries = await alive(
      await attackByQueries(
        model,
        namedAttack('square', o),
        (from, to) => ({ labels: labels.subarray(from, to), reference: null }),
        context,
      ),
    )
    assert.ok(byQueries < byGradient, `${byQueries} survive queries, ${byGradient} gradients`)
  })

  it('scores that move in steps, and tie, do not stop the square attack', async () => {
    const SAMPLES = 64
    const SIZE = 8
    const r = createRandom(21)
    const weights = Float32Array.from({ length: SIZE * SIZE }, () => r.normal())
    const images = tensorOf(
      'float32',
      [SAMPLES, 1, SIZE, SIZE],
      Float32Array.from({ length: SAMPLES * SIZE * SIZE }, () => 0.4 + 0.2 * r.uniform()),
    )
    const plain = { scale: tensorOf('float32', [1], [1]), shift: tensorOf('float32', [1], [0]) }
    // The first class wins by a margin, on a grid or off it; at a tie it still wins.
    const scorer = (step: number | null): Model => {
      const score = (x: ArrayLike<number>, s: number): number => {
        let sum = 0
        for (let k = 0; k < weights.length; k++) sum += weights[k]! * (x[s * weights.length + k]! - 0.5)
        return step === null ? sum + 1 : step * Math.round((sum + 1) / step)
      }
      return Object.assign(
        async ([x]: readonly Tensor[]) => {
          const n = x!.shape[0]!
          return [
            tensorOf(
              'float32',
              [n, 2],
              Float32Array.from({ length: 2 * n }, (_, i) => (i % 2 === 0 ? score(numbersOf(x!) as Float32Array, i / 2) : 0)),
            ),
          ]
        },
        { release: async () => {} },
      )
    }
    const labels = new Int32Array(SAMPLES)
    const c = {
      ...context,
      evaluation: { samples: SAMPLES, labels, pixels: async () => images },
      preprocessing: plain,
      batch: SAMPLES,
    }
    const attack = namedAttack('square', { epsilon: 0.08, norm: 'linf', steps: 1, restarts: 1, queries: 200 })
    const alive = async (model: Model): Promise<number> => {
      const found = await attackByQueries(model, attack, (from, to) => ({ labels: labels.subarray(from, to), reference: null }), c)
      return (await survivors(model, found, labels, c)).reduce((s, v) => s + v, 0)
    }
    assert.equal(await alive(scorer(null)), 0)
    // A search that stops at ties, or waits for the next step, leaves 51 of 64.
    const left = await alive(scorer(0.4))
    assert.ok(left < SAMPLES / 8, `${left} of ${SAMPLES} survive`)
  })

  it('square asks for linf', () => assert.throws(() => namedAttack('square', { epsilon: 0.1, norm: 'l2', steps: 1, restarts: 1 }), /linf/))

  it('the same seed starts at the same points, another elsewhere', () => {
    const attack = namedAttack('pgd', { epsilon: 0.1, norm: 'linf', steps: 1, restarts: 1 })
    const at = (seed: number): ReturnType<typeof startPoint> => startPoint(pixels, attack, createRandom(seed).fork('start 0 0'))
    assert.deepEqual(at(1).data, at(1).data)
    assert.notDeepEqual(at(1).data, at(2).data)
  })
})
