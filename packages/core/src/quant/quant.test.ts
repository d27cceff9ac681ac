import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { gridBits } from '../ir/graph.ts'
import { halfToNumber, numbersOf, numberToHalf, tensorOf } from '../ir/tensor.ts'
import { quantizeValue, requantize, requantScale, roundHalfEven } from '../math/fixedPoint.ts'
import { orthogonalityDefect, spectralNorm } from '../math/linalg.ts'
import { createRandom } from '../math/random.ts'
import { syntheticImage, syntheticSignal } from '../train/synthesize.ts'
import { chooseScale, createObserver, observerKinds } from './observer.ts'
import { activationGrid, checkSpec, freeScheme, signedGrid, unsignedGrid } from './spec.ts'
import { fitScales, pairScales, weightScales, widestPair } from './weights.ts'

describe('arithmetic', () => {
  it('rounds half to even', () =>
    assert.deepEqual(
      [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4999999].map(roundHalfEven).map((x) => x + 0),
      [-2, -2, 0, 0, 2, 2, 2],
    ))
  it('requantizes in single precision', () => {
    const m = requantScale(0.1, 0.3, 0.7)
    assert.equal(m, Math.fround(m))
    assert.equal(requantize(1000, m, -128, 127), Math.round(1000 * m))
    assert.equal(requantize(1e9, m, -128, 127), 127)
  })
  it('sends NaN to the lower end and saturates infinities', () =>
    assert.deepEqual(
      [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((x) => quantizeValue(x, 1, -7, 7)),
      [-7, 7, -7],
    ))
  it('reads and writes every half-precision number', () => {
    for (let h = 0; h < 0x7c00; h += 7) assert.equal(numberToHalf(halfToNumber(h)), h)
    assert.equal(halfToNumber(numberToHalf(1e6)), Number.POSITIVE_INFINITY)
  })
  it('finds the largest singular value', () => {
    assert.ok(Math.abs(spectralNorm([3, 0, 0, 4], 2, 2) - 4) < 1e-9)
    assert.ok(Math.abs(spectralNorm([1, 1, 1, 1], 2, 2) - 2) < 1e-9)
    assert.ok(Math.abs(orthogonalityDefect([1, 0, 0, 1], 2, 2)) < 1e-12)
    assert.ok(Math.abs(orthogonalityDefect([2, 0, 0, 1], 2, 2) - 3) < 1e-12)
  })
  it('draws the same numbers from the same seed, and forks independently', () => {
    const a = createRandom(3)
    const b = createRandom(3)
    b.fork('x').uniform()
    assert.equal(a.uniform(), b.uniform())
    assert.notEqual(createRandom(3).fork('x').uniform(), createRandom(3).fork('y').uniform())
    const n = Array.from({ length: 20000 }, () => a.normal())
    const mean = n.reduce((s, v) => s + v, 0) / n.length
    assert.ok(Math.abs(mean) < 0.03)
    assert.ok(Math.abs(n.reduce((s, v) => s + (v - mean) ** 2, 0) / n.length - 1) < 0.05)
  })
})

describe('grids', () => {
  it('count their bits', () => {
    for (let k = 2; k <= 8; k++) {
      assert.equal(gridBits(signedGrid(k)), k)
      assert.equal(gridBits(unsignedGrid(k)), k)
      assert.equal(gridBits(activationGrid(k, true)), k)
    }
  })
  it('refuse widths outside 2–8', () => {
    const spec = {
      weightBits: 4,
      actBits: 4,
      edgeBits: 8,
      sumBits: 8,
      observer: 'mse',
      exclude: () => false,
      integerIO: false,
      scheme: freeScheme,
    } as const
    checkSpec(spec)
    for (const bits of [1, 9, 2.5]) assert.throws(() => checkSpec({ ...spec, actBits: bits }), /2 to 8/)
  })
})

describe('observers', () => {
  const random = createRandom(1)
  const values = Float32Array.from({ length: 50_000 }, () => Math.max(0, random.normal()))
  const whole = createObserver()
  whole.add(values)

  it('see the same whatever the batches are', () => {
    const parts = createObserver()
    for (let i = 0; i < values.length; i += 777) parts.add(values.subarray(i, i + 777))
    const [a, b] = [whole.range(), parts.range()]
    assert.deepEqual([b.min, b.max, b.count], [a.min, a.max, a.count])
    for (const kind of observerKinds) {
      const [s, t] = [chooseScale(a, kind, 0, 15), chooseScale(b, kind, 0, 15)]
      assert.ok(Math.abs(s - t) < 0.04 * s, `${kind}: ${s} and ${t}`)
    }
  })
  it('mse has the least error of all, minmax clips nothing', () => {
    const r = whole.range()
    const error = (s: number): number => values.reduce((e, v) => e + (v - s * quantizeValue(v, s, 0, 15)) ** 2, 0)
    const errors = Object.fromEntries(observerKinds.map((k) => [k, error(chooseScale(r, k, 0, 15))]))
    for (const k of observerKinds) assert.ok(errors['mse']! <= errors[k]! * 1.001, `${k}: ${errors[k]} beside ${errors['mse']}`)
    assert.ok(chooseScale(r, 'minmax', 0, 15) * 15 >= r.max * (1 - 1e-6))
  })
  it('give constants and empty tensors a usable scale', () => {
    for (const list of [[], [0, 0], [3, 3]]) {
      const o = createObserver()
      o.add(list)
      for (const kind of observerKinds) {
        const s = chooseScale(o.range(), kind, -7, 7)
        assert.ok(s > 0 && Number.isFinite(s))
      }
    }
  })
})

describe('weight scales', () => {
  const random = createRandom(2)
  const w = tensorOf(
    'float32',
    [6, 30],
    Float32Array.from({ length: 180 }, (_, i) => (i < 150 ? random.normal() : 0)),
  )
  it('by error are at least as good as by range, channel by channel', () => {
    const [byError, byRange] = [weightScales(w, 0, 7, true), weightScales(w, 0, 7, false)]
    const x = numbersOf(w) as Float32Array
    for (let c = 0; c < 5; c++) {
      const e = (s: number): number => x.slice(c * 30, c * 30 + 30).reduce((sum, v) => sum + (v - s * quantizeValue(v, s, -7, 7)) ** 2, 0)
      assert.ok(e(byError[c]!) <= e(byRange[c]!) + 1e-9)
    }
    assert.equal(byError[5], 0)
  })
  it('are raised where two neighbours could have more steps than their kernel adds up, and no further', () => {
    assert.equal(widestPair([1, -9, 4, 3, -2]), 11)
    assert.equal(widestPair([5]), 5)
    const steps = (s: Float32Array): number[] =>
      Array.from(s, (v, c) =>
        widestPair(Array.from((numbersOf(w) as Float32Array).slice(c * 30, c * 30 + 30), (x) => quantizeValue(x, v, -127, 127))),
      )
    const free = weightScales(w, 0, 127, true)
    const fitted = pairScales(free, w, 0, 127, 128)
    const doubled = pairScales(weightScales(w, 0, 127, true, true), w, 0, 127, 128, true)
    for (let c = 0; c < 5; c++) {
      assert.ok(steps(free)[c]! > 128)
      assert.ok(steps(fitted)[c]! <= 128 && steps(fitted)[c]! > 120)
      assert.ok(steps(doubled)[c]! <= 128 && Number.isInteger(Math.log2(doubled[c]!)))
    }
    assert.equal(fitted[5], 0)
    assert.deepEqual(pairScales(free, w, 0, 127, 254), free)
    const clipping = free.map((v) => v / 8)
    assert.deepEqual(pairScales(clipping, w, 0, 127, 128), clipping)
  })
  it('are raised where a bias or an accumulator would not fit 32 bits', () => {
    const tiny = tensorOf('float32', [1, 2], [1e-12, 1e-12])
    const s = fitScales(Float32Array.of(1e-13), tiny, 0, [100], 0.01, 255, 127)[0]!
    assert.ok(100 / (0.01 * s) < 2 ** 31)
    const long = tensorOf('float32', [1, 100_000], new Float32Array(100_000).fill(1))
    const t = fitScales(Float32Array.of(1 / 127), long, 0, null, 1, 255, 127)[0]!
    assert.ok(100_000 * 255 * Math.round(1 / t) < 2 ** 31)
    assert.ok(fitScales(Float32Array.of(0), tensorOf('float32', [1, 1], [0]), 0, [0.5], 0.01, 255, 127)[0]! > 0)
  })
})

describe('synthetic images', () => {
  it('depend on seed and index alone, fill [0, 1], and differ', () => {
    for (let i = 0; i < 8; i++) {
      const a = syntheticImage(createRandom(1), i, 3, 20, 24)
      assert.deepEqual(a, syntheticImage(createRandom(1), i, 3, 20, 24))
      assert.equal(a.length, 3 * 20 * 24)
      assert.ok(a.every((v) => v >= 0 && v <= 1))
      const mean = a.reduce((s, v) => s + v, 0) / a.length
      assert.ok(a.reduce((s, v) => s + (v - mean) ** 2, 0) / a.length > 1e-4, 'not flat')
      assert.notDeepEqual(a, syntheticImage(createRandom(1), i + 8, 3, 20, 24))
    }
  })
})

describe('synthetic signals', () => {
  it('depend on seed and index alone, fill [0, 1], half of them smooth', () => {
    const roughness = (v: Float32Array): number => v.slice(1).reduce((s, x, i) => s + Math.abs(x - v[i]!), 0) / v.length
    for (let i = 0; i < 6; i += 2) {
      const [a, b] = [syntheticSignal(createRandom(2), i, 400), syntheticSignal(createRandom(2), i + 1, 400)]
      assert.deepEqual(a, syntheticSignal(createRandom(2), i, 400))
      for (const v of [...a, ...b]) assert.ok(v >= 0 && v <= 1)
      assert.ok(roughness(a) < roughness(b))
    }
  })
})
