import { createHash, randomBytes } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { errors } from '@dqc/core'
import type { LoadExternal } from '@dqc/onnx'

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Reads a file whole. Throws CompileError with the reason in words. */
export function readBytes(path: string): Uint8Array {
  try {
    if (statSync(path).isDirectory()) throw errors.badModel('this is a folder, not a model file', path)
    return new Uint8Array(readFileSync(path))
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === undefined) throw e
    throw errors.badModel(reason(e), path)
  }
}

export function reason(e: unknown): string {
  switch ((e as NodeJS.ErrnoException).code) {
    case 'ENOENT':
      return 'there is no such file'
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return 'permission denied'
    case 'ENOSPC':
      return 'the disk is full'
    case 'ENOTDIR':
    case 'EEXIST':
      return 'a file stands where a folder is needed'
    default:
      return (e as Error).message
  }
}

/** Reads external data next to a model. A location that leads out of the model's folder, by dots, by root or by link, is refused. */
export function externalLoader(model: string): LoadExternal {
  const folder = realpathSync(dirname(resolve(model)))
  return (location, offset, length) => {
    const where = `external data ${location}`
    const inside = (p: string): boolean => {
      const r = relative(folder, p)
      return r !== '' && !r.startsWith('..') && !isAbsolute(r)
    }
    const path = resolve(folder, location)
    if (isAbsolute(location) || !inside(path)) throw errors.badModel('the path leads out of the model’s folder', where)
    let real: string
    try {
      real = realpathSync(path)
    } catch (e) {
      throw errors.badModel(reason(e), where, 'external data must lie beside the model')
    }
    if (!inside(real)) throw errors.badModel('the path leads out of the model’s folder', where)
    const size = statSync(real).size
    const n = length ?? size - offset
    if (!Number.isSafeInteger(n) || n < 0 || offset + n > size)
      throw errors.badModel(`bytes ${offset} … ${offset + n} of a file of ${size}`, where)
    const bytes = new Uint8Array(n)
    const fd = openSync(real, 'r')
    try {
      readSync(fd, bytes, 0, n, offset)
    } finally {
      closeSync(fd)
    }
    return bytes
  }
}

/** Makes a folder and those above it, one by one: Node's recursive mkdir never returns where a file system refuses, /proc for one. */
export function makeFolder(path: string): void {
  if (existsSync(path)) {
    if (!statSync(path).isDirectory()) throw Object.assign(new Error('not a folder'), { code: 'ENOTDIR' })
    return
  }
  makeFolder(dirname(path))
  mkdirSync(path)
}

/** Files that appear whole and together: written under temporary names first, renamed on commit, removed on rollback. */
export interface Staging {
  /** Writes a file under a temporary name and returns that name. */
  stage(path: string, bytes: Uint8Array | string): string
  /** Names a file that the commit makes superfluous. */
  supersede(path: string): void
  /** Files so named. */
  superseded(): readonly string[]
  /** Gives all staged files their names. */
  commit(): void
  /** Removes what was staged and not committed. */
  rollback(): void
}

/** Finds out before the work whether a folder can be written to; leaves nothing behind. Throws CompileError. */
export function probeFolder(folder: string): void {
  try {
    let missing: string | null = null
    for (let at = resolve(folder); !existsSync(at); at = dirname(at)) missing = at
    makeFolder(folder)
    accessSync(folder, constants.W_OK)
    if (missing) rmSync(missing, { recursive: true })
  } catch (e) {
    throw errors.badOutput(`cannot write: ${reason(e)}`, folder)
  }
}

export function createStaging(): Staging {
  let staged: { temporary: string; path: string }[] = []
  const superfluous: string[] = []
  return {
    supersede(path) {
      superfluous.push(path)
    },
    superseded: () => superfluous,
    stage(path, bytes) {
      // Found out now, not when other files have their names already.
      if (existsSync(path) && statSync(path).isDirectory())
        throw errors.badOutput('cannot write: a folder stands where a file is to be', path)
      const temporary = join(dirname(path), `.${basename(path)}.tmp-${randomBytes(4).toString('hex')}`)
      try {
        makeFolder(dirname(path))
        staged.push({ temporary, path })
        writeFileSync(temporary, bytes)
      } catch (e) {
        throw errors.badOutput(`cannot write: ${reason(e)}`, path)
      }
      return temporary
    },
    commit() {
      for (const { temporary, path } of staged) {
        try {
          renameSync(temporary, path)
        } catch (e) {
          throw errors.badOutput(`cannot write: ${reason(e)}`, path)
        }
      }
      staged = []
      for (const path of superfluous) rmSync(path, { force: true })
    },
    rollback() {
      for (const { temporary } of staged) rmSync(temporary, { force: true })
      staged = []
    },
  }
}
