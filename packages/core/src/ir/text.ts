import { createBuilder } from './builder.ts'
import { errors } from './errors.ts'
import { constantsOf, type Graph, type Level, type QuantParams, type TensorType, type Value } from './graph.ts'
import type { Op } from './op.ts'
import { type DType, numbersOf, sizeOf, tensorOf } from './tensor.ts'

const typeText = (t: TensorType): string => `${t.dtype}${t.shape === null ? '?' : `[${t.shape.join(',')}]`}`
const quantText = (q: QuantParams | null): string =>
  q === null ? '' : ` grid(${q.lo}..${q.hi}, ${q.axis === null ? '' : `axis ${q.axis}, `}${[...q.scale].join(' ')})`

/** Largest constant, in elements, that is written out in full when nothing else is asked for. */
const SHOWN = 64

/**
 * A graph as text, one node a line. With `full` the text holds every constant element and {@link parseGraph} reads it back;
 * otherwise large constants are shown by their count and sum.
 */
export function printGraph(graph: Graph, full = false): string {
  const lines = [`graph ${JSON.stringify(graph.name)} ${graph.level}`]
  const ref = (v: Value | null): string => (v === null ? '_' : `%${v.name}`)
  for (const v of graph.inputs) lines.push(`input %${v.name}: ${typeText(v)}${quantText(v.quant)}`)
  for (const v of constantsOf(graph)) {
    const xs = numbersOf(v.data)
    const shown =
      full || xs.length <= SHOWN
        ? Array.from(xs, String).join(' ')
        : `… ${xs.length} elements, sum ${(xs as Float32Array).reduce((s, x) => s + x, 0).toPrecision(5)}`
    lines.push(`const %${v.name}: ${typeText(v)}${quantText(v.quant)} = ${shown}`)
  }
  for (const n of graph.nodes) {
    const attrs = JSON.stringify(n.attrs, (key, x) =>
      key === 'payload'
        ? undefined
        : x === Number.POSITIVE_INFINITY
          ? '∞'
          : x === Number.NEGATIVE_INFINITY
            ? '-∞'
            : x instanceof Float32Array || x instanceof Float64Array || x instanceof Int32Array
              ? [...x]
              : x,
    )
    lines.push(
      `${n.outputs.map((v) => `%${v.name}: ${typeText(v)}${quantText(v.quant)}`).join('; ')} = ${n.op.name}(${n.inputs.map(ref).join(', ')}) ${attrs}`,
    )
  }
  graph.outputs.forEach((v, i) => lines.push(`output ${JSON.stringify(graph.outputNames[i])} = ${ref(v)}`))
  return `${lines.join('\n')}\n`
}

const TYPED = /^%(.+?): (\w+)(\?|\[([^\]]*)\])(?: grid\((-?\d+)\.\.(-?\d+), (?:axis (\d+), )?([^)]*)\))?$/

/** Reads what {@link printGraph} wrote in full. `ops` is the list of records the text may name. Throws CompileError on bad text. */
export function parseGraph(text: string, ops: readonly Op[]): Graph {
  const byName = new Map(ops.map((o) => [o.name, o]))
  const values = new Map<string, Value>()
  const b = createBuilder()
  const outputs: Value[] = []
  const outputNames: string[] = []
  let name = ''
  let level: Level = 'float'
  const bad = (line: number, what: string) => errors.badModel(what, `graph text, line ${line + 1}`)
  const typed = (s: string, line: number): { name: string; type: TensorType; quant: QuantParams | null } => {
    const m = TYPED.exec(s.trim())
    if (!m) throw bad(line, `cannot read ${JSON.stringify(s)}`)
    const shape = m[3] === '?' ? null : m[4] === '' ? [] : m[4]!.split(',').map((d) => (/^\d+$/.test(d) ? Number(d) : d))
    const quant =
      m[5] === undefined
        ? null
        : {
            lo: Number(m[5]),
            hi: Number(m[6]),
            axis: m[7] === undefined ? null : Number(m[7]),
            scale: Float32Array.from(m[8]!.split(' '), Number),
          }
    return { name: m[1]!, type: { dtype: m[2] as DType, shape }, quant }
  }
  const get = (s: string, line: number): Value | null => {
    if (s === '_') return null
    const v = values.get(s.slice(1))
    if (!v) throw bad(line, `${s} is not defined`)
    return v
  }
  text.split('\n').forEach((raw, i) => {
    const s = raw.trim()
    if (s === '') return
    let m: RegExpExecArray | null
    if ((m = /^graph (".*") (float|qdq|integer)$/.exec(s))) {
      name = JSON.parse(m[1]!)
      level = m[2] as Level
    } else if ((m = /^input (.*)$/.exec(s))) {
      const t = typed(m[1]!, i)
      values.set(t.name, b.input(t.name, t.type, t.quant))
    } else if ((m = /^const (.*?) = (.*)$/.exec(s))) {
      const t = typed(m[1]!, i)
      const shape = t.type.shape as number[]
      const xs = m[2] === '' ? [] : m[2]!.split(' ').map(Number)
      if (xs.length !== sizeOf(shape)) throw bad(i, `constant ${t.name} is abridged: print the graph in full`)
      values.set(t.name, b.constant(tensorOf(t.type.dtype, shape, xs), t.name, t.quant))
    } else if ((m = /^output (".*?") = (\S+)$/.exec(s))) {
      outputNames.push(JSON.parse(m[1]!))
      outputs.push(get(m[2]!, i)!)
    } else if ((m = /^(.*?) = (\w+)\((.*?)\) (.*)$/.exec(s))) {
      const op = byName.get(m[2]!)
      if (!op) throw bad(i, `${m[2]} is not an op`)
      const outs = m[1]!.split('; ').map((o) => typed(o, i))
      const ins = m[3] === '' ? [] : m[3]!.split(', ').map((o) => get(o, i))
      const attrs = JSON.parse(m[4]!, (_, x) => (x === '∞' ? Number.POSITIVE_INFINITY : x === '-∞' ? Number.NEGATIVE_INFINITY : x))
      const made = b.add(op, ins, attrs, { outputs: outs.map((o) => o.name), types: outs.map((o) => o.type), quant: outs[0]!.quant })
      outs.forEach((o, k) => values.set(o.name, made[k]!))
    } else throw bad(i, `cannot read ${JSON.stringify(s)}`)
  })
  return b.build(level, outputs, { name, outputNames })
}
