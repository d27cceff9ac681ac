// Writes packages/tflite/src/format/schema.gen.ts: the tables, unions and enums of the TFLite format (schema version 3) as data.
// The facts come from the Python bindings that flatc makes of the schema, `schema_py_generated.py` in PyPI's package ai-edge-litert:
//   node scripts/gen-tflite-schema.mjs PATH/TO/ai_edge_litert/schema_py_generated.py
import { readFileSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'

const source = process.argv[2]
if (!source) {
  console.error('usage: node scripts/gen-tflite-schema.mjs schema_py_generated.py')
  process.exit(2)
}
const text = readFileSync(source, 'utf8')
const classes = new Map([...text.matchAll(/^class (\w+)\(object\):\n([\s\S]*?)(?=^class |^def |$(?![\s\S]))/gm)].map((m) => [m[1], m[2]]))

/** Names of flatbuffers' Python bindings → scalar types. */
const SCALARS = {
  Bool: 'bool',
  Int8: 'i8',
  Uint8: 'u8',
  Int16: 'i16',
  Uint16: 'u16',
  Int32: 'i32',
  Uint32: 'u32',
  Int64: 'i64',
  Uint64: 'u64',
  Float32: 'f32',
  Float64: 'f64',
}
const ARRAYS = {
  bool: 'Uint8Array',
  i8: 'Int8Array',
  u8: 'Uint8Array',
  i16: 'Int16Array',
  u16: 'Uint16Array',
  i32: 'Int32Array',
  u32: 'Uint32Array',
  i64: 'BigInt64Array',
  u64: 'BigUint64Array',
  f32: 'Float32Array',
  f64: 'Float64Array',
}
const camel = (s) => s[0].toLowerCase() + s.slice(1)

const enums = []
const unions = []
const tables = []
for (const [name, body] of classes) {
  if (name.endsWith('T') && classes.has(name.slice(0, -1))) continue
  const members = [...body.matchAll(/^ {4}(\w+) = (-?\d+)$/gm)].map((m) => [m[1], Number(m[2])])
  if (members.length > 0 && !body.includes('__slots__')) {
    if (text.includes(`def ${name}Creator(`)) unions.push([name, members.map(([m]) => (m === 'NONE' ? null : m))])
    else enums.push([name, members])
    continue
  }
  const slots = [
    ...text.matchAll(
      new RegExp(`^def ${name}Add(\\w+)\\(builder, \\w+\\):\\n\\s+builder\\.Prepend(\\w+)Slot\\((\\d+), (?:.*), (\\S+)\\)$`, 'gm'),
    ),
  ]
  const fields = slots
    .map(([, field, kind, slot, fallback]) => {
      const at = Number(slot)
      if (kind !== 'UOffsetTRelative')
        return { at, name: camel(field), type: SCALARS[kind], fallback: fallback === 'True' ? 1 : Number(fallback) || 0 }
      // What the offset leads to is told by the accessor.
      const accessor = new RegExp(`^ {4}def ${field}\\(self(, j)?\\):\\n([\\s\\S]*?)(?=^ {4}# |^ {4}def )`, 'm').exec(`${body}    # `)
      const vector = accessor[1] !== undefined
      const inner = accessor[2]
      const scalar = /number_types\.(\w+)Flags, a \+/.exec(inner)?.[1]
      const object = /obj = (\w+)\(\)/.exec(inner)?.[1]
      const base =
        vector && scalar
          ? SCALARS[scalar]
          : object && object !== 'Table'
            ? object
            : inner.includes('.String(')
              ? 'string'
              : /obj = Table/.test(inner)
                ? `|${unionOf(name, field)}`
                : null
      if (!base) throw new Error(`${name}.${field}: cannot tell its type`)
      return { at, name: camel(field), type: vector ? `[${base}]` : base }
    })
    .sort((a, b) => a.at - b.at)
  // Slots of deprecated fields have no accessors any more; they keep their place.
  const last = fields.at(-1)?.at ?? -1
  tables.push([name, Array.from({ length: last + 1 }, (_, i) => fields.find((f) => f.at === i) ?? { at: i, name: '', type: 'u8' })])
}

/** The union that a field holds: its members are in the type comment of the object class. */
function unionOf(table, field) {
  const members = [
    ...new RegExp(`self\\.${camel(field)} = \\w+ {2}# type: Union\\[None, (.*)\\]`).exec(classes.get(`${table}T`))[1].matchAll(/'(\w+)T'/g),
  ].map((m) => m[1])
  const own = [...text.matchAll(/^def (\w+)Creator\(unionType, table\):\n([\s\S]*?)^ {4}return None$/gm)].find(([, , body]) => {
    const all = [...body.matchAll(/return (\w+)T\.InitFromBuf/g)].map((m) => m[1])
    return all.length === members.length && all.every((m, i) => m === members[i])
  })
  if (!own) throw new Error(`${table}.${field}: no such union`)
  return own[1]
}

const tsType = (t) => {
  if (t.startsWith('|')) return 'object'
  const vector = /^\[(.*)\]$/.exec(t)?.[1]
  if (vector) return ARRAYS[vector] ?? (vector === 'string' ? 'readonly string[]' : `readonly ${vector}[]`)
  if (t === 'bool') return 'boolean'
  if (t === 'i64' || t === 'u64') return 'bigint'
  return t === 'string' ? 'string' : ARRAYS[t] ? 'number' : t
}
const lines = [
  `// Written by scripts/${basename(import.meta.filename ?? 'gen-tflite-schema.mjs')}; do not edit.`,
  '',
  '/** Fields of each table by slot: name:type, =default where that is not zero. `[x]` is a vector, `|U` a union whose type is the field before. */',
  'export const tables = {',
  ...tables.map(([n, f]) => `  ${n}: [${f.map((x) => `'${x.name}:${x.type}${x.fallback ? `=${x.fallback}` : ''}'`).join(', ')}],`),
  '} as const satisfies Record<string, readonly string[]>',
  '',
  '/** Members of each union, by type number; null is none. */',
  'export const unions: Readonly<Record<string, readonly (keyof typeof tables | null)[]>> = {',
  ...unions.map(([n, m]) => `  ${n}: [${m.map((x) => (x ? `'${x}'` : 'null')).join(', ')}],`),
  '}',
  '',
  ...enums.flatMap(([n, m]) => [`export const ${n} = { ${m.map(([k, v]) => `${k}: ${v}`).join(', ')} } as const`]),
  '',
  ...tables.flatMap(([n, f]) => [
    `export interface ${n} {`,
    ...f.filter((x) => x.name).map((x) => `  readonly ${x.name}?: ${tsType(x.type)} | undefined`),
    '}',
    '',
  ]),
  '/** The TypeScript type of each table, by name. */',
  'export interface Tables {',
  ...tables.map(([n]) => `  ${n}: ${n}`),
  '}',
  '',
]
writeFileSync(new URL('../packages/tflite/src/format/schema.gen.ts', import.meta.url), lines.join('\n'))
console.log(`${tables.length} tables, ${unions.length} unions, ${enums.length} enums`)
