// Compiles every package to dist/: JavaScript, type declarations, and the files that are JavaScript already.
import { spawnSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'

for (const name of ['core', 'onnx', 'tflite', 'cli']) {
  const dir = `packages/${name}`
  rmSync(`${dir}/dist`, { recursive: true, force: true })
  const config = `${dir}/tsconfig.build.json`
  writeFileSync(
    config,
    JSON.stringify({
      extends: '../../tsconfig.base.json',
      include: ['src/**/*.ts', 'src/**/*.js'],
      exclude: ['src/**/*.test.ts', 'src/**/*.cases.ts'],
      compilerOptions: {
        noEmit: false,
        outDir: 'dist',
        rootDir: 'src',
        declaration: true,
        sourceMap: true,
        allowJs: true,
        checkJs: false,
        customConditions: [],
      },
    }),
  )
  const { status, error } = spawnSync('tsc', ['-p', config], { stdio: 'inherit' })
  rmSync(config)
  if (error) console.error(`tsc does not start (${error.message}): run this as pnpm build`)
  if (status !== 0) process.exit(status ?? 1)
}
