import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { decodeModel, encodeModel, writeModel } from '@dqc/onnx'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { type ConvertOptions, convert, inspect } from 'dqc'
import { smallNetwork } from '../support/models.ts'
import { ROOT } from '../support/paths.ts'

const digits = join(ROOT, 'examples/digits/digits.onnx')
const data = join(ROOT, 'examples/digits/data')
const dir = mkdtempSync(join(tmpdir(), 'dqc-finetune-'))
after(() => rmSync(dir, { recursive: true, force: true }))

const quick = { data, samples: 200, calibSamples: 64, attacks: [], out: null, threads: 1 } satisfies Partial<ConvertOptions>
const one = async (o: ConvertOptions) => (await convert(digits, { ...quick, ...o })).reports[0]!

const schema = JSON.parse(readFileSync(join(ROOT, 'packages/cli/report.schema.json'), 'utf8')) as object
const valid = new Ajv2020().compile(schema)

/** Runs the command line; `kill` sends a signal as soon as the checkpoint is there. */
const run = (
  args: readonly string[],
  kill?: { signal: NodeJS.Signals; checkpoint: string },
): Promise<{ code: number | null; stderr: string }> =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, [join(ROOT, 'packages/cli/bin/dqc.mjs'), ...args])
    let stderr = ''
    child.stderr.on('data', (d) => {
      stderr += d
      if (kill && !child.killed && (kill.signal === 'SIGTERM' ? stderr.includes('fine-tune') : existsSync(kill.checkpoint)))
        child.kill(kill.signal)
    })
    child.on('close', (code) => resolve({ code, stderr }))
  })

describe('fine-tuning', () => {
  it('2 bits: gains on plain rounding, agrees with the emitted file bit for bit, and reports what it did', async () => {
    const plain = await one({ bits: 2, edgeBits: 4, finetune: 'off' })
    const tuned = await one({ bits: 2, edgeBits: 4, finetune: 200, lipschitzBeta: 0.001 })
    assert.ok(tuned.after.clean > plain.after.clean + 0.02, `${plain.after.clean} → ${tuned.after.clean}`)
    for (const r of [plain, tuned]) {
      assert.equal(r.artifact.mismatches, 0)
      assert.ok(valid(r), JSON.stringify(valid.errors))
    }
    assert.equal(plain.finetuning.length, 0)
    const [t] = tuned.finetuning
    assert.equal(t!.steps, 200)
    assert.equal(t!.curve.at(-1)!.step, 200)
    assert.equal(t!.augmentation.flip, false, 'mirrored digits are other signs')
    assert.ok(tuned.layers.every((l) => l.operatorNorm.before! > 0 && l.operatorNorm.after! > 0))
    assert.ok(tuned.activations.some((u) => u.of === 4))
  })

  it('the penalty lowers the layers’ norms', async () => {
    const product = async (beta: number): Promise<number> =>
      (await one({ bits: 4, finetune: 60, lipschitzBeta: beta })).layers.reduce((p, l) => p * l.operatorNorm.after!, 1)
    const [free, held] = [await product(0), await product(0.1)]
    assert.ok(held < 0.8 * free, `${free} → ${held}`)
  })

  it('is automatic below eight bits, and off on demand', async () => {
    assert.equal((await one({ bits: 8 })).finetuning.length, 0)
    const r = await one({ bits: 4, effort: 'fast', lr: 0.005, freeze: ['dense'], optimizer: 'sgd', clip: 1, loss: 'kd', augment: 'none' })
    assert.deepEqual(
      r.finetuning.map((t) => [t.stage, t.loss]),
      [
        ['float', 'kd'],
        ['quantized', 'kd'],
      ],
      'against small perturbations in real numbers first',
    )
    const plain = await one({ bits: 4, finetune: 20, robust: 0, lipschitzBeta: 0 })
    assert.deepEqual(
      plain.finetuning.map((t) => [t.stage, t.penalty]),
      [['quantized', null]],
    )
  })

  it('adversarial: in real numbers first, then through the quantizers', async () => {
    const r = await one({ bits: 4, finetune: 60, robust: 16 / 255, attacks: ['pgd'], eps: [16 / 255], steps: 10 })
    assert.deepEqual(
      r.finetuning.map((t) => t.stage),
      ['float', 'quantized'],
    )
    const plain = await one({ bits: 4, finetune: 'off', attacks: ['pgd'], eps: [16 / 255], steps: 10 })
    assert.ok(r.after.worst[0]!.robust > plain.after.worst[0]!.robust, `${plain.after.worst[0]!.robust} → ${r.after.worst[0]!.robust}`)
    for (const side of ['before', 'after'] as const) assert.ok(r.layers.every((l) => l.perturbation[side]! > 0))
    assert.ok(valid(r), JSON.stringify(valid.errors))
  })

  it('works without any data, by the original’s scores alone', async () => {
    const { data: _, ...rest } = quick
    const r = (await convert(digits, { ...rest, bits: 3, finetune: 30 })).reports[0]!
    assert.equal(r.finetuning[0]!.loss, 'kd')
    assert.match(r.finetuning[0]!.training.source, /synthetic/)
  })

  it('takes whole batches of a file whose batch was fixed at export', async () => {
    const { data: _, ...rest } = quick
    const r = (await convert(writeModel(smallNetwork(1, 1)), { ...rest, bits: 4, finetune: 4, samples: 32 })).reports[0]!
    assert.equal(r.model.batch, 'lifted')
    assert.equal(r.finetuning[0]!.batch, 64)
  })

  it('counts residual sums as convex combinations on demand', async () => {
    const r = await one({ bits: 4, finetune: 4, convexSums: true })
    assert.equal(r.finetuning[0]!.penalty!.convexSums, true)
    assert.ok(valid(r), JSON.stringify(valid.errors))
  })

  for (const signal of ['SIGKILL', 'SIGTERM'] as const)
    it(`${signal} and --resume end in the same bytes as an uninterrupted run`, async () => {
      const args = (out: string): string[] => [
        'convert',
        digits,
        '--bits',
        '4',
        '--data',
        data,
        '--finetune',
        '120',
        '--samples',
        '100',
        '--attack',
        'none',
        '--threads',
        '1',
        '-o',
        out,
      ]
      const [whole, stopped] = [join(dir, `whole-${signal}`), join(dir, `stopped-${signal}`)]
      assert.equal((await run(args(whole))).code, 0)
      const checkpoint = join(stopped, 'digits.ort.w4a4.checkpoint')
      const first = await run(args(stopped), { signal, checkpoint })
      assert.equal(first.code, signal === 'SIGKILL' ? null : 130, first.stderr)
      assert.deepEqual(
        readdirSync(stopped).filter((f) => !f.startsWith('.')),
        ['digits.ort.w4a4.checkpoint'],
      )
      const other = await run([...args(stopped), '--resume', '--lipschitz-beta', '0.5'])
      assert.equal(other.code, 2)
      assert.match(other.stderr, /checkpoint belongs to another/)
      assert.equal((await run([...args(stopped), '--resume'])).code, 0)
      const file = 'digits.ort.w4a4.onnx'
      assert.deepEqual(readFileSync(join(stopped, file)), readFileSync(join(whole, file)))
      assert.ok(!existsSync(checkpoint), 'its work is done')
    })

  it('a damaged checkpoint is refused', async () => {
    const out = join(dir, 'damaged')
    const abort = new AbortController()
    const options: ConvertOptions = { ...quick, bits: 4, finetune: 50, out }
    await assert.rejects(
      convert(digits, { ...options, signal: abort.signal, onProgress: (stage) => stage === 'fine-tune' && abort.abort() }),
      /interrupted/,
    )
    const path = join(out, 'digits.ort.w4a4.checkpoint')
    const bytes = readFileSync(path)
    for (const broken of [bytes.subarray(0, bytes.length - 1), bytes.subarray(0, 20), Buffer.from('nonsense')]) {
      writeFileSync(path, broken)
      await assert.rejects(convert(digits, { ...options, resume: true }), /no whole checkpoint/)
    }
  })

  it('options that contradict one another are refused', async () => {
    await assert.rejects(convert(digits, { ...quick, bits: 4, finetune: 'off', lr: 0.1 }), /--lr without fine-tuning/)
    await assert.rejects(convert(digits, { ...quick, bits: 4, finetune: 'off', convexSums: true }), /--convex-sums without fine-tuning/)
    await assert.rejects(
      convert(digits, { ...quick, bits: 4, finetune: 4, lipschitzBeta: 0, convexSums: true }),
      /--convex-sums shape the penalty/,
    )
    await assert.rejects(convert(digits, { ...quick, bits: 4, robustSteps: 3 }), /--robust-steps goes with/)
    await assert.rejects(convert(digits, { ...quick, bits: 4, finetune: 0 }), /--finetune/)
    await assert.rejects(convert(digits, { ...quick, bits: 4, freeze: ['nothing'] }), /--freeze nothing matches no node/)
    await assert.rejects(convert(digits, { ...quick, bits: 8, lr: 0.1, resume: true }), /--lr, --resume without fine-tuning .*eight bits/)
    await assert.rejects(convert(digits, { ...quick, bits: 4, finetune: 4, effort: 'max' }), /--effort says how long/)
    await assert.rejects(convert(digits, { ...quick, bits: 4, loss: 'ce', teacher: digits }), /--loss ce follows labels alone/)
    await assert.rejects(
      convert(digits, { ...quick, dequantize: true, finetune: 4, freeze: ['conv', 'dense'] }),
      /no layer is left to train/,
    )
    await assert.rejects(
      convert(digits, { ...quick, bits: 4, finetune: 4, inputRange: [0, 1] }),
      /--input-range is for runs without --data/,
    )
    const { data: _, ...rest } = quick
    await assert.rejects(convert(digits, { ...rest, bits: 4, loss: 'ce' }), /needs labelled data/)
  })

  it('a network that cannot be differentiated is rounded only, unless training is asked for', async () => {
    const m = decodeModel(writeModel(smallNetwork()))
    const node = m.graph!.node!.find((n) => n.opType === 'HardSwish')!
    Object.assign(node, { opType: 'Shrink', attribute: [] })
    const dim = [{ dimParam: 'N' }, { dimValue: 6 }, { dimValue: 6 }, { dimValue: 6 }]
    m.graph!.valueInfo = [{ name: node.output![0]!, type: { tensorType: { elemType: 1, shape: { dim } } } }]
    const { data: _, ...rest } = quick
    const options = { ...rest, bits: 4, samples: 32, calibSamples: 32 }
    for (const task of ['classify', 'regress'] as const) {
      const r = (await convert(encodeModel(m), { ...options, task })).reports[0]!
      assert.equal(r.finetuning.length, 0)
      assert.match(r.notes.join(), /not fine-tuned: .*Shrink.* has no gradient/)
    }
    await assert.rejects(convert(encodeModel(m), { ...options, finetune: 4 }), /has no gradient/)
  })

  it('training that diverges before its first validation leaves the network as it was', async () => {
    const r = await one({ bits: 4, finetune: 6, lr: 1e20, robust: 0 })
    assert.match(r.notes.join(), /diverged.*step 0/)
    const rounded = await one({ bits: 4, finetune: 'off', equalize: 'off' })
    assert.ok(r.after.clean > rounded.after.clean - 0.02, `${r.after.clean} beside ${rounded.after.clean}`)
  })

  it('with all layers frozen only the scales of quantizers are learned', async () => {
    const r = await one({ bits: 4, finetune: 4, freeze: ['conv', 'dense'] })
    assert.deepEqual(
      r.finetuning.map((f) => f.stage),
      ['quantized'],
    )
  })

  it('at eight bits only adversaries, or steps, make it train', async () => {
    assert.equal((await one({ bits: 8, robust: 1 / 255, samples: 64, finetune: 4 })).finetuning.length, 2)
    await assert.rejects(convert(digits, { ...quick, bits: 8, robust: 0 }), /--robust without fine-tuning/)
  })
})

describe('training in real numbers', () => {
  it('finetune writes a float network of the same shape', async () => {
    const out = join(dir, 'float')
    const r = await run([
      'finetune',
      digits,
      '--data',
      data,
      '--finetune',
      '40',
      '--samples',
      '200',
      '--attack',
      'none',
      '-o',
      out,
      '--quiet',
    ])
    assert.equal(r.code, 0, r.stderr)
    const made = join(out, 'digits.ort.finetuned.onnx')
    assert.deepEqual(inspect(made).inputs[0]!.shape!.slice(1), inspect(digits).inputs[0]!.shape!.slice(1))
  })

  it('train learns the task from random weights', async () => {
    const r = await one({ dequantize: true, reinit: true, finetune: 300, lipschitzBeta: 0 })
    assert.equal(r.finetuning[0]!.loss, 'ce')
    assert.ok(r.after.clean > 0.8, `${r.after.clean}`)
  })

  it('follows another teacher', async () => {
    const r = await one({ dequantize: true, reinit: true, finetune: 200, loss: 'kd', teacher: digits })
    assert.ok(r.after.clean > 0.6, `${r.after.clean}`)
  })
})
