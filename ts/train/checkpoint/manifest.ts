// What a checkpoint is: a folder `step-00000200` whose manifest.json lists every file with size and SHA-256. It is
// complete exactly when the manifest verifies; the folder appears by one rename. It is also a Hugging Face model folder.

import { basename, join } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { fileSize, hashFile, insideFolder } from '../../src/io/files.js'
import { readJsonObject } from '../../src/io/json.js'

/** Version of the layout; another one is refused, not guessed at. */
export const checkpointVersion = 1

/** Size and hash of a file. */
export interface FileRecord {
  readonly bytes: number
  readonly sha256: string
}

/** The contents of manifest.json. */
export interface Manifest {
  readonly version: number
  readonly step: number
  readonly files: Readonly<Record<string, FileRecord>>
}

/** The folder's name for a step. */
export const stepFolder = (step: number): string => `step-${String(step).padStart(8, '0')}`

/** The step of a folder's name; undefined for other names. */
export const stepOf = (name: string): number | undefined => {
  const match = /^step-(\d{8})$/.exec(name)
  return match === null ? undefined : Number(match[1])
}

/** Size and hash of a file on disk. */
export const recordOf = async (path: string): Promise<FileRecord> => ({
  bytes: await fileSize(path),
  sha256: await hashFile(path),
})

/**
 * Reads a checkpoint's manifest and compares every file with it.
 *
 * @throws WhetstoneError E_TORN naming the file, E_VERSION, E_FORMAT, E_IO
 */
export async function verifyCheckpoint(directory: string): Promise<Manifest> {
  const path = join(directory, 'manifest.json')
  const manifest = (await readJsonObject(path)) as unknown as Manifest
  if (manifest.version !== checkpointVersion)
    throw new WhetstoneError(
      'E_VERSION',
      path,
      `expected version ${checkpointVersion}, got ${String(manifest.version)}`,
    )
  if (typeof manifest.files !== 'object' || manifest.files === null)
    throw new WhetstoneError('E_FORMAT', path, 'expected a table of files')
  if (manifest.step !== stepOf(basename(directory)))
    throw new WhetstoneError('E_TORN', path, `expected the folder's step, got ${String(manifest.step)}`)
  for (const [name, expected] of Object.entries(manifest.files))
    await verifyFile(await insideFolder(directory, name), expected)
  return manifest
}

async function verifyFile(path: string, expected: FileRecord): Promise<void> {
  const bytes = await fileSize(path)
  if (bytes !== expected.bytes)
    throw new WhetstoneError('E_TORN', path, `expected ${expected.bytes} bytes, got ${bytes}`)
  const sha256 = await hashFile(path)
  if (sha256 !== expected.sha256) throw new WhetstoneError('E_TORN', path, 'the contents do not have the recorded hash')
}
