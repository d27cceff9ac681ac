import type { Op } from '../ir/op.ts'
import * as broadcasting from './broadcasting.ts'
import * as conv from './conv.ts'
import * as elementwise from './elementwise.ts'
import * as fakeQuant from './fakeQuant.ts'
import * as foreign from './foreign.ts'
import * as integer from './integer.ts'
import * as normalize from './normalize.ts'
import * as pool from './pool.ts'
import * as reduce from './reduce.ts'
import * as structure from './structure.ts'
import * as tflite from './tflite.ts'

const isOp = (x: unknown): x is Op => typeof x === 'object' && x !== null && 'infer' in x && 'eval' in x

/** Every op record, in the order of the files. */
export const ops: readonly Op[] = [
  broadcasting,
  elementwise,
  structure,
  reduce,
  conv,
  pool,
  normalize,
  integer,
  tflite,
  fakeQuant,
  foreign,
].flatMap((m) => Object.values(m as Record<string, unknown>).filter(isOp))
