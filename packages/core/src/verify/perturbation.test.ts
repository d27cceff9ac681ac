import assert from 'node:assert/strict'
import { it } from 'node:test'
import { createBuilder } from '../ir/builder.ts'
import { tensorOf } from '../ir/tensor.ts'
import { dense } from '../ops/conv.ts'
import { referenceEngine } from '../run/reference.ts'
import { perturbations } from './perturbation.ts'

const vector = (...v: number[]): ReturnType<typeof tensorOf> => tensorOf('float32', [v.length / 2, 2], Float32Array.from(v))

it('an attack’s way through the layers: kept by rotations, amplified where the signal is lost, diluted by biases', async () => {
  const b = createBuilder()
  const x = b.input('x', { dtype: 'float32', shape: ['N', 2] })
  const rotation = b.emit(dense, [x, b.constant(vector(0, 1, -1, 0)), null], {})
  // Shrinks the first coordinate of its input, the signal, tenfold and leaves the second, the noise.
  const damped = b.emit(dense, [x, b.constant(vector(0.1, 0, 0, 1)), null], {})
  const biased = b.emit(dense, [x, b.constant(vector(1, 0, 0, 1)), b.constant(tensorOf('float32', [2], Float32Array.of(3, 0)))], {})
  const dead = b.emit(dense, [x, b.constant(vector(0, 0, 0, 0)), null], {})
  const graph = b.build('float', [rotation, damped, biased, dead])
  const found = await perturbations(
    referenceEngine,
    graph,
    [rotation, damped, biased, dead],
    [[vector(1, 0.1, 1, 0.2), vector(9, 9, 9, 9)], [vector(1, 0.3)]],
    {
      evaluation: {
        samples: 3,
        labels: null,
        pixels: async (from, to) =>
          tensorOf(
            'float32',
            [to - from, 2],
            Array.from({ length: 2 * (to - from) }, (_, i) => 1 - (i % 2)),
          ),
      },
      preprocessing: { scale: tensorOf('float32', [1, 1], [1]), shift: tensorOf('float32', [1, 1], [0]) },
      objective: 'classify',
      batch: 2,
      channelsLast: false,
      seed: 0,
    },
  )
  assert.deepEqual(found.length, 4)
  ;[0.2, 2, 0.05, 0].forEach((want, i) => assert.ok(Math.abs(found[i]! - want) < 1e-6, `${i}: ${found[i]}`))
})
