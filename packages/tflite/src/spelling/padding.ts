import { type Dim, knownShape } from '@dqc/core'
import { Padding } from '../format/schema.gen.ts'
import { Foreign } from './spelling.ts'

/** One axis of a window. */
interface Axis {
  readonly size: Dim
  readonly kernel: number
  readonly stride: number
  readonly dilation: number
}

/** SAME: out = ⌈size/stride⌉, what is missing padded half before and, the odd one, behind (TensorFlow's rule). */
function samePads({ size, kernel, stride, dilation }: Axis): [number, number] {
  const reach = dilation * (kernel - 1) + 1
  // Without a stride the pads do not depend on the size.
  if (typeof size === 'string' && stride !== 1) throw new Foreign(`SAME padding of an open size ${size} with stride ${stride}`)
  const out = typeof size === 'string' ? 0 : Math.ceil(size / stride)
  const total = typeof size === 'string' ? reach - 1 : Math.max((out - 1) * stride + reach - size, 0)
  return [Math.floor(total / 2), total - Math.floor(total / 2)]
}

/** Explicit pads [begin…, end…] of a padding code. */
export function padsOf(padding: number, axes: readonly Axis[]): number[] {
  if (padding === Padding.VALID) return axes.flatMap(() => [0, 0])
  const each = axes.map(samePads)
  return [...each.map((p) => p[0]), ...each.map((p) => p[1])]
}

/** The padding code that means exactly these pads, or null. */
export function paddingFor(pads: readonly number[], axes: readonly Axis[]): number | null {
  if (pads.every((p) => p === 0)) return Padding.VALID
  const known = axes.every((a) => typeof a.size === 'number' || a.stride === 1)
  return known && padsOf(Padding.SAME, axes).every((p, i) => p === pads[i]) ? Padding.SAME : null
}

/** Pads of a transposed convolution to `out` sizes: how much of the full result is cut off before and behind, and what is missing behind. */
export function transposedPads(
  padding: number,
  axes: readonly (Axis & { readonly out: number })[],
): { pads: number[]; outputPadding: number[] } {
  const each = axes.map(({ size, kernel, stride, out }) => {
    const full = (knownShape({ dtype: 'float32', shape: [size] })[0]! - 1) * stride + kernel
    const cut = Math.max(full - out, 0)
    const before = padding === Padding.SAME ? Math.floor(cut / 2) : 0
    return { before, behind: cut - before, extra: Math.max(out - full, 0) }
  })
  return { pads: [...each.map((e) => e.before), ...each.map((e) => e.behind)], outputPadding: each.map((e) => e.extra) }
}

/** The padding code of a transposed convolution with these pads and output sizes; null when there is none. */
export function transposedPaddingFor(
  pads: readonly number[],
  outputPadding: readonly number[],
  axes: readonly (Axis & { readonly out: number })[],
): number | null {
  for (const code of [Padding.VALID, Padding.SAME]) {
    const p = transposedPads(code, axes)
    if (p.pads.every((v, i) => v === pads[i]) && p.outputPadding.every((v, i) => v === outputPadding[i])) return code
  }
  return null
}
