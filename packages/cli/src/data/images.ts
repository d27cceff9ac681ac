import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { errors } from '@dqc/core'
import type { Source } from './source.ts'

const PICTURE = /\.(jpe?g|png|webp|gif|tiff?|bmp|avif|ppm)$/i

/** Pictures directly inside a folder, in name order. */
export const picturesIn = (dir: string): string[] =>
  readdirSync(dir, { withFileTypes: true })
    .filter((e) => e.isFile() && PICTURE.test(e.name))
    .map((e) => join(dir, e.name))
    .sort()

/** Image files, decoded when they are read. */
export function readImages(
  files: readonly string[],
  labels: Int32Array | null,
  classes: readonly string[] | null,
  description: string,
): Source {
  return {
    description,
    count: files.length,
    labels,
    classes,
    shape: null,
    isImage: true,
    range: [0, 255],
    async read(i, fit) {
      const file = files[i]!
      const { default: sharp } = await import('sharp')
      try {
        let image = sharp(file).removeAlpha()
        if (fit) image = image.resize(fit[2]!, fit[1]!, { fit: 'fill' })
        image = fit?.[0] === 1 ? image.greyscale() : image.toColourspace('srgb')
        const { data, info } = await image.raw().toBuffer({ resolveWithObject: true })
        const area = info.width * info.height
        const out = new Float32Array(info.channels * area)
        for (let p = 0; p < area; p++) for (let c = 0; c < info.channels; c++) out[c * area + p] = data[p * info.channels + c]!
        return out
      } catch (e) {
        throw errors.badData(`cannot decode the image: ${(e as Error).message}`, file)
      }
    },
  }
}

/** One folder per class, classes in name order. */
export function classFolders(dir: string, names: readonly string[]): Source | null {
  const files: string[] = []
  const labels: number[] = []
  names.forEach((name, k) => {
    for (const f of picturesIn(join(dir, name))) {
      files.push(f)
      labels.push(k)
    }
  })
  return files.length ? readImages(files, Int32Array.from(labels), names, `class folders (${basename(dir)})`) : null
}
