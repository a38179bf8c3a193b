// Element types of safetensors files and their conversion to what a device stores. Pure functions over bytes.

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

/** bf16 bits nearest to a float, ties to even; NaN stays NaN. */
export function bf16FromFloat(value: number): number {
  float[0] = value
  const u = bits[0]
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff
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

const view = <A>(
  Type: new (buffer: ArrayBufferLike, offset: number, length: number) => A,
  bytes: Uint8Array,
  width: number,
): A => new Type(bytes.buffer, bytes.byteOffset, bytes.byteLength / width)

const readers: Readonly<Record<string, (bytes: Uint8Array) => ArrayLike<number>>> = {
  F64: (bytes) => view(Float64Array, bytes, 8),
  F32: (bytes) => view(Float32Array, bytes, 4),
  F16: (bytes) => Float32Array.from(view(Uint16Array, bytes, 2), floatFromF16),
  BF16: (bytes) => Float32Array.from(view(Uint16Array, bytes, 2), floatFromBf16),
}

/**
 * Stored floating-point elements in the type of the device.
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
  const read = Object.hasOwn(readers, fileType) ? readers[fileType] : undefined
  if (read === undefined)
    throw new WhetstoneError('E_DTYPE', where, `expected one of ${Object.keys(readers).join(', ')}, got ${fileType}`)
  const values = read(bytes)
  if (dtype === 'bf16') return Uint16Array.from(values, bf16FromFloat)
  return values instanceof Float32Array ? values : Float32Array.from(values)
}
