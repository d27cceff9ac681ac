import { errors } from '@dqc/core'
import { Builder } from 'flatbuffers'
import { type Tables, tables, unions } from './schema.gen.ts'

/** One field of a table, told by the schema. */
interface Field {
  readonly name: string
  readonly kind: 'scalar' | 'string' | 'table' | 'union' | 'vector'
  /** The scalar's, table's, union's or element's type. */
  readonly of: string
  readonly fallback: number
}

const SCALARS = {
  bool: { size: 1, array: Uint8Array },
  i8: { size: 1, array: Int8Array },
  u8: { size: 1, array: Uint8Array },
  i16: { size: 2, array: Int16Array },
  u16: { size: 2, array: Uint16Array },
  i32: { size: 4, array: Int32Array },
  u32: { size: 4, array: Uint32Array },
  i64: { size: 8, array: BigInt64Array },
  u64: { size: 8, array: BigUint64Array },
  f32: { size: 4, array: Float32Array },
  f64: { size: 8, array: Float64Array },
} as const
type Scalar = keyof typeof SCALARS
const isScalar = (t: string): t is Scalar => t in SCALARS
type TableName = keyof typeof tables
type Decoded = Record<string, unknown>

const parseField = (text: string): Field => {
  const [, name, type, fallback] = /^(\w*):([^=]+)(?:=(.*))?$/.exec(text) as unknown as [string, string, string, string?]
  const vector = /^\[(.*)\]$/.exec(type)?.[1]
  const kind = vector ? 'vector' : type.startsWith('|') ? 'union' : type === 'string' ? 'string' : isScalar(type) ? 'scalar' : 'table'
  return { name, kind, of: vector ?? type.replace('|', ''), fallback: Number(fallback ?? 0) }
}
const fields = new Map<string, readonly Field[]>(Object.entries(tables).map(([n, f]) => [n, f.map(parseField)]))

const utf8 = new TextDecoder()

/** Bytes that a decoded value may take up beyond the file itself, per byte of file: vectors may be shared, but not without end. */
const COPIES = 4
/** Tables nest at most this deep in the schema; a file that goes deeper runs in circles. */
const DEPTH = 32

/**
 * Decodes and verifies a FlatBuffer: every offset, alignment, vtable and length is checked before it is followed (the checks of flatc's
 * verifier). Absent scalars have their defaults. Vectors of bytes share the file's memory. Throws CompileError saying where it breaks.
 */
export function decode<T extends keyof Tables>(bytes: Uint8Array, root: T, identifier: string): Tables[T] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const size = bytes.length
  const bad = (what: string, path: string) => errors.badModel(what, path, 'the file is damaged')
  let budget = COPIES * size + 4096
  const spend = (n: number, path: string): void => {
    budget -= n
    if (budget < 0) throw bad('the same data is referred to over and over', path)
  }
  const within = (at: number, n: number, align: number, path: string): number => {
    if (at < 0 || at + n > size) throw bad(`offset ${at} leads outside the file of ${size} bytes`, path)
    if (at % align !== 0) throw bad(`offset ${at} is not aligned to ${align} bytes`, path)
    return at
  }
  const indirect = (at: number, path: string): number => {
    within(at, 4, 4, path)
    const offset = view.getUint32(at, true)
    if (offset === 0 || offset > 0x7fffffff) throw bad(`offset ${offset} at ${at} leads nowhere`, path)
    return at + offset
  }
  const scalar = (type: Scalar, at: number, path: string): number | bigint | boolean => {
    within(at, SCALARS[type].size, SCALARS[type].size, path)
    switch (type) {
      case 'bool':
        return view.getUint8(at) !== 0
      case 'i8':
        return view.getInt8(at)
      case 'u8':
        return view.getUint8(at)
      case 'i16':
        return view.getInt16(at, true)
      case 'u16':
        return view.getUint16(at, true)
      case 'i32':
        return view.getInt32(at, true)
      case 'u32':
        return view.getUint32(at, true)
      case 'i64':
        return view.getBigInt64(at, true)
      case 'u64':
        return view.getBigUint64(at, true)
      case 'f32':
        return view.getFloat32(at, true)
      case 'f64':
        return view.getFloat64(at, true)
    }
  }
  const lengthAt = (at: number, each: number, path: string): number => {
    within(at, 4, 4, path)
    const n = view.getUint32(at, true)
    if (n * each > size - at - 4) throw bad(`a vector of ${n} elements leads outside the file`, path)
    return n
  }
  const string = (at: number, path: string): string => {
    const n = lengthAt(at, 1, path)
    spend(n, path)
    return utf8.decode(bytes.subarray(at + 4, at + 4 + n))
  }
  const vector = (of: string, at: number, path: string, depth: number): unknown => {
    if (isScalar(of)) {
      const { size: each, array } = SCALARS[of]
      const n = lengthAt(at, each, path)
      if (n > 0) within(at + 4, n * each, each, path)
      const data = bytes.subarray(at + 4, at + 4 + n * each)
      if (of === 'u8') return data
      spend(n * each, path)
      const copy = data.slice()
      return new array(copy.buffer, 0, n)
    }
    const n = lengthAt(at, 4, path)
    spend(8 * n, path)
    return Array.from({ length: n }, (_, i) => {
      const to = indirect(at + 4 + 4 * i, `${path}[${i}]`)
      return of === 'string' ? string(to, `${path}[${i}]`) : table(of, to, `${path}[${i}]`, depth)
    })
  }
  const table = (name: string, at: number, path: string, depth: number): Decoded => {
    if (depth > DEPTH) throw bad('tables are nested too deeply', path)
    spend(16, path)
    within(at, 4, 4, path)
    const vtable = at - view.getInt32(at, true)
    within(vtable, 4, 2, path)
    const vtableSize = view.getUint16(vtable, true)
    const tableSize = view.getUint16(vtable + 2, true)
    if (vtableSize < 4 || vtableSize % 2 !== 0 || tableSize < 4) throw bad('a broken vtable', path)
    within(vtable, vtableSize, 2, path)
    within(at, tableSize, 4, path)
    const result: Decoded = {}
    let previous = 0
    fields.get(name)!.forEach((f, i) => {
      const entry = 4 + 2 * i < vtableSize ? view.getUint16(vtable + 4 + 2 * i, true) : 0
      const where = `${path}.${f.name}`
      const width = f.kind === 'scalar' ? SCALARS[f.of as Scalar].size : 4
      if (entry !== 0 && entry + width > tableSize) throw bad('a field lies outside its table', where)
      if (f.name !== '' && f.kind === 'scalar')
        result[f.name] =
          entry !== 0
            ? scalar(f.of as Scalar, at + entry, where)
            : f.of === 'bool'
              ? f.fallback !== 0
              : f.of.endsWith('64') && f.of !== 'f64'
                ? BigInt(f.fallback)
                : f.fallback
      else if (f.name !== '' && entry !== 0) {
        const to = indirect(at + entry, where)
        if (f.kind === 'string') result[f.name] = string(to, where)
        else if (f.kind === 'vector') result[f.name] = vector(f.of, to, where, depth + 1)
        else {
          const member = f.kind === 'union' ? unions[f.of]![previous] : f.of
          if (member === undefined) throw bad(`${previous} is no member of ${f.of}`, where)
          if (member !== null) result[f.name] = table(member, to, where, depth + 1)
        }
      }
      previous = Number(result[f.name] ?? 0)
    })
    return result
  }
  if (size < 12) throw bad(`a file of ${size} bytes is too short`, identifier)
  if (utf8.decode(bytes.subarray(4, 8)) !== identifier) throw bad(`the identifier ${identifier} is missing`, 'bytes 4 … 7')
  return table(root, indirect(0, root), root, 0) as Tables[T]
}

/** Vectors of bytes start at multiples of this, so that runtimes may read weights in place (the schema's force_align). */
const DATA_ALIGNMENT = 16

/** Encodes a table as a FlatBuffer. Scalars at their defaults and undefined fields are left out; equal strings are stored once. */
export function encode<T extends keyof Tables>(value: Tables[T], root: T, identifier: string): Uint8Array {
  const b = new Builder(1 << 16)
  const slots: Record<Scalar, (slot: number, v: any, fallback: number) => void> = {
    bool: (slot, v, fallback) => b.addFieldInt8(slot, v ? 1 : 0, fallback),
    i8: (slot, v, fallback) => b.addFieldInt8(slot, v, fallback),
    u8: (slot, v, fallback) => b.addFieldInt8(slot, v, fallback),
    i16: (slot, v, fallback) => b.addFieldInt16(slot, v, fallback),
    u16: (slot, v, fallback) => b.addFieldInt16(slot, v, fallback),
    i32: (slot, v, fallback) => b.addFieldInt32(slot, v, fallback),
    u32: (slot, v, fallback) => b.addFieldInt32(slot, v, fallback),
    i64: (slot, v, fallback) => b.addFieldInt64(slot, BigInt(v), BigInt(fallback)),
    u64: (slot, v, fallback) => b.addFieldInt64(slot, BigInt(v), BigInt(fallback)),
    f32: (slot, v, fallback) => b.addFieldFloat32(slot, v, fallback),
    f64: (slot, v, fallback) => b.addFieldFloat64(slot, v, fallback),
  }
  const vector = (of: string, v: any): number => {
    if (!isScalar(of)) {
      const offsets = (v as unknown[]).map((x) =>
        of === 'string' ? b.createSharedString(x as string) : table(of as TableName, x as Decoded),
      )
      b.startVector(4, offsets.length, 4)
      for (let i = offsets.length - 1; i >= 0; i--) b.addOffset(offsets[i]!)
      return b.endVector()
    }
    const { size, array } = SCALARS[of]
    const typed = v instanceof array ? v : (array as Float32ArrayConstructor).from(v)
    const raw = new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength)
    if (of === 'u8') {
      b.prep(DATA_ALIGNMENT, raw.length)
      return b.createByteVector(raw)
    }
    b.startVector(size, typed.length, size)
    // Bytes go in from the end; all machines that Node runs on are little-endian like the format.
    for (let i = raw.length - 1; i >= 0; i--) b.writeInt8(raw[i]!)
    return b.endVector()
  }
  const table = (name: TableName, v: Decoded): number => {
    const list = fields.get(name)!
    const offsets = list.map((f, i) => {
      const x = v[f.name]
      if (f.name === '' || x === undefined || f.kind === 'scalar') return 0
      if (f.kind === 'string') return b.createSharedString(x as string)
      if (f.kind === 'vector') return vector(f.of, x)
      const member = f.kind === 'union' ? unions[f.of]![v[list[i - 1]!.name] as number] : (f.of as TableName)
      return member ? table(member, x as Decoded) : 0
    })
    b.startObject(list.length)
    list.forEach((f, i) => {
      if (f.name === '' || v[f.name] === undefined) return
      if (f.kind === 'scalar') slots[f.of as Scalar](i, v[f.name], f.fallback)
      else if (offsets[i]) b.addFieldOffset(i, offsets[i]!, 0)
    })
    return b.endObject()
  }
  b.finish(table(root, value as Decoded), identifier)
  return b.asUint8Array().slice()
}
