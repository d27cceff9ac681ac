import type { Op } from '@dqc/core'
import * as elementwise from './elementwise.ts'
import * as layers from './layers.ts'
import type { Read, Write } from './spelling.ts'
import * as structure from './structure.ts'

/** How each type of the default domain is read. */
export const reads: ReadonlyMap<string, Read> = new Map(Object.entries({ ...elementwise.read, ...structure.read, ...layers.read }))

/** How each float or qdq op is written. */
export const writes: ReadonlyMap<Op, Write> = new Map([...elementwise.write, ...structure.write, ...layers.write])
