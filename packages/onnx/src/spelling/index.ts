import type { Op } from '@dqc/core'
import * as elementwise from './elementwise.ts'
import * as layers from './layers.ts'
import * as qonnx from './qonnx.ts'
import * as quantized from './quantized.ts'
import type { Read, Write } from './spelling.ts'
import * as structure from './structure.ts'

/** How each type of the default domain is read. */
export const reads: ReadonlyMap<string, Read> = new Map(Object.entries({ ...elementwise.read, ...structure.read, ...layers.read }))

/** How integer kernels are read as the real numbers they stand for, by type (with the domain where it is not the default). */
export const quantizedReads: ReadonlyMap<string, Read> = new Map(Object.entries({ ...quantized.read, ...qonnx.read }))

/** How each float or qdq op is written. */
export const writes: ReadonlyMap<Op, Write> = new Map([...elementwise.write, ...structure.write, ...layers.write])
