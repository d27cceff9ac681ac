// Packages are published as compiled: one that was not, or not since its sources changed, would be empty or old.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

const missing = ['dist/index.js', ...(existsSync('src/bin.ts') ? ['dist/bin.js'] : [])].filter((f) => !existsSync(f))
const newest = Math.max(...readdirSync('src', { recursive: true }).map((f) => statSync(join('src', f)).mtimeMs))
if (missing.length || newest > statSync('dist/index.js').mtimeMs) {
  console.error(`${missing.length ? `${missing.join(', ')} is missing` : 'dist is older than src'}: run pnpm build in the root first`)
  process.exit(1)
}
