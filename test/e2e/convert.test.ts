import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import * as core from '@dqc/core'
import { decodeModel, encodeModel, modelToRealGraph, parseModel, readTensor, writeModel } from '@dqc/onnx'
import { createOnnxEngine } from '@dqc/onnx/engine'
import Ajv2020 from 'ajv/dist/2020.js'
import { CompileError, type ConvertOptions, convert, evaluate, inspect, type Report } from 'dqc'
import { smallNetwork, uniformBatch } from '../support/models.ts'
import { ROOT } from '../support/paths.ts'

const dir = mkdtempSync(join(tmpdir(), 'dqc-convert-'))
after(() => rmSync(dir, { recursive: true, force: true }))
const digits = join(ROOT, 'examples/digits/digits.onnx')
const data = join(ROOT, 'examples/digits/data')
const quick = { data, samples: 200, calibSamples: 128, attacks: [], finetune: 'off', out: null } satisfies Partial<ConvertOptions>
const schema = JSON.parse(readFileSync(join(ROOT, 'packages/cli/report.schema.json'), 'utf8'))
const ajv = new Ajv2020.default({ strict: true, allErrors: true })
const valid = ajv.compile(schema)

const one = async (model: string | Uint8Array, o: ConvertOptions): Promise<Report> => (await convert(model, o)).reports[0]!

/** Constants of normal numbers. */
const drawnIn = (b: core.Builder): ((shape: number[]) => core.Value) => {
  const random = core.createRandom(4)
  return (shape) =>
    b.constant(
      core.tensorOf(
        'float32',
        shape,
        Float32Array.from({ length: core.sizeOf(shape) }, () => random.normal()),
      ),
    )
}

describe('convert', () => {
  for (const bits of [8, 6, 5, 4, 3, 2])
    for (const format of ['qoperator', 'qdq'] as const)
      it(`digits at ${bits} bits as ${format}: the file agrees with the reference bit for bit`, async () => {
        const r = await one(digits, { ...quick, bits, format })
        assert.ok(valid(r), JSON.stringify(valid.errors))
        assert.equal(r.artifact.mismatches, 0)
        assert.equal(r.artifact.compared, 200 * 10)
        assert.equal(r.bits.weights.grid, bits)
        assert.deepEqual(
          r.layers.map((l) => l.weightBits),
          r.layers.map((_, i) => (i === 0 || i === r.layers.length - 1 ? 8 : bits)),
        )
        assert.ok(r.before.clean > 0.97)
        if (bits >= 3) assert.ok(r.after.clean > r.before.clean - 0.03, `${r.before.clean} → ${r.after.clean}`)
      })

  for (const [name, o] of Object.entries({
    'integer inputs and outputs': { io: 'int8' },
    'packed INT4 weights': { packWeights: true },
    'packed INT4 weights in QDQ form': { packWeights: true, format: 'qdq' },
    'an excluded layer': { exclude: ['conv_1'] },
    'edges at 4 bits': { edgeBits: 4 },
    'unequal bits': { weightBits: 3, actBits: 6 },
    'the entropy observer': { observer: 'entropy' },
    'the percentile observer': { observer: 'percentile' },
    'the minmax observer': { observer: 'minmax' },
    'equalization always': { equalize: 'on' },
    'neither equalization nor bias correction': { equalize: 'off', biasCorrection: false },
  } satisfies Record<string, Partial<ConvertOptions>>))
    it(`${name}: still bit for bit`, async () => {
      const r = await one(digits, { ...quick, bits: 4, ...o })
      assert.ok(valid(r), JSON.stringify(valid.errors))
      assert.equal(r.artifact.mismatches, 0)
      assert.ok(r.after.clean > 0.9, `${r.after.clean}`)
      if (name === 'an excluded layer') assert.equal(r.floatNodes.filter((n) => n.reason === 'excluded').length, 1)
    })

  it('packed weights halve the file', async () => {
    const wide = await one(digits, { ...quick, bits: 4 })
    const packed = await one(digits, { ...quick, bits: 4, packWeights: true })
    const inner = wide.layers.filter((l) => l.weightBits === 4).reduce((n, l) => n + l.parameters, 0)
    const saved = wide.artifact.files[0]!.bytes - packed.artifact.files[0]!.bytes
    assert.ok(saved > 0.4 * inner, `${saved} bytes saved of ${inner} weights`)
  })

  it('weights whose products could leave 16 bits in pairs are unsigned, so that processors without VNNI compute the same', async () => {
    const signs = async (o: ConvertOptions): Promise<Record<string, number>> => {
      const { files } = await convert(digits, { ...quick, ...o })
      const { graph } = decodeModel([...files.values()][0]!)
      const constants = new Map(graph!.initializer!.map((t) => [t.name, t]))
      const constant = (name: string): core.Tensor => readTensor(constants.get(name)!, () => assert.fail('external data'), name)!
      const counts: Record<string, number> = {}
      for (const n of graph!.node!) {
        if (n.opType !== 'QLinearConv' && n.opType !== 'QGemm') continue
        const { dtype, data, shape } = constant(n.input![3]!)
        assert.equal(constant(n.input![5]!).dtype, dtype)
        counts[dtype] = (counts[dtype] ?? 0) + 1
        if (dtype === 'uint8') continue
        const row = data.length / shape[0]!
        for (let r = 0; r < shape[0]!; r++) {
          const sorted = [0, 0, 0, 0, ...Array.from(data.slice(r * row, (r + 1) * row) as Int8Array, Number)].sort((a, b) => a - b)
          assert.ok(255 * (sorted.at(-1)! + sorted.at(-2)!) <= 32767 && 255 * (sorted[0]! + sorted[1]!) >= -32768, n.name!)
        }
      }
      return counts
    }
    const eight = await signs({ bits: 8 })
    assert.equal(eight['uint8'], 2, 'the first and the last layer keep all of their grid')
    assert.ok(eight['int8']! > 0)
    assert.deepEqual(Object.keys(await signs({ bits: 8, weightBits: 7, edgeBits: 7 })), ['int8'])
    const mixed = await signs({ bits: 4 })
    assert.equal(mixed['uint8'], 2, 'the first and the last layer')
    assert.ok(mixed['int8']! > 0)
  })

  it('residual sums, concatenation, clips, tables and pools stay integer and exact', async () => {
    for (const bits of [8, 4, 3]) {
      const r = await one(writeModel(smallNetwork()), { bits, samples: 64, calibSamples: 64, attacks: [], finetune: 'off', out: null })
      assert.equal(r.artifact.mismatches, 0)
      assert.deepEqual(r.floatNodes, [])
      assert.equal(r.data.synthetic, true)
      assert.equal(r.data.labels, 'model')
      assert.match(r.notes.join(), /no data/)
    }
  })

  it('a mean whose last window sticks out over padding that counts stays in real numbers', async () => {
    const b = core.createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 2, 6, 6] })
    const w = b.constant(core.tensorOf('float32', [2, 2, 1, 1], [0.5, -0.5, 0.25, 1]), 'w')
    const same = { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1] }
    const y = b.emit(core.conv, [x, w, null], { ...same, group: 1 })
    const window = { ...same, strides: [2, 2], pads: [1, 1, 1, 1], kernel: [3, 3], countIncludePad: true }
    for (const ceil of [false, true]) {
      const model = writeModel(b.build('float', [b.emit(core.averagePool, [y], { ...window, ceil })]))
      const r = await one(model, { bits: 8, samples: 32, calibSamples: 64, task: 'regress', attacks: [], finetune: 'off', out: null })
      assert.equal(r.artifact.mismatches, 0)
      assert.equal(r.floatNodes.length, ceil ? 1 : 0)
    }
  })

  it('interpolations between elements of one grid may end a step off, and the report says so', async () => {
    const b = core.createBuilder()
    const drawn = drawnIn(b)
    const same = { strides: [1, 1], pads: [1, 1, 1, 1], dilations: [1, 1], group: 1 }
    const x = b.input('x', { dtype: 'float32', shape: ['N', 3, 8, 8] })
    const r = b.emit(core.relu, [b.emit(core.conv, [x, drawn([8, 3, 3, 3]), null], same)], {})
    const pooled = b.emit(core.maxPool, [r], { ...same, kernel: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0], ceil: false })
    const up = b.emit(core.interpolate, [pooled], {
      sizes: [null, null, null, null],
      scales: [1, 1, 2, 2],
      mode: 'linear',
      coordinates: 'half_pixel',
      nearest: 'floor',
      cubicA: -0.75,
      excludeOutside: false,
    })
    const model = writeModel(
      b.build('float', [b.emit(core.conv, [b.emit(core.concat, [up, r], { axis: 1 }), drawn([4, 16, 3, 3]), null], same)]),
    )
    const o = { bits: 8, samples: 32, calibSamples: 32, task: 'regress', attacks: [], finetune: 'off', out: null } as const
    for (const target of ['ort', 'tflite'] as const) {
      const r = await one(model, { ...o, targets: [target] })
      assert.ok(r.artifact.maxErrorSteps < 1.001)
      assert.match(r.artifact.inexact.join(), /interpolations end half-way/)
    }
  })

  it('operators that are only carried are named, and what may settle them', async () => {
    const model = (samples: number): Uint8Array => {
      const m = decodeModel(new Uint8Array(readFileSync(digits)))
      const g = m.graph!
      const last = g.node!.at(-1)!
      const out = last.output![0]!
      last.output![0] = 'scores'
      g.node!.push({ opType: 'Hardmax', name: 'h', input: ['scores'], output: [out], attribute: [], domain: '' })
      if (samples) g.input![0]!.type!.tensorType!.shape!.dim![0] = { dimValue: samples }
      return encodeModel(m)
    }
    const note = async (samples: number): Promise<string> =>
      (await one(model(samples), { ...quick, bits: 8, samples: 16, calibSamples: 16 })).notes.join()
    assert.match(
      await note(0),
      /only carries, and what reads their results, stay in real numbers: Hardmax; .* --shape \w+=1,1,20,20 settles/,
    )
    assert.match(await note(1), /real numbers: Hardmax$|real numbers: Hardmax,/)
  })

  it('dense layers over a sequence keep an open batch, in either format', async () => {
    const b = core.createBuilder()
    const drawn = drawnIn(b)
    const x = b.input('x', { dtype: 'float32', shape: ['N', 5, 6] })
    const h = b.emit(core.relu, [b.emit(core.dense, [x, drawn([8, 6]), drawn([8])], {})], {})
    const model = writeModel(b.build('float', [b.emit(core.dense, [h, drawn([4, 8]), drawn([4])], {})]))
    for (const format of ['qoperator', 'qdq'] as const) {
      const r = await one(model, {
        bits: 4,
        format,
        samples: 32,
        calibSamples: 64,
        task: 'regress',
        attacks: [],
        finetune: 'off',
        out: null,
      })
      assert.equal(r.artifact.mismatches, 0)
      assert.deepEqual(r.floatNodes, [])
    }
  })

  it('a batch that the file fixes takes any number of samples, to calibrate, to attack and to measure', async () => {
    const fixed = (samples: number | string): Uint8Array => {
      const b = core.createBuilder()
      const drawn = drawnIn(b)
      const x = b.input('x', { dtype: 'float32', shape: [samples, 12] })
      const h = b.emit(core.relu, [b.emit(core.dense, [x, drawn([16, 12]), drawn([16])], {})], {})
      return writeModel(b.build('float', [b.emit(core.dense, [h, drawn([4, 16]), drawn([4])], {})]))
    }
    const o = { bits: 8, samples: 20, calibSamples: 5, attacks: ['fgsm', 'square'], queries: 5, finetune: 'off', out: null } as const
    for (const task of ['classify', 'regress'] as const) {
      const [open, closed] = [await one(fixed('N'), { ...o, task, batch: 8 }), await one(fixed(8), { ...o, task })]
      for (const r of [open, closed]) {
        assert.equal(r.artifact.mismatches, 0)
        assert.ok(!r.notes.some((n) => /no gradient attack/.test(n)), r.notes.join())
        assert.ok(r.activations.every((u) => u.levels > 8))
      }
      assert.deepEqual(
        closed.after.attacks.map((a) => [a.name, a.samples]),
        open.after.attacks.map((a) => [a.name, a.samples]),
      )
    }
    await assert.rejects(convert(fixed(300), { ...o, bits: 4, attacks: [], finetune: 2 }), /training takes batches of 300, and there are/)
  })

  it('a model whose data lie in another file is known by them', async () => {
    const model = decodeModel(new Uint8Array(readFileSync(digits)))
    const w = model.graph!.initializer!.find((t) => t.rawData!.length > 64)!
    const bytes = w.rawData!
    Object.assign(w, { dataLocation: 1, rawData: new Uint8Array(), externalData: [{ key: 'location', value: 'w.bin' }] })
    const path = join(dir, 'external.onnx')
    writeFileSync(path, encodeModel(model))
    const known = async (data: Uint8Array): Promise<string> => {
      writeFileSync(join(dir, 'w.bin'), data)
      return (await one(path, { ...quick, bits: 8 })).model.sha256
    }
    assert.notEqual(await known(bytes), await known(bytes.map((v, i) => (i === 0 ? v ^ 1 : v))))
  })

  it('the same input, options and seed give the same bytes; another seed another calibration', async () => {
    const bytes = async (seed: number): Promise<string> => (await one(digits, { ...quick, bits: 4, seed })).artifact.files[0]!.sha256
    const [a, b, c] = [await bytes(0), await bytes(0), await bytes(1)]
    assert.equal(a, b)
    assert.notEqual(a, c)
  })

  it('writes the model and the report, and nothing else', async () => {
    const out = join(dir, 'files')
    const r = await one(digits, { ...quick, bits: 4, out })
    assert.deepEqual(readdirSync(out).sort(), ['digits.ort.w4a4.onnx', 'digits.ort.w4a4.report.json'])
    assert.deepEqual(JSON.parse(readFileSync(join(out, 'digits.ort.w4a4.report.json'), 'utf8')), JSON.parse(JSON.stringify(r)))
    const seen = inspect(join(out, 'digits.ort.w4a4.onnx'))
    assert.equal(seen.metadata['dqc.model.sha256'], r.model.sha256)
    assert.equal(seen.ops['QLinearConv'], 4)
    assert.ok(seen.quantization.some((q) => q.bits === 4))
  })

  it('fails its gates with the report in hand', async () => {
    for (const [gate, kind] of [
      ['maxDrop', 'accuracy'],
      ['maxRobustDrop', 'robustness'],
    ] as const) {
      const o: ConvertOptions = { ...quick, bits: 2, edgeBits: 2, attacks: ['fgsm'], [gate]: 0 }
      await assert.rejects(convert(digits, o), (e: CompileError & { result?: { reports: Report[] } }) => {
        assert.ok(e instanceof CompileError)
        assert.equal(e.kind, kind)
        assert.equal(e.result!.reports[0]!.gates[gate]!.passed, false)
        return true
      })
    }
    const r = await one(digits, { ...quick, bits: 8, attacks: ['fgsm'], maxDrop: 0.05, maxRobustDrop: 0.05 })
    assert.deepEqual([r.gates.maxDrop?.passed, r.gates.maxRobustDrop?.passed], [true, true])
  })

  it('says when a coarse file was attacked by gradients alone', async () => {
    const told = async (o: ConvertOptions): Promise<boolean> =>
      (await one(digits, { ...quick, samples: 64, finetune: 'off', queries: 10, ...o })).notes.some((n) =>
        n.includes('queries to the file'),
      )
    assert.equal(await told({ bits: 4, attacks: ['fgsm'] }), true)
    assert.equal(await told({ bits: 4, attacks: ['fgsm', 'square'] }), false)
    assert.equal(await told({ bits: 8, attacks: ['fgsm'] }), false)
  })

  it('measures networks that are no classifiers by relative error', async () => {
    const r = await one(writeModel(smallNetwork()), {
      bits: 8,
      task: 'regress',
      samples: 32,
      calibSamples: 32,
      eps: [0, 4 / 255],
      attacks: ['pgd'],
      steps: 3,
      out: null,
    })
    assert.ok(valid(r), JSON.stringify(valid.errors))
    assert.equal(r.metric, 'relativeError')
    assert.equal(r.before.clean, 0)
    assert.ok(r.after.clean > 0 && r.after.clean < 0.2, `${r.after.clean}`)
    assert.equal(r.before.attacks[0]!.robust, 0)
    assert.ok(r.before.attacks[1]!.robust > 0)
  })

  it('stops when told to', async () => {
    const abort = new AbortController()
    const run = convert(digits, { ...quick, bits: 4, out: join(dir, 'stopped'), signal: abort.signal, onProgress: () => abort.abort() })
    await assert.rejects(run, (e: CompileError) => e.kind === 'interrupted')
    assert.equal(readdirSync(dir).includes('stopped'), false)
  })
})

describe('evaluate', () => {
  it('measures float and quantized files alike, with gradients read out of the integers', async () => {
    const out = join(dir, 'evaluated')
    for (const format of ['qoperator', 'qdq'] as const) {
      const r = await one(digits, { ...quick, bits: 4, format, out, attacks: ['pgd'], eps: [16 / 255] })
      const e = await evaluate(join(out, 'digits.ort.w4a4.onnx'), { data, samples: 200, attacks: ['pgd'], eps: [16 / 255] })
      assert.equal(e.measurement.clean, r.after.clean)
      const attacked = e.measurement.attacks[0]!.robust
      assert.ok(Math.abs(attacked - r.after.attacks[0]!.robust) <= 0.05, `${attacked} beside ${r.after.attacks[0]!.robust}`)
      assert.ok(attacked < e.measurement.clean - 0.2)
    }
  })

  it('reads float islands of its own files as what they compute', async () => {
    const out = join(dir, 'island')
    await one(digits, { ...quick, bits: 4, exclude: ['conv_1'], out })
    const bytes = readFileSync(join(out, 'digits.ort.w4a4.onnx'))
    const real = modelToRealGraph(parseModel(bytes))
    const x = uniformBatch(2, [20, ...real.inputs[0]!.shape!.slice(1).map(Number)])
    const engine = createOnnxEngine({ threads: 1 })
    const model = await engine.loadBytes(bytes)
    const [want, have] = [core.numbersOf((await model([x]))[0]!), core.numbersOf(core.evaluate(real, [x])[0]!)]
    await engine.close()
    for (let i = 0; i < want.length; i++) assert.ok(Math.abs(want[i]! - have[i]!) < 1e-4, `${want[i]} and ${have[i]}`)
  })

  it('reads files with integer inputs by the grids in their metadata', async () => {
    const out = join(dir, 'integer-io')
    const r = await one(digits, { ...quick, bits: 8, io: 'int8', out })
    const e = await evaluate(join(out, 'digits.ort.w8a8.onnx'), { data, samples: 200, attacks: [] })
    assert.equal(e.measurement.clean, r.after.clean)
  })
})

describe('the data readers', () => {
  it('read the digits from IDX and from arrays as the same numbers', async () => {
    const require = createRequire(import.meta.url)
    const zlib = require('node:zlib') as typeof import('node:zlib')
    const images = zlib.gunzipSync(readFileSync(join(data, 't10k-images-idx3-ubyte.gz'))).subarray(16)
    const labels = zlib.gunzipSync(readFileSync(join(data, 't10k-labels-idx1-ubyte.gz'))).subarray(8)
    const header = (shape: string): Buffer => {
      const text = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape}), }\n`
      const head = Buffer.alloc(10)
      head.write('\x93NUMPY', 'latin1')
      head[6] = 1
      head.writeUInt16LE(text.length, 8)
      return Buffer.concat([head, Buffer.from(text, 'latin1')])
    }
    const folder = mkdtempSync(join(dir, 'npy-'))
    writeFileSync(join(folder, 'x_test.npy'), Buffer.concat([header('1000, 1, 20, 20'), images]))
    writeFileSync(join(folder, 'y_test.npy'), Buffer.concat([header('1000,'), labels]))
    const a = await evaluate(digits, { data, samples: 300, attacks: ['fgsm'], eps: [8 / 255] })
    const b = await evaluate(digits, { data: folder, samples: 300, attacks: ['fgsm'], eps: [8 / 255] })
    assert.deepEqual(b.measurement, a.measurement)
  })
})
