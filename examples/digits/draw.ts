/**
 * Draws the digit set of the examples: strokes of the ten digits under random affine maps, thickness, contrast and noise.
 * Usage: node --conditions=source --import tsx examples/digits/draw.ts
 * Writes the IDX files beside itself; the same seed draws the same bytes.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { createRandom, type Random } from '@dqc/core'

export const SIDE = 20

type Point = readonly [number, number]

/** Points along an arc of an ellipse, angles in turns, clockwise from the right. */
const arc = (cx: number, cy: number, rx: number, ry: number, from: number, to: number): Point[] =>
  Array.from({ length: 17 }, (_, i) => {
    const t = 2 * Math.PI * (from + ((to - from) * i) / 16)
    return [cx + rx * Math.cos(t), cy + ry * Math.sin(t)] as const
  })

/** Strokes of each digit in the unit square, y downwards. */
const strokes: readonly (readonly Point[])[][] = [
  [arc(0.5, 0.5, 0.27, 0.4, 0, 1)],
  [
    [
      [0.32, 0.28],
      [0.54, 0.1],
      [0.54, 0.9],
    ],
  ],
  [[...arc(0.5, 0.33, 0.25, 0.23, -0.5, 0.12), [0.26, 0.9], [0.76, 0.9]]],
  [arc(0.46, 0.3, 0.26, 0.2, -0.42, 0.25), arc(0.46, 0.69, 0.28, 0.21, -0.25, 0.42)],
  [
    [
      [0.6, 0.1],
      [0.22, 0.64],
      [0.8, 0.64],
    ],
    [
      [0.62, 0.4],
      [0.62, 0.92],
    ],
  ],
  [[[0.74, 0.1], [0.34, 0.1], [0.3, 0.46], ...arc(0.48, 0.65, 0.26, 0.24, -0.32, 0.4)]],
  [
    [
      [0.62, 0.08],
      [0.4, 0.3],
      [0.28, 0.56],
    ],
    arc(0.5, 0.66, 0.23, 0.23, 0, 1),
  ],
  [
    [
      [0.24, 0.12],
      [0.76, 0.12],
      [0.42, 0.92],
    ],
  ],
  [arc(0.5, 0.29, 0.2, 0.19, 0, 1), arc(0.5, 0.69, 0.25, 0.22, 0, 1)],
  [
    arc(0.5, 0.34, 0.23, 0.23, 0, 1),
    [
      [0.73, 0.36],
      [0.66, 0.66],
      [0.44, 0.92],
    ],
  ],
]

const distance = (px: number, py: number, [ax, ay]: Point, [bx, by]: Point): number => {
  const [dx, dy] = [bx - ax, by - ay]
  const t = Math.min(1, Math.max(0, ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1)))
  return Math.hypot(px - ax - t * dx, py - ay - t * dy)
}

/** One digit as SIDE × SIDE bytes. */
export function drawDigit(random: Random, digit: number): Uint8Array {
  const angle = 0.22 * random.normal()
  const shear = 0.18 * random.normal()
  const [sx, sy] = [0.8 + 0.12 * random.normal(), 0.8 + 0.1 * random.normal()]
  const [tx, ty] = [0.05 * random.normal(), 0.05 * random.normal()]
  const [c, s] = [Math.cos(angle), Math.sin(angle)]
  const place = ([x, y]: Point): Point => {
    const [u, v] = [(x - 0.5) * sx + shear * (y - 0.5), (y - 0.5) * sy]
    return [0.5 + tx + c * u - s * v, 0.5 + ty + s * u + c * v]
  }
  const lines = strokes[digit]!.map((line) => line.map(([x, y]) => place([x + 0.012 * random.normal(), y + 0.012 * random.normal()])))
  const thickness = 0.045 + 0.03 * random.uniform()
  const ink = 170 + 85 * random.uniform()
  const paper = 40 * random.uniform()
  const noise = 18 * random.uniform()
  const out = new Uint8Array(SIDE * SIDE)
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) {
      const [px, py] = [(x + 0.5) / SIDE, (y + 0.5) / SIDE]
      let near = Number.POSITIVE_INFINITY
      for (const line of lines) for (let i = 1; i < line.length; i++) near = Math.min(near, distance(px, py, line[i - 1]!, line[i]!))
      const cover = Math.min(1, Math.max(0, 0.5 + (thickness - near) * SIDE * 0.7))
      // Sixteen levels of grey keep the committed files small.
      const v = paper + cover * (ink - paper) + noise * random.normal()
      out[y * SIDE + x] = Math.min(255, Math.max(0, Math.round(v / 17) * 17))
    }
  return out
}

/** n digits, classes in turn, item i depending on the seed and i alone. */
export function drawSet(seed: number, n: number): { images: Uint8Array; labels: Uint8Array } {
  const images = new Uint8Array(n * SIDE * SIDE)
  const labels = Uint8Array.from({ length: n }, (_, i) => i % 10)
  const random = createRandom(seed)
  for (let i = 0; i < n; i++) images.set(drawDigit(random.fork(`digit ${i}`), i % 10), i * SIDE * SIDE)
  return { images, labels }
}

/** IDX: 0, 0, type 8 (unsigned byte), rank, big-endian sizes, data. */
function idx(dims: readonly number[], data: Uint8Array): Buffer {
  const head = Buffer.alloc(4 + 4 * dims.length)
  head[2] = 8
  head[3] = dims.length
  dims.forEach((d, i) => {
    head.writeUInt32BE(d, 4 + 4 * i)
  })
  return gzipSync(Buffer.concat([head, data]), { level: 9 })
}

const here = dirname(fileURLToPath(import.meta.url))
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = join(here, 'data')
  mkdirSync(folder, { recursive: true })
  for (const [name, seed, n] of [
    ['train', 1, 2000],
    ['t10k', 2, 1000],
  ] as const) {
    const { images, labels } = drawSet(seed, n)
    writeFileSync(join(folder, `${name}-images-idx3-ubyte.gz`), idx([n, SIDE, SIDE], images))
    writeFileSync(join(folder, `${name}-labels-idx1-ubyte.gz`), idx([n], labels))
  }
}
