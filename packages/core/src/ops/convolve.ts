import { errors, invariant } from '../ir/errors.ts'
import type { Dim } from '../ir/graph.ts'

/** Geometry of a sliding window over the spatial axes. `pads` is [begin…, end…]. */
export interface Window {
  readonly strides: readonly number[]
  readonly pads: readonly number[]
  readonly dilations: readonly number[]
}

export interface ConvAttrs extends Window {
  readonly group: number
}

export interface ConvTransposeAttrs extends ConvAttrs {
  readonly outputPadding: readonly number[]
}

/** Output size of a window of `kernel` over `size`: floor (or ceil) of (size + pads − dilated kernel)/stride, plus 1. */
export function windowSize(size: Dim, kernel: number, i: number, w: Window, ceil = false): Dim {
  if (typeof size === 'string')
    return size !== '?' && kernel === 1 && w.strides[i] === 1 && !w.pads[i] && !w.pads[i + w.strides.length] ? size : '?'
  const rank = w.strides.length
  const span = size + w.pads[i]! + w.pads[i + rank]! - w.dilations[i]! * (kernel - 1) - 1
  let out = (ceil ? Math.ceil(span / w.strides[i]!) : Math.floor(span / w.strides[i]!)) + 1
  // A window that would start in the end padding is not counted (ONNX MaxPool/AveragePool since opset 19; PyTorch).
  if (ceil && (out - 1) * w.strides[i]! >= size + w.pads[i]!) out--
  if (span < 0) throw errors.shapeMismatch(`a window of ${kernel} does not fit into size ${size} with pads ${w.pads}`)
  return out
}

/** Up to three spatial axes, missing ones of size 1 in front. */
const to3 = (xs: readonly number[], fill: number): [number, number, number] => {
  invariant(xs.length <= 3, 'at most three spatial axes')
  return [...new Array<number>(3 - xs.length).fill(fill), ...xs] as [number, number, number]
}

type Numbers = ArrayLike<number>

/**
 * y[n,o,p] = Σ_{c,k} w[o,c,k] · x[n, g·C/G + c, p·s + k·d − pad]; exact for integers (sums of doubles below 2^53).
 * x [N, C, …], w [O, C/G, …] → [N, O, …]. What the windows of one output row see is laid out once and read by every
 * channel, four of them at a time: sums that do not wait for each other overlap in the processor.
 */
export function convolve(
  x: Numbers,
  xShape: readonly number[],
  w: Numbers,
  wShape: readonly number[],
  outSpatial: readonly number[],
  a: ConvAttrs,
): Float64Array {
  const [N, C] = xShape as [number, number]
  const [O, cg] = wShape as [number, number]
  const [D, H, W] = to3(xShape.slice(2), 1)
  const [KD, KH, KW] = to3(wShape.slice(2), 1)
  const [OD, OH, OW] = to3(outSpatial, 1)
  const [sd, sh, sw] = to3(a.strides, 1)
  const [dd, dh, dw] = to3(a.dilations, 1)
  const [pd, ph, pw] = to3(a.pads.slice(0, a.strides.length), 0)
  const og = O / a.group
  const K = cg * KD * KH * KW
  const P = OD * OH * OW
  const y = new Float64Array(N * O * P)
  const weights = new Float64Array(w)
  const seen = new Float64Array(OW * K)
  const look = (base: number, od: number, oh: number): void => {
    seen.fill(0)
    for (let c = 0, k = 0; c < cg; c++)
      for (let kd = 0; kd < KD; kd++)
        for (let kh = 0; kh < KH; kh++) {
          const [id, ih] = [od * sd + kd * dd - pd, oh * sh + kh * dh - ph]
          const inside = id >= 0 && id < D && ih >= 0 && ih < H
          for (let kw = 0; kw < KW; kw++, k++) {
            if (!inside) continue
            const row = base + ((c * D + id) * H + ih) * W + kw * dw - pw
            const first = Math.max(0, Math.ceil((pw - kw * dw) / sw))
            const last = Math.min(OW - 1, Math.floor((W - 1 + pw - kw * dw) / sw))
            for (let ow = first; ow <= last; ow++) seen[ow * K + k] = x[row + ow * sw]!
          }
        }
  }
  for (let n = 0; n < N; n++)
    for (let g = 0; g < a.group; g++)
      for (let od = 0; od < OD; od++)
        for (let oh = 0; oh < OH; oh++) {
          look((n * C + g * cg) * D * H * W, od, oh)
          for (let o = g * og; o < (g + 1) * og; o += 4) {
            // Past the group's last channel the last one is summed again.
            const left = (g + 1) * og - 1 - o
            const [o1, o2, o3] = [o + Math.min(1, left), o + Math.min(2, left), o + Math.min(3, left)]
            const [w0, w1, w2, w3] = [o * K, o1 * K, o2 * K, o3 * K]
            for (let ow = 0; ow < OW; ow++) {
              let [s0, s1, s2, s3] = [0, 0, 0, 0]
              for (let k = 0, i = ow * K; k < K; k++, i++) {
                const v = seen[i]!
                s0 += v * weights[w0 + k]!
                s1 += v * weights[w1 + k]!
                s2 += v * weights[w2 + k]!
                s3 += v * weights[w3 + k]!
              }
              const at = n * O * P + (od * OH + oh) * OW + ow
              y[at + o * P] = s0
              y[at + o1 * P] = s1
              y[at + o2 * P] = s2
              y[at + o3 * P] = s3
            }
          }
        }
  return y
}

/**
 * The transpose of {@link convolve} with respect to its data: y[n, o, p·s + k·d − pad] += w[c, o, k] · x[n, c, p].
 * x [N, C, …], w [C, O/G, …] → [N, O, …].
 */
export function convolveTransposed(
  x: Numbers,
  xShape: readonly number[],
  w: Numbers,
  wShape: readonly number[],
  outSpatial: readonly number[],
  a: ConvAttrs,
): Float64Array {
  const [N, C] = xShape as [number, number]
  const og = wShape[1]!
  const O = og * a.group
  const cg = C / a.group
  const [D, H, W] = to3(xShape.slice(2), 1)
  const [KD, KH, KW] = to3(wShape.slice(2), 1)
  const [OD, OH, OW] = to3(outSpatial, 1)
  const [sd, sh, sw] = to3(a.strides, 1)
  const [dd, dh, dw] = to3(a.dilations, 1)
  const [pd, ph, pw] = to3(a.pads.slice(0, a.strides.length), 0)
  const y = new Float64Array(N * O * OD * OH * OW)
  for (let n = 0; n < N; n++)
    for (let c = 0; c < C; c++) {
      const o0 = Math.floor(c / cg) * og
      const xBase = (n * C + c) * D * H * W
      for (let o = 0; o < og; o++) {
        const yBase = (n * O + o0 + o) * OD * OH * OW
        const wBase = (c * og + o) * KD * KH * KW
        for (let kd = 0; kd < KD; kd++)
          for (let kh = 0; kh < KH; kh++)
            for (let kw = 0; kw < KW; kw++) {
              const f = w[wBase + (kd * KH + kh) * KW + kw]!
              if (f === 0) continue
              const first = Math.max(0, Math.ceil((pw - kw * dw) / sw))
              const last = Math.min(W - 1, Math.floor((OW - 1 + pw - kw * dw) / sw))
              for (let id = 0; id < D; id++) {
                const od = id * sd + kd * dd - pd
                if (od < 0 || od >= OD) continue
                for (let ih = 0; ih < H; ih++) {
                  const oh = ih * sh + kh * dh - ph
                  if (oh < 0 || oh >= OH) continue
                  const yRow = yBase + (od * OH + oh) * OW + kw * dw - pw
                  const xRow = xBase + (id * H + ih) * W
                  for (let iw = first; iw <= last; iw++) y[yRow + iw * sw]! += f * x[xRow + iw]!
                }
              }
            }
      }
    }
  return y
}

/** Output size of a transposed convolution (ONNX ConvTranspose): s·(size − 1) + outputPadding + d·(k − 1) + 1 − pads. */
export function transposedSize(size: Dim, kernel: number, i: number, a: ConvTransposeAttrs): Dim {
  if (typeof size === 'string') return '?'
  const rank = a.strides.length
  return a.strides[i]! * (size - 1) + a.outputPadding[i]! + a.dilations[i]! * (kernel - 1) + 1 - a.pads[i]! - a.pads[i + rank]!
}
