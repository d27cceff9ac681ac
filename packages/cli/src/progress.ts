import cliProgress from 'cli-progress'
import type { OnProgress } from './options.ts'

export interface Progress {
  readonly report: OnProgress
  stop(): void
}

/** A bar on a terminal, one plain line per stage otherwise. Everything goes to stderr. */
export function createProgress(stream: NodeJS.WriteStream, quiet: boolean): Progress {
  if (quiet) return { report: () => {}, stop: () => {} }
  if (!stream.isTTY) {
    let last = ''
    return {
      report(stage) {
        if (stage !== last) stream.write(`${stage}\n`)
        last = stage
      },
      stop: () => {},
    }
  }
  const bar = new cliProgress.SingleBar(
    { format: '{stage} {bar} {value}/{total} | {eta_formatted}', hideCursor: true, clearOnComplete: true, stream },
    cliProgress.Presets.shades_classic,
  )
  let stage = ''
  let running = false
  const stop = (): void => {
    if (running) bar.stop()
    running = false
  }
  return {
    report(next, done, of) {
      if (of === null) {
        stop()
        if (next !== stage) stream.write(`${next}\n`)
      } else if (next !== stage || !running) {
        stop()
        bar.start(of, done, { stage: next })
        running = true
      } else bar.update(done)
      stage = next
    },
    stop,
  }
}
