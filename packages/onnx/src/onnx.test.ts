import assert from 'node:assert/strict'
import { after, describe, it } from 'node:test'
import {
  createBuilder,
  type DType,
  evaluate,
  type Graph,
  lower,
  mod,
  mul,
  numbersOf,
  prepare,
  removeQuantizers,
  type Tensor,
  tensorOf,
} from '@dqc/core'
import { createOnnxEngine } from './engine/index.ts'
import { type AttributeProto, AttributeType, encodeModel, type ModelProto, type NodeProto, type TensorProto } from './proto/messages.ts'
import { codeOf, int4Tensor, writeTensor } from './proto/tensors.ts'
import { inlineFunctions } from './read/functions.ts'
import { modelToGraph, modelToRealGraph } from './read/read.ts'
import { float, int, ints, string } from './spelling/spelling.ts'
import { ortTarget } from './targets/ort.ts'
import { writeModel } from './write/write.ts'

const engine = createOnnxEngine({ threads: 1 })
after(() => engine.close())

interface File {
  readonly nodes: readonly NodeProto[]
  readonly opset?: number
  readonly inputs?: Readonly<Record<string, readonly [DType, readonly (number | string)[]]>>
  readonly constants?: readonly TensorProto[]
  readonly output?: DType
  readonly microsoft?: boolean
}

/** A file whose last node makes y. */
const file = ({ nodes, opset = 18, inputs = {}, constants = [], output = 'float32', microsoft = false }: File): ModelProto => ({
  irVersion: opset >= 21 ? 10 : 8,
  opsetImport: [{ domain: '', version: opset }, ...(microsoft ? [{ domain: 'com.microsoft', version: 1 }] : [])],
  graph: {
    name: 'test',
    node: [...nodes],
    initializer: [...constants],
    input: Object.entries(inputs).map(([name, [dtype, dims]]) => ({
      name,
      type: {
        tensorType: {
          elemType: codeOf(dtype),
          shape: { dim: dims.map((d) => (typeof d === 'number' ? { dimValue: d } : { dimParam: d })) },
        },
      },
    })),
    output: [{ name: 'y', type: { tensorType: { elemType: codeOf(output) } } }],
  },
})
const node = (
  opType: string,
  input: readonly string[],
  output: readonly string[],
  attribute: AttributeProto[] = [],
  domain = '',
): NodeProto => ({
  opType,
  name: `${opType} ${output[0]}`,
  input: [...input],
  output: [...output],
  attribute,
  domain,
})
const constant = (name: string, dtype: DType, shape: readonly number[], values: readonly number[]): TensorProto =>
  writeTensor(name, tensorOf(dtype, shape, values))
const floats = (shape: readonly number[], values: readonly number[]): Tensor => tensorOf('float32', shape, values)

const list = (t: Tensor | undefined): number[] => Array.from(numbersOf(t!) as Float32Array)
const byFile = async (m: ModelProto, inputs: readonly Tensor[]): Promise<Tensor> => {
  const model = await engine.loadBytes(encodeModel(m), 'as written')
  const [y] = await model(inputs)
  await model.release()
  return y!
}
const byEngine = async (g: Graph, inputs: readonly Tensor[]): Promise<Tensor> => {
  const model = await engine.load(g)
  const [y] = await model(inputs)
  await model.release()
  return y!
}
const close = (have: readonly number[], want: readonly number[]): void => {
  assert.equal(have.length, want.length)
  have.forEach((v, i) => assert.ok(Math.abs(v - want[i]!) <= 1e-5 * Math.max(1, Math.abs(want[i]!)), `${have} for ${want}`))
}

/** What the file computes is what its graph computes, in the reference and as dqc writes it again. */
async function same(m: ModelProto, ...inputs: readonly Tensor[]): Promise<void> {
  const want = await byFile(m, inputs)
  const graph = modelToGraph(m)
  assert.ok(!graph.nodes.some((n) => n.op.name === 'foreign'))
  for (const have of [evaluate(graph, inputs)[0]!, await byEngine(graph, inputs)]) {
    assert.deepEqual(have.shape, want.shape)
    close(list(have), list(want))
  }
}

describe('what files of real numbers say', () => {
  const row = floats([1, 5], [1, 2, 3, 4, 5])
  it('slices to the largest integer there is are open', async () => {
    const ends = constant('e', 'int64', [1], [2 ** 63])
    assert.equal(ends.rawData && new DataView(ends.rawData.buffer, ends.rawData.byteOffset).getBigInt64(0, true), 2n ** 63n - 1n)
    const consts = [constant('s', 'int64', [1], [1]), ends, constant('a', 'int64', [1], [1])]
    await same(file({ nodes: [node('Slice', ['x', 's', 'e', 'a'], ['y'])], inputs: { x: ['float32', [1, 5]] }, constants: consts }), row)
  })

  for (const fmod of [0, 1])
    it(`remainders with the sign of the ${fmod ? 'dividend' : 'divisor'}`, async () => {
      const [dtype, x, y] = fmod
        ? (['float32', [5.5, -5.5, 7, -7], [2, 2, -3, -3]] as const)
        : (['int64', [5, -5, 7, -7], [2, 2, -3, -3]] as const)
      const nodes = [node('Mod', ['x', 'd'], ['y'], [int('fmod', fmod)])]
      const m = file({ nodes, inputs: { x: [dtype, [4]] }, constants: [constant('d', dtype, [4], y)], output: dtype })
      await same(m, tensorOf(dtype, [4], x))
    })
  it('real remainders with the sign of the divisor are written, though Mod takes integers alone', async () => {
    const b = createBuilder()
    const y = b.emit(mod, [b.input('x', { dtype: 'float32', shape: [4] }), b.constant(floats([4], [2, 2, -3, -3]))], {})
    close(list(await byEngine(b.build('float', [y]), [floats([4], [5.5, -5.5, 7, -7])])), [1.5, 0.5, -2, -1])
  })
  it('a size that is a product with an unknown batch, as attention heads beside it are written', async () => {
    const consts = [
      constant('0', 'int64', [1], [0]),
      constant('heads', 'int64', [1], [2]),
      constant('rest', 'int64', [1], [3]),
      constant('back', 'int64', [2], [-1, 6]),
    ]
    const nodes = [
      node('Shape', ['x'], ['s']),
      node('Gather', ['s', '0'], ['n']),
      node('Mul', ['n', 'heads'], ['k']),
      node('Concat', ['k', 'rest'], ['split'], [int('axis', 0)]),
      node('Reshape', ['x', 'split'], ['parts']),
      node('Softmax', ['parts'], ['soft'], [int('axis', 1)]),
      node('Reshape', ['soft', 'back'], ['y']),
    ]
    await same(
      file({ nodes, inputs: { x: ['float32', ['N', 6]] }, constants: consts }),
      floats(
        [2, 6],
        Array.from({ length: 12 }, (_, i) => Math.sin(i)),
      ),
    )
  })

  for (const [name, given] of [
    ['scales whose product is a hair below a whole number', { scales: [1, 1, 0.7, 0.9], sizes: null }],
    ['sizes, behind a symbolic batch', { scales: null, sizes: [11, 13] }],
  ] as const)
    it(`a resize by ${name}`, async () => {
      const inputs = given.scales ? ['x', '', 's'] : ['x', '', '', 's']
      const s = given.scales ? constant('s', 'float32', [4], given.scales) : constant('s', 'int64', [2], given.sizes)
      const m = file({
        nodes: [node('Resize', inputs, ['y'], given.sizes ? [ints('axes', [2, 3])] : [])],
        inputs: { x: ['float32', ['N', 1, 10, 10]] },
        constants: [s],
      })
      await same(
        m,
        floats(
          [1, 1, 10, 10],
          Array.from({ length: 100 }, (_, i) => Math.sin(i)),
        ),
      )
    })

  it('a resize to sizes that no scale in single precision gives, behind a symbolic batch and between turned layouts', async () => {
    const m = file({
      nodes: [
        node('Transpose', ['x'], ['t'], [ints('perm', [0, 3, 1, 2])]),
        node('Resize', ['t', '', '', 's'], ['r'], [ints('axes', [2, 3]), string('mode', 'linear')]),
        node('Transpose', ['r'], ['y'], [ints('perm', [0, 2, 3, 1])]),
      ],
      inputs: { x: ['float32', ['N', 7, 11, 2]] },
      constants: [constant('s', 'int64', [2], [31, 13])],
    })
    const x = floats(
      [2, 7, 11, 2],
      Array.from({ length: 308 }, (_, i) => Math.sin(i)),
    )
    const [have, want] = [await byEngine(modelToGraph(m), [x]), evaluate(modelToGraph(m), [x])[0]!]
    assert.deepEqual(have.shape, [2, 31, 13, 2])
    list(have).forEach((v, i) => assert.ok(Math.abs(v - list(want)[i]!) < 1e-4))
  })
  for (const by of [0.4, 0.5, 2])
    it(`a nearest resize of operator set 10, ×${by}`, async () => {
      const nodes = [node('Resize', ['x', 's'], ['y'], [string('mode', 'nearest')])]
      const x = floats(
        [1, 1, 10, 10],
        Array.from({ length: 100 }, (_, i) => Math.sin(i)),
      )
      await same(
        file({ nodes, opset: 10, inputs: { x: ['float32', [1, 1, 10, 10]] }, constants: [constant('s', 'float32', [4], [1, 1, by, by])] }),
        x,
      )
    })

  for (const [name, nodes] of Object.entries({
    'a Gemm whose C is a row': [node('Gemm', ['x', 'w', 'c'], ['y'], [float('alpha', 0.5), float('beta', 2)])],
    'a MatMul with a transposed constant': [
      node('Transpose', ['v'], ['t']),
      node('MatMul', ['x', 't'], ['m']),
      node('Add', ['m', 'c'], ['y']),
    ],
    'a MatMul with a renamed constant': [node('Identity', ['w'], ['t']), node('MatMul', ['x', 't'], ['m']), node('Add', ['m', 'c'], ['y'])],
  }))
    it(`${name} is a layer`, async () => {
      const w = [1, -2, 3, 4, 5, -6, 7, 8, 9, 1]
      const constants = [
        constant('w', 'float32', [5, 2], w),
        constant(
          'v',
          'float32',
          [2, 5],
          Array.from({ length: 10 }, (_, i) => w[(i % 5) * 2 + Math.floor(i / 5)]!),
        ),
        constant('c', 'float32', [1, 2], [3, -4]),
      ]
      const m = file({ nodes, inputs: { x: ['float32', ['N', 5]] }, constants })
      const graph = prepare(modelToGraph(m))
      assert.deepEqual(
        graph.nodes.map((n) => n.op.name),
        ['dense'],
      )
      close(list(evaluate(graph, [row])[0]), list(await byFile(m, [row])))
    })

  it('functions that call one another twice make no end of nodes, and are refused', () => {
    const functions = Array.from({ length: 40 }, (_, i) => ({
      name: `f${i}`,
      domain: 'twice',
      input: ['a'],
      output: ['b'],
      opsetImport: [{ domain: '', version: 18 }],
      node:
        i === 39
          ? [node('Relu', ['a'], ['b'])]
          : [node(`f${i + 1}`, ['a'], ['m'], [], 'twice'), node(`f${i + 1}`, ['m'], ['b'], [], 'twice')],
    }))
    const m = { ...file({ nodes: [node('f0', ['x'], ['y'], [], 'twice')], inputs: { x: ['float32', [1]] } }), functions }
    assert.throws(() => inlineFunctions(m), /make more than 1000000 nodes/)
  })

  it('chains of float ops of any length go through lowering', () => {
    const b = createBuilder()
    let x = b.input('x', { dtype: 'float32', shape: [1, 2] })
    for (let i = 0; i < 5000; i++) x = b.emit(mul, [x, b.scalar(1)], {})
    const { rules } = ortTarget({ format: 'qoperator', packedWeights: false, fixedPoint: false, version: 'test' })
    assert.equal(lower(b.build('qdq', [x]), rules, false).nodes.length, 5000)
  })

  it('slopes of a PReLU broadcast as NumPy does since operator set 7', async () => {
    const m = file({
      nodes: [node('PRelu', ['x', 's'], ['y'])],
      opset: 8,
      inputs: { x: ['float32', [1, 2, 2]] },
      constants: [constant('s', 'float32', [2], [0.5, 0.1])],
    })
    await same(m, floats([1, 2, 2], [-1, -1, -1, -1]))
  })

  it('a node without its input, and bytes too few for their elements, are refused', () => {
    assert.throws(() => modelToGraph(file({ nodes: [node('Relu', [], ['y'])] })), /lacks its input 0/)
    assert.throws(() => modelToGraph(file({ nodes: [node('Where', ['x'], ['y'])], inputs: { x: ['bool', [2]] } })), /lacks its input 1/)
    const short = { ...int4Tensor('c', [6], [1, 2, 3, 4, 5, 6]), rawData: Uint8Array.of(1) }
    assert.throws(
      () => modelToGraph(file({ nodes: [node('Cast', ['c'], ['y'], [int('to', 1)])], constants: [short] })),
      /1 bytes for 6 elements of 4 bits/,
    )
  })
})

describe('nodes that are only carried', () => {
  const graphAttribute = (name: string, nodes: NodeProto[], output: string): AttributeProto => ({
    name,
    type: AttributeType.GRAPH,
    g: { name, node: nodes, output: [{ name: output, type: { tensorType: { elemType: 1 } } }] },
  })

  it('subgraphs take the values they took, whatever these are called', async () => {
    // A chain of sums gives its first node the name that the branch asks for.
    const m = file({
      nodes: [
        node('Sum', ['x', 'x', 'x'], ['s']),
        node(
          'If',
          ['c'],
          ['y'],
          [
            graphAttribute('then_branch', [node('Identity', ['s'], ['t'])], 't'),
            graphAttribute('else_branch', [node('Neg', ['s'], ['e'])], 'e'),
          ],
        ),
      ],
      inputs: { x: ['float32', [3]], c: ['bool', []] },
    })
    for (const choice of [1, 0]) {
      const inputs = [floats([3], [1, 2, 3]), tensorOf('bool', [], [choice])]
      close(list(await byEngine(modelToGraph(m), inputs)), list(await byFile(m, inputs)))
    }
  })

  it('that mean the same in a younger operator set are written', async () => {
    const branch = (n: NodeProto): ModelProto =>
      file({
        nodes: [
          node(
            'If',
            ['c'],
            ['y'],
            [graphAttribute('then_branch', [n], 't'), graphAttribute('else_branch', [node('Neg', ['x'], ['e'])], 'e')],
          ),
        ],
        opset: 11,
        inputs: { x: ['float32', [2, 2]], c: ['bool', []] },
      })
    const inputs = [floats([2, 2], [1, 2, 4, 3]), tensorOf('bool', [], [1])]
    for (const n of [node('Softmax', ['x'], ['t'], [int('axis', -1)]), node('Clip', ['x'], ['t']), node('ReduceMax', ['x'], ['t'])])
      close(list(await byEngine(modelToGraph(branch(n)), inputs)), list(await byFile(branch(n), inputs)))
    const squeezed = branch(node('ReduceMax', ['x'], ['t'], [ints('axes', [1])]))
    assert.throws(() => writeModel({ ...modelToGraph(squeezed), origin: null }), /ReduceMax .* would mean something else/)
  })

  it('mean what their own operator set says, or the file is not written', async () => {
    const m = file({ nodes: [node('Hardmax', ['x'], ['y'])], opset: 11, inputs: { x: ['float32', [2, 2]] } })
    assert.throws(
      () => writeModel({ ...modelToGraph(m), origin: null }),
      /Hardmax .* of operator set 11 would mean something else in operator set 18/,
    )
    const young = file({ nodes: [node('Hardmax', ['x'], ['y'])], opset: 20, inputs: { x: ['float32', [2, 2]] } })
    const x = floats([2, 2], [1, 2, 4, 3])
    close(list(await byEngine(modelToGraph(young), [x])), list(await byFile(young, [x])))
  })
})

describe('what files of integers stand for', () => {
  const scale = (name: string, ...v: number[]): TensorProto => constant(name, 'float32', v.length > 1 ? [v.length] : [], v)
  const real = (m: ModelProto, ...inputs: readonly Tensor[]): number[] => list(evaluate(modelToRealGraph(m), inputs)[0])

  it('weights that are moved or cast before they are read keep a scale for every channel', async () => {
    const m = file({
      nodes: [
        node('QuantizeLinear', ['x', 'one', 'u0'], ['q']),
        node('Cast', ['w4'], ['w8'], [int('to', 3)]),
        node('QLinearConv', ['q', 'one', 'u0', 'w8', 'ws', 'w0', 'one', 'u0'], ['r']),
        node('DequantizeLinear', ['r', 'one', 'u0'], ['y']),
      ],
      opset: 21,
      inputs: { x: ['float32', [1, 1, 1, 1]] },
      constants: [
        scale('one', 1),
        constant('u0', 'uint8', [], [0]),
        int4Tensor('w4', [2, 1, 1, 1], [1, 1]),
        scale('ws', 1, 4),
        constant('w0', 'int8', [2], [0, 0]),
      ],
    })
    const x = floats([1, 1, 1, 1], [3])
    assert.deepEqual(real(m, x), [3, 12])
    assert.deepEqual(list(await byFile(m, [x])), [3, 12])
  })

  it('a Clip narrows weights that have a scale for every channel, channel by channel', () => {
    const m = file({
      nodes: [
        node('QuantizeLinear', ['w', 's', 'z'], ['q'], [int('axis', 0)]),
        node('Clip', ['q', 'lo', 'hi'], ['c']),
        node('DequantizeLinear', ['c', 's', 'z'], ['d'], [int('axis', 0)]),
        node('Add', ['x', 'd'], ['y']),
      ],
      inputs: { x: ['float32', [2, 1]] },
      constants: [
        constant('w', 'float32', [2, 1], [100, 100]),
        scale('s', 1, 4),
        constant('z', 'int8', [2], [0, 0]),
        constant('lo', 'int8', [], [-7]),
        constant('hi', 'int8', [], [7]),
      ],
    })
    assert.deepEqual(real(m, floats([2, 1], [0, 0])), [7, 28])
  })

  it('what is padded with is an integer of the container', () => {
    const m = file({
      nodes: [
        node('QuantizeLinear', ['x', 'one', 'u128'], ['q']),
        node('Pad', ['q', 'pads', 'u128'], ['p']),
        node('DequantizeLinear', ['p', 'one', 'u128'], ['y']),
      ],
      inputs: { x: ['float32', [1, 3]] },
      constants: [scale('one', 1), constant('u128', 'uint8', [], [128]), constant('pads', 'int64', [4], [0, 1, 0, 1])],
    })
    assert.deepEqual(real(m, floats([1, 3], [1, 2, -3])), [0, 1, 2, -3, 0])
  })

  it('integers of one grid that are read as those of another, and scales of blocks, are only carried', () => {
    const foreign = (nodes: NodeProto[], constants: TensorProto[], opset = 18): string[] =>
      modelToRealGraph(file({ nodes, constants, opset, inputs: { x: ['float32', [4, 2]] } })).nodes.flatMap((n) =>
        n.op.name === 'foreign' ? [String(n.attrs.reason)] : [],
      )
    const scales = [scale('a', 0.5), scale('b', 1), constant('u0', 'uint8', [], [0])]
    assert.match(
      foreign([node('QuantizeLinear', ['x', 'a', 'u0'], ['q']), node('DequantizeLinear', ['q', 'b', 'u0'], ['y'])], scales).join(),
      /as those of another/,
    )
    const blocks = [constant('w', 'int8', [4, 2], [1, 1, 1, 1, 1, 1, 1, 1]), constant('s', 'float32', [2, 2], [2, 4, 6, 8])]
    assert.match(
      foreign(
        [node('DequantizeLinear', ['w', 's'], ['d'], [int('axis', 0), int('block_size', 2)]), node('Add', ['d', 'x'], ['y'])],
        blocks,
        21,
      ).join(),
      /scales of blocks/,
    )
  })

  it('the type of a quantizer may be an attribute', () => {
    const m = file({
      nodes: [node('QuantizeLinear', ['x', 'one'], ['q'], [int('output_dtype', 3)]), node('DequantizeLinear', ['q', 'one'], ['y'])],
      opset: 21,
      inputs: { x: ['float32', [2]] },
      constants: [scale('one', 1)],
    })
    assert.deepEqual(real(m, floats([2], [-16, 200])), [-16, 127])
  })

  it('a bias that is no constant is not left out', () => {
    const m = file({
      nodes: [
        node('QuantizeLinear', ['x', 'one', 'u0'], ['q']),
        node('QLinearConv', ['q', 'one', 'u0', 'w', 'one', 'i0', 'one', 'u0', 'b'], ['r']),
        node('DequantizeLinear', ['r', 'one', 'u0'], ['y']),
      ],
      inputs: { x: ['float32', [1, 1, 1, 1]], b: ['int32', [1]] },
      constants: [
        scale('one', 1),
        constant('u0', 'uint8', [], [0]),
        constant('i0', 'int8', [], [0]),
        constant('w', 'int8', [1, 1, 1, 1], [1]),
      ],
    })
    assert.ok(modelToRealGraph(m).nodes.some((n) => n.op.name === 'foreign'))
  })

  it('activations with a scale for every channel have no integer form', () => {
    const m = file({
      nodes: [
        node('Relu', ['x'], ['r']),
        node('QuantizeLinear', ['r', 's', 'z'], ['q'], [int('axis', 1)]),
        node('DequantizeLinear', ['q', 's', 'z'], ['y'], [int('axis', 1)]),
      ],
      inputs: { x: ['float32', [1, 2]] },
      constants: [scale('s', 0.1, 1), constant('z', 'uint8', [2], [0, 0])],
    })
    const { rules } = ortTarget({ format: 'qoperator', packedWeights: false, fixedPoint: false, version: 'test' })
    assert.throws(() => lower(modelToRealGraph(m), rules, false), /a scale for every channel/)
  })

  it('the axis of scales moves with a Transpose, and the wrong one is not taken for it', () => {
    const dequantized = (axis: number): ModelProto =>
      file({
        nodes: [
          node('QuantizeLinear', ['x', 's', 'z'], ['q'], [int('axis', 0)]),
          node('Transpose', ['q'], ['t'], [ints('perm', [1, 0])]),
          node('DequantizeLinear', ['t', 's', 'z'], ['y'], [int('axis', axis)]),
        ],
        inputs: { x: ['float32', [2, 2]] },
        constants: [scale('s', 1, 4), constant('z', 'int8', [2], [0, 0])],
      })
    assert.deepEqual(real(dequantized(1), floats([2, 2], [1, 2, 8, 12])), [1, 8, 2, 12])
    assert.ok(modelToRealGraph(dequantized(0)).nodes.some((n) => n.op.name === 'foreign'))
  })

  it('scales of channels that cannot be followed are not taken for known ones', () => {
    const behind = (op: NodeProto, constants: TensorProto[], axis: number): ModelProto =>
      file({
        nodes: [
          node('QuantizeLinear', ['x', 's', 'z'], ['q'], [int('axis', 0)]),
          op,
          node('DequantizeLinear', ['t', 's', 'z'], ['y'], [int('axis', axis)]),
        ],
        inputs: { x: ['float32', [2, 2]] },
        constants: [scale('s', 1, 4), constant('z', 'int8', [2], [0, 0]), ...constants],
      })
    const foreign = (m: ModelProto): boolean => modelToRealGraph(m).nodes.some((n) => n.op.name === 'foreign')
    const shape = [constant('shape', 'int64', [2], [2, 2])]
    assert.ok(foreign(behind(node('Reshape', ['q', 'shape'], ['t']), shape, 0)))
    assert.ok(foreign(behind(node('Transpose', ['q'], ['t']), [], 0)))
    assert.deepEqual(real(behind(node('Transpose', ['q'], ['t']), [], 1), floats([2, 2], [1, 2, 8, 12])), [1, 8, 2, 12])
  })

  for (const [name, nodes] of Object.entries({
    'a concatenation': [node('Concat', ['x', 'x'], ['h'], [int('axis', 1)])],
    'a pool': [node('MaxPool', ['x'], ['h'], [ints('kernel_shape', [1, 1])])],
    'a tanh': [node('Tanh', ['x'], ['h'])],
  }))
    it(`a Relu that lives in the grid behind ${name} is kept`, () => {
      const m = file({
        nodes: [...nodes, node('QuantizeLinear', ['h', 'one', 'u0'], ['q']), node('DequantizeLinear', ['q', 'one', 'u0'], ['y'])],
        inputs: { x: ['float32', [1, 1, 1, 2]] },
        constants: [scale('one', 1), constant('u0', 'uint8', [], [0])],
      })
      const y = list(evaluate(prepare(removeQuantizers(modelToRealGraph(m))), [floats([1, 1, 1, 2], [-3, 3])])[0])
      assert.ok(y[0] === 0 && y[1]! > 0.9, `${y}`)
    })

  it('a narrow grid clamps the float network behind any op', () => {
    const m = file({
      nodes: [
        node('Div', ['x', 'two'], ['h']),
        node('QuantizeLinear', ['h', 'half', 'i0'], ['q']),
        node('Clip', ['q', 'm1', 'p1'], ['c']),
        node('DequantizeLinear', ['c', 'half', 'i0'], ['y']),
      ],
      inputs: { x: ['float32', [3]] },
      constants: [
        scale('two', 2),
        scale('half', 0.5),
        constant('i0', 'int8', [], [0]),
        constant('m1', 'int8', [], [-1]),
        constant('p1', 'int8', [], [1]),
      ],
    })
    close(list(evaluate(prepare(removeQuantizers(modelToRealGraph(m))), [floats([3], [-8, 0.5, 8])])[0]), [-0.5, 0.25, 0.5])
  })

  it('a narrow grid behind a Relu clamps the float network too', () => {
    const m = file({
      nodes: [
        node('Relu', ['x'], ['r']),
        node('QuantizeLinear', ['r', 'tenth', 'u0'], ['q']),
        node('Clip', ['q', 'u0', 'u15'], ['c']),
        node('DequantizeLinear', ['c', 'tenth', 'u0'], ['y']),
      ],
      inputs: { x: ['float32', [3]] },
      constants: [scale('tenth', 0.1), constant('u0', 'uint8', [], [0]), constant('u15', 'uint8', [], [15])],
    })
    const x = floats([3], [-1, 1, 10])
    const qdq = modelToRealGraph(m)
    close(list(evaluate(qdq, [x])[0]), [0, 1, 1.5])
    const float = prepare(removeQuantizers(qdq))
    close(list(evaluate(float, [x])[0]), [0, 1, 1.5])
    assert.deepEqual(
      float.nodes.map((n) => n.op.name),
      ['clip'],
    )
  })
})
