// Packages are published as compiled: one that was not would be empty.
import { existsSync } from 'node:fs'

if (!existsSync('dist/index.js')) {
  console.error('dist/index.js is missing: run pnpm build in the root first')
  process.exit(1)
}
