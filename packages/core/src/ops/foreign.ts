import { errors } from '../ir/errors.ts'
import type { Op } from '../ir/op.ts'

export interface ForeignAttrs {
  /** The source format's name of the operation, with its domain: `ai.onnx.ml:TreeEnsemble`. */
  readonly type: string
  /** Why core does not know it. */
  readonly reason: string
  /** The node as its format holds it. Not printed. */
  readonly payload: unknown
}

/** A node that core only carries. It stays float and goes back into the format it came from; every other target refuses it. */
export const foreign: Op<ForeignAttrs> = {
  name: 'foreign',
  spec: 'the source format',
  levels: ['float', 'qdq', 'integer'],
  infer: (_, { type }) => {
    throw errors.unsupportedModel(`the result types of ${type} are not known`)
  },
  eval: (_, { type }) => {
    throw errors.unsupportedModel(`${type} has no reference semantics in dqc`)
  },
  grad: null,
  weights: null,
  quant: 'none',
  lipschitz: null,
  positivelyHomogeneous: false,
  clamp: null,
  lower: null,
}

/** y = x */
export const identity: Op<Record<string, never>> = {
  name: 'identity',
  spec: 'ONNX Identity-16',
  levels: ['float', 'qdq', 'integer'],
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  eval: ([x]) => [x!],
  grad: (_, __, [dy]) => [dy ?? null],
  weights: null,
  quant: 'shared',
  lipschitz: 1,
  positivelyHomogeneous: true,
  clamp: null,
  lower: (b, _, [x], out) => b.emit(identity, [x!], {}, { quant: out }),
}

/** y = x, of which nothing is learned: gradients end here */
export const detach: Op<Record<string, never>> = {
  name: 'detach',
  spec: 'ONNX Identity-16, without its derivative',
  levels: ['float', 'qdq'],
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  eval: ([x]) => [x!],
  grad: null,
  weights: null,
  quant: 'none',
  lipschitz: 1,
  positivelyHomogeneous: true,
  clamp: null,
  lower: null,
}
