import { add, conv, createBuilder, dense, globalAveragePool, relu, reshape, tensorOf, type Value } from '@dqc/core'
import { writeModel } from '@dqc/onnx'

/**
 * An untrained residual network for 32×32 colour images of ten classes, as an ONNX file that `dqc train` takes: three stages of 16, 32 and 64
 * channels (He et al. 2016, arXiv 1512.03385, §4.2), 1×1 convolutions where a stage begins, no normalization. Depth is 8, 14, 20, … = 6n + 2.
 */
export function buildResNet(depth: number): Uint8Array {
  const blocks = (depth - 2) / 6
  if (!Number.isInteger(blocks) || blocks < 1) throw new Error(`no residual network of this family has ${depth} layers`)

  const b = createBuilder()
  let layers = 0
  const convolution = (x: Value, channels: number, kernel: number, stride: number): Value => {
    const name = `conv${layers++}`
    const inputs = x.shape![1] as number
    const low = Math.floor((kernel - stride) / 2)
    const high = kernel - stride - low
    const pads = kernel === 1 ? [0, 0, 0, 0] : [Math.max(0, low), Math.max(0, low), high, high]
    const w = b.constant(
      tensorOf('float32', [channels, inputs, kernel, kernel], new Float32Array(channels * inputs * kernel ** 2)),
      `${name}.weight`,
    )
    const bias = b.constant(tensorOf('float32', [channels], new Float32Array(channels)), `${name}.bias`)
    return b.emit(conv, [x, w, bias], { strides: [stride, stride], pads, dilations: [1, 1], group: 1 }, { name, outputs: [name] })
  }

  let x: Value = b.emit(relu, [convolution(b.input('image', { dtype: 'float32', shape: ['N', 3, 32, 32] }), 16, 3, 1)], {})
  for (const [stage, channels] of [16, 32, 64].entries())
    for (let i = 0; i < blocks; i++) {
      const stride = stage > 0 && i === 0 ? 2 : 1
      const inner = b.emit(relu, [convolution(x, channels, 3, stride)], {})
      const branch = convolution(inner, channels, 3, 1)
      const shortcut = stride > 1 ? convolution(x, channels, 1, stride) : x
      x = b.emit(relu, [b.emit(add, [branch, shortcut], {})], {})
    }
  const pooled = b.emit(reshape, [b.emit(globalAveragePool, [x], {})], { shape: [0, 64] })
  const scores = b.emit(
    dense,
    [
      pooled,
      b.constant(tensorOf('float32', [10, 64], new Float32Array(640)), 'dense.weight'),
      b.constant(tensorOf('float32', [10], new Float32Array(10)), 'dense.bias'),
    ],
    {},
    { name: 'dense', outputs: ['scores'] },
  )
  return writeModel(b.build('float', [scores], { name: `resnet${depth}` }))
}
