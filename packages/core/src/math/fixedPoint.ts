/**
 * The arithmetic of requantization. One rule for all targets (what ONNX Runtime's QLinearConv and LiteRT's XNNPACK kernels compute):
 * q = saturate(RNE(fp32(acc) · fp32(fp32(sx·sw)/sy))).
 */

/** 1.5·2^52: adding and subtracting it leaves an integer rounded half to even, for |x| < 2^51 (IEEE 754 double, round-to-nearest). */
const ROUNDER = 6755399441055744

/** Round half to even (IEEE 754 roundToIntegralTiesToEven). |x| < 2^51. */
export const roundHalfEven = (x: number): number => x + ROUNDER - ROUNDER

/** q limited to [lo, hi]; NaN becomes lo so that no garbage passes silently. */
export const saturate = (q: number, lo: number, hi: number): number => (q > hi ? hi : q >= lo ? q : lo)

/** fp32(fp32(sx·sw)/sy): the multiplier from accumulator steps to output steps. */
export const requantScale = (sx: number, sw: number, sy: number): number =>
  Math.fround(Math.fround(Math.fround(sx) * Math.fround(sw)) / Math.fround(sy))

/** Accumulator → output steps, in fp32 as the kernels do it. `scale` comes from {@link requantScale}. */
export const requantize = (acc: number, scale: number, lo: number, hi: number): number =>
  saturate(roundHalfEven(Math.fround(Math.fround(acc) * scale)), lo, hi)

/** Accumulator → output steps where the multiplier is a power of two: half added, then shifted, so that halves go up. */
export const requantizeUp = (acc: number, scale: number, lo: number, hi: number): number => saturate(Math.floor(acc * scale + 0.5), lo, hi)

/** Real value → grid steps: saturate(RNE(fp32(x / s))), as QuantizeLinear and LiteRT's QUANTIZE do. */
export const quantizeValue = (x: number, scale: number, lo: number, hi: number): number =>
  saturate(roundHalfEven(saturate(Math.fround(x / scale), -2147483648, 2147483647)), lo, hi)
