import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { createRandom } from '@dqc/core'
import { decodeModel, encodeModel, type ModelProto, writeModel } from '@dqc/onnx'
import { smallNetwork } from '../support/models.ts'
import { ROOT } from '../support/paths.ts'

const dir = mkdtempSync(join(tmpdir(), 'dqc-broken-'))
after(() => rmSync(dir, { recursive: true, force: true }))

const good = writeModel(smallNetwork())
const digits = join(ROOT, 'examples/digits')
const random = createRandom(5)

/** Writes a changed copy of a good model. */
function model(name: string, change: (m: ModelProto) => void): string {
  const m = decodeModel(good)
  change(m)
  return file(name, encodeModel(m))
}
function file(name: string, bytes: Uint8Array | string): string {
  const path = join(dir, name)
  writeFileSync(path, bytes)
  return path
}
function folder(name: string, files: Record<string, Uint8Array | string> = {}): string {
  const path = join(dir, name)
  mkdirSync(path, { recursive: true })
  for (const [f, bytes] of Object.entries(files)) writeFileSync(join(path, f), bytes)
  return path
}
const weights = (m: ModelProto) => m.graph!.initializer!.find((t) => t.dims!.length === 4)!
const ok = file('good.onnx', good)
const idx = (dims: number[], data: Uint8Array): Uint8Array => {
  const head = Buffer.alloc(4 + 4 * dims.length)
  head[2] = 8
  head[3] = dims.length
  dims.forEach((d, i) => head.writeUInt32BE(d, 4 + 4 * i))
  return Buffer.concat([head, data])
}
const npyBytes = (header: string, data: Uint8Array): Uint8Array => {
  const text = `${header}\n`
  const head = Buffer.alloc(10)
  head.write('\x93NUMPY', 'latin1')
  head[6] = 1
  head.writeUInt16LE(text.length, 8)
  return Buffer.concat([head, Buffer.from(text, 'latin1'), data])
}
/** Nested graphs deeper than any stack: field 7 (graph) → 1 (node) → 5 (attribute) → 6 (graph) … */
function nested(depth: number): Uint8Array {
  let body: Buffer = Buffer.alloc(0)
  const wrap = (field: number, inner: Buffer): Buffer => {
    const length: number[] = []
    for (let n = inner.length; ; n >>>= 7) {
      length.push(n > 127 ? (n & 127) | 128 : n)
      if (n <= 127) break
    }
    return Buffer.concat([Buffer.from([(field << 3) | 2, ...length]), inner])
  }
  // Building from the inside out costs a copy per level; blocks of levels keep that affordable.
  for (let i = 0; i < depth; i++) body = wrap([6, 5, 1][i % 3]!, body)
  return wrap(7, body)
}

interface Broken {
  readonly what: string
  readonly args: readonly string[]
  readonly code: number
  readonly says: RegExp
}
const convert = (path: string, ...more: string[]): string[] => [
  'convert',
  path,
  '--bits',
  '4',
  '-o',
  join(dir, 'out'),
  '--attack',
  'none',
  ...more,
]

const cases: Broken[] = [
  // usage
  { what: 'no bits', args: ['convert', ok], code: 2, says: /--bits/ },
  { what: 'one bit', args: ['convert', ok, '--bits', '1'], code: 2, says: /2 to 8/ },
  { what: 'nine bits', args: ['convert', ok, '--bits', '9'], code: 2, says: /2 to 8/ },
  { what: 'bits in words', args: ['convert', ok, '--bits', 'four'], code: 2, says: /not a number/ },
  { what: 'an unknown command', args: ['transmogrify', ok], code: 2, says: /unknown command/ },
  { what: 'an unknown flag', args: convert(ok, '--colour', 'red'), code: 2, says: /unknown option/ },
  { what: 'an unknown target', args: convert(ok, '--target', 'abacus'), code: 2, says: /--target/ },
  { what: 'an unknown attack', args: ['evaluate', ok, '--attack', 'bribery'], code: 2, says: /--attack/ },
  { what: 'a negative radius', args: ['evaluate', ok, '--eps', '-1/255'], code: 2, says: /--eps/ },
  { what: 'an unknown observer', args: convert(ok, '--observer', 'oracle'), code: 2, says: /observer/ },
  { what: 'a malformed shape', args: convert(ok, '--shape', 'x'), code: 2, says: /not a shape/ },
  { what: 'a shape for no input', args: convert(ok, '--shape', 'nobody=1,2'), code: 2, says: /no input nobody/ },
  { what: 'an exclusion that matches nothing', args: convert(ok, '--exclude', 'nothing'), code: 2, says: /matches no node/ },
  { what: 'evaluation data without data', args: convert(ok, '--eval-data', dir), code: 2, says: /--eval-data needs --data/ },
  {
    what: 'three means for a one-channel network',
    args: [
      'convert',
      join(digits, 'digits.onnx'),
      '--bits',
      '4',
      '--data',
      join(digits, 'data'),
      '--mean',
      '1,2,3',
      '-o',
      join(dir, 'out'),
    ],
    code: 2,
    says: /3 values/,
  },
  // models
  { what: 'a missing file', args: convert(join(dir, 'absent.onnx')), code: 3, says: /no such file/ },
  { what: 'a folder for a model', args: convert(dir), code: 3, says: /folder/ },
  { what: 'an empty file', args: convert(file('empty.onnx', '')), code: 3, says: /empty/ },
  {
    what: 'a truncated file',
    args: convert(file('cut.onnx', good.slice(0, good.length >> 1))),
    code: 3,
    says: /not an ONNX model|bytes for|elements/,
  },
  { what: 'a file cut in its last byte', args: convert(file('cut1.onnx', good.slice(0, -1))), code: 3, says: /./ },
  {
    what: 'random bytes',
    args: convert(
      file(
        'noise.onnx',
        Uint8Array.from({ length: 5000 }, () => random.int(256)),
      ),
    ),
    code: 3,
    says: /not an ONNX model|no graph/,
  },
  { what: 'text', args: convert(file('text.onnx', 'this is not a model')), code: 3, says: /not an ONNX model|no graph/ },
  { what: 'nesting 100,000 deep', args: convert(file('deep.onnx', nested(100_002))), code: 3, says: /nested too deeply/ },
  {
    what: 'a cyclic graph',
    args: convert(
      model('cycle.onnx', (m) => {
        m.graph!.node![0]!.input![0] = m.graph!.node!.at(-1)!.output![0]!
      }),
    ),
    code: 3,
    says: /cycle/,
  },
  {
    what: 'a missing initializer',
    args: convert(
      model('missing.onnx', (m) => {
        m.graph!.initializer = m.graph!.initializer!.filter((t) => t !== weights(m))
      }),
    ),
    code: 3,
    says: /nothing makes it/,
  },
  {
    what: 'an output that nothing makes',
    args: convert(
      model('output.onnx', (m) => {
        m.graph!.output![0]!.name = 'ghost'
      }),
    ),
    code: 3,
    says: /never made/,
  },
  {
    what: 'a name made twice',
    args: convert(
      model('twice.onnx', (m) => {
        m.graph!.node![1]!.output![0] = m.graph!.node![0]!.output![0]!
      }),
    ),
    code: 3,
    says: /made twice/,
  },
  {
    what: 'weights with fewer bytes than declared',
    args: convert(
      model('short.onnx', (m) => {
        weights(m).rawData = weights(m).rawData!.slice(8)
      }),
    ),
    code: 3,
    says: /bytes for/,
  },
  {
    what: 'weights of an impossible shape',
    args: convert(
      model('shape.onnx', (m) => {
        weights(m).dims = [8, 2, 3, 3]
        weights(m).rawData = new Uint8Array(4 * 144)
      }),
    ),
    code: 3,
    says: /channels do not feed/,
  },
  {
    what: 'huge declared sizes',
    args: convert(
      model('huge.onnx', (m) => {
        weights(m).dims = [1e6, 1e6, 1e6, 1]
      }),
    ),
    code: 3,
    says: /tensor of shape/,
  },
  {
    what: 'negative sizes',
    args: convert(
      model('negative.onnx', (m) => {
        weights(m).dims = [-8, 3, 3, 3]
      }),
    ),
    code: 3,
    says: /tensor of shape/,
  },
  {
    what: 'NaN weights',
    args: convert(
      model('nan.onnx', (m) => {
        const w = new Float32Array(8 * 27).fill(Number.NaN)
        weights(m).rawData = new Uint8Array(w.buffer)
      }),
    ),
    code: 3,
    says: /NaN/,
  },
  {
    what: 'infinite weights',
    args: convert(
      model('inf.onnx', (m) => {
        const w = new Float32Array(8 * 27).fill(Number.POSITIVE_INFINITY)
        weights(m).rawData = new Uint8Array(w.buffer)
      }),
    ),
    code: 3,
    says: /Infinity|NaN/,
  },
  {
    what: 'weights of a wrong type',
    args: convert(
      model('type.onnx', (m) => {
        weights(m).dataType = 7
        weights(m).rawData = new Uint8Array(8 * 216)
      }),
    ),
    code: 3,
    says: /int64/,
  },
  {
    what: 'a missing attribute',
    args: convert(
      model('attribute.onnx', (m) => {
        const n = m.graph!.node!.find((x) => x.opType === 'MaxPool')!
        n.attribute = []
        n.opType = 'LRN'
      }),
    ),
    code: 3,
    says: /lacks its attribute/,
  },
  {
    what: 'no operator set',
    args: convert(
      model('opset.onnx', (m) => {
        m.opsetImport = []
      }),
    ),
    code: 3,
    says: /operator set/,
  },
  {
    what: 'external data that is not there',
    args: convert(
      model('external.onnx', (m) => {
        const w = weights(m)
        w.dataLocation = 1
        w.rawData = new Uint8Array()
        w.externalData = [{ key: 'location', value: 'absent.bin' }]
      }),
    ),
    code: 3,
    says: /no such file/,
  },
  {
    what: 'external data that climbs out',
    args: convert(
      model('climb.onnx', (m) => {
        const w = weights(m)
        w.dataLocation = 1
        w.rawData = new Uint8Array()
        w.externalData = [{ key: 'location', value: '../../etc/passwd' }]
      }),
    ),
    code: 3,
    says: /leads out/,
  },
  {
    what: 'external data by an absolute path',
    args: convert(
      model('root.onnx', (m) => {
        const w = weights(m)
        w.dataLocation = 1
        w.rawData = new Uint8Array()
        w.externalData = [{ key: 'location', value: '/etc/passwd' }]
      }),
    ),
    code: 3,
    says: /leads out/,
  },
  {
    what: 'external data behind a link',
    args: (() => {
      const p = join(dir, 'link.bin')
      symlinkSync('/etc/passwd', p)
      return convert(
        model('link.onnx', (m) => {
          const w = weights(m)
          w.dataLocation = 1
          w.rawData = new Uint8Array()
          w.externalData = [{ key: 'location', value: 'link.bin' }]
        }),
      )
    })(),
    code: 3,
    says: /leads out/,
  },
  {
    what: 'external data past the end',
    args: (() => {
      file('few.bin', 'few')
      return convert(
        model('few.onnx', (m) => {
          const w = weights(m)
          w.dataLocation = 1
          w.rawData = new Uint8Array()
          w.externalData = [
            { key: 'location', value: 'few.bin' },
            { key: 'length', value: '864' },
          ]
        }),
      )
    })(),
    code: 3,
    says: /of a file of 3/,
  },
  {
    what: 'no layer to quantize',
    args: convert(
      model('none.onnx', (m) => {
        m.graph!.node = [{ opType: 'Relu', input: ['x'], output: ['scores'] }]
        m.graph!.initializer = []
      }),
    ),
    code: 4,
    says: /no layer|integer form/,
  },
  {
    what: 'a network already quantized in a way that has no real numbers',
    args: convert(
      model('already.onnx', (m) => {
        m.graph!.node!.unshift({ opType: 'DynamicQuantizeLinear', input: ['x'], output: ['xq', 'xs', 'xz'] })
      }),
    ),
    code: 4,
    says: /already quantized/,
  },
  {
    what: 'an operator nobody knows',
    args: convert(
      model('unknown.onnx', (m) => {
        m.graph!.node![1]!.opType = 'Frobnicate'
      }),
    ),
    code: 4,
    says: /Frobnicate/,
  },
  {
    what: 'a symbolic image size without data',
    args: convert(
      model('symbolic.onnx', (m) => {
        const d = m.graph!.input![0]!.type!.tensorType!.shape!.dim!
        m.graph!.input![0]!.type!.tensorType!.shape!.dim = [d[0]!, d[1]!, { dimParam: 'H' }, { dimParam: 'W' }]
      }),
    ),
    code: 2,
    says: /--shape x=1/,
  },
  // data
  { what: 'a missing data folder', args: convert(ok, '--data', join(dir, 'nowhere')), code: 3, says: /no such file or folder/ },
  { what: 'an empty data folder', args: convert(ok, '--data', folder('void')), code: 3, says: /no data that dqc can read/ },
  {
    what: 'a data folder of other things',
    args: convert(ok, '--data', folder('letters', { 'a.txt': 'x' })),
    code: 3,
    says: /no data that dqc can read/,
  },
  {
    what: 'a truncated CIFAR-10 batch',
    args: convert(ok, '--data', folder('cifar', { 'test_batch.bin': new Uint8Array(5000) })),
    code: 3,
    says: /whole number of CIFAR-10 records/,
  },
  {
    what: 'images of another size',
    args: convert(ok, '--data', folder('cifar2', { 'test_batch.bin': new Uint8Array(3073 * 4) })),
    code: 3,
    says: /do not fill the input/,
  },
  {
    what: 'labels out of range',
    args: convert(
      ok,
      '--data',
      folder('labels', {
        'x.npy': npyBytes("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 3, 12, 12), }", new Uint8Array(4 * 432)),
        'y.npy': npyBytes("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", Uint8Array.from([0, 1, 2, 77])),
      }),
    ),
    code: 3,
    says: /label 77/,
  },
  {
    what: 'a truncated array',
    args: convert(
      ok,
      '--data',
      file('cut.npy', npyBytes("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 12, 12), }", new Uint8Array(99))),
    ),
    code: 3,
    says: /truncated/,
  },
  {
    what: 'an array of NaN',
    args: convert(
      ok,
      '--data',
      file(
        'nan.npy',
        npyBytes(
          "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 12, 12), }",
          new Uint8Array(new Float32Array(432).fill(Number.NaN).buffer),
        ),
      ),
    ),
    code: 3,
    says: /NaN/,
  },
  { what: 'an archive that is none', args: convert(ok, '--data', file('bad.npz', 'PK nothing')), code: 3, says: /archive is damaged/ },
  {
    what: 'a truncated IDX file',
    args: convert(ok, '--data', folder('idx', { 'train-images-idx3-ubyte': idx([10, 20, 20], new Uint8Array(17)) })),
    code: 3,
    says: /bytes for the shape/,
  },
  {
    what: 'a damaged gzip stream',
    args: convert(ok, '--data', folder('gz', { 'train-images-idx3-ubyte.gz': Uint8Array.from([0x1f, 0x8b, 8, 0, 1, 2, 3]) })),
    code: 3,
    says: /damaged/,
  },
  {
    what: 'more images than labels',
    args: convert(
      join(digits, 'digits.onnx'),
      '--data',
      folder('mix', {
        'train-images-idx3-ubyte': idx([2, 20, 20], new Uint8Array(800)),
        'train-labels-idx1-ubyte': idx([1], new Uint8Array(1)),
      }),
    ),
    code: 3,
    says: /labels for 2 images/,
  },
  {
    what: 'a MATLAB file that is none',
    args: convert(ok, '--data', file('x.mat', 'MATLAB 5.0 MAT-file but nothing more')),
    code: 3,
    says: /MATLAB/,
  },
  {
    what: 'a picture that is none',
    args: convert(ok, '--data', folder('pictures', { 'a.png': 'no picture', 'b.png': 'none either' })),
    code: 3,
    says: /cannot decode/,
  },
  // output
  {
    what: 'an output folder that cannot be',
    args: ['convert', ok, '--bits', '4', '--attack', 'none', '-o', '/proc/none/here'],
    code: 3,
    says: /cannot write/,
  },
  { what: 'a robustness gate without an attack', args: convert(ok, '--max-robust-drop', '1%'), code: 2, says: /needs an attack/ },
  {
    what: 'half precision for ONNX',
    args: ['convert', ok, '--dequantize', '--float16'],
    code: 2,
    says: /--float16 is for the target tflite/,
  },
  {
    what: 'the Edge TPU’s rule for another target',
    args: convert(ok, '--strict', '--target', 'ort'),
    code: 2,
    says: /--strict is for the target edgetpu/,
  },
  {
    what: 'bits where the file’s are kept',
    args: ['convert', ok, '--keep-scales', '--weight-bits', '4'],
    code: 2,
    says: /--weight-bits goes with --bits/,
  },
  { what: 'packed weights of eight bits', args: ['convert', ok, '--bits', '8', '--pack-weights'], code: 2, says: /--pack-weights/ },
  {
    what: 'another size for a fixed input',
    args: convert(
      model('fixed.onnx', (m) => {
        m.graph!.input![0]!.type!.tensorType!.shape!.dim = [1, 3, 12, 12].map((d) => ({ dimValue: d }))
      }),
      '--shape',
      'x=1,3,9,9',
    ),
    code: 2,
    says: /fixed shape/,
  },
  {
    what: 'an output path that is a file',
    args: ['convert', ok, '--bits', '4', '--attack', 'none', '-o', ok],
    code: 3,
    says: /cannot write/,
  },
]

interface Result {
  readonly code: number | null
  readonly stderr: string
  readonly stdout: string
  readonly megabytes: number
}

function run(args: readonly string[]): Promise<Result> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join(ROOT, 'packages/cli/bin/dqc.mjs'), ...args], { env: { ...process.env, NO_COLOR: '1' } })
    let stderr = ''
    let stdout = ''
    let megabytes = 0
    child.stderr.on('data', (d) => (stderr += d))
    child.stdout.on('data', (d) => (stdout += d))
    const watch = setInterval(() => {
      try {
        const peak = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))
        if (peak) megabytes = Number(peak[1]) / 1024
      } catch {
        // Not every system has /proc; the memory limit is then not checked.
      }
    }, 20)
    child.on('close', (code) => {
      clearInterval(watch)
      resolve({ code, stderr, stdout, megabytes })
    })
  })
}

describe('broken input', () => {
  it('has at least forty kinds', () => assert.ok(cases.length >= 40, `${cases.length}`))
  for (const c of cases)
    it(`${c.what} → exit ${c.code}`, async () => {
      const before = new Set(readdirSync(dir))
      const r = await run([...c.args, ...(c.args[0] === 'convert' || c.args[0] === 'evaluate' ? ['--quiet'] : [])])
      assert.equal(r.code, c.code, r.stderr)
      assert.match(r.stderr, c.says)
      assert.equal(r.stdout, '')
      assert.doesNotMatch(r.stderr, /\n\s+at /, 'a stack trace')
      assert.ok(r.stderr.trim().split('\n').length <= 3, `one message: ${r.stderr}`)
      assert.ok(r.megabytes < 1024, `${r.megabytes} MiB`)
      const out = join(dir, 'out')
      assert.deepEqual(existsSync(out) ? readdirSync(out) : [], [], 'nothing is left behind')
      for (const f of readdirSync(dir)) assert.ok(before.has(f) || f === 'out', `${f} was left behind`)
    })

  it('a read-only output folder → exit 3', { skip: process.getuid?.() === 0 ? 'root may write anywhere' : false }, async () => {
    const locked = folder('locked')
    chmodSync(locked, 0o500)
    const r = await run(['convert', ok, '--bits', '4', '--attack', 'none', '-o', locked, '--quiet'])
    assert.equal(r.code, 3)
    assert.match(r.stderr, /permission denied/)
  })

  it('a folder where one file is to be: none is written', async () => {
    const out = folder('taken')
    const taken = 'good.ort.w4a4.report.json'
    mkdirSync(join(out, taken))
    const few = ['--finetune', 'off', '--attack', 'none', '--samples', '8', '--calib-samples', '8']
    const r = await run(['convert', ok, '--bits', '4', ...few, '-o', out, '--quiet'])
    assert.equal(r.code, 3, r.stderr)
    assert.match(r.stderr, /a folder stands where a file is to be/)
    assert.deepEqual(readdirSync(out), [taken])
  })

  it('an interrupted conversion leaves nothing and exits 130', async () => {
    const out = join(dir, 'interrupted')
    const child = spawn(process.execPath, [
      join(ROOT, 'packages/cli/bin/dqc.mjs'),
      'convert',
      join(digits, 'digits.onnx'),
      '--bits',
      '4',
      '--data',
      join(digits, 'data'),
      '--steps',
      '5000',
      '--finetune',
      'off',
      '-o',
      out,
    ])
    let seen = ''
    await new Promise<void>((resolve) => {
      child.stderr.on('data', (d) => {
        seen += d
        if (seen.includes('attack')) resolve()
      })
      child.on('close', () => resolve())
    })
    child.kill('SIGINT')
    const code = await new Promise((resolve) => child.on('close', resolve))
    assert.equal(code, 130, seen)
    assert.equal(existsSync(out), false)
  })
})
