// safetensors files, read without trust: the header is checked whole before a byte of data is touched, and nothing
// larger than the file is ever allocated. Writing is deterministic and atomic. Also folders of weights, in one file or
// in shards with an index. Format: an 8-byte length, a JSON header, raw little-endian data without holes.

import { join } from 'node:path'
import { WhetstoneError } from '../base/errors.js'
import { fileTypeBytes } from './dtype.js'
import { exists, insideFolder, type OpenFile, openRegular, readExactly, writeAtomic } from './files.js'
import { decodeUtf8, isJsonObject, lfsAdvice, lfsStart, parseJson, readJsonObject } from './json.js'
import { modelFile } from './model-folder.js'

/** Where a tensor lies. */
export interface TensorInfo {
  /** F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL. */
  readonly dtype: string
  readonly shape: readonly number[]
  /** Bytes from the start of the data section. */
  readonly begin: number
  readonly end: number
}

/** Tensors by name, and their bytes on demand. */
export interface TensorFile {
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** Free text of the writer; empty for shards. */
  readonly metadata: ReadonlyMap<string, string>
  /** The bytes of a tensor at the start of a buffer of their own, so that every typed array fits. */
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
const nameLimit = 1024
const rankLimit = 8
const metadataKey = '__metadata__'

interface Header {
  readonly tensors: Map<string, TensorInfo>
  readonly metadata: Map<string, string>
  /** Byte of the file where the data section begins. */
  readonly dataStart: number
}

/**
 * Opens a file and checks its header. The file stays open until `close()`.
 *
 * @throws WhetstoneError E_IO, E_PATH; E_TORN when it is shorter than it says; E_LIMIT; E_FORMAT naming the tensor
 */
export async function openSafetensors(path: string): Promise<TensorFile> {
  const file = await openRegular(path)
  const { handle } = file
  try {
    const { tensors, metadata, dataStart } = await readHeader(file, path)
    const read = async (name: string): Promise<Uint8Array> => {
      const info = tensors.get(name) ?? refuseName(name, path)
      const bytes = new Uint8Array(info.end - info.begin)
      await readExactly(handle, path, bytes, dataStart + info.begin)
      return bytes
    }
    return { tensors, metadata, read, close: () => handle.close() }
  } catch (error) {
    await handle.close()
    throw error
  }
}

const refuseName = (name: string, where: string): never => {
  throw new WhetstoneError('E_MISMATCH', where, `there is no tensor '${name}'`)
}

async function readHeader({ handle, size }: OpenFile, path: string): Promise<Header> {
  if (size < 8) throw new WhetstoneError('E_TORN', path, `expected at least 8 bytes, got ${size}`)
  const prefix = new Uint8Array(8)
  await readExactly(handle, path, prefix, 0)
  if (lfsStart.startsWith(Buffer.from(prefix).toString('latin1'))) throw new WhetstoneError('E_FORMAT', path, lfsAdvice)
  const length = new DataView(prefix.buffer).getBigUint64(0, true)
  if (length > BigInt(headerLimit))
    throw new WhetstoneError('E_LIMIT', path, `expected a header of at most ${headerLimit} bytes, got ${length}`)
  const dataStart = 8 + Number(length)
  if (dataStart > size)
    throw new WhetstoneError('E_TORN', path, `the header ends at byte ${dataStart}, the file has ${size}`)
  const bytes = new Uint8Array(Number(length))
  await readExactly(handle, path, bytes, 8)
  if (bytes[0] !== 0x7b)
    throw new WhetstoneError('E_FORMAT', path, "expected a header that begins with '{': is it a safetensors file?")
  const header = parseJson(decodeUtf8(bytes, path), path) as Record<string, unknown>
  return { ...checkHeader(header, size - dataStart, path), dataStart }
}

function checkHeader(header: Record<string, unknown>, dataBytes: number, path: string): Omit<Header, 'dataStart'> {
  const entries = Object.entries(header).filter(([name]) => name !== metadataKey)
  if (entries.length > countLimit)
    throw new WhetstoneError('E_LIMIT', path, `expected at most ${countLimit} tensors, got ${entries.length}`)
  const tensors = new Map(entries.map(([name, value]) => [name, checkTensor(name, value, path)]))
  checkCover(tensors, dataBytes, path)
  return { tensors, metadata: checkMetadata(Object.hasOwn(header, metadataKey) ? header[metadataKey] : {}, path) }
}

function checkMetadata(value: unknown, path: string): Map<string, string> {
  const entries = isJsonObject(value) ? Object.entries(value) : undefined
  if (entries?.every((entry): entry is [string, string] => typeof entry[1] === 'string')) return new Map(entries)
  throw new WhetstoneError('E_FORMAT', path, `${metadataKey}: expected an object of strings`)
}

/** The tensors must fill the data section from its first byte to its last without holes or overlap. */
function checkCover(tensors: ReadonlyMap<string, TensorInfo>, dataBytes: number, path: string): void {
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
  if (at > dataBytes)
    throw new WhetstoneError('E_TORN', path, `expected ${at} bytes of data, got ${dataBytes}: the file is cut off`)
  if (at < dataBytes)
    throw new WhetstoneError('E_FORMAT', path, `expected ${at} bytes of data, got ${dataBytes}: bytes behind the end`)
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

const isSizes = (value: unknown): value is number[] => Array.isArray(value) && value.every(isSize)

const shown = (value: unknown): string => String(JSON.stringify(value)).slice(0, 120)

/** Bytes of a shape; BigInt because the product of sizes from a file may exceed every number. */
const bytesOf = (shape: readonly number[], width: number): bigint =>
  shape.reduce((product, length) => product * BigInt(length), BigInt(width))

function checkTensor(name: string, value: unknown, path: string): TensorInfo {
  const refuse = (what: string): never => {
    throw new WhetstoneError('E_FORMAT', path, `tensor '${name.slice(0, 120)}': ${what}`)
  }
  if (name === '' || name === '__proto__' || Buffer.byteLength(name) > nameLimit)
    refuse(`expected a name of 1 to ${nameLimit} bytes`)
  if (!isJsonObject(value)) return refuse(`expected an object, got ${shown(value)}`)
  const { dtype, shape, data_offsets: offsets } = value
  if (typeof dtype !== 'string' || !Object.hasOwn(fileTypeBytes, dtype))
    return refuse(`expected a dtype of ${Object.keys(fileTypeBytes).join(', ')}, got ${shown(dtype)}`)
  if (!isSizes(shape) || shape.length > rankLimit)
    return refuse(`expected a shape of at most ${rankLimit} whole numbers, got ${shown(shape)}`)
  if (!isSizes(offsets) || offsets.length !== 2) return refuse(`expected two data offsets, got ${shown(offsets)}`)
  const [begin, end] = offsets
  const bytes = bytesOf(shape, fileTypeBytes[dtype])
  if (bytes !== BigInt(end) - BigInt(begin))
    refuse(`shape [${shape}] of ${dtype} needs ${bytes} bytes, the offsets give ${end - begin}`)
  return { dtype, shape, begin, end }
}

/**
 * Writes a file whole or not at all. Equal input gives equal bytes.
 *
 * @throws WhetstoneError E_IO; E_MISMATCH for an entry whose data does not fit its shape, or a repeated name
 */
export async function writeSafetensors(
  path: string,
  entries: Iterable<TensorEntry>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  await writeAtomic(path, safetensorsChunks(entries, metadata))
}

function checkEntries(entries: readonly TensorEntry[]): void {
  const names = new Set<string>()
  for (const { name, dtype, shape, data } of entries) {
    const refuse = (what: string): never => {
      throw new WhetstoneError('E_MISMATCH', 'safetensors', `tensor '${name}': ${what}`)
    }
    if (names.has(name) || name === metadataKey) refuse('the name is taken')
    names.add(name)
    if (!Object.hasOwn(fileTypeBytes, dtype)) refuse(`unknown dtype ${dtype}`)
    const bytes = bytesOf(shape, fileTypeBytes[dtype])
    if (bytes !== BigInt(data.byteLength)) refuse(`shape [${shape}] needs ${bytes} bytes, got ${data.byteLength}`)
  }
}

/**
 * The bytes of a file, in pieces. Wider types come first, otherwise the order stays, and the header is padded to a
 * multiple of 8 bytes: so every tensor is aligned to its type.
 */
export function safetensorsChunks(
  entries: Iterable<TensorEntry>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array[] {
  const given = [...entries]
  checkEntries(given)
  const ordered = given.sort((a, b) => fileTypeBytes[b.dtype] - fileTypeBytes[a.dtype])
  const fields = metadata === undefined ? [] : [`"${metadataKey}":${JSON.stringify(metadata)}`]
  let at = 0
  for (const { name, dtype, shape, data } of ordered) {
    const info = { dtype, shape, data_offsets: [at, at + data.byteLength] }
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(info)}`)
    at += data.byteLength
  }
  const header = new TextEncoder().encode(`{${fields.join(',')}}`)
  const padded = new Uint8Array(Math.ceil(header.byteLength / 8) * 8).fill(0x20)
  padded.set(header)
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(padded.byteLength), true)
  return [length, padded, ...ordered.map((entry) => entry.data)]
}

/**
 * The weights of a folder: `<stem>.safetensors`, or else the shards of `<stem>.safetensors.index.json`.
 *
 * @param stem default `model`
 * @throws WhetstoneError E_IO, E_PATH, E_TORN, E_LIMIT, E_FORMAT; E_MISMATCH when index and shards disagree
 */
export async function openWeights(folder: string, stem = 'model'): Promise<TensorFile> {
  const single = `${stem}.safetensors`
  const index = join(folder, `${single}.index.json`)
  if ((await exists(join(folder, single))) || !(await exists(index))) {
    await modelFile(folder, single)
    return openSafetensors(await insideFolder(folder, single))
  }
  const { weight_map: map } = await readJsonObject(index, headerLimit)
  const entries = isJsonObject(map) ? Object.entries(map) : undefined
  if (!entries?.every((entry): entry is [string, string] => typeof entry[1] === 'string'))
    throw new WhetstoneError('E_FORMAT', index, 'expected weight_map: an object from tensor names to file names')
  return joinShards(folder, index, new Map(entries))
}

/** File names of an index. Two that differ in case alone would be one file on some systems. */
function shardNames(map: ReadonlyMap<string, string>, index: string): string[] {
  const names = [...new Set(map.values())]
  const folded = new Map(names.map((name) => [name.toLowerCase(), name]))
  const clash = names.find((name) => folded.get(name.toLowerCase()) !== name)
  if (clash === undefined) return names
  throw new WhetstoneError('E_PATH', index, `file names differ in case alone: ${clash}`)
}

/** The tensors of all shards, each where the index places it. */
function joinTensors(
  files: ReadonlyMap<string, TensorFile>,
  map: ReadonlyMap<string, string>,
  index: string,
): Map<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>()
  for (const [shard, file] of files)
    for (const [name, info] of file.tensors) {
      const expected = map.get(name)
      if (expected !== shard) {
        const place = expected === undefined ? 'does not name' : `places in ${expected}`
        throw new WhetstoneError('E_MISMATCH', index, `shard ${shard} holds '${name}', which the index ${place}`)
      }
      tensors.set(name, info)
    }
  const absent = [...map.keys()].find((name) => !tensors.has(name))
  if (absent === undefined) return tensors
  throw new WhetstoneError('E_MISMATCH', index, `'${absent}' is missing from its shard ${map.get(absent)}`)
}

async function joinShards(folder: string, index: string, map: ReadonlyMap<string, string>): Promise<TensorFile> {
  const files = new Map<string, TensorFile>()
  const close = async () => {
    for (const file of files.values()) await file.close()
  }
  try {
    for (const name of shardNames(map, index)) files.set(name, await openSafetensors(await insideFolder(folder, name)))
    const tensors = joinTensors(files, map, index)
    const read = async (name: string) => (files.get(map.get(name) ?? '') ?? refuseName(name, folder)).read(name)
    return { tensors, metadata: new Map(), read, close }
  } catch (error) {
    await close()
    throw error
  }
}
