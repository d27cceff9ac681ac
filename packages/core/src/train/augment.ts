import { type Tensor, tensorOf } from '../ir/tensor.ts'
import type { Random } from '../math/random.ts'

/** Changes of an image that leave its class as it is. */
export interface Augmentation {
  /** Mirrored left to right, half of the time. */
  readonly flip: boolean
  /** Moved by up to this many pixels each way; what comes in from outside repeats the border, as no photograph has black bars. */
  readonly shift: number
}

export const noAugmentation: Augmentation = { flip: false, shift: 0 }

/** Each image of [N, C, H, W] (or [N, H, W, C]) mirrored and moved on its own. */
export function augment(images: Tensor, channelsLast: boolean, a: Augmentation, random: Random): Tensor {
  if (!a.flip && a.shift === 0) return images
  const [N, p, q, r] = images.shape as [number, number, number, number]
  const [C, H, W] = channelsLast ? [r, p, q] : [p, q, r]
  // Strides of channel, row, column.
  const [sc, sy, sx] = channelsLast ? [1, W * C, C] : [H * W, W, 1]
  const from = images.data as Float32Array
  const to = new Float32Array(from.length)
  const inside = (v: number, size: number): number => Math.min(Math.max(v, 0), size - 1)
  for (let n = 0; n < N; n++) {
    const base = n * C * H * W
    const mirrored = a.flip && random.uniform() < 0.5
    const dy = random.int(2 * a.shift + 1) - a.shift
    const dx = random.int(2 * a.shift + 1) - a.shift
    for (let y = 0; y < H; y++)
      for (let x = 0; x < W; x++) {
        const column = inside(x + dx, W)
        const [at, source] = [base + y * sy + x * sx, base + inside(y + dy, H) * sy + (mirrored ? W - 1 - column : column) * sx]
        for (let c = 0; c < C; c++) to[at + c * sc] = from[source + c * sc]!
      }
  }
  return tensorOf('float32', images.shape, to)
}
