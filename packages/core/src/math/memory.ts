/** A buffer and the steps of the program between which its contents matter. */
export interface Buffer {
  readonly size: number
  /** The step that writes it. */
  readonly first: number
  /** The last step that reads it. */
  readonly last: number
}

export interface MemoryPlan {
  /** Offset of each buffer. */
  readonly offsets: readonly number[]
  readonly size: number
}

/**
 * Places buffers so that those alive together do not overlap: the largest first, each at the lowest offset where it fits (greedy by size,
 * Pisarchyk and Lee 2020, arXiv 2001.03288, §4.3).
 */
export function planMemory(buffers: readonly Buffer[]): MemoryPlan {
  const order = buffers.map((_, i) => i).sort((a, b) => buffers[b]!.size - buffers[a]!.size || a - b)
  const offsets = new Array<number>(buffers.length).fill(0)
  const placed: number[] = []
  for (const i of order) {
    const own = buffers[i]!
    const neighbours = placed
      .filter((k) => buffers[k]!.first <= own.last && own.first <= buffers[k]!.last)
      .sort((a, b) => offsets[a]! - offsets[b]!)
    let at = 0
    for (const k of neighbours) {
      if (at + own.size <= offsets[k]!) break
      at = Math.max(at, offsets[k]! + buffers[k]!.size)
    }
    offsets[i] = at
    placed.push(i)
  }
  return { offsets, size: buffers.reduce((n, b, i) => Math.max(n, offsets[i]! + b.size), 0) }
}
