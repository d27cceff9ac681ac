import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { after, describe, it } from 'node:test'
import { evaluate, type Graph, numbersOf, type Tensor } from '@dqc/core'
import { decodeModel, decodeTensor, encodeModel, readModel, readTensor, writeModel } from '@dqc/onnx'
import { createOnnxEngine } from '@dqc/onnx/engine'

/** Debian's libonnx-testdata: ONNX's own backend tests, a model with inputs and expected outputs per folder. */
const root = '/usr/share/libonnx-testdata/data'
const here = existsSync(root)

/** Models whose outputs are drawn at random, or that the standard and the runtime disagree about: nothing to compare with. */
const incomparable = /bernoulli|training_dropout|random/

/** What core's reference evaluation does not have to equal, and why. */
const exceptions: Record<string, string> = Object.fromEntries(
  [
    'node/test_cast_BFLOAT16_to_FLOAT',
    'node/test_cast_FLOAT_to_BFLOAT16',
    'node/test_castlike_BFLOAT16_to_FLOAT',
    'node/test_castlike_BFLOAT16_to_FLOAT_expanded',
    'node/test_castlike_FLOAT_to_BFLOAT16',
    'node/test_castlike_FLOAT_to_BFLOAT16_expanded',
  ].map((name) => [name, 'the stored tensors are uint16 and of another shape than the model declares']),
)

const folders = here
  ? readdirSync(root, { recursive: true, encoding: 'utf8' })
      .filter((f) => f.endsWith('model.onnx'))
      .map((f) => join(root, dirname(f)))
      .sort()
  : []

const STRING = 8
/** Core only carries strings; the runtime takes them as they are. */
const stringTensor = (t: ReturnType<typeof decodeTensor>): Tensor =>
  ({
    dtype: 'string',
    shape: (t.dims ?? []).map(Number),
    data: (t.stringData ?? []).map((b) => new TextDecoder().decode(b)),
  }) as unknown as Tensor

const tensors = (folder: string, kind: 'input' | 'output'): (Tensor | null)[] => {
  const set = join(folder, 'test_data_set_0')
  const n = readdirSync(set).filter((f) => f.startsWith(`${kind}_`)).length
  return Array.from({ length: n }, (_, i) => {
    try {
      const proto = decodeTensor(readFileSync(join(set, `${kind}_${i}.pb`)))
      if (proto.dataType === STRING) return stringTensor(proto)
      return readTensor(proto, () => new Uint8Array(), kind)
    } catch {
      return null
    }
  })
}

/** Largest difference in units of tolerance: |a − b| ≤ 1e-5 + 1e-3·|b|, NaN equal to NaN. */
function distance(a: readonly Tensor[], b: readonly Tensor[]): number {
  let worst = a.length === b.length ? 0 : Number.POSITIVE_INFINITY
  a.forEach((t, i) => {
    const other = b[i]
    if (!other || String(t.shape) !== String(other.shape)) {
      worst = Number.POSITIVE_INFINITY
      return
    }
    if ((t.data as unknown as unknown[])[0] !== undefined && typeof (t.data as unknown as unknown[])[0] === 'string') {
      if (!(t.data as unknown as string[]).every((s, k) => s === (other.data as unknown as string[])[k])) worst = Number.POSITIVE_INFINITY
      return
    }
    const [p, q] = [numbersOf(t), numbersOf(other)]
    for (let k = 0; k < p.length; k++) {
      if (Object.is(p[k], q[k]) || p[k] === q[k]) continue
      const d = Math.abs(p[k]! - q[k]!) / (1e-5 + 1e-3 * Math.abs(q[k]!))
      worst = Math.max(worst, Number.isNaN(d) ? Number.POSITIVE_INFINITY : d)
    }
  })
  return worst
}

const counts = { models: 0, runs: 0, readWriteEqual: 0, known: 0, rewrittenEqual: 0, referenceEqual: 0 }
const failures: string[] = []

describe('the models of libonnx-testdata', { skip: here ? false : 'Debian package libonnx-testdata is not installed' }, () => {
  const engine = createOnnxEngine({ threads: 1 })
  after(async () => {
    await engine.close()
    console.log(`libonnx-testdata: ${JSON.stringify(counts)}`)
    for (const f of failures) console.log(`  ${f}`)
  })

  it('are read, written and evaluated like the originals', { timeout: 600_000 }, async () => {
    for (const folder of folders) {
      counts.models++
      const name = folder.slice(root.length + 1)
      const bytes = new Uint8Array(readFileSync(join(folder, 'model.onnx')))
      let graph: Graph<'float'>
      try {
        graph = readModel(bytes)
      } catch (e) {
        failures.push(`${name}: read: ${(e as Error).message}`)
        continue
      }
      // No field lost: the written message holds what the original message holds.
      const back = writeModel(graph)
      const plainOf = (b: Uint8Array): unknown => JSON.parse(JSON.stringify(decodeModel(b)))
      try {
        assert.deepEqual(plainOf(back), plainOf(bytes))
        assert.equal(back.length, encodeModel(decodeModel(bytes)).length)
      } catch {
        failures.push(`${name}: fields differ after read and write`)
        continue
      }
      const inputs = tensors(folder, 'input')
      const fed = inputs as Tensor[]
      const runnable = inputs.every((t) => t !== null)
      const run = async (b: Uint8Array): Promise<Tensor[]> => {
        const model = await engine.loadBytes(b)
        try {
          const order = model.inputNames.map((n) => graph.inputs.findIndex((v) => v.name === n))
          return await model(order.map((i) => fed[i]!))
        } finally {
          await model.release()
        }
      }
      let original: Tensor[] | null = null
      if (runnable) {
        try {
          original = await run(bytes)
        } catch {
          // What the runtime refuses as given is nothing to hold a rewrite against.
        }
      }
      const random = incomparable.test(name)
      if (original) {
        counts.runs++
        try {
          const d = random ? 0 : distance(await run(back), original)
          if (d > 0) failures.push(`${name}: outputs differ after read and write`)
          else counts.readWriteEqual++
        } catch (e) {
          failures.push(`${name}: does not run after read and write: ${(e as Error).message.slice(0, 120)}`)
        }
      }
      const known = graph.nodes.every((n) => n.op.name !== 'foreign') && graph.outputs.every((v) => v.dtype !== 'opaque')
      if (!known) continue
      counts.known++
      if (original) {
        try {
          // Without its origin the graph is written anew from the op records.
          const d = distance(await run(writeModel({ ...graph, origin: null })), original)
          if (d > 1) failures.push(`${name}: rewritten from the records, outputs differ (${d.toPrecision(3)} × tolerance)`)
          else counts.rewrittenEqual++
        } catch (e) {
          failures.push(`${name}: rewritten from the records, does not run: ${(e as Error).message.slice(0, 160)}`)
        }
      }
      const expected = tensors(folder, 'output')
      if (!runnable || expected.some((t) => t === null)) continue
      try {
        const d = distance(evaluate(graph, fed), expected as Tensor[])
        if (d > 1) failures.push(`${name}: reference evaluation differs (${d.toPrecision(3)} × tolerance)`)
        else counts.referenceEqual++
      } catch (e) {
        failures.push(`${name}: reference evaluation: ${(e as Error).message.slice(0, 160)}`)
      }
    }
    const unexplained = failures.filter((f) => !(f.split(':')[0]! in exceptions))
    assert.deepEqual(unexplained, [])
    // A reader that knows less, or a runtime that starts nothing, would find no fault either.
    assert.ok(counts.runs >= 0.9 * counts.models, `${counts.runs} of ${counts.models} models run`)
    assert.ok(counts.known >= 0.52 * counts.models, `${counts.known} of ${counts.models} models are known`)
    assert.ok(counts.rewrittenEqual >= 0.9 * counts.known && counts.referenceEqual >= 0.9 * counts.known, JSON.stringify(counts))
  })
})
