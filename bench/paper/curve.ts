/** Draws the learning curve that a report of `dqc train`, `finetune` or `convert` holds: `curve.ts REPORT.json OUT.svg`. */
import { readFileSync, writeFileSync } from 'node:fs'
import type { Report } from 'dqc'
import { lineChart } from './chart.ts'

const [source, out] = process.argv.slice(2)
if (!source || !out) {
  console.error('a report and the name of an SVG file are missing')
  process.exit(2)
}
const report = JSON.parse(readFileSync(source, 'utf8')) as Report
const points = report.finetuning.flatMap((f) => f.curve.map((p) => ({ ...p, x: `${f.stage === 'float' ? '' : 'quantized '}${p.step}` })))
const series = [
  { name: 'clean', points: points.map((p) => ({ x: p.x, y: 100 * p.clean })) },
  { name: 'robust', points: points.flatMap((p) => (p.robust === null ? [] : [{ x: p.x, y: 100 * p.robust }])) },
]
writeFileSync(
  out,
  lineChart(
    'Accuracy on validation images',
    'step',
    '%',
    points.map((p) => p.x),
    series,
  ),
)
