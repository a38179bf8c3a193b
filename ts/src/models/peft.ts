// Adapters as PEFT's folders: adapter_config.json and adapter_model.safetensors, in and out. What of PEFT's settings we
// do not have is refused by name: an adapter that loads computes what it computes there. The tensors in the file say
// which modules are adapted; a pattern from a file is kept for the way back, and never run.

import { isAbsolute, join, resolve } from 'node:path'
import { checkArgument, kinds } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import { toDeviceType } from '../io/dtype.js'
import { ensureDirectory, exists, writeAtomic } from '../io/files.js'
import { isJsonObject, readJsonObject } from '../io/json.js'
import { modelFolder } from '../io/model-folder.js'
import { openWeights, type TensorEntry, type TensorFile, writeSafetensors } from '../io/safetensors.js'
import { isNamed, type LoraConfig, loraConfig } from '../nn/lora.js'
import type { ParameterSpec } from '../nn/parameters.js'
import { sameShape, shapeText } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import {
  type AdaptedDecoder,
  adapterIn,
  adapterSpecs,
  disposeAdapter,
  linearModules,
  peftPrefix,
  wholeSpecs,
  withEmptyAdapter,
} from './adapter.js'
import type { DecoderConfig } from './config.js'
import { type Decoder, decoderKind, headName, ownParameter } from './decoder.js'

const configFile = 'adapter_config.json'
const stem = 'adapter_model'

type Json = Readonly<Record<string, unknown>>

// Reading settings ---------------------------------------------------------------------------------------------------

const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''
const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)
const isFlag = (value: unknown): boolean => typeof value === 'boolean'
const isNames = (value: unknown): value is string[] => Array.isArray(value) && value.length > 0 && value.every(isText)
/** PEFT takes the keys for regular expressions; those that are names but for anchors and escaped dots are read. */
const isPattern = (value: unknown): value is Record<string, number> =>
  isJsonObject(value) && Object.entries(value).every(([name, n]) => /^\^?[\w.\\-]+\$?$/.test(name) && isNumber(n))
const anything = (): boolean => true

/** What a setting may be, and how that reads. An absent one is PEFT's default, which is ours where it is read. */
const readable: Readonly<Record<string, readonly [fits: (value: unknown) => boolean, expected: string]>> = {
  peft_type: [(value) => value === 'LORA', '"LORA"'],
  task_type: [(value) => value === null || value === 'CAUSAL_LM' || value === 'SEQ_CLS', '"CAUSAL_LM" or "SEQ_CLS"'],
  base_model_name_or_path: [(value) => value === null || isText(value), 'the folder of the base model'],
  r: [isNumber, 'a number'],
  lora_alpha: [isNumber, 'a number'],
  lora_dropout: [isNumber, 'a number'],
  target_modules: [(value) => isText(value) || isNames(value), 'a pattern or a list of names'],
  bias: [(value) => value === 'none', '"none"'],
  use_rslora: [isFlag, 'true or false'],
  use_dora: [isFlag, 'true or false'],
  // Initialisations that leave the base as it is.
  init_lora_weights: [(value) => isFlag(value) || value === 'gaussian' || value === 'orthogonal', 'true or false'],
  rank_pattern: [isPattern, 'an object from names of modules to numbers'],
  alpha_pattern: [isPattern, 'an object from names of modules to numbers'],
  fan_in_fan_out: [isFlag, 'true or false'],
  modules_to_save: [(value) => isOff(value) || isNames(value), 'null or a list of names'],
  // Tied matrices stay tied here; files that hold two others are refused.
  ensure_weight_tying: [isFlag, 'true or false'],
  // These say nothing of the arithmetic, or only where a setting that is refused is on.
  auto_mapping: [anything, ''],
  inference_mode: [anything, ''],
  megatron_core: [anything, ''],
  peft_version: [anything, ''],
  qalora_group_size: [anything, ''],
  revision: [anything, ''],
}

/** PEFT names both beside what is asked for, since classifiers have one or the other. A score head is trained anyway. */
const withoutScore = (names: unknown): string[] =>
  isNames(names) ? names.filter((name) => name !== 'score' && name !== 'classifier') : []

/** A setting that PEFT has and we have not must be off. */
const isOff = (value: unknown): boolean =>
  value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0)

function checkSettings(raw: Json, where: string): void {
  for (const [key, value] of Object.entries(raw)) {
    const [fits, expected] = Object.hasOwn(readable, key)
      ? readable[key]
      : [isOff, 'null or false: it is not supported']
    if (fits(value)) continue
    const text = `expected ${expected}, got ${String(JSON.stringify(value)).slice(0, 120)}`
    throw new WhetstoneError('E_CONFIG', `${where}: ${key}`, text)
  }
  for (const key of ['peft_type', 'target_modules'])
    if (!Object.hasOwn(raw, key))
      throw new WhetstoneError('E_CONFIG', `${where}: ${key}`, `expected ${readable[key][1]}, got nothing`)
}

const nameOf = (pattern: string): string => pattern.replace(/^\^|\\|\$$/g, '')

const namesOf = (patterns: unknown): Record<string, number> =>
  Object.fromEntries(Object.entries((patterns ?? {}) as Record<string, number>).map(([key, n]) => [nameOf(key), n]))

/** What an adapter's folder says of itself. */
export interface AdapterDescription {
  readonly lora: LoraConfig
  /** The base model as the folder names it. */
  readonly base: string | undefined
  /** Made for a model with a score head. */
  readonly score: boolean
}

/**
 * Reads adapter_config.json.
 *
 * @throws WhetstoneError E_CONFIG naming a setting that is not supported or not fit; E_FORMAT, E_IO
 */
export async function readAdapterConfig(directory: string): Promise<AdapterDescription> {
  const where = join(directory, configFile)
  const raw = await readJsonObject(where)
  checkSettings(raw, where)
  // PEFT's own defaults, where the file is silent.
  const {
    r = 8,
    lora_alpha = 8,
    lora_dropout = 0,
    use_rslora = false,
    use_dora = false,
    init_lora_weights = true,
  } = raw
  const lora = loraConfig({
    r: r as number,
    loraAlpha: lora_alpha as number,
    loraDropout: lora_dropout as number,
    targetModules: raw.target_modules as string | string[],
    useRslora: use_rslora as boolean,
    useDora: use_dora as boolean,
    initLoraWeights: init_lora_weights !== false,
    rankPattern: namesOf(raw.rank_pattern),
    alphaPattern: namesOf(raw.alpha_pattern),
    modulesToSave: withoutScore(raw.modules_to_save),
  })
  const base = isText(raw.base_model_name_or_path) ? raw.base_model_name_or_path : undefined
  return { lora, base, score: raw.task_type === 'SEQ_CLS' }
}

/** Is it a folder of an adapter, not of a model? */
export const isAdapterFolder = (directory: string): Promise<boolean> => exists(join(directory, configFile))

/**
 * The folder of an adapter's base. PEFT takes relative paths from the working directory; folders that this package wrote
 * earlier have them from the adapter's own, which is looked at first.
 *
 * @throws WhetstoneError E_CONFIG when it is named nowhere, or not on this machine
 */
export async function baseFolder(directory: string, { base }: AdapterDescription): Promise<string> {
  const where = `${join(directory, configFile)}: base_model_name_or_path`
  const advice =
    'name the base and the adapter beside it, loadModel(base, { adapter }) or --model BASE --adapter FOLDER, or write the folder of the base there'
  if (base === undefined) throw new WhetstoneError('E_CONFIG', where, `expected a folder, got none: ${advice}`)
  const places = isAbsolute(base) ? [base] : [resolve(directory, base), resolve(base)]
  for (const place of places) if (await exists(join(place, 'config.json'))) return modelFolder(place)
  throw new WhetstoneError('E_CONFIG', where, `expected a model's folder, '${base}' is none on this machine: ${advice}`)
}

// Reading tensors ----------------------------------------------------------------------------------------------------

/** Size of the score head that an adapter's folder holds; undefined when it holds none. */
export async function scoreLabelsIn(directory: string): Promise<number | undefined> {
  const file = await openWeights(directory, stem)
  await file.close()
  return file.tensors.get('base_model.model.score.weight')?.shape[0]
}

/** Modules that a file has tensors of, in the model's order. */
const modulesIn = (file: TensorFile, m: Decoder): string[] =>
  [...linearModules(m.config).keys()].filter((module) =>
    [...file.tensors.keys()].some((name) => name.includes(`.${module}.lora_`)),
  )

/**
 * Matrices that a file may hold without being the adapter's own, by their names there: PEFT saves embedding and head too when the
 * vocabulary is not of the size that its base's name leads it to expect. A tied matrix stands under both names, also where
 * the adapter trains it.
 */
function repeatable(m: Decoder): Map<string, Tensor> {
  const { config } = m
  const embedding = `${config.layout.embedding}.weight`
  const matrices = new Map([[peftPrefix + embedding, ownParameter(m, embedding)]])
  return config.scoreLabels === undefined ? matrices.set(headInFiles, ownParameter(m, headName(config))) : matrices
}

const valuesIn = async (file: TensorFile, name: string, dtype: 'f32' | 'bf16', where: string) =>
  toDeviceType(await file.read(name), file.tensors.get(name)?.dtype ?? '', dtype, `${where}: ${name}`)

/** What a file repeats must be what the model has there: PEFT would put it in its place. */
async function checkRepeated(file: TensorFile, m: AdaptedDecoder, where: string): Promise<void> {
  const isTwin = repeatsHead(m.config, m.adapter.config)
  for (const [name, t] of repeatable(m)) {
    if (!file.tensors.has(name) || m.adapter.parameters.byName.has(name)) continue
    const values = await valuesIn(file, name, t.dtype as 'f32' | 'bf16', where)
    // An estimate's device holds no numbers: a matrix that the file has twice is compared with itself.
    const own = isTwin ? await valuesIn(file, peftPrefix + headName(m.config), 'f32', where) : await t.bits()
    if (values.every((value, i) => value === own[i])) continue
    const text = isTwin
      ? `expected the values of the embedding, with which it is one matrix in the base, got others in ${name}: ${tying}`
      : `expected the values of the base, got others in ${name}: an embedding or a head that was resized is not supported, one that was trained is named in modules_to_save`
    throw new WhetstoneError('E_MISMATCH', where, text)
  }
}

const headInFiles = `${peftPrefix}lm_head.weight`

const tying = "train it with PEFT's ensure_weight_tying=True"

/** Does the adapter's file hold a trained matrix twice, because embedding and LM head are one? PEFT reads both. */
const repeatsHead = (c: DecoderConfig, lora: LoraConfig): boolean =>
  c.tied && wholeSpecs(c, lora).some(({ name }) => name === headName(c))

/** {@link adapterSpecs} as a file must have them. */
function specsInFile(c: DecoderConfig, lora: LoraConfig, targets: readonly string[]): ParameterSpec[] {
  const specs = adapterSpecs(c, lora, targets)
  return repeatsHead(c, lora) ? [...specs, { name: headInFiles, shape: [c.vocabSize, c.hiddenSize] }] : specs
}

function checkTensors(file: TensorFile, m: Decoder, { lora }: AdapterDescription, where: string): string[] {
  const targets = modulesIn(file, m)
  const wanted = new Map(specsInFile(m.config, lora, targets).map(({ name, shape }) => [name, shape]))
  const known = new Map([...wanted, ...[...repeatable(m)].map(([name, { shape }]) => [name, shape] as const)])
  const missing = [...wanted.keys()].filter((name) => !file.tensors.has(name))
  const apart = missing.some((name) => repeatable(m).has(name)) && repeatsHead(m.config, lora)
  const { targetModules } = lora
  if (typeof targetModules !== 'string')
    for (const module of linearModules(m.config).keys())
      if (targetModules.some((name) => isNamed(module, name)) && !targets.includes(module))
        missing.push(`${module} (all)`)
  const unexpected = [...file.tensors.keys()].filter((name) => !known.has(name))
  const misshapen = [...file.tensors].flatMap(([name, { shape }]) => {
    const expected = known.get(name)
    return expected === undefined || sameShape(shape, expected)
      ? []
      : [`${name} (expected ${shapeText(expected)}, got ${shapeText(shape)})`]
  })
  if (targets.length === 0) missing.push('lora_A and lora_B of any module')
  const faults = Object.entries({ missing, unexpected, misshapen }).filter(([, names]) => names.length > 0)
  if (faults.length === 0) return targets
  const listed = faults.map(([what, names]) => `${what}: ${names.slice(0, 5).join(', ')}`).join('; ')
  const text = apart ? `${listed} (embedding and LM head are one matrix in the base: ${tying})` : listed
  throw new WhetstoneError('E_MISMATCH', where, `the adapter does not fit the model or its own settings: ${text}`, {
    details: { missing, unexpected, misshapen },
  })
}

/**
 * A decoder with the adapter of a PEFT folder; the base's tensors are shared.
 *
 * @throws WhetstoneError E_CONFIG for settings that are not supported; E_MISMATCH naming tensors that are missing,
 *   unexpected or misshapen; E_DTYPE, E_FORMAT, E_TORN, E_IO, E_OOM
 */
export async function loadAdapter(m: Decoder, directory: string): Promise<AdaptedDecoder> {
  const description = await readAdapterConfig(directory)
  wholeSpecs(m.config, description.lora, `${join(directory, configFile)}: modules_to_save`)
  const file = await openWeights(directory, stem)
  try {
    const targets = checkTensors(file, m, description, directory)
    const adapted = withEmptyAdapter(m, description.lora, targets)
    try {
      await readTensors(file, adapted, directory)
      await checkRepeated(file, adapted, directory)
      return adapted
    } catch (error) {
      disposeAdapter(adapted)
      throw error
    }
  } finally {
    await file.close()
  }
}

async function readTensors(file: TensorFile, { adapter, device }: AdaptedDecoder, where: string): Promise<void> {
  for (const [name, t] of adapter.parameters.byName) t.write(await valuesIn(file, name, 'f32', where))
  // What the device refuses (memory) is said here and not at the first use.
  await device.sync()
}

// Writing ------------------------------------------------------------------------------------------------------------

/**
 * The tensors of a decoder's adapter as a PEFT file has them.
 *
 * @throws WhetstoneError E_CONFIG without an adapter
 */
export async function adapterEntries(m: Decoder): Promise<(TensorEntry & { dtype: 'F32' })[]> {
  const { config, parameters } = adapterIn(m)
  const entries = [...parameters.byName].map(async ([name, t]) => {
    const bits = await t.bits()
    return { name, dtype: 'F32' as const, shape: t.shape, data: new Uint8Array(bits.buffer) }
  })
  const made = await Promise.all(entries)
  const repeated = repeatsHead(m.config, config)
    ? made.filter(({ name }) => name === peftPrefix + headName(m.config))
    : []
  return [...made, ...repeated.map((entry) => ({ ...entry, name: headInFiles }))]
}

/** modules_to_save of an adapter: a tied matrix under both of its names, and a score head. */
function namesToSave(c: DecoderConfig, lora: LoraConfig): string[] {
  const pair = repeatsHead(c, lora) ? [c.layout.embedding, 'lm_head'] : []
  const unnamed = pair.filter((module) => !lora.modulesToSave.some((name) => module.endsWith(name)))
  const added = [
    ...unnamed.map((module) => module.replace(/^.*\./, '')),
    ...(c.scoreLabels === undefined ? [] : ['score']),
  ]
  return [...new Set([...lora.modulesToSave, ...added])]
}

/**
 * adapter_config.json of a decoder's adapter.
 *
 * @param base how it names the base model: an absolute folder, or what else PEFT should find it by
 * @throws WhetstoneError E_CONFIG without an adapter
 */
export function adapterConfigJson(m: Decoder, base: string): Json {
  const adapter = adapterIn(m)
  const { config: lora } = adapter
  const saved = namesToSave(m.config, lora)
  const leaves = [...new Set([...adapter.modules.keys()].map((module) => module.replace(/^.*\./, '')))].sort()
  return {
    peft_type: 'LORA',
    task_type: m.config.scoreLabels === undefined ? 'CAUSAL_LM' : 'SEQ_CLS',
    base_model_name_or_path: base,
    r: lora.r,
    lora_alpha: lora.loraAlpha,
    lora_dropout: lora.loraDropout,
    // PEFT means more by this word for a model with a score head.
    target_modules: lora.targetModules === 'all-linear' ? leaves : lora.targetModules,
    use_rslora: lora.useRslora,
    use_dora: lora.useDora,
    init_lora_weights: lora.initLoraWeights,
    rank_pattern: lora.rankPattern,
    alpha_pattern: lora.alphaPattern,
    modules_to_save: saved.length > 0 ? saved : null,
    ...(repeatsHead(m.config, lora) && { ensure_weight_tying: true }),
    bias: 'none',
    fan_in_fan_out: m.config.layout.transposed === true,
    inference_mode: true,
  }
}

/**
 * Writes a folder that PEFT (and loadModel) reads. Files that are there already are replaced.
 *
 * @param base as in {@link adapterConfigJson}
 * @throws WhetstoneError E_CONFIG without an adapter, E_IO
 */
export async function saveAdapter(m: Decoder, directory: string, base: string): Promise<void> {
  checkArgument('saveAdapter.decoder', m, decoderKind)
  checkArgument('saveAdapter.directory', directory, kinds.path)
  checkArgument('saveAdapter.base', base, kinds.text)
  await ensureDirectory(directory)
  await writeSafetensors(join(directory, `${stem}.safetensors`), await adapterEntries(m), { format: 'pt' })
  await writeAtomic(join(directory, configFile), `${JSON.stringify(adapterConfigJson(m, base), null, 2)}\n`)
}
