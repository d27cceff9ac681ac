import { numbersOf, sizeOf, type Tensor, tensorOf } from '../ir/tensor.ts'
import { createRandom, type Random } from '../math/random.ts'
import type { Model } from '../run/engine.ts'
import type { Attack } from './attack.ts'
import { type Adversaries, batchesOf, type MeasureContext, preprocess, relativeErrors } from './measure.ts'

/** Share of the image that the first square covers: what AutoAttack takes (Croce and Hein 2020, arXiv 2003.01690); a tenth of it left images of 32×32 twice as robust in 400 queries. */
const FIRST_SHARE = 0.8
/** Where in a run of 10,000 queries the share halves (ibid., appendix B). */
const HALVINGS = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000].map((q) => q / 10000)

/** Image axes of one item: [C, H, W] and their strides. Inputs that are no images count as one row. */
interface Extent {
  readonly size: readonly [number, number, number]
  readonly stride: readonly [number, number, number]
}

function extentOf(shape: readonly number[], channelsLast: boolean): Extent {
  if (shape.length !== 3) return { size: [1, 1, sizeOf(shape)], stride: [0, 0, 1] }
  const [p, q, r] = shape as [number, number, number]
  return channelsLast ? { size: [r, p, q], stride: [1, q * r, r] } : { size: [p, q, r], stride: [q * r, r, 1] }
}

/**
 * How far each sample is from a wrong answer: the label's score over the best other one; below 0 once it is wrong, and 0 where the two tie, as scores
 * on a grid often do. For networks that are no classifiers: minus the relative deviation from the reference.
 */
export function margins(y: Tensor, labels: ArrayLike<number> | null, reference: Tensor | null): Float64Array {
  if (!labels) return Float64Array.from(relativeErrors(y, reference!), (e) => -e)
  const v = numbersOf(y)
  const n = y.shape[0]!
  const classes = v.length / n
  return Float64Array.from({ length: n }, (_, s) => {
    let best = Number.NEGATIVE_INFINITY
    for (let c = 0; c < classes; c++) if (c !== labels[s] && v[s * classes + c]! > best) best = v[s * classes + c]!
    return v[s * classes + labels[s]!]! - best
  })
}

const select = (t: Tensor, keep: readonly number[]): Tensor => {
  const per = t.data.length / t.shape[0]!
  const out = new Float32Array(keep.length * per)
  keep.forEach((k, i) => {
    out.set((t.data as Float32Array).subarray(k * per, (k + 1) * per), i * per)
  })
  return tensorOf('float32', [keep.length, ...t.shape.slice(1)], out)
}

/**
 * Square attack in ℓ∞ (Andriushchenko et al. 2020, arXiv 1912.00049, algorithm 2): random squares of ±ε, kept where they bring the answer
 * closer to a wrong one. Those that leave it where it is are kept as well, which the paper does not do: scores of integer files move in steps, and a
 * search that waits for the next one gets stuck. It asks the model for nothing but outputs, so it judges networks whose gradients vanish or mislead,
 * integer files among them. `truth(from, to)` gives labels or reference outputs of a batch.
 */
export async function attackByQueries(
  model: Model,
  attack: Attack,
  truth: (from: number, to: number, batch: number) => { labels: ArrayLike<number> | null; reference: Tensor | null },
  c: MeasureContext,
): Promise<Adversaries> {
  const found: Tensor[][] = []
  const batches = batchesOf(c.evaluation.samples, c.batch)
  for (const [i, [from, to]] of batches.entries()) {
    const x0 = await c.evaluation.pixels(from, to)
    const runs: Tensor[] = []
    for (let r = 0; r < attack.restarts; r++) {
      const random = createRandom(c.seed).fork(`square ${i} ${r}`)
      runs.push(
        await squares(model, x0, attack, truth(from, to, i), c, random, (q) =>
          c.onProgress?.((i * attack.restarts + r) * attack.steps + q, batches.length * attack.restarts * attack.steps),
        ),
      )
    }
    found.push(runs)
  }
  return found
}

async function squares(
  model: Model,
  x0: Tensor,
  attack: Attack,
  truth: { labels: ArrayLike<number> | null; reference: Tensor | null },
  c: MeasureContext,
  random: Random,
  onQuery: (done: number) => void,
): Promise<Tensor> {
  const n = x0.shape[0]!
  const per = sizeOf(x0.shape.slice(1))
  const { size, stride } = extentOf(x0.shape.slice(1), c.channelsLast)
  const [C, H, W] = size
  const { epsilon } = attack
  const clean = x0.data as Float32Array
  const ask = async (x: Tensor, keep: readonly number[]): Promise<Float64Array> => {
    c.signal?.throwIfAborted()
    const y = (await model([preprocess(x, c.preprocessing)]))[0]!
    return margins(y, truth.labels ? keep.map((k) => truth.labels![k]!) : null, truth.reference ? select(truth.reference, keep) : null)
  }
  const at = (ch: number, y: number, x: number): number => ch * stride[0] + y * stride[1] + x * stride[2]
  const clamp = (v: number): number => Math.min(1, Math.max(0, Math.fround(v)))
  const best = new Float32Array(clean)
  const all = Array.from({ length: n }, (_, s) => s)
  const score = await ask(x0, all)
  // Vertical stripes are where the search begins: the most harmful simple pattern for convolutions.
  const stripes = new Float32Array(clean.length)
  for (let s = 0; s < n; s++)
    for (let ch = 0; ch < C; ch++)
      for (let x = 0; x < W; x++) {
        const sign = random.uniform() < 0.5 ? -epsilon : epsilon
        for (let y = 0; y < H; y++) {
          const k = s * per + at(ch, y, x)
          stripes[k] = clamp(clean[k]! + sign)
        }
      }
  const first = await ask(tensorOf('float32', x0.shape, stripes), all)
  for (let s = 0; s < n; s++)
    if (first[s]! <= score[s]!) {
      score[s] = first[s]!
      best.set(stripes.subarray(s * per, (s + 1) * per), s * per)
    }
  for (let q = 2; q < attack.steps; q++) {
    // A classifier's sample is done with once it is wrong, however ties are broken.
    const keep = truth.labels ? all.filter((s) => score[s]! >= 0) : all
    onQuery(q)
    if (keep.length === 0) break
    const share = FIRST_SHARE * 0.5 ** HALVINGS.filter((h) => q / attack.steps >= h).length
    const side = Math.max(1, Math.round(H === 1 ? share * W : Math.sqrt(share * H * W)))
    const [h, w] = [Math.min(side, H), Math.min(side, W)]
    const trial = new Float32Array(keep.length * per)
    keep.forEach((s, i) => {
      trial.set(best.subarray(s * per, (s + 1) * per), i * per)
      const [top, left] = [random.int(H - h + 1), random.int(W - w + 1)]
      for (let ch = 0; ch < C; ch++) {
        const sign = random.uniform() < 0.5 ? -epsilon : epsilon
        for (let y = top; y < top + h; y++)
          for (let x = left; x < left + w; x++) {
            const k = at(ch, y, x)
            trial[i * per + k] = clamp(clean[s * per + k]! + sign)
          }
      }
    })
    const scores = await ask(tensorOf('float32', [keep.length, ...x0.shape.slice(1)], trial), keep)
    keep.forEach((s, i) => {
      if (scores[i]! > score[s]!) return
      score[s] = scores[i]!
      best.set(trial.subarray(i * per, (i + 1) * per), s * per)
    })
  }
  return tensorOf('float32', x0.shape, best)
}
