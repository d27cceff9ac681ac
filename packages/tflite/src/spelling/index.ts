import type { Op } from '@dqc/core'
import * as core from '@dqc/core'
import * as elementwise from './elementwise.ts'
import * as layers from './layers.ts'
import type { Read, Write } from './spelling.ts'
import * as structure from './structure.ts'

/** How each operator is read. */
export const reads: ReadonlyMap<string, Read> = new Map(Object.entries({ ...elementwise.read, ...structure.read, ...layers.read }))

/** How each op of any level is written. */
export const writes: ReadonlyMap<Op, Write> = new Map([...elementwise.write, ...structure.write, ...layers.write])

/** Ops whose rank-4 data has channels, last in the file. */
export const channelOps: ReadonlySet<Op> = new Set<Op>([
  core.conv,
  core.convTranspose,
  core.intConv,
  core.maxPool,
  core.averagePool,
  core.fixedAveragePool,
  core.globalAveragePool,
  core.globalMaxPool,
  core.fixedMean,
  ...structure.channels,
])
/** Ops that work in either order of axes. */
export const agnosticOps: ReadonlySet<Op> = new Set<Op>([...elementwise.agnostic, ...structure.agnostic])
