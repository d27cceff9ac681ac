/**
 * The experiment of "Defensive Quantization: When Efficiency Meets Robustness" (Lin, Gan, Han 2019), on networks that dqc trains itself:
 * accuracy against activation bits for vanilla and defensive quantization, with and without adversarial training, clean and attacked;
 * what attacks do inside the networks, layer by layer; and what the weight of the penalty does.
 *
 * `pnpm paper --data CIFAR10 [--out docs/results] [--depth 8] [--epochs 10] [--finetune 600] [--samples 1000]`
 *
 * Every network and every measurement is kept under the output's work folder and not made again: interrupt it at will.
 */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { type ConvertOptions, convert, type Report } from 'dqc'
import { buildResNet } from '../../examples/cifar10/resnet.ts'
import { lineChart } from './chart.ts'

const { values: flags } = parseArgs({
  options: {
    data: { type: 'string' },
    out: { type: 'string', default: 'docs/results' },
    work: { type: 'string', default: 'out/paper' },
    depth: { type: 'string', default: '8' },
    epochs: { type: 'string', default: '10' },
    finetune: { type: 'string', default: '600' },
    samples: { type: 'string', default: '1000' },
    square: { type: 'string', default: '1000' },
  },
})
if (!flags.data) {
  console.error('--data FOLDER is missing: a folder of CIFAR-10 in its binary format, or SVHN’s .mat files')
  process.exit(2)
}
const data = resolve(flags.data)
const [depth, epochs, steps, samples] = [Number(flags.depth), Number(flags.epochs), Number(flags.finetune), Number(flags.samples)]
// Results of other flags, or of data elsewhere, are other results.
const source = `${basename(data)}.${createHash('sha256').update(data).digest('hex').slice(0, 8)}`
const work = join(resolve(flags.work), [source, depth, epochs, steps, samples, flags.square].join('-'))
const out = resolve(flags.out)
mkdirSync(work, { recursive: true })
mkdirSync(out, { recursive: true })

/** Training images in the data set, and samples in a training batch. */
const BATCH = 64
const TRAINING_SIZE = 50_000
/** Radius that adversarial training and the attacks of the paper's tables use, and a small one. */
const RADII = [2 / 255, 8 / 255]
/** Activation bits: those of the paper that dqc's grids have. */
const BITS = [2, 3, 4, 5, 8]
/** Weight of the penalty where there is one. */
const BETA = 0.03
/** Bits at which layers are looked into, and the penalty's weight is varied. */
const CLOSE_UP = 4
/** Weights of the penalty in fine-tuning the first network, beside none. */
const BETAS = [0.001, 0.01, 0.1]

interface Base {
  readonly name: string
  readonly beta: number
  readonly robust: boolean
}
const BASES: readonly Base[] = [
  { name: 'natural', beta: 0, robust: false },
  { name: 'natural-dq', beta: BETA, robust: false },
  { name: 'rfgsm', beta: 0, robust: true },
  { name: 'rfgsm-dq', beta: BETA, robust: true },
]

const progress = (label: string) => {
  let last = ''
  return (stage: string, done: number, of: number | null, detail = ''): void => {
    const line = `${label}: ${stage} ${of && detail ? `${Math.floor((10 * done) / of)}0%` : ''}`
    if (line !== last) console.error(`${line} ${detail}`)
    last = line
  }
}

/** A step whose result is a file: made once. */
async function once<T>(name: string, make: () => Promise<T>): Promise<T> {
  const path = join(work, `${name}.json`)
  if (existsSync(path)) return JSON.parse(readFileSync(path, 'utf8')) as T
  const value = await make()
  writeFileSync(`${path}.tmp`, JSON.stringify(value))
  renameSync(`${path}.tmp`, path)
  return value
}

const attacks: Partial<ConvertOptions> = {
  attacks: ['fgsm', 'rfgsm', 'pgd', 'square'],
  queries: Number(flags.square),
  eps: RADII,
  steps: 20,
  restarts: 2,
  samples,
  attackSamples: Math.min(samples, 500),
}

/** Trains a float network; an interrupted training is resumed from its checkpoint. */
async function base(b: Base): Promise<string> {
  const folder = join(work, b.name)
  mkdirSync(folder, { recursive: true })
  const source = join(folder, `resnet${depth}.onnx`)
  if (!existsSync(source)) writeFileSync(source, buildResNet(depth))
  await once(b.name, async () => {
    const { reports } = await convert(source, {
      attacks: [],
      samples,
      data,
      dequantize: true,
      reinit: true,
      finetune: Math.ceil((epochs * TRAINING_SIZE) / BATCH),
      batch: BATCH,
      lr: 0.03,
      loss: 'ce',
      augment: 'flip+shift',
      lipschitzBeta: b.beta,
      robust: b.robust ? 8 / 255 : 0,
      resume: true,
      out: folder,
      onProgress: progress(b.name),
    })
    return reports[0]!
  })
  return join(folder, readdirSync(folder).find((f) => f.endsWith('.finetuned.onnx'))!)
}

/**
 * Trains a network further: in real numbers (bits null), or with its activations quantized to k bits, vanilla (no penalty) or defensive. Weights
 * have 8 bits then, as activations are what the paper varies. Where there are adversaries, quantization takes a stage in real numbers first:
 * networks that stay float are trained for as many steps as both.
 */
async function further(b: Base, path: string, bits: number | null): Promise<Report> {
  const name = bits === null ? `${b.name}.float` : `${b.name}.a${bits}`
  return once(name, async () => {
    const { reports } = await convert(path, {
      ...attacks,
      data,
      ...(bits === null ? { dequantize: true, finetune: b.robust ? 2 * steps : steps } : { bits, weightBits: 8, finetune: steps }),
      batch: BATCH,
      augment: 'flip+shift',
      lipschitzBeta: b.beta,
      robust: b.robust ? 8 / 255 : 0,
      resume: true,
      out: join(work, name),
      onProgress: progress(name),
    })
    return reports[0]!
  })
}

const key = (name: string, epsilon: number, norm = 'linf'): string => `${name} ${norm} ${epsilon.toFixed(4)}`
/** Accuracy under each attack of a measurement, by name and radius. */
const cells = (m: Report['after']): Map<string, number> => {
  const map = new Map<string, number>([['clean', m.clean]])
  for (const a of m.attacks) map.set(key(a.name, a.epsilon), a.robust)
  for (const w of m.worst) map.set(key('worst', w.epsilon), w.robust)
  return map
}

/** One line of the results. */
interface Row {
  readonly label: string
  /** null: not quantized. */
  readonly bits: number | null
  readonly report: Report
}

const percent = (v: number | undefined): string => (v === undefined ? '' : (100 * v).toFixed(1))
const columns = [
  ['clean', 'clean'],
  ...RADII.flatMap((e) =>
    ['fgsm', 'rfgsm', 'pgd', 'pgd-transfer', 'square', 'worst'].map((a) => [key(a, e), `${a} ${Math.round(255 * e)}`] as const),
  ),
] as const
const product = (r: Report): number => r.layers.reduce((p, l) => p * (l.operatorNorm.after ?? 1), 1)
const table = (first: string, lines: readonly Row[]): string =>
  [
    `| ${first} | act. bits | ${columns.map(([, t]) => t).join(' | ')} | operator norms’ product |`,
    `|---|---|${columns.map(() => '---|').join('')}---|`,
    ...lines.map(({ label, bits, report }) => {
      const values = cells(report.after)
      return `| ${label} | ${bits ?? 'float'} | ${columns.map(([k]) => percent(values.get(k))).join(' | ')} | ${product(report).toExponential(1)} |`
    }),
  ].join('\n')

/** How far quantized networks are from their vanilla float network, in points of what survives all attacks, without the penalty and with it. */
function gaps(rows: readonly Row[]): string {
  const worst = (label: string, bits: number | null, epsilon: number): number | undefined => {
    const row = rows.find((r) => r.label === label && r.bits === bits)
    return row && cells(row.report.after).get(key('worst', epsilon))
  }
  const pairs = BASES.filter((b) => b.beta === 0).flatMap((b) => {
    const defended = BASES.find((d) => d.beta > 0 && d.robust === b.robust)!
    return RADII.map((e) => ({ vanilla: b.name, defended: defended.name, e }))
  })
  const points = (v: number | undefined, from: number | undefined): string =>
    v === undefined || from === undefined ? '' : `${v >= from ? '+' : '−'}${Math.abs(100 * (v - from)).toFixed(1)}`
  return [
    `| act. bits | ${pairs.flatMap((p) => [`${p.vanilla}, ${Math.round(255 * p.e)}/255`, `${p.defended}, ${Math.round(255 * p.e)}/255`]).join(' | ')} |`,
    `|---|${pairs.map(() => '---|---|').join('')}`,
    ...[...BITS, null].map((bits) => {
      const values = pairs.flatMap((p) => {
        const from = worst(p.vanilla, null, p.e)
        return [points(worst(p.vanilla, bits, p.e), from), points(worst(p.defended, bits, p.e), from)]
      })
      return `| ${bits ?? 'float'} | ${values.join(' | ')} |`
    }),
  ].join('\n')
}

/** Writes tables and charts of what there is so far. */
function publish(rows: readonly Row[], penalties: readonly Row[]): string {
  const text = [
    '# Tables of `pnpm paper`',
    'What they show and what they do not: [paper.md](paper.md).',
    '## Accuracy, %',
    table('network', rows),
    '## Points above or below the vanilla float network, worst of all attacks',
    gaps(rows),
    '## Weight of the penalty in fine-tuning the first network',
    table('β', penalties),
    '',
  ].join('\n\n')
  writeFileSync(join(out, 'paper-tables.md'), text)

  const ordered = [...BITS.map(String), 'float']
  for (const [attack, title] of [
    ['clean', 'Clean accuracy'],
    [key('fgsm', 8 / 255), 'FGSM, ε = 8/255'],
    [key('worst', 2 / 255), 'Worst of all attacks tried, ε = 2/255'],
    [key('worst', 8 / 255), 'Worst of all attacks tried, ε = 8/255'],
  ] as const) {
    const series = BASES.filter((b) => rows.some((r) => r.label === b.name)).map((b) => ({
      name: b.name,
      points: rows
        .filter((r) => r.label === b.name)
        .map((r) => ({ x: r.bits === null ? 'float' : String(r.bits), y: 100 * cells(r.report.after).get(attack)! })),
    }))
    const name = attack.replace(/[^a-z0-9]+/g, '-')
    writeFileSync(join(out, `paper-${name}.svg`), lineChart(title, 'activation bits', 'accuracy, %', ordered, series))
  }

  const closeUps = rows.filter((r) => r.bits === CLOSE_UP)
  writeFileSync(
    join(out, 'paper-amplification.svg'),
    lineChart(
      'Change of the layers’ outputs under FGSM, ε = 2/255',
      'layer',
      '‖z(x + δ) − z(x)‖ / ‖z(x)‖, %',
      closeUps[0]!.report.layers.map((l) => l.name),
      closeUps.flatMap(({ label, bits, report }) =>
        (['before', 'after'] as const).map((side) => ({
          name: `${label}, ${side === 'before' ? 'float, before' : `${bits} bits`}`,
          group: label,
          dashed: side === 'before',
          points: report.layers.flatMap((l) => {
            const moved = l.perturbation[side]
            return moved === null ? [] : [{ x: l.name, y: 100 * moved }]
          }),
        })),
      ),
    ),
  )
  return text
}

let text = ''
const rows: Row[] = []
const penalties: Row[] = []
for (const b of BASES) {
  const path = await base(b)
  for (const bits of [null, ...BITS]) rows.push({ label: b.name, bits, report: await further(b, path, bits) })
  if (b === BASES[0]) {
    penalties.push({ label: '0', bits: CLOSE_UP, report: rows.find((r) => r.bits === CLOSE_UP)!.report })
    for (const beta of BETAS)
      penalties.push({
        label: String(beta),
        bits: CLOSE_UP,
        report: await further({ ...b, name: `${b.name}.beta${beta}`, beta }, path, CLOSE_UP),
      })
  }
  text = publish(rows, penalties)
}
console.log(text)
