/** Seeded pseudo-random numbers. Everything random in dqc draws from here, so the same seed gives the same bytes. */
export interface Random {
  /** Uniform in [0, 1). */
  uniform(): number
  /** Standard normal (Box–Muller). */
  normal(): number
  /** Uniform integer in [0, n). */
  int(n: number): number
  /** A permutation of 0 … n−1 (Fisher–Yates). */
  permutation(n: number): Uint32Array
  /** An independent stream for a named purpose: drawing more in one place never shifts another. */
  fork(purpose: string): Random
}

const hash = (text: string, seed: number): number => {
  // FNV-1a, 32 bit (Fowler, Noll, Vo), then an avalanche so that close seeds part.
  let h = 0x811c9dc5 ^ seed
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** sfc32 (Chris Doty-Humphrey's Small Fast Chaotic generator, PractRand), state filled from a 32-bit seed. */
export function createRandom(seed: number): Random {
  let a = hash('a', seed)
  let b = hash('b', seed)
  let c = hash('c', seed)
  let d = 1
  const next = (): number => {
    const t = (((a + b) | 0) + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + t) | 0
    return t >>> 0
  }
  for (let i = 0; i < 15; i++) next()
  const uniform = (): number => next() / 4294967296
  const int = (n: number): number => Math.floor(uniform() * n)
  let spare: number | null = null
  return {
    uniform,
    int,
    normal() {
      if (spare !== null) {
        const s = spare
        spare = null
        return s
      }
      const r = Math.sqrt(-2 * Math.log(1 - uniform()))
      const t = 2 * Math.PI * uniform()
      spare = r * Math.sin(t)
      return r * Math.cos(t)
    },
    permutation(n) {
      const p = Uint32Array.from({ length: n }, (_, i) => i)
      for (let i = n - 1; i > 0; i--) {
        const j = int(i + 1)
        const x = p[i]!
        p[i] = p[j]!
        p[j] = x
      }
      return p
    },
    fork: (purpose) => createRandom(hash(purpose, seed)),
  }
}
