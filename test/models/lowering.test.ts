import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as core from '@dqc/core'
import {
  calibrate,
  createBuilder,
  createRandom,
  evaluate,
  type Graph,
  insertQuantizers,
  isFloat,
  lower,
  numbersOf,
  planQuantization,
  quantizeValue,
  referenceEngine,
  sizeOf,
  type Tensor,
  tensorOf,
} from '@dqc/core'
import { ortTarget } from '@dqc/onnx'
import { tfliteTarget } from '@dqc/tflite'
import { type Case, cases } from '../../packages/core/src/ops/ops.cases.ts'

const spec = {
  weightBits: 8,
  actBits: 8,
  edgeBits: 8,
  sumBits: 8,
  observer: 'minmax',
  exclude: () => false,
  integerIO: true,
  scheme: core.freeScheme,
} as const

const ort = ortTarget({ format: 'qoperator', packedWeights: false, fixedPoint: false, version: 'test' })
const litert = tfliteTarget({ integerIO: false, container: 'int8', packedWeights: false, keepContainers: false, version: 'test' })

/** What calibration on one batch sees. */
const rangesOf = (graph: Graph<'float'>, batch: readonly Tensor[]): ReturnType<typeof calibrate> =>
  calibrate(
    referenceEngine,
    graph,
    (async function* () {
      yield batch
    })(),
  )

/** One op between its inputs and its result; what it multiplies or adds per channel, and what is no real number, is constant. */
function alone(c: Case): { graph: Graph<'float'>; fed: Tensor[] } {
  const b = createBuilder()
  const random = createRandom(12)
  const info = c.op.weights?.(c.attrs)
  const [lo, hi] = c.range ?? [-2, 2]
  const fed: Tensor[] = []
  const inputs = c.inputs.map((s, i) => {
    if (s === null) return null
    const t =
      'data' in s
        ? isFloat(s.dtype)
          ? tensorOf('float32', s.shape, numbersOf(s))
          : s
        : tensorOf(
            'float32',
            s,
            Float32Array.from({ length: sizeOf(s) }, () => lo + random.uniform() * (hi - lo)),
          )
    if (!isFloat(t.dtype) || i === info?.weight || i === info?.bias) return b.constant(t, `c${i}`)
    fed.push(t)
    return b.input(`x${i}`, { dtype: 'float32', shape: t.shape })
  })
  const outs = b.add(c.op, inputs, c.attrs, { outputs: ['y'] })
  return { graph: b.build('float', outs.slice(0, 1)), fed }
}

/** An op between integer inputs and its integer result; null where these rules leave it in real numbers. */
async function loweredAlone(c: Case, rules: core.KernelRules) {
  const { graph, fed } = alone(c)
  const plan = planQuantization(graph, spec, await rangesOf(graph, fed), rules)
  if (!plan.integer.has('y')) return null
  const { graph: qdq } = insertQuantizers(graph, plan)
  const integer = lower(qdq, rules, true)
  const out = integer.outputs[0]!.quant
  return out && integer.inputs.every((v) => v.quant) ? { qdq, integer, fed, step: out.scale[0]! } : null
}

/** Every op of the vocabulary that has an integer form of its own. */
const candidates = cases.filter((c) => c.op.lower && c.op.levels.includes('float') && c.op !== core.fakeQuant)

describe('integer forms mean what the quantized graph means, within a step', async () => {
  for (const [name, { rules }, least] of [
    ['ONNX Runtime', ort, 30],
    ['LiteRT', litert, 22],
  ] as const) {
    const all = (await Promise.all(candidates.map(async (c) => ({ c, form: await loweredAlone(c, rules) })))).filter(({ form }) => form)
    const ops = new Set(all.map(({ c }) => c.op.name))
    it(`${name}: ${least} ops or more have one`, () => assert.ok(ops.size >= least, [...ops].join()))
    for (const { c, form } of all)
      it(`${name}: ${c.op.name} ${c.note ?? ''}`, () => {
        const { qdq, integer, fed, step } = form!
        const steps = fed.map((t, i) => {
          const q = integer.inputs[i]!.quant!
          return tensorOf(
            'int32',
            t.shape,
            Array.from(numbersOf(t) as Float32Array, (v) => quantizeValue(v, q.scale[0]!, q.lo, q.hi)),
          )
        })
        const want = numbersOf(evaluate(qdq, fed)[0]!) as Float32Array
        const have = numbersOf(evaluate(integer, steps)[0]!) as Int32Array
        want.forEach((v, i) => assert.ok(Math.abs(v - have[i]! * step) <= 1.001 * step, `${have[i]! * step} for ${v}, in steps of ${step}`))
      })
  }
})

describe('grids that several values share', () => {
  const image = (scale: number): Tensor =>
    tensorOf(
      'float32',
      [2, 4, 4, 4],
      Float32Array.from({ length: 128 }, (_, i) => scale * Math.sin(i)),
    )
  const convolution = (b: core.Builder, x: core.Value, name: string): core.Value => {
    const random = createRandom(5)
    const c = x.shape![1] as number
    const w = tensorOf(
      'float32',
      [4, c, 1, 1],
      Float32Array.from({ length: 4 * c }, () => random.normal()),
    )
    const attrs = { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1 }
    return b.emit(core.conv, [x, b.constant(w, `${name}.w`), null], attrs, { outputs: [name] })
  }
  const reach = (q: core.QuantParams): number => q.scale[0]! * Math.max(-q.lo, q.hi)

  it('reach as far as the widest of those that are read elsewhere, in whatever order they are made', async () => {
    for (const order of [1, -1]) {
      const b = createBuilder()
      const x = b.input('x', { dtype: 'float32', shape: ['N', 4, 4, 4] })
      const h = convolution(b, x, 'h')
      // Channels 0 and 1 are made small, 2 and 3 are not.
      const sized = b.emit(core.mul, [h, b.constant(tensorOf('float32', [4, 1, 1], [0.01, 0.01, 1, 1]))], {}, { outputs: ['sized'] })
      const part = (from: number): core.Value =>
        b.emit(core.slice, [sized], { axes: [1], starts: [from], ends: [from + 2], steps: [1] }, { outputs: [`part${from}`] })
      const parts = (order > 0 ? [0, 2] : [2, 0]).map(part)
      const y = b.emit(core.add, [convolution(b, parts[0]!, 'a'), convolution(b, parts[1]!, 'b')], {}, { outputs: ['y'] })
      const graph = b.build('float', [y])
      const ranges = await rangesOf(graph, [image(1)])
      const { grids } = planQuantization(graph, spec, ranges, ort.rules)
      const top = Math.max(-ranges.get('part2')!.min, ranges.get('part2')!.max)
      for (const name of ['part0', 'part2'])
        assert.ok(reach(grids.get(name)!) > 0.98 * top, `${name} reaches ${reach(grids.get(name)!)} of ${top}`)
    }
  })

  it('a clamp does not take the grid from a kernel that decides it', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 4, 4, 4] })
    const window = { kernel: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0], dilations: [1, 1], ceil: false, countIncludePad: false }
    const pooled = b.emit(core.averagePool, [convolution(b, x, 'h')], window, { outputs: ['pooled'] })
    const y = b.emit(core.relu, [pooled], {}, { outputs: ['clamped'] })
    const graph = b.build('float', [convolution(b, y, 'y')])
    const plan = planQuantization(graph, spec, await rangesOf(graph, [image(1)]), litert.rules)
    assert.ok(!plan.absorbed.has('pooled'))
    assert.equal(plan.grids.get('pooled'), plan.grids.get('h'))
    const integer = lower(insertQuantizers(graph, plan).graph, litert.rules, true)
    assert.ok(!integer.nodes.some((n) => n.op === core.averagePool))
  })

  /** How far the integer graph is from the float one, and the ops that it has. */
  const lowered = async (graph: Graph<'float'>, bits = 8): Promise<{ ops: string[]; error: number; apart: number }> => {
    const fed = [image(1)]
    const own = { ...spec, weightBits: bits, actBits: bits, edgeBits: bits, integerIO: false }
    const { graph: qdq } = insertQuantizers(graph, planQuantization(graph, own, await rangesOf(graph, fed), ort.rules))
    const integer = lower(qdq, ort.rules, false)
    const furthest = (p: Graph, q: Graph): number => {
      const [have, want] = [evaluate(p, fed), evaluate(q, fed)]
      return Math.max(
        ...have.flatMap((t, i) => {
          const w = numbersOf(want[i]!)
          const top = Array.from(w, Math.abs).reduce((m, v) => Math.max(m, v), 0)
          return Array.from(numbersOf(t), (v, k) => Math.abs(v - w[k]!) / top)
        }),
      )
    }
    return { ops: integer.nodes.map((n) => n.op.name), error: furthest(integer, graph), apart: furthest(integer, qdq) }
  }

  it('numbers of unlike grids, and constants without one, are joined in real numbers', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: [2, 4, 4, 4] })
    const p = convolution(b, x, 'p')
    const q = b.emit(core.mul, [convolution(b, x, 'q'), b.scalar(0.02)], {}, { outputs: ['small'] })
    const r = b.constant(image(0.5), 'r')
    const { ops, error } = await lowered(b.build('float', [p, q, b.emit(core.concat, [p, q, r], { axis: 1 })]))
    assert.equal(ops.at(-1), 'concat')
    assert.ok(error < 0.05, `${error}`)
  })

  it('what lies between two elements is computed in real numbers, and read again in integers', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 4, 4, 4] })
    const attrs = { sizes: [null, null, null, null], scales: [1, 1, 2, 2], mode: 'linear', coordinates: 'half_pixel' } as const
    const h = b.emit(core.relu, [convolution(b, x, 'h')], {}, { outputs: ['r'] })
    const wide = b.emit(core.interpolate, [h], { ...attrs, nearest: 'floor', cubicA: -0.75, excludeOutside: false })
    const { ops, error } = await lowered(b.build('float', [convolution(b, wide, 'y')]))
    assert.deepEqual(ops, ['quantize', 'intConv', 'dequantize', 'interpolate', 'quantize', 'intConv', 'dequantize'])
    assert.ok(error < 0.03, `${error}`)
  })

  it('a border of a number of its own is rounded to the grid in the quantized graph too', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 4, 4, 4] })
    const h = b.emit(core.relu, [convolution(b, x, 'h')], {}, { outputs: ['r'] })
    const padded = b.emit(core.pad, [h], { pads: [0, 0, 1, 1, 0, 0, 1, 1], mode: 'constant', value: 0.7 })
    const { ops, apart } = await lowered(b.build('float', [convolution(b, padded, 'y')]), 4)
    assert.deepEqual(ops, ['quantize', 'intConv', 'pad', 'intConv', 'dequantize'])
    assert.ok(apart < 1e-5, `${apart}`)
  })

  it('a value that is called like an op keeps its name beside what passes make', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 4, 4, 4] })
    const mean = b.emit(core.reduceMean, [x], { axes: [2, 3], keepDims: false })
    const flat = b.emit(core.reshape, [x], { shape: [0, 64] }, { outputs: ['reshape'] })
    const drawn = (shape: number[]): core.Value =>
      b.constant(
        tensorOf(
          'float32',
          shape,
          Float32Array.from({ length: sizeOf(shape) }, (_, i) => Math.sin(i)),
        ),
      )
    const y = b.emit(
      core.add,
      [b.emit(core.dense, [mean, drawn([3, 4]), null], {}), b.emit(core.dense, [flat, drawn([3, 64]), null], {})],
      {},
    )
    const graph = b.build('float', [y])
    const prepared = core.prepare(graph)
    assert.ok(prepared.nodes.some((n) => n.outputs[0]!.name === 'reshape'))
    const [have, want] = [prepared, graph].map((g) => numbersOf(evaluate(g, [image(1)])[0]!) as Float32Array)
    want!.forEach((v, i) => assert.ok(Math.abs(have![i]! - v) < 1e-5))
  })

  it('a constant yet to come keeps its name beside the constants that passes make', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 4, 4, 4] })
    const factor = (name: string): core.Value => b.constant(tensorOf('float32', [4, 1, 1], [1, 2, 3, 4]), name)
    const h = b.emit(core.add, [b.emit(core.mul, [convolution(b, x, 'h'), factor('k')], {}), factor('k2')], {})
    const graph = b.build('float', [convolution(b, h, 'y')])
    const last = graph.nodes.at(-1)!
    const renamed = { ...last, inputs: last.inputs.map((v, i) => (v && i === 1 ? { ...v, name: 'h.w_0' } : v)) }
    const prepared = core.prepare({ ...graph, nodes: [...graph.nodes.slice(0, -1), renamed] })
    const names = prepared.nodes.flatMap((n) => n.inputs.flatMap((v) => (v?.data ? [v.name] : [])))
    assert.equal(new Set(names).size, names.length, names.join())
  })

  it('a split is slices, which have an integer form', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 4, 4, 4] })
    const [p, q] = b.add(core.split, [x], { axis: 1, sizes: [1, 3] })
    const graph = b.build('float', [b.emit(core.concat, [q!, p!], { axis: 1 })])
    const prepared = core.prepare(graph)
    assert.deepEqual(
      prepared.nodes.map((n) => n.op.name),
      ['slice', 'slice', 'concat'],
    )
    assert.deepEqual(evaluate(prepared, [image(1)])[0], evaluate(graph, [image(1)])[0])
  })
})

describe('equalization', () => {
  const uneven = (shape: readonly number[]): Tensor =>
    tensorOf(
      'float32',
      shape,
      Float32Array.from({ length: sizeOf(shape) }, (_, i) => Math.sin(i) * 10 ** ((i * shape[0]!) / sizeOf(shape) - shape[0]! / 2)),
    )
  const build = (flatten: readonly number[], units: number): Graph<'float'> => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: [1, 2, 4, 4] })
    const attrs = { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1 }
    const h = b.emit(core.relu, [b.emit(core.conv, [x, b.constant(uneven([4, 2, 1, 1]), 'w'), b.constant(uneven([4]), 'b')], attrs)], {})
    const flat = b.emit(core.reshape, [h], { shape: flatten })
    return b.build('float', [b.emit(core.dense, [flat, b.constant(uneven([3, units]), 'd'), null], {})])
  }
  const input = uneven([1, 2, 4, 4])
  const outputs = (g: Graph): Float32Array => numbersOf(evaluate(g, [input])[0]!) as Float32Array

  it('evens what a layer and the dense one behind its flattened image make of a channel, and keeps the function', () => {
    const graph = build([0, -1], 64)
    const even = core.equalize.run(graph)
    assert.notDeepEqual(even.nodes[0]!.inputs[1]!.data, graph.nodes[0]!.inputs[1]!.data)
    const [p, q] = [outputs(graph), outputs(even)]
    p.forEach((v, i) => assert.ok(Math.abs(v - q[i]!) <= 1e-4 * Math.abs(v), `${q[i]} for ${v}`))
  })
  it('leaves reshapes alone that are no flattening', () => {
    // Rows of the image as samples: what follows a channel's values is no block of a sample.
    const graph = build([4, 16], 16)
    assert.deepEqual(core.equalize.run(graph).nodes[0]!.inputs[1]!.data, graph.nodes[0]!.inputs[1]!.data)
  })
})
