import * as core from '@dqc/core'
import { createBuilder, createRandom, type Graph, sizeOf, type Tensor, tensorOf } from '@dqc/core'

/** Normal numbers with the variance of He initialization. */
export function heTensor(random: core.Random, shape: readonly number[]): Tensor {
  const fan = sizeOf(shape.slice(1))
  return tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => random.normal() * Math.sqrt(2 / fan)),
  )
}

const window = (stride: number, pad: number): core.ConvAttrs => ({
  strides: [stride, stride],
  pads: [pad, pad, pad, pad],
  dilations: [1, 1],
  group: 1,
})

/** A small classifier with everything quantization meets: a residual sum, a concatenation, pools, a Relu6, a dense layer. */
export function smallNetwork(seed = 1, batch: number | string = 'N'): Graph<'float'> {
  const random = createRandom(seed)
  const b = createBuilder()
  const conv = (x: core.Value, o: number, k: number, stride = 1): core.Value => {
    const c = x.shape![1] as number
    return b.emit(
      core.conv,
      [
        x,
        b.constant(heTensor(random, [o, c, k, k]), 'w'),
        b.constant(
          tensorOf(
            'float32',
            [o],
            Array.from({ length: o }, () => 0.1 * random.normal()),
          ),
          'b',
        ),
      ],
      window(stride, (k - 1) / 2),
    )
  }
  const x = b.input('x', { dtype: 'float32', shape: [batch, 3, 12, 12] })
  const stem = b.emit(core.relu, [conv(x, 8, 3)], {})
  const inner = b.emit(core.clip, [conv(stem, 8, 3)], { min: 0, max: 6 })
  const sum = b.emit(core.relu, [b.emit(core.add, [conv(inner, 8, 3), stem], {})], {})
  const pool = b.emit(core.maxPool, [sum], { kernel: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0], dilations: [1, 1], ceil: false })
  const left = b.emit(core.relu, [conv(pool, 6, 1)], {})
  const joined = b.emit(core.concat, [left, b.emit(core.hardSwish, [conv(pool, 6, 3)], {})], { axis: 1 })
  const mean = b.emit(core.globalAveragePool, [joined], {})
  const flat = b.emit(core.reshape, [mean], { shape: [0, -1] })
  const y = b.emit(
    core.dense,
    [flat, b.constant(heTensor(random, [5, 12]), 'wd'), b.constant(tensorOf('float32', [5], [0.1, -0.1, 0, 0.2, 0]), 'bd')],
    {},
  )
  return b.build('float', [y], { name: 'small', outputNames: ['scores'] })
}

/** A small residual classifier of the ops that FPGA flows have: convolutions, a sum, a maximum, a mean, a dense layer. */
export function residualNetwork(seed = 2): Graph<'float'> {
  const random = createRandom(seed)
  const b = createBuilder()
  const conv = (x: core.Value, o: number, k: number): core.Value => {
    const w = b.constant(heTensor(random, [o, x.shape![1] as number, k, k]), 'w')
    const bias = tensorOf(
      'float32',
      [o],
      Array.from({ length: o }, () => 0.1 * random.normal()),
    )
    return b.emit(core.conv, [x, w, b.constant(bias, 'b')], window(1, (k - 1) / 2))
  }
  const x = b.input('x', { dtype: 'float32', shape: ['N', 3, 8, 8] })
  const stem = b.emit(core.relu, [conv(x, 8, 3)], {})
  const inner = conv(b.emit(core.relu, [conv(stem, 8, 3)], {}), 8, 3)
  const sum = b.emit(core.relu, [b.emit(core.add, [inner, stem], {})], {})
  const pool = b.emit(core.maxPool, [sum], { kernel: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0], dilations: [1, 1], ceil: false })
  const flat = b.emit(core.reshape, [b.emit(core.globalAveragePool, [pool], {})], { shape: [0, -1] })
  const bias = b.constant(tensorOf('float32', [5], [0.1, -0.1, 0, 0.2, 0]), 'bd')
  const y = b.emit(core.dense, [flat, b.constant(heTensor(random, [5, 8]), 'wd'), bias], {})
  return b.build('float', [y], { name: 'residual', outputNames: ['scores'] })
}

/** Uniform inputs in [0, 1). */
export const uniformBatch = (seed: number, shape: readonly number[]): Tensor => {
  const random = createRandom(seed)
  return tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => random.uniform()),
  )
}
