import { type CompileError, errors } from '@dqc/core'

/** Items of one kind: images as [C, H, W], or arrays of any shape. Values are as stored; bytes are 0 … 255. */
export interface Source {
  readonly description: string
  readonly count: number
  /** Class numbers, or null. */
  readonly labels: Int32Array | null
  /** Why there are no class numbers although there are labels: targets of other networks than classifiers. */
  readonly otherLabels?: CompileError
  /** Names of the classes, where the source has them. */
  readonly classes: readonly string[] | null
  /** [C, H, W] of every image; null where images differ in size (files). Arrays: the shape of one item. */
  readonly shape: readonly number[] | null
  readonly isImage: boolean
  /** The value range of the originals: attacks measure their ε as a share of it. */
  readonly range: readonly [number, number]
  /** What values are multiplied by unless --scale says otherwise: 1/255 for bytes, 1 for everything else. */
  readonly factor: number
  /** The values of one item. Image files are scaled to `fit` ([C, H, W]) when it is given. */
  read(index: number, fit: readonly number[] | null): Promise<Float32Array>
}

/** Default factor on bytes. */
export const BYTE = 1 / 255

/** What a path holds, split where the source itself tells training from test data. */
export interface Sources {
  readonly train: Source | null
  readonly test: Source | null
  /** Everything, where the source knows no split. */
  readonly all: Source | null
}

/** A source over some of another's items. */
export function subset(s: Source, indices: ArrayLike<number>, note: string): Source {
  const pick = Int32Array.from(indices)
  return {
    ...s,
    description: `${s.description}, ${note}`,
    count: pick.length,
    labels: s.labels ? pick.map((i) => s.labels![i]!) : null,
    read: (i, fit) => s.read(pick[i]!, fit),
  }
}

/** Fixed-size byte images inside one buffer. */
export function byteImages(o: {
  description: string
  count: number
  shape: readonly number[]
  labels: Int32Array | null
  classes?: readonly string[] | null
  /** Byte of channel c, row y, column x of image i. */
  at: (i: number, c: number, y: number, x: number) => number
}): Source {
  const [C, H, W] = o.shape as [number, number, number]
  return {
    description: o.description,
    count: o.count,
    labels: o.labels,
    classes: o.classes ?? null,
    shape: o.shape,
    isImage: true,
    range: [0, 255],
    factor: BYTE,
    async read(i) {
      const out = new Float32Array(C * H * W)
      let k = 0
      for (let c = 0; c < C; c++) for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) out[k++] = o.at(i, c, y, x)
      return out
    },
  }
}

export const noData = (path: string): Error =>
  errors.badData(
    'no data that dqc can read',
    path,
    'a CIFAR-10 or IDX folder, class folders of images, .npy/.npz arrays or SVHN .mat files',
  )
