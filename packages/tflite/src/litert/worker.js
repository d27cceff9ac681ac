// Runs in a worker thread: LiteRT's WebAssembly blocks its thread while it computes.
import { readFileSync } from 'node:fs'
import Module, { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { parentPort } from 'node:worker_threads'

const require = createRequire(import.meta.url)
const folder = join(dirname(require.resolve('@litertjs/core')), '../wasm')

/** Lines that the runtime wrote to its error stream since they were last taken: its only sign of most failures. */
let complaints = /** @type {string[]} */ ([])
const failed = () => {
  const lines = complaints.filter((l) => l.startsWith('ERROR'))
  complaints = []
  return lines.length ? lines.join(' ').replace(/ERROR:\s*/g, '') : null
}

async function start() {
  // The loader is written for CommonJS, but lies in a package of type "module".
  const file = join(folder, 'litert_wasm_compat_internal.js')
  const loader = /** @type {any} */ (new Module(file))
  loader.filename = file
  loader.paths = []
  loader._compile(readFileSync(file, 'utf8'), file)
  const wasm = await loader.exports({
    locateFile: (/** @type {string} */ name) => join(folder, name),
    print: () => {},
    printErr: (/** @type {string} */ line) => complaints.push(line),
  })
  wasm.setupLogging?.()
  return { wasm, env: wasm.LiteRtEnvironment.create(null) }
}

const running = start()
/** @type {Map<number, any>} */
const models = new Map()
const ELEMENTS = /** @type {Record<string, { code: number, array: any }>} */ ({
  float32: { code: 1, array: Float32Array },
  int32: { code: 2, array: Int32Array },
  uint8: { code: 3, array: Uint8Array },
  int64: { code: 4, array: BigInt64Array },
  bool: { code: 6, array: Uint8Array },
  int16: { code: 7, array: Int16Array },
  int8: { code: 9, array: Int8Array },
  float64: { code: 11, array: Float64Array },
})

/** @param {any} wasm @param {any} env @param {{ dtype: string, shape: number[] }} t */
function bufferFor(wasm, env, t) {
  const element = ELEMENTS[t.dtype]
  if (!element) throw new Error(`inputs and outputs of type ${t.dtype} cannot be passed`)
  // Explicit sizes: the model's own may be -1.
  const dims = new wasm.VectorInt32()
  for (const d of t.shape) dims.push_back(d)
  const layout = wasm.LiteRtLayout.create(dims)
  const type = wasm.LiteRtRankedTensorType.create({ value: element.code }, layout)
  const bytes = t.shape.reduce((n, d) => n * d, 1) * element.array.BYTES_PER_ELEMENT
  const buffer = wasm.LiteRtTensorBuffer.createManaged(env, wasm.LiteRtTensorBufferType.HOST_MEMORY, type, bytes)
  for (const x of [type, layout, dims]) x.delete()
  return { buffer, bytes, array: element.array, shape: t.shape, dtype: t.dtype }
}

/** @param {any} m */
async function handle(m) {
  const { wasm, env } = await running
  if (m.type === 'load') {
    complaints = []
    const at = wasm._malloc(m.bytes.length)
    wasm.HEAPU8.set(m.bytes, at)
    const model = wasm.loadModel(env, at, m.bytes.length)
    const compiled = await wasm.compileModel(env, model, {
      accelerator: 'wasm',
      cpuOptions: { numThreads: m.threads },
      gpuOptions: {},
      webNNOptions: {},
    })
    const error = failed()
    if (error) throw new Error(error)
    models.set(m.model, { at, model, compiled, inputs: m.inputs.map((/** @type {any} */ t) => bufferFor(wasm, env, t)), shapes: m.outputs })
    return null
  }
  const entry = models.get(m.model)
  if (!entry) throw new Error('the model was released')
  if (m.type === 'release') {
    models.delete(m.model)
    for (const i of entry.inputs) i.buffer.delete()
    entry.compiled.delete()
    entry.model.delete()
    wasm._free(entry.at)
    return null
  }
  complaints = []
  const counts = entry.shapes.map((/** @type {any} */ t) => t.shape.reduce((/** @type {number} */ n, /** @type {number} */ d) => n * d, 1))
  const results = entry.shapes.map(
    (/** @type {any} */ t, /** @type {number} */ i) => new /** @type {any} */ (ELEMENTS[t.dtype]).array(counts[i] * m.runs),
  )
  // The model takes one batch of its own size at a time.
  for (let run = 0; run < m.runs; run++) {
    entry.inputs.forEach((/** @type {any} */ slot, /** @type {number} */ i) => {
      const data = m.inputs[i].data
      const at = slot.buffer.lock(wasm.LiteRtTensorBufferLockMode.WRITE)
      wasm.HEAPU8.set(new Uint8Array(data.buffer, data.byteOffset + run * slot.bytes, slot.bytes), at)
      slot.buffer.unlock()
    })
    const buffers = await entry.compiled.run(
      0,
      entry.inputs.map((/** @type {any} */ s) => s.buffer),
    )
    buffers.forEach((/** @type {any} */ buffer, /** @type {number} */ i) => {
      const whole = results[i]
      const bytes = counts[i] * whole.BYTES_PER_ELEMENT
      const at = buffer.lock(wasm.LiteRtTensorBufferLockMode.READ)
      new Uint8Array(whole.buffer, run * bytes, bytes).set(wasm.HEAPU8.subarray(at, at + bytes))
      buffer.unlock()
      buffer.delete()
    })
    // The runtime goes on after a failed operator and returns whatever its memory holds.
    const error = failed()
    if (error) throw new Error(error)
  }
  return results
}

parentPort?.on('message', async (m) => {
  try {
    parentPort?.postMessage({ id: m.id, value: await handle(m) })
  } catch (e) {
    const error = failed()
    parentPort?.postMessage({ id: m.id, error: error ?? (e instanceof Error ? e.message : String(e)) })
  }
})
