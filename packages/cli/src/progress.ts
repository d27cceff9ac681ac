import cliProgress from 'cli-progress'
import type { OnProgress } from './options.ts'

export interface Progress {
  readonly report: OnProgress
  stop(): void
}

/** A bar on a terminal, one plain line per stage (and per tenth of a long one) otherwise. Everything goes to stderr. */
export function createProgress(stream: NodeJS.WriteStream, quiet: boolean): Progress {
  if (quiet) return { report: () => {}, stop: () => {} }
  if (!stream.isTTY) {
    let last = ''
    let tenth = 0
    return {
      report(stage, done, of, detail) {
        if (stage !== last) {
          stream.write(`${stage}\n`)
          tenth = 0
        }
        // Long work with something to tell does so now and then.
        const now = of ? Math.floor((10 * done) / of) : 0
        if (detail && now > tenth) stream.write(`  ${done}/${of} ${detail}\n`)
        if (detail) tenth = now
        last = stage
      },
      stop: () => {},
    }
  }
  const bar = new cliProgress.SingleBar(
    { format: '{stage} {bar} {value}/{total} | {eta_formatted} {detail}', hideCursor: true, clearOnComplete: true, stream },
    cliProgress.Presets.shades_classic,
  )
  let stage = ''
  let running = false
  const stop = (): void => {
    if (running) bar.stop()
    running = false
  }
  return {
    report(next, done, of, detail = '') {
      if (of === null) {
        stop()
        if (next !== stage) stream.write(`${next}\n`)
      } else if (next !== stage || !running) {
        stop()
        bar.start(of, done, { stage: next, detail })
        running = true
      } else bar.update(done, { detail })
      stage = next
    },
    stop,
  }
}
