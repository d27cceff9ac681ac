/** How accumulators become output steps: rounded half to even as all runtimes do, or by adding half and shifting. */
export type Rounding = 'rne' | 'shift'

/** m = mantissa·2^−shift with an integer mantissa of at most 24 bits. */
export interface Multiplier {
  readonly mantissa: number
  readonly shift: number
}

/** A single-precision number > 0 taken apart. The mantissa is odd, so that a power of two has the mantissa 1. */
export function takeApart(m: number): Multiplier {
  let mantissa = m
  let shift = 0
  while (!Number.isInteger(mantissa)) {
    mantissa *= 2
    shift++
  }
  while (mantissa !== 0 && mantissa % 2 === 0) {
    mantissa /= 2
    shift--
  }
  return { mantissa, shift }
}

/**
 * Integer arithmetic that gives what single precision gives. `round24` leaves the 24 bits that a float's significand holds, rounded half to
 * even, so that requantize() computes RNE(fp32(fp32(acc)·m)) without a floating-point unit.
 */
export const FUNCTIONS = {
  floorShift: `/* Floor of v / 2^s, whatever the compiler does to negative numbers. */
static inline int32_t floor_shift(int32_t v, int s)
{
    return v >= 0 ? v >> s : ~(~v >> s);
}`,
  floorShift64: `static inline int64_t floor_shift64(int64_t v, int s)
{
    return v >= 0 ? v >> s : ~(~v >> s);
}`,
  nearest: `/* v / 2^s, rounded half to even. */
static inline uint64_t nearest(uint64_t v, int s)
{
    uint64_t q, rest, half;
    if (s <= 0) {
        return v << -s;
    }
    if (s > 62) {
        return 0;
    }
    q = v >> s;
    rest = v & (((uint64_t)1 << s) - 1);
    half = (uint64_t)1 << (s - 1);
    return rest > half || (rest == half && (q & 1) != 0) ? q + 1 : q;
}`,
  round24: `/* The nearest number of 24 significant bits: what a single-precision float holds. */
static inline uint64_t round24(uint64_t v)
{
    uint64_t t = v >> 24;
    int n = 0;
    if (t == 0) {
        return v;
    }
    if (t >> 16 != 0) { n += 16; t >>= 16; }
    if (t >> 8 != 0) { n += 8; t >>= 8; }
    if (t >> 4 != 0) { n += 4; t >>= 4; }
    if (t >> 2 != 0) { n += 2; t >>= 2; }
    if (t >> 1 != 0) { n += 1; }
    n++;
    return nearest(v, n) << n;
}`,
  clamp: `static inline int32_t clamp(int64_t v, int32_t lo, int32_t hi)
{
    return v < lo ? lo : v > hi ? hi : (int32_t)v;
}`,
  requantize: `/* round(acc * m / 2^s), rounded as single-precision arithmetic rounds it, within [lo, hi]. */
static inline int32_t requantize(int32_t acc, int32_t m, int s, int32_t lo, int32_t hi)
{
    uint64_t v = (uint64_t)(acc < 0 ? -(int64_t)acc : (int64_t)acc);
    v = nearest(round24(round24(v) * (uint64_t)m), s);
    if (v > 0x7fffffff) {
        v = 0x7fffffff;
    }
    return clamp(acc < 0 ? -(int64_t)v : (int64_t)v, lo, hi);
}`,
  shiftEven: `/* round(acc / 2^s), half to even, within [lo, hi]. */
static inline int32_t shift_even(int32_t acc, int s, int32_t lo, int32_t hi)
{
    uint64_t v = nearest(round24((uint64_t)(acc < 0 ? -(int64_t)acc : (int64_t)acc)), s);
    return clamp(acc < 0 ? -(int64_t)v : (int64_t)v, lo, hi);
}`,
  shiftUp: `/* round(acc / 2^s), half up, within [lo, hi]. */
static inline int32_t shift_up(int32_t acc, int s, int32_t lo, int32_t hi)
{
    if (s > 62) {
        return clamp(0, lo, hi);
    }
    return clamp(s <= 0 ? (int64_t)acc * ((int64_t)1 << -s) : floor_shift64((int64_t)acc + ((int64_t)1 << (s - 1)), s), lo, hi);
}`,
  unpack: `/* Weights of \`bits\` bits each, the first in the lowest bits, as two's complement. */
static void unpack(const uint8_t *from, uint32_t bit, uint32_t n, int bits, int8_t *to)
{
    uint32_t i;
    for (i = 0; i < n; i++, bit += (uint32_t)bits) {
        uint32_t pair = from[bit >> 3] | ((uint32_t)from[(bit >> 3) + 1] << 8);
        int32_t v = (int32_t)((pair >> (bit & 7)) & (((uint32_t)1 << bits) - 1));
        to[i] = (int8_t)(v >= 1 << (bits - 1) ? v - (1 << bits) : v);
    }
}`,
} as const

export type FunctionName = keyof typeof FUNCTIONS

/** What each function calls. */
const CALLS: Partial<Record<FunctionName, readonly FunctionName[]>> = {
  round24: ['nearest'],
  requantize: ['round24', 'clamp'],
  shiftEven: ['round24', 'clamp'],
  shiftUp: ['floorShift64', 'clamp'],
}

/** The functions that a program needs, those they call included, in an order that compiles. */
export function functionsFor(wanted: ReadonlySet<FunctionName>): string {
  const all = new Set<FunctionName>()
  const take = (f: FunctionName): void => {
    for (const g of CALLS[f] ?? []) take(g)
    all.add(f)
  }
  for (const f of wanted) take(f)
  return [...all].map((f) => FUNCTIONS[f]).join('\n\n')
}

/** Weights as a stream of `bits` bits each; one byte more than they need, which unpack() may read. */
export function packBits(values: ArrayLike<number>, bits: number): Uint8Array {
  const out = new Uint8Array(Math.ceil((values.length * bits) / 8) + 1)
  for (let i = 0; i < values.length; i++) {
    const v = values[i]! & (2 ** bits - 1)
    const at = i * bits
    out[at >> 3]! |= (v << (at & 7)) & 255
    out[(at >> 3) + 1]! |= v >> (8 - (at & 7))
  }
  return out
}
