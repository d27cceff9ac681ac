import { type Graph, isConstant, type Node, usesOf, type Value } from '../ir/graph.ts'
import { isFloat } from '../ir/tensor.ts'

/** What a node can be: computed in integers, in floating point, or whichever makes fewer conversions. */
export type Side = 'integer' | 'float' | 'either'

const INFINITE = 1e9

/**
 * Decides which nodes run in integers so that the fewest values are converted between the two worlds: a minimum cut, where each value
 * that one side makes and the other uses costs one (Ford–Fulkerson with breadth-first search; the graphs are small). Among equal cuts the
 * one with most integer nodes is taken. Values of the float inputs and outputs belong to the float side.
 */
export function assignIslands(graph: Graph, side: (node: Node) => Side, integerIO: boolean): ReadonlySet<Node> {
  const uses = usesOf(graph)
  const SOURCE = 0
  const SINK = 1
  let count = 2
  const ids = new Map<Node | Value, number>()
  const edges: { to: number; cap: number }[] = []
  const out: number[][] = [[], []]
  const id = (x: Node | Value): number => {
    let n = ids.get(x)
    if (n === undefined) {
      ids.set(x, (n = count++))
      out[n] = []
    }
    return n
  }
  const link = (from: number, to: number, cap: number): void => {
    out[from]!.push(edges.length)
    edges.push({ to, cap })
    out[to]!.push(edges.length)
    edges.push({ to: from, cap: 0 })
  }
  const data = (node: Node): Value[] => node.inputs.filter((v): v is Value => v !== null && !isConstant(v) && isFloat(v.dtype))
  for (const node of graph.nodes) {
    const s = side(node)
    if (s === 'integer') link(SOURCE, id(node), INFINITE)
    else if (s === 'float') link(id(node), SINK, INFINITE)
    else id(node)
  }
  const value = (v: Value, maker: number, users: readonly number[]): void => {
    // One quantize or dequantize serves all users on the other side.
    const down = count++
    out[down] = []
    const up = count++
    out[up] = []
    link(maker, down, 1)
    link(up, maker, 1)
    for (const u of users) {
      link(down, u, INFINITE)
      link(u, up, INFINITE)
    }
    ids.set(v, down)
  }
  const io = integerIO ? SOURCE : SINK
  for (const v of graph.inputs) if (isFloat(v.dtype)) value(v, io, uses.consumers(v).map(id))
  for (const node of graph.nodes)
    for (const v of node.outputs) {
      if (!isFloat(v.dtype)) continue
      const users = uses
        .consumers(v)
        .filter((n) => data(n).includes(v))
        .map(id)
      value(v, id(node), uses.isOutput(v) ? [...users, io] : users)
    }

  const reach = (from: number, forward: boolean): Int32Array => {
    const via = new Int32Array(count).fill(-1)
    const queue = [from]
    via[from] = -2
    for (let i = 0; i < queue.length; i++)
      for (const e of out[queue[i]!]!) {
        const edge = edges[forward ? e : e ^ 1]!
        const to = edges[e]!.to
        if (edge.cap > 0 && via[to] === -1) {
          via[to] = e
          queue.push(to)
        }
      }
    return via
  }
  for (;;) {
    const via = reach(SOURCE, true)
    if (via[SINK] === -1) break
    let flow = INFINITE
    for (let n = SINK; n !== SOURCE; n = edges[via[n]! ^ 1]!.to) flow = Math.min(flow, edges[via[n]!]!.cap)
    for (let n = SINK; n !== SOURCE; n = edges[via[n]! ^ 1]!.to) {
      edges[via[n]!]!.cap -= flow
      edges[via[n]! ^ 1]!.cap += flow
    }
  }
  // Everything that cannot reach the sink any more may be integer.
  const toSink = reach(SINK, false)
  return new Set(graph.nodes.filter((n) => toSink[id(n)] === -1 && side(n) !== 'float'))
}
