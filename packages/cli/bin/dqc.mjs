#!/usr/bin/env node
// Runs the sources of a checkout without a build; the published package starts dist/bin.js instead.
import { register } from 'node:module'
import { register as registerTsx } from 'tsx/esm/api'

register(
  `data:text/javascript,${encodeURIComponent('export const resolve = (s, c, next) => next(s, { ...c, conditions: [...c.conditions, "source"] })')}`,
)
registerTsx()
await import('../src/bin.ts')
