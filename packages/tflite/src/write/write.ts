import {
  type ChannelsLast,
  type Dim,
  type DType,
  errors,
  fixedAveragePool,
  type Graph,
  isConstant,
  isFloat,
  type Node,
  numbersOf,
  numberToHalf,
  type QuantParams,
  quantizeConstant,
  type Tensor,
  tensorOf,
  transpose,
  usesOf,
  type Value,
} from '@dqc/core'
import { encodeModel } from '../format/model.ts'
import {
  ActivationFunctionType,
  BuiltinOperator,
  type Model,
  type Operator,
  type OperatorCode,
  type Tables,
  type Tensor as TensorTable,
  TensorType,
  unions,
} from '../format/schema.gen.ts'
import { codeOf, pack } from '../format/tensors.ts'
import { tfliteOriginOf } from '../read/read.ts'
import { activationFor } from '../spelling/activation.ts'
import { agnosticOps, channelOps, writes } from '../spelling/index.ts'
import {
  type ForeignPayload,
  type Layout,
  type OperatorSpec,
  type OperatorWriter,
  PERM_TO_CORE,
  PERM_TO_FILE,
} from '../spelling/spelling.ts'
import { checkConstraints } from './constraints.ts'

export interface WriteOptions {
  /** Container of activations on a grid. Default int8. */
  readonly container?: 'int8' | 'uint8' | 'int16'
  /** Stored type of real weights. Default float32. */
  readonly floatWeights?: 'float32' | 'float16'
  /** Store weights of at most four bits packed where kernels read them so. */
  readonly packedWeights?: boolean
  /** Writes an open batch as this size: for runtimes that need static shapes. */
  readonly batch?: number
  /** Inputs and outputs stay in the integers of the file that the graph came from, whatever runs inside. */
  readonly keepContainers?: boolean
  readonly metadata?: Readonly<Record<string, string>>
  readonly description?: string
}

/** Version of TensorFlow Lite that runs everything written here: per-channel dense layers are its youngest part. */
const MIN_RUNTIME = '2.17.0'

/** Name of an axis whose size the file leaves open. */
const BATCH = 'batch'

/** Containers of integer activations: lowest, highest. */
const CONTAINERS = { int8: [-128, 127], uint8: [0, 255], int16: [-32768, 32767] } as const

/** How a grid lies in a container: unsigned grids start at its lowest integer, symmetric ones are centred, others sit where they fit. */
export function containerOf(
  q: { readonly lo: number; readonly hi: number },
  kind: keyof typeof CONTAINERS,
): ReturnType<OperatorWriter['container']> {
  const [low, high] = CONTAINERS[kind]
  const middle = kind === 'uint8' ? 128 : 0
  const zero = kind === 'int16' ? 0 : q.lo >= 0 ? low : q.lo >= low - middle && q.hi <= high - middle ? middle : low - q.lo
  if (q.lo < low - zero || q.hi > high - zero) throw errors.unsupportedTarget(`a grid of ${q.lo} … ${q.hi} does not fit ${kind}`)
  return { zero, lo: low - zero, hi: high - zero, dtype: kind }
}

/** Graph → TFLite model (schema version 3). Throws CompileError listing every node that the format, or this writer, has no operator for. */
export function writeModel(graph: Graph, options: WriteOptions = {}): Written {
  const { model, channelsLast } = graphToModel(graph, options)
  return { bytes: encodeModel(model), channelsLast }
}

/** A file, and how its inputs and outputs lie beside the graph's. */
export interface Written {
  readonly bytes: Uint8Array
  readonly channelsLast: ChannelsLast
}

/** The graph → message half of {@link writeModel}. */
export function graphToModel(graph: Graph, options: WriteOptions = {}): { readonly model: Model; readonly channelsLast: ChannelsLast } {
  const origin = tfliteOriginOf(graph)
  const kind = options.container ?? 'int8'
  const uses = usesOf(graph)
  const buffers: Uint8Array[] = [new Uint8Array()]
  const tensors: TensorTable[] = []
  const operators: Operator[] = []
  const codes: OperatorCode[] = []
  const slots = new Map<Value, Partial<Record<Layout, number>>>()
  const absorbed = new Set<Node>()
  const names = new Set<string>()
  const shared = new Map<string, number>()

  const fresh = (stem: string): string => {
    let name = stem
    for (let k = 1; names.has(name); k++) name = `${stem}_${k}`
    names.add(name)
    return name
  }
  const turned = (shape: readonly Dim[]): Dim[] => PERM_TO_FILE.map((k) => shape[k]!)
  const scaleTable = (q: QuantParams, axis: number | null, zero: number) => ({
    scale: q.scale,
    zeroPoint: BigInt64Array.from({ length: q.scale.length }, () => BigInt(zero)),
    quantizedDimension: axis ?? 0,
  })
  const sized = (dims: readonly Dim[]): Dim[] =>
    dims.map((d, i) => (i === 0 && typeof d === 'string' && options.batch !== undefined ? options.batch : d))
  const declare = (name: string, dims: readonly Dim[] | null, dtype: DType, quant: QuantParams | null, container = kind): number => {
    if (dims === null) throw errors.unsupportedTarget(`the rank of ${name} is not known`)
    const shape = sized(dims)
    const open = shape.some((d) => typeof d === 'string')
    const c = quant ? containerOf(quant, container) : null
    tensors.push({
      name: fresh(name),
      // Runtimes allocate for 1 where a size is open, and take others on request.
      shape: Int32Array.from(shape, (d) => (typeof d === 'number' ? d : 1)),
      ...(open ? { shapeSignature: Int32Array.from(shape, (d) => (typeof d === 'number' ? d : -1)) } : {}),
      type: codeOf(c?.dtype ?? dtype),
      buffer: 0,
      ...(quant && c ? { quantization: scaleTable(quant, null, c.zero) } : {}),
      hasRank: true,
    })
    return tensors.length - 1
  }
  const store = (bytes: Uint8Array, table: TensorTable): number => {
    const key =
      bytes.length <= 256
        ? `${table.type} ${table.shape} ${table.quantization?.scale ?? ''} ${table.quantization?.zeroPoint ?? ''} ${bytes}`
        : null
    const have = key === null ? undefined : shared.get(key)
    if (have !== undefined) return have
    buffers.push(bytes)
    tensors.push({ ...table, name: fresh(table.name ?? 'constant'), buffer: buffers.length - 1, hasRank: true })
    if (key !== null) shared.set(key, tensors.length - 1)
    return tensors.length - 1
  }
  const bytesOf = (t: Tensor): Uint8Array => new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength).slice()
  const inLayout = (t: Tensor, layout: Layout): Tensor =>
    layout === 'file' && t.shape.length === 4 ? transpose.eval([t], { perm: [...PERM_TO_FILE] })[0]! : t

  const w: OperatorWriter = {
    consumers: (v) => uses.consumers(v),
    isOutput: (v) => uses.isOutput(v),
    flattened: new Map(),
    container: (q) => containerOf(q, kind),
    tensor(v, layout) {
      const slot = slots.get(v) ?? {}
      slots.set(v, slot)
      const wanted: Layout = v.shape?.length === 4 ? layout : 'core'
      if (slot[wanted] !== undefined) return slot[wanted]
      if (isConstant(v)) {
        const t = inLayout(v.data, wanted)
        slot[wanted] = v.quant ? w.weights(t, v.quant, v.quant.axis, v.name, false) : w.constant(t, v.name)
        return slot[wanted]
      }
      const other = slot[wanted === 'file' ? 'core' : 'file']
      if (other === undefined) throw errors.unsupportedTarget(`${v.name} has no tensor`)
      const out = declare(v.name, wanted === 'file' ? turned(v.shape!) : v.shape, v.dtype, v.quant)
      slot[wanted] = out
      w.add('TRANSPOSE', {
        inputs: [other, w.ints(wanted === 'file' ? PERM_TO_FILE : PERM_TO_CORE)],
        outputs: [out],
        options: ['TransposeOptions', {}],
      })
      return out
    },
    layoutOf(inputs) {
      const votes = inputs.map((v) => (v && v.shape?.length === 4 && !v.data ? slots.get(v) : undefined))
      return votes.some((s) => s?.file !== undefined) ? 'file' : 'core'
    },
    result(v, layout) {
      const wanted: Layout = v.shape?.length === 4 ? layout : 'core'
      const i = declare(v.name, wanted === 'file' ? turned(v.shape!) : v.shape, v.dtype, v.quant)
      slots.set(v, { [wanted]: i })
      return i
    },
    alias(v, layout, tensor) {
      slots.set(v, { [v.shape?.length === 4 ? layout : 'core']: tensor })
    },
    output(node, layout, fusable, make, ends) {
      const v = node.outputs[0]!
      if (!v.quant) {
        // Real numbers: the clamp that alone reads the result is the operator's own.
        const next = uses.consumers(v)
        const clamp = fusable && next.length === 1 && !uses.isOutput(v) ? next[0]!.op.clamp?.(next[0]!.inputs, next[0]!.attrs) : null
        const code = clamp ? activationFor(clamp) : null
        if (code !== null) absorbed.add(next[0]!)
        make(w.result(code === null ? v : next[0]!.outputs[0]!, layout), code ?? 0)
        return
      }
      const grid = v.quant
      const { lo, hi } = ends ?? grid
      const c = containerOf(grid, kind)
      const out = w.result(v, layout)
      // Ops that move numbers, or average them, cannot leave the grid they are on.
      const inside = node.op.quant === 'shared' || node.op === fixedAveragePool || (lo === c.lo && hi === c.hi)
      const steps = (x: number): number => Math.round(Math.abs(x) / grid.scale[0]!) * Math.sign(x)
      const fused =
        lo === 0 && c.lo === 0 && steps(6) === hi
          ? ActivationFunctionType.RELU6
          : steps(1) === hi && steps(-1) === lo
            ? ActivationFunctionType.RELU_N1_TO_1
            : null
      if (inside || (fusable && fused !== null)) {
        make(out, inside ? ActivationFunctionType.NONE : fused!)
        return
      }
      // No activation stops where the grid does: integers are compared with its ends instead.
      const shape = Array.from(tensors[out]!.shapeSignature ?? tensors[out]!.shape!, (d): Dim => (d < 0 ? BATCH : d))
      const wide = { ...grid, lo: c.lo, hi: c.hi }
      const bound = (value: number): number =>
        store(bytesOf(tensorOf(c.dtype, [1], [value + c.zero])), {
          name: 'bound',
          shape: Int32Array.of(1),
          type: codeOf(c.dtype),
          quantization: scaleTable(wide, null, c.zero),
        })
      const stops = [...(hi < c.hi ? [['MINIMUM', hi] as const] : []), ...(lo > c.lo ? [['MAXIMUM', lo] as const] : [])]
      let from = w.temp(shape, wide)
      make(from, ActivationFunctionType.NONE)
      stops.forEach(([type, end], i) => {
        const to = i === stops.length - 1 ? out : w.temp(shape, wide)
        w.add(type, { inputs: [from, bound(end)], outputs: [to], options: ['MaximumMinimumOptions', {}], version: 2 })
        from = to
      })
    },
    sized,
    temp: (shape, quant) => declare('between', shape, 'float32', quant),
    constant: (t, name) => store(bytesOf(t), { name, shape: Int32Array.from(t.shape), type: codeOf(t.dtype) }),
    ints: (values) => w.constant(tensorOf('int32', [values.length], values), 'sizes'),
    weights(t, quant, axis, name, packable) {
      const shape = Int32Array.from(t.shape)
      if (!quant) {
        if (t.dtype !== 'float32' || options.floatWeights !== 'float16') return w.constant(t, name)
        const half = Uint16Array.from(numbersOf(t) as Float32Array, numberToHalf)
        const stored = store(new Uint8Array(half.buffer), { name: `${name}_float16`, shape, type: TensorType.FLOAT16 })
        const wide = declare(name, t.shape, 'float32', null)
        w.add('DEQUANTIZE', { inputs: [stored], outputs: [wide], options: ['DequantizeOptions', {}], version: 3 })
        return wide
      }
      // Real weights that remember their grid (of a layer that computes in floats) go back onto it.
      const values = isFloat(t.dtype) ? numbersOf(quantizeConstant(t, { ...quant, axis })) : numbersOf(t)
      if (t.dtype === 'int32' || t.dtype === 'int64')
        return store(bytesOf(t), { name, shape, type: codeOf(t.dtype), quantization: scaleTable(quant, axis, 0) })
      if (options.packedWeights && packable && quant.hi <= 7 && quant.lo >= -8)
        return store(pack(values, 4), { name, shape, type: TensorType.INT4, quantization: scaleTable(quant, axis, 0) })
      // Weights of eight bits are signed, whatever activations are; only legacy files have them around a zero point of their own.
      const c = containerOf(quant, kind === 'uint8' ? 'uint8' : 'int8')
      const q = Float64Array.from(values as Int8Array, (x) => x + c.zero)
      return store(bytesOf(tensorOf(c.dtype, t.shape, q)), {
        name,
        shape,
        type: codeOf(c.dtype),
        quantization: scaleTable(quant, axis, c.zero),
      })
    },
    add(type, o: OperatorSpec) {
      const builtin = BuiltinOperator[type as keyof typeof BuiltinOperator]
      operators.push({
        opcodeIndex: codeIndex(builtin, undefined, o.version ?? 1),
        inputs: Int32Array.from(o.inputs),
        outputs: Int32Array.from(o.outputs),
        ...optionsOf(o.options),
      })
    },
  }

  function codeIndex(builtin: number, custom: string | undefined, version: number): number {
    const at = codes.findIndex((c) => c.builtinCode === builtin && c.version === version && c.customCode === custom)
    if (at >= 0) return at
    codes.push({
      deprecatedBuiltinCode: Math.min(builtin, 127),
      builtinCode: builtin,
      version,
      ...(custom === undefined ? {} : { customCode: custom }),
    })
    return codes.length - 1
  }

  // ── inputs ──
  const seeking = new Set<Value>()
  const feedsChannels = (v: Value): boolean => {
    if (seeking.has(v)) return false
    seeking.add(v)
    return uses.consumers(v).some((n) => channelOps.has(n.op) || (agnosticOps.has(n.op) && n.outputs.some(feedsChannels)))
  }
  /** The integers that an input or output has outside, where those inside are others. */
  const outside = (kinds: 'inputs' | 'outputs', i: number, v: Value): typeof kind | null => {
    const was = options.keepContainers ? origin?.[kinds][i] : undefined
    return v.quant && was?.grid && was.dtype !== kind && was.dtype in CONTAINERS ? (was.dtype as typeof kind) : null
  }
  const turnedInputs = graph.inputs.map((v) => v.shape?.length === 4 && feedsChannels(v))
  const inputs = graph.inputs.map((v, i) => {
    const layout: Layout = turnedInputs[i] ? 'file' : 'core'
    const other = outside('inputs', i, v)
    if (!other) return w.result(v, layout)
    const fed = declare(v.name, layout === 'file' ? turned(v.shape!) : v.shape, v.dtype, v.quant, other)
    const inner = w.result(v, layout)
    w.add('QUANTIZE', { inputs: [fed], outputs: [inner], options: ['QuantizeOptions', {}] })
    return fed
  })

  // ── operators ──
  const refused: string[] = []
  for (const node of graph.nodes) {
    if (absorbed.has(node)) continue
    const where = `${node.op.name === 'foreign' ? node.attrs.type : node.op.name} ${node.name || node.outputs[0]?.name}`
    try {
      if (node.op.name === 'foreign') carry(node)
      else {
        const rule = writes.get(node.op)
        if (!rule) throw errors.unsupportedTarget('TFLite has no such operator')
        rule(w, node)
      }
    } catch (e) {
      if ((e as { kind?: string }).kind !== 'unsupported') throw e
      refused.push(`${where}: ${(e as { what: string }).what}`)
      for (const v of node.outputs) if (!slots.has(v)) w.result(v, 'core')
    }
  }
  if (refused.length) throw errors.unsupportedTarget(refused.join('; '), 'tflite')

  function carry(node: Node): void {
    const payload = node.attrs.payload as Partial<ForeignPayload>
    if (!payload.operator || !payload.code) throw errors.unsupportedTarget('it comes from another format')
    const ins = node.inputs.map((v) => (v ? w.tensor(v, 'core') : -1))
    const outs = node.outputs.map((v) => w.result(v, 'core'))
    operators.push({
      ...payload.operator,
      opcodeIndex: codeIndex(payload.code.builtin, payload.code.custom, payload.code.version),
      inputs: Int32Array.from(ins),
      outputs: Int32Array.from(outs),
    })
  }

  // ── outputs ──
  const taken = new Set(inputs)
  const turnedOutputs = graph.outputs.map((v) => slots.get(v)?.file !== undefined)
  const outputs = graph.outputs.map((v, i) => {
    const slot = slots.get(v)
    let at = v.data ? w.tensor(v, 'core') : (slot?.file ?? slot?.core ?? w.tensor(v, 'core'))
    if (taken.has(at) || v.data) {
      // Runtimes want an output to be something that an operator made, and each of them another tensor.
      const t = tensors[at]!
      const copy = declare(
        graph.outputNames[i]!,
        Array.from(t.shapeSignature ?? t.shape!, (d): Dim => (d < 0 ? '?' : d)),
        v.dtype,
        v.quant,
      )
      w.add('RESHAPE', {
        inputs: [at, w.ints(Array.from(t.shapeSignature ?? t.shape!))],
        outputs: [copy],
        options: ['ReshapeOptions', { newShape: t.shape }],
      })
      at = copy
    }
    const other = outside('outputs', i, v)
    if (other) {
      const t = tensors[at]!
      const given = declare(
        graph.outputNames[i]!,
        Array.from(t.shapeSignature ?? t.shape!, (d): Dim => (d < 0 ? '?' : d)),
        v.dtype,
        v.quant,
        other,
      )
      w.add('QUANTIZE', { inputs: [at], outputs: [given], options: ['QuantizeOptions', {}] })
      at = given
    }
    taken.add(at)
    return at
  })
  outputs.forEach((at, i) => {
    const wanted = graph.outputNames[i]!
    const clash = tensors.findIndex((t, k) => t.name === wanted && k !== at)
    if (clash < 0) tensors[at] = { ...tensors[at]!, name: wanted }
  })

  const signature = origin?.parsed.model.signatureDefs?.[0]
  const external = (kinds: 'inputs' | 'outputs', i: number, own: string): string => {
    const before = origin?.parsed.graph[kinds][i]
    return signature?.[kinds]?.find((m) => m.tensorIndex === before)?.name ?? own
  }
  const metadata = { min_runtime_version: MIN_RUNTIME, ...keptMetadata(origin), ...options.metadata }
  const table = Object.entries(metadata).map(([name, value]) => {
    // The runtime's version field is a fixed 16 bytes.
    const bytes =
      typeof value === 'string' ? new TextEncoder().encode(name === 'min_runtime_version' ? value.padEnd(16, '\0') : value) : value
    buffers.push(bytes)
    return { name, buffer: buffers.length - 1 }
  })
  const message: Model = {
    version: 3,
    operatorCodes: codes,
    subgraphs: [{ tensors, inputs: Int32Array.from(inputs), outputs: Int32Array.from(outputs), operators, name: graph.name || 'main' }],
    description: options.description ?? 'dqc',
    buffers: buffers.map((data) => (data.length ? { data } : {})),
    metadata: table,
    signatureDefs: [
      {
        signatureKey: signature?.signatureKey ?? 'serving_default',
        subgraphIndex: 0,
        inputs: inputs.map((tensorIndex, i) => ({ name: external('inputs', i, tensors[tensorIndex]!.name!), tensorIndex })),
        outputs: outputs.map((tensorIndex, i) => ({ name: external('outputs', i, tensors[tensorIndex]!.name!), tensorIndex })),
      },
    ],
  }
  checkConstraints(message)
  return { model: message, channelsLast: { inputs: turnedInputs, outputs: turnedOutputs } }
}

/** Metadata of the source file that still holds: descriptions and attached labels, but no versions of its converter. */
function keptMetadata(origin: ReturnType<typeof tfliteOriginOf>): Record<string, Uint8Array> {
  const kept: Record<string, Uint8Array> = {}
  for (const m of origin?.parsed.model.metadata ?? []) {
    const data = origin?.parsed.model.buffers?.[m.buffer ?? 0]?.data
    if (m.name && data && m.name !== 'min_runtime_version' && m.name !== 'CONVERSION_METADATA' && !m.name.startsWith('dqc.'))
      kept[m.name] = data
  }
  return kept
}

function optionsOf(o: readonly [keyof Tables, object] | undefined): Partial<Operator> {
  if (!o) return {}
  const first = unions['BuiltinOptions']!.indexOf(o[0])
  if (first >= 0) return { builtinOptionsType: first, builtinOptions: o[1] }
  return { builtinOptions2Type: unions['BuiltinOptions2']!.indexOf(o[0]), builtinOptions2: o[1] }
}
