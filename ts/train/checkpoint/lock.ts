// One process per run folder: a lock file that names its holder. A lock whose holder is gone is taken over. Whoever takes
// over holds a second lock meanwhile, made the same way, so that of any number of processes exactly one succeeds; a
// dead lock is replaced by one rename and is never absent in between.

import { link, readFile, realpath, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { attempt, ensureDirectory, writeSynced } from '../../src/io/files.js'
import { isRunning, leftoverName, ownIdentity, type ProcessIdentity, sweepLeftovers } from './leftovers.js'

/** Locks of this process, for systems that do not tell when a process started. */
const held = new Set<string>()

/** Deepest chain of processes that died while they took over from one that had died. */
const chainLimit = 8

const codeOf = (error: unknown): string | undefined => (error as { code?: string }).code

/**
 * Takes the lock of a run folder, and sweeps what dead processes left there. Call the result to give it back.
 *
 * @throws WhetstoneError E_CONFIG naming the process that holds it, E_IO
 */
export async function lockRun(directory: string): Promise<() => Promise<void>> {
  await ensureDirectory(directory)
  const root = await attempt('resolve', directory, () => realpath(directory))
  const path = join(root, '.lock')
  const release = await acquire(path, await ownIdentity(), 0)
  try {
    await sweepLeftovers(root)
  } catch (error) {
    await release()
    throw error
  }
  return release
}

async function acquire(path: string, own: ProcessIdentity, depth: number): Promise<() => Promise<void>> {
  let taken = await place(path, own)
  while (!taken) {
    const found = await read(path)
    if (found !== undefined) await refuseRunning(path, found, depth)
    taken = found === undefined ? await place(path, own) : await takeOver(path, own, found, depth)
  }
  held.add(path)
  let holding = true
  return async () => {
    if (!holding) return
    holding = false
    held.delete(path)
    await attempt('unlock', path, () => rm(path, { force: true }))
  }
}

/** Text of a lock, or undefined when it has just gone. */
const read = (path: string): Promise<string | undefined> =>
  attempt('read', path, () =>
    readFile(path, 'utf8').catch((error: unknown) => {
      if (codeOf(error) === 'ENOENT') return undefined
      throw error
    }),
  )

async function refuseRunning(path: string, text: string, depth: number): Promise<void> {
  const [pid, start] = text.trim().split(' ')
  if (!held.has(path) && depth < chainLimit && !(await isRunning({ pid: Number(pid), start }))) return
  throw new WhetstoneError(
    'E_CONFIG',
    dirname(path),
    `the run folder is in use by process ${pid}: wait for it or use another --output`,
    { details: { pid: Number(pid) } },
  )
}

/** Does `work` with a file beside `path` that names us. */
async function withOwnFile<R>(path: string, { pid, start }: ProcessIdentity, work: (own: string) => Promise<R>) {
  const own = join(dirname(path), leftoverName('tmp', 'lock'))
  try {
    await writeSynced(own, [start === undefined ? `${pid}` : `${pid} ${start}`])
    return await work(own)
  } finally {
    await rm(own, { force: true })
  }
}

/** Puts a lock there with its contents in one step; false when there is one. */
const place = (path: string, own: ProcessIdentity): Promise<boolean> =>
  withOwnFile(path, own, (file) =>
    attempt('lock', path, () =>
      link(file, path).then(
        () => true,
        (error: unknown) => {
          // ENOENT: a holder in this process swept our file, which looks like one of an earlier process with our id.
          if (codeOf(error) === 'EEXIST' || codeOf(error) === 'ENOENT') return false
          throw error
        },
      ),
    ),
  )

/** Replaces a dead holder's lock; false when another process did so first. */
async function takeOver(path: string, own: ProcessIdentity, dead: string, depth: number): Promise<boolean> {
  const release = await acquire(`${path}-next`, own, depth + 1)
  try {
    if ((await read(path)) !== dead) return false
    await withOwnFile(path, own, (file) => attempt('take over the lock', path, () => rename(file, path)))
    return true
  } finally {
    await release()
  }
}
