import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import * as core from '@dqc/core'
import {
  calibrate,
  createBuilder,
  evaluate,
  type Graph,
  gridBits,
  insertQuantizers,
  lower,
  numbersOf,
  type Pass,
  parseGraph,
  planQuantization,
  prepare,
  printGraph,
  type QuantSpec,
  referenceEngine,
  tensorOf,
  usesOf,
  verifyGraph,
} from '@dqc/core'
import { ortTarget } from '@dqc/onnx'
import { smallNetwork, uniformBatch } from '../support/models.ts'
import { ROOT } from '../support/paths.ts'

/** Compares with the stored text, or stores it under `pnpm golden`. */
function golden(name: string, graph: Graph): void {
  const file = join(ROOT, 'test/golden', `${name}.txt`)
  const text = printGraph(graph)
  if (process.env['DQC_GOLDEN'] === 'write') writeFileSync(file, text)
  assert.ok(existsSync(file), `${file} is missing: run pnpm golden`)
  assert.equal(text, readFileSync(file, 'utf8'))
}

const x = uniformBatch(2, [3, 3, 12, 12])
const random = core.createRandom(8)
const vector = (n: number, lo = 0.5): ReturnType<typeof tensorOf> =>
  tensorOf(
    'float32',
    [n],
    Float32Array.from({ length: n }, () => lo + random.uniform()),
  )

/** What exporters leave behind: normalization, constants, transposes, subtraction, a mean over axes, explicit padding. */
function exported(): Graph<'float'> {
  const b = createBuilder()
  const input = b.input('x', { dtype: 'float32', shape: ['N', 12, 12, 3] })
  const centred = b.emit(core.sub, [input, b.constant(tensorOf('float32', [1, 1, 1, 3], [0.4, 0.5, 0.6]))], {})
  const chw = b.emit(core.transpose, [centred], { perm: [0, 3, 1, 2] })
  const padded = b.emit(core.pad, [chw], { pads: [0, 0, 1, 1, 0, 0, 1, 1], mode: 'constant', value: 0 })
  const w = b.emit(
    core.mul,
    [
      b.constant(
        tensorOf(
          'float32',
          [4, 3, 3, 3],
          Float32Array.from({ length: 108 }, () => random.normal()),
        ),
      ),
      b.scalar(0.5),
    ],
    {},
  )
  const conv = b.emit(core.conv, [padded, w], { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1 })
  const norm = b.emit(core.batchNorm, [conv, b.constant(vector(4)), b.constant(vector(4)), b.constant(vector(4)), b.constant(vector(4))], {
    epsilon: 1e-3,
  })
  const there = b.emit(core.transpose, [b.emit(core.relu, [norm], {})], { perm: [0, 2, 3, 1] })
  const back = b.emit(core.transpose, [there], { perm: [0, 3, 1, 2] })
  const lone = b.emit(
    core.batchNorm,
    [
      b.emit(core.maxPool, [back], { kernel: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0], dilations: [1, 1], ceil: false }),
      b.constant(vector(4)),
      b.constant(vector(4)),
      b.constant(vector(4)),
      b.constant(vector(4)),
    ],
    { epsilon: 1e-3 },
  )
  const mean = b.emit(core.reduceMean, [lone], { axes: [2, 3], keepDims: false })
  const y = b.emit(
    core.dense,
    [
      b.emit(core.identity, [mean], {}),
      b.constant(
        tensorOf(
          'float32',
          [3, 4],
          Float32Array.from({ length: 12 }, () => random.normal()),
        ),
      ),
      null,
    ],
    {},
  )
  const out = b.emit(core.add, [y, b.constant(tensorOf('float32', [3], [1, 2, 3]))], {})
  return b.build('float', [out], { name: 'exported', outputNames: ['y'] })
}

const close = (a: core.Tensor, b: core.Tensor, tolerance: number): void => {
  const [p, q] = [numbersOf(a), numbersOf(b)]
  assert.deepEqual(a.shape, b.shape)
  for (let i = 0; i < p.length; i++) assert.ok(Math.abs(p[i]! - q[i]!) <= tolerance * (1 + Math.abs(q[i]!)), `${p[i]} and ${q[i]}`)
}

const networks: [string, Graph<'float'>, core.Tensor][] = [
  ['small', smallNetwork(), x],
  ['exported', exported(), uniformBatch(3, [2, 12, 12, 3])],
]
const passes: Pass<'float'>[] = [core.foldConstants, core.simplify, core.foldAffine, core.equalize]

describe('passes', () => {
  for (const [name, graph, input] of networks) {
    it(`every pass keeps what it says it keeps on ${name}`, () => {
      let g = graph
      for (const pass of [...passes, ...passes]) {
        const next = pass.run(g)
        verifyGraph(next)
        assert.equal(pass.preserves, 'function')
        close(evaluate(next, [input])[0]!, evaluate(g, [input])[0]!, 1e-4)
        g = next
      }
    })
    it(`${name} prepared is as expected`, () => golden(`${name}.prepared`, prepare(graph)))
  }

  it('preparation leaves only layers in the exported network', () => {
    assert.deepEqual(
      prepare(exported()).nodes.map((n) => n.op.name),
      ['add', 'transpose', 'conv', 'relu', 'maxPool', 'conv', 'globalAveragePool', 'reshape', 'dense'],
    )
  })

  it('a batch fixed at export is lifted, and only where the results stay', () => {
    const lifted = core.liftBatch(smallNetwork(1, 1))!
    assert.equal(lifted.outputs[0]!.shape![0], 'batch')
    close(evaluate(lifted, [x])[0]!, evaluate(smallNetwork(), [x])[0]!, 1e-6)
    const b = createBuilder()
    const v = b.input('x', { dtype: 'float32', shape: [1, 4] })
    const flat = b.emit(core.reshape, [v], { shape: [4, 1] })
    assert.equal(core.liftBatch(b.build('float', [flat])), null)
  })

  it('islands are cut where the fewest values cross', () => {
    const b = createBuilder()
    const input = b.input('x', { dtype: 'float32', shape: ['N', 4, 8, 8] })
    const w = (): core.Value =>
      b.constant(
        tensorOf(
          'float32',
          [4, 4, 1, 1],
          Float32Array.from({ length: 16 }, () => random.normal()),
        ),
      )
    const conv = (v: core.Value): core.Value =>
      b.emit(core.conv, [v, w(), null], { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1 })
    const a = conv(input)
    const soft = b.emit(core.softmax, [a], { axis: 1 })
    const sum = b.emit(core.add, [soft, b.emit(core.logSoftmax, [a], { axis: 1 })], {})
    const y = conv(sum)
    const graph = b.build('float', [y])
    const integer = core.assignIslands(graph, (n) => (n.op === core.conv ? 'integer' : n.op.lower ? 'either' : 'float'), false)
    // The sum stays float: one conversion behind it instead of two before it.
    assert.deepEqual(
      [...integer].map((n) => n.op.name),
      ['conv', 'conv'],
    )
  })
})

describe('quantization', () => {
  const target = ortTarget({ format: 'qoperator', packedWeights: false, fixedPoint: false, version: '0' })
  const spec = (bits: number, over: Partial<QuantSpec> = {}): QuantSpec => ({
    weightBits: bits,
    actBits: bits,
    edgeBits: 8,
    sumBits: 8,
    observer: 'mse',
    exclude: () => false,
    integerIO: false,
    scheme: core.freeScheme,
    ...over,
  })
  const stages = async (bits: number, over: Partial<QuantSpec> = {}) => {
    const g = prepare(smallNetwork())
    const ranges = await calibrate(
      referenceEngine,
      g,
      (async function* () {
        yield [uniformBatch(5, [8, 3, 12, 12])]
      })(),
    )
    const plan = planQuantization(g, spec(bits, over), ranges, target.rules)
    const qdq = insertQuantizers(g, plan).graph
    verifyGraph(qdq)
    const integer = lower(qdq, target.rules, over.integerIO ?? false)
    verifyGraph(integer)
    return { g, qdq, integer, plan }
  }

  it('the qdq and integer graphs are as expected', async () => {
    const { qdq, integer } = await stages(4)
    golden('small.w4a4.qdq', qdq)
    golden('small.w4a4.integer', integer)
  })

  for (const bits of [8, 6, 5, 4, 3, 2])
    it(`at ${bits} bits the integer graph follows the qdq graph to a few steps of the output`, async () => {
      const { g, qdq, integer } = await stages(bits)
      const [real, steps] = [evaluate(qdq, [x])[0]!, evaluate(integer, [x])[0]!]
      const scale = integer.nodes.find((n) => n.op === core.dequantize)!.attrs.scale as number
      const [p, q] = [numbersOf(real), numbersOf(steps)]
      // Where the two round a value apart, it moves by one step of its own grid: a coarse one below four bits.
      for (let i = 0; i < p.length; i++)
        assert.ok(Math.abs(p[i]! - q[i]!) <= (bits > 3 ? 3 : 12) * scale + 1e-6, `${p[i]} and ${q[i]}, step ${scale}`)
      if (bits === 8) close(steps, evaluate(g, [x])[0]!, 0.05)
    })

  for (const bits of [6, 4, 2])
    it(`at ${bits} bits no inner layer reads more, not even where a sum reads the same value`, async () => {
      const { g, plan, integer } = await stages(bits)
      const uses = usesOf(g)
      const layers = g.nodes.filter((n) => n.op.weights && !plan.edges.has(n.outputs[0]!.name))
      assert.ok(layers.some((n) => uses.consumers(n.inputs[0]!).some((m) => m.op === core.add)))
      for (const n of layers) assert.equal(gridBits(plan.grids.get(n.inputs[0]!.name)!), bits, n.outputs[0]!.name)
      const counted = core.countCost(integer).layers.map((l) => l.actBits)
      assert.deepEqual(counted, [8, ...layers.map(() => bits), 8])
    })

  it('texts are read back as the same graphs', async () => {
    const { g, qdq, integer } = await stages(4)
    for (const graph of [g, qdq, integer]) {
      const again = parseGraph(printGraph(graph, true), core.ops)
      assert.equal(printGraph(again, true), printGraph(graph, true))
      assert.deepEqual([...numbersOf(evaluate(again, [x])[0]!)], [...numbersOf(evaluate(graph, [x])[0]!)])
    }
    assert.throws(() => parseGraph('graph "x" float\nnonsense', core.ops), /cannot read/)
  })

  it('integer inputs and outputs have their grids', async () => {
    const { integer } = await stages(8, { integerIO: true })
    assert.ok(integer.inputs[0]!.quant && integer.outputs[0]!.quant)
    assert.ok(integer.nodes.every((n) => n.op !== core.quantize && n.op !== core.dequantize))
  })

  it('the verifier finds what passes must not leave behind', () => {
    const g = smallNetwork()
    assert.throws(() => verifyGraph({ ...g, nodes: [...g.nodes].reverse() }), /before it is made/)
    assert.throws(() => verifyGraph({ ...g, nodes: [...g.nodes, g.nodes[0]!] }), /defined twice/)
    assert.throws(
      () => verifyGraph({ ...g, level: 'integer', nodes: [{ ...g.nodes[0]!, op: core.fakeQuant }, ...g.nodes.slice(1)] }),
      /does not exist/,
    )
    assert.throws(() => verifyGraph({ ...g, outputNames: [] }), /differ in number/)
  })
})
