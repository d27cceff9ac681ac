import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import { finetuneNetwork } from '../compile/finetuneNetwork.ts'
import { type Builder, createBuilder } from '../ir/builder.ts'
import type { Dim, Graph, Node, Value } from '../ir/graph.ts'
import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { orthogonalityDefect, spectralNorm } from '../math/linalg.ts'
import { createRandom } from '../math/random.ts'
import { reshape } from '../ops/broadcasting.ts'
import { conv, dense } from '../ops/conv.ts'
import { add, prelu, relu, sigmoid } from '../ops/elementwise.ts'
import { globalAveragePool } from '../ops/pool.ts'
import { concat, transpose } from '../ops/structure.ts'
import { balance } from '../passes/balance.ts'
import { insertQuantizers, planQuantization } from '../passes/insertQuantizers.ts'
import { calibrate } from '../quant/calibrate.ts'
import type { KernelRules } from '../quant/rules.ts'
import { freeScheme } from '../quant/spec.ts'
import type { Engine } from '../run/engine.ts'
import { evaluate, referenceEngine } from '../run/reference.ts'
import { augment } from './augment.ts'
import { course, radius, startState, type TrainingData, type TrainingOptions, type TrainingProblem, train } from './finetune.ts'
import { initializeWeights, normalizeLayers } from './initialize.ts'
import { operatorNorms } from './lipschitz.ts'
import { matrixPenalty, operatorPenalty, type PenaltyForm, penaltyForms, sumFactors } from './orthogonality.ts'
import { trainingStep } from './step.ts'
import { createTrainable, floatPlan } from './trainable.ts'

const random = createRandom(11)
const normal = (shape: readonly number[], by = 1, from = random): Tensor =>
  tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => by * from.normal()),
  )
const uniform = (shape: readonly number[]): Tensor =>
  tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: sizeOf(shape) }, () => random.uniform()),
  )

/** conv · relu · (conv + conv shortcut) · relu · pool · dense, on 1 × 6 × 6 images of 3 classes. */
function network(samples: Dim = 'N'): Graph<'float'> {
  const b = createBuilder()
  const r = createRandom(9)
  const attrs = { strides: [1, 1], pads: [1, 1, 1, 1], dilations: [1, 1], group: 1 }
  const x = b.input('x', { dtype: 'float32', shape: [samples, 1, 6, 6] })
  const layer = (v: typeof x, o: number, i: number, name: string): typeof x =>
    b.emit(conv, [v, b.constant(normal([o, i, 3, 3], 0.4, r), `${name}.w`), b.constant(normal([o], 0.1, r), `${name}.b`)], attrs, {
      outputs: [name],
    })
  const h = b.emit(relu, [layer(x, 6, 1, 'c1')], {}, { outputs: ['r1'] })
  const s = b.emit(relu, [b.emit(add, [layer(h, 6, 6, 'c2'), h], {}, { outputs: ['s'] })], {}, { outputs: ['r2'] })
  const p = b.emit(reshape, [b.emit(globalAveragePool, [s], {})], { shape: [typeof samples === 'number' ? samples : 0, 6] })
  const z = b.emit(dense, [p, b.constant(normal([3, 6], 1, r), 'd.w'), b.constant(normal([3], 0.1, r), 'd.b')], {}, { outputs: ['z'] })
  return b.build('float', [z])
}

const rules: KernelRules = {
  lowering: (n) => n.op.lower,
  tied: () => false,
  fixedGrid: () => null,
  perChannel: () => true,
  pairLimit: null,
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

const images = uniform([40, 1, 6, 6])
const pick = (indices: ArrayLike<number>): Tensor =>
  tensorOf(
    'float32',
    [indices.length, 1, 6, 6],
    Float32Array.from({ length: indices.length * 36 }, (_, i) => numbersOf(images)[indices[Math.floor(i / 36)]! * 36 + (i % 36)]!),
  )
const batches = async function* (): AsyncIterable<readonly Tensor[]> {
  yield [images]
}
const planned = async (graph: Graph<'float'>) => planQuantization(graph, spec, await calibrate(referenceEngine, graph, batches()), rules)

const unit = { scale: tensorOf('float32', [1], [1]), shift: tensorOf('float32', [1], [0]) }
const options: TrainingOptions = {
  steps: 12,
  batch: 8,
  rate: 0.02,
  warmup: 2,
  optimizer: 'adam',
  clip: null,
  labelWeight: 0.5,
  teacherWeight: 1,
  temperature: 4,
  penalty: 'orthogonal',
  convexSums: false,
  beta: 0.01,
  adversary: null,
  averaging: 0.9,
  seed: 5,
  interval: 4,
  tolerance: 0,
}
/** Classes that the images' brightness tells. */
const labels = Int32Array.from({ length: 40 }, (_, s) => {
  const mean = (numbersOf(images).slice(s * 36, s * 36 + 36) as Float32Array).reduce((p, v) => p + v, 0) / 36
  return mean < 0.47 ? 0 : mean < 0.53 ? 1 : 2
})
const data: TrainingData = { count: 40, labels, batch: async (indices) => pick(indices) }

async function problem(quantized: boolean, teacher = true): Promise<TrainingProblem> {
  const graph = network()
  const plan = quantized ? await planned(graph) : floatPlan
  return { trainable: createTrainable(graph, plan), teacher: teacher ? graph : null, data, objective: 'classify', preprocessing: unit }
}
const flatScore = { validate: async () => ({ score: 1, clean: 1, robust: null }) }

describe('a trainable network', () => {
  it('computes what the network it came from computes, in real numbers and through its quantizers', async () => {
    const graph = network()
    for (const plan of [floatPlan, await planned(graph)]) {
      const t = createTrainable(graph, plan)
      const flat = tensorOf('float32', [t.initial.length], t.initial)
      const want = numbersOf(evaluate(insertQuantizers(graph, plan).graph, [images])[0]!)
      const have = numbersOf(evaluate(t.network, [images, flat])[0]!)
      for (let i = 0; i < want.length; i++) assert.ok(Math.abs(want[i]! - have[i]!) < 1e-5)
      const back = t.restore(t.initial)
      const again = numbersOf(evaluate(insertQuantizers(back.graph, back.plan).graph, [images])[0]!)
      for (let i = 0; i < want.length; i++) assert.ok(Math.abs(want[i]! - again[i]!) < 1e-5)
    }
  })
  it('gives what was trained back as it was trained', async () => {
    const p = await problem(true)
    const state = await train(referenceEngine, p, options, flatScore)
    const { graph, plan } = p.trainable.restore(state.parameters)
    const want = numbersOf(evaluate(p.trainable.network, [images, tensorOf('float32', [state.parameters.length], state.parameters)])[0]!)
    const have = numbersOf(evaluate(insertQuantizers(graph, plan).graph, [images])[0]!)
    for (let i = 0; i < want.length; i++) assert.ok(Math.abs(want[i]! - have[i]!) < 1e-4, `${want[i]} and ${have[i]}`)
  })
  it('leaves frozen layers and bounded scales where they are', async () => {
    const graph = network()
    const plan = await planned(graph)
    const t = createTrainable(graph, plan, { frozen: (n) => n.op === dense, activationBounds: [1, 1] })
    assert.ok(!t.parameters.some((p) => p.name.startsWith('d.')))
    const state = await train(referenceEngine, { ...(await problem(true)), trainable: t }, options, flatScore)
    const { plan: after } = t.restore(state.parameters)
    for (const [name, q] of plan.grids) assert.ok(Math.abs(after.grids.get(name)!.scale[0]! / q.scale[0]! - 1) < 1e-5)
    assert.notDeepEqual(after.weights.get('c2')!.scale, plan.weights.get('c2')!.scale)
  })
  it('leaves grids that a kernel prescribes where they are, whoever shares them', async () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 3] })
    const d = b.emit(dense, [x, b.constant(normal([4, 3]), 'w'), null], {}, { outputs: ['d'] })
    const s = b.emit(sigmoid, [d], {}, { outputs: ['s'] })
    const graph = b.build('float', [b.emit(reshape, [s], { shape: [0, 2, 2] }, { outputs: ['z'] })])
    const grid = { scale: Float32Array.of(1 / 256), axis: null, lo: 0, hi: 255 }
    const plan = { ...floatPlan, grids: new Map([...['s', 'z'].map((k) => [k, grid] as const), ['d', { ...grid }]]) }
    const scales = (fixedGrid: (n: Node) => boolean): string[] =>
      createTrainable(graph, plan, { fixedGrid })
        .parameters.filter((p) => p.role === 'scale')
        .map((p) => p.name)
    assert.deepEqual(
      scales(() => false),
      ['d', 's'],
    )
    assert.deepEqual(
      scales((n) => n.op === sigmoid),
      ['d'],
    )
  })
  it('leaves numbers that a frozen layer shares where they are', () => {
    const b = createBuilder()
    const w = b.constant(normal([3, 3]), 'w')
    const x = b.input('x', { dtype: 'float32', shape: ['N', 3] })
    const first = b.emit(dense, [x, w, null], {}, { outputs: ['first'] })
    const graph = b.build('float', [b.emit(dense, [first, w, b.constant(normal([3]), 'b')], {}, { outputs: ['second'] })])
    const t = createTrainable(graph, floatPlan, { frozen: (n) => n.outputs[0]!.name === 'first' })
    assert.deepEqual(
      t.parameters.map((p) => p.name),
      [],
    )
  })
})

describe('training', () => {
  for (const optimizer of ['adam', 'sgd'] as const)
    for (const quantized of [false, true])
      it(`${optimizer} lowers the loss, ${quantized ? 'through quantizers' : 'in real numbers'}`, async () => {
        const p = await problem(quantized, false)
        const losses: number[] = []
        await train(
          referenceEngine,
          p,
          {
            ...options,
            optimizer,
            steps: 30,
            interval: 10,
            rate: optimizer === 'adam' ? 0.03 : 0.3,
            labelWeight: 1,
            teacherWeight: 0,
            beta: 0,
          },
          { ...flatScore, onState: (s) => losses.push(s.curve.at(-1)!.loss) },
        )
        assert.ok(losses[2]! < 0.95 * losses[0]!, losses.join(' '))
      })

  it('goes on from any state to the very same end', async () => {
    const whole = await train(referenceEngine, await problem(true), options, flatScore)
    for (const stop of [3, 4, 9]) {
      let kept = startState((await problem(true)).trainable, options)
      const p = await problem(true)
      let asked = 0
      await assert.rejects(
        train(referenceEngine, p, options, {
          ...flatScore,
          wantsState: () => true,
          onState: (s) => {
            kept = s
          },
          check: () => {
            if (asked++ === stop) throw new Error('killed')
          },
        }),
        /killed/,
      )
      assert.equal(kept.step, stop)
      const resumed = await train(referenceEngine, await problem(true), options, flatScore, structuredClone(kept))
      assert.deepEqual(resumed, whole)
    }
  })
  it('the same seed gives the same numbers, another seed others', async () => {
    const run = async (seed: number) =>
      (await train(referenceEngine, await problem(true), { ...options, seed, steps: 4 }, flatScore)).parameters
    assert.deepEqual(await run(1), await run(1))
    assert.notDeepEqual(await run(1), await run(2))
  })
  it('notices divergence and keeps the best state', async () => {
    const broken = {
      ...(await problem(false)),
      data: {
        ...data,
        batch: async () => tensorOf('float32', [8, 1, 6, 6], new Float32Array(288).fill(Number.NaN)),
      },
    }
    const state = await train(referenceEngine, broken, options, flatScore)
    assert.match(state.diverged!, /step 1/)
    let n = 0
    const falling = await train(referenceEngine, await problem(false), options, {
      validate: async () => ({ score: [1, 0.1, 0.1][n++]!, clean: 0, robust: null }),
    })
    assert.match(falling.diverged!, /fell from/)
    assert.equal(falling.best!.step, 4)
  })
  it('scores below zero that rise are no collapse, and one that spans an interruption is noticed', async () => {
    const scored = (scores: readonly number[]) => {
      let n = 0
      return async () => ({ score: scores[n++]!, clean: 0, robust: null })
    }
    const rising = await train(referenceEngine, await problem(false), options, { validate: scored([-3, -2.5, -2]) })
    assert.equal(rising.diverged, null)
    let kept = startState((await problem(false)).trainable, options)
    await assert.rejects(
      train(referenceEngine, await problem(false), options, {
        validate: scored([1, 0.1]),
        onState: (s) => {
          kept = s
        },
        check: () => {
          if (kept.curve.length === 2) throw new Error('killed')
        },
      }),
      /killed/,
    )
    const resumed = await train(referenceEngine, await problem(false), options, { validate: scored([0.1]) }, kept)
    assert.match(resumed.diverged!, /fell from 1.00 to 0.100/)
  })
  it('perturbs a share of the samples inside the ball', async () => {
    const p = await problem(true)
    const o: TrainingOptions = { ...options, steps: 3, adversary: { epsilon: 0.1, steps: 2, share: 0.5, ramp: 0.5 } }
    const plain = await train(referenceEngine, p, { ...o, adversary: null }, flatScore)
    const robust = await train(referenceEngine, p, o, flatScore)
    assert.ok(robust.curve.at(-1)!.loss > plain.curve.at(-1)!.loss, 'adversaries raise the loss')
    assert.deepEqual(
      [0, 1, 2].map((s) => radius(s, { steps: 4 }, o.adversary!)),
      [0.05, 0.1, 0.1],
    )
  })
  it('perturbs the same share of a batch that the network fixes', async () => {
    const o: TrainingOptions = { ...options, steps: 3, adversary: { epsilon: 0.1, steps: 2, share: 0.5, ramp: 0.5 } }
    const at = async (samples: Dim): Promise<Float32Array> => {
      const graph = network(samples)
      const p = { trainable: createTrainable(graph, floatPlan), teacher: graph, data, objective: 'classify', preprocessing: unit } as const
      return (await train(referenceEngine, p, o, flatScore)).parameters
    }
    assert.deepEqual(await at(o.batch), await at('N'))
  })
  it('the penalty is not scaled away by the optimizer', async () => {
    const penalty = async (beta: number): Promise<number> =>
      (await train(referenceEngine, await problem(false), { ...options, beta }, flatScore)).curve.at(-1)!.penalty
    const [small, large] = [await penalty(0.01), await penalty(1)]
    assert.ok(large < 0.8 * small, `${large} beside ${small}`)
  })
  it('convex sums: only layers behind sums are held to less, and training takes them there', async () => {
    const norm = async (convexSums: boolean): Promise<number> => {
      const p = await problem(false)
      const state = await train(referenceEngine, p, { ...options, convexSums, steps: 60, beta: 20 }, flatScore)
      const d = p.trainable.parameters.find((q) => q.name === 'd.w')!
      return spectralNorm(state.parameters.slice(d.offset, d.offset + d.size), 3, 6)
    }
    const [plain, convex] = [await norm(false), await norm(true)]
    assert.ok(Math.abs(plain - 1) < 0.1 && Math.abs(convex - 0.5) < 0.1, `${plain} and ${convex}`)
  })
  it('lets go of what it loaded when a later load fails', async () => {
    let held = 0
    const engine: Engine = {
      ...referenceEngine,
      load: async (graph) => {
        if (held === 2) throw new Error('out of memory')
        const model = await referenceEngine.load(graph)
        held++
        return Object.assign((fed: readonly Tensor[]) => model(fed), {
          release: async () => {
            held--
            await model.release()
          },
        })
      },
    }
    const graph = network()
    const evaluation = {
      samples: 8,
      labels: labels.slice(0, 8),
      pixels: async (from: number, to: number) => pick([...Array(to).keys()].slice(from)),
    }
    const validation = { evaluation, batch: 8, channelsLast: false, epsilon: 0.1, steps: 1, square: null }
    const whole = { graph, plan: null, teacher: graph, data, objective: 'classify', preprocessing: unit } as const
    await assert.rejects(finetuneNetwork(engine, whole, { ...options, validation }), /out of memory/)
    assert.equal(held, 0)
  })
  it('warms up, then falls as a cosine', () => {
    const o = { steps: 100, warmup: 10 }
    assert.equal(course(0, o), 0.1)
    assert.equal(course(10, o), 1)
    assert.ok(Math.abs(course(55, o) - 0.5) < 1e-12)
    assert.ok(course(99, o) < 0.001)
  })
})

describe('Lipschitz penalties', () => {
  const shapes: { name: string; w: readonly number[]; group: number }[] = [
    { name: 'more inputs than channels', w: [4, 2, 3, 3], group: 1 },
    { name: 'more channels than inputs', w: [12, 1, 2, 2], group: 1 },
    { name: 'groups', w: [4, 1, 3, 3], group: 2 },
  ]
  const build = (w: readonly number[], group: number, form: PenaltyForm) => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: [1, w[1]! * group, 5, 5] })
    const weight = b.constant(normal(w, 0.5), 'w')
    b.emit(conv, [x, weight], { strides: [1, 1], pads: [1, 1, 1, 1], dilations: [1, 1], group })
    const node = b.nodes[0]!
    const c = createBuilder()
    const v = c.input('w', { dtype: 'float32', shape: w })
    const u = normal([1, w[1]! * group, 5, 5], 0.2)
    const { value, gradient } = form === 'operator' ? operatorPenalty(c, node, v, c.constant(u)) : matrixPenalty(c, node, v, form)
    return { graph: c.build('qdq', [value, gradient]), weight: weight.data! }
  }
  for (const form of penaltyForms)
    for (const { name, w, group } of shapes)
      it(`${form}, ${name}: the gradient is that of the value`, () => {
        const { graph, weight } = build(w, group, form)
        const at = (t: Tensor): Tensor[] => evaluate(graph, [t])
        const g = numbersOf(at(weight)[1]!)
        const v = numbersOf(weight) as Float32Array
        for (let i = 0; i < v.length; i += 5) {
          const h = 1e-2
          const moved = (by: number): number =>
            numbersOf(
              at(
                tensorOf(
                  'float32',
                  w,
                  v.map((x, k) => (k === i ? x + by : x)),
                ),
              )[0]!,
            )[0]!
          const slope = (moved(h) - moved(-h)) / (2 * h)
          assert.ok(Math.abs(slope - g[i]!) < 0.02 * Math.max(1, Math.abs(slope)), `${slope} and ${g[i]}`)
        }
      })
  it('directions of the operator penalty shrink with the places that a layer reads, whichever axis counts channels', () => {
    const drawn = (shape: readonly number[], layer: (b: Builder, x: Value) => Value): number => {
      const b = createBuilder()
      const z = layer(b, b.input('x', { dtype: 'float32', shape: ['N', ...shape] }))
      const t = createTrainable(b.build('float', [z]), floatPlan)
      const o = { ...options, objective: 'deviate', preprocessing: unit, labelled: false, penalty: 'operator' } as const
      const step = trainingStep(t, t.source, o)
      const now = { pixels: images, labels: null, attack: null, rate: 1, push: 1, t: 1, random: createRandom(3) }
      const u = numbersOf(step.feed(images, [], now).at(-1)!) as Float32Array
      assert.equal(u.length, sizeOf(shape))
      return u.reduce((s, v) => s + v * v, 0) / u.length
    }
    const full = (b: Builder, x: Value): Value => b.emit(dense, [x, b.constant(normal([64, 64]), 'w'), null], {})
    const attrs = { strides: [1, 1], pads: [1, 1, 1, 1], dilations: [1, 1], group: 1 }
    const windows = (b: Builder, x: Value): Value => b.emit(conv, [x, b.constant(normal([2, 8, 3, 3]), 'w')], attrs)
    for (const [have, places] of [
      [drawn([64], full), 1],
      [drawn([16, 64], full), 16],
      [drawn([8, 6, 6], windows), 36],
    ] as const)
      assert.ok(Math.abs(have * places - 1) < 0.4, `${have} for ${places} places`)
  })
  it('orthogonal weights cost nothing; the hinge forgives small ones', () => {
    const { graph } = build([4, 2, 3, 3], 1, 'hinge')
    const tiny = tensorOf('float32', [4, 2, 3, 3], new Float32Array(72).fill(0.01))
    assert.ok(numbersOf(evaluate(graph, [tiny])[0]!)[0]! < 1e-6)
    const { graph: full } = build([4, 2, 3, 3], 1, 'orthogonal')
    assert.ok(numbersOf(evaluate(full, [tiny])[0]!)[0]! > 1.9)
  })
  it('the norm of a convolution is that of its operator matrix', async () => {
    const g = network()
    const [first] = g.nodes
    const norms = await operatorNorms(referenceEngine, g, unit.scale, null)
    // Column by column: the operator applied to every unit vector.
    const w = first!.inputs[1]!.data!
    const columns = Array.from({ length: 36 }, (_, k) => {
      const e = tensorOf(
        'float32',
        [1, 1, 6, 6],
        Float32Array.from({ length: 36 }, (_, i) => (i === k ? 1 : 0)),
      )
      return numbersOf(conv.eval([e, w], first!.attrs)[0]!)
    })
    const rows = columns[0]!.length
    const matrix = Float64Array.from({ length: rows * 36 }, (_, i) => columns[i % 36]![Math.floor(i / 36)]!)
    const want = spectralNorm(matrix, rows, 36, 500)
    assert.ok(Math.abs(norms.get('c1')! - want) < 0.02 * want, `${norms.get('c1')} and ${want}`)
    const scaled = await operatorNorms(referenceEngine, g, tensorOf('float32', [1], [255]), null)
    assert.ok(Math.abs(scaled.get('c1')! - 255 * norms.get('c1')!) < 1, 'on pixels')
  })
})

describe('factors of convex sums', () => {
  type Draw = (b: Builder, layer: (v: Value, wide?: number, high?: number) => Value, x: Value) => Value
  const factors = (draw: Draw): number[] => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 4] })
    const layer = (v: Value, wide = 4, high = 4): Value =>
      b.emit(dense, [v, b.constant(normal([high, wide])), b.constant(normal([high]))], {})
    return [...sumFactors(b.build('float', [draw(b, layer, x)])).values()]
  }
  it('a chain of layers has none', () => {
    assert.deepEqual(
      factors((b, layer, x) => layer(b.emit(relu, [layer(x)], {}))),
      [],
    )
  })
  it('each sum of two equals doubles', () => {
    assert.deepEqual([...sumFactors(network()).values()], [2])
    const twice = factors((b, layer, x) => {
      const h = b.emit(add, [layer(x), x], {})
      return layer(b.emit(relu, [b.emit(add, [layer(h), h], {})], {}))
    })
    assert.deepEqual(twice, [4])
  })
  it('what stands side by side adds its squares', () => {
    const [f] = factors((b, layer, x) => layer(b.emit(concat, [layer(x), x], { axis: 1 }), 8))
    assert.ok(Math.abs(f! - Math.SQRT2) < 1e-12)
  })
  it('a sum behind the last layers counts for each of them', () => {
    const heads = factors((b, layer, x) => {
      const h = b.emit(add, [layer(x), x], {})
      return b.emit(add, [layer(h), layer(h)], {})
    })
    assert.deepEqual(heads, [4, 4])
  })
})

describe('balance', () => {
  it('keeps the function and evens the norms', async () => {
    const g = network()
    const balanced = balance(1).run(g)
    const [p, q] = [numbersOf(evaluate(g, [images])[0]!), numbersOf(evaluate(balanced, [images])[0]!)]
    for (let i = 0; i < p.length; i++) assert.ok(Math.abs(p[i]! - q[i]!) < 1e-4)
    const spread = (graph: Graph<'float'>): number => {
      const s = graph.nodes
        .filter((n) => n.op.weights)
        .map((n) => {
          const w = n.inputs[1]!.data!
          return Math.log(spectralNorm(numbersOf(w), w.shape[0]!, sizeOf(w.shape) / w.shape[0]!))
        })
      const mean = s.reduce((a, v) => a + v, 0) / s.length
      return s.reduce((a, v) => a + (v - mean) ** 2, 0)
    }
    assert.ok(spread(balanced) < spread(g))
  })

  it('leaves what a computed slope multiplies as it is', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['N', 3] })
    const layer = (v: Value, by: number): Value => b.emit(dense, [v, b.constant(normal([3, 3], by), 'w'), null], {})
    const g = b.build('float', [layer(b.emit(prelu, [layer(x, 4), layer(x, 0.2)], {}), 1)])
    const fed = [normal([5, 3])]
    const [p, q] = [numbersOf(evaluate(g, fed)[0]!), numbersOf(evaluate(balance(1).run(g), fed)[0]!)]
    for (let i = 0; i < p.length; i++) assert.ok(Math.abs(p[i]! - q[i]!) < 1e-4 * Math.max(1, Math.abs(p[i]!)))
  })

  it('knows what the input is multiplied by behind ops that only move it, and leaves frozen layers alone', () => {
    const chain = (moved: boolean): Graph<'float'> => {
      const b = createBuilder()
      const r = createRandom(3)
      const x = b.input('x', { dtype: 'float32', shape: moved ? ['N', 3, 2] : ['N', 2, 3] })
      const h = moved ? b.emit(transpose, [x], { perm: [0, 2, 1] }) : x
      const first = b.emit(dense, [h, b.constant(normal([4, 3], 1, r)), null], {}, { outputs: ['first'] })
      return b.build('float', [b.emit(dense, [b.emit(relu, [first], {}), b.constant(normal([2, 4], 1, r)), null], {})])
    }
    const weights = (g: Graph): number[][] =>
      g.nodes.filter((n) => n.op.weights).map((n) => Array.from(numbersOf(n.inputs[1]!.data!) as Float32Array))
    assert.deepEqual(weights(balance(255).run(chain(true))), weights(balance(255).run(chain(false))))
    assert.notDeepEqual(weights(balance(255).run(chain(true))), weights(balance(1).run(chain(true))))
    assert.deepEqual(weights(balance(255, (n) => n.outputs[0]!.name === 'first').run(chain(false))), weights(chain(false)))
  })
})

describe('initial weights', () => {
  it('have orthogonal rows, and zero biases', () => {
    const g = initializeWeights(network(), createRandom(1))
    for (const n of g.nodes) {
      if (!n.op.weights) continue
      const w = n.inputs[1]!.data!
      const [rows, cols] = [w.shape[0]!, sizeOf(w.shape) / w.shape[0]!]
      const v = Float64Array.from(numbersOf(w) as Float32Array)
      const flipped = rows <= cols ? v : Float64Array.from({ length: v.length }, (_, i) => v[(i % rows) * cols + Math.floor(i / rows)]!)
      assert.ok(orthogonalityDefect(flipped, Math.min(rows, cols), Math.max(rows, cols)) < 1e-5)
      assert.ok((numbersOf(n.inputs[2]!.data!) as Float32Array).every((x) => x === 0))
    }
  })

  it('are not given to frozen layers', async () => {
    const g = network()
    const frozen = (n: Node): boolean => n.outputs[0]!.name === 'c2'
    const fresh = await normalizeLayers(referenceEngine, initializeWeights(g, createRandom(1), frozen), [images], frozen)
    g.nodes.forEach((n, i) => {
      if (n.op.weights) assert.equal(isDeepStrictEqual(fresh.nodes[i]!.inputs[1]!.data, n.inputs[1]!.data), frozen(n), n.outputs[0]!.name)
    })
  })
})

describe('layer-sequential unit variance', () => {
  it('gives every layer results of unit deviation', async () => {
    const g = await normalizeLayers(referenceEngine, initializeWeights(network(), createRandom(1)), [images])
    for (const n of g.nodes) {
      if (!n.op.weights) continue
      const y = numbersOf(evaluate({ ...g, outputs: [n.outputs[0]!] }, [images])[0]!) as Float32Array
      const mean = y.reduce((s, v) => s + v, 0) / y.length
      assert.ok(Math.abs(Math.sqrt(y.reduce((s, v) => s + (v - mean) ** 2, 0) / y.length) - 1) < 1e-3)
    }
  })
})

describe('augmentation', () => {
  it('moves and mirrors images in either layout alike', () => {
    const [N, C, H, W] = [6, 2, 5, 4]
    const nchw = uniform([N, C, H, W])
    const turn = (t: Tensor): Tensor =>
      tensorOf(
        'float32',
        [N, H, W, C],
        Float32Array.from({ length: N * C * H * W }, (_, i) => {
          const [n, y, x, c] = [Math.floor(i / (H * W * C)), Math.floor(i / (W * C)) % H, Math.floor(i / C) % W, i % C]
          return numbersOf(t)[((n * C + c) * H + y) * W + x]!
        }),
      )
    const a = { flip: true, shift: 2 }
    assert.deepEqual(turn(augment(nchw, false, a, createRandom(3))).data, augment(turn(nchw), true, a, createRandom(3)).data)
    assert.notDeepEqual(augment(nchw, false, a, createRandom(3)).data, nchw.data)
  })

  it('fills what a shift uncovers with the border', () => {
    // One row, rising from left to right: any shift of it keeps rising, and stays within its ends.
    const W = 8
    const row = tensorOf(
      'float32',
      [1, 1, 1, W],
      Float32Array.from({ length: W }, (_, i) => i + 1),
    )
    for (let seed = 0; seed < 20; seed++) {
      const moved = [...numbersOf(augment(row, false, { flip: false, shift: 3 }, createRandom(seed)))]
      const by = moved[W / 2]! - (W / 2 + 1)
      assert.deepEqual(
        moved,
        moved.map((_, x) => Math.min(Math.max(x + by, 0), W - 1) + 1),
      )
    }
  })
})
