import { readdirSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { errors } from '@dqc/core'
import { BYTE, type Source } from './source.ts'

const PICTURE = /\.(jpe?g|png|webp|gif|tiff?|bmp|avif|ppm)$/i

/**
 * Names directly inside a folder, in order, but for hidden ones. Links count as what they lead to: data sets are often linked together from a
 * store. One that leads nowhere is a file, so that whoever needs it says that it cannot be read.
 */
export function namesIn(dir: string): { readonly files: readonly string[]; readonly folders: readonly string[] } {
  const names = readdirSync(dir)
    .filter((name) => !name.startsWith('.'))
    .sort()
    .map((name) => ({ name, is: statSync(join(dir, name), { throwIfNoEntry: false }) }))
  return {
    files: names.filter((e) => !e.is || e.is.isFile()).map((e) => e.name),
    folders: names.filter((e) => e.is?.isDirectory()).map((e) => e.name),
  }
}

/** Pictures directly inside a folder, in name order. */
export const picturesIn = (dir: string): string[] =>
  namesIn(dir)
    .files.filter((f) => PICTURE.test(f))
    .map((f) => join(dir, f))

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
    factor: BYTE,
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

/** One folder per class, classes in name order. Images take turns class by class, so that the first n of them are of all classes. */
export function classFolders(dir: string, names: readonly string[]): Source | null {
  const files: string[] = []
  const labels: number[] = []
  const pictures = names.map((name) => picturesIn(join(dir, name)))
  const most = pictures.reduce((m, p) => Math.max(m, p.length), 0)
  for (let i = 0; i < most; i++)
    pictures.forEach((own, k) => {
      if (i >= own.length) return
      files.push(own[i]!)
      labels.push(k)
    })
  return files.length ? readImages(files, Int32Array.from(labels), names, `class folders (${basename(dir)})`) : null
}
