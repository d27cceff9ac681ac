import type * as core from '@dqc/core'
import type { Node } from '@dqc/core'
import type * as Core from '@tensorflow/tfjs'

export type Tf = typeof Core
type T = Core.Tensor
/** An op in TensorFlow.js; null where it cannot express these attributes. */
type Kernel = (tf: Tf, xs: T[], attrs: any, node: Node) => T | T[] | null

const TO_LAST = [0, 2, 3, 1]
const TO_SECOND = [0, 3, 1, 2]
const last = (tf: Tf, x: T): Core.Tensor4D => tf.transpose(x as Core.Tensor4D, TO_LAST)
const second = (tf: Tf, x: T): T => tf.transpose(x as Core.Tensor4D, TO_SECOND)

/** Images padded by hand, so that every window is VALID. */
function padded(tf: Tf, x: Core.Tensor4D, pads: readonly number[], value: number): Core.Tensor4D {
  return pads.every((p) => p === 0)
    ? x
    : tf.pad4d(
        x,
        [
          [0, 0],
          [pads[0]!, pads[2]!],
          [pads[1]!, pads[3]!],
          [0, 0],
        ],
        value,
      )
}

const pair = (v: readonly number[]): [number, number] => [v[0]!, v[1]!]

function conv2d(tf: Tf, x: Core.Tensor4D, w: Core.Tensor4D, a: core.ConvAttrs): Core.Tensor4D {
  const image = padded(tf, x, a.pads, 0)
  const [O, per] = w.shape
  const C = image.shape[3]
  if (a.group === C && per === 1) {
    const filter = tf.transpose(tf.reshape(w, [C, O / C, w.shape[2], w.shape[3]]), [2, 3, 0, 1])
    return tf.depthwiseConv2d(image, filter as Core.Tensor4D, pair(a.strides), 'valid', 'NHWC', pair(a.dilations))
  }
  const filter = (k: Core.Tensor4D): Core.Tensor4D => tf.transpose(k, [2, 3, 1, 0])
  if (a.group === 1) return tf.conv2d(image, filter(w), pair(a.strides), 'valid', 'NHWC', pair(a.dilations))
  const og = O / a.group
  const parts = Array.from({ length: a.group }, (_, g) =>
    tf.conv2d(
      tf.slice4d(image, [0, 0, 0, g * per], [-1, -1, -1, per]),
      filter(tf.slice4d(w, [g * og, 0, 0, 0], [og, -1, -1, -1])),
      pair(a.strides),
      'valid',
      'NHWC',
      pair(a.dilations),
    ),
  )
  return tf.concat4d(parts, 3)
}

const conv: Kernel = (tf, [x, w, b], a: core.ConvAttrs) => {
  // TensorFlow.js does not derive dilated convolutions.
  if (x!.rank !== 4 || a.dilations.some((d) => d > 1)) return null
  const y = conv2d(tf, last(tf, x!), w as Core.Tensor4D, a)
  return second(tf, b ? tf.add(y, b) : y)
}

const convTranspose: Kernel = (tf, [x, w, b], a: core.ConvTransposeAttrs) => {
  if (x!.rank !== 4 || a.group !== 1 || a.dilations.some((d) => d !== 1)) return null
  const image = last(tf, x!)
  const [, O, kh, kw] = w!.shape as [number, number, number, number]
  const full = [0, 1].map((i) => a.strides[i]! * (image.shape[i + 1]! - 1) + [kh, kw][i]! + a.outputPadding[i]!)
  const filter = tf.transpose(w as Core.Tensor4D, [2, 3, 1, 0])
  const y = tf.conv2dTranspose(image, filter, [image.shape[0], full[0]!, full[1]!, O], pair(a.strides), 'valid')
  const crop = tf.slice4d(
    y,
    [0, a.pads[0]!, a.pads[1]!, 0],
    [-1, full[0]! - a.pads[0]! - a.pads[2]!, full[1]! - a.pads[1]! - a.pads[3]!, -1],
  )
  return second(tf, b ? tf.add(crop, b) : crop)
}

const maxPool: Kernel = (tf, [x], a: core.MaxPoolAttrs) =>
  x!.rank !== 4 || a.ceil || a.dilations.some((d) => d !== 1)
    ? null
    : second(tf, tf.maxPool(padded(tf, last(tf, x!), a.pads, -3.4e38), pair(a.kernel), pair(a.strides), 'valid'))

const averagePool: Kernel = (tf, [x], a: core.AveragePoolAttrs) => {
  const uncounted = a.pads.some((p) => p !== 0) && !a.countIncludePad
  if (x!.rank !== 4 || a.ceil || a.dilations.some((d) => d !== 1) || uncounted) return null
  return second(tf, tf.avgPool(padded(tf, last(tf, x!), a.pads, 0), pair(a.kernel), pair(a.strides), 'valid'))
}

/** TensorFlow.js derives some broadcasts wrongly; adding zeros first does it right. */
const wide = (tf: Tf, x: T, shape: readonly number[]): T =>
  String(x.shape) === String(shape) ? x : tf.add(x, tf.zeros([...shape], x.dtype as 'float32'))
const outShape = (node: Node, xs: readonly T[]): number[] =>
  node.op.infer(
    xs.map((x, i) => ({ dtype: node.inputs[i]!.dtype, shape: x.shape })),
    node.attrs,
  )[0]!.shape as number[]

const spatial = (x: T): number[] => x.shape.map((_, i) => i).slice(2)
const unary =
  (f: (tf: Tf, x: T, a: any) => T): Kernel =>
  (tf, [x], a) =>
    f(tf, x!, a)
const binary =
  (f: (tf: Tf, x: T, y: T) => T): Kernel =>
  (tf, [x, y]) =>
    f(tf, x!, y!)
const reduce =
  (f: (tf: Tf, x: T, axes: number[], keep: boolean) => T): Kernel =>
  (tf, [x], { axes, keepDims }) =>
    f(tf, x!, axes, keepDims)

/** x·clip(x/6 + ½, 0, 1) */
const hardSwish = (tf: Tf, x: T): T => tf.mul(x, tf.clipByValue(tf.add(tf.div(x, 6), 0.5), 0, 1))

/** (x − mean)/√(var + ε) over axes */
function standardize(tf: Tf, x: T, axes: number[], epsilon: number): T {
  const centred = tf.sub(x, tf.mean(x, axes, true))
  return tf.div(centred, tf.sqrt(tf.add(tf.mean(tf.square(centred), axes, true), epsilon)))
}

/** A vector of channels against a value whose channels come second. */
const channels = (tf: Tf, v: T, rank: number): T => tf.reshape(v, [-1, ...Array<number>(rank - 2).fill(1)])

/** y = s·clip(RNE(x/s)) with the gradients of LSQ, straight through the rounding. */
const fakeQuant: Kernel = (tf, [x, scale], { lo, hi, axis }: core.FakeQuantAttrs) => {
  const wide = (s: T): T =>
    axis === null
      ? s
      : tf.reshape(
          s,
          x!.shape.map((_, i) => (i === axis ? -1 : 1)),
        )
  const f = tf.customGrad((v: any, s: any, save: any) => {
    const ratio = tf.div(v as T, wide(s))
    const clipped = tf.clipByValue(ratio, lo, hi)
    const steps = tf.round(clipped)
    save([tf.cast(tf.equal(ratio, clipped), 'float32'), steps, ratio])
    return {
      value: tf.mul(steps, wide(s)),
      gradFunc: (dy: any, saved: any) => {
        const [inside, q, r] = saved as [T, T, T]
        const ds = tf.mul(dy, tf.sub(q, tf.mul(inside, r)))
        const along = x!.shape.map((_, i) => i).filter((i) => i !== axis)
        return [tf.mul(dy, inside), axis === null ? tf.reshape(tf.sum(ds), s.shape) : tf.sum(ds, along)]
      },
    }
  })
  return f(x!, scale!)
}

/** Rounding whose gradient passes straight through. */
const round: Kernel = (tf, [x]) => tf.customGrad((v: any) => ({ value: tf.round(v as T), gradFunc: (dy: any) => dy }))(x!)

/** By the name of core's op. What is missing here is evaluated by core's reference. */
export const kernels: ReadonlyMap<string, Kernel> = new Map<string, Kernel>(
  Object.entries({
    identity: unary((tf, x) => tf.clone(x)),
    detach: unary((tf, x) => tf.clone(x)),
    relu: unary((tf, x) => tf.relu(x)),
    clip: unary((tf, x, { min, max }) => tf.clipByValue(x, Math.max(min, -3.4e38), Math.min(max, 3.4e38))),
    leakyRelu: unary((tf, x, { alpha }) => tf.leakyRelu(x, alpha)),
    elu: (tf, [x], { alpha }) =>
      tf.add(tf.relu(x!), tf.mul(alpha, tf.neg(tf.relu(tf.neg(tf.sub(tf.exp(tf.minimum(x!, tf.zerosLike(x!))), 1)))))),
    sigmoid: unary((tf, x) => tf.sigmoid(x)),
    tanh: unary((tf, x) => tf.tanh(x)),
    hardSigmoid: unary((tf, x, { alpha, beta }) => tf.clipByValue(tf.add(tf.mul(x, alpha), beta), 0, 1)),
    hardSwish: unary(hardSwish),
    gelu: (tf, [x], { approximate }) => (approximate ? null : tf.mul(tf.mul(x!, 0.5), tf.add(1, tf.erf(tf.div(x!, Math.SQRT2))))),
    silu: unary((tf, x, { alpha }) => tf.mul(x, tf.sigmoid(tf.mul(x, alpha)))),
    mish: unary((tf, x) => tf.mul(x, tf.tanh(tf.softplus(x)))),
    softplus: unary((tf, x) => tf.softplus(x)),
    softsign: unary((tf, x) => tf.div(x, tf.add(1, tf.abs(x)))),
    exp: unary((tf, x) => tf.exp(x)),
    log: unary((tf, x) => tf.log(x)),
    sqrt: unary((tf, x) => tf.sqrt(x)),
    reciprocal: unary((tf, x) => tf.reciprocal(x)),
    abs: unary((tf, x) => tf.abs(x)),
    neg: unary((tf, x) => tf.neg(x)),
    erf: unary((tf, x) => tf.erf(x)),
    sin: unary((tf, x) => tf.sin(x)),
    cos: unary((tf, x) => tf.cos(x)),
    sign: unary((tf, x) => tf.sign(x)),
    floor: unary((tf, x) => tf.floor(x)),
    ceil: unary((tf, x) => tf.ceil(x)),
    round,
    add: binary((tf, x, y) => tf.add(x, y)),
    sub: binary((tf, x, y) => tf.sub(x, y)),
    mul: binary((tf, x, y) => tf.mul(x, y)),
    div: binary((tf, x, y) => tf.div(x, y)),
    pow: binary((tf, x, y) => tf.pow(x, y)),
    mod: binary((tf, x, y) => tf.mod(x, y)),
    minimum: (tf, xs, _, node) => tf.minimum(...(xs.map((x) => wide(tf, x, outShape(node, xs))) as [T, T])),
    maximum: (tf, xs, _, node) => tf.maximum(...(xs.map((x) => wide(tf, x, outShape(node, xs))) as [T, T])),
    greater: binary((tf, x, y) => tf.greater(x, y)),
    less: binary((tf, x, y) => tf.less(x, y)),
    greaterOrEqual: binary((tf, x, y) => tf.greaterEqual(x, y)),
    lessOrEqual: binary((tf, x, y) => tf.lessEqual(x, y)),
    equal: binary((tf, x, y) => tf.equal(x, y)),
    prelu: binary((tf, x, y) => tf.prelu(x, y)),
    where: (tf, xs, _, node) => {
      const [c, x, y] = xs as [T, T, T]
      const shape = outShape(node, xs)
      return tf.where(tf.cast(wide(tf, tf.cast(c, 'float32'), shape), 'bool'), wide(tf, x, shape), wide(tf, y, shape))
    },
    cast: (tf, [x], { to }) => (to === 'float32' ? tf.cast(x!, 'float32') : null),
    reshape: (tf, [x], { shape }: core.ReshapeAttrs) =>
      tf.reshape(
        x!,
        shape.map((d, i) => (d === 0 ? x!.shape[i]! : d)),
      ),
    expand: (tf, [x], _, node) => (node.attrs.shape ? wide(tf, x!, outShape(node, [x!])) : null),
    transpose: (tf, [x], { perm }) => tf.transpose(x!, [...perm]),
    concat: (tf, xs, { axis }) => tf.concat(xs, axis),
    split: (tf, [x], { axis, sizes }) => tf.split(x!, [...sizes], axis),
    slice: (tf, [x], a: core.SliceAttrs) => {
      if (a.steps.some((s) => s !== 1)) return null
      const begin = x!.shape.map(() => 0)
      const size = [...x!.shape]
      a.axes.forEach((axis, i) => {
        const k = axis < 0 ? axis + x!.rank : axis
        const d = x!.shape[k]!
        const at = (v: number): number => Math.min(Math.max(v < 0 ? v + d : v, 0), d)
        begin[k] = at(a.starts[i]!)
        size[k] = Math.max(0, at(a.ends[i]!) - begin[k]!)
      })
      return tf.slice(x!, begin, size)
    },
    pad: (tf, [x], { pads, mode, value }: core.PadAttrs) => {
      const rank = x!.rank
      const each = x!.shape.map((_, i): [number, number] => [pads[i]!, pads[i + rank]!])
      if (pads.some((p) => p < 0) || mode !== 'constant') return null
      return tf.pad(x!, each, value)
    },
    gather: (tf, [x, indices], { axis }) => {
      const size = x!.shape[axis < 0 ? axis + x!.rank : axis]!
      const at = tf.tensor(
        Int32Array.from(indices!.dataSync(), (i) => (i < 0 ? i + size : i)),
        indices!.shape,
        'int32',
      )
      return tf.gather(x!, at, axis)
    },
    tile: (tf, [x], { repeats }) => tf.tile(x!, [...repeats]),
    reduceSum: reduce((tf, x, axes, keep) => tf.sum(x, axes, keep)),
    reduceMean: reduce((tf, x, axes, keep) => tf.mean(x, axes, keep)),
    reduceMax: reduce((tf, x, axes, keep) => tf.max(x, axes, keep)),
    reduceMin: reduce((tf, x, axes, keep) => tf.min(x, axes, keep)),
    reduceSumSquare: reduce((tf, x, axes, keep) => tf.sum(tf.square(x), axes, keep)),
    reduceL1: reduce((tf, x, axes, keep) => tf.sum(tf.abs(x), axes, keep)),
    reduceLogSumExp: reduce((tf, x, axes, keep) => tf.logSumExp(x, axes, keep)),
    conv,
    convTranspose,
    dense: (tf, [x, w, b]) => {
      const K = w!.shape[1]!
      const rows = tf.reshape(x!, [-1, K]) as Core.Tensor2D
      const y = tf.matMul(rows, w as Core.Tensor2D, false, true)
      return tf.reshape(b ? tf.add(y, b) : y, [...x!.shape.slice(0, -1), w!.shape[0]!])
    },
    matmul: (tf, [x, y], _, node) => {
      const batch = outShape(node, [x!, y!]).slice(0, -2)
      return tf.matMul(wide(tf, x!, [...batch, ...x!.shape.slice(-2)]), wide(tf, y!, [...batch, ...y!.shape.slice(-2)]))
    },
    maxPool,
    averagePool,
    globalAveragePool: unary((tf, x) => tf.mean(x, spatial(x), true)),
    globalMaxPool: unary((tf, x) => tf.max(x, spatial(x), true)),
    batchNorm: (tf, [x, s, o, m, v], { epsilon }) => {
      const of = (t: T): T => channels(tf, t, x!.rank)
      return tf.add(tf.mul(tf.div(tf.sub(x!, of(m!)), tf.sqrt(tf.add(of(v!), epsilon))), of(s!)), of(o!))
    },
    layerNorm: (tf, [x, s, o], { axis, epsilon }) => {
      const axes = x!.shape.map((_, i) => i).slice(axis < 0 ? axis + x!.rank : axis)
      const y = tf.mul(standardize(tf, x!, axes, epsilon), s!)
      return o ? tf.add(y, o) : y
    },
    instanceNorm: (tf, [x, s, o], { epsilon }) =>
      tf.add(tf.mul(standardize(tf, x!, spatial(x!), epsilon), channels(tf, s!, x!.rank)), channels(tf, o!, x!.rank)),
    softmax: (tf, [x], { axis }) => {
      const top = tf.max(x!, axis, true)
      const e = tf.exp(tf.sub(x!, top))
      return tf.div(e, tf.sum(e, axis, true))
    },
    logSoftmax: (tf, [x], { axis }) => tf.sub(x!, tf.logSumExp(x!, axis, true)),
    fakeQuant,
    depthToSpace: (tf, [x], { block: k, mode }) => {
      const [n, c, h, w] = x!.shape as [number, number, number, number]
      const depth = c / (k * k)
      const open = tf.reshape(x!, mode === 'DCR' ? [n, k, k, depth, h, w] : [n, depth, k, k, h, w])
      return tf.reshape(tf.transpose(open, mode === 'DCR' ? [0, 3, 4, 1, 5, 2] : [0, 1, 4, 2, 5, 3]), [n, depth, h * k, w * k])
    },
    spaceToDepth: (tf, [x], { block: k }) => {
      const [n, c, h, w] = x!.shape as [number, number, number, number]
      const open = tf.reshape(x!, [n, c, h / k, k, w / k, k])
      return tf.reshape(tf.transpose(open, [0, 3, 5, 1, 2, 4]), [n, c * k * k, h / k, w / k])
    },
  } satisfies Record<string, Kernel>),
)
