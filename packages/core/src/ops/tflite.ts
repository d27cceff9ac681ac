import type { QuantParams } from '../ir/graph.ts'
import type { Op } from '../ir/op.ts'
import { numbersOf, sizeOf, tensorOf } from '../ir/tensor.ts'
import { quantizeValue, requantize, requantScale, roundHalfEven, saturate } from '../math/fixedPoint.ts'
import { windowSize } from './convolve.ts'
import { type AveragePoolAttrs, combine, integerOnly, type Saturation, spatialMean, walkWindows, windowCounts } from './integer.ts'
import { softmax } from './normalize.ts'
import { broadcast, shapeOf, typed } from './shapes.ts'

/**
 * Integer ops whose rounding is LiteRT's and not ONNX Runtime's. Convolutions and dense layers round alike in both and are in integer.ts.
 */

export interface FixedAdd extends Saturation {
  readonly scaleX: number
  readonly scaleY: number
  readonly scaleOut: number
  readonly sign: 1 | -1
}

/** z = saturate((m_x·x ± m_y·y + 2^(h−1)) >> h), m = RNE(s/s_z·2^h), h = 20 − ⌊log₂ max(s_x, s_y)/s_z⌋: the zero points cancel exactly */
export const fixedAdd: Op<FixedAdd> = {
  ...integerOnly,
  name: 'fixedAdd',
  spec: 'TFLite ADD, SUB as XNNPACK computes them (20-bit multipliers)',
  infer: ([x, y]) => [typed('int32', broadcast(shapeOf(x), shapeOf(y)))],
  eval: ([x, y], a) => {
    const { mx, my, shift } = sumMultipliers(a)
    const half = 2 ** (shift - 1)
    return [combine(x!, y!, (p, q) => saturate(Math.floor((mx * p + my * q + half) / 2 ** shift), a.lo, a.hi))]
  },
}

/** The 20-bit multipliers of {@link fixedAdd}, and its shift h. */
export function sumMultipliers(a: Omit<FixedAdd, keyof Saturation>): { mx: number; my: number; shift: number } {
  const ratio = (s: number): number => Math.fround(Math.fround(s) / Math.fround(a.scaleOut))
  const [rx, ry] = [ratio(a.scaleX), ratio(a.scaleY)]
  const shift = 20 - Math.floor(Math.log2(Math.max(rx, ry)))
  const fixed = (r: number): number => roundHalfEven(r * 2 ** shift)
  return { mx: fixed(rx), my: a.sign * fixed(ry), shift }
}

/** z = saturate(RNE(fp32(x·y)·fp32(fp32(s_x·s_y)/s_z))) */
export const fixedMul: Op<Saturation & { multiplier: number }> = {
  ...integerOnly,
  name: 'fixedMul',
  spec: 'TFLite MUL as XNNPACK computes it',
  infer: ([x, y]) => [typed('int32', broadcast(shapeOf(x), shapeOf(y)))],
  eval: ([x, y], a) => [combine(x!, y!, (p, q) => requantize(p * q, a.multiplier, a.lo, a.hi))],
}

/** y = saturate(round half away(Σ (x + zero)/count) − zero): the mean of each window, on the grid of x */
export const fixedAveragePool: Op<AveragePoolAttrs & Saturation & { zero: number }> = {
  ...integerOnly,
  name: 'fixedAveragePool',
  spec: 'TFLite AVERAGE_POOL_2D: integer division, rounded half away from zero, on the container’s integers',
  infer: ([x], a) => {
    const s = shapeOf(x)
    return [typed('int32', [s[0]!, s[1]!, ...s.slice(2).map((d, i) => windowSize(d, a.kernel[i]!, i, a, a.ceil))])]
  },
  eval: ([x], a) => {
    const shape = fixedAveragePool.infer([x!], a)[0]!.shape as number[]
    const from = numbersOf(x!)
    const sums = new Float64Array(sizeOf(shape))
    walkWindows(x!.shape, shape.slice(2), a, (o, i) => {
      sums[o]! += from[i]! + a.zero
    })
    const counts = windowCounts(x!.shape.slice(2), shape.slice(2), a)
    return [
      tensorOf(
        'int32',
        shape,
        Int32Array.from(sums, (s, i) => {
          const n = counts[i % counts.length]!
          return saturate(Math.trunc((s + Math.sign(s || 1) * Math.floor(n / 2)) / n) - a.zero, a.lo, a.hi)
        }),
      ),
    ]
  },
}

/** y = saturate(RNE(fp32(Σ x)·fp32(fp32(s_x/s_y)/area))): the mean over all spatial axes, which keep size 1 */
export const fixedMean = spatialMean('fixedMean', 'TFLite MEAN as XNNPACK computes it', (sx, sy, area) => meanScale(sx, sy, area))

/** Multiplier of {@link fixedMean}: fp32(fp32(s_x/s_y)/area). */
export const meanScale = (sx: number, sy: number, area: number): number =>
  Math.fround(Math.fround(Math.fround(sx) / Math.fround(sy)) / area)

/** y = saturate(RNE(softmax(s_x·x)/s_y)) along one axis; runtimes tabulate the exponential, each in its own way */
export const fixedSoftmax: Op<Saturation & { axis: number; scaleX: number; scaleOut: number }> = {
  ...integerOnly,
  name: 'fixedSoftmax',
  spec: 'TFLite SOFTMAX, to one step',
  infer: ([x]) => [typed('int32', shapeOf(x))],
  eval: ([x], a) => {
    const real = tensorOf(
      'float32',
      x!.shape,
      Float32Array.from(numbersOf(x!) as Int32Array, (q) => a.scaleX * q),
    )
    const p = numbersOf(softmax.eval([real], { axis: a.axis })[0]!)
    return [
      tensorOf(
        'int32',
        x!.shape,
        Int32Array.from(p as Float32Array, (v) => quantizeValue(v, a.scaleOut, a.lo, a.hi)),
      ),
    ]
  },
}

/** Multiplier of {@link fixedMul}. */
export const productScale = (x: QuantParams, y: QuantParams, out: QuantParams): number =>
  requantScale(x.scale[0]!, y.scale[0]!, out.scale[0]!)
