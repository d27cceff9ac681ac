import { errors } from '../ir/errors.ts'

/** What is needed of a worker thread; Node's own satisfies it. */
export interface WorkerLike {
  on(event: 'message', listener: (m: any) => void): unknown
  on(event: 'error', listener: (e: unknown) => void): unknown
  on(event: 'exit', listener: () => void): unknown
  postMessage(m: unknown): void
  ref(): void
  unref(): void
  terminate(): Promise<unknown>
}

/** A worker thread that answers each message {id, …} with {id, value} or {id, error}. */
export interface WorkerCalls {
  ask<T>(message: object): Promise<T>
  /** Ends the worker; what it held is gone. */
  close(): Promise<void>
}

/**
 * Starts the worker at the first call. Errors become CompileError that names the runtime; only pending work keeps the process alive. A worker
 * that died takes all it held with it: whatever is asked afterwards is told why.
 */
export function createWorkerCalls(runtime: string, start: () => WorkerLike): WorkerCalls {
  let worker: WorkerLike | null = null
  /** Why the worker died; null while it lives. */
  let died: string | null = null
  let next = 0
  const waiting = new Map<number, { resolve: (v: any) => void; reject: (e: Error) => void }>()
  const fail = (what: string): void => {
    for (const w of waiting.values()) w.reject(errors.unsupportedModel(what, runtime))
    waiting.clear()
  }
  const launch = (): WorkerLike => {
    const w = start()
    w.on('message', (m: { id: number; value?: unknown; error?: string }) => {
      const entry = waiting.get(m.id)
      waiting.delete(m.id)
      if (waiting.size === 0) w.unref()
      if (m.error !== undefined) entry?.reject(errors.unsupportedModel(m.error.replace(/\s+/g, ' '), runtime))
      else entry?.resolve(m.value)
    })
    const end = (why: string): void => {
      if (worker === w) died ??= why
      fail(died ?? why)
    }
    w.on('error', (e) => end(e instanceof Error ? e.message : String(e)))
    w.on('exit', () => end('the worker ended'))
    return w
  }
  return {
    ask<T>(message: object): Promise<T> {
      if (died !== null) return Promise.reject(errors.unsupportedModel(died, runtime))
      worker ??= launch()
      const w = worker
      return new Promise<T>((resolve, reject) => {
        const id = next++
        waiting.set(id, { resolve, reject })
        w.ref()
        w.postMessage({ ...message, id })
      })
    },
    async close() {
      const w = worker
      worker = null
      died = null
      await w?.terminate()
    },
  }
}
