// Finding the newest whole checkpoint: leftovers are swept, then folders are verified from the highest step down. A
// damaged one is set aside and reported; two in a row stop, because then something else is wrong. Resume never means
// restart: a folder that holds checkpoints but no whole one is an error.

import { readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { attempt, exists } from '../../src/io/files.js'
import { readJsonObject } from '../../src/io/json.js'
import { openSafetensors } from '../../src/io/safetensors.js'
import type { Shape } from '../../src/tensor/shape.js'
import { stepOf, verifyCheckpoint } from './manifest.js'

/** A verified checkpoint. */
export interface Checkpoint {
  readonly directory: string
  readonly step: number
  readonly state: Readonly<Record<string, unknown>>
  /** Opens one of its safetensors files; reads close it at the end of `use`. */
  tensors(name: string): Promise<{
    shapeOf(name: string): Shape | undefined
    read(name: string): Promise<Uint8Array>
    close(): Promise<void>
  }>
}

/**
 * The newest checkpoint that verifies, or undefined when there was never one.
 *
 * @param warn told of each damaged checkpoint
 * @throws WhetstoneError E_TORN when two in a row, or all, are damaged
 */
export async function newestCheckpoint(
  directory: string,
  warn: (message: string) => void,
): Promise<Checkpoint | undefined> {
  if (!(await exists(directory))) return undefined
  await sweep(directory)
  const names = await checkpointNames(directory)
  for (const [tried, name] of names.entries()) {
    const path = join(directory, name)
    try {
      const { step } = await verifyCheckpoint(path)
      return {
        directory: path,
        step,
        state: await readJsonObject(join(path, 'state.json')),
        tensors: (file) => open(join(path, file)),
      }
    } catch (error) {
      if (tried > 0 || names.length === 1)
        throw new WhetstoneError(
          'E_TORN',
          directory,
          `no whole checkpoint among the newest ${tried + 1}: ${messageOf(error)}. To start afresh, use another run folder`,
          { cause: error },
        )
      warn(`checkpoint ${name} is damaged and was set aside: ${messageOf(error)}`)
      await setAside(directory, name)
    }
  }
  const [bad] = (await readdir(directory)).filter((name) => name.startsWith('.bad-'))
  if (bad === undefined) return undefined
  throw new WhetstoneError(
    'E_TORN',
    directory,
    `no whole checkpoint, only ${bad}. To start afresh, use another run folder`,
  )
}

/** Takes a damaged checkpoint out of the way, in place of one that had the same step. */
async function setAside(directory: string, name: string): Promise<void> {
  const aside = join(directory, `.bad-${name}`)
  await attempt('remove', aside, () => rm(aside, { recursive: true, force: true }))
  await attempt('set aside', join(directory, name), () => rename(join(directory, name), aside))
}

/** Folders of checkpoints, newest first, unverified; none when the folder does not exist. */
export async function checkpointNames(directory: string): Promise<string[]> {
  if (!(await exists(directory))) return []
  const names = await attempt('list', directory, () => readdir(directory))
  return names
    .filter((name) => stepOf(name) !== undefined)
    .sort()
    .reverse()
}

async function open(path: string) {
  const file = await openSafetensors(path)
  return {
    shapeOf: (name: string) => file.tensors.get(name)?.shape,
    read: (name: string) => file.read(name),
    close: () => file.close(),
  }
}

/** Removes what interrupted saves of dead processes left. */
async function sweep(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    const owner = /^\.(?:tmp|trash)-(\d+)-/.exec(name)
    if (owner === null || isAlive(Number(owner[1]))) continue
    await attempt('sweep', join(directory, name), () => rm(join(directory, name), { recursive: true, force: true }))
  }
}

/** Is there a process with this id, other than ourselves? */
export function isAlive(pid: number): boolean {
  if (pid === process.pid || !Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM'
  }
}
