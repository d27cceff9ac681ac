import {
  CompileError,
  createBuilder,
  type Dim,
  errors,
  fakeQuant,
  foreign,
  type Graph,
  isConstant,
  numbersOf,
  type QuantParams,
  reshape,
  type Tensor,
  tensorOf,
  transpose,
  type Value,
} from '@dqc/core'
import { bufferOf, type ParsedModel, parseModel, typeOf } from '../format/model.ts'
import type { Operator, Tensor as TensorTable } from '../format/schema.gen.ts'
import { constantOf, elementName, elementOf, type FileGrid, gridOf, paramsOf, realTensor } from '../format/tensors.ts'
import { clampOf } from '../spelling/activation.ts'
import { reads } from '../spelling/index.ts'
import {
  Foreign,
  type ForeignPayload,
  type Laid,
  type Layout,
  type OperatorReader,
  PERM_TO_CORE,
  PERM_TO_FILE,
} from '../spelling/spelling.ts'

export interface ReadOptions {
  /** Sizes that replace an input's declared ones, in the file's order of axes. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>
}

/** How an input or output of a graph lies in the file. */
export interface FileTensor {
  readonly name: string
  readonly dtype: Tensor['dtype']
  /** Sizes in the file's order; −1 where the file leaves one open. */
  readonly shape: readonly number[]
  /** 'core': the graph has it with channels second, the file with channels last. */
  readonly layout: Layout
  /** Its grid, when the file holds integers and the graph their real numbers. */
  readonly grid: FileGrid | null
}

/** What a graph read from TFLite remembers of its file. */
export interface TfliteOrigin {
  readonly format: 'tflite'
  readonly parsed: ParsedModel
  readonly inputs: readonly FileTensor[]
  readonly outputs: readonly FileTensor[]
  /** Integers of the file's activations: the container that a writer should keep. */
  readonly container: 'int8' | 'uint8' | 'int16' | null
}

export const tfliteOriginOf = (graph: Graph): TfliteOrigin | null => {
  const o = graph.origin as TfliteOrigin | null
  return o?.format === 'tflite' ? o : null
}

/** Name of the batch axis that a file leaves open. */
const BATCH = 'batch'

/** Operators whose rank-4 data has channels, and is read with channels second. */
const SPATIAL = new Set([
  'CONV_2D',
  'DEPTHWISE_CONV_2D',
  'TRANSPOSE_CONV',
  'AVERAGE_POOL_2D',
  'MAX_POOL_2D',
  'RESIZE_BILINEAR',
  'RESIZE_NEAREST_NEIGHBOR',
  'SPACE_TO_DEPTH',
  'DEPTH_TO_SPACE',
])
/** Operators that work in either order of axes. */
const AGNOSTIC = new Set([
  'QUANTIZE',
  'DEQUANTIZE',
  'PAD',
  'PADV2',
  'MIRROR_PAD',
  'ADD',
  'SUB',
  'MUL',
  'DIV',
  'MAXIMUM',
  'MINIMUM',
  'CONCATENATION',
  'RELU',
  'RELU6',
  'RELU_N1_TO_1',
  'LOGISTIC',
  'TANH',
  'HARD_SWISH',
  'LEAKY_RELU',
  'PRELU',
  'ELU',
  'GELU',
])

/**
 * Reads a TFLite model (schema version 3, its first subgraph). Float files become float graphs; files with quantized activations become
 * qdq graphs of the real numbers that their integers stand for, on the file's own grids. Rank-4 data next to operators with channels has
 * them second, as everywhere in core. Throws CompileError when the file is damaged, or holds something quantized that dqc does not know.
 */
export function readModel(bytes: Uint8Array, options: ReadOptions = {}): Graph<'float'> | Graph<'qdq'> {
  return modelToGraph(parseModel(bytes), options)
}

/** The message → graph half of {@link readModel}. */
export function modelToGraph(parsed: ParsedModel, options: ReadOptions = {}): Graph<'float'> | Graph<'qdq'> {
  const { model, graph } = parsed
  const { tensors } = graph
  const b = createBuilder()
  const grids = tensors.map(gridOf)
  const slots = tensors.map((): { file: Value | null; core: Value | null } => ({ file: null, core: null }))
  const constants = new Map<number, Tensor>()
  const nameOf = (i: number): string => tensors[i]!.name || `tensor_${i}`
  const made = new Set<number>(graph.inputs)
  for (const o of graph.operators) for (const i of o.outputs ?? []) made.add(i)
  tensors.forEach((t, i) => {
    if (made.has(i)) return
    const c = constantOf(parsed, t)
    if (c) constants.set(i, c)
    else if (bufferOf(parsed, t.buffer ?? 0).length === 0 && Array.from(t.shape ?? []).includes(0))
      constants.set(i, tensorOf('float32', Array.from(t.shape!), []))
  })
  const quantized = [...(graph.inputs ?? []), ...graph.operators.flatMap((o) => [...(o.outputs ?? [])])].some((i) => grids[i])

  const consumers = new Map<number, Operator[]>()
  for (const o of graph.operators) for (const i of new Set(o.inputs ?? [])) consumers.set(i, [...(consumers.get(i) ?? []), o])
  const seeking = new Set<number>()
  const feedsChannels = (i: number): boolean => {
    if (seeking.has(i)) return false
    seeking.add(i)
    return (consumers.get(i) ?? []).some((o) => {
      const type = typeOf(model, o)
      return SPATIAL.has(type) || (AGNOSTIC.has(type) && Array.from(o.outputs ?? []).some(feedsChannels))
    })
  }
  const perm = (s: readonly Dim[], p: readonly number[]): Dim[] => p.map((k) => s[k]!)

  // ── inputs ──
  const given = options.shapes ?? {}
  const unknown = Object.keys(given).filter((n) => !Array.from(graph.inputs).some((i) => nameOf(i) === n))
  if (unknown.length)
    throw errors.usage(
      `the model has no input ${unknown.join(', ')}`,
      null,
      `its inputs are ${Array.from(graph.inputs, nameOf).join(', ')}`,
    )
  const inputs = Array.from(graph.inputs, (i): FileTensor => {
    const t = tensors[i]!
    const declared = Array.from(t.shapeSignature?.length ? t.shapeSignature : (t.shape ?? []))
    const name = nameOf(i)
    const wanted = given[name]
    if (wanted && (wanted.length !== declared.length || declared.some((d, k) => d >= 0 && d !== wanted[k])))
      throw errors.usage(`input ${name} has the shape [${declared.map((d) => (d < 0 ? '?' : d))}]`, null, '--shape is for its open sizes')
    const shape = wanted ?? declared
    const dims = shape.map((d, k): Dim => (d >= 0 ? d : k === 0 ? BATCH : `${name}_${k}`))
    const layout: Layout = dims.length === 4 && feedsChannels(i) ? 'core' : 'file'
    const { dtype } = elementOf(t.type)
    const grid = grids[i] ?? null
    const fed = b.input(name, { dtype: grid ? 'float32' : dtype, shape: layout === 'core' ? perm(dims, PERM_TO_CORE) : dims })
    slots[i]![layout] = grid ? onGrid(fed, grid, 'a network input', false, name) : fed
    return { name, dtype, shape, layout, grid }
  })

  function onGrid(
    v: Value,
    g: FileGrid,
    where: string,
    fused: boolean,
    name: string,
    clamp: readonly [number, number] | null = null,
  ): Value {
    const q = paramsOf(g, where)
    const limits = clamp ? withinClamp(q, clamp) : q
    const scale = b.constant(tensorOf('float32', q.axis === null ? [] : [q.scale.length], q.scale), `${name}.scale`)
    const attrs = { lo: limits.lo, hi: limits.hi, axis: q.axis, fused }
    return b.emit(fakeQuant, [v, scale], attrs, { outputs: [fused ? name : `${name}.q`] })
  }

  /** Input i of an operator, which may be a constant, in the file's order of axes. */
  const file = (i: number): Value => {
    const slot = slots[i]!
    if (!slot.file && slot.core) slot.file = b.emit(transpose, [slot.core], { perm: [...PERM_TO_FILE] })
    if (!slot.file) {
      const c = constants.get(i)
      if (!c)
        throw errors.badModel(
          `nothing makes ${nameOf(i)}`,
          `tensor ${nameOf(i)}`,
          'the operators are out of order, or a variable has no value',
        )
      const g = grids[i] ?? null
      const real = b.constant(realTensor(c, g), nameOf(i))
      slot.file = g && quantized ? onGrid(real, g, nameOf(i), false, nameOf(i)) : real
    }
    return slot.file
  }
  const core = (i: number): Value => {
    const slot = slots[i]!
    if (!slot.core) {
      const v = file(i)
      if ((v.shape?.length ?? 0) !== 4) throw new Foreign(`${nameOf(i)} has ${v.shape?.length} axes, not four`)
      const c = constants.get(i)
      if (!c) slot.core = b.emit(transpose, [v], { perm: [...PERM_TO_CORE] })
      else {
        const g = grids[i] ?? null
        const turned = transpose.eval([realTensor(c, g)], { perm: [...PERM_TO_CORE] })[0]!
        const real = b.constant(turned, nameOf(i))
        slot.core =
          g && quantized
            ? onGrid(real, { ...g, axis: g.axis === null ? null : PERM_TO_CORE.indexOf(g.axis as 0) }, nameOf(i), false, nameOf(i))
            : real
      }
    }
    return slot.core
  }

  const unsupported: string[] = []
  const poisoned = new Set<number>()
  graph.operators.forEach((o, index) => {
    const type = typeOf(model, o)
    const ins = Array.from(o.inputs ?? [])
    const outs = Array.from(o.outputs ?? [])
    const where = `operator ${index} (${type})`
    const input = (i: number): number => {
      const t = ins[i]
      if (t === undefined || t < 0) throw errors.badModel(`${type} lacks its input ${i}`, where)
      return t
    }
    // What follows an unsupported operator cannot be judged.
    if (ins.some((i) => poisoned.has(i))) {
      for (const i of outs) poisoned.add(i)
      return
    }
    let emitted = 0
    const layout: Layout = ins.some((i) => i >= 0 && slots[i]!.core) ? 'core' : 'file'
    const reader: OperatorReader = {
      b,
      type,
      options: o.builtinOptions ?? o.builtinOptions2 ?? {},
      inputCount: ins.length,
      outputCount: outs.length,
      layout,
      has: (i) => ins[i] !== undefined && ins[i]! >= 0,
      file: (i) => file(input(i)),
      core: (i) => core(input(i)),
      operand(i, rank) {
        const k = input(i)
        const own = tensors[k]!.shape?.length ?? 0
        // Only four axes have two orders.
        if (layout === 'file' || (rank ?? 4) > 4) return file(k)
        if (own === 4) return core(k)
        const v = file(k)
        if (rank !== 4 || own > 4) return v
        const shape = [...Array<number>(4 - own).fill(1), ...(tensors[k]!.shape ?? [])]
        const c = constants.get(k)
        const turn = (t: Tensor): Tensor => transpose.eval([{ ...t, shape }], { perm: [...PERM_TO_CORE] })[0]!
        const g = grids[k] ?? null
        if (c) {
          const real = b.constant(turn(realTensor(c, g)), nameOf(k))
          return g && quantized ? onGrid(real, { ...g, axis: null }, nameOf(k), false, nameOf(k)) : real
        }
        return b.emit(transpose, [b.emit(reshape, [v], { shape })], { perm: [...PERM_TO_CORE] })
      },
      rank: (i) => tensors[input(i)]!.shape?.length ?? 0,
      outShape: (k = 0) => declaredShape(tensors[outs[k]!]!),
      outType: () => elementOf(tensors[outs[0]!]!.type).dtype,
      numbers(i) {
        const c = constants.get(input(i))
        if (!c) throw new Foreign(`input ${i} of ${type} is computed at run time`)
        return Array.from(numbersOf(c) as Float64Array)
      },
      real(i) {
        const c = constants.get(input(i))
        return c ? realTensor(c, grids[ins[i]!] ?? null) : null
      },
      weight(i, t, axis, name = nameOf(ins[i]!)) {
        const g = grids[input(i)]
        const grid = g && { ...g, axis: g.axis === null ? null : axis }
        // Weights of a layer that computes in floats remember their grid, and can be written on it again.
        if (!grid || !grids[outs[0]!]) return b.constant(t, name, grid && paramsOf(grid, name))
        return onGrid(b.constant(t, name), grid, name, false, name)
      },
      bias(i, x, w) {
        if (ins[i] === undefined || ins[i]! < 0) return null
        const c = constants.get(ins[i]!)
        if (!c) throw new Foreign('the bias is computed at run time')
        const [gx, gw] = [grids[input(x)], grids[input(w)]]
        if (c.dtype !== 'int32' && c.dtype !== 'int64') return b.constant(realTensor(c, null), nameOf(ins[i]!))
        if (!gx || !gw) throw new Foreign('an integer bias without grids')
        const scale = Float32Array.from(gw.scale, (s) => gx.scale[0]! * s)
        // Exact up to 24 bits; beyond them (dead channels) kernels round their accumulators to single precision just so.
        const real = Float32Array.from(numbersOf(c) as Int32Array, (q, k) => q * scale[scale.length === 1 ? 0 : k]!)
        return b.constant(tensorOf('float32', c.shape, real), nameOf(ins[i]!))
      },
      emit: (op, values, attrs) => {
        // The operator's own name goes to what it computes, and not to what prepares its inputs.
        const plain = emitted++ === 0 && !grids[outs[0]!]
        return b.emit(op, values, attrs, plain ? { name: nameOf(outs[0]!), outputs: [nameOf(outs[0]!)] } : { name: nameOf(outs[0]!) })
      },
      finish(v, activation = 0, k = 0) {
        const clamp = clampOf(activation)
        const g = grids[outs[k]!]
        if (g) return onGrid(v, g, where, true, nameOf(outs[k]!), clamp?.range ?? null)
        return clamp ? clamp.emit(b, v) : v
      },
    }
    try {
      const rule = reads.get(type)
      if (!rule) throw new Foreign(`${type} is not in dqc's vocabulary`)
      const result = rule(reader)
      const laid = Array.isArray(result) ? (result as readonly Laid[]) : [result as Laid]
      laid.forEach(({ value, layout: l }, k) => {
        const i = outs[k]
        if (i === undefined) return
        if (value.shape?.length === 4) slots[i]![l] = value
        else slots[i]!.file = value
        if (isConstant(value) && l === 'file') constants.set(i, value.data)
      })
    } catch (e) {
      if (!(e instanceof Foreign) && !(e instanceof CompileError && e.code === 'unsupported-model'))
        throw e instanceof CompileError && e.where === null ? new CompileError(e.code, e.kind, e.what, where, e.hint) : e
      const touched = [...ins.filter((i) => i >= 0), ...outs]
      if (touched.some((i) => grids[i] && !constants.has(i)) || touched.some((i) => elementOf(tensors[i]!.type).dtype === 'opaque')) {
        unsupported.push(`${where}: ${(e as Error).message}`)
        for (const i of outs) poisoned.add(i)
        return
      }
      const code = model.operatorCodes![o.opcodeIndex ?? 0]!
      const payload: ForeignPayload = {
        operator: o,
        code: {
          builtin: Math.max(code.deprecatedBuiltinCode ?? 0, code.builtinCode ?? 0),
          custom: code.customCode,
          version: code.version ?? 1,
        },
      }
      const types = outs.map((i) => ({
        dtype: elementOf(tensors[i]!.type).dtype,
        shape: declaredShape(tensors[i]!).map((d, k): Dim => (d >= 0 ? d : k === 0 ? BATCH : '?')),
      }))
      const values = b.add(
        foreign,
        ins.map((i) => (i < 0 ? null : file(i))),
        { type, reason: (e as Error).message, payload },
        { name: nameOf(outs[0] ?? 0), types, outputs: outs.map(nameOf) },
      )
      outs.forEach((i, k) => {
        slots[i]!.file = values[k]!
      })
    }
  })
  if (unsupported.length)
    throw errors.unsupportedModel(unsupported.join('; '), null, 'these operators work on integers that dqc does not know')

  // ── outputs ──
  const outputs = Array.from(graph.outputs, (i): FileTensor & { value: Value } => {
    const t = tensors[i]!
    const slot = slots[i]!
    const layout: Layout = slot.core && !slot.file ? 'core' : 'file'
    const value = layout === 'core' ? slot.core! : file(i)
    return { name: nameOf(i), dtype: elementOf(t.type).dtype, shape: declaredShape(t), layout, grid: grids[i] ?? null, value }
  })
  const activations = new Set(
    graph.operators.flatMap((o) => Array.from(o.outputs ?? []).flatMap((i) => (grids[i] ? [elementName(tensors[i]!.type)] : []))),
  )
  const origin: TfliteOrigin = {
    format: 'tflite',
    parsed,
    inputs,
    outputs: outputs.map(({ value: _, ...rest }) => rest),
    container: activations.size === 0 ? null : activations.has('INT16') ? 'int16' : activations.has('INT8') ? 'int8' : 'uint8',
  }
  const facts = { name: graph.name ?? '', outputNames: outputs.map((o) => o.name), origin }
  const values = outputs.map((o) => o.value)
  return quantized ? b.build('qdq', values, facts) : b.build('float', values, facts)
}

const declaredShape = (t: TensorTable): number[] => Array.from(t.shapeSignature?.length ? t.shapeSignature : (t.shape ?? []))

/** The steps of a grid inside an interval, rounded as runtimes do it: half away from zero. */
function withinClamp(q: QuantParams, [min, max]: readonly [number, number]): { lo: number; hi: number } {
  const steps = (v: number): number => Math.sign(v) * Math.round(Math.abs(v) / q.scale[0]!)
  return {
    lo: min === Number.NEGATIVE_INFINITY ? q.lo : Math.max(q.lo, steps(min)),
    hi: max === Number.POSITIVE_INFINITY ? q.hi : Math.min(q.hi, steps(max)),
  }
}
