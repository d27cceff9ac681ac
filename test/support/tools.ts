import { spawnSync } from 'node:child_process'
import { findCompiler } from '../../packages/cli/src/compiler.ts'

const works = (program: string, ...args: string[]): boolean => spawnSync(program, args, { stdio: 'ignore' }).status === 0

/** A C compiler, or null. */
export const compiler = findCompiler()

/** A Python with some packages (`DQC_PYTHON`, or the one on the path), or the reason to skip. */
export function python(...packages: string[]): { run: string; skip: false } | { run: null; skip: string } {
  const run = process.env['DQC_PYTHON'] ?? 'python3'
  const missing = packages.filter(
    (p) => !works(run, '-c', `import importlib.util, sys; sys.exit(importlib.util.find_spec("${p}") is None)`),
  )
  return missing.length ? { run: null, skip: `${run} has no ${missing.join(', ')}` } : { run, skip: false }
}
