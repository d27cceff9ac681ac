import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { CompileError, errors } from '@dqc/core'
import { unzipSync } from 'fflate'
import { BYTE, type Source } from './source.ts'

interface Array {
  readonly shape: readonly number[]
  readonly bytes: boolean
  readonly at: (i: number) => number
}

const readers: Record<string, { size: number; read: (v: DataView, at: number) => number }> = {
  u1: { size: 1, read: (v, a) => v.getUint8(a) },
  b1: { size: 1, read: (v, a) => v.getUint8(a) },
  i1: { size: 1, read: (v, a) => v.getInt8(a) },
  u2: { size: 2, read: (v, a) => v.getUint16(a, true) },
  i2: { size: 2, read: (v, a) => v.getInt16(a, true) },
  u4: { size: 4, read: (v, a) => v.getUint32(a, true) },
  i4: { size: 4, read: (v, a) => v.getInt32(a, true) },
  i8: { size: 8, read: (v, a) => Number(v.getBigInt64(a, true)) },
  u8: { size: 8, read: (v, a) => Number(v.getBigUint64(a, true)) },
  f4: { size: 4, read: (v, a) => v.getFloat32(a, true) },
  f8: { size: 8, read: (v, a) => v.getFloat64(a, true) },
}

/** NumPy's .npy format 1.0–3.0, C order, little-endian (NEP 1). */
export function parseNpy(b: Uint8Array, where: string): Array {
  const text = Buffer.from(b.buffer, b.byteOffset, b.length)
  if (text.length < 10 || text.toString('latin1', 0, 6) !== '\x93NUMPY') throw errors.badData('not a NumPy array', where)
  const long = text[6]! > 1
  const length = long ? text.readUInt32LE(8) : text.readUInt16LE(8)
  const start = (long ? 12 : 10) + length
  const header = text.toString('latin1', long ? 12 : 10, start)
  const descr = /'descr':\s*'([<>|=])(\w\d)'/.exec(header)
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)
  if (!descr || !shape || /'fortran_order':\s*True/.test(header) || descr[1] === '>' || !readers[descr[2]!])
    throw errors.badData(
      `arrays like ${header.trim().slice(0, 80)} are not supported`,
      where,
      'save it in C order as uint8, integers or floats',
    )
  const dims = shape[1]!
    .split(',')
    .map((s) => s.trim())
    .filter((s) => s !== '')
    .map(Number)
  if (!dims.every((d) => Number.isSafeInteger(d) && d >= 0)) throw errors.badData(`the shape (${shape[1]}) is none`, where)
  const { size, read } = readers[descr[2]!]!
  if (text.length - start < size * dims.reduce((p, d) => p * d, 1))
    throw errors.badData(`${text.length - start} bytes for the shape [${dims}]`, where, 'the file is truncated')
  const view = new DataView(b.buffer, b.byteOffset + start, b.length - start)
  return { shape: dims, bytes: descr[2] === 'u1', at: (i) => read(view, i * size) }
}

/** Items along the first axis. Images in [0, 255] when stored as bytes; otherwise ε is relative to the values' own range. */
function source(data: Array, labels: Array | null, description: string, where: string): Source {
  if (data.shape.length < 2) throw errors.badData(`an array of shape [${data.shape}] holds no items`, where)
  const [count, ...shape] = data.shape as [number, ...number[]]
  const per = shape.reduce((p, d) => p * d, 1)
  let lo = Number.POSITIVE_INFINITY
  let hi = Number.NEGATIVE_INFINITY
  if (!data.bytes)
    for (let i = 0; i < count * per; i++) {
      const v = data.at(i)
      if (!Number.isFinite(v)) throw errors.badData(`element ${i} is ${v}`, where)
      lo = Math.min(lo, v)
      hi = Math.max(hi, v)
    }
  return {
    description,
    count,
    ...labelsOf(labels, count, where),
    classes: null,
    shape,
    isImage: false,
    range: data.bytes ? [0, 255] : hi > lo ? [lo, hi] : [0, 1],
    factor: data.bytes ? BYTE : 1,
    read: async (i) => Float32Array.from({ length: per }, (_, k) => data.at(i * per + k)),
  }
}

/** Class numbers, or why labels are none. */
function labelsOf(labels: Array | null, count: number, where: string): Pick<Source, 'labels' | 'otherLabels'> {
  if (labels && labels.shape[0] !== count) throw errors.badData(`${labels.shape[0]} labels for ${count} items`, where)
  try {
    return { labels: labels && classNumbers(labels, count, where) }
  } catch (e) {
    if (!(e instanceof CompileError)) throw e
    return { labels: null, otherLabels: e }
  }
}

/** Labels as class numbers: [N], [N, 1], or one-hot [N, classes]. Throws CompileError for all others. */
function classNumbers(labels: Array, count: number, where: string): Int32Array {
  const [, ...rest] = labels.shape
  const classes = rest.reduce((p, d) => p * d, 1)
  if (rest.length > 1) throw errors.badData(`labels of shape [${labels.shape}]`, where, 'class numbers [N], or one-hot [N, classes]')
  return Int32Array.from({ length: count }, (_, i) => {
    if (classes === 1) {
      const label = labels.at(i)
      if (!Number.isInteger(label)) throw errors.badData(`label ${i} is ${label}, no class number`, where)
      return label
    }
    const row = globalThis.Array.from({ length: classes }, (_, k) => labels.at(i * classes + k))
    if (row.some((v) => v !== 0 && v !== 1) || row.filter(Boolean).length !== 1)
      throw errors.badData(`the labels of item ${i} are not one-hot`, where, 'class numbers [N], or one-hot [N, classes]')
    return row.indexOf(1)
  })
}

const IMAGES = ['x', 'images', 'data', 'inputs', 'arr_0']
const LABELS = ['y', 'labels', 'targets', 'arr_1']

/** One .npy, or a folder's or archive's arrays by their usual names (x, y, x_train, y_test, images, labels …). */
export function readArrays(
  named: ReadonlyMap<string, () => Array>,
  where: string,
): { train: Source | null; test: Source | null; all: Source | null } {
  const find = (stems: readonly string[], suffix: string): Array | null => {
    for (const s of stems) {
      const get = named.get(s + suffix)
      if (get) return get()
    }
    return null
  }
  const of = (suffix: string, note: string): Source | null => {
    const x = find(IMAGES, suffix)
    return x ? source(x, find(LABELS, suffix), `NumPy arrays (${basename(where)}${note})`, where) : null
  }
  const [train, test, all] = [of('_train', ', train'), of('_test', ', test'), of('', '')]
  if (train || test || all) return { train, test, all }
  const only = [...named.values()]
  return { train: null, test: null, all: only.length === 1 ? source(only[0]!(), null, `NumPy array (${basename(where)})`, where) : null }
}

export function npz(file: string): ReadonlyMap<string, () => Array> {
  let entries: Record<string, Uint8Array>
  try {
    entries = unzipSync(readFileSync(file))
  } catch (e) {
    throw errors.badData(`the archive is damaged: ${(e as Error).message}`, file)
  }
  return new Map(Object.entries(entries).map(([name, bytes]) => [name.replace(/\.npy$/, ''), () => parseNpy(bytes, `${file}:${name}`)]))
}

export const npy =
  (file: string): (() => Array) =>
  () =>
    parseNpy(new Uint8Array(readFileSync(file)), file)
