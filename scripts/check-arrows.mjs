// The house's rules that types cannot hold: which folder of core may import which, which package which, no import cycles,
// and no clock, randomness or Node API inside core.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'

const core = 'packages/core/src'
/** Folders of core from left to right; each may import from itself and those before it. */
const order = ['math', 'ir', 'ops', 'run', 'quant', 'passes', 'train', 'targets', 'verify', 'compile']
const packages = {
  '@dqc/core': [],
  '@dqc/onnx': ['@dqc/core'],
  '@dqc/tflite': ['@dqc/core'],
  dqc: ['@dqc/core', '@dqc/onnx', '@dqc/tflite'],
}
const names = { core: '@dqc/core', onnx: '@dqc/onnx', tflite: '@dqc/tflite', cli: 'dqc' }
/** Runtimes, and the folders that alone may load them. */
const runtimes = { 'onnxruntime-node': '/engine/', '@litertjs/core': '/litert/', '@tensorflow/': '/tfjs/' }
const banned = [/\bMath\.random\b/, /\bDate\b/, /\bperformance\b/, /\bprocess\b/, /['"]node:/, /\bsetTimeout\b/, /\bcrypto\b/]

const problems = []
const files = (dir) =>
  readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.ts'))
    .map((f) => join(dir, f))
const importsOf = (text) =>
  [...text.matchAll(/(?:^|\n)(?:import|export)\s(?!type\b)(?:[^'";]*?\sfrom\s)?['"]([^'"]+)['"]/g)].map((m) => m[1])
const strip = (text) => text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/\/\/.*$/gm, '')

const graph = new Map()
for (const file of files(core)) {
  const text = readFileSync(file, 'utf8')
  const isTest = /\.(test|cases)\.ts$/.test(file)
  const here = relative(core, file).split('/')[0]
  const targets = importsOf(strip(text))
    .filter((i) => i.startsWith('.'))
    .map((i) => resolve(dirname(file), i))
  graph.set(resolve(file), isTest ? [] : targets)
  if (isTest) continue
  for (const t of targets) {
    const there = relative(resolve(core), t).split('/')[0]
    if (order.includes(here) && order.indexOf(there) > order.indexOf(here)) problems.push(`${file}: ${here} must not import ${there}`)
  }
  for (const b of banned) if (b.test(strip(text))) problems.push(`${file}: ${b} is banned in core`)
}
for (const [short, name] of Object.entries(names))
  for (const file of files(`packages/${short}/src`)) {
    if (/\.test\.ts$/.test(file)) continue
    for (const i of importsOf(strip(readFileSync(file, 'utf8')))) {
      const dep = Object.keys(packages).find((p) => i === p || i.startsWith(`${p}/`))
      if (dep && dep !== name && !packages[name].includes(dep)) problems.push(`${file}: ${name} must not import ${dep}`)
      const runtime = Object.keys(runtimes).find((r) => i.startsWith(r))
      if (runtime && !file.includes(runtimes[runtime])) problems.push(`${file}: ${runtime} is loaded by ${runtimes[runtime]} alone`)
    }
  }
const state = new Map()
const visit = (file, path) => {
  if (state.get(file) === 2 || !graph.has(file)) return
  if (state.get(file) === 1) {
    problems.push(`cycle: ${[...path.slice(path.indexOf(file)), file].map((f) => relative(core, f)).join(' → ')}`)
    return
  }
  state.set(file, 1)
  for (const t of graph.get(file)) visit(t, [...path, file])
  state.set(file, 2)
}
for (const file of graph.keys()) visit(file, [])
for (const p of problems) console.error(p)
process.exit(problems.length ? 1 : 0)
