import { type Builder, createBuilder } from '../ir/builder.ts'
import { errors, invariant } from '../ir/errors.ts'
import { type Graph, isConstant, type Node, type QuantParams, usesOf, type Value } from '../ir/graph.ts'
import { liveNodes } from '../ir/rewrite.ts'
import { isFloat, numbersOf, stridesOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { quantizeValue } from '../math/fixedPoint.ts'
import { fakeQuant, gridOf } from '../ops/fakeQuant.ts'
import { identity } from '../ops/foreign.ts'
import { dequantize, lookUp, quantize } from '../ops/integer.ts'
import type { KernelRules } from '../quant/rules.ts'

/** A constant on its grid: int8 steps. */
export function quantizeConstant(t: Tensor, q: QuantParams): Tensor {
  const from = numbersOf(t)
  const step = q.axis === null ? 1 : stridesOf(t.shape)[q.axis]!
  const n = q.axis === null ? 1 : t.shape[q.axis]!
  return tensorOf(
    // Weights that others quantized around a zero point of their own reach beyond eight signed bits.
    q.lo < -128 || q.hi > 127 ? 'int16' : 'int8',
    t.shape,
    Int16Array.from(from as Float32Array, (v, i) => quantizeValue(v, q.scale[q.axis === null ? 0 : Math.floor(i / step) % n]!, q.lo, q.hi)),
  )
}

/** The real numbers of a constant on its grid. */
function realConstant(t: Tensor, q: QuantParams): Tensor {
  const step = q.axis === null ? 1 : stridesOf(t.shape)[q.axis]!
  const n = q.axis === null ? 1 : t.shape[q.axis]!
  const steps = numbersOf(t) as Int8Array
  return tensorOf(
    'float32',
    t.shape,
    Float32Array.from(steps, (v, i) => v * q.scale[q.axis === null ? 0 : Math.floor(i / step) % n]!),
  )
}

const sameGrid = (p: QuantParams, q: QuantParams): boolean => p.lo === q.lo && p.hi === q.hi && p.scale[0] === q.scale[0]

/** Steps of one grid as steps of another. */
function onGrid(b: Builder, steps: Value, grid: QuantParams): Value {
  return sameGrid(steps.quant!, grid) ? steps : (lookUp(b, steps, grid, identity.name, (v) => v) ?? steps)
}

/**
 * qdq → integer: each op between quantizers becomes its integer form, constants become integers, and values that cross into or out of a
 * float island get the one conversion they need. `rules` say what the target has integer kernels for.
 * With `integerIO`, inputs and outputs are grid integers. Throws CompileError when a layer cannot be computed in 32-bit accumulators.
 */
export function lower(graph: Graph<'qdq'>, rules: KernelRules, integerIO: boolean): Graph<'integer'> {
  const b = createBuilder()
  const uses = usesOf(graph)
  const steps = new Map<Value, Value>()
  const reals = new Map<Value, Value>()

  const known = (v: Value): boolean => isConstant(v) || reals.has(v)
  const real = (wanted: Value): Value => {
    // A float op is only computed where somebody needs its real result, those before it first; chains of them may be long.
    const open = [wanted]
    for (let v = open.at(-1); v; v = open.at(-1)) {
      const s = steps.get(v)
      if (known(v)) open.pop()
      else if (s && isConstant(s)) reals.set(v, b.constant(realConstant(s.data, s.quant!), s.name))
      else if (s) reals.set(v, b.emit(dequantize, [s], { scale: s.quant!.scale[0]! }, { outputs: [`${v.name}.real`] }))
      else {
        const maker = uses.producer(v)
        invariant(maker, `${v.name} has no producer`)
        const missing = maker.inputs.filter((x): x is Value => x !== null && !known(x))
        if (missing.length) open.push(...missing)
        else asFloat(maker)
      }
    }
    return isConstant(wanted) ? wanted : reals.get(wanted)!
  }
  const asFloat = (node: Node): void => {
    const inputs = node.inputs.map((v) => (v ? (reals.get(v) ?? v) : null))
    const outs = b.add(node.op, inputs, node.attrs, {
      name: node.name,
      outputs: node.outputs.map((v) => v.name),
      ...(node.op.name === 'foreign' ? { types: node.outputs } : {}),
    })
    node.outputs.forEach((v, i) => reals.set(v, outs[i]!))
  }
  const isStep = (v: Value | null): boolean => v === null || steps.has(v) || isConstant(v)
  /** What an op that passes numbers through may be fed in integers: steps, and constants that are no data. */
  const isMoved = (v: Value | null): boolean => v === null || steps.has(v) || (isConstant(v) && !isFloat(v.dtype))
  for (const v of graph.inputs) {
    const readers = uses.consumers(v)
    const only = readers[0]
    if (integerIO && only?.op === fakeQuant) {
      const q = gridOf(only.inputs[1]!, only.attrs)
      steps.set(v, b.input(v.name, { dtype: 'int32', shape: v.shape }, q))
    } else reals.set(v, b.input(v.name, v))
  }
  for (const node of graph.nodes) {
    const [x] = node.inputs
    if (node.op === fakeQuant) {
      const grid = gridOf(node.inputs[1]!, node.attrs)
      const out = node.outputs[0]!
      if (isConstant(x)) steps.set(out, b.constant(quantizeConstant(x.data, grid), x.name, grid))
      else if (grid.axis !== null)
        throw errors.unsupportedModel(`${out.name} has a scale for every channel`, null, 'only weights may; activations have one scale')
      else if (steps.has(x!)) steps.set(out, onGrid(b, steps.get(x!)!, grid))
      else {
        const maker = uses.producer(x!)
        const lowering = maker ? rules.lowering(maker) : null
        // Moving and rounding may change places: numbers that an op only passes through are on its result's grid before it.
        const moves = maker?.op.quant === 'shared'
        const fed = (v: Value | null): Value | null => {
          const s = v && steps.get(v)
          return s ? (moves ? onGrid(b, s, grid) : s) : v
        }
        const fused =
          node.attrs.fused && maker && lowering && maker.inputs.every(moves ? isMoved : isStep)
            ? lowering(b, maker, maker.inputs.map(fed), grid)
            : null
        steps.set(
          out,
          fused ?? b.emit(quantize, [real(x!)], { scale: grid.scale[0]!, lo: grid.lo, hi: grid.hi }, { quant: grid, outputs: [out.name] }),
        )
      }
      continue
    }
    // Ops that pass numbers through stay on the grid they are fed.
    const lowering = node.op.quant === 'shared' ? rules.lowering(node) : null
    const grids = node.inputs.flatMap((v) => (v && steps.get(v)?.quant) ?? [])
    const grid = grids[0]
    if (lowering && grid && node.inputs.every(isMoved) && grids.every((q) => sameGrid(q, grid))) {
      const lowered = lowering(
        b,
        node,
        node.inputs.map((v) => (v ? (steps.get(v) ?? v) : null)),
        grid,
      )
      if (lowered) steps.set(node.outputs[0]!, lowered)
    }
  }
  const outputs = graph.outputs.map((v) => (integerIO && steps.has(v) ? steps.get(v)! : real(v)))
  const built = b.build('integer', outputs, { name: graph.name, outputNames: graph.outputNames, origin: graph.origin })
  return named({ ...built, nodes: Object.freeze(liveNodes(built.nodes, outputs)) }, steps)
}

/** Integers under the names of the values whose steps they are: reports and files speak of the network's own layers. */
function named(graph: Graph<'integer'>, steps: ReadonlyMap<Value, Value>): Graph<'integer'> {
  const names = new Map<Value, string>()
  const taken = new Set(graph.inputs.map((v) => v.name))
  for (const [v, s] of steps)
    if (!v.data && !s.data && !names.has(s) && !taken.has(v.name)) {
      names.set(s, v.name)
      taken.add(v.name)
    }
  const b = createBuilder()
  const map = new Map<Value, Value>(graph.inputs.map((v) => [v, b.input(v.name, v, v.quant)]))
  for (const node of graph.nodes) {
    const outs = b.add(
      node.op,
      node.inputs.map((v) => (v ? (map.get(v) ?? v) : null)),
      node.attrs,
      {
        name: node.name,
        quant: node.outputs[0]!.quant,
        outputs: node.outputs.map((v) => names.get(v) ?? v.name),
        ...(node.op.name === 'foreign' ? { types: node.outputs } : {}),
      },
    )
    node.outputs.forEach((v, i) => {
      map.set(v, outs[i]!)
    })
  }
  const outputs = graph.outputs.map((v) => map.get(v) ?? v)
  return b.build('integer', outputs, { name: graph.name, outputNames: graph.outputNames, origin: graph.origin })
}
