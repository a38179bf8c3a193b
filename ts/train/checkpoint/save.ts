// Saving: everything goes into a temporary folder, each file is synced, the manifest comes last, and one rename
// publishes it. Older checkpoints go only after the new one is durable. A failed save leaves what was there. Every file
// operation passes through `attempt` of files.ts, where a test makes it fail or ends the process.

import { readdir, rename, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import {
  attempt,
  ensureDirectory,
  exists,
  fileSize,
  readPieces,
  syncDirectory,
  writeSynced,
} from '../../src/io/files.js'
import { manifestFile, stepFolder, stepOf } from '../../src/io/model-folder.js'
import { safetensorsChunks, type TensorEntry } from '../../src/io/safetensors.js'
import { tokenizerFilesOf } from '../../src/tokenizer/tokenizer.js'
import { leftoverName, sweepLeftovers } from './leftovers.js'
import { type FileRecord, manifestText, stateFile } from './manifest.js'

/** What to save. */
export interface CheckpointContents {
  readonly step: number
  /** safetensors files by name. */
  readonly files: Readonly<Record<string, readonly TensorEntry[]>>
  readonly state: Readonly<Record<string, unknown>>
  /** Further files by name, as text; they go before copies of that name. */
  readonly texts?: Readonly<Record<string, string>>
  /** Folder whose files are copied, so that the checkpoint loads as a model. */
  readonly modelDirectory: string
  /** Which files are copied: the tokenizer's, and by default those of the configuration. */
  readonly copied?: 'all' | 'tokenizer'
  /** Newest checkpoints to keep; 0: all. */
  readonly saveTotalLimit: number
  /** A checkpoint that stays: as in Transformers it takes the place of the oldest that would, but never of the newest. */
  readonly bestStep?: number
  /** Checkpoints whose step is a multiple of this are kept for ever; default none. */
  readonly keepEverySteps?: number
  /** Told when the checkpoint is saved but an older one could not be removed; without it, that is thrown. */
  readonly warn?: (message: string) => void
}

/** Room for state, manifest and the file system's own books. */
const smallFilesBytes = 2 ** 20

/**
 * Saves a checkpoint under `directory` and returns its folder.
 *
 * @throws WhetstoneError E_IO: nothing was published and older checkpoints stand, unless the very last operations fail,
 *   behind publication; E_CONFIG for no step, or one that is already saved
 */
export async function saveCheckpoint(directory: string, contents: CheckpointContents): Promise<string> {
  const { step, modelDirectory, warn } = contents
  const target = join(directory, stepFolder(step))
  if (stepOf(stepFolder(step)) !== step)
    throw new WhetstoneError('E_CONFIG', 'step', `expected a step from 0 on, got ${step}`)
  await ensureDirectory(directory)
  if (await exists(target))
    throw new WhetstoneError('E_CONFIG', target, `step ${step} is already saved: resume that run or use another folder`)
  const copies = await copiesOf(modelDirectory, contents.copied)
  await checkSpace(directory, await estimateBytes(contents, copies))
  const temporary = join(directory, leftoverName('tmp', step))
  try {
    await fill(temporary, contents, copies)
    await attempt('publish', target, () => rename(temporary, target))
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined)
    throw error
  }
  await syncDirectory(directory)
  try {
    await retain(directory, contents)
  } catch (error) {
    if (warn === undefined) throw error
    warn(`step ${step} is saved, but an older checkpoint could not be removed: ${messageOf(error)}`)
  }
  return target
}

/** Paths of the files that make a folder a model, by name. */
async function copiesOf(
  modelDirectory: string,
  copied: CheckpointContents['copied'] = 'all',
): Promise<ReadonlyMap<string, string>> {
  const configuration = copied === 'all' ? ['config.json', 'generation_config.json'] : []
  const names = [...configuration, ...(await tokenizerFilesOf(modelDirectory))]
  const paths = names.map((name) => [name, join(modelDirectory, name)] as const)
  const present = await Promise.all(paths.map(([, path]) => exists(path)))
  return new Map(paths.filter((_, i) => present[i]))
}

async function estimateBytes({ files }: CheckpointContents, copies: ReadonlyMap<string, string>): Promise<number> {
  const sizes = await Promise.all([...copies.values()].map(fileSize))
  const tensors = Object.values(files).flatMap((entries) => entries.map(({ data }) => data.byteLength))
  return [...sizes, ...tensors].reduce((sum, bytes) => sum + bytes, smallFilesBytes)
}

/**
 * Refuses when less than twice the bytes are free: a disk that is filled to the brim harms more than this run.
 *
 * @throws WhetstoneError E_IO with the bytes that are needed and free
 */
export async function checkSpace(directory: string, bytes: number): Promise<void> {
  const { bavail, bsize, blocks } = await attempt('look at the free space of', directory, () => statfs(directory))
  const free = bavail * bsize
  // Some file systems do not say how large they are.
  if (blocks === 0 || free >= 2 * bytes) return
  const text = `expected ${2 * bytes} free bytes for a checkpoint, got ${free}: free space or use another disk`
  throw new WhetstoneError('E_IO', directory, text, { details: { operation: 'save', code: 'ENOSPC', free } })
}

async function fill(folder: string, contents: CheckpointContents, copies: ReadonlyMap<string, string>): Promise<void> {
  await ensureDirectory(folder)
  const records: Record<string, FileRecord> = {}
  for (const [name, entries] of Object.entries(contents.files))
    records[name] = await writeSynced(join(folder, name), safetensorsChunks(entries))
  const { texts = {} } = contents
  for (const [name, source] of copies)
    if (!Object.hasOwn(texts, name)) records[name] = await writeSynced(join(folder, name), readPieces(source))
  for (const [name, text] of Object.entries(texts)) records[name] = await writeSynced(join(folder, name), [text])
  records[stateFile] = await writeSynced(join(folder, stateFile), [`${JSON.stringify(contents.state, null, 2)}\n`])
  await writeSynced(join(folder, manifestFile), [manifestText(contents.step, records)])
  await syncDirectory(folder)
}

/** Removes a checkpoint: first out of sight by a rename, then for good. */
async function discard(directory: string, name: string): Promise<void> {
  const trash = join(directory, leftoverName('trash', name))
  await attempt('retire', join(directory, name), () => rename(join(directory, name), trash))
  await attempt('remove', trash, () => rm(trash, { recursive: true, force: true }))
}

/** Checkpoints that go. */
function outdated(steps: readonly number[], contents: CheckpointContents): number[] {
  const { saveTotalLimit: limit, keepEverySteps = 0, bestStep } = contents
  if (limit === 0) return []
  const bestIsOld = bestStep !== undefined && steps.indexOf(bestStep) >= limit
  return steps
    .slice(bestIsOld ? Math.max(1, limit - 1) : limit)
    .filter((step) => step !== bestStep && (keepEverySteps === 0 || step % keepEverySteps !== 0))
}

async function retain(directory: string, contents: CheckpointContents): Promise<void> {
  const names = await attempt('list', directory, () => readdir(directory))
  const steps = names.flatMap((name) => stepOf(name) ?? []).sort((a, b) => b - a)
  for (const step of outdated(steps, contents)) await discard(directory, stepFolder(step))
  // What an earlier save of this process could not remove goes now.
  await sweepLeftovers(directory)
}
