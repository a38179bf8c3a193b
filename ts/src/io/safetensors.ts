// safetensors files, read without trust: the header is checked whole before a byte of data is touched, and nothing
// larger than the file is ever allocated. Writing is deterministic and atomic. Also folders of weights, in one file or
// in shards with an index. Format: an 8-byte length, a JSON header, raw little-endian data without holes.

import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { WhetstoneError } from '../base/errors.js'
import { fileTypeBytes } from './dtype.js'
import { attempt, exists, fileSize, insideFolder, writeAtomic } from './files.js'
import { decodeUtf8, parseJson, readJsonObject } from './json.js'

/** Where a tensor lies. */
export interface TensorInfo {
  readonly dtype: string
  readonly shape: readonly number[]
  /** Bytes from the start of the data section. */
  readonly begin: number
  readonly end: number
}

/** Tensors by name, and their bytes on demand. */
export interface TensorFile {
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** The bytes of a tensor in a buffer of their own. */
  read(name: string): Promise<Uint8Array>
  close(): Promise<void>
}

/** A tensor to write. */
export interface TensorEntry {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data: Uint8Array
}

const headerLimit = 100_000_000
const countLimit = 100_000

/**
 * Opens a file and checks its header.
 *
 * @throws WhetstoneError E_IO, E_TORN (shorter than it says), E_LIMIT, E_FORMAT naming the tensor
 */
export async function openSafetensors(path: string): Promise<TensorFile> {
  const size = await fileSize(path)
  const handle = await attempt('open', path, () => open(path, 'r'))
  const readAt = async (position: number, length: number): Promise<Uint8Array> => {
    const bytes = new Uint8Array(length)
    const { bytesRead } = await attempt('read', path, () => handle.read(bytes, 0, length, position))
    if (bytesRead !== length)
      throw new WhetstoneError('E_TORN', path, `expected ${length} bytes at ${position}, got ${bytesRead}`)
    return bytes
  }
  try {
    if (size < 8) throw new WhetstoneError('E_TORN', path, `expected at least 8 bytes, got ${size}`)
    const headerSize = new DataView((await readAt(0, 8)).buffer).getBigUint64(0, true)
    if (headerSize > BigInt(headerLimit))
      throw new WhetstoneError('E_LIMIT', path, `expected a header of at most ${headerLimit} bytes, got ${headerSize}`)
    const dataStart = 8 + Number(headerSize)
    if (dataStart > size)
      throw new WhetstoneError('E_TORN', path, `the header needs ${dataStart} bytes, the file has ${size}`)
    const header = parseJson(decodeUtf8(await readAt(8, Number(headerSize)), path), path)
    const tensors = checkHeader(header, size - dataStart, path)
    const read = async (name: string): Promise<Uint8Array> => {
      const info = tensors.get(name)
      if (info === undefined) throw new WhetstoneError('E_MISMATCH', path, `there is no tensor '${name}'`)
      return readAt(dataStart + info.begin, info.end - info.begin)
    }
    return { tensors, read, close: () => attempt('close', path, () => handle.close()) }
  } catch (error) {
    await handle.close()
    throw error
  }
}

function checkHeader(header: unknown, dataBytes: number, path: string): Map<string, TensorInfo> {
  if (typeof header !== 'object' || header === null || Array.isArray(header))
    throw new WhetstoneError('E_FORMAT', path, 'expected a JSON object as header')
  const names = Object.keys(header).filter((name) => name !== '__metadata__')
  if (names.length > countLimit)
    throw new WhetstoneError('E_LIMIT', path, `expected at most ${countLimit} tensors, got ${names.length}`)
  const tensors = new Map<string, TensorInfo>()
  for (const name of names) tensors.set(name, checkTensor(name, (header as Record<string, unknown>)[name], path))
  let at = 0
  for (const [name, { begin, end }] of [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== at)
      throw new WhetstoneError(
        'E_FORMAT',
        path,
        `tensor '${name}' begins at ${begin}, expected ${at}: data must not overlap or leave holes`,
      )
    at = end
  }
  if (at > dataBytes) throw new WhetstoneError('E_TORN', path, `expected ${at} bytes of data, got ${dataBytes}`)
  if (at < dataBytes) throw new WhetstoneError('E_FORMAT', path, `expected ${at} bytes of data, got ${dataBytes}`)
  return tensors
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

function checkTensor(name: string, value: unknown, path: string): TensorInfo {
  const refuse = (what: string): never => {
    throw new WhetstoneError('E_FORMAT', path, `tensor '${name.slice(0, 120)}': ${what}`)
  }
  if (name === '' || name.length > 1024) refuse('expected a name of 1 to 1024 characters')
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>
  const width =
    typeof dtype === 'string' && Object.hasOwn(fileTypeBytes, dtype)
      ? fileTypeBytes[dtype]
      : refuse(`unknown dtype ${JSON.stringify(dtype)}`)
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every(isSize))
    refuse('expected a shape of at most 8 whole numbers')
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) refuse('expected two data offsets')
  const [begin, end] = offsets as [number, number]
  const bytes = (shape as number[]).reduce((product, length) => product * BigInt(length), BigInt(width))
  if (bytes !== BigInt(end) - BigInt(begin))
    refuse(`shape [${shape}] of ${dtype} needs ${bytes} bytes, the offsets give ${end - begin}`)
  return { dtype: dtype as string, shape: shape as number[], begin, end }
}

/** Writes tensors in the order given. The header is padded to a multiple of 8 bytes; equal input gives equal bytes. */
export async function writeSafetensors(
  path: string,
  entries: readonly TensorEntry[],
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  await writeAtomic(path, safetensorsChunks(entries, metadata))
}

/** The bytes of a file, in pieces. */
export function safetensorsChunks(
  entries: readonly TensorEntry[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array[] {
  const header: Record<string, unknown> = metadata === undefined ? {} : { __metadata__: metadata }
  let at = 0
  for (const { name, dtype, shape, data } of entries) {
    header[name] = { dtype, shape, data_offsets: [at, at + data.byteLength] }
    at += data.byteLength
  }
  const text = JSON.stringify(header)
  const bytes = new TextEncoder().encode(
    text.padEnd(Math.ceil(Buffer.byteLength(text) / 8) * 8 - Buffer.byteLength(text) + text.length),
  )
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(bytes.byteLength), true)
  return [length, bytes, ...entries.map((entry) => entry.data)]
}

/**
 * The weights of a model folder: model.safetensors, or the shards of model.safetensors.index.json.
 *
 * @throws WhetstoneError E_IO, E_PATH, E_FORMAT, E_MISMATCH when index and shards disagree
 */
export async function openWeights(folder: string): Promise<TensorFile> {
  const single = join(folder, 'model.safetensors')
  const index = join(folder, 'model.safetensors.index.json')
  if ((await exists(single)) || !(await exists(index))) return openSafetensors(single)
  const { weight_map: map } = await readJsonObject(index)
  if (typeof map !== 'object' || map === null)
    throw new WhetstoneError('E_FORMAT', index, 'expected an object weight_map')
  return joinShards(folder, index, new Map(Object.entries(map as Record<string, string>)))
}

async function joinShards(folder: string, index: string, map: ReadonlyMap<string, string>): Promise<TensorFile> {
  const files = new Map<string, TensorFile>()
  const close = async () => {
    for (const file of files.values()) await file.close()
  }
  try {
    for (const name of new Set(map.values()))
      files.set(name, await openSafetensors(await insideFolder(folder, String(name))))
    const tensors = new Map<string, TensorInfo>()
    for (const [shard, file] of files)
      for (const [name, info] of file.tensors) {
        if (map.get(name) !== shard)
          throw new WhetstoneError(
            'E_MISMATCH',
            index,
            `shard ${shard} holds '${name}', which the index places in ${map.get(name) ?? 'no shard'}`,
          )
        tensors.set(name, info)
      }
    const absent = [...map.keys()].find((name) => !tensors.has(name))
    if (absent !== undefined)
      throw new WhetstoneError(
        'E_MISMATCH',
        index,
        `the index names '${absent}', which shard ${map.get(absent)} does not hold`,
      )
    const read = (name: string) => {
      const file = files.get(map.get(name) ?? '')
      if (file === undefined) throw new WhetstoneError('E_MISMATCH', folder, `there is no tensor '${name}'`)
      return file.read(name)
    }
    return { tensors, read, close }
  } catch (error) {
    await close()
    throw error
  }
}
