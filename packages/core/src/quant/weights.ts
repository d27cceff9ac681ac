import { numbersOf, stridesOf, type Tensor } from '../ir/tensor.ts'
import { roundHalfEven } from '../math/fixedPoint.ts'

/** Scales tried per channel when the squared error is minimized. */
const CANDIDATES = 80

/** Elements of each slice along `axis`. */
export function slices(t: Tensor, axis: number): Float64Array[] {
  const from = numbersOf(t)
  const step = stridesOf(t.shape)[axis]!
  const n = t.shape[axis]!
  const per = from.length / n
  const out = Array.from({ length: n }, () => new Float64Array(per))
  const fill = new Int32Array(n)
  for (let i = 0; i < from.length; i++) {
    const c = Math.floor(i / step) % n
    out[c]![fill[c]!++] = from[i]!
  }
  return out
}

/** One scale per channel: least Σ(w − s·clip(RNE(w/s)))², or max|w|/hi for the minmax observer. Channels of zeros get 0. */
export const weightScales = (t: Tensor, axis: number, hi: number, byError: boolean, powerOfTwo = false): Float32Array =>
  Float32Array.from(slices(t, axis), (w) => scaleOf(w, hi, byError, powerOfTwo))

/** One scale for a whole tensor, chosen the same way. */
export const weightScale = (t: Tensor, hi: number, byError: boolean, powerOfTwo = false): number =>
  scaleOf(Float64Array.from(numbersOf(t) as Float32Array), hi, byError, powerOfTwo)

function scaleOf(w: Float64Array, hi: number, byError: boolean, powerOfTwo: boolean): number {
  const top = w.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
  const full = top === 0 ? 0 : powerOfTwo ? 2 ** Math.ceil(Math.log2(top / hi)) : top / hi
  if (top === 0 || !byError) return full
  let best = full
  let least = Number.POSITIVE_INFINITY
  // Clips from the full range down to a fifth of it; powers of two in whole steps.
  const candidates = powerOfTwo
    ? [full, full / 2, full / 4, full / 8]
    : Array.from({ length: CANDIDATES }, (_, i) => Math.fround(full * (1 - (0.8 * i) / CANDIDATES)))
  for (const s of candidates) {
    let e = 0
    for (let k = 0; k < w.length && e < least; k++) {
      const q = Math.min(Math.max(roundHalfEven(w[k]! / s), -hi), hi)
      e += (w[k]! - s * q) ** 2
    }
    if (e < least) {
      least = e
      best = s
    }
  }
  return best
}

/**
 * The most, by magnitude, that two weights in steps have together, of those from one place to another: where kernels add the products of two
 * neighbours before they widen, what has to fit. Which weights are neighbours is the kernel's own affair.
 */
export function widestPair(steps: ArrayLike<number>, from = 0, to = steps.length): number {
  let [high, nextHigh, low, nextLow] = [0, 0, 0, 0]
  for (let i = from; i < to; i++) {
    const v = steps[i]!
    if (v > high) [high, nextHigh] = [v, high]
    else if (v > nextHigh) nextHigh = v
    if (v < low) [low, nextLow] = [v, low]
    else if (v < nextLow) nextLow = v
  }
  return Math.max(high + nextHigh, -low - nextLow)
}

/** How far a scale may be raised for the sake of pairs: twice takes two weights from the end of an eight-bit grid to its middle, the rest what it clipped. */
const RAISED = 2.5

/**
 * Scales raised until no two weights of a channel have more than `most` steps together, by powers of two where asked for. Where one would have to
 * be raised too far (for weights far outside its grid), all stay as they are.
 */
export function pairScales(scales: Float32Array, t: Tensor, axis: number, hi: number, most: number, powerOfTwo = false): Float32Array {
  if (2 * hi <= most) return scales
  const channels = slices(t, axis)
  const raised = scales.map((s, c) => {
    if (s === 0) return s
    for (let fitted = s; fitted <= RAISED * s; ) {
      const pair = widestPair(channels[c]!.map((w) => Math.min(Math.max(roundHalfEven(w / fitted), -hi), hi)))
      if (pair <= most) return fitted
      fitted = Math.fround(fitted * (powerOfTwo ? 2 : Math.max(pair / most, 1 + 2 ** -8)))
    }
    return Number.NaN
  })
  return raised.some(Number.isNaN) ? scales : raised
}

/**
 * Scales raised where a channel's bias would not fit int32 in steps of s_x·s_w, or its accumulator could overflow 32 bits.
 * `reach` is the largest |input| in steps.
 */
export function fitScales(
  scales: Float32Array,
  t: Tensor,
  axis: number,
  bias: ArrayLike<number> | null,
  scaleX: number,
  reach: number,
  hi: number,
): Float32Array {
  const channels = slices(t, axis)
  return scales.map((s, c) => {
    const shift = Math.abs(bias?.[c] ?? 0)
    // Dead channels have no scale of their own: any that holds the bias will do.
    let fitted = s > 0 ? s : Math.max(shift / (scaleX * 2 ** 20), 2 ** -30)
    const bound = (k: number): number => {
      let sum = shift / (scaleX * k)
      for (const w of channels[c]!) sum += reach * Math.abs(Math.min(Math.max(roundHalfEven(w / k), -hi), hi))
      return sum
    }
    while (bound(fitted) > 2 ** 31 - 2 ** 16) fitted *= 2
    return fitted
  })
}
