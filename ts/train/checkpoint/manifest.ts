// What a checkpoint is: a folder `step-00000200` whose manifest.json lists every file with size and SHA-256. It is
// complete exactly when the manifest verifies; the folder appears by one rename. It is also a Hugging Face model folder.

import { readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { attempt, fileSize, hashFile, insideFolder } from '../../src/io/files.js'
import { isJsonObject, readJsonObject } from '../../src/io/json.js'
import { manifestFile, stepOf } from '../../src/io/model-folder.js'
import { readPackageVersion } from '../../src/native/addon.js'

/** Version of the layout; another one is refused, not guessed at. */
export const checkpointVersion = 1

/** The file that every checkpoint has beside its manifest. */
export const stateFile = 'state.json'

const manifestLimitBytes = 2 ** 20

/** Size and hash of a file. */
export interface FileRecord {
  readonly bytes: number
  /** Lower-case hex. */
  readonly sha256: string
}

/** The contents of manifest.json. */
export interface Manifest {
  readonly version: number
  /** Version of the package that wrote it. */
  readonly package: string
  readonly step: number
  /** Every file but the manifest; state.json is always among them. */
  readonly files: ReadonlyMap<string, FileRecord>
}

/** A checkpoint's manifest, and files that it does not list. */
export interface VerifiedCheckpoint extends Manifest {
  readonly unlisted: readonly string[]
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** The text of manifest.json. */
export function manifestText(step: number, files: Readonly<Record<string, FileRecord>>): string {
  const manifest = { version: checkpointVersion, package: readPackageVersion(), step, files }
  return `${JSON.stringify(manifest, null, 2)}\n`
}

const shown = (value: unknown): string =>
  value === undefined ? 'nothing' : String(JSON.stringify(value)).slice(0, 120)

/** Refuses other keys than these: a manifest says all that its version knows, and no more. */
function checkKeys(value: Readonly<Record<string, unknown>>, known: readonly string[], what: string, path: string) {
  const extra = Object.keys(value).find((key) => !known.includes(key))
  if (extra !== undefined)
    throw new WhetstoneError('E_FORMAT', path, `${what}: expected ${known.join(', ')}, got also '${extra}'`)
}

function checkRecord(value: unknown, name: string, path: string): FileRecord {
  if (basename(name) !== name)
    throw new WhetstoneError('E_PATH', path, `expected a plain file name, got ${shown(name)}`)
  const record = isJsonObject(value) ? value : {}
  checkKeys(record, ['bytes', 'sha256'], name, path)
  const { bytes, sha256 } = record
  if (!isSize(bytes)) throw new WhetstoneError('E_FORMAT', path, `${name}: expected bytes, got ${shown(bytes)}`)
  if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256))
    throw new WhetstoneError('E_FORMAT', path, `${name}: expected sha256 in lower-case hex, got ${shown(sha256)}`)
  return { bytes, sha256 }
}

/**
 * Checks the contents of a manifest.json.
 *
 * @throws WhetstoneError E_VERSION; E_FORMAT with the field, what was expected and what came
 */
export function parseManifest(value: Readonly<Record<string, unknown>>, path: string): Manifest {
  const { version, step, files, package: writer } = value
  if (version !== checkpointVersion)
    throw new WhetstoneError('E_VERSION', path, `expected version ${checkpointVersion}, got ${shown(version)}`)
  checkKeys(value, ['version', 'package', 'step', 'files'], 'manifest', path)
  if (typeof writer !== 'string')
    throw new WhetstoneError('E_FORMAT', path, `package: expected the version that wrote it, got ${shown(writer)}`)
  if (!isSize(step)) throw new WhetstoneError('E_FORMAT', path, `step: expected a whole number, got ${shown(step)}`)
  if (!isJsonObject(files)) throw new WhetstoneError('E_FORMAT', path, `expected a table of files, got ${shown(files)}`)
  if (!Object.hasOwn(files, stateFile) || Object.hasOwn(files, manifestFile))
    throw new WhetstoneError('E_FORMAT', path, `expected the table of files to list ${stateFile} and not itself`)
  const records = Object.entries(files).map(([name, record]) => [name, checkRecord(record, name, path)] as const)
  return { version, package: writer, step, files: new Map(records) }
}

/**
 * Reads a checkpoint's manifest and compares every file with it, cheap checks first.
 *
 * @throws WhetstoneError E_TORN naming the file, E_VERSION, E_FORMAT, E_PATH; E_IO when the system refuses to read
 */
export async function verifyCheckpoint(directory: string): Promise<VerifiedCheckpoint> {
  const path = join(directory, manifestFile)
  const contents = await orTorn(path, () => readJsonObject(path, manifestLimitBytes))
  const manifest = parseManifest(contents, path)
  if (manifest.step !== stepOf(basename(directory)))
    throw new WhetstoneError('E_TORN', path, `expected the folder's step, got ${manifest.step}`)
  const files = await Promise.all([...manifest.files].map(([name, record]) => findFile(directory, name, record)))
  for (const { file, sha256 } of files)
    if ((await hashFile(file)) !== sha256)
      throw new WhetstoneError('E_TORN', file, 'the contents do not have the recorded hash')
  const present = await attempt('list', directory, () => readdir(directory))
  return { ...manifest, unlisted: present.filter((name) => name !== manifestFile && !manifest.files.has(name)) }
}

async function findFile(directory: string, name: string, { bytes, sha256 }: FileRecord) {
  const file = await orTorn(join(directory, name), () => insideFolder(directory, name))
  const found = await fileSize(file)
  if (found !== bytes) throw new WhetstoneError('E_TORN', file, `expected ${bytes} bytes, got ${found}`)
  return { file, sha256 }
}

/** A file that is not there is damage; a file that cannot be read may be whole. */
async function orTorn<R>(path: string, work: () => Promise<R>): Promise<R> {
  try {
    return await work()
  } catch (error) {
    const code = WhetstoneError.isInstance(error) ? error.details.code : undefined
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error
    throw new WhetstoneError('E_TORN', path, `the file is missing: ${messageOf(error)}`, { cause: error })
  }
}
