import {
  createRandom,
  type Dim,
  type Evaluation,
  errors,
  type Graph,
  type Preprocessing,
  type Random,
  syntheticImage,
  syntheticSignal,
  type Tensor,
  tensorOf,
} from '@dqc/core'
import { BYTE, type Source, type Sources, subset } from './source.ts'

export type Layout = 'nchw' | 'nhwc'

export interface FeedOptions {
  /** Factor on stored values. Default 1/255 for bytes, 1 for arrays of other types. */
  readonly scale?: number
  /** Subtracted after scaling, one value or one per channel. */
  readonly mean?: readonly number[]
  /** Divides what is left, one value or one per channel. */
  readonly std?: readonly number[]
  /** [height, width] that image files are scaled to. Default: the model's. */
  readonly resize?: readonly [number, number]
  /** Default: taken from the model's input. */
  readonly layout?: Layout
  /** Range of the inputs that are drawn without data. Default: what a quantized file says of it; else bytes for images, [0, 1] for others. */
  readonly inputRange?: readonly [number, number]
}

/** How items become what the model reads: their place in the input, and the map from pixels in [0, 1] to input values. */
export interface Feed {
  /** The input's shape without the batch. */
  readonly shape: readonly number[]
  readonly layout: Layout | null
  readonly preprocessing: Preprocessing
  /** Pixels in [0, 1] of items [from, to), laid out as the input. */
  pixels(from: number, to: number): Promise<Tensor>
  /** The same of any items. */
  items(indices: ArrayLike<number>): Promise<Tensor>
}

/** How likely a size counts channels: colour, grey, colour with transparency. */
const CHANNELS: readonly Dim[] = [3, 1, 4]

/** Which axis of an image input counts channels; null for inputs that are no images. */
export function layoutOf(shape: readonly Dim[], wanted?: Layout): Layout | null {
  if (shape.length !== 3) return null
  if (wanted) return wanted
  const [first, last] = [CHANNELS.indexOf(shape[0]!), CHANNELS.indexOf(shape[2]!)]
  if (first >= 0 && (last < 0 || first <= last)) return 'nchw'
  if (last >= 0) return 'nhwc'
  return typeof shape[0] === 'string' || typeof shape[2] !== 'string' ? 'nchw' : 'nhwc'
}

/** The input's shape without the batch, symbolic sizes taken from the data where it has them. Throws CompileError naming the flag otherwise. */
export function itemShape(graph: Graph, source: Source | null, o: FeedOptions): number[] {
  const input = graph.inputs[0]
  if (!input?.shape) throw errors.unsupportedModel(`the rank of input ${input?.name} is not known`, null, `pass --shape ${input?.name}=1,…`)
  const rest = input.shape.slice(1)
  if (rest.every((d): d is number => typeof d === 'number')) return rest
  const layout = layoutOf(rest, o.layout)
  const own = source && planesOf(source)
  const size = o.resize ?? own?.slice(1)
  if (layout && size) {
    const channels = layout === 'nchw' ? rest[0] : rest[2]
    const c = typeof channels === 'number' ? channels : (own?.[0] ?? 3)
    return layout === 'nchw' ? [c, size[0]!, size[1]!] : [size[0]!, size[1]!, c]
  }
  if (source?.shape && source.shape.length === rest.length) return [...source.shape]
  throw errors.usage(
    `input ${input.name} has the symbolic shape [${input.shape}]`,
    null,
    `fix it with --shape ${input.name}=1,${rest.map((d) => (typeof d === 'number' ? d : '…')).join(',')}`,
  )
}

/** [C, H, W] of a source's items; null where they are no images, or not of one size. Arrays lie either way. */
function planesOf({ shape, isImage }: Source): readonly [number, number, number] | null {
  if (shape?.length !== 3) return null
  const [p, q, r] = shape as [number, number, number]
  return isImage || layoutOf(shape) === 'nchw' ? [p, q, r] : [r, p, q]
}

/** Per-channel numbers as a tensor that broadcasts to the input. */
function perChannel(values: readonly number[], shape: readonly number[], layout: Layout | null, channels: number): Tensor {
  if (values.length === 1) return tensorOf('float32', [1, ...shape.map(() => 1)], values)
  if (layout === 'nhwc') return tensorOf('float32', [1, ...shape.map((_, i) => (i === shape.length - 1 ? channels : 1))], values)
  if (layout === 'nchw') return tensorOf('float32', [1, ...shape.map((_, i) => (i === 0 ? channels : 1))], values)
  // A flattened image: channels follow one another.
  const n = shape.reduce((p, d) => p * d, 1)
  return tensorOf(
    'float32',
    [1, ...shape],
    Float32Array.from({ length: n }, (_, i) => values[Math.floor((i * channels) / n)]!),
  )
}

/** Connects a source to the model's input. Throws CompileError when sizes do not fit. */
export function createFeed(graph: Graph, source: Source, o: FeedOptions): Feed {
  const shape = itemShape(graph, source, o)
  const layout = layoutOf(shape, o.layout)
  const n = shape.reduce((p, d) => p * d, 1)
  if (source.isImage && source.shape === null && layout === null)
    throw errors.badData(
      `image files do not say how they fill the input [${shape.join(', ')}]`,
      source.description,
      'pass arrays of that shape (.npy, .npz)',
    )
  const [C, H, W] =
    layout === 'nhwc'
      ? [shape[2]!, shape[0]!, shape[1]!]
      : layout === 'nchw'
        ? [shape[0]!, shape[1]!, shape[2]!]
        : [source.shape?.[0] ?? 1, 1, n]
  if (source.isImage && source.shape && source.shape.reduce((p, d) => p * d, 1) !== n)
    throw errors.badData(
      `images of ${source.shape.join('×')} do not fill the input [${shape.join(', ')}]`,
      source.description,
      'the data set belongs to another model',
    )
  if (!source.isImage && source.shape!.reduce((p, d) => p * d, 1) !== n)
    throw errors.badData(`items of shape [${source.shape}] do not fill the input [${shape.join(', ')}]`, source.description)
  if (o.resize && layout && (o.resize[0] !== H || o.resize[1] !== W))
    throw errors.usage(`--resize ${o.resize.join('x')} does not give the input [${shape.join(', ')}]`)
  const [lo, hi] = source.range
  const factor = o.scale ?? source.factor
  const mean = o.mean ?? [0]
  const std = o.std ?? [1]
  if (std.some((v) => !(v > 0))) throw errors.usage('--std must be positive')
  const channels = layout ? C : source.isImage ? source.shape![0]! : 1
  for (const [flag, v] of [
    ['--mean', mean],
    ['--std', std],
  ] as const)
    if (v.length !== 1 && v.length !== channels) throw errors.usage(`${v.length} values of ${flag} for ${channels} channels`)
  const wide = Math.max(mean.length, std.length)
  const at = (v: readonly number[], i: number): number => v[v.length === 1 ? 0 : i]!
  const list = (f: (i: number) => number): number[] => Array.from({ length: wide }, (_, i) => f(i))
  const preprocessing = {
    scale: perChannel(
      list((i) => ((hi - lo) * factor) / at(std, i)),
      shape,
      layout,
      channels,
    ),
    shift: perChannel(
      list((i) => (lo * factor - at(mean, i)) / at(std, i)),
      shape,
      layout,
      channels,
    ),
  }
  const turn = placing(source, shape, layout, [C, H, W])
  const fit = layout ? [C, H, W] : null
  const span = hi - lo
  const items = async (indices: ArrayLike<number>): Promise<Tensor> => {
    const data = new Float32Array(indices.length * n)
    for (let i = 0; i < indices.length; i++) {
      const item = await source.read(indices[i]!, source.shape === null ? fit : null)
      if (item.length !== n) throw errors.badData(`item ${indices[i]} has ${item.length} values, the input takes ${n}`, source.description)
      const base = i * n
      for (let k = 0; k < n; k++) {
        data[base + turn(k)] = (item[k]! - lo) / span
      }
    }
    return tensorOf('float32', [indices.length, ...shape], data)
  }
  return { shape, layout, preprocessing, items, pixels: (from, to) => items(Array.from({ length: to - from }, (_, i) => from + i)) }
}

/**
 * Where the values of an item lie in the input. Images come as [C, H, W]; arrays of three axes as that or as [H, W, C], in the input's own order where
 * they could be either; other arrays lie as images do. Throws CompileError for arrays that are neither.
 */
function placing(
  source: Source,
  shape: readonly number[],
  layout: Layout | null,
  [C, H, W]: readonly [number, number, number],
): (k: number) => number {
  const asIs = (k: number): number => k
  const toLast = (k: number): number => Math.floor(k / (H * W)) + (k % (H * W)) * C
  const toFirst = (k: number): number => (k % C) * H * W + Math.floor(k / C)
  if (layout === null) return asIs
  if (!source.isImage && source.shape?.length === 3) {
    const lies = String(source.shape)
    if (lies === String(shape)) return asIs
    if (lies !== String([C, H, W]) && lies !== String([H, W, C]))
      throw errors.badData(
        `items of shape [${source.shape}] are neither [${C}, ${H}, ${W}] nor [${H}, ${W}, ${C}]`,
        source.description,
        'the data set belongs to another model',
      )
    return layout === 'nchw' ? toFirst : toLast
  }
  return layout === 'nchw' ? asIs : toLast
}

/** Synthetic images, bytes unless they have a `range` of their own, or for inputs that are no images signals within it, in place of data. */
export function syntheticSource(
  shape: readonly number[],
  layout: Layout | null,
  count: number,
  random: Random,
  range: readonly [number, number] | null,
): Source {
  const [C, H, W] =
    layout === 'nhwc' ? [shape[2]!, shape[0]!, shape[1]!] : layout === 'nchw' ? (shape as [number, number, number]) : [1, 1, 1]
  const [lo, hi] = range ?? (layout ? [0, 255] : [0, 1])
  const images: Float32Array[] = []
  return {
    description: layout ? 'synthetic images (fractal noise, dead leaves, mixtures)' : `synthetic signals in ${lo} … ${hi}`,
    count,
    labels: null,
    classes: null,
    shape: layout ? [C, H, W] : shape,
    isImage: layout !== null,
    range: [lo, hi],
    factor: layout && !range ? BYTE : 1,
    read: async (i) => {
      if (layout) {
        // Drawn once: several passes look at the same images.
        images[i] ??= syntheticImage(random, i, C, H, W).map((v) => lo + v * (hi - lo))
        return images[i]
      }
      return syntheticSignal(
        random,
        i,
        shape.reduce((p, d) => p * d, 1),
      ).map((v) => lo + v * (hi - lo))
    },
  }
}

/** What is calibrated on and what is evaluated on. */
export interface Split {
  /** What there is to say of it. */
  readonly note?: string
  readonly calibration: Source
  readonly evaluation: Source
}

/** Share of an unsplit source that is held out for evaluation. */
const HELD_OUT = 0.5

/**
 * Training files calibrate, test files are evaluated; unsplit sources take a second one, or are split by seed. Where nothing is calibrated,
 * all of an unsplit source is evaluated.
 */
export function splitSources(main: Sources, evaluation: Sources | null, calibrates: boolean, random: Random): Split {
  const split = chooseSources(main, evaluation, calibrates, random)
  const [a, b] = [split.calibration.classes, split.evaluation.classes]
  if (!a || !b || String(a) === String(b)) return split
  const [more, fewer] = [a.filter((c) => !b.includes(c)), b.filter((c) => !a.includes(c))]
  // Data to evaluate on may lack nothing, as that would shift their numbers; from elsewhere, they may be sorted quite otherwise.
  if (more.length > 0 && (!evaluation || fewer.length === 0))
    throw errors.badData(
      `the classes of ${split.calibration.description} are not those of ${split.evaluation.description}: ${[...more, ...fewer].join(', ')}`,
      null,
      'classes are numbered by the names of their folders: one without images needs an empty folder',
    )
  // Numbered otherwise: good to calibrate on, and to learn from without labels.
  const { description } = split.calibration
  const calibration = { ...split.calibration, labels: null, classes: null }
  return { ...split, calibration, note: `the classes of ${description} are others than those evaluated: its labels were left out` }
}

function chooseSources(main: Sources, evaluation: Sources | null, calibrates: boolean, random: Random): Split {
  if (!calibrates) {
    const all = evaluation ?? main
    const source = all.test ?? all.all ?? all.train!
    return { calibration: source, evaluation: source }
  }
  const train = main.train ?? main.all ?? main.test!
  if (evaluation) return { calibration: train, evaluation: evaluation.test ?? evaluation.all ?? evaluation.train! }
  if (main.train && main.test) return { calibration: main.train, evaluation: main.test }
  if (train.count === 1) return { calibration: train, evaluation: train }
  const order = random.fork('split').permutation(train.count)
  const held = Math.max(1, Math.floor(train.count * HELD_OUT))
  // Held-out items keep their order, so that --samples takes the first of them.
  const inOrder = (indices: Uint32Array): Uint32Array => indices.sort((a, b) => a - b)
  return {
    calibration: subset(train, inOrder(order.slice(held)), 'calibration half'),
    evaluation: subset(train, inOrder(order.slice(0, held)), 'held-out half'),
  }
}

/** The first n items in order (evaluation), as the core measures them. */
export function evaluationOf(source: Source, feed: Feed, samples: number): Evaluation {
  const n = Math.min(samples, source.count)
  return { samples: n, labels: source.labels ? source.labels.slice(0, n) : null, pixels: (from, to) => feed.pixels(from, to) }
}

/** n items drawn by seed without replacement (calibration). */
export const drawn = (source: Source, n: number, seed: number): Source =>
  n >= source.count ? source : subset(source, createRandom(seed).fork('calibration').permutation(source.count).slice(0, n), `${n} drawn`)
