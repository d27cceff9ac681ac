import { numbersOf, type Tensor } from '@dqc/core'

/** A tensor as NumPy stores it (NPY format 1.0): little-endian single precision, row by row. */
export function writeNpy(t: Tensor): Uint8Array {
  const shape = `(${t.shape.join(', ')}${t.shape.length === 1 ? ',' : ''})`
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`
  // Magic, version, length and header fill a multiple of 64 bytes, the last of them a line end.
  const length = 64 * Math.ceil((10 + text.length + 1) / 64) - 10
  const head = new TextEncoder().encode(`\x93NUMPY\x01\x00??${text.padEnd(length - 1)}\n`.slice(1))
  const bytes = new Uint8Array(10 + length + 4 * t.data.length)
  bytes[0] = 0x93
  bytes.set(head, 1)
  const view = new DataView(bytes.buffer)
  view.setUint16(8, length, true)
  const values = numbersOf(t)
  for (let i = 0; i < values.length; i++) view.setFloat32(10 + length + 4 * i, values[i]!, true)
  return bytes
}
