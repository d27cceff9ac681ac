import { existsSync, readFileSync, statSync } from 'node:fs'
import { basename, extname, join } from 'node:path'
import { errors } from '@dqc/core'
import { npy, npz, readArrays } from './arrays.ts'
import { readCifar, readIdx, readSvhn } from './binary.ts'
import { classFolders, namesIn, picturesIn, readImages } from './images.ts'
import { noData, type Source, type Sources } from './source.ts'

const none: Sources = { train: null, test: null, all: null }

/** Recognises what a path holds by its contents and names. Throws CompileError when there is nothing to read. */
export function openData(path: string): Sources {
  if (!existsSync(path)) throw errors.badData('there is no such file or folder', path)
  let found: Sources
  try {
    found = statSync(path).isDirectory() ? openFolder(path) : openFile(path)
  } catch (e) {
    const { syscall, path: file, code } = e as NodeJS.ErrnoException
    if (!syscall) throw e
    throw errors.badData(`cannot be read (${code})`, file ?? path)
  }
  const sources = [found.train, found.test, found.all].filter((s): s is Source => s !== null)
  if (sources.length === 0) throw noData(path)
  for (const s of sources) if (s.count === 0) throw errors.badData('the data set is empty', path)
  return found
}

function openFile(file: string): Sources {
  const name = basename(file)
  if (/\.npy$/i.test(name)) return readArrays(new Map([['x', npy(file)]]), file)
  if (/\.npz$/i.test(name)) return readArrays(npz(file), file)
  if (/\.mat$/i.test(name)) return { ...none, all: readSvhn(file) }
  if (/idx3/.test(name)) return { ...none, all: readIdx(file, siblingLabels(file)) }
  if (/\.bin$/i.test(name)) return { ...none, all: readCifar([file], null) }
  if (picturesIn(join(file, '..')).includes(file)) return { ...none, all: readImages([file], null, null, name) }
  return none
}

/** The labels beside an image file, packed or not. */
function siblingLabels(images: string): string | null {
  const plain = images.replace(/\.gz$/, '')
  const guess = plain.replace('images-idx3', 'labels-idx1').replace('images.idx3', 'labels.idx1')
  return guess === plain ? null : ([guess, `${guess}.gz`].find(existsSync) ?? null)
}

/** The part of a data set that a file holds, as a word of its name says. */
const TRAIN = /(^|[-_. ])train/i
const TEST = /(^|[-_. ])(t10k|test)/i

/** What files of one kind hold: training and test data where their names say so, else the only one. Throws CompileError for several without. */
function partsOf(files: readonly string[], read: (file: string) => Source | null, dir: string): Sources {
  const of = (pattern: RegExp): Source | null => {
    const file = files.find((f) => pattern.test(f))
    return file ? read(join(dir, file)) : null
  }
  const [train, test] = [of(TRAIN), of(TEST)]
  if (train || test) return { ...none, train, test }
  if (files.length > 1)
    throw errors.badData(
      `${files.join(', ')} do not say what is for training and what for tests`,
      dir,
      'pass one of the files, or call them train… and test…',
    )
  return { ...none, all: read(join(dir, files[0]!)) }
}

function openFolder(dir: string): Sources {
  const { files, folders } = namesIn(dir)
  const at = (name: string | undefined): string | null => (name ? join(dir, name) : null)

  const batches = files.filter((f) => /^data_batch_\d+\.bin$/.test(f)).sort()
  const testBatch = files.find((f) => f === 'test_batch.bin')
  if (batches.length || testBatch) {
    const meta = at(files.find((f) => f === 'batches.meta.txt'))
    const classes = meta ? readFileSync(meta, 'utf8').split(/\r?\n/).filter(Boolean) : null
    return {
      ...none,
      train: batches.length
        ? readCifar(
            batches.map((f) => join(dir, f)),
            classes,
          )
        : null,
      test: testBatch ? readCifar([join(dir, testBatch)], classes) : null,
    }
  }
  const images = files.filter((f) => /images[-.]idx3-ubyte(\.gz)?$/.test(f))
  if (images.length) return partsOf(images, (file) => readIdx(file, siblingLabels(file)), dir)
  const mats = files.filter((f) => /\.mat$/i.test(f))
  if (mats.length) return partsOf(mats, readSvhn, dir)
  const archives = files.filter((f) => /\.npz$/i.test(f))
  if (archives.length === 1) return openFile(join(dir, archives[0]!))
  if (archives.length) return partsOf(archives, (file) => openFile(file).all, dir)
  if (files.some((f) => /\.npy$/i.test(f)))
    return readArrays(new Map(files.filter((f) => /\.npy$/i.test(f)).map((f) => [basename(f, extname(f)), npy(join(dir, f))])), dir)
  const [train, test] = [folders.find((f) => /^train(ing)?$/i.test(f)), folders.find((f) => /^(test|val|valid|validation)$/i.test(f))]
  if (train && test) {
    const inner = (name: string): Source | null => openFolder(join(dir, name)).all
    return { ...none, train: inner(train), test: inner(test) }
  }
  const pictures = picturesIn(dir)
  const classes = folders.length ? classFolders(dir, folders) : null
  if (pictures.length && classes)
    throw errors.badData(
      `pictures such as ${basename(pictures[0]!)} lie beside folders of pictures`,
      dir,
      'move the ones or the others elsewhere, or pass the folder that counts',
    )
  return { ...none, all: pictures.length ? readImages(pictures, null, null, `images (${basename(dir)})`) : classes }
}
