// merge(): an adapter becomes part of its model's weights, and the result a Hugging Face folder. The arithmetic is f32
// whatever is written. Before anything is: log-probs of texts that the adapted model itself samples (scores, when the
// model has a score head) must be the same with the merged weights, and about the same when those are rounded to bf16.

import '../src/base/dispose.js'
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { checkOptions, kinds, membersOf, optional, word } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'
import { createRandom, deriveKey } from '../src/base/rng.js'
import { type LanguageModel, languageModel, loadModel, tokenizerFolder } from '../src/generate/language-model.js'
import { bf16FromF32 } from '../src/io/dtype.js'
import { attempt, ensureDirectory, exists, writeAtomic } from '../src/io/files.js'
import { readText } from '../src/io/json.js'
import { modelFolder } from '../src/io/model-folder.js'
import { openWeights, type TensorEntry, writeSafetensors } from '../src/io/safetensors.js'
import { mergeAdapter } from '../src/models/adapter.js'
import type { Decoder } from '../src/models/decoder.js'
import { unpackedParameters } from '../src/models/quantize.js'
import { configJson } from '../src/models/score.js'
import { type DeviceOptions, deviceKinds } from '../src/native/device.js'
import { disposeFlat, parameterGroups } from '../src/nn/parameters.js'
import { castTo, copy } from '../src/ops/index.js'
import { tidy } from '../src/tensor/scope.js'
import { copyTokenizer } from '../src/tokenizer/tokenizer.js'
import { entriesOf } from './state.js'

/** What to merge, and where to. */
export interface MergeOptions extends DeviceOptions {
  /** Folder of an adapter (or of the run that trained it), or of a model beside `adapter`. */
  readonly model: string
  readonly adapter?: string
  /** Folder to make. */
  readonly output: string
  /** Type of the weights that are written; default the base's. */
  readonly dtype?: 'f32' | 'bf16'
  /**
   * Merge into the numbers that the base's weights are in four bits, as they were when the adapter was trained (QLoRA); the
   * result is a plain model all the same. Default false: into the base as it is stored.
   */
  readonly loadIn4bit?: boolean
  readonly bnb4bitUseDoubleQuant?: boolean
}

const mergeKinds = {
  ...deviceKinds,
  model: kinds.path,
  adapter: optional(kinds.path),
  output: kinds.path,
  dtype: optional(word('f32', 'bf16')),
  loadIn4bit: optional(kinds.flag),
  bnb4bitUseDoubleQuant: optional(kinds.flag),
}

/** Differences of log-probs (nats) or scores. */
export interface Difference {
  readonly largest: number
  readonly mean: number
}

/** What a merge wrote, and how far it is from the adapted model. */
export interface MergeResult {
  readonly directory: string
  readonly dtype: 'f32' | 'bf16'
  /** Numbers that were compared. */
  readonly compared: number
  /** Merged weights in f32 against the adapter. */
  readonly merged: Difference
  /** Merged weights rounded to what is written, against the adapter. */
  readonly rounded: Difference
}

/** Sequences, and tokens of each. */
const probeSize = { sequences: 4, tokens: 33 }

/**
 * Bounds. In f32 the two differ by the order of sums alone. Rounding weights to bf16 moves log-probs by some hundredths
 * of a nat, more on small models; a wrong merge moves them by whole nats.
 */
const largestMerged = 1e-4
const meanRounded = 0.1

/**
 * Merges an adapter into its base model and writes a Hugging Face folder.
 *
 * @throws WhetstoneError E_CONFIG without an adapter, or when the output exists; E_MISMATCH when merged and adapted
 *   models disagree: nothing is written; and what loading throws
 */
export async function merge(options: MergeOptions): Promise<MergeResult> {
  checkOptions('merge', options, mergeKinds)
  const { output, loadIn4bit, bnb4bitUseDoubleQuant } = options
  if (await exists(output)) throw new WhetstoneError('E_CONFIG', output, 'expected a folder to make, it exists already')
  const folder = await modelFolder(options.model)
  using adapted = await loadModel(folder, {
    ...membersOf(options, deviceKinds),
    adapter: options.adapter,
    loadIn4bit,
    bnb4bitUseDoubleQuant,
    dtype: 'f32',
  })
  const dtype = options.dtype ?? (await storedType(adapted.directory))
  const probe = await probeOf(adapted)
  const before = await probe(adapted.decoder)
  using plain = plainWeights(adapted)
  const decoder = mergeAdapter(plain.decoder)
  const merged = check(before, await probe(decoder), 'merged', ({ largest }) => largest <= largestMerged)
  if (dtype === 'bf16') roundWeights(decoder)
  const rounded = check(before, await probe(decoder), 'rounded', ({ mean }) => mean <= meanRounded)
  const model = languageModel(decoder, adapted.tokenizer, adapted.directory)
  await publish(model, await tokenizerFolder(folder, model.directory), output, dtype)
  return { directory: output, dtype, compared: before.length, merged, rounded }
}

/** The model with all of its weights as numbers; what was made for it is freed with it. */
function plainWeights({ decoder }: LanguageModel): Pick<LanguageModel, 'decoder'> & Disposable {
  if (decoder.quantized === undefined) return { decoder, [Symbol.dispose]: () => undefined }
  const parameters = unpackedParameters(decoder)
  return { decoder: { ...decoder, parameters, quantized: undefined }, [Symbol.dispose]: () => disposeFlat(parameters) }
}

async function storedType(directory: string): Promise<'f32' | 'bf16'> {
  const file = await openWeights(directory)
  await file.close()
  return [...file.tensors.values()].some(({ dtype }) => dtype === 'BF16') ? 'bf16' : 'f32'
}

/** Makes the sequences once; gives the numbers that a decoder has for them. */
async function probeOf(model: LanguageModel): Promise<(m: Decoder) => Promise<Float32Array>> {
  const { vocabSize, scoreLabels } = model.decoder.config
  const random = createRandom(deriveKey(0, 'merge'))
  const ids = (length: number) => Array.from({ length }, () => random.integer(vocabSize))
  const lists = (length: number) => Array.from({ length: probeSize.sequences }, () => ids(length))
  const of = (m: Decoder) => languageModel(m, model.tokenizer, model.directory)
  const joined = (rows: readonly Float32Array[]) => Float32Array.from(rows.flatMap((row) => [...row]))
  if (scoreLabels !== undefined) {
    const sequences = lists(probeSize.tokens)
    const positions = sequences.map((sequence) => [...sequence.keys()])
    return async (m) => joined(await of(m).scores(sequences, positions))
  }
  const starts = lists(1)
  const samples = await model.generate(starts, { maxNewTokens: probeSize.tokens - 1, stopIds: [] })
  const sequences = samples.map(([{ ids }], s) => [...starts[s], ...ids])
  return async (m) => joined((await of(m).logProbs(sequences)).map((row) => row.subarray(1)))
}

function check(a: Float32Array, b: Float32Array, what: string, fits: (d: Difference) => boolean): Difference {
  const apart = Array.from(a, (value, i) => Math.abs(value - b[i]))
  const mean = apart.reduce((sum, value) => sum + value, 0) / apart.length
  const difference = { largest: apart.reduce((most, value) => Math.max(most, value), 0), mean }
  if (fits(difference)) return difference
  const bound = what === 'merged' ? `at most ${largestMerged}` : `at most ${meanRounded} in the mean`
  const text = `expected the ${what} model to give the adapter's log-probs, ${bound}, got ${difference.largest} (mean ${mean}): nothing was written`
  throw new WhetstoneError('E_MISMATCH', 'merge', text, { details: { ...difference } })
}

/** Rounds f32 weights to what bf16 can hold. */
function roundWeights({ parameters }: Decoder): void {
  for (const group of parameterGroups) tidy(() => copy(parameters.flat[group], castTo(parameters.flat[group], 'bf16')))
}

const inBf16 = ({ data, ...entry }: TensorEntry): TensorEntry => {
  const halves = bf16FromF32(new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4))
  return { ...entry, dtype: 'BF16', data: new Uint8Array(halves.buffer) }
}

/** Writes beside the output, then gives the folder its name: one that exists is whole. */
async function publish(
  { decoder, directory }: LanguageModel,
  tokenizer: string,
  output: string,
  dtype: 'f32' | 'bf16',
): Promise<void> {
  const temporary = `${output}.tmp-${process.pid}`
  try {
    await ensureDirectory(temporary)
    const entries = await entriesOf(decoder.parameters)
    const stored = dtype === 'bf16' ? entries.map(inBf16) : entries
    await writeSafetensors(join(temporary, 'model.safetensors'), stored, { format: 'pt' })
    await copyTokenizer(tokenizer, temporary)
    const config = await readText(join(directory, 'config.json'))
    await writeAtomic(join(temporary, 'config.json'), configJson(decoder.config, config, dtype))
    const generation = join(directory, 'generation_config.json')
    if (await exists(generation))
      await writeAtomic(join(temporary, 'generation_config.json'), await readText(generation))
    await attempt('publish', output, () => rename(temporary, output))
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined)
    throw error
  }
}
