import { CompileError, invariant } from './errors.ts'
import type { Graph, Level, Node, QuantParams, TensorType, Value } from './graph.ts'
import type { Op } from './op.ts'
import { type DType, scalar, type Tensor, tensorOf } from './tensor.ts'

/** Optional facts about a new node. */
export interface NodeFacts {
  readonly name?: string
  /** Names for the outputs. */
  readonly outputs?: readonly string[]
  /** Types that outrank inference (a reader's declared shapes, for ops that cannot infer). */
  readonly types?: readonly TensorType[]
  readonly quant?: QuantParams | null
}

/** The only way to make nodes: infers, checks, names, and keeps topological order by construction. */
export interface Builder {
  input(name: string, type: TensorType, quant?: QuantParams | null): Value
  constant(data: Tensor, name?: string, quant?: QuantParams | null): Value
  /** A scalar constant of the builder's float type, one per value. */
  scalar(value: number): Value
  /** A 1-D int64 constant. */
  ints(values: readonly number[]): Value
  /** Adds a node and returns all outputs. */
  add<A>(op: Op<A>, inputs: readonly (Value | null)[], attrs: NoInfer<A>, facts?: NodeFacts): readonly Value[]
  /** Adds a node and returns its first output. */
  emit<A>(op: Op<A>, inputs: readonly (Value | null)[], attrs: NoInfer<A>, facts?: NodeFacts): Value
  /** Keeps an existing node whose inputs are unchanged. */
  adopt(node: Node): readonly Value[]
  producer(v: Value): Node | null
  /** Nodes so far, in order. */
  readonly nodes: readonly Node[]
  build<L extends Level>(
    level: L,
    outputs: readonly Value[],
    facts?: { name?: string; outputNames?: readonly string[]; origin?: unknown },
  ): Graph<L>
}

/**
 * `float` is the type of the constants that gradients and passes make; the network's own values keep theirs. `reserved` are names that values yet
 * to come bring along: only who asks for one by name gets it.
 */
export function createBuilder(float: DType = 'float32', reserved: ReadonlySet<string> = new Set()): Builder {
  const names = new Set<string>()
  const counters = new Map<string, number>()
  const inputs: Value[] = []
  const nodes: Node[] = []
  const producers = new Map<Value, Node>()
  const scalars = new Map<string, Value>()

  const fresh = (stem: string, asked = true): string => {
    const taken = (name: string): boolean => names.has(name) || reserved.has(name)
    if (stem !== '' && !names.has(stem) && !(reserved.has(stem) && !asked)) {
      names.add(stem)
      return stem
    }
    let n = counters.get(stem) ?? 0
    let name: string
    do name = `${stem}_${n++}`
    while (taken(name))
    counters.set(stem, n)
    names.add(name)
    return name
  }

  const b: Builder = {
    input(name, type, quant = null) {
      const v: Value = { name: fresh(name), dtype: type.dtype, shape: type.shape, data: null, quant }
      inputs.push(v)
      return v
    },
    constant: (data, name = 'const', quant = null) => ({ name: fresh(name), dtype: data.dtype, shape: data.shape, data, quant }),
    scalar(value) {
      const key = Object.is(value, -0) ? '-0' : String(value)
      let v = scalars.get(key)
      if (!v) scalars.set(key, (v = b.constant(scalar(value, float), 'c')))
      return v
    },
    ints: (values) => b.constant(tensorOf('int64', [values.length], values), 'ints'),
    add(op, ins, attrs, facts = {}) {
      let types: readonly TensorType[]
      try {
        types = facts.types ?? op.infer(ins, attrs)
      } catch (e) {
        if (e instanceof CompileError && e.where === null)
          throw new CompileError(e.code, e.kind, e.what, `node ${facts.name || op.name}`, e.hint)
        throw e
      }
      const outputs = types.map((t, i): Value => {
        const wanted = facts.outputs?.[i]
        return {
          name: wanted ? fresh(wanted) : fresh(i === 0 ? op.name : `${op.name}.${i}`, false),
          dtype: t.dtype,
          shape: t.shape,
          data: null,
          quant: facts.quant ?? null,
        }
      })
      const node: Node = { op, name: facts.name ?? '', inputs: ins, outputs, attrs }
      nodes.push(node)
      for (const v of outputs) producers.set(v, node)
      return outputs
    },
    emit: (op, ins, attrs, facts) => b.add(op, ins, attrs, facts)[0]!,
    adopt(node) {
      nodes.push(node)
      for (const v of node.outputs) {
        names.add(v.name)
        producers.set(v, node)
      }
      return node.outputs
    },
    producer: (v) => producers.get(v) ?? null,
    nodes,
    build(level, outputs, facts = {}) {
      for (const n of nodes) invariant(n.op.levels.includes(level), `${n.op.name} does not exist at the ${level} level`)
      return Object.freeze({
        level,
        name: facts.name ?? '',
        inputs: Object.freeze([...inputs]),
        outputs: Object.freeze([...outputs]),
        // One value may be several outputs; their names differ all the same.
        outputNames: Object.freeze([
          ...(facts.outputNames ?? outputs.map((v, i) => (outputs.findIndex((o) => o.name === v.name) === i ? v.name : fresh(v.name)))),
        ]),
        nodes: Object.freeze([...nodes]),
        origin: facts.origin ?? null,
      })
    },
  }
  return b
}
