import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root. */
export const ROOT = resolve(fileURLToPath(new URL('../..', import.meta.url)))

/** Real models and data, beside the repository or where $DQC_SHARED says, where there are any. */
export const SHARED = process.env['DQC_SHARED'] ?? resolve(ROOT, '..', 'shared')

/** A reason to skip when a shared file is missing, false when it is there. */
export const needs = (...parts: string[]): string | false =>
  existsSync(join(SHARED, ...parts)) ? false : `shared/${parts.join('/')} is not here`
