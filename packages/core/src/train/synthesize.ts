import type { Random } from '../math/random.ts'

/** A [H, W] field of fractal noise in [0, 1]: octaves of smoothed noise whose amplitude falls with frequency, as in natural images. */
function fractal(random: Random, H: number, W: number): Float32Array {
  const out = new Float32Array(H * W)
  const persistence = 0.4 + 0.3 * random.uniform()
  let amplitude = 1
  for (let cells = 2; cells <= Math.max(H, W); cells *= 2) {
    const side = cells + 1
    const grid = new Float32Array(side * side)
    for (let i = 0; i < grid.length; i++) grid[i] = random.uniform() - 0.5
    const column = Float64Array.from({ length: W }, (_, x) => (x / W) * cells)
    for (let y = 0; y < H; y++) {
      const v = (y / H) * cells
      const r = Math.floor(v)
      const fy = v - r
      for (let x = 0; x < W; x++) {
        const c = Math.floor(column[x]!)
        const fx = column[x]! - c
        const at = r * side + c
        const top = grid[at]! + fx * (grid[at + 1]! - grid[at]!)
        const bottom = grid[at + side]! + fx * (grid[at + side + 1]! - grid[at + side]!)
        out[y * W + x]! += amplitude * (top + fy * (bottom - top))
      }
    }
    amplitude *= persistence
  }
  let lo = Number.POSITIVE_INFINITY
  let hi = Number.NEGATIVE_INFINITY
  for (const v of out) {
    lo = Math.min(lo, v)
    hi = Math.max(hi, v)
  }
  const span = hi - lo || 1
  for (let i = 0; i < out.length; i++) out[i] = (out[i]! - lo) / span
  return out
}

/** Correlated channel values: natural colours vary mostly in brightness. */
function colour(random: Random, C: number): number[] {
  const base = random.uniform()
  return Array.from({ length: C }, () => Math.min(1, Math.max(0, base + 0.25 * random.normal())))
}

function fractalImage(random: Random, C: number, H: number, W: number): Float32Array {
  const shared = fractal(random, H, W)
  const [low, high] = [colour(random, C), colour(random, C)]
  const out = new Float32Array(C * H * W)
  for (let c = 0; c < C; c++) {
    const own = fractal(random, H, W)
    for (let p = 0; p < H * W; p++) {
      const t = 0.75 * shared[p]! + 0.25 * own[p]!
      out[c * H * W + p] = low[c]! + (high[c]! - low[c]!) * t
    }
  }
  return out
}

/** Smallest and largest radius of a leaf, as shares of the image, and the most leaves. */
const LEAF = { least: 1 / 10, most: 2 / 3, count: 24 }
/** How far the colours of one image lie apart: a scene has a palette. */
const PALETTE = 0.18

/**
 * Occluding discs and polygons with power-law sizes (Lee, Mumford, Huang 2001, "dead leaves"), each with a fractal texture and a colour near the
 * image's palette, and a soft edge.
 */
function deadLeaves(random: Random, C: number, H: number, W: number): Float32Array {
  const out = fractalImage(random, C, H, W)
  const textures = [fractal(random, H, W), fractal(random, H, W), fractal(random, H, W)]
  const palette = colour(random, C)
  const size = Math.min(H, W)
  const leaves = 3 + random.int(LEAF.count)
  for (let l = 0; l < leaves; l++) {
    // p(r) ∝ r⁻³ between the two radii.
    const [a, z] = [size * LEAF.least, size * LEAF.most]
    const radius = 1 / Math.sqrt(1 / (a * a) - random.uniform() * (1 / (a * a) - 1 / (z * z)))
    const [cy, cx] = [random.uniform() * H, random.uniform() * W]
    const sides = random.uniform() < 0.5 ? 0 : 3 + random.int(4)
    const turn = random.uniform() * 2 * Math.PI
    const stretch = 0.5 + random.uniform()
    const brightness = 0.25 * random.normal()
    const paint = palette.map((v) => v + brightness + PALETTE * random.normal())
    const texture = textures[random.int(textures.length)]!
    const rough = 0.2 + 0.8 * random.uniform()
    const soft = 0.3 + 1.5 * random.uniform()
    const reach = radius * Math.max(stretch, 1 / stretch) + soft
    const coverAt = (border: number, d: number): number => Math.min(1, Math.max(0, (border - d) / soft + 0.5))
    // A regular polygon's border in polar form, between its inner and its outer circle.
    const sector = sides ? (2 * Math.PI) / sides : 0
    const inner = radius * Math.cos(sector / 2)
    const borderAt = (angle: number): number => inner / Math.cos(((((angle + turn) % sector) + sector) % sector) - sector / 2)
    for (let y = Math.max(0, Math.floor(cy - reach)); y < Math.min(H, cy + reach); y++)
      for (let x = Math.max(0, Math.floor(cx - reach)); x < Math.min(W, cx + reach); x++) {
        const [dy, dx] = [(y - cy) * stretch, (x - cx) / stretch]
        const d = Math.sqrt(dy * dy + dx * dx)
        if (coverAt(radius, d) === 0) continue
        const cover = coverAt(sides && coverAt(inner, d) < 1 ? borderAt(Math.atan2(dy, dx)) : radius, d)
        if (cover === 0) continue
        for (let c = 0; c < C; c++) {
          const k = (c * H + y) * W + x
          const v = paint[c]! + rough * (texture[y * W + x]! - 0.5)
          out[k] = Math.min(1, Math.max(0, out[k]! + cover * (v - out[k]!)))
        }
      }
  }
  return out
}

/**
 * Synthetic images for networks that come without data, as [C, H, W] in [0, 1]: a quarter fractal noise, half dead leaves, a quarter
 * mixtures of both. Image i depends on the seed and i alone.
 */
export function syntheticImage(random: Random, i: number, C: number, H: number, W: number): Float32Array {
  const r = random.fork(`image ${i}`)
  const kind = i % 4
  if (kind === 0) return fractalImage(r, C, H, W)
  if (kind < 3) return deadLeaves(r, C, H, W)
  const [p, q] = [fractalImage(r, C, H, W), deadLeaves(r, C, H, W)]
  const t = 0.2 + 0.6 * r.uniform()
  return p.map((v, k) => t * v + (1 - t) * q[k]!)
}

/**
 * Synthetic numbers for inputs that are no images, in [0, 1]: every other item is smooth along its elements, as spectra and signals are, the rest
 * independent from one to the next. Item i depends on the seed and i alone.
 */
export function syntheticSignal(random: Random, i: number, length: number): Float32Array {
  const r = random.fork(`signal ${i}`)
  if (i % 2 === 1) return Float32Array.from({ length }, () => r.uniform())
  // Noise that remembers: an autoregression whose spread fills the range, about a level of its own.
  const memory = 1 - 0.5 ** (1 + 5 * r.uniform())
  const level = 0.25 + 0.5 * r.uniform()
  let state = r.normal()
  return Float32Array.from({ length }, () => {
    state = memory * state + Math.sqrt(1 - memory * memory) * r.normal()
    return Math.min(1, Math.max(0, level + 0.2 * state))
  })
}
