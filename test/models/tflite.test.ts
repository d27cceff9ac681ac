import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { createRandom, type Graph, lower, numbersOf, prepare, sizeOf, type Tensor, tensorOf, transpose } from '@dqc/core'
import { parseModel, readModel, tfliteOriginOf, tfliteTarget, writeModel } from '@dqc/tflite'
import { createLiteRt } from '@dqc/tflite/litert'
import { convert } from 'dqc'
import { needs, ROOT, SHARED } from '../support/paths.ts'
import { runInTfliteWeb } from '../support/tfliteWeb.ts'

const litert = createLiteRt()
after(() => litert.close())
const folder = join(SHARED, 'models/tflite')
const path = (name: string): string => join(folder, `${name}.tflite`)

const files = [
  'mlperf_tiny_resnet8_cifar10_float',
  'mlperf_tiny_resnet8_cifar10_int8',
  'mlperf_tiny_dscnn_kws_float',
  'mlperf_tiny_dscnn_kws_int8',
  'mlperf_tiny_mobilenet_vww_float',
  'mlperf_tiny_mobilenet_vww_int8',
  'mlperf_tiny_autoencoder_ad_float',
  'coral_mobilenet_v1_0.25_128_uint8',
  'coral_tf2_mobilenet_v2_1.0_224_int8',
  'ai_edge_conv_fc_mnist_float',
  'ai_edge_conv_fc_mnist_int8',
  'ai_edge_blockwise_i4rangedvalues_fc',
  'ai_edge_channel_i4rangedvalues_fc',
  'ai_edge_tensor_i4rangedvalues_fc',
]

describe('real TFLite files', () => {
  for (const name of files)
    it(`${name}: read and written again, LiteRT gives the same outputs`, {
      skip: needs('models', 'tflite', `${name}.tflite`),
    }, async () => {
      const bytes = new Uint8Array(readFileSync(path(name)))
      const graph = readModel(bytes)
      const origin = tfliteOriginOf(graph)!
      let again: Uint8Array
      if (graph.level === 'float') {
        const prepared = prepare(graph)
        if (name.startsWith('mlperf')) assert.ok(!prepared.nodes.some((n) => n.op === transpose))
        again = writeModel(prepared).bytes
      } else {
        const target = tfliteTarget({
          integerIO: true,
          container: origin.container!,
          packedWeights: false,
          keepContainers: true,
          version: '0',
        })
        again = target.emit(target.legalize(lower(graph, target.rules, true)), 'again', {}).files[0]!.bytes
      }
      assert.equal(parseModel(again).graph.inputs.length, origin.inputs.length)
      const random = createRandom(1)
      const [before, now] = [await litert.loadBytes(bytes), await litert.loadBytes(again)]
      for (let k = 0; k < 3; k++) {
        const inputs = origin.inputs.map((f): Tensor => {
          const shape = f.shape.map(Math.abs)
          const draw = (): number => (f.grid ? f.grid.lowest + random.int(256) : random.uniform() * (name.includes('cifar') ? 255 : 1))
          return tensorOf(f.dtype, shape, Float64Array.from({ length: sizeOf(shape) }, draw))
        })
        const [want, have] = [numbersOf((await before(inputs))[0]!), numbersOf((await now(inputs))[0]!)]
        const top = (want as Float32Array).reduce((m, v) => Math.max(m, Math.abs(v)), 0)
        const worst = (want as Float32Array).reduce((m, v, i) => Math.max(m, Math.abs(v - have[i]!)), 0)
        assert.ok(graph.level === 'float' ? worst <= 1e-5 * top : worst === 0, `${worst} of ${top}`)
      }
      await before.release()
      await now.release()
    })

  const missing = needs('models', 'tflite', 'mlperf_tiny_resnet8_cifar10_float.tflite') || needs('data', 'cifar10-exact')
  it('ResNet-8 at 8 bits: every target within half a point, and no worse than Google’s own file', { skip: missing }, async () => {
    const { reports } = await convert(path('mlperf_tiny_resnet8_cifar10_float'), {
      bits: 8,
      targets: ['tflite', 'edgetpu', 'ort'],
      data: join(SHARED, 'data/cifar10-exact'),
      scale: 1,
      attacks: [],
      finetune: 'off',
      out: null,
    })
    const google = readFileSync(path('mlperf_tiny_resnet8_cifar10_int8')).length
    for (const r of reports) {
      assert.ok(Math.abs(r.before.clean - 0.881) <= 0.001, `${r.before.clean}`)
      assert.ok(r.before.clean - r.after.clean <= 0.005, `${r.target} ${r.after.clean}`)
      assert.equal(r.artifact.mismatches, 0)
      if (r.target !== 'ort') assert.ok(r.artifact.files[0]!.bytes <= 1.02 * google)
      if (r.target === 'edgetpu') assert.ok(r.artifact.mapping!.every((m) => m.place === 'accelerator'))
      // Google's file: 87.8% on the same images (dqc evaluate).
      if (r.target === 'tflite') assert.ok(r.after.clean >= 0.878)
    }
  })

  it('Google’s int8 ResNet-8 keeps its integers on both runtimes', {
    skip: needs('models', 'tflite', 'mlperf_tiny_resnet8_cifar10_int8.tflite'),
  }, async () => {
    const { reports } = await convert(path('mlperf_tiny_resnet8_cifar10_int8'), {
      keepScales: true,
      targets: ['tflite', 'ort'],
      samples: 64,
      attacks: [],
      finetune: 'off',
      out: null,
    })
    for (const r of reports) {
      assert.equal(r.artifact.mismatches, 0)
      assert.equal(r.after.clean, 1)
      // Its inputs are bytes: images in [0, 1] would all be black.
      assert.match(r.notes.join(), /images were drawn in a range that the file’s own input grid gives/)
    }
  })
})

describe('the digits example in TFLite', () => {
  const digits = join(ROOT, 'examples/digits/digits.onnx')
  const data = join(ROOT, 'examples/digits/data')
  for (const bits of [8, 6, 5, 4, 3, 2])
    it(`${bits} bits: LiteRT agrees with the reference bit for bit, and with ONNX Runtime within a point`, async () => {
      const { reports } = await convert(digits, {
        bits,
        targets: ['tflite', 'ort'],
        data,
        samples: 300,
        calibSamples: 128,
        attacks: [],
        finetune: 'off',
        out: null,
      })
      for (const r of reports) assert.equal(r.artifact.mismatches, 0)
      assert.ok(Math.abs(reports[0]!.after.clean - reports[1]!.after.clean) <= 0.01)
    })

  for (const bits of [8, 4, 2])
    it(`${bits} bits: an independent build of the runtime computes the same`, async () => {
      const { files } = await convert(digits, {
        bits,
        targets: ['tflite'],
        data,
        samples: 20,
        calibSamples: 64,
        attacks: [],
        finetune: 'off',
        out: null,
      })
      const bytes = [...files.values()][0]!
      const random = createRandom(2)
      const model = await litert.loadBytes(bytes)
      const shape = Array.from(parseModel(bytes).graph.tensors[parseModel(bytes).graph.inputs[0]!]!.shape!)
      const inputs = Array.from({ length: 20 }, () => Float32Array.from({ length: sizeOf(shape) }, () => random.uniform()))
      const want: number[] = []
      for (const x of inputs) want.push(...(numbersOf((await model([tensorOf('float32', shape, x)]))[0]!) as Float32Array))
      assert.deepEqual(await runInTfliteWeb(bytes, inputs), Float32Array.from(want))
      await model.release()
    })

  it('goes to TFLite as floats, half floats and integers, and back to ONNX', async () => {
    const options = { data, samples: 100, attacks: [], finetune: 'off', out: null } as const
    const { files } = await convert(digits, { ...options, dequantize: true, targets: ['tflite'] })
    const float = [...files.values()][0]!
    const half = [...(await convert(digits, { ...options, dequantize: true, float16: true, targets: ['tflite'] })).files.values()][0]!
    assert.ok(half.length < 0.65 * float.length)
    const back = await convert(float, { ...options, dequantize: true, targets: ['ort'] })
    assert.equal(back.reports[0]!.after.clean, back.reports[0]!.before.clean)
    const quantized = await convert(float, { ...options, bits: 4, calibSamples: 64, io: 'int8' })
    assert.equal(quantized.reports[0]!.target, 'tflite')
    const again = await convert([...quantized.files.values()][0]!, { ...options, keepScales: true, targets: ['tflite', 'ort'] })
    for (const r of again.reports) assert.ok(r.artifact.maxErrorSteps <= 1)
    const finer: Graph = readModel([...quantized.files.values()][0]!)
    assert.equal(finer.level, 'qdq')
  })

  it('--strict refuses what the Edge TPU would leave to the CPU', async () => {
    const options = {
      bits: 8,
      strict: true,
      targets: ['edgetpu'],
      data,
      samples: 50,
      calibSamples: 64,
      attacks: [],
      finetune: 'off',
      out: null,
    } as const
    const { reports } = await convert(digits, options)
    assert.ok(reports[0]!.artifact.mapping!.every((m) => m.place === 'accelerator'))
    // A layer that stays float has conversions around it, which the Edge TPU does not take.
    await assert.rejects(convert(digits, { ...options, exclude: ['conv_1'] }), /DEQUANTIZE/)
  })
})
