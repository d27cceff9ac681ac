import { roundHalfEven } from '../math/fixedPoint.ts'

export type ObserverKind = 'minmax' | 'percentile' | 'entropy' | 'mse'
export const observerKinds: readonly ObserverKind[] = ['minmax', 'percentile', 'entropy', 'mse']

/** Bins over [−reach, reach]. A power of two, so that doubling the reach merges whole bins. */
const BINS = 8192
const HALF = BINS / 2

/** Share of samples that the percentile observer keeps, as NVIDIA's and Intel's calibrators do by default. */
const PERCENTILE = 0.9999

/** What is remembered of a tensor: its extremes and a histogram. Memory does not grow with the number of samples. */
export interface Range {
  readonly min: number
  readonly max: number
  readonly count: number
  readonly reach: number
  /** Counts per bin, exact zeros left out (they lie on every grid). */
  readonly bins: Float64Array
}

export interface Observer {
  add(values: ArrayLike<number>): void
  range(): Range
}

/** A streaming histogram whose reach doubles, by merging bins in pairs, whenever a larger value comes. */
export function createObserver(): Observer {
  let min = Number.POSITIVE_INFINITY
  let max = Number.NEGATIVE_INFINITY
  let count = 0
  let reach = 0
  let bins = new Float64Array(BINS)
  const grow = (to: number): void => {
    if (reach === 0) {
      reach = 2 ** Math.ceil(Math.log2(to))
      if (reach < to) reach *= 2
      return
    }
    while (reach < to) {
      const next = new Float64Array(BINS)
      for (let i = 0; i < BINS; i++) next[HALF + Math.floor((i - HALF) / 2)]! += bins[i]!
      bins = next
      reach *= 2
    }
  }
  return {
    add(values) {
      let lo = min
      let hi = max
      for (let i = 0; i < values.length; i++) {
        const v = values[i]!
        if (v < lo) lo = v
        if (v > hi) hi = v
      }
      min = lo
      max = hi
      count += values.length
      const top = Math.max(Math.abs(lo), Math.abs(hi))
      if (!(top > 0) || !Number.isFinite(top)) return
      if (top > reach) grow(top)
      const k = HALF / reach
      for (let i = 0; i < values.length; i++) {
        const v = values[i]!
        if (v !== 0) bins[Math.min(BINS - 1, Math.floor(v * k + HALF))]!++
      }
    },
    range: () => ({ min: count ? min : 0, max: count ? max : 0, count, reach, bins: bins.slice() }),
  }
}

/** Centres of the bins that hold anything, with their counts. */
function samples(r: Range): { x: Float64Array; n: Float64Array } {
  const at: number[] = []
  for (let i = 0; i < BINS; i++) if (r.bins[i]! > 0) at.push(i)
  return { x: Float64Array.from(at, (i) => ((i + 0.5 - HALF) * r.reach) / HALF), n: Float64Array.from(at, (i) => r.bins[i]!) }
}

/**
 * The scale of a grid [lo, hi] for values like those observed, > 0.
 * minmax: everything fits. percentile: 99.99 % fit. mse: least Σ(x − fq(x))². entropy: least Kullback–Leibler divergence between the clipped
 * distribution and its quantized self (Migacz 2017, "8-bit inference with TensorRT").
 */
export function chooseScale(r: Range, kind: ObserverKind, lo: number, hi: number, powerOfTwo = false): number {
  const free = freeScale(r, kind, lo, hi)
  if (!powerOfTwo) return free
  // Of the powers of two around it the one with the least squared error; a range that must fit is never cut.
  const up = 2 ** Math.ceil(Math.log2(free))
  if (kind === 'minmax' || r.reach === 0) return up
  const { x, n } = samples(r)
  return [4 * up, 2 * up, up, up / 2, up / 4].reduce((a, b) => (squaredError(x, n, b, lo, hi) < squaredError(x, n, a, lo, hi) ? b : a))
}

function freeScale(r: Range, kind: ObserverKind, lo: number, hi: number): number {
  const side = (limit: number, steps: number): number => (steps > 0 ? limit / steps : 0)
  const full = Math.max(side(Math.max(r.max, 0), hi), side(Math.max(-r.min, 0), -lo))
  if (!(full > 0) || !Number.isFinite(full)) return 1
  if (kind === 'minmax') return full
  const { x, n } = samples(r)
  if (kind === 'percentile') return percentileScale(r, x, n, lo, hi, full)
  // Candidate clips from the whole range downwards in geometric steps: fine where small clips need it.
  let best = full
  let least = Number.POSITIVE_INFINITY
  for (let i = 0; i <= 120; i++) {
    const s = full * 0.965 ** i
    const e = kind === 'mse' ? squaredError(x, n, s, lo, hi) : divergence(x, n, s, lo, hi)
    if (e < least) {
      least = e
      best = s
    }
  }
  return best
}

function squaredError(x: Float64Array, n: Float64Array, s: number, lo: number, hi: number): number {
  let e = 0
  for (let i = 0; i < x.length; i++) {
    const q = Math.min(Math.max(roundHalfEven(x[i]! / s), lo), hi)
    e += n[i]! * (x[i]! - s * q) ** 2
  }
  return e
}

function percentileScale(r: Range, x: Float64Array, n: Float64Array, lo: number, hi: number, full: number): number {
  const order = Array.from(x.keys()).sort((a, b) => Math.abs(x[b]!) - Math.abs(x[a]!))
  let over = (1 - PERCENTILE) * r.count
  for (const i of order) {
    over -= n[i]!
    if (over < 0) return Math.min(full, Math.abs(x[i]!) / (x[i]! > 0 ? hi : Math.max(1, -lo)))
  }
  return full
}

/** KL(P‖Q): P the distribution with its tails heaped on the edges, Q the same mass spread evenly over each quantization cell's occupied bins. */
function divergence(x: Float64Array, n: Float64Array, s: number, lo: number, hi: number): number {
  const cells = new Map<number, { mass: number; bins: number }>()
  const q = Array.from(x, (v) => Math.min(Math.max(roundHalfEven(v / s), lo), hi))
  let total = 0
  const inside = (v: number): boolean => v >= (lo - 0.5) * s && v <= (hi + 0.5) * s
  let below = 0
  let above = 0
  for (let i = 0; i < x.length; i++) {
    total += n[i]!
    if (!inside(x[i]!)) {
      if (x[i]! < 0) below += n[i]!
      else above += n[i]!
      continue
    }
    const c = cells.get(q[i]!) ?? { mass: 0, bins: 0 }
    c.mass += n[i]!
    c.bins++
    cells.set(q[i]!, c)
  }
  let kl = 0
  let first = -1
  let last = -1
  for (let i = 0; i < x.length; i++) {
    if (!inside(x[i]!)) continue
    if (first < 0) first = i
    last = i
  }
  if (first < 0) return Number.POSITIVE_INFINITY
  for (let i = first; i <= last; i++) {
    const p = (n[i]! + (i === first ? below : 0) + (i === last ? above : 0)) / total
    const c = cells.get(q[i]!)!
    const r = c.mass / c.bins / total
    if (p > 0) kl += p * Math.log(p / r)
  }
  return kl
}
