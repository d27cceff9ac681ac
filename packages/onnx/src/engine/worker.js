// Runs in a worker thread: onnxruntime's run() blocks its thread's event loop, and calls serialize anyway.
import { parentPort } from 'node:worker_threads'
import ort from 'onnxruntime-node'

/** @type {Map<number, import('onnxruntime-node').InferenceSession>} */
const sessions = new Map()

/** @param {any} m */
async function handle(m) {
  if (m.type === 'load') {
    const session = await ort.InferenceSession.create(m.bytes, m.options)
    sessions.set(m.session, session)
    return { inputs: [...session.inputNames], outputs: [...session.outputNames] }
  }
  const session = sessions.get(m.session)
  if (!session) throw new Error('the model was released')
  if (m.type === 'release') {
    sessions.delete(m.session)
    await session.release()
    return null
  }
  /** @type {Record<string, import('onnxruntime-node').Tensor>} */
  const feeds = {}
  session.inputNames.forEach((name, i) => {
    const t = m.inputs[i]
    feeds[name] = new ort.Tensor(t.dtype, t.data, t.shape)
  })
  const results = await session.run(feeds)
  return session.outputNames.map((name) => {
    const t = /** @type {any} */ (results[name])
    return { dtype: t.type, shape: [...t.dims], data: t.data }
  })
}

parentPort?.on('message', async (m) => {
  try {
    const value = /** @type {any} */ (await handle(m))
    // Results are handed over, not copied; the arrays of one result never share a buffer.
    const buffers =
      m.type === 'run' ? value.map((/** @type {any} */ t) => t.data.buffer).filter((/** @type {any} */ x) => x instanceof ArrayBuffer) : []
    parentPort?.postMessage({ id: m.id, value }, buffers)
  } catch (e) {
    parentPort?.postMessage({ id: m.id, error: e instanceof Error ? e.message : String(e) })
  }
})
