// Saving: everything goes into a temporary folder, each file is synced, the manifest comes last, and one rename
// publishes it. Older checkpoints go only after the new one is durable. A failed save leaves what was there.

import { readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { attempt, ensureDirectory, exists, readBytes, syncDirectory, writeSynced } from '../../src/io/files.js'
import { safetensorsChunks, type TensorEntry } from '../../src/io/safetensors.js'
import { tokenizerFilesOf } from '../../src/tokenizer/tokenizer.js'
import { checkpointVersion, type FileRecord, recordOf, stepFolder, stepOf } from './manifest.js'

/** What to save. */
export interface CheckpointContents {
  readonly step: number
  /** safetensors files by name. */
  readonly files: Readonly<Record<string, readonly TensorEntry[]>>
  readonly state: Readonly<Record<string, unknown>>
  /** Folder whose config and tokenizer files are copied, so that the checkpoint loads as a model. */
  readonly modelDirectory: string
  /** Newest checkpoints to keep. */
  readonly saveTotalLimit: number
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/**
 * Saves a checkpoint under `directory` and returns its folder.
 *
 * @throws WhetstoneError E_IO: nothing was published and older checkpoints stand
 */
export async function saveCheckpoint(directory: string, contents: CheckpointContents): Promise<string> {
  await ensureDirectory(directory)
  const temporary = join(directory, `.tmp-${process.pid}-${contents.step}`)
  const target = join(directory, stepFolder(contents.step))
  await attempt('remove', temporary, () => rm(temporary, { recursive: true, force: true }))
  await ensureDirectory(temporary)
  try {
    await fill(temporary, contents)
    if (await exists(target)) await discard(directory, stepFolder(contents.step))
    await attempt('publish', target, () => rename(temporary, target))
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined)
    throw error
  }
  await syncDirectory(directory)
  await retain(directory, contents.saveTotalLimit)
  return target
}

async function fill(folder: string, { step, files, state, modelDirectory }: CheckpointContents): Promise<void> {
  for (const [name, entries] of Object.entries(files)) await writeSynced(join(folder, name), safetensorsChunks(entries))
  await writeSynced(join(folder, 'state.json'), [json(state)])
  const copies = ['config.json', 'generation_config.json', ...(await tokenizerFilesOf(modelDirectory))]
  for (const name of copies) {
    const source = join(modelDirectory, name)
    if (await exists(source)) await writeSynced(join(folder, name), [await readBytes(source)])
  }
  const records: Record<string, FileRecord> = {}
  for (const name of (await readdir(folder)).sort()) records[name] = await recordOf(join(folder, name))
  await writeSynced(join(folder, 'manifest.json'), [json({ version: checkpointVersion, step, files: records })])
  await syncDirectory(folder)
}

/** Removes a checkpoint: first out of sight by a rename, then for good. */
async function discard(directory: string, name: string): Promise<void> {
  const trash = join(directory, `.trash-${process.pid}-${name}`)
  await attempt('retire', join(directory, name), () => rename(join(directory, name), trash))
  await attempt('remove', trash, () => rm(trash, { recursive: true, force: true }))
}

async function retain(directory: string, limit: number): Promise<void> {
  const names = (await readdir(directory)).filter((name) => stepOf(name) !== undefined).sort()
  for (const name of names.slice(0, Math.max(0, names.length - limit))) await discard(directory, name)
}
