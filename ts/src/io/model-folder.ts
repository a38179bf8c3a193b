// Where a model lies when a path is named: in that folder, or in the newest checkpoint of a run's folder. Whatever loads
// models, tokenizers or adapters opens its folder here, so that a wrong one is refused in the same words: what it is, and
// how to get what is read. What a run's folder looks like is known here; how one is written is train/'s.

import { readdir, stat } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { WhetstoneError } from '../base/errors.js'
import { attempt, exists } from './files.js'
import { isJsonObject, readJsonObject } from './json.js'

/** The file that completes a checkpoint. */
export const manifestFile = 'manifest.json'

/** Folders of a run where its checkpoints lie: those of `train`, and those of rounds. */
export const checkpointFolders = ['checkpoints', join('rounds', 'checkpoints')] as const

/** The name of a checkpoint's folder. */
export const stepFolder = (step: number): string => `step-${String(step).padStart(8, '0')}`

/** The step of a folder's name; undefined for other names. */
export function stepOf(name: string): number | undefined {
  const step = Number(/^step-(\d{8,})$/.exec(name)?.[1] ?? Number.NaN)
  return Number.isSafeInteger(step) && stepFolder(step) === name ? step : undefined
}

/** Folders of checkpoints, newest first, unverified; none when the folder does not exist. */
export async function checkpointNames(directory: string): Promise<string[]> {
  if (!(await exists(directory))) return []
  const names = await attempt('list', directory, () => readdir(directory))
  const steps = names.flatMap((name) => stepOf(name) ?? []).sort((a, b) => b - a)
  return steps.map(stepFolder)
}

/** Are these the settings of a run, each with its origin? Other folders have a config.json too. */
export function isRunConfig(config: Readonly<Record<string, unknown>>): boolean {
  const entries = Object.values(config)
  return entries.length > 0 && entries.every((entry) => isJsonObject(entry) && 'origin' in entry)
}

/**
 * The folder to load from: the one that is named, or the newest checkpoint of a run's folder.
 *
 * @throws WhetstoneError E_IO when there is no such folder, or nothing in it; E_CONFIG for a run without a checkpoint;
 *   E_TORN for a newest checkpoint that is not whole; E_PATH, E_FORMAT for a file
 */
export async function modelFolder(path: string): Promise<string> {
  const names = await namesIn(path)
  if (names.some((name) => ofModel.test(name))) return path
  for (const folder of ['', ...checkpointFolders]) {
    const found = await checkpointNames(join(path, folder))
    if (found.length > 0) return wholeCheckpoint(join(path, folder), found)
  }
  if (await isRun(path, names)) refuseRun(path, names)
  if (names.length > 0) return path
  throw new WhetstoneError('E_IO', path, `the folder is empty: ${expectedFiles}`)
}

/** Files that the folder of a run does not have. */
const ofModel = /^(tokenizer|adapter_config)\.json$|\.safetensors(\.index\.json)?$/

const expectedFiles = 'expected config.json, *.safetensors and tokenizer.json'

async function namesIn(path: string): Promise<string[]> {
  const info = await attempt('look at', path, () => stat(path).catch(orAbsent))
  if (info === undefined) return refuseAbsentFolder(path)
  if (info.isDirectory()) return attempt('list', path, () => readdir(path))
  if (extname(path).toLowerCase() === '.gguf') throw new WhetstoneError('E_FORMAT', path, noGguf)
  throw new WhetstoneError('E_PATH', path, "expected a model's folder, got a file: name the folder that it lies in")
}

function orAbsent(error: unknown): undefined {
  const { code } = error as { code?: string }
  if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error
}

/** Names of the hub, as `org/name` or from the time when it had no organisations. */
const hubName = /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/

function refuseAbsentFolder(path: string): never {
  const download = `hf download ${path} --local-dir ${basename(path)}`
  const advice = hubName.test(path)
    ? `. A name of the Hugging Face hub is not downloaded here: run \`${download}\` (or huggingface-cli download), then name that folder`
    : ''
  throw new WhetstoneError('E_IO', path, `there is no such folder${advice}`)
}

/** A checkpoint appears whole; one without its manifest was copied in part, and an older one may not be what is meant. */
async function wholeCheckpoint(directory: string, [newest, ...older]: readonly string[]): Promise<string> {
  const path = join(directory, newest)
  if (await exists(join(path, manifestFile))) return path
  const advice = older.length === 0 ? '' : `, or name the one that you want: ${join(directory, older[0])}`
  throw new WhetstoneError('E_TORN', path, `the newest checkpoint has no ${manifestFile}: copy it again${advice}`)
}

async function isRun(path: string, names: readonly string[]): Promise<boolean> {
  if (['metrics.jsonl', 'checkpoints', 'rounds'].some((name) => names.includes(name))) return true
  return names.includes('config.json') && isRunConfig(await readJsonObject(join(path, 'config.json')))
}

function refuseRun(path: string, names: readonly string[]): never {
  const warmed = names.includes('warmup') ? `; those of its warm-up are in ${join(path, 'warmup')}` : ''
  const text = `the run has no checkpoint yet: expected one in ${checkpointFolders.join(' or ')}, found none${warmed}`
  throw new WhetstoneError('E_CONFIG', path, text)
}

const noGguf = `GGUF is not read: take the model as the folder that it was made from (${expectedFiles})`
const inPython = (kind: string, to: string): string =>
  `in Python, transformers.${kind}.from_pretrained(FOLDER).save_pretrained(${to})`

/** What stands in a folder in place of a file, by the end of the file's name, and what to do about it. */
const otherFormats: readonly (readonly [wanted: RegExp, found: RegExp, text: string])[] = [
  [
    /^tokenizer\.json$/,
    /^(tokenizer|spiece|sentencepiece\.bpe)\.model$|^merges\.txt$|^vocab\.(json|txt)$/,
    `only fast tokenizers are read: write tokenizer.json, ${inPython('AutoTokenizer', 'FOLDER')}`,
  ],
  [
    /safetensors$/,
    /^(pytorch_model|adapter_model|model|consolidated)\b.*\.(bin|pth|pt)$/,
    `weights of torch.save are not read: convert them to safetensors, ${inPython('AutoModelForCausalLM', 'NEW_FOLDER')} (peft.AutoPeftModelForCausalLM for an adapter)`,
  ],
  [/./, /\.gguf$/i, noGguf],
]

/**
 * The path of a file that a model cannot do without.
 *
 * @throws WhetstoneError E_FORMAT when the folder has it in a format that is not read; E_IO when it does not have it
 */
export async function modelFile(folder: string, name: string): Promise<string> {
  const path = join(folder, name)
  if (await exists(path)) return path
  const names = await namesIn(folder)
  for (const [wanted, format, text] of otherFormats) {
    const found = wanted.test(name) ? names.find((other) => format.test(other)) : undefined
    if (found !== undefined)
      throw new WhetstoneError('E_FORMAT', path, `the file does not exist, ${found} does; ${text}`)
  }
  throw new WhetstoneError('E_IO', path, 'the file does not exist')
}
