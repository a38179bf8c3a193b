// One process per run folder: a lock file with the holder's process id. A lock whose holder is gone is taken over.

import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { attempt, ensureDirectory } from '../../src/io/files.js'
import { isAlive } from './load.js'

/**
 * Takes the lock of a run folder; call the result to give it back.
 *
 * @throws WhetstoneError E_CONFIG naming the process that holds it
 */
export async function lockRun(directory: string): Promise<() => Promise<void>> {
  await ensureDirectory(directory)
  const path = join(directory, '.lock')
  for (;;) {
    try {
      await writeFile(path, String(process.pid), { flag: 'wx' })
      return () => rm(path, { force: true })
    } catch (error) {
      if ((error as { code?: string }).code !== 'EEXIST') return attempt('lock', path, () => Promise.reject(error))
    }
    const holder = Number(await readFile(path, 'utf8').catch(() => '0'))
    if (isAlive(holder))
      throw new WhetstoneError(
        'E_CONFIG',
        directory,
        `the run folder is in use by process ${holder}: wait for it or use another --output`,
      )
    await rm(path, { force: true })
  }
}
