import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { deflateSync, gzipSync } from 'node:zlib'
import { createBuilder, createRandom, type Graph, numbersOf, preprocess, relu } from '@dqc/core'
import { zipSync } from 'fflate'
import sharp from 'sharp'
import { createFeed, layoutOf, splitSources } from './feed.ts'
import { openData } from './open.ts'

const dir = mkdtempSync(join(tmpdir(), 'dqc-data-'))
after(() => rmSync(dir, { recursive: true, force: true }))
const folder = (name: string): string => {
  const path = join(dir, name)
  mkdirSync(path, { recursive: true })
  return path
}

/** A network that only has the given input. */
const taking = (...shape: (number | string)[]): Graph => {
  const b = createBuilder()
  return b.build('float', [b.emit(relu, [b.input('x', { dtype: 'float32', shape })], {})])
}

/** Two 4×5 images whose value tells image, channel, row and column. */
const value = (i: number, c: number, y: number, x: number): number => 100 * i + 40 * c + 5 * y + x

const npy = (descr: string, shape: readonly number[], bytes: Uint8Array): Uint8Array => {
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(', ')},), }\n`
  const head = Buffer.alloc(10)
  head.write('\x93NUMPY', 'latin1')
  head[6] = 1
  head.writeUInt16LE(text.length, 8)
  return Buffer.concat([head, Buffer.from(text, 'latin1'), bytes])
}

/** A MATLAB 5 element: type, size, data padded to eight bytes. */
const element = (type: number, data: Buffer): Buffer => {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(type, 0)
  head.writeUInt32LE(data.length, 4)
  return Buffer.concat([head, data, Buffer.alloc((8 - (data.length % 8)) % 8)])
}
const matrix = (name: string, dims: readonly number[], data: Uint8Array): Buffer => {
  const flags = Buffer.alloc(8)
  flags[0] = 9
  const sizes = Buffer.alloc(4 * dims.length)
  dims.forEach((d, i) => {
    sizes.writeInt32LE(d, 4 * i)
  })
  const body = element(
    14,
    Buffer.concat([element(6, flags), element(5, sizes), element(1, Buffer.from(name)), element(2, Buffer.from(data))]),
  )
  const packed = deflateSync(body)
  const head = Buffer.alloc(8)
  head.writeUInt32LE(15, 0)
  head.writeUInt32LE(packed.length, 4)
  return Buffer.concat([head, packed])
}

describe('data sources', () => {
  it('IDX: gzipped or not, with the split of its names', async () => {
    const path = folder('idx')
    const idx = (dims: readonly number[], data: Uint8Array): Buffer => {
      const head = Buffer.alloc(4 + 4 * dims.length)
      head[2] = 8
      head[3] = dims.length
      dims.forEach((d, i) => {
        head.writeUInt32BE(d, 4 + 4 * i)
      })
      return Buffer.concat([head, data])
    }
    const pixels = Uint8Array.from({ length: 40 }, (_, k) => k)
    writeFileSync(join(path, 'train-images-idx3-ubyte.gz'), gzipSync(idx([2, 4, 5], pixels)))
    writeFileSync(join(path, 'train-labels-idx1-ubyte.gz'), gzipSync(idx([2], Uint8Array.of(3, 1))))
    writeFileSync(join(path, 't10k-images-idx3-ubyte'), idx([1, 4, 5], pixels.subarray(20)))
    const { train, test } = openData(path)
    assert.deepEqual([train!.count, [...train!.labels!], train!.shape], [2, [3, 1], [1, 4, 5]])
    assert.deepEqual([...(await test!.read(0, null))], [...pixels.subarray(20)])
    assert.equal(test!.labels, null)
    const other = folder('emnist')
    for (const part of ['train', 'test']) writeFileSync(join(other, `emnist-digits-${part}-images-idx3-ubyte`), idx([2, 4, 5], pixels))
    writeFileSync(join(other, 'emnist-digits-test-labels-idx1-ubyte.gz'), gzipSync(idx([2], Uint8Array.of(3, 1))))
    const parts = openData(other)
    assert.deepEqual([parts.train!.count, parts.train!.labels, [...parts.test!.labels!]], [2, null, [3, 1]])
  })

  it('CIFAR-10: labels and channel planes, class names from its list', async () => {
    const path = folder('cifar')
    const record = Buffer.alloc(3073)
    record[0] = 7
    record[1 + 1024 + 33] = 200
    writeFileSync(join(path, 'data_batch_1.bin'), record)
    writeFileSync(join(path, 'test_batch.bin'), Buffer.concat([record, record]))
    writeFileSync(join(path, 'batches.meta.txt'), 'airplane\nautomobile\n')
    const { train, test } = openData(path)
    assert.deepEqual([train!.count, test!.count, train!.labels![0], train!.classes], [1, 2, 7, ['airplane', 'automobile']])
    assert.equal((await train!.read(0, null))[1024 + 33], 200)
  })

  it('a link is what it leads to; one that leads nowhere is named', async () => {
    const [store, path] = [folder('store'), folder('linked')]
    mkdirSync(join(store, 'cat'))
    for (const [name, link] of [
      ['data_batch_7.bin', 'data_batch_1.bin'],
      ['test.bin', 'test_batch.bin'],
    ] as const) {
      writeFileSync(join(store, name), Buffer.alloc(3073, 5))
      symlinkSync(join(store, name), join(path, link))
    }
    assert.deepEqual([openData(path).train!.count, openData(path).test!.count], [1, 1])
    symlinkSync(join(store, 'nowhere.bin'), join(path, 'data_batch_2.bin'))
    assert.throws(() => openData(path), /data_batch_2\.bin: cannot be read \(ENOENT\)/)

    const pictures = folder('pictures')
    await sharp(Buffer.alloc(12), { raw: { width: 2, height: 2, channels: 3 } })
      .png()
      .toFile(join(store, 'cat', '0.png'))
    symlinkSync(join(store, 'cat'), join(pictures, 'cat'), 'dir')
    assert.deepEqual([openData(pictures).all!.count, openData(pictures).all!.classes], [1, ['cat']])
  })

  it('SVHN: column-major images, the digit 0 stored as 10', async () => {
    const path = folder('svhn')
    const data = new Uint8Array(2 * 3 * 4 * 5)
    for (let i = 0; i < 2; i++)
      for (let c = 0; c < 3; c++)
        for (let y = 0; y < 4; y++) for (let x = 0; x < 5; x++) data[((i * 3 + c) * 5 + x) * 4 + y] = value(i, c, y, x)
    const header = Buffer.alloc(128)
    header.write('MATLAB 5.0 MAT-file', 'latin1')
    writeFileSync(
      join(path, 'test_32x32.mat'),
      Buffer.concat([header, matrix('X', [4, 5, 3, 2], data), matrix('y', [2, 1], Uint8Array.of(10, 4))]),
    )
    const { test } = openData(path)
    assert.deepEqual(
      [test!.shape, [...test!.labels!]],
      [
        [3, 4, 5],
        [0, 4],
      ],
    )
    assert.equal((await test!.read(1, null))[(2 * 4 + 3) * 5 + 1], value(1, 2, 3, 1))
    const short = join(folder('short'), 'test_32x32.mat')
    for (const [x, y] of [
      [data, Uint8Array.of(10)],
      [data.subarray(1), Uint8Array.of(10, 4)],
    ] as const) {
      writeFileSync(short, Buffer.concat([header, matrix('X', [4, 5, 3, 2], x), matrix('y', [2, 1], y)]))
      assert.throws(() => openData(short), /truncated/)
    }
  })

  it('class folders: classes in name order and in turn, images scaled, grey and transparent ones too, hidden names left out', async () => {
    const path = folder('classes')
    for (const [k, name] of ['cat', 'ant'].entries())
      for (const [i, channels] of ([3, 4] as const).entries()) {
        mkdirSync(join(path, name), { recursive: true })
        const raw = Buffer.alloc(8 * 6 * channels, 50 * (k + 1))
        await sharp(raw, { raw: { width: 8, height: 6, channels } })
          .png()
          .toFile(join(path, name, `${i}.png`))
      }
    mkdirSync(join(path, '.cache'))
    writeFileSync(join(path, 'ant', '._0.png'), 'no picture')
    const { all } = openData(path)
    assert.deepEqual([all!.count, [...all!.labels!], all!.classes], [4, [0, 1, 0, 1], ['ant', 'cat']])
    const item = await all!.read(0, [3, 4, 5])
    assert.equal(item.length, 60)
    assert.ok(item.every((v) => v === 100))
    assert.equal((await all!.read(3, [1, 4, 5])).length, 20)
    assert.throws(() => createFeed(taking('N', 60), all!, {}), /image files do not say how they fill/)
    writeFileSync(join(path, 'preview.png'), 'no picture')
    assert.throws(() => openData(path), /pictures such as preview.png lie beside folders of pictures/)
  })

  it('training and test folders of other classes do not go together', async () => {
    const path = folder('unlike')
    const picture = await sharp(Buffer.alloc(12), { raw: { width: 2, height: 2, channels: 3 } })
      .png()
      .toBuffer()
    for (const place of ['train/ant', 'train/bee', 'train/cat', 'test/ant', 'test/cat']) {
      mkdirSync(join(path, place), { recursive: true })
      writeFileSync(join(path, place, '0.png'), picture)
    }
    const split = () => splitSources(openData(path), null, true, createRandom(0))
    assert.throws(split, /classes of .*train.* are not those of .*test.*: bee/)
    mkdirSync(join(path, 'test/bee'))
    assert.deepEqual([...split().evaluation.labels!], [0, 2])
    // What only calibrates may be sorted as it likes: its labels are left out.
    mkdirSync(join(path, 'some/pictures'), { recursive: true })
    writeFileSync(join(path, 'some/pictures/0.png'), picture)
    const { calibration, evaluation, note } = splitSources(
      openData(join(path, 'some')),
      openData(join(path, 'test')),
      true,
      createRandom(0),
    )
    assert.deepEqual([calibration.labels, [...evaluation.labels!]], [null, [0, 2]])
    assert.match(note!, /its labels were left out/)
    rmSync(join(path, 'test/bee'), { recursive: true })
    const lacking = () => splitSources(openData(join(path, 'train')), openData(join(path, 'test')), true, createRandom(0))
    assert.throws(lacking, /: bee/)
  })

  it('arrays: from files, folders and archives', async () => {
    const path = folder('arrays')
    const floats = Float32Array.from({ length: 12 }, (_, i) => i / 4)
    const x = npy('<f4', [2, 6], new Uint8Array(floats.buffer))
    const y = npy('<i8', [2], new Uint8Array(BigInt64Array.of(1n, 0n).buffer))
    writeFileSync(join(path, 'a.npz'), zipSync({ 'x_train.npy': x, 'y_train.npy': y, 'x_test.npy': x }))
    const { train, test } = openData(join(path, 'a.npz'))
    assert.deepEqual([[...train!.labels!], test!.labels, train!.range], [[1, 0], null, [0, 2.75]])
    assert.deepEqual([...(await train!.read(1, null))], [...floats.subarray(6)])
    const [split, unclear] = [folder('archives'), folder('unclear')]
    for (const f of [join(split, 'train.npz'), join(split, 'test.npz'), join(unclear, 'a.npz'), join(unclear, 'b.npz')])
      writeFileSync(f, zipSync({ 'x.npy': x }))
    assert.deepEqual([openData(split).train!.count, openData(split).test!.count, openData(split).all], [2, 2, null])
    assert.throws(() => openData(unclear), /a.npz, b.npz do not say what is for training/)
    writeFileSync(join(path, 'one.npy'), x)
    assert.equal(openData(join(path, 'one.npy')).all!.count, 2)
    assert.deepEqual([train!.factor, openData(join(folder('feed'), 'x.npy')).all!.factor], [1, 1 / 255])
  })

  it('arrays of labels: numbers or one-hot, and nothing else', () => {
    const path = join(folder('labels'), 'a.npz')
    const x = npy('|u1', [2, 3], new Uint8Array(6))
    const labels = (y: Uint8Array): Int32Array => {
      writeFileSync(path, zipSync({ 'x.npy': x, 'y.npy': y }))
      const { all } = openData(path)
      // Targets of other networks than classifiers are no fault of the data.
      if (all!.otherLabels) throw all!.otherLabels
      return all!.labels!
    }
    assert.deepEqual([...labels(npy('|u1', [2, 1], Uint8Array.of(4, 2)))], [4, 2])
    assert.deepEqual([...labels(npy('<f4', [2, 3], new Uint8Array(Float32Array.of(0, 0, 1, 0, 1, 0).buffer)))], [2, 1])
    assert.throws(() => labels(npy('|u1', [2, 3], Uint8Array.of(0, 0, 1, 1, 1, 0))), /item 1 are not one-hot/)
    assert.throws(() => labels(npy('<f4', [2], new Uint8Array(Float32Array.of(0, 0.5).buffer))), /label 1 is 0.5/)
    assert.throws(() => labels(npy('|u1', [3], new Uint8Array(3))), /3 labels for 2 items/)
  })
})

describe('feeds', () => {
  const path = folder('feed')
  writeFileSync(
    join(path, 'x.npy'),
    npy(
      '|u1',
      [2, 3, 4, 5],
      Uint8Array.from({ length: 120 }, (_, k) => k * 2),
    ),
  )
  it('layouts come from the input, preprocessing is undone nowhere', async () => {
    assert.deepEqual([layoutOf([3, 4, 5]), layoutOf([4, 5, 3]), layoutOf([10]), layoutOf([1, 28, 28])], ['nchw', 'nhwc', null, 'nchw'])
    const source = { ...openData(join(path, 'x.npy')).all!, isImage: true }
    const options = { mean: [0.1, 0.2, 0.3], std: [0.5, 1, 2] }
    const chw = createFeed(taking('N', 3, 4, 5), source, options)
    const hwc = createFeed(taking('N', 4, 5, 3), source, options)
    const [a, b] = [preprocess(await chw.pixels(0, 2), chw.preprocessing), preprocess(await hwc.pixels(0, 2), hwc.preprocessing)]
    for (let i = 0; i < 2; i++)
      for (let c = 0; c < 3; c++)
        for (let p = 0; p < 20; p++) {
          const v = numbersOf(a)[(i * 3 + c) * 20 + p]!
          const stored = 2 * ((i * 3 + c) * 20 + p)
          assert.ok(Math.abs(v - (stored / 255 - options.mean[c]!) / options.std[c]!) < 1e-5)
          assert.ok(Math.abs(v - numbersOf(b)[(i * 20 + p) * 3 + c]!) < 1e-6)
        }
    assert.throws(() => createFeed(taking('N', 3, 4, 5), source, { ...options, std: [1, 2] }), /2 values of --std for 3 channels/)
    const raw = createFeed(taking('N', 3, 4, 5), source, { scale: 1 })
    assert.equal(numbersOf(preprocess(await raw.pixels(0, 1), raw.preprocessing))[59], 118)
  })

  it('arrays lie channels first or last, whichever the input does', async () => {
    // Every value tells where it belongs.
    const planes = Uint8Array.from({ length: 60 }, (_, k) => k)
    const last = Uint8Array.from({ length: 60 }, (_, k) => planes[(k % 3) * 20 + Math.floor(k / 3)]!)
    const fed = async (stored: Uint8Array, shape: readonly number[], ...input: number[]): Promise<number[]> => {
      writeFileSync(join(folder('lying'), 'x.npy'), npy('|u1', [1, ...shape], stored))
      const feed = createFeed(taking('N', ...input), openData(join(folder('lying'), 'x.npy')).all!, {})
      return Array.from(numbersOf(await feed.pixels(0, 1)) as Float32Array, (v) => Math.round(255 * v))
    }
    for (const [stored, shape] of [
      [planes, [3, 4, 5]],
      [last, [4, 5, 3]],
    ] as const) {
      assert.deepEqual(await fed(stored, shape, 3, 4, 5), [...planes])
      assert.deepEqual(await fed(stored, shape, 4, 5, 3), [...last])
    }
    await assert.rejects(fed(planes, [5, 4, 3], 3, 4, 5), /are neither \[3, 4, 5\] nor \[4, 5, 3\]/)
    const unsized = createFeed(taking('N', 3, 'H', 'W'), openData(join(folder('lying'), 'x.npy')).all!, {})
    assert.deepEqual(unsized.shape, [3, 5, 4])
  })

  it('symbolic sizes come from the data, or the flag is named', () => {
    const source = { ...openData(join(path, 'x.npy')).all!, isImage: true }
    assert.deepEqual(createFeed(taking('N', 3, 'H', 'W'), source, {}).shape, [3, 4, 5])
    assert.throws(() => createFeed(taking('N', 'A', 'B', 'C', 'D'), source, {}), /--shape x=1/)
    assert.throws(() => createFeed(taking('N', 3, 9, 9), source, {}), /do not fill/)
  })

  it('unsplit sources are halved by seed without overlap', () => {
    const source = { ...openData(join(path, 'x.npy')).all!, count: 100, labels: Int32Array.from({ length: 100 }, (_, i) => i) }
    const split = (seed: number) => splitSources({ train: null, test: null, all: source }, null, true, createRandom(seed))
    const { calibration, evaluation } = split(1)
    assert.equal(new Set([...calibration.labels!, ...evaluation.labels!]).size, 100)
    assert.deepEqual([...split(1).evaluation.labels!], [...evaluation.labels!])
    assert.notDeepEqual([...split(2).evaluation.labels!], [...evaluation.labels!])
    assert.equal(splitSources({ train: null, test: source, all: null }, null, false, createRandom(1)).evaluation.count, 100)
  })
})
