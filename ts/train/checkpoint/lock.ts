// One process per run folder: a lock file with the holder's process id. A lock whose holder is gone is taken over.

import { link, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { attempt, ensureDirectory } from '../../src/io/files.js'
import { isAlive } from './load.js'

/** Locks of this process: a file with our own id alone may be left from an earlier process that had the same id. */
const held = new Set<string>()

const codeOf = (error: unknown): string | undefined => (error as { code?: string }).code

/**
 * Takes the lock of a run folder; call the result to give it back.
 *
 * @throws WhetstoneError E_CONFIG naming the process that holds it
 */
export async function lockRun(directory: string): Promise<() => Promise<void>> {
  await ensureDirectory(directory)
  const path = join(resolve(directory), '.lock')
  while (!(await attempt('lock', path, () => place(path)))) {
    const holder = await readFile(path, 'utf8').catch(() => undefined)
    if (holder === undefined) continue
    if (held.has(path) || isAlive(Number(holder)))
      throw new WhetstoneError(
        'E_CONFIG',
        directory,
        `the run folder is in use by process ${holder}: wait for it or use another --output`,
      )
    await attempt('take over the lock', path, () => remove(path, holder))
  }
  held.add(path)
  return async () => {
    held.delete(path)
    await rm(path, { force: true })
  }
}

/** Puts the lock there with its contents in one step; false when there is one. */
async function place(path: string): Promise<boolean> {
  const own = `${path}-${process.pid}`
  await writeFile(own, String(process.pid))
  try {
    await link(own, path)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  } finally {
    await rm(own, { force: true })
  }
}

/** Removes a dead holder's lock, unless another process did so first and put its own there. */
async function remove(path: string, holder: string): Promise<void> {
  const moved = `${path}-${process.pid}`
  try {
    await rename(path, moved)
    if ((await readFile(moved, 'utf8')) !== holder) await link(moved, path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'EEXIST') throw error
  } finally {
    await rm(moved, { force: true })
  }
}
