import { execFile, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type ArtifactFile, errors, type Graph, type Model, numbersOf, type Tensor, tensorOf, transpose } from '@dqc/core'

/** Strict C99; what dqc writes has to pass without a warning. */
export const C_FLAGS = ['-std=c99', '-Wall', '-Wextra', '-Wconversion', '-Werror']

/** The C compiler of this machine: `$CC`, or the first of cc, gcc and clang; null where there is none. */
export function findCompiler(): string | null {
  for (const name of [process.env['CC'], 'cc', 'gcc', 'clang'])
    if (name && spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0) return name
  return null
}

/** A C file, compiled and running. */
export interface CompiledModel {
  /** Steps in, steps out, one sample or many. */
  readonly steps: Model
  /** Bytes of code and constants, of a build for small size; null where `size` (binutils) is missing. */
  readonly flash: number | null
  release(): Promise<void>
}

const WIDTH: Record<string, number> = { int8_t: 1, uint8_t: 1, int16_t: 2, int32_t: 4 }

/** The element types of run()'s arguments, as the header declares them. */
const parameters = (header: string): { call: string; types: string[] } => {
  const found = /void (\w+)\(([^)]*)\);/.exec(header)!
  return { call: found[1]!, types: found[2]!.split(',').map((p) => /u?int\d+_t/.exec(p)![0]) }
}

/**
 * Compiles what the C target wrote and runs it as a filter: samples on its input, results on its output.
 * Throws CompileError (recheck) when the compiler refuses it or warns.
 */
export async function compileC(
  compiler: string,
  files: readonly ArtifactFile[],
  integer: Graph<'integer'>,
  channelsLast: ChannelsLast,
): Promise<CompiledModel> {
  const folder = mkdtempSync(join(tmpdir(), 'dqc-c-'))
  const release = async (): Promise<void> => rmSync(folder, { recursive: true, force: true })
  try {
    for (const f of files) writeFileSync(join(folder, f.path), f.bytes)
    const [source, header] = [files[0]!.path, files[1]!.path]
    const { call, types } = parameters(new TextDecoder().decode(files[1]!.bytes))
    const sizes = [...integer.inputs, ...integer.outputs].map((v) => elements(v.shape!))
    const inputs = integer.inputs.length
    writeFileSync(join(folder, 'main.c'), filter(header, call, types, sizes, inputs))
    const build = async (...args: string[]): Promise<void> => {
      try {
        await promisify(execFile)(compiler, [...C_FLAGS, ...args], { cwd: folder, maxBuffer: 1e8 })
      } catch (e) {
        throw errors.recheckFailed(
          `${compiler} refuses the emitted file: ${String((e as { stderr?: string }).stderr)
            .split('\n')
            .slice(0, 3)
            .join(' ')}`,
        )
      }
    }
    await build('-O3', source, 'main.c', '-o', 'model')
    await build('-Os', '-c', source, '-o', 'small.o')
    const measured = spawnSync('size', ['small.o'], { cwd: folder, encoding: 'utf8' })
    const [text, data] = measured.status === 0 ? measured.stdout.split('\n')[1]!.trim().split(/\s+/).map(Number) : []
    const run = async (tensors: readonly Tensor[]): Promise<Tensor[]> => {
      const samples = tensors[0]!.shape[0]!
      const fed = tensors.map((t, i) => encode(t, types[i]!, channelsLast.inputs[i]!))
      const size = fed.map((b) => b.length / samples)
      const all = Buffer.concat(
        Array.from({ length: samples }, (_, s) => fed.map((b, i) => b.subarray(s * size[i]!, (s + 1) * size[i]!))).flat(),
      )
      const answer = await pipe(join(folder, 'model'), all)
      const widths = integer.outputs.map((_, i) => sizes[inputs + i]! * WIDTH[types[inputs + i]!]!)
      const whole = widths.reduce((a, b) => a + b, 0)
      if (answer.length !== samples * whole)
        throw errors.recheckFailed(`the compiled file answered ${answer.length} bytes, not ${samples * whole}`)
      let at = 0
      return integer.outputs.map((v, i) => {
        const part = Buffer.concat(Array.from({ length: samples }, (_, s) => answer.subarray(s * whole + at, s * whole + at + widths[i]!)))
        at += widths[i]!
        return decode(part, types[inputs + i]!, [samples, ...(v.shape!.slice(1) as number[])], channelsLast.outputs[i]!)
      })
    }
    return { steps: Object.assign(run, { release }), flash: text === undefined ? null : text + data!, release }
  } catch (e) {
    await release()
    throw e
  }
}

type ChannelsLast = { readonly inputs: readonly boolean[]; readonly outputs: readonly boolean[] }

/** Elements of one sample. */
const elements = (shape: readonly (number | string)[]): number => shape.slice(1).reduce<number>((p, d) => p * (d as number), 1)

const filter = (header: string, call: string, types: readonly string[], sizes: readonly number[], inputs: number): string => {
  const reads = types.slice(0, inputs).map((_, i) => `fread(p${i}, sizeof p${i}, 1, stdin) == 1`)
  return [
    '#include <stdio.h>',
    `#include "${header}"`,
    ...types.map((t, i) => `static ${t} p${i}[${sizes[i]}];`),
    'int main(void)',
    '{',
    `    while (${reads.join(' && ')}) {`,
    `        ${call}(${types.map((_, i) => `p${i}`).join(', ')});`,
    ...types
      .slice(inputs)
      .map((_, i) => `        if (fwrite(p${inputs + i}, sizeof p${inputs + i}, 1, stdout) != 1) {\n            return 1;\n        }`),
    '    }',
    '    return 0;',
    '}',
    '',
  ].join('\n')
}

const toLast = (rank: number): number[] => [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1]
const toSecond = (rank: number): number[] => [0, rank - 1, ...Array.from({ length: rank - 2 }, (_, i) => i + 1)]

function encode(t: Tensor, type: string, last: boolean): Buffer {
  const moved = last ? transpose.eval([t], { perm: toLast(t.shape.length) })[0]! : t
  const values = numbersOf(moved)
  const bytes = Buffer.alloc(values.length * WIDTH[type]!)
  for (let i = 0; i < values.length; i++)
    if (WIDTH[type] === 1) bytes[i] = values[i]! & 255
    else bytes.writeIntLE(values[i]!, i * WIDTH[type]!, WIDTH[type]!)
  return bytes
}

function decode(bytes: Buffer, type: string, shape: readonly number[], last: boolean): Tensor {
  const n = bytes.length / WIDTH[type]!
  const values = Int32Array.from({ length: n }, (_, i) =>
    type === 'uint8_t' ? bytes[i]! : bytes.readIntLE(i * WIDTH[type]!, WIDTH[type]!),
  )
  if (!last) return tensorOf('int32', shape, values)
  const rank = shape.length
  const lying = tensorOf(
    'int32',
    toLast(rank).map((d) => shape[d]!),
    values,
  )
  return transpose.eval([lying], { perm: toSecond(rank) })[0]!
}

/** Runs a filter to its end. */
function pipe(program: string, input: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [], { stdio: ['pipe', 'pipe', 'ignore'] })
    const parts: Buffer[] = []
    child.stdout.on('data', (d: Buffer) => parts.push(d))
    child.on('error', reject)
    child.stdin.on('error', () => {})
    child.on('close', (code, signal) =>
      code === 0
        ? resolve(Buffer.concat(parts))
        : reject(errors.recheckFailed(`the compiled file ended with ${signal ?? `exit code ${code}`}`)),
    )
    child.stdin.end(input)
  })
}
