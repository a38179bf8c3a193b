// Files: names that cannot leave their folder, writes that are whole or absent, and errors that say which operation
// failed on which path. Every operation passes through `attempt`, where a test can make it fail or end the process.
// Knows nothing of formats.

import { createHash, randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, lstat, mkdir, open, realpath, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, sep } from 'node:path'
import { messageOf, WhetstoneError } from '../base/errors.js'

/** Pieces of a file in order; strings are written as UTF-8. */
export type Chunks = Iterable<Uint8Array | string> | AsyncIterable<Uint8Array | string>

/**
 * Hooks for tests. `before` is called before each operation; what it throws is treated as the system's refusal. `room`
 * says how many of the bytes of a write are taken, or throws, as a system may.
 */
export const faults: {
  before: ((operation: string, path: string) => void) | undefined
  room: ((bytes: number) => number) | undefined
} = { before: undefined, room: undefined }

const pieceBytes = 4 * 2 ** 20

const codeOf = (error: unknown): string | undefined => (error as { code?: string } | undefined)?.code

const advice: Readonly<Record<string, string>> = {
  ENOENT: ': the file or folder does not exist',
  EACCES: ': permission denied',
  ENOSPC: ': the disk is full, free space and run again',
  EDQUOT: ': the disk quota is used up',
  EROFS: ': the file system is read-only',
  EMFILE: ': too many open files',
  EEXIST: ': it exists already',
  ENOTDIR: ': a part of the path is no folder',
}

/**
 * Runs a file operation.
 *
 * @throws WhetstoneError E_IO with the operation and the path when the operating system refuses
 */
export async function attempt<R>(operation: string, path: string, work: () => Promise<R>): Promise<R> {
  try {
    faults.before?.(operation, path)
    return await work()
  } catch (cause) {
    if (WhetstoneError.isInstance(cause)) throw cause
    const code = codeOf(cause)
    const text = `cannot ${operation}${advice[code ?? ''] ?? ''} (${code ?? messageOf(cause)})`
    throw new WhetstoneError('E_IO', path, text, { cause, details: { operation, path, code } })
  }
}

/** Is there something at this path? A dangling link counts. */
export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return false
    throw new WhetstoneError('E_IO', path, `cannot look at it (${messageOf(error)})`, { cause: error })
  }
}

const isDirectory = (path: string): Promise<boolean> =>
  stat(path).then(
    (info) => info.isDirectory(),
    () => false,
  )

/**
 * Makes a folder and those above it. Not by Node's recursive `mkdir`, which takes the refusal of a read-only file system
 * for a missing folder, and on one that makes none, such as /proc, tries for ever.
 */
async function makeFolders(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    if (await isDirectory(path)) return
    if (codeOf(error) === 'EEXIST')
      throw new WhetstoneError('E_IO', path, 'cannot make the folder: a file or a link has its name (EEXIST)', {
        cause: error,
        details: { operation: 'make the folder', path, code: 'EEXIST' },
      })
    const parent = dirname(path)
    if (codeOf(error) !== 'ENOENT' || (await exists(parent))) throw error
    await makeFolders(parent)
    await makeFolders(path)
  }
}

/** Makes a folder and those above it. */
export const ensureDirectory = (path: string): Promise<void> =>
  attempt('make the folder', path, () => makeFolders(path))

/** A regular file that is open for reading. */
export interface OpenFile {
  readonly handle: FileHandle
  readonly size: number
}

/**
 * Opens a regular file. The check is made on the open file, and a pipe does not block.
 *
 * @throws WhetstoneError E_IO; E_PATH for folders, pipes and devices
 */
export async function openRegular(path: string): Promise<OpenFile> {
  const handle = await attempt('open', path, () => open(path, constants.O_RDONLY | constants.O_NONBLOCK))
  try {
    const info = await attempt('look at', path, () => handle.stat())
    if (!info.isFile()) throw new WhetstoneError('E_PATH', path, 'expected a regular file')
    return { handle, size: info.size }
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** Runs `work` on a regular file and closes it. */
export async function withFile<R>(path: string, work: (file: OpenFile) => Promise<R>): Promise<R> {
  const file = await openRegular(path)
  try {
    return await work(file)
  } finally {
    await file.handle.close()
  }
}

/**
 * Fills a buffer from a position.
 *
 * @throws WhetstoneError E_IO; E_TORN when the file ends before
 */
export async function readExactly(handle: FileHandle, path: string, into: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < into.byteLength; ) {
    const length = Math.min(pieceBytes * 16, into.byteLength - done)
    const { bytesRead } = await attempt('read', path, () => handle.read(into, done, length, position + done))
    if (bytesRead === 0)
      throw new WhetstoneError(
        'E_TORN',
        path,
        `expected ${into.byteLength} bytes at ${position}, the file ends after ${done}: it was cut off or replaced`,
      )
    done += bytesRead
  }
}

/**
 * The bytes of a regular file.
 *
 * @throws WhetstoneError E_IO, E_PATH, E_LIMIT when it is larger than `limitBytes`
 */
export const readBytes = (path: string, limitBytes = 2 ** 30): Promise<Uint8Array> =>
  withFile(path, async ({ handle, size }) => {
    if (size > limitBytes)
      throw new WhetstoneError('E_LIMIT', path, `expected at most ${limitBytes} bytes, got ${size}`)
    const bytes = new Uint8Array(size)
    await readExactly(handle, path, bytes, 0)
    return bytes
  })

/** Bytes of a regular file. */
export const fileSize = (path: string): Promise<number> => withFile(path, async ({ size }) => size)

/** Pieces of a file from its start to its end. */
export async function* readPieces(path: string): AsyncGenerator<Uint8Array> {
  const { handle } = await openRegular(path)
  try {
    for (let position = 0; ; ) {
      const piece = new Uint8Array(pieceBytes)
      const at = position
      const { bytesRead } = await attempt('read', path, () => handle.read(piece, 0, piece.byteLength, at))
      if (bytesRead === 0) return
      position += bytesRead
      yield piece.subarray(0, bytesRead)
    }
  } finally {
    await handle.close()
  }
}

const safeName = /^(?!\.)[A-Za-z0-9._-]{1,255}$/

/**
 * May a file of this folder lie there? Inside the folder, or where Hugging Face's cache keeps what the links of
 * `<repository>/snapshots/<commit>` lead to: in `<repository>/blobs`.
 */
function mayLie(root: string, real: string): boolean {
  const under = (folder: string): boolean => real.startsWith(folder.endsWith(sep) ? folder : folder + sep)
  return under(root) || (basename(dirname(root)) === 'snapshots' && under(join(root, '..', '..', 'blobs')))
}

/**
 * The path of a plain file inside a folder. A link counts as the file that it leads to.
 *
 * @throws WhetstoneError E_PATH for separators, leading dots, other characters, names above 255 bytes, a link that leads
 * out of the folder, and anything but a regular file
 */
export async function insideFolder(folder: string, name: string): Promise<string> {
  if (typeof name !== 'string' || !safeName.test(name))
    throw new WhetstoneError(
      'E_PATH',
      folder,
      `expected a plain file name of letters, digits, '.', '_', '-', got ${String(JSON.stringify(name)).slice(0, 120)}`,
    )
  const path = join(folder, name)
  const [root, real] = await attempt('resolve', path, () => Promise.all([realpath(folder), realpath(path)]))
  if (!mayLie(root, real))
    throw new WhetstoneError('E_PATH', path, 'the file lies outside its folder: put a copy instead of the link')
  await fileSize(real)
  return real
}

/** Makes a folder's entries durable. */
export const syncDirectory = (path: string): Promise<void> =>
  attempt('sync the folder', path, async () => {
    const handle = await open(path, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  })

async function writeWhole(handle: FileHandle, path: string, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const most = Math.min(pieceBytes * 16, bytes.byteLength - done)
    const write = () => handle.write(bytes, done, faults.room?.(most) ?? most)
    done += (await attempt('write', path, write)).bytesWritten
  }
}

/** What was written. */
export interface WrittenFile {
  readonly bytes: number
  /** Lower-case hex. */
  readonly sha256: string
}

/**
 * Writes a new file and makes its bytes durable. The folder's entry is the caller's to sync.
 *
 * @throws WhetstoneError E_IO, also when the file exists
 */
export async function writeSynced(path: string, chunks: Chunks): Promise<WrittenFile> {
  const handle = await attempt('create', path, () => open(path, 'wx'))
  const hash = createHash('sha256')
  let bytes = 0
  try {
    for await (const chunk of chunks) {
      const part = typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk
      await writeWhole(handle, path, part)
      hash.update(part)
      bytes += part.byteLength
    }
    await attempt('sync', path, () => handle.sync())
    // Some file systems say only here that bytes were lost.
    await attempt('close', path, () => handle.close())
  } catch (error) {
    await handle.close().catch(() => undefined)
    throw error
  }
  return { bytes, sha256: hash.digest('hex') }
}

/** Replaces a file whole: a temporary beside it, synced, renamed, folder synced. A failure leaves the old file. */
export async function writeAtomic(path: string, content: string | Chunks): Promise<WrittenFile> {
  const temporary = join(dirname(path), `.tmp-${process.pid}-${randomBytes(6).toString('hex')}`)
  let written: WrittenFile
  try {
    written = await writeSynced(temporary, typeof content === 'string' ? [content] : content)
    await attempt('rename', path, () => rename(temporary, path))
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw error
  }
  await syncDirectory(dirname(path))
  return written
}

/** SHA-256 of a file as lower-case hex, read in pieces. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of readPieces(path)) hash.update(piece)
  return hash.digest('hex')
}
