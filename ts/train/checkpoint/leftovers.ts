// Who a name or a lock belongs to, and what the dead left behind. Names of unfinished things carry the id of the process
// that made them; a process is known by its id and its start, because ids are given out again. Used by lock, save, load.

import { randomBytes } from 'node:crypto'
import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { attempt } from '../../src/io/files.js'

/** A process. */
export interface ProcessIdentity {
  readonly pid: number
  /** When it started, in the system's own unit; undefined where the system does not tell. */
  readonly start: string | undefined
}

/** State and start of a process as Linux has them: fields 3 and 22 of /proc/PID/stat, counted behind the name. */
async function lookUp(pid: number): Promise<{ state: string; start: string } | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  if (text === undefined) return undefined
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return { state: fields[0], start: fields[19] }
}

/** This process. */
export const ownIdentity = async (): Promise<ProcessIdentity> => ({
  pid: process.pid,
  start: (await lookUp(process.pid))?.start,
})

function answersSignals(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM'
  }
}

/**
 * Does this process still run? One that is dead but not yet reaped does not. Our own id without a start says nothing:
 * an earlier process may have had it, so it counts as gone.
 */
export async function isRunning({ pid, start }: ProcessIdentity): Promise<boolean> {
  if (!Number.isSafeInteger(pid) || pid <= 0 || (pid === process.pid && start === undefined)) return false
  if (!answersSignals(pid)) return false
  const now = await lookUp(pid)
  if (now === undefined) return true
  return !/[ZX]/.test(now.state) && (start === undefined || start === now.start)
}

/** A name for something unfinished (`tmp`) or given up (`trash`) that no other call can make. */
export const leftoverName = (kind: 'tmp' | 'trash', what: string | number): string =>
  `.${kind}-${process.pid}-${what}-${randomBytes(4).toString('hex')}`

/** Removes what dead processes, or earlier ones with our id, left unfinished in a folder. */
export async function sweepLeftovers(directory: string): Promise<void> {
  const names = await attempt('list', directory, () => readdir(directory))
  for (const name of names) {
    const owner = /^\.(?:tmp|trash)-(\d+)-/.exec(name)
    if (owner === null || (await isRunning({ pid: Number(owner[1]), start: undefined }))) continue
    const path = join(directory, name)
    await attempt('sweep', path, () => rm(path, { recursive: true, force: true }))
  }
}
