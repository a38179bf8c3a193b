// What is estimated, and the models of the run on a device that counts: configurations and types are read, weights are sizes.

import { join } from 'node:path'
import type { Objective } from '../loss/define.js'
import { exists } from '../src/io/files.js'
import { readJsonObject } from '../src/io/json.js'
import { modelFile, modelFolder } from '../src/io/model-folder.js'
import { openWeights, type TensorFile } from '../src/io/safetensors.js'
import { linearModules, withEmptyAdapter, withoutAdapter } from '../src/models/adapter.js'
import { decoderConfig } from '../src/models/config.js'
import type { Decoder } from '../src/models/decoder.js'
import { checkQuantization, emptyDecoder } from '../src/models/load.js'
import { baseFolder, isAdapterFolder, loadAdapter, readAdapterConfig } from '../src/models/peft.js'
import { withScoreHead } from '../src/models/score.js'
import { type LoraConfig, loraConfig, targetsOf } from '../src/nn/lora.js'
import type { TrainingInput, TrainingOptions } from './config/options.js'
import type { DataSource } from './data/rows.js'
import type { CountingDevice } from './estimate-device.js'

/** The run to estimate. */
export interface EstimateOptions {
  /** Hugging Face folder, or a run; its weights are not read. */
  readonly model: string
  readonly objective: Objective
  /** Settings of the run; those that are left out have the defaults of `train`. */
  readonly training: TrainingInput
  /** Default what the weights are. */
  readonly dtype?: 'f32' | 'bf16'
  /** As in `loadModel`, for the policy and a reference. */
  readonly loadIn4bit?: boolean
  readonly bnb4bitUseDoubleQuant?: boolean
  /** Folder of the reference; default the model's. */
  readonly reference?: string
  /** Rows; without them every sequence has maxLength tokens. */
  readonly data?: DataSource
  /** The first rows only. */
  readonly limit?: number
  /** Rows to evaluate on; without them `evalRows` of the data are held out. */
  readonly evalData?: DataSource
  /** Settings of a fresh adapter; default none. */
  readonly lora?: Partial<LoraConfig>
  /** PEFT folder of an adapter to go on with; its tensors are read. */
  readonly adapter?: string
  /** Chat template in place of the model's own, as in `loadModel`. */
  readonly chatTemplatePath?: string
}

/** The run to estimate, every setting known. */
export type ResolvedEstimate = EstimateOptions & { readonly training: TrainingOptions }

/** The type of a folder's weights, from their header; without weights what config.json says. */
async function storedType(directory: string): Promise<'f32' | 'bf16'> {
  const raw = await readJsonObject(await modelFile(directory, 'config.json'))
  const declared = String(raw.dtype ?? raw.torch_dtype)
  const known =
    (await exists(join(directory, 'model.safetensors'))) ||
    (await exists(join(directory, 'model.safetensors.index.json')))
  if (!known) return declared === 'bfloat16' ? 'bf16' : 'f32'
  const types = [...(await storedTensors(directory)).values()].map((tensor) => tensor.dtype)
  return types.includes('BF16') ? 'bf16' : 'f32'
}

/** What a folder's weight files say of themselves. */
async function storedTensors(directory: string): Promise<TensorFile['tensors']> {
  const file = await openWeights(directory)
  await file.close()
  return file.tensors
}

/** What weights take. */
type Room = Pick<EstimateOptions, 'loadIn4bit' | 'bnb4bitUseDoubleQuant'> & { readonly dtype: 'f32' | 'bf16' }

/** A decoder whose weights are sizes only. */
async function countedDecoder(
  { device, label }: CountingDevice,
  directory: string,
  { dtype, use, scoreLabels, ...options }: Room & { readonly use: string; readonly scoreLabels?: number },
): Promise<Decoder> {
  const generation = join(directory, 'generation_config.json')
  const stored = decoderConfig(
    await readJsonObject(await modelFile(directory, 'config.json')),
    (await exists(generation)) ? await readJsonObject(generation) : {},
  )
  const config = scoreLabels === undefined ? stored : withScoreHead(stored, scoreLabels)
  const tensors = config.quantization === undefined ? undefined : await storedTensors(directory)
  const m = emptyDecoder(config, device, dtype, { ...options, isStored: (name) => tensors?.has(name) === true })
  label(use, Object.values(m.parameters.flat))
  label(`${use} in four bits`, m.quantized?.storage ?? [])
  return m
}

/** A model's folder and an adapter's; the folder of an adapter names its model. */
export async function foldersOf(options: Pick<ResolvedEstimate, 'model' | 'adapter'>) {
  const model = await modelFolder(options.model)
  const adapter = options.adapter === undefined ? undefined : await modelFolder(options.adapter)
  if (!(await isAdapterFolder(model))) return { model, adapter }
  return { model: await baseFolder(model, await readAdapterConfig(model)), adapter: model }
}

/** The policy with the adapter that is asked for. */
export async function policyOf(
  counting: CountingDevice,
  { dtype, objective, lora, ...options }: ResolvedEstimate,
): Promise<Decoder> {
  checkQuantization(options)
  const { model, adapter } = await foldersOf(options)
  const base = await countedDecoder(counting, model, {
    ...options,
    dtype: dtype ?? (await storedType(model)),
    use: 'weights',
    scoreLabels: objective.needs.values,
  })
  if (adapter !== undefined) return loadAdapter(base, adapter)
  if (lora === undefined) return base
  const config = loraConfig(lora)
  return withEmptyAdapter(base, config, targetsOf(config, [...linearModules(base.config).keys()]))
}

/** Are the reference's log-probs computed before the first step? A divergence over the vocabulary cannot be. */
export const isPrecomputed = ({ objective: { needs }, training }: ResolvedEstimate): boolean =>
  needs.reference && needs.kl === undefined && training.precomputeRefLogProbs

/** The model that the objective looks at: a folder of its own, the policy without its adapter, or a copy. */
export async function referenceOf(
  counting: CountingDevice,
  options: ResolvedEstimate,
  policy: Decoder,
): Promise<Decoder | undefined> {
  const { objective, reference, lora, training, loadIn4bit, bnb4bitUseDoubleQuant } = options
  if (!objective.needs.reference || isPrecomputed(options)) return undefined
  if (reference === undefined && lora !== undefined) return withoutAdapter(policy)
  const directory = reference === undefined ? (await foldersOf(options)).model : await modelFolder(reference)
  const { dtype } = policy.parameters
  const settings = { dtype, loadIn4bit, bnb4bitUseDoubleQuant, use: 'reference' } as const
  // One that is given and follows the policy is copied: what was given stays as it is.
  if (reference !== undefined && training.syncRefModel) await countedDecoder(counting, directory, settings)
  return countedDecoder(counting, directory, settings)
}
