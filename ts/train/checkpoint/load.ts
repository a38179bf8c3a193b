// Finding the newest whole checkpoint: leftovers are swept, then folders are verified from the highest step down. A
// damaged one is set aside and reported; two in a row stop, because then something else is wrong. Resume never means
// restart: a folder that holds anything but no whole checkpoint is an error. What a system refuses to read is not damaged.

import { readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type ErrorCode, messageOf, WhetstoneError } from '../../src/base/errors.js'
import { attempt, exists, insideFolder } from '../../src/io/files.js'
import { readJsonObject } from '../../src/io/json.js'
import { checkpointNames } from '../../src/io/model-folder.js'
import { openSafetensors } from '../../src/io/safetensors.js'
import type { Shape } from '../../src/tensor/shape.js'
import { sweepLeftovers } from './leftovers.js'
import { stateFile, verifyCheckpoint } from './manifest.js'

/** A verified checkpoint. */
export interface Checkpoint {
  readonly directory: string
  readonly step: number
  /** Version of the package that wrote it. */
  readonly package: string
  readonly state: Readonly<Record<string, unknown>>
  /** Files in its folder that it does not list; they are ignored. */
  readonly unlisted: readonly string[]
  /** Opens one of its safetensors files; the caller closes it. */
  tensors(name: string): Promise<{
    shapeOf(name: string): Shape | undefined
    read(name: string): Promise<Uint8Array>
    close(): Promise<void>
  }>
}

/** What the contents of a checkpoint can be wrong with. */
const damage: ReadonlySet<ErrorCode> = new Set(['E_TORN', 'E_FORMAT', 'E_PATH', 'E_LIMIT', 'E_VERSION'])

/**
 * Reads a checkpoint's folder, every file verified.
 *
 * @throws WhetstoneError E_TORN, E_FORMAT, E_VERSION, E_PATH naming the file; E_IO
 */
export async function readCheckpoint(directory: string): Promise<Checkpoint> {
  const { step, package: writer, unlisted } = await verifyCheckpoint(directory)
  return {
    directory,
    step,
    package: writer,
    state: await readJsonObject(join(directory, stateFile)),
    unlisted,
    tensors: async (file) => open(await insideFolder(directory, file)),
  }
}

async function open(path: string) {
  const file = await openSafetensors(path)
  return {
    shapeOf: (name: string) => file.tensors.get(name)?.shape,
    read: (name: string) => file.read(name),
    close: () => file.close(),
  }
}

/** A checkpoint, or what is wrong with it. */
async function tryCheckpoint(path: string): Promise<Checkpoint | WhetstoneError> {
  try {
    return await readCheckpoint(path)
  } catch (error) {
    if (WhetstoneError.isInstance(error) && damage.has(error.code)) return error
    throw error
  }
}

/**
 * The newest checkpoint that verifies, or undefined when there was never one.
 *
 * @param warn told of each damaged checkpoint, and of files that a checkpoint does not list
 * @throws WhetstoneError E_TORN when two in a row, or all, are damaged, and when there is something but no checkpoint;
 *   E_IO
 */
export async function newestCheckpoint(
  directory: string,
  warn: (message: string) => void,
): Promise<Checkpoint | undefined> {
  if (!(await exists(directory))) return undefined
  await sweepLeftovers(directory)
  const names = await checkpointNames(directory)
  const faults: string[] = []
  for (const name of names) {
    const found = await tryCheckpoint(join(directory, name))
    if (!(found instanceof Error)) {
      if (found.unlisted.length > 0)
        warn(`checkpoint ${name}: ${found.unlisted.join(', ')} is not part of it and was ignored`)
      return found
    }
    faults.push(messageOf(found))
    if (faults.length > 1 || names.length === 1) return refuseDamaged(directory, faults)
    warn(`checkpoint ${name} is damaged and was set aside: ${messageOf(found)}`)
    await setAside(directory, name)
  }
  return refuseOthers(directory)
}

function refuseDamaged(directory: string, faults: readonly string[]): never {
  const text = `no whole checkpoint among the newest ${faults.length}: ${faults.join('; ')}. To start afresh, use another run folder`
  throw new WhetstoneError('E_TORN', directory, text, { details: { faults } })
}

/** Refuses a folder without checkpoints that is not empty. Hidden files of others do not count. */
async function refuseOthers(directory: string): Promise<undefined> {
  const names = await attempt('list', directory, () => readdir(directory))
  const [found] = names.filter((name) => name.startsWith('.bad-') || !name.startsWith('.'))
  if (found === undefined) return undefined
  throw new WhetstoneError(
    'E_TORN',
    directory,
    `no whole checkpoint, only ${found}. To start afresh, use another run folder`,
  )
}

/** Takes a damaged checkpoint out of the way, in place of one that had the same step. */
async function setAside(directory: string, name: string): Promise<void> {
  const aside = join(directory, `.bad-${name}`)
  await attempt('remove', aside, () => rm(aside, { recursive: true, force: true }))
  await attempt('set aside', join(directory, name), () => rename(join(directory, name), aside))
}
