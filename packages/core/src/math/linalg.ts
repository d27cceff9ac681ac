/** Largest singular value by power iteration on AᵀA, and related measures of a [rows × cols] matrix in row-major order. */
export function spectralNorm(a: ArrayLike<number>, rows: number, cols: number, iterations = 50): number {
  let v = new Float64Array(cols).fill(1 / Math.sqrt(Math.max(1, cols)))
  // A deterministic, non-uniform start: the all-ones vector can be orthogonal to the leading direction.
  for (let j = 0; j < cols; j++) v[j]! *= 1 + 0.5 * Math.sin(1 + 3.7 * j)
  let sigma = 0
  for (let it = 0; it < iterations; it++) {
    const u = new Float64Array(rows)
    for (let i = 0; i < rows; i++) {
      let s = 0
      for (let j = 0; j < cols; j++) s += a[i * cols + j]! * v[j]!
      u[i] = s
    }
    const w = new Float64Array(cols)
    for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) w[j]! += a[i * cols + j]! * u[i]!
    const norm = Math.sqrt(w.reduce((s, x) => s + x * x, 0))
    if (norm === 0) return 0
    sigma = Math.sqrt(norm)
    v = w.map((x) => x / norm)
  }
  return sigma
}

/** Orthogonality defect ‖WWᵀ − I‖_F of a [rows × cols] matrix (Lin, Gan, Han 2019, eq. 8). */
export function orthogonalityDefect(a: ArrayLike<number>, rows: number, cols: number): number {
  let sum = 0
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k <= i; k++) {
      let dot = 0
      for (let j = 0; j < cols; j++) dot += a[i * cols + j]! * a[k * cols + j]!
      const d = i === k ? dot - 1 : dot
      sum += (i === k ? 1 : 2) * d * d
    }
  }
  return Math.sqrt(sum)
}

/** Solves A x = b for a square, symmetric, positive definite A by Gaussian elimination. */
export function solve(A: readonly Float64Array[], b: Float64Array): Float64Array {
  const n = b.length
  const m = A.map((row, i) => Float64Array.from([...row, b[i]!]))
  for (let c = 0; c < n; c++) {
    let p = c
    for (let r = c + 1; r < n; r++) if (Math.abs(m[r]![c]!) > Math.abs(m[p]![c]!)) p = r
    ;[m[c], m[p]] = [m[p]!, m[c]!]
    for (let r = c + 1; r < n; r++) {
      const f = m[r]![c]! / m[c]![c]!
      if (f !== 0) for (let k = c; k <= n; k++) m[r]![k]! -= f * m[c]![k]!
    }
  }
  const x = new Float64Array(n)
  for (let r = n - 1; r >= 0; r--) {
    let s = m[r]![n]!
    for (let k = r + 1; k < n; k++) s -= m[r]![k]! * x[k]!
    x[r] = s / m[r]![r]!
  }
  return x
}
