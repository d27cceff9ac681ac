import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { gunzipSync, inflateSync } from 'node:zlib'
import { errors } from '@dqc/core'
import { byteImages, type Source } from './source.ts'

const RECORD = 3073

/** CIFAR-10's binary version: records of a label and 1024 red, green, blue bytes. */
export function readCifar(files: readonly string[], classes: readonly string[] | null): Source {
  const buffers = files.map((f) => {
    const b = readFileSync(f)
    if (b.length === 0 || b.length % RECORD !== 0)
      throw errors.badData(`${b.length} bytes are not a whole number of CIFAR-10 records`, f, 'the file is truncated')
    return b
  })
  const all = Buffer.concat(buffers)
  const count = all.length / RECORD
  const labels = Int32Array.from({ length: count }, (_, i) => all[i * RECORD]!)
  return byteImages({
    description: `CIFAR-10 binary (${files.map((f) => basename(f)).join(', ')})`,
    count,
    shape: [3, 32, 32],
    labels,
    classes,
    at: (i, c, y, x) => all[i * RECORD + 1 + c * 1024 + y * 32 + x]!,
  })
}

function idx(file: string): { dims: number[]; data: Uint8Array } {
  let b = readFileSync(file)
  try {
    if (b[0] === 0x1f && b[1] === 0x8b) b = gunzipSync(b)
  } catch {
    throw errors.badData('the compressed stream is damaged', file)
  }
  if (b.length < 4 || b[0] !== 0 || b[1] !== 0 || b[2] !== 8) throw errors.badData('not an IDX file of bytes', file)
  const rank = b[3]!
  if (b.length < 4 + 4 * rank) throw errors.badData('the file is truncated', file)
  const dims = Array.from({ length: rank }, (_, i) => b.readUInt32BE(4 + 4 * i))
  const data = b.subarray(4 + 4 * rank)
  if (data.length !== dims.reduce((p, d) => p * d, 1))
    throw errors.badData(`${data.length} bytes for the shape [${dims}]`, file, 'the file is truncated')
  return { dims, data }
}

/** IDX (MNIST's format), gzipped or not. */
export function readIdx(images: string, labels: string | null): Source {
  const im = idx(images)
  if (im.dims.length !== 3) throw errors.badData(`images of rank ${im.dims.length}`, images)
  const [n, H, W] = im.dims as [number, number, number]
  const lb = labels ? idx(labels) : null
  if (lb && lb.dims[0] !== n) throw errors.badData(`${lb.dims[0]} labels for ${n} images`, labels!)
  return byteImages({
    description: `IDX (${basename(images)})`,
    count: n,
    shape: [1, H, W],
    labels: lb ? Int32Array.from(lb.data) : null,
    at: (i, _, y, x) => im.data[(i * H + y) * W + x]!,
  })
}

/** MAT-file data types (MathWorks, "MAT-File Format", table 1-1): type → bytes and reader. */
const MI: Record<number, { size: number; read: (v: DataView, at: number) => number }> = {
  1: { size: 1, read: (v, a) => v.getInt8(a) },
  2: { size: 1, read: (v, a) => v.getUint8(a) },
  3: { size: 2, read: (v, a) => v.getInt16(a, true) },
  4: { size: 2, read: (v, a) => v.getUint16(a, true) },
  5: { size: 4, read: (v, a) => v.getInt32(a, true) },
  6: { size: 4, read: (v, a) => v.getUint32(a, true) },
  7: { size: 4, read: (v, a) => v.getFloat32(a, true) },
  9: { size: 8, read: (v, a) => v.getFloat64(a, true) },
}
const MI_MATRIX = 14
const MI_COMPRESSED = 15

interface Matrix {
  readonly name: string
  readonly dims: readonly number[]
  readonly at: (i: number) => number
  readonly count: number
}

function elements(b: Buffer): { type: number; data: Buffer }[] {
  const out: { type: number; data: Buffer }[] = []
  for (let at = 0; at + 8 <= b.length; ) {
    const word = b.readUInt32LE(at)
    // Small elements hold type and size in one word and their data in the next.
    if (word >>> 16) {
      out.push({ type: word & 0xffff, data: b.subarray(at + 4, at + 4 + (word >>> 16)) })
      at += 8
      continue
    }
    const size = b.readUInt32LE(at + 4)
    if (at + 8 + size > b.length) throw errors.badData('the file is truncated')
    out.push({ type: word, data: b.subarray(at + 8, at + 8 + size) })
    at += 8 + (word === MI_COMPRESSED ? size : Math.ceil(size / 8) * 8)
  }
  return out
}

function matrices(file: string): Matrix[] {
  const b = readFileSync(file)
  if (b.length < 128 || !b.subarray(0, 6).toString('latin1').startsWith('MATLAB')) throw errors.badData('not a MATLAB 5 file', file)
  try {
    return elements(b.subarray(128)).flatMap((e) => {
      const m = e.type === MI_COMPRESSED ? elements(inflateSync(e.data))[0] : e
      if (m?.type !== MI_MATRIX) return []
      const [, dims, name, real] = elements(m.data)
      if (!dims || !name || !real || !MI[real.type]) return []
      const { size, read } = MI[real.type]!
      const view = new DataView(real.data.buffer, real.data.byteOffset, real.data.length)
      const shape = Array.from({ length: dims.data.length / 4 }, (_, i) => dims.data.readInt32LE(4 * i))
      return [
        {
          name: name.data.toString('latin1'),
          dims: shape,
          count: Math.floor(real.data.length / size),
          at: (i: number) => read(view, i * size),
        },
      ]
    })
  } catch (e) {
    throw errors.badData(`the MATLAB file is damaged: ${(e as Error).message}`, file)
  }
}

/** SVHN's cropped digits: X [32, 32, 3, N] in column-major order, y [N, 1] with 10 for the digit 0. */
export function readSvhn(file: string): Source {
  const all = matrices(file)
  const X = all.find((m) => m.name === 'X')
  const y = all.find((m) => m.name === 'y')
  if (!X || X.dims.length !== 4) throw errors.badData('no image array X of rank 4', file)
  const [H, W, C, N] = X.dims as [number, number, number, number]
  if (!(X.count >= H * W * C * N) || (y && !(y.count >= N)))
    throw errors.badData(`${X.count} values and ${y?.count ?? 0} labels for ${N} images of ${C}×${H}×${W}`, file, 'the file is truncated')
  return byteImages({
    description: `SVHN (${basename(file)})`,
    count: N,
    shape: [C, H, W],
    labels: y ? Int32Array.from({ length: N }, (_, i) => y.at(i) % 10) : null,
    at: (i, c, r, x) => X.at(((i * C + c) * W + x) * H + r),
  })
}
