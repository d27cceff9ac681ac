import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { errors, type TrainingState } from '@dqc/core'
import { makeFolder, reason } from './files.ts'

/** What an interrupted run leaves behind: the stages that are done, and where the last one stands. */
export interface Checkpoint {
  /** Stands for the model, the data and the options: another run does not continue from it. */
  readonly fingerprint: string
  readonly stages: Readonly<Record<string, TrainingState>>
}

const MAGIC = 'dqc-checkpoint-1\n'

/** Header line in JSON, in which each vector is its length, then the vectors as little-endian float32. */
export function encodeCheckpoint(c: Checkpoint): Uint8Array {
  const vectors: Float32Array[] = []
  const header = JSON.stringify(c, (_, v: unknown) => {
    if (!(v instanceof Float32Array)) return v
    vectors.push(v)
    return { float32: v.length }
  })
  const head = new TextEncoder().encode(`${MAGIC}${header}\n`)
  const out = new Uint8Array(head.length + vectors.reduce((n, v) => n + 4 * v.length, 0))
  out.set(head)
  let at = head.length
  for (const v of vectors) {
    out.set(new Uint8Array(v.buffer, v.byteOffset, 4 * v.length), at)
    at += 4 * v.length
  }
  return out
}

/** Throws CompileError for bytes that are no whole checkpoint. */
export function decodeCheckpoint(bytes: Uint8Array, path: string): Checkpoint {
  const broken = errors.badData('this is no whole checkpoint', path, 'start again without --resume')
  const magic = new TextDecoder().decode(bytes.subarray(0, MAGIC.length))
  const end = bytes.indexOf(10, MAGIC.length)
  if (magic !== MAGIC || end < 0) throw broken
  let at = end + 1
  let value: Checkpoint
  try {
    value = JSON.parse(new TextDecoder().decode(bytes.subarray(MAGIC.length, end)), (_, v: unknown) => {
      const length = (v as { float32?: unknown } | null)?.float32
      if (typeof length !== 'number') return v
      const next = at + 4 * length
      if (next > bytes.length) throw broken
      const vector = new Float32Array(bytes.slice(at, next).buffer)
      at = next
      return vector
    })
  } catch {
    throw broken
  }
  if (at !== bytes.length || typeof value.fingerprint !== 'string') throw broken
  return value
}

/** The checkpoint at a path, or null where there is none. */
export function readCheckpoint(path: string): Checkpoint | null {
  let bytes: Uint8Array
  try {
    bytes = new Uint8Array(readFileSync(path))
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw errors.badData(reason(e), path)
  }
  return decodeCheckpoint(bytes, path)
}

/** Writes a checkpoint whole: a run that is killed in between leaves the one before. */
export function writeCheckpoint(path: string, c: Checkpoint): void {
  const temporary = join(dirname(path), `.${basename(path)}.tmp`)
  try {
    makeFolder(dirname(path))
    writeFileSync(temporary, encodeCheckpoint(c))
    renameSync(temporary, path)
  } catch (e) {
    if (existsSync(temporary)) rmSync(temporary)
    throw errors.badOutput(`cannot write: ${reason(e)}`, path)
  }
}
