import { type ConvAttrs, conv, createBuilder, type Graph, type Node, relu, shapeOf, sizeOf, tensorOf, type Value } from '@dqc/core'
import { writes } from '../spelling/index.ts'
import { windowAttrs } from '../spelling/layers.ts'
import { int, ints, shapeTensor, trimmed, type Write } from '../spelling/spelling.ts'
import { type WriteOptions, writeModel } from '../write/write.ts'
import type { LoadedModel } from './index.ts'

/**
 * Operators of the layout in which ONNX Runtime convolves fastest: channels in blocks of a vector register's length b, [N, C/b, H, W, b]. It
 * takes to it by itself where weights are constant. Where they are computed, as in training, it copies what every window sees (im2col), which
 * takes longer than computing in blocks; so those convolutions are spelt in this layout here. Both the operators and b belong to the runtime on this processor.
 */
const DOMAIN = 'com.microsoft.nchwc'
const CHANNELS = 64
/** Weights are turned in every run, which takes longer than it saves where they meet fewer positions (batch × height × width). */
const FEWEST_POSITIONS = 512

/** A file that brings [1, 64, 1, 2] into the layout. */
export function blockProbe(): Uint8Array {
  const b = createBuilder()
  const y = b.emit(relu, [b.input('x', { dtype: 'float32', shape: [1, CHANNELS, 1, 2] })], {})
  const reorder: Write = (w, _, ins, outs) => w.node('ReorderInput', ins, outs, [], DOMAIN)
  return writeModel(b.build('float', [y]), { rules: new Map([[relu, reorder]]), domains: { [DOMAIN]: 1 } })
}

/** Channels in a block, as the loaded probe shows: the first channel's second pixel comes after the first pixels of a block. 1: there are none. */
export async function blockLength(probe: LoadedModel): Promise<number> {
  const x = tensorOf(
    'float32',
    [1, CHANNELS, 1, 2],
    Float32Array.from({ length: 2 * CHANNELS }, (_, i) => i),
  )
  const [y] = await probe([x])
  return Array.from(y!.data as Float32Array).indexOf(1)
}

/** How a graph is written so that its convolutions with computed weights run in blocks of b. */
export function blockedConvolutions(graph: Graph, b: number): WriteOptions {
  const computed = new Set(computedConvolutions(graph))
  const write: Write = (w, node, ins, outs) => {
    const form = computed.has(node) ? blocksOf(node, b) : null
    if (!form) return writes.get(conv)!(w, node, ins, outs)
    const a = node.attrs as ConvAttrs
    const shape = node.inputs[1]!.shape as number[]
    const [x, weight, bias] = ins as [string, string, string | undefined]
    const [split, turned, weights] = [w.temp('split'), w.temp('turned'), w.temp('weights')]
    const [channels, y] = [w.temp('channels'), w.temp('blocks')]
    w.node('Reshape', [weight, w.constant(shapeTensor(form.split))], [split])
    w.node('Transpose', [split], [turned], [ints('perm', form.perm)])
    w.node('Reshape', [turned, w.constant(shapeTensor(shape))], [weights])
    w.node('ReorderInput', [x], [channels], [], DOMAIN)
    const attributes = [...windowAttrs(a), int('group', a.group), ints('kernel_shape', shape.slice(2))]
    w.node('Conv', trimmed([channels, weights, bias ?? '']), [y], attributes, DOMAIN)
    w.node('ReorderOutput', [y], outs, [int('channels', shape[0]!)], DOMAIN)
  }
  return b < 2 ? {} : { rules: new Map([[conv, write]]), domains: { [DOMAIN]: 1 } }
}

/** Convolutions whose weights depend on an input of the graph. */
function computedConvolutions(graph: Graph): Node[] {
  const fed = new Set<Value>(graph.inputs)
  for (const n of graph.nodes) if (n.inputs.some((v) => v && fed.has(v))) for (const v of n.outputs) fed.add(v)
  return graph.nodes.filter((n) => n.op.name === 'conv' && fed.has(n.inputs[1]!))
}

/** How weights [O, C/G, h, w] are cut and turned: [O/b, C/b, h, w, b of C, b of O], [O/b, 1, h, w, b of O] where every channel has its own filter. */
function blocksOf(node: Node, b: number): { split: number[]; perm: number[] } | null {
  const { group } = node.attrs as ConvAttrs
  const { dtype, shape } = node.inputs[1]!
  if (dtype !== 'float32' || !shape || shape.length !== 4 || !shape.every((d) => typeof d === 'number')) return null
  const [O, C, h, w] = shape as [number, number, number, number]
  // A kernel of one place copies nothing.
  if (O % b !== 0 || h * w === 1) return null
  const positions = shapeOf(node.outputs[0]).filter((_, i) => i !== 1)
  if (positions.every((d) => typeof d === 'number') && sizeOf(positions) < FEWEST_POSITIONS) return null
  if (group === 1 && C % b === 0) return { split: [O / b, b, C / b, b, h, w], perm: [0, 2, 4, 5, 3, 1] }
  if (group === O && C === 1) return { split: [O / b, b, h, w], perm: [0, 2, 3, 1] }
  return null
}
