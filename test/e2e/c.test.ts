import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import * as core from '@dqc/core'
import { createBuilder, createRandom, cTarget, evaluate as evaluateGraph, lookup, requantize, tensorOf } from '@dqc/core'
import { writeModel } from '@dqc/onnx'
import { createOnnxEngine } from '@dqc/onnx/engine'
import { createLiteRt } from '@dqc/tflite/litert'
import { type ConvertOptions, convert, type Report } from 'dqc'
import { C_FLAGS } from '../../packages/cli/src/compiler.ts'
import { functionsFor, takeApart } from '../../packages/core/src/targets/c/arithmetic.ts'
import { smallNetwork } from '../support/models.ts'
import { needs, ROOT, SHARED } from '../support/paths.ts'
import { compiler } from '../support/tools.ts'

const dir = mkdtempSync(join(tmpdir(), 'dqc-c-test-'))
after(() => rmSync(dir, { recursive: true, force: true }))
const skip = compiler ? false : 'no C compiler'
const digits = join(ROOT, 'examples/digits/digits.onnx')
const quick = {
  data: join(ROOT, 'examples/digits/data'),
  targets: ['c'],
  samples: 200,
  calibSamples: 128,
  attacks: [],
  finetune: 'off',
  out: null,
} satisfies Partial<ConvertOptions>
/** The same on synthetic inputs. */
const { data: _, ...noData } = quick
const one = async (model: string | Uint8Array, o: ConvertOptions): Promise<Report> => (await convert(model, o)).reports[0]!

describe('C99 files', () => {
  for (const bits of [8, 4, 3])
    for (const [name, o] of Object.entries({
      plain: {},
      'packed weights': { packWeights: true },
      'power-of-two scales': { pow2Scales: true },
      'power-of-two scales, halves up': { pow2Scales: true, rounding: 'shift' },
      'synthesis pragmas': { hls: true },
    } satisfies Record<string, Partial<ConvertOptions>>))
      it(`digits at ${bits} bits, ${name}: compiled without a warning, bit for bit`, { skip }, async () => {
        const r = await one(digits, { ...quick, bits, ...o })
        assert.equal(r.artifact.mismatches, 0)
        assert.equal(r.artifact.compared, 2000)
        assert.ok(r.after.clean > 0.9, `${r.after.clean}`)
        assert.ok(r.artifact.memory!.ram > 0 && r.artifact.memory!.constants > 0)
      })

  it('packing takes the bits of the grid', { skip }, async () => {
    const [wide, packed] = [await one(digits, { ...quick, bits: 3 }), await one(digits, { ...quick, bits: 3, packWeights: true })]
    const inner = wide.cost!.layers.filter((l) => l.weightBits === 3).reduce((n, l) => n + l.weightShape.reduce((a, b) => a * b, 1), 0)
    const saved = wide.artifact.memory!.constants - packed.artifact.memory!.constants
    assert.ok(saved > (inner * 5) / 8 - 16 && saved <= (inner * 5) / 8, `${saved} bytes of ${inner} weights`)
  })

  it('sums, concatenations, tables, clips and pools', { skip }, async () => {
    for (const bits of [8, 4, 2]) {
      const r = await one(writeModel(smallNetwork()), { ...noData, bits, samples: 64 })
      assert.equal(r.artifact.mismatches, 0)
    }
  })

  it('passes the address and undefined-behaviour sanitizers', { skip }, async () => {
    const { files } = await convert(digits, { ...quick, bits: 4, packWeights: true })
    for (const [path, bytes] of files) writeFileSync(join(dir, path), bytes)
    const main = `#include "digits.c.w4a4.h"
      static uint8_t x[400]; static int8_t y[10];
      int main(void) { int i, k; for (k = 0; k < 20; k++) { for (i = 0; i < 400; i++) x[i] = (uint8_t)(i * 37 + k * 11); digits_c_w4a4_run((const void *)x, (void *)y); } return 0; }`
    writeFileSync(join(dir, 'main.c'), main)
    const flags = ['-std=c99', '-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all']
    const built = spawnSync(compiler!, [...flags, 'digits.c.w4a4.c', 'main.c', '-o', 'checked'], { cwd: dir, encoding: 'utf8' })
    assert.equal(built.status, 0, built.stderr)
    const ran = spawnSync(join(dir, 'checked'), [], { encoding: 'utf8' })
    assert.equal(ran.status, 0, ran.stderr)
  })

  it('includes nothing but stdint.h and uses no float', async () => {
    const { files } = await convert(digits, { ...quick, bits: 4 })
    const text = [...files.values()].map((b) => new TextDecoder().decode(b)).join('\n')
    const code = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^#define \w+_SCALE .*$/gm, '')
    assert.deepEqual([...new Set(code.match(/#include <.*>/g))], ['#include <stdint.h>'])
    assert.doesNotMatch(code, /\b(float|double|malloc|free)\b/)
    assert.doesNotMatch(code, /\d\.\d/)
  })

  it('rounds as single precision does, ties and large accumulators included', { skip }, () => {
    const random = createRandom(11)
    const cases = Array.from({ length: 4000 }, (_, i) => {
      const m = Math.fround(i % 3 === 0 ? 2 ** -(1 + random.int(20)) * (1 + 2 * random.int(4)) : 2 ** (-1 - 22 * random.uniform()))
      const range = [2 ** 8, 2 ** 18, 2 ** 24, 2 ** 31 - 1][i % 4]!
      const acc = Math.round((2 * random.uniform() - 1) * range)
      return { acc, m, want: requantize(acc, m, -128, 127) }
    })
    const rows = cases.map(({ acc, m, want }) => {
      const { mantissa, shift } = takeApart(m)
      return `{${acc}, ${mantissa}, ${shift}, ${want}}`
    })
    const program = `#include <stdint.h>\n#include <stdio.h>\n${functionsFor(new Set(['requantize']))}
      static const int32_t t[][4] = {${rows.join(',\n')}};
      int main(void) { int i, bad = 0; for (i = 0; i < ${rows.length}; i++) bad += requantize(t[i][0], t[i][1], t[i][2], -128, 127) != t[i][3]; printf("%d", bad); return 0; }`
    writeFileSync(join(dir, 'round.c'), program)
    execFileSync(compiler!, [...C_FLAGS, 'round.c', '-o', 'round'], { cwd: dir })
    assert.equal(execFileSync(join(dir, 'round'), { encoding: 'utf8' }), '0')
  })

  it('every op that only moves numbers goes where its own semantics say', { skip }, () => {
    const q = { scale: Float32Array.of(1), axis: null, lo: -128, hi: 127 }
    const shape = [1, 4, 4, 6]
    const moves: Record<string, (b: core.Builder, x: core.Value) => core.Value> = {
      transpose: (b, x) => b.emit(core.transpose, [x], { perm: [0, 3, 1, 2] }, { quant: q }),
      reshape: (b, x) => b.emit(core.reshape, [x], { shape: [1, 96] }, { quant: q }),
      pad: (b, x) => b.emit(core.pad, [x], { pads: [0, 0, 1, 2, 0, 0, 0, 1], mode: 'constant', value: 5 }, { quant: q }),
      reflect: (b, x) => b.emit(core.pad, [x], { pads: [0, 0, 1, 2, 0, 0, 0, 1], mode: 'reflect', value: 0 }, { quant: q }),
      slice: (b, x) => b.emit(core.slice, [x], { axes: [1, 3], starts: [3, 0], ends: [-5, 6], steps: [-2, 2] }, { quant: q }),
      concat: (b, x) => b.emit(core.concat, [x, x], { axis: 1 }, { quant: q }),
      depthToSpace: (b, x) => b.emit(core.depthToSpace, [x], { block: 2, mode: 'CRD' }, { quant: q }),
      spaceToDepth: (b, x) => b.emit(core.spaceToDepth, [x], { block: 2 }, { quant: q }),
    }
    for (const [name, make] of Object.entries(moves)) {
      const b = createBuilder()
      const x = b.input('x', { dtype: 'int32', shape }, q)
      const moved = make(b, x)
      const table = Array.from({ length: 256 }, (_, i) => Math.max(-128, i - 129))
      const y = b.emit(lookup, [moved], { lo: -128, table, of: 'test' }, { quant: q })
      // A pool beside it makes images of rank-4 values.
      const pooled = b.emit(
        core.maxPool,
        [x],
        { kernel: [1, 1], strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], ceil: false },
        { quant: q },
      )
      const graph = b.build('integer', [y, pooled])
      const values = Int32Array.from({ length: 96 }, (_, i) => ((i * 53) % 256) - 128)
      const want = core.numbersOf(evaluateGraph(graph, [tensorOf('int32', shape, values)])[0]!)
      const folder = join(dir, name)
      const target = cTarget({ rounding: 'rne', packedWeights: false, hls: false, version: '0' })
      const { files, channelsLast } = target.emit(graph, 'moves', {})
      const last = (at: number, [, C, H, W]: number[]): number => {
        const [c, h, w] = [Math.floor(at / (H! * W!)), Math.floor(at / W!) % H!, at % W!]
        return (h * W! + w) * C! + c
      }
      const fed = new Int8Array(96)
      values.forEach((v, i) => {
        fed[last(i, shape)] = v
      })
      const main = `#include <stdio.h>\n#include "moves.h"\nstatic int8_t p[96] = {${fed.join()}}, a[${want.length}], o[96];
        int main(void) { int i; moves_run(p, a, o); for (i = 0; i < ${want.length}; i++) printf("%d ", a[i]); return 0; }`
      mkdirSync(folder)
      for (const f of [...files, { path: 'main.c', bytes: new TextEncoder().encode(main) }]) writeFileSync(join(folder, f.path), f.bytes)
      execFileSync(compiler!, [...C_FLAGS, 'moves.c', 'main.c', '-o', 'moves'], { cwd: folder })
      const have = execFileSync(join(folder, 'moves'), { encoding: 'utf8' }).trim().split(' ').map(Number)
      const out = y.shape as number[]
      Array.from(want as Int32Array).forEach((v, i) => {
        assert.equal(have[channelsLast!.outputs[0] ? last(i, out) : i], v, `${name} at ${i}`)
      })
    }
  })

  for (const [file, o] of Object.entries({
    'mlperf_tiny_resnet8_cifar10_float.tflite': { data: join(SHARED, 'data/cifar10-exact'), scale: 1 },
    'mlperf_tiny_dscnn_kws_float.tflite': {},
  }))
    for (const bits of [8, 4, 3])
      it(`${file} at ${bits} bits: no mismatch over 200 inputs`, {
        skip: skip || needs('models/tflite', file) || ('data' in o && needs('data/cifar10-exact')),
      }, async () => {
        const r = await one(join(SHARED, 'models/tflite', file), { ...noData, ...o, bits })
        assert.equal(r.artifact.mismatches, 0)
        assert.equal(r.artifact.compared % 200, 0)
        assert.ok(r.artifact.compared > 0)
      })

  const int8 = 'mlperf_tiny_resnet8_cifar10_int8.tflite'
  for (const target of ['c', 'ort'])
    it(`Google’s int8 ResNet-8 as ${target} gives LiteRT’s own outputs`, {
      skip: (target === 'c' && skip) || needs('models/tflite', int8) || needs('data/cifar10-exact'),
    }, async () => {
      const source = new Uint8Array(readFileSync(join(SHARED, 'models/tflite', int8)))
      const { files, reports } = await convert(source, { targets: [target], keepScales: true, samples: 16, attacks: [], out: null })
      assert.equal(reports[0]!.artifact.mismatches, 0)
      const N = 200
      const raw = readFileSync(join(SHARED, 'data/cifar10-exact/test_batch.bin'))
      const pixels = new Float32Array(N * 3072)
      for (let i = 0; i < N; i++) pixels.set(raw.subarray(3073 * i + 1, 3073 * (i + 1)), 3072 * i)
      const x = tensorOf('float32', [N, 3, 32, 32], pixels)
      const lite = createLiteRt()
      const steps = (v: ArrayLike<number>): number[] => Array.from(v, (p) => Math.round(256 * p))
      const want = steps(core.numbersOf((await (await lite.loadBytes(source, 'real'))([x]))[0]!) as Float32Array)
      await lite.close()
      let have: number[]
      if (target === 'ort') {
        const engine = createOnnxEngine()
        have = steps(core.numbersOf((await (await engine.loadBytes([...files.values()][0]!))([x]))[0]!) as Float32Array)
        await engine.close()
      } else {
        for (const [path, bytes] of files) writeFileSync(join(dir, path), bytes)
        const main = `#include <stdio.h>
          #include "model.c.kept.h"
          static uint8_t x[3072], y[10];
          int main(void) { while (fread(x, 3072, 1, stdin) == 1) { model_c_kept_run(x, y); fwrite(y, 10, 1, stdout); } return 0; }`
        writeFileSync(join(dir, 'kept.c'), main)
        execFileSync(compiler!, ['-O2', 'model.c.kept.c', 'kept.c', '-o', 'kept'], { cwd: dir })
        const last = core.numbersOf(core.transpose.eval([x], { perm: [0, 2, 3, 1] })[0]!)
        have = [...execFileSync(join(dir, 'kept'), { input: Buffer.from(Array.from(last as Float32Array)), maxBuffer: 1e7 })]
      }
      assert.deepEqual(have, want)
    })

  it('products with a constant matrix, and rows of images', { skip }, async () => {
    const random = createRandom(4)
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 2, 1, 9] })
    const draw = (shape: number[]): core.Value =>
      b.constant(
        tensorOf(
          'float32',
          shape,
          Array.from({ length: core.sizeOf(shape) }, () => random.normal()),
        ),
        'w',
      )
    const row = b.emit(core.conv, [x, draw([3, 2, 1, 3]), draw([3])], { strides: [1, 2], pads: [0, 1, 0, 1], dilations: [1, 1], group: 1 })
    const z = b.emit(core.matmul, [b.emit(core.reshape, [b.emit(core.relu, [row], {})], { shape: [0, 3, 5] }), draw([1, 5, 4])], {})
    const model = writeModel(b.build('float', [z]))
    const r = await one(model, { ...noData, bits: 8, samples: 32, task: 'regress' })
    assert.equal(r.artifact.mismatches, 0)
  })

  it('takes a Buffer as it takes plain bytes', { skip: needs('models/tflite', int8) }, async () => {
    const bytes = readFileSync(join(SHARED, 'models/tflite', int8))
    const r = await one(bytes, { keepScales: true, samples: 4, attacks: [], out: null })
    assert.equal(r.artifact.mismatches, 0)
  })

  it('names from a model stay inside comments', { skip }, async () => {
    const graph = { ...smallNetwork(), name: '*/ int injected; /*', outputNames: ['*/ int injected; /* ??/'] }
    const { files, reports } = await convert(writeModel(graph), {
      ...noData,
      bits: 4,
      samples: 8,
    })
    assert.equal(reports[0]!.artifact.mismatches, 0)
    for (const bytes of files.values()) {
      const code = new TextDecoder().decode(bytes).replace(/\/\*[\s\S]*?\*\//g, '')
      assert.doesNotMatch(code, /int injected/)
    }
  })

  it('refuses means that count padding', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 2, 6, 6] })
    const w = b.constant(tensorOf('float32', [2, 2, 1, 1], [0.5, -0.5, 0.25, 1]), 'w')
    const attrs = { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1] }
    const y = b.emit(core.conv, [x, w, null], { ...attrs, group: 1 })
    const pool = { ...attrs, pads: [1, 1, 1, 1], kernel: [2, 2], ceil: false, countIncludePad: true }
    const model = writeModel(b.build('float', [b.emit(core.averagePool, [y], pool)]))
    await assert.rejects(one(model, { ...noData, bits: 8, samples: 8, task: 'regress' }), /averagePool/)
  })

  it('says which nodes have no integer form', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 8] })
    const w = b.constant(tensorOf('float32', [4, 8], new Float32Array(32).fill(0.1)), 'w')
    const y = b.emit(core.layerNorm, [b.emit(core.dense, [x, w, null], {}), b.constant(tensorOf('float32', [4], [1, 1, 1, 1])), null], {
      axis: -1,
      epsilon: 1e-5,
    })
    const model = writeModel(b.build('float', [y]))
    await assert.rejects(one(model, { ...noData, bits: 8, samples: 8 }), /C has no integer form of .*layerNorm/)
  })
})

it('the header names sizes and scales', async () => {
  const { files } = await convert(digits, { ...quick, bits: 4 })
  const header = new TextDecoder().decode([...files].find(([p]) => p.endsWith('.h'))![1])
  assert.match(header, /#define DIGITS_C_W4A4_INPUT_SIZE 400/)
  assert.match(header, /void digits_c_w4a4_run\(const u?int8_t \*input, u?int8_t \*output\);/)
})
