import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { describe, it } from 'node:test'
import { createWorkerCalls, type WorkerLike } from './worker.ts'

/** A worker that answers, or dies at the message `die`. */
class Fake extends EventEmitter {
  ref(): void {}
  unref(): void {}
  postMessage(m: { id: number; type: string }): void {
    queueMicrotask(() => {
      if (m.type !== 'die') {
        this.emit('message', { id: m.id, value: m.type })
        return
      }
      this.emit('error', new Error('no such library'))
      this.emit('exit')
    })
  }
  async terminate(): Promise<void> {
    this.emit('exit')
  }
}

describe('a worker thread', () => {
  it('that died says why to all who wait and to all who come later, until it is closed', async () => {
    let started = 0
    const calls = createWorkerCalls('runtime', () => {
      started++
      return new Fake() as WorkerLike
    })
    assert.equal(await calls.ask({ type: 'hello' }), 'hello')
    const both = [calls.ask({ type: 'die' }), calls.ask({ type: 'hello' })]
    for (const asked of both) await assert.rejects(asked, /no such library/)
    await assert.rejects(calls.ask({ type: 'hello' }), /no such library/)
    await calls.close()
    assert.equal(await calls.ask({ type: 'again' }), 'again')
    await calls.close()
    assert.equal(started, 2)
  })
})
