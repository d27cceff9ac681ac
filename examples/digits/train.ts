/**
 * Trains the example classifier on freshly drawn digits with dqc's own engine: forward pass, loss and gradients are one graph.
 * Usage: node --conditions=source --import tsx examples/digits/train.ts [steps]
 * Writes digits.onnx beside itself.
 */
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as core from '@dqc/core'
import { createBuilder, createRandom, differentiate, type Graph, numbersOf, type Tensor, tensorOf, type Value } from '@dqc/core'
import { writeModel } from '@dqc/onnx'
import { createOnnxEngine } from '@dqc/onnx/engine'
import { drawSet, SIDE } from './draw.ts'

const BATCH = 64
const TRAINING_DIGITS = 16_000
const ADAM = { first: 0.9, second: 0.999, rate: 2e-3, tiny: 1e-8 }

const conv = (stride: number): core.ConvAttrs => ({ strides: [stride, stride], pads: [1, 1, 1, 1], dilations: [1, 1], group: 1 })

/** Parameters with He initialization (He et al. 2015, arXiv 1502.01852): normal, variance 2/fan-in. */
const random = createRandom(11)
const he = (shape: readonly number[]): Tensor => {
  const fan = core.sizeOf(shape.slice(1))
  return tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: core.sizeOf(shape) }, () => random.normal() * Math.sqrt(2 / fan)),
  )
}
const widths = [12, 24] as const
const shapes = [
  [widths[0], 1, 3, 3],
  [widths[1], widths[0], 3, 3],
  [widths[1], widths[1], 3, 3],
  [widths[1], widths[1], 3, 3],
  [10, widths[1] * 25],
]
const initial = shapes.flatMap((s) => [he(s), tensorOf('float32', [s[0]!], new Float32Array(s[0]!))])

/** conv · conv/2 · residual block · 2×2 max pool · dense */
function network(b: core.Builder, x: Value, p: readonly Value[]): Value {
  const relu = (v: Value): Value => b.emit(core.relu, [v], {})
  const first = relu(b.emit(core.conv, [x, p[0]!, p[1]!], conv(1)))
  const second = relu(b.emit(core.conv, [first, p[2]!, p[3]!], conv(2)))
  const inner = relu(b.emit(core.conv, [second, p[4]!, p[5]!], conv(1)))
  const block = b.emit(core.conv, [inner, p[6]!, p[7]!], conv(1))
  const sum = relu(b.emit(core.add, [block, second], {}))
  const pooled = b.emit(core.maxPool, [sum], { kernel: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0], dilations: [1, 1], ceil: false })
  const flat = b.emit(core.reshape, [pooled], { shape: [0, widths[1] * 25] })
  return b.emit(core.dense, [flat, p[8]!, p[9]!], {})
}

/** (x, one-hot labels, parameters…) → (mean cross-entropy, gradients…) */
function trainingGraph(): Graph {
  const b = createBuilder()
  const x = b.input('x', { dtype: 'float32', shape: [BATCH, 1, SIDE, SIDE] })
  const y = b.input('y', { dtype: 'float32', shape: [BATCH, 10] })
  const p = initial.map((t, i) => b.input(`p${i}`, t))
  const z = network(b, x, p)
  const logs = b.emit(core.logSoftmax, [z], { axis: 1 })
  const loss = b.emit(
    core.mul,
    [b.emit(core.reduceSum, [b.emit(core.mul, [logs, y], {})], { axes: [0, 1], keepDims: false }), b.scalar(-1 / BATCH)],
    {},
  )
  return b.build('float', [loss, ...differentiate(b, [{ y: loss, dy: b.scalar(1) }], p)])
}

function inferenceGraph(parameters: readonly Tensor[]): Graph<'float'> {
  const b = createBuilder()
  const x = b.input('image', { dtype: 'float32', shape: ['batch', 1, SIDE, SIDE] })
  const z = network(
    b,
    x,
    parameters.map((t, i) => b.constant(t, `${i % 2 ? 'bias' : 'weight'}${Math.floor(i / 2) + 1}`)),
  )
  return b.build('float', [z], { name: 'digits', outputNames: ['logits'] })
}

const steps = Number(process.argv[2] ?? 1500)
const train = drawSet(3, TRAINING_DIGITS)
const engine = createOnnxEngine()
const step = await engine.load(trainingGraph())
let parameters = initial
const m = initial.map((t) => new Float64Array(t.data.length))
const v = initial.map((t) => new Float64Array(t.data.length))
for (let s = 1; s <= steps; s++) {
  const x = new Float32Array(BATCH * SIDE * SIDE)
  const y = new Float32Array(BATCH * 10)
  for (let i = 0; i < BATCH; i++) {
    const k = random.int(TRAINING_DIGITS)
    for (let p = 0; p < SIDE * SIDE; p++) x[i * SIDE * SIDE + p] = train.images[k * SIDE * SIDE + p]! / 255
    y[i * 10 + train.labels[k]!] = 1
  }
  const [loss, ...gradients] = await step([
    tensorOf('float32', [BATCH, 1, SIDE, SIDE], x),
    tensorOf('float32', [BATCH, 10], y),
    ...parameters,
  ])
  const rate = ADAM.rate * 0.5 * (1 + Math.cos((Math.PI * s) / steps))
  parameters = parameters.map((t, i) => {
    const g = numbersOf(gradients[i]!)
    const w = Float32Array.from(t.data as Float32Array)
    for (let k = 0; k < w.length; k++) {
      m[i]![k] = ADAM.first * m[i]![k]! + (1 - ADAM.first) * g[k]!
      v[i]![k] = ADAM.second * v[i]![k]! + (1 - ADAM.second) * g[k]! ** 2
      w[k]! -= (rate * (m[i]![k]! / (1 - ADAM.first ** s))) / (Math.sqrt(v[i]![k]! / (1 - ADAM.second ** s)) + ADAM.tiny)
    }
    return tensorOf('float32', t.shape, w)
  })
  if (s % 100 === 0) console.log(`step ${s}  loss ${numbersOf(loss!)[0]!.toFixed(4)}`)
}
await step.release()
await engine.close()
writeFileSync(join(dirname(fileURLToPath(import.meta.url)), 'digits.onnx'), writeModel(inferenceGraph(parameters)))
