import * as core from '@dqc/core'
import {
  type Artifact,
  errors,
  type FakeQuantAttrs,
  type Graph,
  gridOf,
  isConstant,
  type KernelRules,
  type Op,
  type QuantParams,
  quantizeConstant,
  type Target,
  type Tensor,
  tensorOf,
  type Value,
} from '@dqc/core'
import { int, type NodeWriter, type Write } from '../spelling/spelling.ts'
import { writeModel } from '../write/write.ts'
import { FLOAT_SUMS } from './qonnx.ts'

export interface QcdqOptions {
  /** vitis-ai: int8 everywhere, one power-of-two scale per tensor, biases on eight bits of their own. */
  readonly kind: 'qcdq' | 'vitis-ai'
  readonly version: string
}

/** QuantizeLinear → Clip → DequantizeLinear around float ops: quantizers of up to eight bits in standard ONNX (opset 13). */
export function qcdqTarget({ kind, version }: QcdqOptions): Target<'qdq'> {
  const vitis = kind === 'vitis-ai'
  const rules: KernelRules = {
    lowering: (node) => node.op.lower,
    tied: () => false,
    fixedGrid: () => null,
    perChannel: () => !vitis,
    pairLimit: null,
  }
  return {
    name: kind,
    accepts: 'qdq',
    rules,
    prepare: (graph) => graph,
    legalize: (graph) => graph,
    inexact: () => [FLOAT_SUMS],
    emit(graph: Graph<'qdq'>, stem, metadata): Artifact {
      if (vitis) checkVitis(graph)
      const bytes = writeModel(
        { ...withBiasQuantizers(graph), origin: null },
        { rules: new Map<Op, Write>([[core.fakeQuant, fakeQuantRule(vitis)]]), metadata, producer: { name: 'dqc', version } },
      )
      return {
        files: [{ path: `${stem}.onnx`, bytes }],
        storage: { weights: 8, activations: 8 },
        channelsLast: null,
        mapping: null,
        memory: null,
      }
    },
    examples: null,
  }
}

/** Kept grids of other tools may not be what the DPU computes with. Throws CompileError naming them. */
function checkVitis(graph: Graph<'qdq'>): void {
  const bad = graph.nodes.filter((n) => {
    if (n.op !== core.fakeQuant) return false
    const q = gridOf(n.inputs[1]!, n.attrs)
    return q.axis !== null || q.scale.some((s) => !Number.isInteger(Math.log2(s)))
  })
  if (bad.length)
    throw errors.unsupportedTarget(
      `${bad.length} quantizers, ${bad[0]!.outputs[0]!.name} among them, have other scales than one power of two per tensor`,
      'vitis-ai',
      'quantize the model anew: --bits 8 in place of --keep-scales',
    )
}

/** Biases that know their grid are stored on it. */
const withBiasQuantizers = (graph: Graph<'qdq'>): Graph<'qdq'> =>
  core.rewrite(graph, (b, node, inputs) => {
    const at = node.op.weights?.(node.attrs).bias ?? null
    const bias = at === null ? null : inputs[at]
    if (!isConstant(bias) || !bias.quant) return null
    const scale = b.constant(core.scalar(bias.quant.scale[0]!), `${bias.name}.scale`)
    const { lo, hi, axis } = bias.quant
    const next = inputs.with(at!, b.emit(core.fakeQuant, [b.constant(bias.data, bias.name), scale], { lo, hi, axis, fused: false }))
    return b.add(node.op, next, node.attrs, { name: node.name, outputs: node.outputs.map((v) => v.name) })
  })

/** The container of a grid: unsigned grids are bytes from 0, all others signed around 0. */
function containerOf(
  q: QuantParams,
  signedOnly: boolean,
  where: string,
): { dtype: 'int8' | 'uint8'; lo: number; hi: number; zero: number } {
  if (q.lo >= 0 && q.hi <= 255 && !signedOnly) return { dtype: 'uint8', lo: 0, hi: 255, zero: 0 }
  if (q.lo >= -128 && q.hi <= 127) return { dtype: 'int8', lo: -128, hi: 127, zero: 0 }
  if (q.hi - q.lo <= 255 && !signedOnly) return { dtype: 'uint8', lo: q.lo, hi: q.lo + 255, zero: -q.lo }
  throw errors.unsupportedTarget(`a grid from ${q.lo} to ${q.hi} does not fit ${signedOnly ? 'int8' : 'eight bits'}`, where)
}

const narrowed = (w: NodeWriter, name: string, q: QuantParams, c: ReturnType<typeof containerOf>): string => {
  if (q.lo === c.lo && q.hi === c.hi) return name
  const out = w.temp('clipped')
  const limit = (v: number): string => w.constant(tensorOf(c.dtype, [], [v + c.zero]), 'limit')
  w.node('Clip', [name, limit(q.lo), limit(q.hi)], [out])
  return out
}

/** Integers narrower than their container are clipped, so that readers can tell the bits of the grid. */
const fakeQuantRule =
  (signedOnly: boolean): Write =>
  (w, node, [x], [out]) => {
    const [vx, vs] = node.inputs as [Value, Value]
    const attrs = node.attrs as FakeQuantAttrs
    const q = gridOf(vs, attrs)
    const c = containerOf(q, signedOnly, `the quantizer of ${vx.name}`)
    const axis = attrs.axis === null ? [] : [int('axis', attrs.axis)]
    const scale = w.constant(attrs.axis === null ? core.scalar(q.scale[0]!) : tensorOf('float32', [q.scale.length], q.scale), 'scale')
    const zero = w.constant(
      tensorOf(c.dtype, attrs.axis === null ? [] : [q.scale.length], new Array(attrs.axis === null ? 1 : q.scale.length).fill(c.zero)),
      'zero',
    )
    if (isConstant(vx)) {
      const stored = quantizeConstant(vx.data, q)
      const kept: Tensor = tensorOf(
        c.dtype,
        stored.shape,
        Int16Array.from(core.numbersOf(stored) as Int8Array, (v) => v + c.zero),
      )
      w.node('DequantizeLinear', [narrowed(w, w.constant(kept, `${vx.name}_int`), q, c), scale, zero], [out!], axis)
      return
    }
    const wide = w.temp('steps')
    w.node('QuantizeLinear', [x!, scale, zero], [wide], axis)
    w.node('DequantizeLinear', [narrowed(w, wide, q, c), scale, zero], [out!], axis)
  }
