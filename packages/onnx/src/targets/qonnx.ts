import * as core from '@dqc/core'
import {
  type Artifact,
  type ArtifactFile,
  errors,
  type FakeQuantAttrs,
  type Graph,
  gridOf,
  isConstant,
  type KernelRules,
  type Node,
  type Op,
  type QuantParams,
  rewrite,
  shapeOf,
  type Target,
  tensorOf,
  transposeValue,
  type Value,
} from '@dqc/core'
import { AttributeType, encodeModel, type FunctionProto, type ModelProto, type NodeProto, toNumber } from '../proto/messages.ts'
import { parseModel } from '../read/read.ts'
import { int, ints, string, tensor, trimmed, type Write } from '../spelling/spelling.ts'
import { graphToModel } from '../write/write.ts'
import { toChannelsLast } from './channelsLast.ts'
import { writeNpy } from './npy.ts'

/** The tool that a QONNX file is for. */
export type Flavor = 'generic' | 'finn' | 'hls4ml'
export const flavors: readonly Flavor[] = ['generic', 'finn', 'hls4ml']

export interface QonnxOptions {
  readonly flavor: Flavor
  readonly version: string
}

const GENERAL = 'qonnx.custom_op.general'
const CHANNELS_LAST = 'qonnx.custom_op.channels_last'

/** Bits, sign and range of a grid as Quant's inputs and attributes say them. Throws CompileError for grids that no k bits with a zero point have. */
function quantForm(q: QuantParams, flavor: Flavor, where: string): { bits: number; signed: number; narrow: number; zero: number } {
  for (let bits = 1; bits <= 16; bits++) {
    const half = 2 ** (bits - 1)
    if (q.lo === 0 && q.hi === 2 * half - 1) return { bits, signed: 0, narrow: 0, zero: 0 }
    if (bits > 1 && q.lo === -half && q.hi === half - 1) return { bits, signed: 1, narrow: 0, zero: 0 }
    if (bits > 1 && q.lo === 1 - half && q.hi === half - 1) return { bits, signed: 1, narrow: 1, zero: 0 }
    if (q.hi - q.lo === 2 * half - 1 && q.lo < 0) {
      if (flavor === 'generic') return { bits, signed: 0, narrow: 0, zero: -q.lo }
      throw errors.unsupportedTarget(`a zero point of ${-q.lo}`, where, `${flavor} takes symmetric grids only`)
    }
  }
  throw errors.unsupportedTarget(`a grid from ${q.lo} to ${q.hi}`, where, 'Quant has grids of k bits')
}

const WINDOWS_OF_TWO = 'means are taken over unpadded windows of 2, 4, 8, … places: as a layer of its own that is exact, others are not'

/** The window of a mean that a depthwise layer computes exactly: unpadded, and of 2^n places. */
function meanWindow(n: Node): { kernel: readonly number[]; strides: readonly number[] } | null {
  const space = shapeOf(n.inputs[0]).slice(2)
  const a = n.op === core.averagePool ? (n.attrs as core.AveragePoolAttrs) : null
  if (space.length !== 2 || space.some((d) => typeof d !== 'number')) return null
  if (a && (a.ceil || a.pads.some((p) => p !== 0) || a.dilations.some((d) => d !== 1))) return null
  const kernel = a ? a.kernel : (space as number[])
  return Number.isInteger(Math.log2(core.sizeOf(kernel))) ? { kernel, strides: a ? a.strides : [1, 1] } : null
}

/** A mean as a depthwise layer whose weights are all 2^−n: what tools without averages of windows have. */
function meanLayer(b: core.Builder, node: Node, x: Value): readonly Value[] {
  const { kernel, strides } = meanWindow(node)!
  const C = shapeOf(x)[1] as number
  const area = core.sizeOf(kernel)
  const ones = b.constant(tensorOf('float32', [C, 1, ...kernel], new Float32Array(C * area).fill(1 / area)), 'mean')
  const w = b.emit(core.fakeQuant, [ones, b.constant(core.scalar(1 / area), 'mean.scale')], { lo: -1, hi: 1, axis: null, fused: false })
  const attrs = { strides, dilations: [1, 1], pads: [0, 0, 0, 0], group: C }
  return b.add(core.conv, [x, w, null], attrs, { name: node.name, outputs: [node.outputs[0]!.name] })
}

/** Ops on images whose channels may come last. */
const onImages: ReadonlySet<Op> = new Set<Op>([
  core.conv,
  core.maxPool,
  core.averagePool,
  core.globalAveragePool,
  core.fakeQuant,
  core.relu,
  core.add,
  core.concat,
])

/** What each tool's flow cannot take, with what to do about it. */
const refusals: Readonly<Record<Flavor, (node: Node) => string | null>> = {
  generic: () => null,
  finn: (n) => {
    if (n.op === core.averagePool && !core.coversImage(n) && meanWindow(n) === null) return WINDOWS_OF_TWO
    if (n.op === core.conv && shapeOf(n.inputs[0]).length !== 4) return 'FINN has two-dimensional convolutions'
    return null
  },
  hls4ml: (n) => {
    const image = n.outputs.some((v) => v.shape?.length === 4)
    if (image && (!onImages.has(n.op) || (n.op === core.concat && core.axisOf(n.attrs.axis, 4) !== 1)))
      return `${n.op.name} has no channels-last form here`
    if (image && n.inputs.some((v) => isConstant(v) && n.op.weights === null && v.data.data.length > 1 && n.op !== core.fakeQuant))
      return 'constants per channel beside images have no channels-last form here'
    if (n.op === core.conv && shapeOf(n.inputs[0]).length !== 4) return 'only two-dimensional convolutions have a channels-last form here'
    if (n.op === core.conv && n.attrs.group > 1 && n.attrs.group !== shapeOf(n.inputs[0])[1])
      return 'hls4ml has depthwise but no grouped convolutions'
    if ((n.op === core.averagePool || n.op === core.globalAveragePool) && meanWindow(n) === null) return WINDOWS_OF_TWO
    if (n.op === core.maxPool && (n.attrs.ceil || n.attrs.dilations.some((d: number) => d !== 1)))
      return 'its pools have no dilations and no ceil mode'
    return null
  },
}

/**
 * QONNX: a float graph with Quant nodes, for FPGA flows. Weights and activations stay real numbers behind quantizers of 1–16 bits with zero
 * point 0; tools turn them into integers themselves.
 */
export function qonnxTarget({ flavor, version }: QonnxOptions): Target<'qdq'> {
  const rules: KernelRules = {
    lowering: (node) => (refusals[flavor](node) === null ? node.op.lower : null),
    tied: () => false,
    fixedGrid: () => null,
    perChannel: () => flavor !== 'hls4ml',
    pairLimit: null,
  }
  return {
    name: 'qonnx',
    accepts: 'qdq',
    rules,
    prepare: (graph) => graph,
    legalize: (graph) => graph,
    inexact: () => [FLOAT_SUMS],
    emit(graph, stem, metadata): Artifact {
      refuse(graph, flavor)
      const shaped = toolForm(graph, flavor)
      const annotations: { tensorName: string; quantParameterTensorNames: { key: string; value: string }[] }[] = []
      const plain = graphToModel(
        { ...shaped, origin: null },
        {
          rules: new Map<Op, Write>([
            [core.conv, convWrite],
            [core.fakeQuant, quantWrite(flavor, (name, type) => annotations.push(annotation(name, type)))],
          ]),
          metadata,
          domains: { [GENERAL]: 1 },
          valueInfo: true,
          producer: { name: 'dqc', version },
        },
      )
      const last = flavor === 'hls4ml' ? toChannelsLast(plain, CHANNELS_LAST) : { model: plain, channelsLast: null }
      const model: ModelProto = { ...last.model, graph: { ...last.model.graph!, quantizationAnnotation: annotations } }
      return {
        files: [
          { path: flavor === 'finn' ? `${stem}/model.onnx` : `${stem}.onnx`, bytes: encodeModel(model) },
          ...companions(flavor, stem, shaped),
        ],
        storage: { weights: 32, activations: 32 },
        channelsLast: last.channelsLast,
        mapping: null,
        memory: null,
      }
    },
    examples:
      flavor === 'finn'
        ? (stem, input, output) => [
            { path: `${stem}/input.npy`, bytes: writeNpy(input) },
            { path: `${stem}/expected_output.npy`, bytes: writeNpy(output) },
          ]
        : null,
  }
}

/** Why a float carrier may differ from the integers it stands for. */
export const FLOAT_SUMS =
  'runtimes add real numbers in single precision: a sum within 1e-5 of the middle between two steps may go either way, unless scales are powers of two (--pow2-scales)'

const annotation = (tensorName: string, type: string) => ({
  tensorName,
  quantParameterTensorNames: [{ key: 'finn_datatype', value: type }],
})

/** Lists everything that the tool's flow would stop at. */
function refuse(graph: Graph, flavor: Flavor): void {
  const bad = graph.nodes.flatMap((n) => {
    const reason =
      refusals[flavor](n) ?? (n.op.name === 'foreign' && flavor !== 'generic' ? `${flavor} does not know ${n.attrs.type}` : null)
    return reason ? [`${n.name || n.outputs[0]!.name}: ${reason}`] : []
  })
  if (bad.length)
    throw errors.unsupportedTarget(
      bad.join('; '),
      `--flavor ${flavor}`,
      '--exclude keeps a node out of the quantized part, not out of the graph',
    )
}

/** One sample at a time, quantizers of unsigned grids behind a Relu, and dense layers as products where the tool wants them. */
function toolForm(graph: Graph<'qdq'>, flavor: Flavor): Graph<'qdq'> {
  const batch = graph.inputs[0]?.shape?.[0]
  const fixed = flavor === 'generic' ? graph : withBatch(graph, batch)
  return rewrite(fixed, (b, node, inputs) => {
    const [x, w, bias] = inputs
    if (node.op === core.fakeQuant && node.attrs.lo >= 0 && !isConstant(x) && canBeNegative(b.producer(x!))) {
      const positive = b.emit(core.relu, [x!], {})
      return b.add(core.fakeQuant, [positive, w!], node.attrs, { name: node.name, outputs: [node.outputs[0]!.name] })
    }
    if (flavor === 'hls4ml' && (node.op === core.globalAveragePool || node.op === core.averagePool)) return meanLayer(b, node, x!)
    if (flavor === 'finn' && node.op === core.averagePool && !core.coversImage(node)) return meanLayer(b, node, x!)
    if (flavor === 'generic' || node.op !== core.dense || !w) return null
    const quantizer = b.producer(w)
    const turned = quantizer?.op === core.fakeQuant ? turnQuantizer(b, quantizer) : transposeValue(b, w, [1, 0], () => turnConstant(b, w))
    const name = node.outputs[0]!.name
    if (!bias) return b.add(core.matmul, [x!, turned], {}, { name: node.name, outputs: [name] })
    return b.add(core.add, [b.emit(core.matmul, [x!, turned], {}), bias], {}, { outputs: [name] })
  })
}

const turnConstant = (b: core.Builder, w: Value): Value =>
  w.data ? b.constant(core.transpose.eval([w.data], { perm: [1, 0] })[0]!, w.name) : b.emit(core.transpose, [w], { perm: [1, 0] })

/** fq(W) → fq(Wᵀ) */
function turnQuantizer(b: core.Builder, quantizer: Node): Value {
  const [w, scale] = quantizer.inputs as [Value, Value]
  const attrs = quantizer.attrs as FakeQuantAttrs
  const axis = attrs.axis === null ? null : 1 - attrs.axis
  return b.emit(core.fakeQuant, [turnConstant(b, w), scale], { ...attrs, axis }, { outputs: [`${w.name}.turned`] })
}

/** Whether a quantizer's lower end at zero does a Relu's work. The network's own inputs need none. */
const canBeNegative = (maker: Node | null): boolean =>
  maker !== null && (maker.op.weights !== null || maker.op === core.add || maker.op === core.sub)

/** The graph for batches of one. */
function withBatch(graph: Graph<'qdq'>, batch: core.Dim | undefined): Graph<'qdq'> {
  if (typeof batch !== 'string') return graph
  return rewrite(
    graph,
    () => null,
    'qdq',
    (v) => ({ ...v, shape: v.shape!.map((d) => (d === batch ? 1 : d)) }),
  )
}

/** Tools read the window's size from the attribute, and not from the weights. */
const convWrite: Write = (w, node, ins, outs) => {
  const a = node.attrs as core.ConvAttrs
  w.node('Conv', trimmed(ins), outs, [
    ints('kernel_shape', shapeOf(node.inputs[1]).slice(2) as number[]),
    ints('strides', a.strides),
    ints('pads', a.pads),
    ints('dilations', a.dilations),
    int('group', a.group),
  ])
}

const quantWrite =
  (flavor: Flavor, annotate: (tensor: string, type: string) => void): Write =>
  (w, node, [x, s], outs) => {
    const [vx, vs] = node.inputs as [Value, Value]
    const attrs = node.attrs as FakeQuantAttrs
    const q = gridOf(vs, attrs)
    const { bits, signed, narrow, zero } = quantForm(q, flavor, `the quantizer of ${vx.name}`)
    const rank = shapeOf(vx).length
    const scale =
      attrs.axis === null
        ? s!
        : w.constant(
            tensorOf(
              'float32',
              Array.from({ length: rank }, (_, i) => (i === attrs.axis ? q.scale.length : 1)),
              q.scale,
            ),
            'scale',
          )
    w.node(
      'Quant',
      [x!, scale, w.constant(core.scalar(zero), 'zero'), w.constant(core.scalar(bits), 'bits')],
      outs,
      [int('signed', signed), int('narrow', narrow), string('rounding_mode', 'ROUND')],
      GENERAL,
    )
    // FINN's annotations name integers; a scale other than 1 makes the tensor itself real.
    annotate(outs[0]!, q.scale.every((v) => v === 1) && zero === 0 ? `${signed ? '' : 'U'}INT${bits}` : `SCALEDINT<${bits}>`)
  }

/** Files that a tool's flow expects beside the model. */
function companions(flavor: Flavor, stem: string, graph: Graph<'qdq'>): ArtifactFile[] {
  const json = (path: string, value: unknown): ArtifactFile => ({
    path,
    bytes: new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`),
  })
  if (flavor === 'finn')
    return [
      json(`${stem}/dataflow_build_config.json`, {
        output_dir: 'output',
        synth_clk_period_ns: 10.0,
        target_fps: 1000,
        board: 'Pynq-Z1',
        shell_flow_type: 'vivado_zynq',
        standalone_thresholds: true,
        folding_config_file: null,
        verify_steps: ['qonnx_to_finn_python', 'tidy_up_python', 'streamlined_python', 'folded_hls_cppsim'],
        verify_input_npy: 'input.npy',
        verify_expected_output_npy: 'expected_output.npy',
        generate_outputs: ['estimate_reports'],
      }),
    ]
  if (flavor === 'hls4ml')
    return [
      json(`${stem}.hls4ml.json`, {
        OnnxModel: `${stem}.onnx`,
        InputData: null,
        OutputPredictions: null,
        OutputDir: `${stem}_hls`,
        ProjectName: 'dqc',
        Backend: 'Vivado',
        IOType: graph.nodes.some((n) => n.op === core.conv) ? 'io_stream' : 'io_parallel',
        HLSConfig: hlsConfig(graph),
      }),
    ]
  return []
}

/** Precisions of the tool's defaults: wide enough for every quantizer of the graph, whose own grids the tool reads from the model. */
function hlsConfig(graph: Graph<'qdq'>): unknown {
  let whole = 1
  let fraction = 0
  for (const n of graph.nodes) {
    if (n.op !== core.fakeQuant || !isConstant(n.inputs[1])) continue
    const q = gridOf(n.inputs[1], n.attrs)
    for (const s of q.scale) {
      whole = Math.max(whole, Math.ceil(Math.log2(s * Math.max(-q.lo, q.hi + 1))) + 1)
      fraction = Math.max(fraction, Math.ceil(-Math.log2(s)))
    }
  }
  const terms = graph.nodes.reduce((m, n) => {
    const w = n.op.weights ? n.inputs[n.op.weights(n.attrs).weight]?.shape : null
    return w ? Math.max(m, core.sizeOf(w as number[]) / (w[0] as number)) : m
  }, 1)
  // A product has the fractions and the whole bits of both factors, a sum as many more bits in front as its terms take.
  const front = 2 * whole + Math.ceil(Math.log2(terms))
  return { Model: { Precision: `ap_fixed<${2 * fraction + front},${front}>`, ReuseFactor: 1, Strategy: 'Resource' } }
}

// ── running QONNX files ──────────────────────────────────────────────────────────────────────────────────────────

const node = (opType: string, input: string[], output: string, attribute: NodeProto['attribute'] = []): NodeProto => ({
  opType,
  input,
  output: [output],
  attribute: attribute!,
})
const constant = (name: string, value: number): NodeProto => node('Constant', [], name, [tensor('value', core.scalar(value))])
/** An attribute of the function's caller as a real number. */
const given = (name: string): NodeProto[] => [
  {
    opType: 'Constant',
    input: [],
    output: [`${name}_int`],
    attribute: [{ name: 'value_int', refAttrName: name, type: AttributeType.INT }],
  },
  node('Cast', [`${name}_int`], name, [int('to', 1)]),
]

/** Quant in standard ops: y = (round(clamp(x/scale + zeropt, lo, hi)) − zeropt)·scale. */
const quantFunction = (opset: number): FunctionProto => ({
  name: 'Quant',
  domain: GENERAL,
  input: ['x', 'scale', 'zeropt', 'bits'],
  output: ['y'],
  attribute: ['signed', 'narrow', 'rounding_mode'],
  opsetImport: [{ domain: '', version: opset }],
  node: [
    ...given('signed'),
    ...given('narrow'),
    constant('one', 1),
    constant('two', 2),
    node('Sub', ['bits', 'signed'], 'magnitude'),
    node('Pow', ['two', 'magnitude'], 'reach'),
    // hi = 2^(bits − signed) − 1, less one where an unsigned grid is narrow.
    node('Sub', ['one', 'signed'], 'unsigned'),
    node('Mul', ['unsigned', 'narrow'], 'cut'),
    node('Sub', ['reach', 'one'], 'top'),
    node('Sub', ['top', 'cut'], 'hi'),
    // lo = −2^(bits − 1) + narrow where signed, else 0.
    node('Sub', ['narrow', 'reach'], 'bottom'),
    node('Mul', ['signed', 'bottom'], 'lo'),
    node('Div', ['x', 'scale'], 'scaled'),
    node('Add', ['scaled', 'zeropt'], 'moved'),
    node('Min', ['moved', 'hi'], 'below'),
    node('Max', ['below', 'lo'], 'inside'),
    node('Round', ['inside'], 'rounded'),
    node('Sub', ['rounded', 'zeropt'], 'steps'),
    node('Mul', ['steps', 'scale'], 'y'),
  ],
})

const windowAttributes = ['kernel_shape', 'strides', 'pads']
/** An op on images with their channels last. */
const lastFunction = (type: string, attributes: readonly string[], inputs: readonly string[], opset: number): FunctionProto => ({
  name: type,
  domain: CHANNELS_LAST,
  input: ['x', ...inputs],
  output: ['y'],
  attribute: [...attributes],
  opsetImport: [{ domain: '', version: opset }],
  node: [
    node('Transpose', ['x'], 'second', [ints('perm', [0, 3, 1, 2])]),
    // Weights have their input channels last too.
    ...(type === 'Conv' ? [node('Transpose', ['w'], 'weights', [ints('perm', [0, 3, 1, 2])])] : []),
    node(
      type,
      ['second', ...inputs.map((i) => (i === 'w' ? 'weights' : i))],
      'made',
      attributes.map((name) => ({ name, refAttrName: name, type: name === 'group' ? AttributeType.INT : AttributeType.INTS })),
    ),
    node('Transpose', ['made'], 'y', [ints('perm', [0, 2, 3, 1])]),
  ],
})

/** The oldest operator set in which the functions' ops take what they are given here. */
const OLDEST = 13

/**
 * A QONNX file that ONNX Runtime runs: the ops it does not know given as functions of standard ones. Null where that is not possible: ops
 * other than Quant that rounds half to even, Brevitas's domain, or an operator set before 13.
 */
export function withQuantFunctions(bytes: Uint8Array): Uint8Array | null {
  const model = parseModel(bytes)
  const opset = toNumber(model.opsetImport?.find((o) => (o.domain ?? '') === '')?.version)
  const strange = (model.graph!.node ?? []).filter((n) => n.domain === GENERAL || n.domain === CHANNELS_LAST)
  const told = (n: NodeProto): boolean =>
    n.opType === 'Quant' &&
    ['signed', 'narrow', 'rounding_mode'].every((name) => n.attribute?.some((a) => a.name === name)) &&
    new TextDecoder().decode(n.attribute!.find((a) => a.name === 'rounding_mode')!.s) === 'ROUND'
  if (strange.length === 0 || opset < OLDEST || strange.some((n) => n.domain === GENERAL && !told(n))) return null
  const wanted = new Set(strange.map((n) => `${n.domain}:${n.opType}`))
  const conv = (n: NodeProto): boolean => n.opType === 'Conv' && n.domain === CHANNELS_LAST
  const biased = strange.some((n) => conv(n) && n.input!.length > 2)
  const all = [
    quantFunction(opset),
    lastFunction('Conv', [...windowAttributes, 'dilations', 'group'], biased ? ['w', 'b'] : ['w'], opset),
    lastFunction('MaxPool', windowAttributes, [], opset),
  ]
  const imports = (model.opsetImport ?? []).filter((o) => o.domain !== GENERAL && o.domain !== CHANNELS_LAST)
  return encodeModel({
    ...model,
    irVersion: Math.max(8, toNumber(model.irVersion)),
    opsetImport: [...imports, { domain: GENERAL, version: 1 }, { domain: CHANNELS_LAST, version: 1 }],
    functions: [...(model.functions ?? []), ...all.filter((f) => wanted.has(`${f.domain}:${f.name}`))],
  })
}
