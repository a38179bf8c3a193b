// Element types of safetensors files and their conversion to what a device stores. Pure functions over bytes and typed
// arrays; reading and writing files is safetensors.ts.

import { WhetstoneError } from '../base/errors.js'

/** Bytes per element of the file types that we read. */
export const fileTypeBytes: Readonly<Record<string, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
}

const bits = new Uint32Array(1)
const float = new Float32Array(bits.buffer)

const roundedBf16 = (u: number): number =>
  (u & 0x7fffffff) > 0x7f800000 ? (u >>> 16) | 0x40 : ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff

/** bf16 bits nearest to a float, ties to even; NaN stays NaN. */
export function bf16FromFloat(value: number): number {
  float[0] = value
  return roundedBf16(bits[0])
}

/** The float that bf16 bits stand for. */
export function floatFromBf16(half: number): number {
  bits[0] = half << 16
  return float[0]
}

/** The float that IEEE half-precision bits stand for. */
export function floatFromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >>> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/** bf16 bits of floats, each rounded to the nearest, ties to even. */
export function bf16FromF32(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const halves = new Uint16Array(values.length)
  for (let i = 0; i < words.length; i++) halves[i] = roundedBf16(words[i])
  return halves
}

/** The floats of bf16 bits; exact. */
export function f32FromBf16(halves: Uint16Array): Float32Array {
  const words = new Uint32Array(halves.length)
  for (let i = 0; i < halves.length; i++) words[i] = halves[i] << 16
  return new Float32Array(words.buffer)
}

let f16Table: Float32Array | undefined

/** The floats of IEEE half-precision bits; exact. */
export function f32FromF16(halves: Uint16Array): Float32Array {
  f16Table ??= Float32Array.from({ length: 65536 }, (_, half) => floatFromF16(half))
  const values = new Float32Array(halves.length)
  for (let i = 0; i < halves.length; i++) values[i] = f16Table[halves[i]]
  return values
}

const view = <A>(
  Type: new (buffer: ArrayBufferLike, offset: number, length: number) => A,
  bytes: Uint8Array,
  width: number,
): A => new Type(bytes.buffer, bytes.byteOffset, bytes.byteLength / width)

const toFloats: Readonly<Record<string, (bytes: Uint8Array) => Float32Array>> = {
  F64: (bytes) => Float32Array.from(view(Float64Array, bytes, 8)),
  F32: (bytes) => view(Float32Array, bytes, 4),
  F16: (bytes) => f32FromF16(view(Uint16Array, bytes, 2)),
  BF16: (bytes) => f32FromBf16(view(Uint16Array, bytes, 2)),
}

/**
 * Stored floating-point elements in the type of the device: bf16 as its bits.
 *
 * @param bytes aligned to the width of the file type
 * @throws WhetstoneError E_DTYPE for integers
 */
export function toDeviceType(
  bytes: Uint8Array,
  fileType: string,
  dtype: 'f32' | 'bf16',
  where: string,
): Float32Array | Uint16Array {
  if (fileType === 'BF16' && dtype === 'bf16') return view(Uint16Array, bytes, 2)
  const read = Object.hasOwn(toFloats, fileType) ? toFloats[fileType] : undefined
  if (read === undefined)
    throw new WhetstoneError('E_DTYPE', where, `expected one of ${Object.keys(toFloats).join(', ')}, got ${fileType}`)
  const values = read(bytes)
  return dtype === 'bf16' ? bf16FromF32(values) : values
}
