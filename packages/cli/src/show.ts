import type { Measurement } from '@dqc/core'
import pc from 'picocolors'
import type { EvaluationReport } from './evaluate.ts'
import type { Inspection } from './inspect.ts'
import type { Report } from './report.ts'

const percent = (v: number): string => `${(100 * v).toFixed(1)}%`
const pixels = (eps: number): string => {
  const n = eps * 255
  return Math.abs(n - Math.round(n)) < 1e-6 ? `${Math.round(n)}/255` : eps.toPrecision(3)
}
const size = (bytes: number): string =>
  bytes < 1024 ? `${bytes} B` : bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`

/** Converters join the names of everything they fuse; the end tells the most. */
const short = (name: string): string => (name.length <= 48 ? name : `…${name.slice(-47)}`)

/** Columns padded to their widest cell; numbers to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((r) => r[c]!.length)))
  return rows
    .map((r) =>
      r
        .map((cell, c) => (c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

const attackRows = (m: Measurement): { key: string; label: string; value: number; samples: number }[] => [
  ...m.attacks.map((a) => ({
    key: `${a.name} ${a.norm} ${a.epsilon}`,
    label: `${a.name}${a.steps > 1 ? `-${a.steps}${a.restarts > 1 ? `×${a.restarts}` : ''}` : ''} ${a.norm === 'l2' ? 'ℓ₂ ' : ''}ε=${a.norm === 'l2' ? a.epsilon : pixels(a.epsilon)}`,
    value: a.robust,
    samples: a.samples,
  })),
  ...m.worst.map((w) => ({
    key: `worst ${w.norm} ${w.epsilon}`,
    label: `worst of all ${w.norm === 'l2' ? 'ℓ₂ ' : ''}ε=${w.norm === 'l2' ? w.epsilon : pixels(w.epsilon)}`,
    value: w.robust,
    samples: w.samples,
  })),
]

export function showReport(r: Report): string {
  const name = r.metric === 'accuracy' ? 'accuracy' : 'relative error'
  const rows = [
    [name, 'before', 'after', 'samples'],
    ['clean', percent(r.before.clean), percent(r.after.clean), String(r.after.samples)],
  ]
  const before = new Map(attackRows(r.before).map((a) => [a.key, a]))
  for (const a of attackRows(r.after))
    rows.push([a.label, before.has(a.key) ? percent(before.get(a.key)!.value) : '', percent(a.value), String(a.samples)])
  const file = r.artifact.files[0]!
  const check = r.artifact.skipped
    ? `not compared with the integer reference: ${r.artifact.skipped}`
    : `${r.artifact.mismatches} mismatches in ${r.artifact.compared} outputs against the integer reference`
  const b = r.bits
  const lines = [
    pc.bold(`${r.model.path} → ${file.path}`),
    `${size(file.bytes)}, ${r.artifact.runtime}; ${check}`,
    `grid bits: weights ${b.weights.grid}, activations ${b.activations.grid}, first and last layers ${b.weights.edges}, sums ${b.activations.sums}; storage bits: weights ${b.weights.storage}, activations ${b.activations.storage}`,
    `data: ${r.data.source}${r.data.labels === 'model' ? '; no labels: the float network’s own answers count as right' : ''}; calibration: ${r.data.calibration.samples} samples`,
    '',
    table(rows),
  ]
  for (const t of r.finetuning) lines.push('', ...trainingLines(t))
  if (r.finetuning.length) lines.push(...layerLines(r.layers))
  const coarse = r.activations.filter((u) => u.of <= 32)
  if (coarse.length)
    lines.push(
      '',
      table([
        ['activation', 'levels used', 'zeros', 'at the top'],
        ...coarse.map((u) => [short(u.name), `${u.levels} of ${u.of}`, percent(u.zeros), percent(u.clipped)]),
      ]),
    )
  if (r.floatNodes.length) lines.push('', `float: ${r.floatNodes.length} nodes (${[...new Set(r.floatNodes.map((n) => n.op))].join(', ')})`)
  if (r.cost && HARDWARE.has(r.target)) lines.push('', ...costLines(r.cost))
  const m = r.artifact.memory
  if (m)
    lines.push(
      '',
      `memory: ${size(m.ram)} of RAM, ${size(m.constants)} of constants${m.flash === null ? '' : `, ${size(m.flash)} of flash with the code`}`,
    )
  if (r.artifact.mapping) lines.push('', ...mappingLines(r.artifact.mapping))
  for (const n of r.notes) lines.push(pc.yellow(`note: ${n}`))
  for (const [key, g] of Object.entries(r.gates))
    if (g)
      lines.push(`${g.passed ? pc.green('passed') : pc.red('failed')} ${key}: a loss of ${percent(g.value)}, ${percent(g.limit)} allowed`)
  return lines.join('\n')
}

/** Targets whose hardware is sized for the network. */
const HARDWARE = new Set(['c', 'qonnx', 'qcdq', 'vitis-ai'])

const count = (n: number): string => (n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} k` : String(n))

/** What training did to the layers: how far each stretches its input, and how far an attack moves what it gives. */
function layerLines(layers: Report['layers']): string[] {
  const rows = layers.filter((l) => l.operatorNorm.before !== null && l.operatorNorm.after !== null)
  if (!rows.length) return []
  const number = (v: number | null): string => v?.toPrecision(3) ?? ''
  const product = (side: 'before' | 'after'): string => rows.reduce((p, l) => p * l.operatorNorm[side]!, 1).toPrecision(3)
  return [
    '',
    table([
      ['layer', 'spectral norm before', 'after', 'orthogonality defect', 'moved by attack before', 'after'],
      ...rows.map((l) => [
        short(l.name),
        number(l.operatorNorm.before),
        number(l.operatorNorm.after),
        number(l.orthogonalityDefect),
        l.perturbation.before === null ? '' : percent(l.perturbation.before),
        l.perturbation.after === null ? '' : percent(l.perturbation.after),
      ]),
      ['product', product('before'), product('after'), '', '', ''],
    ]),
  ]
}

/** What each layer takes of hardware. */
const costLines = (c: NonNullable<Report['cost']>): string[] => [
  table([
    ['layer', 'weights', 'MACs', 'weight bits', 'activation bits', 'accumulator bits'],
    ...c.layers.map((l) => [
      short(l.name),
      l.weightShape.join('×'),
      count(l.macs),
      String(l.weightBits),
      String(l.actBits),
      String(l.accumulatorBits),
    ]),
  ]),
  `${count(c.macs)} MACs, ${count(c.bops)} bit operations, ${size(Math.ceil(c.weightBits / 8))} of weights on their grids, ${size(c.activationBytes)} of activations at once`,
]

/** What training did: its recipe in a line, and the validation of what was kept. */
function trainingLines(t: Report['finetuning'][number]): string[] {
  const recipe = [
    `${t.steps} steps of ${t.batch}`,
    t.loss,
    t.penalty ? `penalty ${t.penalty.form} β=${t.penalty.beta}${t.penalty.convexSums ? ', sums convex' : ''}` : 'no penalty',
    ...(t.adversary
      ? [`adversaries ε=${pixels(t.adversary.epsilon)}${t.adversary.steps > 1 ? ` in ${t.adversary.steps} steps` : ''}`]
      : []),
    ...(t.augmentation.flip ? ['mirrored'] : []),
    ...(t.augmentation.shift ? [`shifted by up to ${t.augmentation.shift}`] : []),
  ]
  const kept = t.curve.find((p) => p.step === t.best)
  return [
    `trained ${t.stage === 'float' ? 'in real numbers' : 'through the quantizers'}: ${recipe.join(', ')}; on ${t.training.source}`,
    ...(kept
      ? [
          `kept step ${t.best}: on ${t.validation.samples} validation samples clean ${percent(kept.clean)}${kept.robust === null ? '' : `, robust ${percent(kept.robust)}`}`,
        ]
      : []),
  ]
}

/** What an accelerator takes, and for the rest why not and what would change it. */
function mappingLines(mapping: NonNullable<Inspection['mapping']>): string[] {
  const left = mapping.filter((m) => m.place === 'cpu')
  return [
    `Edge TPU: ${mapping.length - left.length} of ${mapping.length} operators on it${left.length ? ', on the CPU:' : ''}`,
    ...left.map((m) => pc.yellow(`  ${m.op} ${short(m.name)}: ${m.reason}${m.remedy ? `; ${m.remedy}` : ''}`)),
  ]
}

export function showEvaluation(r: EvaluationReport): string {
  const m = r.measurement
  const rows = [
    [r.metric === 'accuracy' ? 'accuracy' : 'relative error', '', 'samples'],
    ['clean', percent(m.clean), String(m.samples)],
    ...attackRows(m).map((a) => [a.label, percent(a.value), String(a.samples)]),
  ]
  const lines = [
    pc.bold(r.model.path),
    `data: ${r.data.source}${r.data.labels === 'model' ? '; no labels: the network’s own answers count as right' : ''}`,
    '',
    table(rows),
  ]
  for (const n of r.notes) lines.push(pc.yellow(`note: ${n}`))
  return lines.join('\n')
}

export function showInspection(i: Inspection): string {
  const shape = (s: readonly (number | string)[] | null): string => (s === null ? '?' : `[${s.join(', ')}]`)
  const lines = [
    pc.bold(i.path),
    i.format === 'tflite'
      ? `TFLite, schema version ${i.irVersion}${i.producer ? `, by ${i.producer}` : ''}, ${size(i.bytes)}`
      : `ONNX, IR ${i.irVersion}, ${Object.entries(i.opsets)
          .map(([d, v]) => `${d} ${v}`)
          .join(', ')}${i.producer ? `, by ${i.producer}` : ''}, ${size(i.bytes)}`,
    ...i.inputs.map((v) => `input   ${v.name}: ${v.dtype} ${shape(v.shape)}`),
    ...i.outputs.map((v) => `output  ${v.name}: ${v.dtype} ${shape(v.shape)}`),
    `${i.parameters.toLocaleString('en')} parameters (${Object.entries(i.storage)
      .map(([t, b]) => `${t} ${size(b)}`)
      .join(', ')}), ${(i.macs / 1e6).toFixed(2)} M multiply–accumulates per sample`,
    '',
    table([['node', 'op', 'output'], ...i.nodes.map((n) => [short(n.name || n.outputs[0] || ''), n.op, n.shape])]),
    '',
    Object.entries(i.ops)
      .map(([t, n]) => `${n}× ${t}`)
      .join(', '),
  ]
  if (i.quantization.length)
    lines.push(
      '',
      table([
        ['quantized weights', 'container', 'grid bits', 'scales', 'shape'],
        ...i.quantization.map((q) => [q.name, q.type, String(q.bits), String(q.scales), shape(q.shape)]),
      ]),
    )
  if (i.activations.length)
    lines.push(
      '',
      table([
        ['quantized activations', 'container', 'scale', 'zero point'],
        ...i.activations.map((a) => [short(a.name), a.type, a.scale.toPrecision(6), String(a.zeroPoint)]),
      ]),
    )
  for (const [k, v] of Object.entries(i.metadata)) lines.push(`${k} = ${v}`)
  if (i.mapping) lines.push('', ...mappingLines(i.mapping))
  if (i.foreign.length) lines.push('', ...i.foreign.map((f) => pc.yellow(`carried as it is: ${f.type} ${f.name} (${f.reason})`)))
  return lines.join('\n')
}
