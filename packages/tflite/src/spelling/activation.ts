import { type Builder, clip, errors, relu, sign, tanh, type Value } from '@dqc/core'
import { ActivationFunctionType as Code } from '../format/schema.gen.ts'

/** A fused activation: the interval that it clamps to, and the op it is in real numbers. */
interface Clamp {
  readonly range: readonly [number, number]
  readonly emit: (b: Builder, v: Value) => Value
}

const clamps = new Map<number, Clamp>([
  [Code.RELU, { range: [0, Number.POSITIVE_INFINITY], emit: (b, v) => b.emit(relu, [v], {}) }],
  [Code.RELU6, { range: [0, 6], emit: (b, v) => b.emit(clip, [v], { min: 0, max: 6 }) }],
  [Code.RELU_N1_TO_1, { range: [-1, 1], emit: (b, v) => b.emit(clip, [v], { min: -1, max: 1 }) }],
])

/** What a fused activation does; null for none. Throws CompileError for those that no kernel fuses. */
export function clampOf(code: number): Clamp | null {
  if (code === Code.NONE) return null
  const c = clamps.get(code)
  if (!c)
    throw errors.unsupportedModel(
      `the fused activation ${code === Code.TANH ? tanh.name : code === Code.SIGN_BIT ? sign.name : code} has no kernel`,
    )
  return c
}

/** The fused activation that clamps to an interval, or null. */
export function activationFor([min, max]: readonly [number, number]): number | null {
  for (const [code, { range }] of clamps) if (range[0] === min && range[1] === max) return code
  return null
}
