// Folders whose weights bitsandbytes has quantised to NF4: what their config.json says of it, and their tensors. Beside a
// matrix's codes, u8 [n / 2, 1], stand the absmax of its blocks, the levels, and a small JSON object as bytes; with double
// quantisation the absmax is u8 and has an absmax, a map and an offset of its own. All that decides what the numbers mean is
// compared with what we do; what differs is refused.

import { isDeepStrictEqual } from 'node:util'
import { WhetstoneError } from '../base/errors.js'
import { toDeviceType } from '../io/dtype.js'
import { decodeUtf8, isJsonObject, parseJson } from '../io/json.js'
import type { ParameterSpec } from '../nn/parameters.js'
import type { QuantizedMatrices } from '../nn/quantized.js'
import { type BlockwiseTensors, blockwiseBlock, nf4Block, nf4Levels, nf4Shapes } from '../ops/index.js'
import { type Shape, sizeOf } from '../tensor/shape.js'
import { Tensor } from '../tensor/tensor.js'
import { flag, objectOf, refuse } from './config-fields.js'

/** How the weights of a folder are quantised. */
export interface StoredQuantization {
  readonly doubleQuant: boolean
}

/** Keys that decide what stored numbers mean, and what they must be where they are there. */
const required: Readonly<Record<string, unknown>> = { bnb_4bit_quant_type: 'nf4', bnb_4bit_quant_storage: 'uint8' }

/**
 * Reads `quantization_config` of a config.json.
 *
 * @throws WhetstoneError E_CONFIG for another method, or other numbers than NF4
 */
export function storedQuantization(value: unknown): StoredQuantization | undefined {
  if (value === undefined || value === null) return undefined
  const raw = objectOf(value, 'quantization_config')
  const { quant_method: method = raw.load_in_4bit === true ? 'bitsandbytes' : value } = raw
  if (method !== 'bitsandbytes' || raw.load_in_4bit !== true)
    refuse(
      'quantization_config',
      'none, or NF4 of bitsandbytes: other quantised checkpoints are not supported, take the model before it was quantised',
      method,
    )
  for (const [key, expected] of Object.entries(required))
    if ((raw[key] ?? (key === 'bnb_4bit_quant_type' ? 'fp4' : expected)) !== expected)
      refuse(`quantization_config.${key}`, JSON.stringify(expected), raw[key] ?? 'fp4')
  return { doubleQuant: flag(raw, 'bnb_4bit_use_double_quant', false) }
}

/** A weight file, as far as it is read here. */
export interface StoredFile {
  infoOf(name: string): { readonly dtype: string; readonly shape: Shape } | undefined
  read(name: string): Promise<Uint8Array>
}

/** The tensor whose presence says that a matrix is stored in four bits. */
export const stateName = (name: string): string => `${name}.quant_state.bitsandbytes__nf4`

/** What a file holds of a matrix in four bits. */
export function storedSpecs(
  { name, shape }: ParameterSpec,
  { doubleQuant }: StoredQuantization,
  file: StoredFile,
): ParameterSpec[] {
  const { codes, absmax } = nf4Shapes(shape)
  const nested = [
    { name: `${name}.nested_absmax`, shape: [Math.ceil(sizeOf(absmax) / blockwiseBlock)] },
    { name: `${name}.nested_quant_map`, shape: [256] },
  ]
  return [
    { name, shape: [...codes, 1] },
    { name: `${name}.absmax`, shape: absmax },
    { name: `${name}.quant_map`, shape: [nf4Levels.length] },
    { name: stateName(name), shape: file.infoOf(stateName(name))?.shape ?? [1] },
    ...(doubleQuant ? nested : []),
  ]
}

/** The members of a matrix's state that decide what its numbers mean. */
const stateOf = ({ shape }: ParameterSpec, { doubleQuant }: StoredQuantization): Readonly<Record<string, unknown>> => ({
  quant_type: 'nf4',
  blocksize: nf4Block,
  shape,
  ...(doubleQuant && { nested_blocksize: blockwiseBlock, nested_dtype: 'float32' }),
})

/** A state is a few words; what a file claims must not decide what is parsed. */
const mostStateBytes = 65536

/** Reads tensors of a file, each of the one type that it may have. */
const readerOf = (file: StoredFile, where: string) => {
  const fail = (code: 'E_DTYPE' | 'E_NONFINITE' | 'E_MISMATCH', name: string, text: string): never => {
    throw new WhetstoneError(code, `${where}: ${name}`, text)
  }
  const bytes = async (name: string, dtype = 'U8'): Promise<Uint8Array> => {
    const got = file.infoOf(name)?.dtype
    return got === dtype ? file.read(name) : fail('E_DTYPE', name, `expected ${dtype}, got ${got}`)
  }
  return {
    bytes,
    floats: async (name: string): Promise<Float32Array> => {
      const values = toDeviceType(await bytes(name, 'F32'), 'F32', 'f32', name) as Float32Array
      return values.every(Number.isFinite) ? values : fail('E_NONFINITE', name, 'expected finite numbers, found others')
    },
    state: async (name: string): Promise<Readonly<Record<string, unknown>>> => {
      const size = sizeOf(file.infoOf(name)?.shape ?? [])
      if (size > mostStateBytes) fail('E_MISMATCH', name, `expected at most ${mostStateBytes} bytes, got ${size}`)
      const state = parseJson(decodeUtf8(await bytes(name), name), `${where}: ${name}`)
      return isJsonObject(state) ? state : {}
    },
    expectSame: (name: string, got: unknown, expected: unknown): void => {
      if (isDeepStrictEqual(got, expected)) return
      const [wanted, found] = [expected, got].map((value) => String(JSON.stringify(value)).slice(0, 120))
      fail('E_MISMATCH', name, `expected ${wanted}, got ${found}`)
    },
  }
}

/**
 * Reads matrices that are stored in four bits.
 *
 * @throws WhetstoneError E_DTYPE, E_FORMAT, E_NONFINITE; E_MISMATCH for other blocks, levels or maps than ours
 */
export async function readStored(
  file: StoredFile,
  { specs, byName }: QuantizedMatrices,
  quantization: StoredQuantization,
  where: string,
): Promise<void> {
  const { bytes, floats, state, expectSame } = readerOf(file, where)
  /** Of the first matrix: all must have the same. */
  let map: Float32Array | undefined
  const readNested = async (name: string, to: BlockwiseTensors, offset: unknown): Promise<void> => {
    const own = await floats(`${name}.nested_quant_map`)
    map ??= own
    expectSame(`${name}.nested_quant_map`, own, map)
    if (typeof offset !== 'number') expectSame(`${stateName(name)}: nested_offset`, offset, 'a number')
    to.codes.write(await bytes(`${name}.absmax`))
    to.absmax.write(await floats(`${name}.nested_absmax`))
    to.map.write(own)
    to.offset.write(Float32Array.of(Number(offset)))
  }
  for (const spec of specs) {
    const { name } = spec
    const own = await state(stateName(name))
    for (const [key, expected] of Object.entries(stateOf(spec, quantization)))
      expectSame(`${stateName(name)}: ${key}`, own[key], expected)
    expectSame(`${name}.quant_map`, Array.from(await floats(`${name}.quant_map`)), nf4Levels)
    const matrix = byName.get(name)
    matrix?.codes.write(await bytes(name))
    if (matrix?.absmax instanceof Tensor) matrix.absmax.write(await floats(`${name}.absmax`))
    else if (matrix !== undefined) await readNested(name, matrix.absmax, own.nested_offset)
  }
}
