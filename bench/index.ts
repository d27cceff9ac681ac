/**
 * Benchmarks. `pnpm bench` runs all, `pnpm bench speed attack …` some: speed, attack, train, convert, tflite, c, ablation.
 * Peers are Python packages of $DQC_PYTHON (default python3); without them a benchmark says which comparison it left out.
 * Real models and data come from ../shared (or $DQC_SHARED).
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import {
  attackStep,
  createRandom,
  createTrainable,
  floatPlan,
  freeScheme,
  type Graph,
  liftBatch,
  type Model,
  prepare,
  preprocess,
  quantizeNetwork,
  sizeOf,
  type Tensor,
  tensorOf,
  trainingStep,
} from '@dqc/core'
import { readModel } from '@dqc/onnx'
import { createOnnxEngine } from '@dqc/onnx/engine'
import { readModel as readTflite, tfliteTarget } from '@dqc/tflite'
import { createLiteRt } from '@dqc/tflite/litert'
import { type ConvertOptions, convert } from 'dqc'
import ort from 'onnxruntime-node'
import { findCompiler } from '../packages/cli/src/compiler.ts'

const here = fileURLToPath(new URL('.', import.meta.url))
const root = resolve(here, '..')
const shared = process.env['DQC_SHARED'] ?? resolve(root, '..', 'shared')
const python = process.env['DQC_PYTHON'] ?? 'python3'
const cifar = join(shared, 'data/cifar10-exact')
const models: Record<string, Partial<ConvertOptions>> = {
  vnncomp_cifar10_resnet_2b: { mean: [0.4914, 0.4822, 0.4465], std: [0.2471, 0.2435, 0.2616] },
  vnncomp_oval21_cifar_base_kw: { mean: [0.485, 0.456, 0.406], std: [0.225] },
  vnncomp_marabou_cifar10_small: {},
}
const path = (name: string): string => join(shared, 'models/onnx', `${name}.onnx`)
const main = 'vnncomp_cifar10_resnet_2b'
const work = mkdtempSync(join(tmpdir(), 'dqc-bench-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))

const has = (...packages: string[]): boolean => spawnSync(python, ['-c', packages.map((p) => `import ${p}`).join(';')]).status === 0
const percent = (v: number): string => (100 * v).toFixed(1)
const median = (v: readonly number[]): number => [...v].sort((a, b) => a - b)[v.length >> 1]!

/** Runs a command; wall seconds and peak resident memory of the process, in MiB (Linux). */
function timed(command: string, args: readonly string[]): Promise<{ seconds: number; mib: number; out: string }> {
  return new Promise((done, fail) => {
    const start = process.hrtime.bigint()
    const child = spawn(command, args)
    let mib = 0
    let out = ''
    child.stdout.on('data', (d) => (out += d))
    let err = ''
    child.stderr.on('data', (d) => (err += d))
    const watch = setInterval(() => {
      try {
        mib = Math.max(mib, Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1] ?? 0) / 1024)
      } catch {
        // The process has just ended.
      }
    }, 5)
    child.on('close', (code) => {
      clearInterval(watch)
      if (code !== 0) fail(new Error(`${command} ${args.join(' ')}: exit ${code}\n${err}`))
      else done({ seconds: Number(process.hrtime.bigint() - start) / 1e9, mib, out })
    })
  })
}

/** Something whose samples per second are measured over a number of steps. */
interface Contender {
  measure(steps: number): Promise<number>
  close(): Promise<void>
}

/** A peer: told a number of steps on a line of its input, it answers with samples per second. */
const peerOf =
  (script: string, ...args: readonly unknown[]) =>
  async (): Promise<Contender> => {
    const child = spawn(python, [join(here, script), ...args.map(String)], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = once(child, 'close')
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    return {
      async measure(steps) {
        child.stdin.write(`${steps}\n`)
        const { value, done } = await lines.next()
        if (done) throw new Error(`${script} ended before it answered`)
        return Number(value)
      },
      async close() {
        child.stdin.end()
        await ended
      },
    }
  }

/** One of dqc's graphs, in an engine of its own; `run` makes steps with it. */
const oursOf =
  (graph: Graph, threads: number, batch: number, run: (model: Model, steps: number) => Promise<void>) => async (): Promise<Contender> => {
    const engine = createOnnxEngine({ threads })
    const model = await engine.load(graph)
    return {
      async measure(steps) {
        const start = process.hrtime.bigint()
        await run(model, steps)
        return (batch * steps) / (Number(process.hrtime.bigint() - start) / 1e9)
      },
      close: () => engine.close(),
    }
  }

const LAUNCHES = 6
const ROUNDS = 8

/**
 * Speeds of dqc and of a peer, turn and turn about, each first in every other round. A shared machine's speed wanders by a fifth within a
 * minute, so ratios are taken between neighbours; and a process is fast or slow by where its memory lies, so both are started several times.
 * Half of all ratios lie between the quartiles.
 */
async function compare(ours: () => Promise<Contender>, peer: (() => Promise<Contender>) | null, steps: number): Promise<string> {
  const speeds: number[][] = []
  for (let launch = 0; launch < LAUNCHES; launch++) {
    const both = [await ours(), ...(peer ? [await peer()] : [])]
    for (const c of both) await c.measure(steps)
    for (let round = 0; round < ROUNDS; round++) {
      const pair: number[] = []
      for (const k of round % 2 ? [1, 0] : [0, 1]) if (both[k]) pair[k] = await both[k].measure(steps)
      speeds.push(pair)
    }
    for (const c of both) await c.close()
  }
  const middle = (k: number): string => median(speeds.map((v) => v[k]!)).toFixed(0)
  if (!peer) return `dqc ${middle(0)} images/s; PyTorch left out: ${python} has not all its packages`
  const ratios = speeds.map((v) => v[0]! / v[1]!).sort((a, b) => a - b)
  const [low, ratio, high] = [0.25, 0.5, 0.75].map((q) => ratios[Math.floor(q * ratios.length)]!.toFixed(2))
  return `dqc ${middle(0)} images/s, PyTorch ${middle(1)} images/s, ${ratio}× (quartiles ${low} and ${high}; floor 1×)`
}

/** Emitted 8-bit files against float files, onnxruntime-node, one image, one thread, alternating. */
async function speed(): Promise<void> {
  const small = { ...models[main], data: cifar, calibSamples: 256, samples: 16 }
  const large = { calibSamples: 16, samples: 1 }
  await compareSpeed(main, small, [1, 3, 32, 32], 50)
  // The structure of a network whose time goes into arithmetic: 4.1 G multiply–accumulates instead of 0.7 M.
  await compareSpeed('light_resnet50', large, [1, 3, 224, 224], 1)
}

async function compareSpeed(name: string, o: Partial<ConvertOptions>, shape: readonly number[], runs: number): Promise<void> {
  const { files } = await convert(path(name), { ...o, bits: 8, attacks: [], finetune: 'off', out: null })
  const options = { intraOpNumThreads: 1 }
  const sessions = {
    float: await ort.InferenceSession.create(readFileSync(path(name)), options),
    '8 bits': await ort.InferenceSession.create([...files.values()][0]!, options),
  }
  const x = new ort.Tensor('float32', new Float32Array(sizeOf(shape)).fill(0.3), shape)
  const times = Object.fromEntries(Object.keys(sessions).map((key) => [key, [] as number[]]))
  for (let round = 0; round < 40; round++)
    for (const [key, s] of Object.entries(sessions)) {
      const start = process.hrtime.bigint()
      for (let i = 0; i < runs; i++) await s.run({ [s.inputNames[0]!]: x })
      if (round >= 10) times[key]!.push(Number(process.hrtime.bigint() - start) / (1e3 * runs))
    }
  const float = median(times['float']!)
  const line = ([key, t]: [string, number[]]): string => `${key} ${median(t).toFixed(0)} µs (${(float / median(t)).toFixed(2)}×)`
  console.log(`speed: ${name}, one image, one thread: ${Object.entries(times).map(line).join(', ')}`)
}

/** PGD steps per second, the whole step (forward, backward, projection) as one graph, against PyTorch with the same weights. */
async function attack(): Promise<void> {
  const threads = 2
  const batch = 64
  const raw = readModel(new Uint8Array(readFileSync(path(main))))
  const graph = prepare(liftBatch(raw) ?? raw)
  const one = tensorOf('float32', [1, 1, 1, 1], [1])
  const step = attackStep(graph, { scale: one, shift: tensorOf('float32', [1, 1, 1, 1], [0]) }, 'classify', 'linf')
  const random = createRandom(1)
  const shape = [batch, 3, 32, 32]
  const x0 = tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => random.uniform()),
  )
  const y = new Float32Array(batch * 10)
  for (let i = 0; i < batch; i++) y[i * 10 + (i % 10)] = 1
  const target = tensorOf('float32', [batch, 10], y)
  const ours = oursOf(step, threads, batch, async (model, steps) => {
    let x = x0
    for (let s = 0; s < steps; s++)
      x = (await model([x, x0, target, tensorOf('float32', [], [8 / 255]), tensorOf('float32', [], [1 / 255])]))[0]!
  })
  const peer = has('torch', 'onnx2torch') ? peerOf('peer_attack.py', path(main), batch, threads) : null
  console.log(`attack: PGD steps on ${main}, batch ${batch}, ${threads} threads: ${await compare(ours, peer, 60)}`)
}

/** Training steps of MLPerf Tiny's ResNet-8, the whole step as one graph, against PyTorch on the same architecture, batch and threads. */
async function training(): Promise<void> {
  const [threads, batch] = [2, 64]
  const raw = readTflite(
    new Uint8Array(readFileSync(join(shared, 'models/tflite/mlperf_tiny_resnet8_cifar10_float.tflite'))),
  ) as Graph<'float'>
  const target = tfliteTarget({ integerIO: false, version: '0', container: 'int8', packedWeights: false, keepContainers: false })
  const graph = target.prepare(prepare(liftBatch(raw) ?? raw))
  const engine = createOnnxEngine({ threads })
  const random = createRandom(1)
  const shape = [batch, 3, 32, 32]
  const pixels = tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => random.uniform()),
  )
  const preprocessing = { scale: tensorOf('float32', [1], [255]), shift: tensorOf('float32', [1], [0]) }
  const inputs = async function* (): AsyncIterable<readonly Tensor[]> {
    yield [preprocess(pixels, preprocessing)]
  }
  const spec = {
    weightBits: 4,
    actBits: 4,
    edgeBits: 8,
    sumBits: 8,
    observer: 'mse',
    exclude: () => false,
    integerIO: false,
    scheme: freeScheme,
  } as const
  const network = await quantizeNetwork(engine, graph, inputs, inputs, {
    spec,
    equalize: 'off',
    biasCorrection: false,
    canonical: null,
    rules: target.rules,
  })
  await engine.close()
  const labels = new Float32Array(batch * 10)
  for (let i = 0; i < batch; i++) labels[i * 10 + (i % 10)] = 1
  const torch = has('torch')
  for (const [mode, plan] of [
    ['float', floatPlan],
    ['w4a4', network.plan],
  ] as const) {
    const t = createTrainable(network.float, plan)
    const step = trainingStep(t, null, {
      objective: 'classify',
      preprocessing,
      batch,
      labelWeight: 1,
      teacherWeight: 0,
      temperature: 4,
      optimizer: 'adam',
      clip: null,
      penalty: mode === 'float' ? null : 'orthogonal',
      convexSums: false,
      labelled: true,
      adversary: null,
    })
    const vector = (data: Float32Array): Tensor => tensorOf('float32', [data.length], data)
    const ours = oursOf(step.graph, threads, batch, async (model, count) => {
      let state = [vector(t.initial), vector(new Float32Array(t.initial.length)), vector(new Float32Array(t.initial.length))]
      for (let i = 1; i <= count; i++) {
        const now = { pixels, labels: tensorOf('float32', [batch, 10], labels), attack: null, rate: 1e-3, push: 1e-6, t: i, random }
        state = (await model(step.feed(state[0]!, state.slice(1), now))).slice(0, 3)
      }
    })
    const peer = torch ? peerOf('peer_train.py', mode, batch, threads) : null
    console.log(`train: ResNet-8, ${mode}, batch ${batch}, ${threads} threads: ${await compare(ours, peer, 10)}`)
  }
}

/** A whole conversion at 8 bits with 512 calibration images against onnxruntime.quantization.quantize_static. */
async function conversion(): Promise<void> {
  const o = models[main]!
  const ours = [
    join(root, 'packages/cli/bin/dqc.mjs'),
    'convert',
    path(main),
    '--bits',
    '8',
    '--data',
    cifar,
    '--calib-samples',
    '512',
    '--samples',
    '1',
    '--attack',
    'none',
    '--mean',
    o.mean!.join(),
    '--std',
    o.std!.join(),
    '-o',
    work,
    '--quiet',
  ]
  const peer = has('onnxruntime', 'onnx', 'numpy')
  const mine: { seconds: number; mib: number }[] = []
  const theirs: { seconds: number; mib: number }[] = []
  for (let round = 0; round < 3; round++) {
    mine.push(await timed(process.execPath, ours))
    if (peer)
      theirs.push(
        await timed(python, [join(here, 'peer_convert.py'), path(main), join(cifar, 'data_batch_1.bin'), join(work, 'peer.onnx')]),
      )
  }
  const of = (v: typeof mine): { s: number; m: number } => ({ s: median(v.map((t) => t.seconds)), m: median(v.map((t) => t.mib)) })
  const [a, b] = [of(mine), peer ? of(theirs) : null]
  console.log(
    b
      ? `convert: ${main}, 8 bits, 512 images: dqc ${a.s.toFixed(2)} s and ${a.m.toFixed(0)} MiB, quantize_static ${b.s.toFixed(2)} s and ${b.m.toFixed(0)} MiB: ${(a.s / b.s).toFixed(2)} of the time, ${(a.m / b.m).toFixed(2)} of the memory (limit 0.5 each)`
      : `convert: dqc ${a.s.toFixed(2)} s, ${a.m.toFixed(0)} MiB; quantize_static left out: ${python} has no onnxruntime, onnx and numpy`,
  )
}

/** What each part is worth: clean accuracy on 1,000 test images with 1,000 calibration images, no fine-tuning. */
async function ablation(): Promise<void> {
  const variants: [string, Partial<ConvertOptions>][] = [
    ['default', {}],
    ['equalization always', { equalize: 'on' }],
    ['no equalization', { equalize: 'off' }],
    ['no bias correction', { biasCorrection: false }],
    ['neither', { equalize: 'off', biasCorrection: false }],
    ['minmax, neither', { observer: 'minmax', equalize: 'off', biasCorrection: false }],
    ['minmax', { observer: 'minmax' }],
    ['percentile', { observer: 'percentile' }],
    ['entropy', { observer: 'entropy' }],
  ]
  for (const name of Object.keys(models)) {
    console.log(`\n${name}\n| variant | float | 8 bits | 4 bits | 3 bits |\n|---|---|---|---|---|`)
    for (const [label, o] of variants) {
      const cells: string[] = []
      for (const bits of [8, 4, 3]) {
        const r = (
          await convert(path(name), {
            ...models[name],
            ...o,
            bits,
            data: cifar,
            calibSamples: 1000,
            samples: 1000,
            attacks: [],
            finetune: 'off',
            out: null,
          })
        ).reports[0]!
        if (cells.length === 0) cells.push(percent(r.before.clean))
        cells.push(percent(r.after.clean))
      }
      console.log(`| ${label} | ${cells.join(' | ')} |`)
    }
  }
}

/** MobileNet v2 (224×224) to int8 TFLite with 100 synthetic images, against TensorFlow's own converter on the same architecture. */
async function tflite(): Promise<void> {
  const source = join(shared, 'models/tflite/coral_tf2_mobilenet_v2_1.0_224_int8.tflite')
  const flags = [
    '--bits',
    '8',
    '--target',
    'tflite',
    '--calib-samples',
    '100',
    '--samples',
    '1',
    '--attack',
    'none',
    '--no-bias-correction',
  ]
  const a = await timed(process.execPath, [join(root, 'packages/cli/bin/dqc.mjs'), 'convert', source, ...flags, '-o', work, '--quiet'])
  const mine = `tflite: MobileNet v2, 8 bits, 100 synthetic images: dqc ${a.seconds.toFixed(1)} s and ${a.mib.toFixed(0)} MiB`
  if (!has('tensorflow')) {
    console.log(`${mine}; TensorFlow's converter left out: ${python} has no tensorflow`)
    return
  }
  const b = await timed(python, [join(here, 'peer_tflite.py')])
  console.log(
    `${mine}, TensorFlow's converter ${b.seconds.toFixed(1)} s and ${b.mib.toFixed(0)} MiB: ${(a.seconds / b.seconds).toFixed(2)} of the time, ${(a.mib / b.mib).toFixed(2)} of the memory`,
  )
}

/** Plain C, compiled with -O3 for this machine, against LiteRT on the file of the same integers: one image, one thread, alternating. */
async function plainC(): Promise<void> {
  const compiler = findCompiler()
  if (!compiler) {
    console.log('c: left out: no C compiler')
    return
  }
  const networks: [string, string, Partial<ConvertOptions>][] = [
    ['ResNet-8', 'mlperf_tiny_resnet8_cifar10_float', { data: cifar, scale: 1 }],
    ['DS-CNN', 'mlperf_tiny_dscnn_kws_float', {}],
  ]
  for (const [title, name, o] of networks)
    for (const bits of [8, 4, 3]) {
      const { reports, files } = await convert(join(shared, 'models/tflite', `${name}.tflite`), {
        ...o,
        bits,
        targets: ['c', 'tflite'],
        io: 'int8',
        samples: 16,
        attacks: [],
        finetune: 'off',
        out: null,
      })
      const named = (end: string): [string, Uint8Array] => [...files].find(([p]) => p.endsWith(end))!
      const [source, header] = [named('.c'), named('.h')]
      const run = /void (\w+)\(const (\w+) \*input, (\w+) \*output\);/.exec(new TextDecoder().decode(header[1]))!
      for (const [p, bytes] of [source, header]) writeFileSync(join(work, p), bytes)
      writeFileSync(join(work, 'time.c'), timer(header[0], run))
      const built = spawnSync(compiler, ['-O3', '-march=native', source[0], 'time.c', '-o', 'timed'], { cwd: work, encoding: 'utf8' })
      if (built.status !== 0) throw new Error(built.stderr)
      const lite = createLiteRt({ threads: 1 })
      const model = await lite.loadBytes(named('.tflite')[1], 'steps')
      const shape = readTflite(named('.tflite')[1]).inputs[0]!.shape!.map((d) => (typeof d === 'number' ? d : 1))
      const x: Tensor = { dtype: 'int32', shape, data: new Int32Array(sizeOf(shape)) }
      const [mine, theirs]: [number[], number[]] = [[], []]
      for (let round = 0; round < 7; round++) {
        mine.push(Number(spawnSync(join(work, 'timed'), ['200'], { encoding: 'utf8' }).stdout))
        const start = process.hrtime.bigint()
        for (let i = 0; i < 50; i++) await model([x])
        theirs.push(Number(process.hrtime.bigint() - start) / 50e6)
      }
      await lite.close()
      const memory = reports[0]!.artifact.memory!
      const kib = (n: number | null): string => (n === null ? '?' : (n / 1024).toFixed(1))
      console.log(
        `c: ${title} at ${bits} bits: ${median(mine).toFixed(2)} ms, LiteRT (WebAssembly) ${median(theirs).toFixed(2)} ms, ${(median(theirs) / median(mine)).toFixed(2)}×; RAM ${kib(memory.ram)} KiB, flash ${kib(memory.flash)} KiB; ${reports[0]!.artifact.mismatches} mismatches`,
      )
    }
}

/** A program that prints the milliseconds of one inference. */
const timer = (header: string, [, run, input, output]: readonly string[]): string => `#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "${header}"
static ${input} x[1 << 20];
static ${output} y[1 << 20];
int main(int argc, char **argv)
{
    int i, n = argc > 1 ? atoi(argv[1]) : 1;
    struct timespec a, b;
    ${run}(x, y);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (i = 0; i < n; i++) ${run}(x, y);
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%f", ((double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6) / n);
    return 0;
}
`

const all = { speed, attack, train: training, convert: conversion, tflite, c: plainC, ablation }
const wanted = process.argv.slice(2)
if (!existsSync(path(main))) console.log(`left out: ${path(main)} is not here (set DQC_SHARED)`)
else for (const [name, run] of Object.entries(all)) if (wanted.length === 0 || wanted.includes(name)) await run()
