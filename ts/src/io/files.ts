// Files: names that cannot leave their folder, writes that are whole or absent, and errors that say which operation
// failed on which path. Knows nothing of formats.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, lstat, mkdir, open, readFile, realpath, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, sep } from 'node:path'
import { messageOf, WhetstoneError } from '../base/errors.js'

const codeOf = (error: unknown): string | undefined => (error as { code?: string } | undefined)?.code

/** Runs a file operation; what the operating system refuses becomes E_IO with the operation and the path. */
export async function attempt<R>(operation: string, path: string, work: () => Promise<R>): Promise<R> {
  try {
    return await work()
  } catch (cause) {
    if (WhetstoneError.isInstance(cause)) throw cause
    const missing = codeOf(cause) === 'ENOENT' ? ': the file or folder does not exist' : ''
    throw new WhetstoneError('E_IO', path, `cannot ${operation}${missing} (${codeOf(cause) ?? messageOf(cause)})`, {
      cause,
    })
  }
}

/** Is there something at this path? */
export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return false
    throw new WhetstoneError('E_IO', path, `cannot look at it (${messageOf(error)})`, { cause: error })
  }
}

/** Makes a folder and those above it. */
export const ensureDirectory = (path: string): Promise<unknown> =>
  attempt('make the folder', path, () => mkdir(path, { recursive: true }))

/** The bytes of a file. */
export const readBytes = (path: string): Promise<Buffer> => attempt('read', path, () => readFile(path))

/** Bytes of a regular file. */
export async function fileSize(path: string): Promise<number> {
  const info = await attempt('look at', path, () => stat(path))
  if (info.isFile()) return info.size
  throw new WhetstoneError('E_PATH', path, 'expected a regular file')
}

const safeName = /^(?!\.)[A-Za-z0-9._-]{1,255}$/

/**
 * The path of a plain file inside a folder.
 *
 * @throws WhetstoneError E_PATH for separators, leading dots, or a link that leads out of the folder
 */
export async function insideFolder(folder: string, name: string): Promise<string> {
  if (!safeName.test(name))
    throw new WhetstoneError('E_PATH', folder, `expected a plain file name, got ${JSON.stringify(name).slice(0, 120)}`)
  const path = join(folder, name)
  if (!(await exists(path))) return path
  const [root, real] = await attempt('resolve', path, () => Promise.all([realpath(folder), realpath(path)]))
  if (!real.startsWith(root + sep)) throw new WhetstoneError('E_PATH', path, 'the file lies outside its folder')
  return path
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

async function writeAll(handle: FileHandle, chunks: Iterable<Uint8Array | string>): Promise<void> {
  for (const chunk of chunks) await handle.writeFile(chunk)
  await handle.sync()
}

/** Writes a new file and makes its bytes durable. */
export const writeSynced = (path: string, chunks: Iterable<Uint8Array | string>): Promise<void> =>
  attempt('write', path, async () => {
    const handle = await open(path, 'wx')
    try {
      await writeAll(handle, chunks)
    } finally {
      await handle.close()
    }
  })

/** Replaces a file whole: a temporary beside it, synced, then renamed. A failure leaves the old file. */
export async function writeAtomic(path: string, content: string | Iterable<Uint8Array>): Promise<void> {
  const temporary = join(dirname(path), `.tmp-${process.pid}-${basename(path)}`)
  await attempt('remove', temporary, () => rm(temporary, { force: true }))
  try {
    await writeSynced(temporary, typeof content === 'string' ? [content] : content)
    await attempt('rename', path, () => rename(temporary, path))
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw error
  }
  await syncDirectory(dirname(path))
}

/** SHA-256 of a file as lower-case hex, read in pieces. */
export const hashFile = (path: string): Promise<string> =>
  attempt('read', path, async () => {
    const hash = createHash('sha256')
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
    return hash.digest('hex')
  })
