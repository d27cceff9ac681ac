import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { planMemory } from '../../math/memory.ts'
import { createRandom } from '../../math/random.ts'
import { packBits, takeApart } from './arithmetic.ts'

describe('memory planning', () => {
  it('lets no two buffers overlap that are alive together, and needs no more than their sum', () => {
    const random = createRandom(3)
    for (let round = 0; round < 50; round++) {
      const buffers = Array.from({ length: 12 }, () => {
        const first = random.int(20)
        return { size: 1 + random.int(100), first, last: first + random.int(6) }
      })
      const plan = planMemory(buffers)
      buffers.forEach((a, i) => {
        assert.ok(plan.offsets[i]! >= 0 && plan.offsets[i]! + a.size <= plan.size)
        buffers.forEach((b, k) => {
          if (k <= i || a.last < b.first || b.last < a.first) return
          assert.ok(plan.offsets[i]! + a.size <= plan.offsets[k]! || plan.offsets[k]! + b.size <= plan.offsets[i]!, `${i} and ${k}`)
        })
      })
      const most = Math.max(
        ...buffers.map((x) => buffers.filter((b) => b.first <= x.first && x.first <= b.last).reduce((s, b) => s + b.size, 0)),
      )
      assert.ok(plan.size >= most && plan.size <= buffers.reduce((s, b) => s + b.size, 0))
    }
  })
  it('reuses what is no longer read', () => {
    const chain = Array.from({ length: 6 }, (_, i) => ({ size: 10, first: i, last: i + 1 }))
    assert.equal(planMemory(chain).size, 20)
  })
})

describe('C arithmetic', () => {
  it('takes single-precision numbers apart exactly', () => {
    for (const m of [1, 0.5, 0.1, 3, 1e-6, 12.75, 2 ** -30].map(Math.fround)) {
      const { mantissa, shift } = takeApart(m)
      assert.equal(mantissa * 2 ** -shift, m)
      assert.ok(mantissa % 2 === 1 && mantissa < 2 ** 24)
    }
  })
  it('packs weights of every width', () => {
    const random = createRandom(5)
    for (let bits = 2; bits <= 7; bits++) {
      const half = 2 ** (bits - 1)
      const w = Array.from({ length: 37 }, () => random.int(2 * half - 1) - half + 1)
      const packed = packBits(w, bits)
      assert.equal(packed.length, Math.ceil((37 * bits) / 8) + 1)
      const read = w.map((_, i) => {
        const at = i * bits
        const v = ((packed[at >> 3]! | (packed[(at >> 3) + 1]! << 8)) >> (at & 7)) & (2 ** bits - 1)
        return v >= half ? v - 2 * half : v
      })
      assert.deepEqual(read, w)
    }
  })
})
