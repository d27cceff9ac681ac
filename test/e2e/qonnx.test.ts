import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { evaluate as evaluateGraph, numbersOf, tensorOf } from '@dqc/core'
import { decodeModel, encodeModel, type ModelProto, modelToRealGraph, readTensor, writeModel } from '@dqc/onnx'
import { CompileError, type ConvertOptions, convert, evaluate, type Report } from 'dqc'
import { writeNpy } from '../../packages/onnx/src/targets/npy.ts'
import { residualNetwork, smallNetwork } from '../support/models.ts'
import { needs, ROOT, SHARED } from '../support/paths.ts'
import { python } from '../support/tools.ts'

const dir = mkdtempSync(join(tmpdir(), 'dqc-qonnx-'))
after(() => rmSync(dir, { recursive: true, force: true }))
const digits = join(ROOT, 'examples/digits/digits.onnx')
const data = join(ROOT, 'examples/digits/data')
const quick = { data, samples: 200, calibSamples: 128, attacks: [], finetune: 'off', out: null } satisfies Partial<ConvertOptions>
const one = async (model: string | Uint8Array, o: ConvertOptions): Promise<Report> => (await convert(model, o)).reports[0]!
const bytesOf = async (model: string, o: ConvertOptions): Promise<Uint8Array> => [...(await convert(model, o)).files.values()][0]!
const constants = (m: ModelProto): Map<string, number[]> =>
  new Map(
    m.graph!.initializer!.map((t) => [t.name!, Array.from(numbersOf(readTensor(t, () => new Uint8Array(), t.name!)!) as Float32Array)]),
  )

describe('QONNX, QCDQ and Vitis AI files', () => {
  for (const flavor of ['generic', 'finn', 'hls4ml'] as const)
    for (const bits of [8, 4, 3, 2])
      it(`digits at ${bits} bits for ${flavor}: bit for bit`, async () => {
        const r = await one(digits, { ...quick, bits, targets: ['qonnx'], flavor })
        assert.equal(r.artifact.mismatches, 0)
        assert.equal(r.artifact.compared, 2000)
      })

  for (const target of ['qonnx', 'qcdq'])
    it(`${target} with free scales: at most a step apart, almost nowhere`, async () => {
      for (const bits of [8, 4]) {
        const r = await one(writeModel(smallNetwork()), {
          targets: [target],
          bits,
          pow2Scales: false,
          samples: 64,
          calibSamples: 64,
          attacks: [],
          finetune: 'off',
          out: null,
        })
        assert.ok(r.artifact.mismatches <= 0.005 * r.artifact.compared && r.artifact.maxErrorSteps < 1.01, `${r.artifact.mismatches}`)
      }
    })

  for (const flavor of ['finn', 'hls4ml'] as const)
    it(`sums and means for ${flavor}: bit for bit`, async () => {
      const r = await one(writeModel(residualNetwork()), {
        targets: ['qonnx'],
        flavor,
        bits: 4,
        samples: 64,
        calibSamples: 64,
        attacks: [],
        finetune: 'off',
        out: null,
      })
      assert.equal(r.artifact.mismatches, 0)
    })

  it('flags that one of several targets knows are for that one', async () => {
    const { reports, files } = await convert(digits, {
      ...quick,
      bits: 4,
      targets: ['ort', 'c', 'qonnx'],
      format: 'qdq',
      flavor: 'finn',
      rounding: 'rne',
      hls: true,
      packWeights: true,
    })
    assert.deepEqual(
      reports.map((r) => [r.target, r.format, r.artifact.mismatches]),
      [
        ['ort', 'qdq', 0],
        ['c', 'c99 packed', 0],
        ['qonnx', 'finn', 0],
      ],
    )
    const c = [...files].find(([name]) => name.endsWith('.c'))
    assert.ok(new TextDecoder().decode(c![1]).includes('HLS pipeline'))
  })

  it('a flow’s refusals come all at once', async () => {
    const made = convert(writeModel(smallNetwork()), {
      targets: ['qonnx'],
      flavor: 'hls4ml',
      bits: 4,
      samples: 8,
      attacks: [],
      finetune: 'off',
      out: null,
    })
    await assert.rejects(made, (e) => e instanceof CompileError && e.kind === 'unsupported')
  })

  it('QONNX has quantizers with zero point 0, unsigned ones behind a Relu, signed narrow weights', async () => {
    const m = decodeModel(await bytesOf(digits, { ...quick, bits: 4, targets: ['qonnx'], flavor: 'finn' }))
    const values = constants(m)
    const maker = new Map(m.graph!.node!.map((n) => [n.output![0]!, n]))
    const attribute = (n: (typeof m.graph & object)['node'] extends (infer N)[] | undefined ? N : never, name: string): number =>
      Number(n.attribute!.find((a) => a.name === name)!.i)
    const quants = m.graph!.node!.filter((n) => n.opType === 'Quant')
    assert.ok(quants.length >= 10)
    for (const n of quants) {
      assert.equal(n.domain, 'qonnx.custom_op.general')
      assert.deepEqual(values.get(n.input![2]!), [0])
      const before = maker.get(n.input![0]!)
      if (values.has(n.input![0]!)) assert.deepEqual([attribute(n, 'signed'), attribute(n, 'narrow')], [1, 1])
      else if (before && attribute(n, 'signed') === 0) assert.ok(['Relu', 'MaxPool', 'Reshape'].includes(before.opType!), before.opType)
    }
    assert.equal(m.graph!.input![0]!.type!.tensorType!.shape!.dim![0]!.dimValue?.toString(), '1')
    assert.ok(m.graph!.quantizationAnnotation!.length === quants.length)
    assert.ok(!m.graph!.node!.some((n) => n.opType === 'Gemm'))
  })

  it('FINN finds its configuration and what the network should answer', async () => {
    const { files } = await convert(digits, { ...quick, bits: 4, targets: ['qonnx'], flavor: 'finn' })
    const names = [...files.keys()].map((f) => f.split('/').at(-1)!).sort()
    assert.deepEqual(names, ['dataflow_build_config.json', 'expected_output.npy', 'input.npy', 'model.onnx'])
  })

  it('Vitis AI: every scale a power of two, int8 containers, one scale per tensor', async () => {
    const m = decodeModel(await bytesOf(digits, { ...quick, bits: 8, targets: ['vitis-ai'] }))
    const values = constants(m)
    const linear = m.graph!.node!.filter((n) => /^(De)?[Qq]uantizeLinear$/.test(n.opType!))
    assert.ok(linear.length > 10)
    for (const n of linear) {
      const scale = values.get(n.input![1]!)!
      assert.equal(scale.length, 1)
      assert.ok(Number.isInteger(Math.log2(scale[0]!)), `${n.name}: ${scale}`)
      const zero = m.graph!.initializer!.find((t) => t.name === n.input![2])!
      assert.equal(zero.dataType, 3)
    }
    const r = await one(digits, { ...quick, bits: 8, targets: ['vitis-ai'] })
    assert.equal(r.artifact.mismatches, 0)
  })

  it('fine-tuning keeps scales powers of two', async () => {
    const m = decodeModel(await bytesOf(digits, { ...quick, bits: 4, targets: ['qcdq'], pow2Scales: true, finetune: 12, robust: 0 }))
    const values = constants(m)
    for (const n of m.graph!.node!.filter((x) => x.opType === 'DequantizeLinear'))
      for (const s of values.get(n.input![1]!)!) assert.ok(Number.isInteger(Math.log2(s)), `${n.name}: ${s}`)
  })

  for (const [name, options] of Object.entries({
    '--flavor beside another target': { bits: 4, flavor: 'finn', targets: ['ort'] },
    '--rounding beside another target': { bits: 4, rounding: 'rne', targets: ['ort'] },
    'four bits for Vitis AI': { bits: 4, targets: ['vitis-ai'] },
    'free scales for Vitis AI': { bits: 8, pow2Scales: false, targets: ['vitis-ai'] },
    'shifts without powers of two': { bits: 4, rounding: 'shift', targets: ['c'] },
    'new scales and old ones': { keepScales: true, pow2Scales: true },
  } satisfies Record<string, ConvertOptions>))
    it(`refuses ${name}`, async () => {
      await assert.rejects(convert(digits, { ...options, out: null }), (e) => e instanceof CompileError && e.kind === 'usage')
    })
})

describe('reading QONNX', () => {
  const values = [-3.1, -0.76, -0.5, -0.25, 0, 0.25, 0.5, 0.74, 1.26, 9]
  /** One node of `domain` on ten numbers, with constants for its other inputs; the operator set is imported or not. */
  const run = (domain: string, type: string, constants: number[], attributes: Record<string, number>, imported = true): number[] => {
    const names = constants.map((_, i) => `c${i}`)
    const model: ModelProto = {
      irVersion: 8,
      opsetImport: [{ domain: '', version: 13 }, ...(imported ? [{ domain, version: 1 }] : [])],
      graph: {
        name: 'one',
        node: [
          {
            opType: type,
            domain,
            input: ['x', ...names],
            output: ['y'],
            attribute: Object.entries(attributes).map(([name, i]) => ({ name, type: 2, i })),
          },
        ],
        initializer: constants.map((v, i) => ({ name: names[i]!, dims: [], dataType: 1, floatData: [v] })),
        input: [{ name: 'x', type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 1 }, { dimValue: 10 }] } } } }],
        output: [{ name: 'y', type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 1 }, { dimValue: 10 }] } } } }],
      },
    }
    const graph = modelToRealGraph(decodeModel(encodeModel(model)))
    return Array.from(numbersOf(evaluateGraph(graph, [tensorOf('float32', [1, 10], values)])[0]!) as Float32Array, (v) => v + 0)
  }
  const even = (v: number): number => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v))
  const quant = (s: number, zero: number, lo: number, hi: number): number[] =>
    values.map((v) => (even(Math.min(Math.max(v / s + zero, lo), hi)) - zero) * s + 0)

  for (const domain of ['qonnx.custom_op.general', 'onnx.brevitas', 'finn.custom_op.general'])
    for (const type of ['Quant', 'IntQuant'])
      it(`${domain}:${type}`, () => {
        assert.deepEqual(run(domain, type, [0.5, 0, 3], { signed: 1, narrow: 0 }), quant(0.5, 0, -4, 3))
        assert.deepEqual(run(domain, type, [0.5, 0, 3], { signed: 1, narrow: 1 }), quant(0.5, 0, -3, 3))
        assert.deepEqual(run(domain, type, [0.25, 0, 2], { signed: 0, narrow: 0 }), quant(0.25, 0, 0, 3))
        assert.deepEqual(run(domain, type, [0.5, 4, 4], { signed: 0, narrow: 0 }), quant(0.5, 4, 0, 15))
        assert.deepEqual(run(domain, type, [0.5, 0, 3], { signed: 1, narrow: 0 }, false), quant(0.5, 0, -4, 3))
      })
  it('activations of more than eight bits stay real numbers on their grid', () =>
    assert.deepEqual(run('qonnx.custom_op.general', 'Quant', [2 ** -10, 0, 12], { signed: 1, narrow: 0 }), quant(2 ** -10, 0, -2048, 2047)))
  it('BipolarQuant', () =>
    assert.deepEqual(
      run('qonnx.custom_op.general', 'BipolarQuant', [0.5], {}),
      values.map((v) => (v >= 0 ? 0.5 : -0.5)),
    ))
  it('Trunc cuts low bits off, on its input’s scale or on one of its own', () => {
    assert.deepEqual(
      run('qonnx.custom_op.general', 'Trunc', [0.25, 0, 6, 4], {}),
      values.map((v) => Math.min(Math.max(Math.floor(even(v / 0.25) / 4), -8), 7) * 0.25),
    )
    assert.deepEqual(
      run('qonnx.custom_op.general', 'Trunc', [0.25, 0, 6, 1, 4], { signed: 1 }),
      values.map((v) => Math.min(Math.max(Math.floor(even(v / 0.25) / 4), -8), 7)),
    )
  })
})

describe('quantized files go on with their own scales', () => {
  for (const source of ['qoperator', 'qdq', 'qonnx', 'qcdq'] as const)
    for (const target of ['ort', 'tflite', 'qcdq'])
      it(`${source} → ${target}: the same answers`, async () => {
        const made = source === 'qoperator' || source === 'qdq' ? { targets: ['ort'], format: source } : { targets: [source] }
        const bytes = await bytesOf(digits, { ...quick, bits: 4, ...(made as Partial<ConvertOptions>) })
        const path = join(dir, `${source}.onnx`)
        writeFileSync(path, bytes)
        const r = await one(path, { data, samples: 200, attacks: [], out: null, keepScales: true, targets: [target] })
        assert.ok(r.artifact.mismatches <= 0.001 * r.artifact.compared, `${r.artifact.mismatches}`)
        assert.ok(Math.abs(r.after.clean - r.before.clean) <= 0.005, `${r.before.clean} → ${r.after.clean}`)
        assert.deepEqual(
          r.cost!.layers.map((l) => l.weightBits),
          [8, ...r.cost!.layers.slice(1, -1).map(() => (source === 'qoperator' || source === 'qdq' ? 8 : 4)), 8],
        )
      })

  it('a network on narrow grids is quantized anew, bit for bit', { skip: needs('models/qonnx/qkeras_jettagging.onnx') }, async () => {
    const { reports } = await convert(join(SHARED, 'models/qonnx/qkeras_jettagging.onnx'), {
      bits: 8,
      targets: ['tflite', 'qcdq', 'ort'],
      samples: 50,
      attacks: [],
      out: null,
    })
    for (const r of reports) assert.equal(r.artifact.mismatches, 0, r.target)
  })

  it('a network whose quantizers are its nonlinearities keeps them when it is quantized anew, or not at all', {
    skip: needs('models/qonnx/TFC_2W2A.onnx') || needs('data/mnist'),
  }, async () => {
    for (const o of [{ bits: 8 }, { dequantize: true }]) {
      const { reports } = await convert(join(SHARED, 'models/qonnx/TFC_2W2A.onnx'), {
        ...o,
        data: join(SHARED, 'data/mnist'),
        samples: 500,
        attacks: [],
        finetune: 'off',
        out: null,
      })
      const [r] = reports
      assert.ok(Math.abs(r!.after.clean - r!.before.clean) < 0.02, `${r!.before.clean} → ${r!.after.clean}`)
    }
  })

  const models: [string, Partial<ConvertOptions>][] = [
    ['TFC_2W2A.onnx', { data: join(SHARED, 'data/mnist'), samples: 500 }],
    ['qkeras_jettagging.onnx', { samples: 50 }],
    ['espcn_subpixel_quant.onnx', { samples: 2 }],
  ]
  for (const [file, o] of models)
    it(`${file} is read, evaluated, and goes to ort and tflite`, {
      skip: needs('models/qonnx', file) || (o.data !== undefined && needs('data/mnist')),
    }, async () => {
      const path = join(SHARED, 'models/qonnx', file)
      const e = await evaluate(path, { ...(o.data ? { data: o.data } : {}), samples: o.samples!, attacks: [] })
      if (file === 'TFC_2W2A.onnx') assert.ok(e.measurement.clean > 0.94, `${e.measurement.clean}`)
      const { reports } = await convert(path, { ...o, keepScales: true, targets: ['ort', 'tflite'], attacks: [], out: null })
      for (const r of reports) {
        assert.ok(r.artifact.mismatches <= 0.001 * r.artifact.compared, `${r.target}: ${r.artifact.mismatches}`)
        assert.ok(Math.abs(r.after.clean - r.before.clean) < 0.03, `${r.before.clean} → ${r.after.clean}`)
      }
    })
})

describe('the tools themselves', () => {
  const N = 200
  /** Images as the network is fed, channels second or last: one channel lies alike in both. */
  const images = (last: boolean): Uint8Array => {
    const raw = gunzipSync(readFileSync(join(data, 't10k-images-idx3-ubyte.gz')))
    const [h, w] = [raw.readUInt32BE(8), raw.readUInt32BE(12)]
    const pixels = Float32Array.from(raw.subarray(16, 16 + N * h * w), (v) => Math.fround(v / 255))
    return writeNpy(tensorOf('float32', last ? [N, h, w, 1] : [N, 1, h, w], pixels))
  }
  const readNpy = (path: string): Float32Array => {
    const bytes = readFileSync(path)
    const start = 10 + bytes.readUInt16LE(8)
    return new Float32Array(new Uint8Array(bytes.subarray(start)).buffer)
  }
  const write = (name: string, bytes: Uint8Array): string => {
    const path = join(dir, name)
    writeFileSync(path, bytes)
    return path
  }
  const tool = python('qonnx')
  it('qonnx cleans up and runs FINN’s file, with the answers of the reference', { skip: tool.skip, timeout: 300_000 }, async () => {
    const { files } = await convert(digits, { ...quick, bits: 4, targets: ['qonnx'], flavor: 'finn', pow2Scales: true })
    const of = (end: string): Uint8Array => [...files].find(([p]) => p.endsWith(end))![1]
    const [model, x, y] = [write('finn.onnx', of('model.onnx')), write('finn-x.npy', of('input.npy')), join(dir, 'finn-y.npy')]
    execFileSync(tool.run!, [join(ROOT, 'test/peers/qonnx_check.py'), model, x, y], { stdio: 'pipe' })
    // Zeros may have a sign.
    const plain = (v: Float32Array): number[] => Array.from(v, (s) => s + 0)
    assert.deepEqual(plain(readNpy(y)), plain(readNpy(write('finn-want.npy', of('expected_output.npy')))))
  })

  const both = python('qonnx', 'hls4ml')
  it('hls4ml converts, compiles and predicts as qonnx does', { skip: both.skip, timeout: 600_000 }, async () => {
    const { files } = await convert(digits, { ...quick, bits: 4, targets: ['qonnx'], flavor: 'hls4ml', pow2Scales: true })
    const [model, config] = [...files.values()].map((b, i) => write(i === 0 ? 'hls.onnx' : 'hls.json', b)) as [string, string]
    const x = write('hls-x.npy', images(true))
    const [want, have] = [join(dir, 'want.npy'), join(dir, 'have.npy')]
    execFileSync(both.run!, [join(ROOT, 'test/peers/qonnx_check.py'), model, x, want], { stdio: 'pipe' })
    execFileSync(both.run!, [join(ROOT, 'test/peers/hls4ml_check.py'), model, config, x, have, join(dir, 'hls')], { stdio: 'pipe' })
    const [p, q] = [readNpy(want), readNpy(have)]
    const top = (v: Float32Array, i: number): number => v.subarray(10 * i, 10 * i + 10).reduce((m, s, k, all) => (s > all[m]! ? k : m), 0)
    let same = 0
    for (let i = 0; i < N; i++) if (top(p, i) === top(q, i)) same++
    assert.ok(same >= 0.995 * N, `${same} of ${N}`)
  })
})
