import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import {
  createBuilder,
  createRandom,
  differentiate,
  type Graph,
  inline,
  isFloat,
  numbersOf,
  prepare,
  sizeOf,
  type Tensor,
  tensorOf,
  type Value,
} from '@dqc/core'
import { readModel } from '@dqc/onnx'
import { createOnnxEngine } from '@dqc/onnx/engine'
import { readModel as readTflite } from '@dqc/tflite'
import { createTfjsEngine } from '@dqc/tflite/tfjs'
import { type Case, cases } from '../../packages/core/src/ops/ops.cases.ts'
import { smallNetwork } from '../support/models.ts'
import { needs, ROOT, SHARED } from '../support/paths.ts'

const tfjs = await createTfjsEngine({ native: false })
const ort = createOnnxEngine()
after(() => ort.close())
const random = createRandom(11)

const draw = (shape: readonly number[], [lo, hi]: readonly [number, number]): Tensor => {
  // Distinct, well separated values: kinks and ties stay away from every sample.
  const n = sizeOf(shape)
  const order = random.permutation(n)
  return tensorOf(
    'float32',
    shape,
    Float32Array.from(order, (k) => lo + ((k + 0.3 + 0.4 * random.uniform()) / Math.max(1, n)) * (hi - lo)),
  )
}

/** Largest difference, relative to the largest element of the second. */
function apart(a: Tensor, b: Tensor): number {
  assert.deepEqual(a.shape, b.shape)
  const [p, q] = [numbersOf(a), numbersOf(b)]
  let top = 1e-6
  let worst = 0
  for (let i = 0; i < q.length; i++) {
    top = Math.max(top, Math.abs(q[i]!))
    worst = Math.max(worst, Math.abs(p[i]! - q[i]!))
  }
  return worst / top
}

/** dqc's own gradients, run by ONNX Runtime, against TensorFlow.js's differentiation of the same graph. Returns the worst of both sides. */
async function compare(graph: Graph, point: readonly Tensor[]): Promise<{ forward: number; backward: number }> {
  const forward = await tfjs.load(graph)
  const mine = await ort.load(graph)
  const [theirs, ours] = [(await forward(point))[0]!, (await mine(point))[0]!]
  await mine.release()
  const seed = draw(ours.shape, [-1, 1])
  const b = createBuilder()
  const inputs = graph.inputs.map((v) => b.input(v.name, v))
  const [y] = inline(b, graph, inputs)
  const grads = differentiate(b, [{ y: y!, dy: b.constant(seed, 'seed') }], inputs)
  const backward = await ort.load(b.build('qdq', grads))
  const expected = await backward(point)
  await backward.release()
  const have = await tfjs.gradients(graph, point, seed)
  return { forward: apart(theirs, ours), backward: Math.max(...have.map((g, i) => apart(g, expected[i]!))) }
}

describe('TensorFlow.js checks every gradient', () => {
  const seen = new Set<string>()
  const real = (c: Case): boolean => c.inputs.some((i) => i !== null && (!('dtype' in i) || isFloat(i.dtype)))
  const differentiable = cases.filter((c) => c.op.grad && c.op.levels.includes('qdq') && tfjs.supports(c.op.name) && real(c))
  for (const c of differentiable)
    it(`${c.op.name} ${c.note ?? ''}: ONNX Runtime and TensorFlow.js agree`, async (t) => {
      const b = createBuilder()
      const tensors = c.inputs.map((i): Tensor | null => {
        if (i === null || !('dtype' in i)) return i && draw(i, c.range ?? [-2, 2])
        return i.dtype === 'float64' ? tensorOf('float32', i.shape, numbersOf(i)) : i
      })
      const values = tensors.map((x, i) => (x === null ? null : isFloat(x.dtype) ? b.input(`x${i}`, x) : b.constant(x)))
      const outs = b.add(c.op, values, c.attrs)
      const graph = b.build('qdq', [outs[0] as Value])
      const point = tensors.filter((x): x is Tensor => x !== null && isFloat(x.dtype))
      let worst: { forward: number; backward: number }
      try {
        worst = await compare(graph, point)
      } catch (e) {
        if ((e as { kind?: string }).kind !== 'unsupported') throw e
        t.skip((e as Error).message)
        return
      }
      seen.add(c.op.name)
      assert.ok(worst.forward < 1e-4, `forward ${worst.forward}`)
      assert.ok(worst.backward < 1e-4, `gradients ${worst.backward}`)
    })
  after(() => assert.ok(seen.size >= 55, `only ${seen.size} ops were compared`))
})

describe('TensorFlow.js checks whole networks', () => {
  const networks: [name: string, missing: string | false, load: () => Graph<'float'>, range: readonly [number, number]][] = [
    ['the small network', false, () => smallNetwork(3, 2), [0, 1]],
    [
      'the digits example',
      false,
      () => prepare(readModel(new Uint8Array(readFileSync(join(ROOT, 'examples/digits/digits.onnx'))))),
      [0, 1],
    ],
    [
      'ResNet-8 from TFLite',
      needs('models', 'tflite', 'mlperf_tiny_resnet8_cifar10_float.tflite'),
      () =>
        prepare(
          readTflite(
            new Uint8Array(readFileSync(join(SHARED, 'models/tflite/mlperf_tiny_resnet8_cifar10_float.tflite'))),
          ) as Graph<'float'>,
        ),
      [0, 255],
    ],
  ]
  for (const [name, missing, load, range] of networks)
    it(`${name}: outputs and input gradients agree`, { skip: missing }, async () => {
      const graph = load()
      const shape = graph.inputs[0]!.shape!.map((d) => (typeof d === 'number' ? d : 2))
      const worst = await compare(graph, [draw(shape, range)])
      assert.ok(worst.forward < 1e-4 && worst.backward < 1e-4, JSON.stringify(worst))
    })
})
