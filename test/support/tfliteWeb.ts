import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const require = createRequire(import.meta.url)

/** Runs a TFLite file on float inputs in tfjs-tflite's runtime: another, older build than the product's, which refuses bad models loudly. */
export async function runInTfliteWeb(bytes: Uint8Array, inputs: readonly Float32Array[]): Promise<Float32Array> {
  const folder = join(dirname(require.resolve('@tensorflow/tfjs-tflite/package.json')), 'wasm')
  // It looks for a browser while it loads.
  const scope = globalThis as { window?: unknown }
  scope.window = globalThis
  const wasm = await require(join(folder, 'tflite_web_api_cc_simd.js'))({
    wasmBinary: readFileSync(join(folder, 'tflite_web_api_cc_simd.wasm')),
    print: () => {},
    printErr: () => {},
  })
  delete scope.window
  const at = wasm._malloc(bytes.length)
  wasm.HEAPU8.set(bytes, at)
  const status = wasm.TFLiteWebModelRunner.CreateFromBufferAndOptions(at, bytes.length, {
    numThreads: 1,
    enableWebNNDelegate: false,
    webNNDeviceType: 0,
    enableProfiling: false,
    maxProfilingBufferEntries: 0,
  })
  if (!status.ok()) throw new Error(status.errorMessage())
  const runner = status.value()
  const results: number[] = []
  for (const x of inputs) {
    runner.GetInputs().get(0).data().set(x)
    if (!runner.Infer()) throw new Error('inference failed')
    results.push(...(runner.GetOutputs().get(0).data() as Float32Array))
  }
  return Float32Array.from(results)
}
