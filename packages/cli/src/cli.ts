import { type AttackName, CompileError, type ErrorKind, errors, type ObserverKind, optimizerNames, penaltyForms } from '@dqc/core'
import { flavors } from '@dqc/onnx'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import pc from 'picocolors'
import { type ConvertResult, convert } from './convert.ts'
import { evaluate } from './evaluate.ts'
import { type InspectOptions, inspect } from './inspect.ts'
import { AUGMENTS, type CommonOptions, type ConvertOptions, EFFORTS, type FinetuneOptions, LOSSES } from './options.ts'
import { createProgress } from './progress.ts'
import { showEvaluation, showInspection, showReport } from './show.ts'
import { VERSION } from './version.ts'

/** Exit codes, as the README lists them. */
export const EXIT = {
  ok: 0,
  unexpected: 1,
  usage: 2,
  unreadable: 3,
  unsupported: 4,
  accuracy: 5,
  robustness: 6,
  recheck: 7,
  interrupted: 130,
} as const satisfies Record<ErrorKind | 'ok' | 'unexpected', number>

const number = (s: string): number => {
  const v = Number(s)
  if (s.trim() === '' || Number.isNaN(v)) throw new InvalidArgumentError(`${s} is not a number`)
  return v
}
const numbers = (s: string): number[] => s.split(',').map(number)
/** 2/255, 0.01 or 3 */
const ratio = (s: string): number => {
  const [p, q, ...rest] = s.split('/')
  if (rest.length) throw new InvalidArgumentError(`${s} is not a number`)
  return q === undefined ? number(p!) : number(p!) / number(q)
}
/** 0.01 or 1% */
const shareOf = (s: string): number => (s.endsWith('%') ? number(s.slice(0, -1)) / 100 : number(s))
const list = (s: string): string[] =>
  s
    .split(',')
    .map((v) => v.trim())
    .filter(Boolean)
const hw = (s: string): [number, number] => {
  const m = /^(\d+)(?:x(\d+))?$/.exec(s)
  if (!m) throw new InvalidArgumentError(`${s} is not a size like 224 or 224x224`)
  return [Number(m[1]), Number(m[2] ?? m[1])]
}
const rangeOf = (s: string): [number, number] => {
  const [lo, hi, ...rest] = numbers(s)
  if (lo === undefined || hi === undefined || rest.length || !(lo < hi)) throw new InvalidArgumentError(`${s} is not a range like -1,1`)
  return [lo, hi]
}
const shapes = (s: string, before: Record<string, number[]> = {}): Record<string, number[]> => {
  const at = s.lastIndexOf('=')
  const dims = s
    .slice(at + 1)
    .split(',')
    .map(Number)
  if (at < 1 || dims.some((d) => !Number.isInteger(d) || d < 1))
    throw new InvalidArgumentError(`${s} is not a shape like input=1,3,224,224`)
  return { ...before, [s.slice(0, at)]: dims }
}

function common(c: Command): Command {
  return c
    .option('--data <path>', 'CIFAR-10 or IDX folder, class folders of images, .npy/.npz, SVHN .mat')
    .option('--eval-data <path>', 'data to evaluate on, where --data only calibrates')
    .option('--samples <n>', 'evaluation samples (default 1000, fewer for large networks and without data)', number)
    .option('--attack-samples <n>', 'samples attacked (default: as many, fewer for large networks)', number)
    .option('--batch <n>', 'samples per batch (default 64)', number)
    .option('--scale <x>', 'factor on stored values (default 1/255 for bytes, 1 for float arrays; --scale 1 feeds 0..255)', ratio)
    .option('--mean <list>', 'subtracted after scaling, one value or one per channel', numbers)
    .option('--std <list>', 'divides what is left, one value or one per channel', numbers)
    .option('--resize <h[xw]>', 'size that image files are scaled to (default: the model’s)', hw)
    .addOption(new Option('--layout <layout>', 'axis order of the input (default: taken from its shape)').choices(['nchw', 'nhwc']))
    .option(
      '--input-range <lo,hi>',
      'range of the inputs that are drawn where there is no data (default: that of a quantized file’s input grid; else bytes for images, 0,1 for others)',
      rangeOf,
    )
    .option('--shape <name=dims>', 'sizes of an input whose shape is symbolic; repeatable', shapes)
    .option('--attack <list>', 'fgsm, rfgsm, bim, pgd, square; none (default fgsm,pgd)', list)
    .option('--eps <list>', 'radii in units of the original pixel range (default 2/255)', (s: string) => s.split(',').map(ratio))
    .option('--steps <n>', 'steps of iterated attacks (default 20)', number)
    .option('--restarts <n>', 'random starts (default 1)', number)
    .option('--queries <n>', 'queries of the gradient-free square attack (default 1000)', number)
    .addOption(new Option('--norm <norm>', 'norm of the ball (default linf)').choices(['linf', 'l2']))
    .addOption(new Option('--task <task>', 'what the network is for (default auto)').choices(['auto', 'classify', 'regress']))
    .option('--seed <n>', 'seed of everything random (default 0)', number)
    .addOption(new Option('--engine <engine>', 'what runs calibration and gradients (default ort)').choices(['ort', 'tfjs']))
    .option('--threads <n>', 'threads of the runtime', number)
    .option('--json', 'print the report alone, as JSON, on stdout')
    .option('--quiet', 'no progress on stderr')
}

/** Flags of everything that trains. */
function training(c: Command): Command {
  return c
    .option(
      '--finetune <auto|off|steps>',
      'training steps of a stage (default auto: below 8 bits or with --robust; finetune and train always)',
      stepsOf,
    )
    .addOption(new Option('--effort <effort>', 'how long auto takes (default default)').choices([...EFFORTS]))
    .option(
      '--lipschitz-beta <x>',
      'weight of the penalty β/2·Σ‖WWᵀ − I‖² (default 0.001, without data 0; 0: none), less of it in a second stage',
      number,
    )
    .addOption(
      new Option(
        '--lipschitz-form <form>',
        'orthogonal: WWᵀ → I (default); hinge: only singular values above 1 fall; operator: the whole convolution in place of W',
      ).choices([...penaltyForms]),
    )
    .option('--convex-sums', 'the penalty counts residual sums as convex combinations')
    .option(
      '--robust [eps]',
      'train on adversarial samples of this radius (1.7/255 without a value, which goes behind MODEL, or MODEL is taken for it; 0: none; default 0.75/255 in real numbers, none for train or without data)',
      ratio,
    )
    .option('--robust-steps <n>', 'steps of those adversaries (default 1: R+FGSM)', number)
    .addOption(
      new Option('--loss <loss>', 'labels, the original’s scores, or both (default ce+kd; kd without labels, ce for train)').choices([
        ...LOSSES,
      ]),
    )
    .option(
      '--lr <x>',
      'peak learning rate, relative to each tensor (default 0.005 in real numbers and 0.008 through quantizers; 0.01 with --robust, for train and for networks that are no classifiers; 0.006 without data; 0.002 on 8 bits)',
      number,
    )
    .addOption(new Option('--optimizer <name>', '(default adam)').choices([...optimizerNames]))
    .option('--clip <norm>', 'largest norm of the gradient', number)
    .option('--freeze <list>', 'layers or op types that training leaves as they are', list)
    .option(
      '--teacher <model>',
      'float model whose scores are followed first (default: the original; a second stage follows what came of the first)',
    )
    .addOption(
      new Option('--augment <kind>', 'random changes of images (default auto: what the network’s answers stand)').choices([...AUGMENTS]),
    )
    .option('--resume', 'go on from the checkpoint of an interrupted run')
}

const stepsOf = (s: string): 'auto' | 'off' | number => (s === 'auto' || s === 'off' ? s : number(s))

const trainingOptions = (f: Record<string, any>): FinetuneOptions =>
  given<FinetuneOptions>({
    finetune: f['finetune'],
    effort: f['effort'],
    lipschitzBeta: f['lipschitzBeta'],
    lipschitzForm: f['lipschitzForm'],
    convexSums: f['convexSums'],
    robust: f['robust'] === true ? ROBUST_RADIUS : f['robust'],
    robustSteps: f['robustSteps'],
    loss: f['loss'],
    lr: f['lr'],
    optimizer: f['optimizer'],
    clip: f['clip'],
    freeze: f['freeze'],
    teacher: f['teacher'],
    augment: f['augment'],
    resume: f['resume'],
  })

/** Radius of `--robust` without a value: against 2/255, a ResNet-8 for CIFAR-10 gains little more from training at 2/255, and loses clean accuracy by it. */
const ROBUST_RADIUS = 1.7 / 255

/** Flags → options of the library. */
function commonOptions(f: Record<string, any>): CommonOptions {
  const attacks = f['attack'] as string[] | undefined
  return given({
    data: f['data'],
    evalData: f['evalData'],
    samples: f['samples'],
    attackSamples: f['attackSamples'],
    batch: f['batch'],
    scale: f['scale'],
    mean: f['mean'],
    std: f['std'],
    resize: f['resize'],
    layout: f['layout'],
    inputRange: f['inputRange'],
    shapes: f['shape'],
    attacks: attacks && (attacks.join() === 'none' ? [] : (attacks as AttackName[])),
    eps: f['eps'],
    steps: f['steps'],
    restarts: f['restarts'],
    queries: f['queries'],
    norm: f['norm'],
    task: f['task'],
    seed: f['seed'],
    engine: f['engine'],
    threads: f['threads'],
  })
}

/** Leaves out what was not given. */
const given = <T extends object>(o: { [K in keyof T]: T[K] | undefined }): T =>
  Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined)) as T

interface Streams {
  readonly out: NodeJS.WritableStream
  readonly err: NodeJS.WriteStream
}

/** Runs the command line and returns its exit code. Nothing but reports goes to stdout. */
export async function main(argv: readonly string[], streams: Streams = { out: process.stdout, err: process.stderr }): Promise<number> {
  const abort = new AbortController()
  const stop = (): void => abort.abort()
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  const print = (text: string): void => {
    streams.out.write(`${text}\n`)
  }
  const program = new Command('dqc')
    .description('Converts trained networks to low-bit integer models and measures the robustness of the file that ships.')
    .version(VERSION)
    .exitOverride()
    .configureOutput({ writeOut: (s) => streams.out.write(s), writeErr: (s) => streams.err.write(s) })
    .showHelpAfterError('(dqc --help shows all options)')

  const run = async <T>(
    flags: Record<string, any>,
    work: (o: { signal: AbortSignal; onProgress: ConvertOptions['onProgress'] & object }) => Promise<T>,
  ): Promise<T> => {
    const progress = createProgress(streams.err, flags['quiet'] === true)
    try {
      return await work({ signal: abort.signal, onProgress: progress.report })
    } finally {
      progress.stop()
    }
  }

  const report = ({ reports }: ConvertResult, f: Record<string, any>): void => {
    if (f['json']) print(JSON.stringify(reports.length === 1 ? reports[0] : reports, null, 2))
    else for (const r of reports) print(showReport(r))
  }
  const convertAndReport = async (model: string, options: ConvertOptions, f: Record<string, any>): Promise<void> => {
    try {
      report(await run(f, (o) => convert(model, { ...options, ...o })), f)
    } catch (e) {
      // A failed gate still has its report.
      const result = (e as { result?: ConvertResult }).result
      if (result) report(result, f)
      throw e
    }
  }

  training(
    common(
      program
        .command('convert')
        .description('quantize an ONNX or TFLite model, write it for a target, re-read and measure it')
        .argument('<model>', 'ONNX or TFLite file')
        .option('--bits <n>', 'bits of weights and activations, 2–8', number)
        .option('--weight-bits <n>', 'bits of weights (default --bits)', number)
        .option('--act-bits <n>', 'bits of activations (default --bits)', number)
        .option('--edge-bits <n>', 'bits of the first and last layers (default 8)', number)
        .option('--target <list>', 'ort, tflite, edgetpu, c, qonnx, qcdq, vitis-ai (default: the runtime of the file’s own format)', list)
        .option('--dequantize', 'write the network in real numbers instead')
        .option('--float16', 'with --dequantize: weights in half precision (TFLite)')
        .option('--keep-scales', 'keep the integers of a quantized file, and write them for the target')
        .option('--strict', 'exit 4 when an operator would not run on the accelerator')
        .addOption(
          new Option('--format <format>', 'integer kernels, or float ops between conversions (default qoperator)').choices([
            'qoperator',
            'qdq',
          ]),
        )
        .addOption(
          new Option('--io <type>', 'type of inputs and outputs (default float; c and edgetpu: integers always)').choices([
            'float',
            'int8',
          ]),
        )
        .option('--pack-weights', 'store weights of at most four bits as packed INT4; C: at their grid bits')
        .addOption(
          new Option('--rounding <kind>', 'C: half to even, or half up where a shift rounds (default rne)').choices(['rne', 'shift']),
        )
        .option('--hls', 'C: pragmas for high-level synthesis')
        .addOption(new Option('--flavor <tool>', 'qonnx: the tool that the file is for (default generic)').choices([...flavors]))
        .option('--pow2-scales', 'scales are powers of two (the default for qonnx; vitis-ai always)')
        .option('--no-pow2-scales', 'scales are free')
        .addOption(
          new Option('--observer <kind>', 'how activation ranges are chosen (default mse)').choices([
            'minmax',
            'percentile',
            'entropy',
            'mse',
          ]),
        )
        .addOption(
          new Option(
            '--equalize <mode>',
            'cross-layer equalization (default auto, where it helps, if bits are below 8 and nothing is trained; else off)',
          ).choices(['auto', 'on', 'off']),
        )
        .option('--no-bias-correction', 'leave biases as they are')
        .option('--exclude <list>', 'node names or op types that stay float', list)
        .option('--calib-samples <n>', 'calibration samples (default 512, fewer for large networks and without data)', number)
        .option('-o, --out <dir>', 'folder of the results (default: the current one)')
        .option('--max-drop <share>', 'exit 5 when clean accuracy falls by more, like 0.01 or 1%', shareOf)
        .option('--max-robust-drop <share>', 'exit 6 when robust accuracy, under any attack or the worst of all, falls by more', shareOf),
    ),
  ).action(async (model: string, f: Record<string, any>) => {
    const options: ConvertOptions = {
      ...commonOptions(f),
      ...trainingOptions(f),
      ...given<Partial<ConvertOptions>>({
        weightBits: f['weightBits'],
        actBits: f['actBits'],
        edgeBits: f['edgeBits'],
        bits: f['bits'],
        targets: f['target'],
        dequantize: f['dequantize'],
        float16: f['float16'],
        keepScales: f['keepScales'],
        strict: f['strict'],
        format: f['format'],
        io: f['io'],
        packWeights: f['packWeights'],
        rounding: f['rounding'],
        hls: f['hls'],
        flavor: f['flavor'],
        pow2Scales: f['pow2Scales'],
        observer: f['observer'] as ObserverKind | undefined,
        equalize: f['equalize'],
        biasCorrection: f['biasCorrection'],
        exclude: f['exclude'],
        calibSamples: f['calibSamples'],
        out: f['out'],
        maxDrop: f['maxDrop'],
        maxRobustDrop: f['maxRobustDrop'],
      }),
    }
    await convertAndReport(model, options, f)
  })

  for (const [name, description, reinit] of [
    ['finetune', 'train a model further with the Lipschitz penalty, and write it in real numbers', false],
    ['train', 'train a model’s architecture from random weights, and write it in real numbers', true],
  ] as const) {
    const command = training(
      common(
        program
          .command(name)
          .description(description)
          .argument('<model>', 'ONNX or TFLite file')
          .addOption(new Option('--target <name>', 'format to write (default: the file’s own)').choices(['ort', 'tflite']))
          .option('-o, --out <dir>', 'folder of the results (default: the current one)'),
      ),
    )
    if (!reinit) command.option('--reinit', 'start from random weights')
    command.action(async (model: string, f: Record<string, any>) => {
      const options: ConvertOptions = {
        ...commonOptions(f),
        finetune: 'auto',
        ...trainingOptions(f),
        ...given<Partial<ConvertOptions>>({
          dequantize: true,
          targets: f['target'] && [f['target']],
          out: f['out'],
          reinit: reinit || f['reinit'] || undefined,
        }),
      }
      await convertAndReport(model, options, f)
    })
  }

  common(
    program
      .command('evaluate')
      .description('clean and robust accuracy of any ONNX or TFLite classifier, quantized ones included')
      .argument('<model>', 'ONNX or TFLite file')
      .option('--surrogate <model>', 'float model whose gradients attack this one'),
  ).action(async (model: string, f: Record<string, any>) => {
    const report = await run(f, (o) =>
      evaluate(model, { ...commonOptions(f), ...given({ surrogate: f['surrogate'] as string | undefined }), ...o }),
    )
    print(f['json'] ? JSON.stringify(report, null, 2) : showEvaluation(report))
  })

  program
    .command('inspect')
    .description('graph, ops, shapes, sizes and quantization of an ONNX or TFLite file')
    .argument('<model>', 'ONNX or TFLite file')
    .addOption(new Option('--target <target>', 'say where each operator of a TFLite file would run').choices(['edgetpu']))
    .option('--shape <name=dims>', 'sizes of an input whose shape is symbolic; repeatable', shapes)
    .option('--json', 'print JSON')
    .action((model: string, f: Record<string, any>) => {
      const result = inspect(model, given<InspectOptions>({ shapes: f['shape'], target: f['target'] }))
      print(f['json'] ? JSON.stringify(result, null, 2) : showInspection(result))
    })

  try {
    await program.parseAsync([...argv], { from: 'user' })
    return EXIT.ok
  } catch (e) {
    if (e instanceof CommanderError) return e.exitCode === 0 ? EXIT.ok : EXIT.usage
    const shown = abort.signal.aborted && !(e instanceof CompileError && e.kind === 'interrupted') ? errors.interrupted('interrupted') : e
    if (shown instanceof CompileError) {
      streams.err.write(`${pc.red('error')} ${shown.message}\n`)
      return EXIT[shown.kind]
    }
    streams.err.write(`${pc.red('unexpected error')} ${(e as Error).stack ?? e}\n`)
    return EXIT.unexpected
  } finally {
    process.off('SIGINT', stop)
    process.off('SIGTERM', stop)
  }
}
