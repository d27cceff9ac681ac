import assert from 'node:assert/strict'
import { after, describe, it } from 'node:test'
import * as core from '@dqc/core'
import { CompileError, createBuilder, createRandom, evaluate, type Graph, isConstant, numbersOf, prepare, tensorOf } from '@dqc/core'
import { decode, encode } from './format/flatbuffer.ts'
import { mapEdgeTpu, parseModel, readModel, writeModel } from './index.ts'
import { createLiteRt } from './litert/index.ts'
import { checkConstraints } from './write/constraints.ts'

const litert = createLiteRt()
after(() => litert.close())

const random = createRandom(5)
const normal = (shape: readonly number[], k = 0.3): core.Tensor =>
  tensorOf(
    'float32',
    shape,
    Float32Array.from({ length: core.sizeOf(shape) }, () => k * random.normal()),
  )
const win = (strides: number[], pads: number[], dilations = [1, 1]) => ({ strides, pads, dilations })

/** A network of one op on an image (or on rows), for the writer, the reader and the runtime. */
function single(op: core.Op, attrs: object, constants: core.Tensor[] = [], shape: number[] = [1, 4, 6, 5]): Graph<'float'> {
  const b = createBuilder()
  const x = b.input('x', { dtype: 'float32', shape })
  return b.build('float', [b.emit(op, [x, ...constants.map((t) => b.constant(t, 'c'))], attrs)])
}

const cases: [string, Graph<'float'>][] = [
  ['convolution, same', single(core.conv, { ...win([1, 1], [1, 1, 1, 1]), group: 1 }, [normal([3, 4, 3, 3]), normal([3])])],
  [
    'convolution, symmetric pads with a stride',
    single(core.conv, { ...win([2, 2], [1, 1, 1, 1]), group: 1 }, [normal([3, 4, 3, 3]), normal([3])]),
  ],
  ['convolution, dilated', single(core.conv, { ...win([1, 1], [0, 0, 0, 0], [2, 2]), group: 1 }, [normal([3, 4, 2, 2]), normal([3])])],
  ['convolution, depthwise', single(core.conv, { ...win([1, 1], [1, 1, 1, 1]), group: 4 }, [normal([8, 1, 3, 3]), normal([8])])],
  ['convolution, grouped', single(core.conv, { ...win([1, 1], [1, 1, 1, 1]), group: 2 }, [normal([6, 2, 3, 3]), normal([6])])],
  [
    'convolution, transposed',
    single(core.convTranspose, { ...win([2, 2], [0, 0, 0, 0]), group: 1, outputPadding: [0, 0] }, [normal([4, 3, 2, 2]), normal([3])]),
  ],
  [
    'convolution, transposed, with pads of PyTorch',
    single(core.convTranspose, { ...win([2, 2], [1, 1, 1, 1]), group: 1, outputPadding: [1, 1] }, [normal([4, 3, 3, 3]), normal([3])]),
  ],
  ['dense', single(core.dense, {}, [normal([3, 5]), normal([3])], [1, 5])],
  ['dense on more axes', single(core.dense, {}, [normal([3, 5]), normal([3])], [1, 2, 5])],
  ['maximum pool, padded', single(core.maxPool, { ...win([2, 2], [1, 1, 1, 1]), kernel: [3, 3], ceil: false })],
  ['average pool', single(core.averagePool, { ...win([2, 2], [0, 0, 0, 0]), kernel: [2, 2], ceil: false, countIncludePad: false })],
  [
    'average pool that counts its pads',
    single(core.averagePool, { ...win([1, 1], [1, 1, 1, 1]), kernel: [3, 3], ceil: false, countIncludePad: true }),
  ],
  [
    'average pool that rounds its size up, with nothing left over',
    single(core.averagePool, { ...win([1, 1], [1, 1, 1, 1]), kernel: [3, 3], ceil: true, countIncludePad: true }),
  ],
  ['global average pool', single(core.globalAveragePool, {})],
  ['global average pool of a sequence', single(core.globalAveragePool, {}, [], [1, 4, 6])],
  ['global maximum pool of a sequence', single(core.globalMaxPool, {}, [], [1, 4, 6])],
  ['softmax over channels', single(core.softmax, { axis: 1 })],
  ['sum with a constant per channel', single(core.add, {}, [normal([4, 1, 1])])],
  ['clip', single(core.clip, { min: -0.5, max: 0.7 })],
  ['remainder', single(core.mod, {}, [normal([4, 1, 1])])],
  ['ReLU6', single(core.clip, { min: 0, max: 6 })],
  ['hard sigmoid', single(core.hardSigmoid, { alpha: 0.2, beta: 0.5 })],
  ['HardSwish', single(core.hardSwish, {})],
  ['SiLU', single(core.silu, { alpha: 1 })],
  ['PReLU', single(core.prelu, {}, [normal([4, 1, 1])])],
  ['tanh', single(core.tanh, {})],
  ['constant padding', single(core.pad, { pads: [0, 0, 1, 2, 0, 0, 0, 1], mode: 'constant', value: 0 })],
  ['slice', single(core.slice, { axes: [1, 3], starts: [1, 0], ends: [3, 4], steps: [1, 1] })],
  ['slice of the first row of several', single(core.slice, { axes: [0], starts: [0], ends: [1], steps: [1] }, [], [3, 4])],
  ['gather from the end', single(core.gather, { axis: 1 }, [tensorOf('int64', [2], [-1, 0])], [1, 5])],
  ['transpose', single(core.transpose, { perm: [0, 2, 1, 3] })],
  ['reshape of an image', single(core.reshape, { shape: [1, 20, 6] })],
  ['mean over one axis', single(core.reduceMean, { axes: [2], keepDims: false })],
  [
    'nearest resize',
    single(core.resize, {
      sizes: [null, null, 12, 10],
      scales: [1, 1, 2, 2],
      mode: 'nearest',
      coordinates: 'asymmetric',
      nearest: 'floor',
      cubicA: -0.75,
      excludeOutside: false,
    }),
  ],
  ['space to depth', single(core.spaceToDepth, { block: 2 }, [], [1, 4, 6, 4])],
  ['depth to space', single(core.depthToSpace, { block: 2, mode: 'DCR' })],
]

const near = (a: core.Tensor, b: core.Tensor): void => {
  assert.deepEqual(a.shape, b.shape)
  const [p, q] = [numbersOf(a), numbersOf(b)]
  let top = 1e-3
  for (let i = 0; i < q.length; i++) top = Math.max(top, Math.abs(q[i]!))
  for (let i = 0; i < q.length; i++) assert.ok(Math.abs(p[i]! - q[i]!) <= 1e-5 * top, `${p[i]} for ${q[i]}`)
}

describe('TFLite', () => {
  for (const [name, graph] of cases)
    it(`${name}: written, run by LiteRT, and read again, it is the same function`, async () => {
      const x = normal(graph.inputs[0]!.shape as number[], 2)
      const want = evaluate(graph, [x])[0]!
      const { bytes, channelsLast } = writeModel(graph)
      const model = await litert.loadBytes(bytes, 'real', channelsLast)
      near((await model([x]))[0]!, want)
      await model.release()
      const back = readModel(bytes)
      assert.equal(back.level, 'float')
      const turn = (t: core.Tensor, file: readonly number[], as: core.Value): core.Tensor =>
        t.shape.length === 4 && String(as.shape) !== String(t.shape) ? core.transpose.eval([t], { perm: [...file] })[0]! : t
      const fed = turn(x, [0, 2, 3, 1], back.inputs[0]!)
      const y = evaluate(back, [fed])[0]!
      near(String(y.shape) === String(want.shape) ? y : core.transpose.eval([y], { perm: [0, 3, 1, 2] })[0]!, want)
    })

  it('an open batch that is merged with other axes comes apart again', () => {
    const b = createBuilder()
    const rows = b.emit(core.reshape, [b.input('x', { dtype: 'float32', shape: ['N', 6, 8] })], { shape: [-1, 8] })
    const y = b.emit(core.dense, [rows, b.constant(normal([5, 8])), null], {})
    const graph = b.build('float', [b.emit(core.reshape, [y], { shape: [-1, 6, 5] })])
    const back = readModel(writeModel(graph).bytes)
    const x = normal([2, 6, 8])
    near(evaluate(back, [x])[0]!, evaluate(graph, [x])[0]!)
  })

  it('an input of integers before a network of real numbers is read as what they stand for', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'int32', shape: [1, 8] }, { scale: Float32Array.of(0.5), axis: null, lo: -128, hi: 127 })
    const real = b.emit(core.dequantize, [x], { scale: 0.5 })
    const graph = b.build('integer', [b.emit(core.dense, [real, b.constant(normal([5, 8])), null], {})])
    const back = readModel(writeModel(graph).bytes)
    assert.equal(back.level, 'qdq')
    const steps = tensorOf('int32', [1, 8], [-128, -3, -1, 0, 1, 2, 50, 127])
    const reals = tensorOf(
      'float32',
      [1, 8],
      Float32Array.from(steps.data as Int32Array, (v) => v / 2),
    )
    near(evaluate(back, [reals])[0]!, evaluate(graph, [steps])[0]!)
  })

  it('a flattened image and its dense layer need no transpose, in either direction', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: [1, 3, 4, 5] })
    const c = b.emit(core.conv, [x, b.constant(normal([2, 3, 1, 1])), null], { ...win([1, 1], [0, 0, 0, 0]), group: 1 })
    const flat = b.emit(core.reshape, [c], { shape: [0, -1] })
    const graph = b.build('float', [b.emit(core.dense, [flat, b.constant(normal([3, 40])), null], {})])
    const { bytes } = writeModel(graph)
    const { model, graph: file } = parseModel(bytes)
    assert.deepEqual(
      file.operators.map((o) => model.operatorCodes![o.opcodeIndex!]!.builtinCode),
      [3, 22, 9],
    )
    const back = prepare(readModel(bytes) as Graph<'float'>)
    assert.ok(!back.nodes.some((n) => n.op === core.transpose))
    const t = normal([1, 3, 4, 5])
    near(evaluate(back, [t])[0]!, evaluate(graph, [t])[0]!)
  })

  it('buffers are aligned for runtimes that read weights in place', () => {
    const { bytes } = writeModel(cases[0]![1])
    const { model } = parseModel(bytes)
    for (const { data } of model.buffers ?? []) if (data?.length) assert.equal((data.byteOffset - bytes.byteOffset) % 16, 0)
    assert.deepEqual(decode(encode(model, 'Model', 'TFL3'), 'Model', 'TFL3'), model)
  })

  it('of 1,000 damaged files each is refused with an error, or read', () => {
    const { bytes } = writeModel(cases[3]![1])
    const counts = { read: 0, refused: 0 }
    for (let k = 0; k < 1000; k++) {
      const damaged = bytes.slice(0, k % 3 === 0 ? random.int(bytes.length) : bytes.length)
      for (let i = 0; i < 1 + random.int(6); i++) if (damaged.length) damaged[random.int(damaged.length)] = random.int(256)
      try {
        readModel(damaged)
        counts.read++
      } catch (e) {
        assert.ok(e instanceof CompileError, `corruption ${k}: ${(e as Error).stack}`)
        counts.refused++
      }
    }
    assert.equal(counts.read + counts.refused, 1000)
    assert.ok(counts.refused > 300)
    assert.ok(process.memoryUsage().rss < 2 ** 30)
  })

  it('a cast without options goes by the type of its tensor', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: [1, 4] })
    const whole = b.emit(core.cast, [x], { to: 'int32' })
    const { model } = parseModel(writeModel(b.build('float', [b.emit(core.cast, [whole], { to: 'float32' })])).bytes)
    const [file] = model.subgraphs!
    const operators = file!.operators!.map(({ builtinOptions: _, builtinOptionsType: __, ...o }) => o)
    const back = readModel(encode({ ...model, subgraphs: [{ ...file!, operators }] }, 'Model', 'TFL3')) as Graph<'float'>
    assert.deepEqual([...numbersOf(evaluate(back, [tensorOf('float32', [1, 4], [-1.5, -0.5, 0.5, 1.5])])[0]!)], [-1, 0, 0, 1])
  })

  it('a reshape between two grids, which the runtime would silently run wrong, is refused', () => {
    const { model } = parseModel(writeModel(single(core.reshape, { shape: [1, 120] })).bytes)
    const file = model.subgraphs![0]!
    const onGrids = (scaleIn: number, scaleOut: number) => {
      const scales = new Map([
        [file.inputs![0]!, scaleIn],
        [file.outputs![0]!, scaleOut],
      ])
      const quantization = (i: number) => ({ scale: Float32Array.of(scales.get(i)!), zeroPoint: BigInt64Array.of(0n) })
      const tensors = file.tensors!.map((t, i) => (scales.has(i) ? { ...t, quantization: quantization(i) } : t))
      return { ...model, subgraphs: [{ ...file, tensors }] }
    }
    checkConstraints(onGrids(0.5, 0.5))
    assert.throws(() => checkConstraints(onGrids(0.5, 0.25)), /different grids/)
  })

  it('the runtime’s silent failures become errors', async () => {
    const { bytes } = writeModel(single(core.softmax, { axis: 1 }, [], [1, 4]))
    const { model } = parseModel(bytes)
    const codes = model.operatorCodes!.map((c) => ({ ...c, builtinCode: 32, deprecatedBuiltinCode: 32, customCode: 'nobody' }))
    await assert.rejects(async () => {
      const loaded = await litert.loadBytes(encode({ ...model, operatorCodes: codes }, 'Model', 'TFL3'))
      await loaded([normal([1, 4])])
    }, CompileError)
  })

  it('the Edge TPU’s rules name what runs on the CPU, and the remedy', () => {
    const b = createBuilder()
    const x = b.input('x', { dtype: 'float32', shape: ['batch', 4, 4, 4] })
    const h = b.emit(core.hardSwish, [x], {})
    const five = b.emit(core.reshape, [h], { shape: [0, 2, 2, 4, 4] })
    const graph = b.build('float', [b.emit(core.relu, [five], {})])
    const found = mapEdgeTpu(parseModel(writeModel(graph).bytes))
    assert.ok(found.every((f) => f.place === 'cpu' && f.reason))
    assert.match(found.find((f) => f.op === 'HARD_SWISH')!.remedy!, /ReLU6/)
    const shaped = mapEdgeTpu(parseModel(writeModel(graph, { batch: 1 }).bytes))
    assert.match(found.find((f) => f.op === 'RESHAPE' || f.op === 'RELU')!.reason!, /open shape|behind/)
    assert.ok(shaped.every((f) => !/open shape/.test(f.reason ?? '')))
  })

  it('constants keep their numbers through half precision weights', () => {
    const { bytes } = writeModel(cases[0]![1], { floatWeights: 'float16' })
    const graph = prepare(readModel(bytes) as Graph<'float'>)
    assert.ok(graph.nodes.every((n) => n.inputs.slice(1).every((v) => isConstant(v))))
  })
})
