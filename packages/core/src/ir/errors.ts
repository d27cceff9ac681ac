/** What a user can meet and mend. The CLI maps kinds to exit codes; the codes themselves are stable. */
export type ErrorKind = 'usage' | 'unreadable' | 'unsupported' | 'accuracy' | 'robustness' | 'recheck' | 'interrupted'

/** A failure that the caller can understand: what went wrong, where, and what to do about it. */
export class CompileError extends Error {
  override readonly name = 'CompileError'
  constructor(
    readonly code: string,
    readonly kind: ErrorKind,
    readonly what: string,
    readonly where: string | null,
    readonly hint: string | null,
  ) {
    super(`${where ? `${where}: ` : ''}${what}${hint ? ` (${hint})` : ''}`)
  }
}

/** A broken promise inside dqc: always our own bug, never the user's. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError'
}

/** Throws {@link InvariantError} unless `condition` holds. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new InvariantError(message)
}

const factory =
  (code: string, kind: ErrorKind) =>
  (what: string, where: string | null = null, hint: string | null = null): CompileError =>
    new CompileError(code, kind, what, where, hint)

/** One factory per code. */
export const errors = {
  usage: factory('usage', 'usage'),
  badModel: factory('bad-model', 'unreadable'),
  badData: factory('bad-data', 'unreadable'),
  unsupportedModel: factory('unsupported-model', 'unsupported'),
  unsupportedTarget: factory('unsupported-target', 'unsupported'),
  accumulatorOverflow: factory('accumulator-overflow', 'unsupported'),
  shapeMismatch: factory('shape-mismatch', 'unreadable'),
  badOutput: factory('bad-output', 'unreadable'),
  accuracyGate: factory('accuracy-gate', 'accuracy'),
  robustnessGate: factory('robustness-gate', 'robustness'),
  recheckFailed: factory('recheck-failed', 'recheck'),
  interrupted: factory('interrupted', 'interrupted'),
} as const
