import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { type ConvertOptions, convert, evaluate, inspect } from 'dqc'
import { needs, SHARED } from '../support/paths.ts'

const onnx = join(SHARED, 'models/onnx')
const data = join(SHARED, 'data/cifar10-exact')
/** Networks with their preprocessing and the right answers onnxruntime gives on the first 1,000 test images. */
const networks: [string, Partial<ConvertOptions>, number][] = [
  ['vnncomp_cifar10_resnet_2b', { mean: [0.4914, 0.4822, 0.4465], std: [0.2471, 0.2435, 0.2616] }, 0.703],
  ['vnncomp_oval21_cifar_base_kw', { mean: [0.485, 0.456, 0.406], std: [0.225] }, 0.611],
  ['vnncomp_marabou_cifar10_small', {}, 0.63],
]

describe('real classifiers', { skip: needs('models', 'onnx') || needs('data', 'cifar10-exact') }, () => {
  for (const [name, o, clean] of networks) {
    it(`${name} keeps its accuracy at 8 and 4 bits, bit for bit at every width`, { timeout: 300_000 }, async () => {
      for (const bits of [8, 6, 5, 4, 3, 2]) {
        const r = (
          await convert(join(onnx, `${name}.onnx`), {
            ...o,
            bits,
            data,
            samples: 1000,
            calibSamples: bits === 4 ? 1000 : 512,
            attacks: [],
            finetune: 'off',
            out: null,
          })
        ).reports[0]!
        assert.equal(r.artifact.mismatches, 0, `${bits} bits`)
        assert.ok(Math.abs(r.before.clean - clean) < 1e-9, `${r.before.clean}`)
        if (bits === 8) assert.ok(Math.abs(r.after.clean - clean) <= 0.005 + 1e-9, `8 bits: ${r.after.clean}`)
        if (bits === 4) assert.ok(r.after.clean >= clean - 0.045, `4 bits: ${r.after.clean}`)
      }
    })
  }

  it('the digits of MNIST reach their networks through every odd export', { skip: needs('data/mnist') }, async () => {
    const mnist = join(SHARED, 'data/mnist')
    const zoo = await evaluate(join(onnx, 'onnx_zoo_mnist.onnx'), { data: mnist, scale: 1, samples: 1000, attacks: [] })
    assert.equal(zoo.measurement.clean, 0.987)
    const dense = await evaluate(join(onnx, 'vnncomp_mnistfc_256x2.onnx'), { data: mnist, samples: 1000, attacks: [] })
    assert.equal(dense.measurement.clean, 0.978)
  })

  it('every model is inspected, and core knows every op of it', () => {
    for (const f of readdirSync(onnx)) {
      const i = inspect(join(onnx, f))
      assert.deepEqual(i.foreign, [], f)
      assert.ok(i.macs > 0 && i.nodes.length > 0)
    }
  })

  it('every QONNX model is inspected, quantizers and all', { skip: needs('models/qonnx') }, () => {
    for (const f of readdirSync(join(SHARED, 'models/qonnx'))) {
      const i = inspect(join(SHARED, 'models/qonnx', f))
      assert.deepEqual(i.foreign, [], f)
      assert.ok(
        i.nodes.some((n) => n.op.endsWith(':Quant')),
        f,
      )
    }
  })

  it('a large structure without data converts', { timeout: 300_000 }, async () => {
    const r = (
      await convert(join(onnx, 'light_shufflenet.onnx'), {
        bits: 8,
        samples: 2,
        calibSamples: 4,
        attacks: ['fgsm'],
        attackSamples: 1,
        out: null,
      })
    ).reports[0]!
    assert.equal(r.model.batch, 'lifted')
    assert.equal(r.artifact.mismatches, 0)
    assert.deepEqual(
      r.floatNodes.map((n) => n.op),
      ['softmax'],
    )
  })
})
