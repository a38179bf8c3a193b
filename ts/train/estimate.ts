// How much memory a run will need, before it starts: the trainer's own step on a device that only counts, over the
// micro-batches that hold most. Read are config.json, the type of the weights, and rows; no weight is loaded. The peak is
// what `memory().peakBytes` will say; kernel scratch and host memory, which are not in it, are estimated beside it.

import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { Objective, Role } from '../loss/define.js'
import { WhetstoneError } from '../src/base/errors.js'
import { exists } from '../src/io/files.js'
import { readJsonObject } from '../src/io/json.js'
import { openWeights } from '../src/io/safetensors.js'
import { linearModules, withEmptyAdapter, withoutAdapter } from '../src/models/adapter.js'
import { type DecoderConfig, decoderConfig } from '../src/models/config.js'
import { createDecoder, type Decoder, decoderSpecs, trainableOf } from '../src/models/decoder.js'
import { loadAdapter } from '../src/models/peft.js'
import { type LoraConfig, loraConfig, targetsOf } from '../src/nn/lora.js'
import { type FlatTensors, flatBytes, placeParameters } from '../src/nn/parameters.js'
import { keep } from '../src/tensor/scope.js'
import { empty } from '../src/tensor/tensor.js'
import { loadTokenizer } from '../src/tokenizer/tokenizer.js'
import type { TrainingOptions } from './config/options.js'
import { encodeFor, rowKindOf } from './data/encode.js'
import type { EncodedExample } from './data/example.js'
import { type MicroBatch, microBatchOf } from './data/micro-batch.js'
import { planData } from './data/plan.js'
import { type DataSource, readData } from './data/rows.js'
import { type CountingDevice, openCountingDevice, type Usage } from './estimate-device.js'
import { createTrainer, type Trainer, trainStep } from './trainer.js'

/** The run to estimate. */
export interface EstimateOptions {
  /** Hugging Face folder; its weights are not read. */
  readonly model: string
  readonly objective: Objective
  readonly training: TrainingOptions
  /** Default what the weights are. */
  readonly dtype?: 'f32' | 'bf16'
  /** Hugging Face folder of the reference; default the model's. */
  readonly reference?: string
  /** Rows; without them every sequence has maxLength tokens. */
  readonly data?: DataSource
  /** The first rows only. */
  readonly limit?: number
  /** Settings of a fresh adapter; default none. */
  readonly lora?: Partial<LoraConfig>
  /** PEFT folder of an adapter to go on with; its tensors are read. */
  readonly adapter?: string
}

/** A line of the table. */
export interface EstimateRow {
  readonly name: string
  readonly bytes: number
}

/** What a run will need. */
export interface MemoryEstimate {
  /** Most device bytes in use by tensors at once. */
  readonly peakBytes: number
  /** What is in use at the peak; adds up to `peakBytes`. */
  readonly rows: readonly EstimateRow[]
  /** The micro-batch that needs most. */
  readonly batch: { readonly sequences: number; readonly tokens: number; readonly trainedTokens: number }
  /** Blocks kept for use again, and kernel scratch: taken from the system, not in `peakBytes`. */
  readonly besideBytes: number
  /** Host memory of rows, and of a checkpoint while it is written. */
  readonly hostBytes: number
  readonly dtype: 'f32' | 'bf16'
}

/**
 * Predicts the memory of `train(...)`.
 *
 * @throws WhetstoneError E_CONFIG, E_FORMAT, E_IO for a folder or rows that training would refuse too
 */
export async function estimateMemory(options: EstimateOptions): Promise<MemoryEstimate> {
  const { model, training, objective } = options
  const dtype = options.dtype ?? (await storedType(model))
  const examples = await examplesOf(options)
  const counting = openCountingDevice()
  const policy = await adapted(options, await emptyDecoder(counting, model, dtype, 'weights'))
  const reference = await referenceOf(counting, options, policy)
  const trainer = createTrainer({
    policy,
    objective,
    reference,
    optimizer: training,
    activationCheckpointing: training.gradientCheckpointing,
    temperature: training.temperature,
    seed: training.seed,
    neftuneNoiseAlpha: training.neftuneNoiseAlpha,
  })
  labelState(counting, trainer)
  const peak = await largestStep(counting, trainer, typicalBatches(examples, training))
  return {
    ...peak,
    besideBytes:
      counting.device.memory().poolBytes - peak.peakBytes + scratchBytes(policy.config, objective, peak.batch),
    hostBytes: hostBytes(examples, trainer),
    dtype,
  }
}

/** The type of a folder's weights, from their header; without weights what config.json says. */
async function storedType(directory: string): Promise<'f32' | 'bf16'> {
  const raw = await readJsonObject(join(directory, 'config.json'))
  const declared = String(raw.dtype ?? raw.torch_dtype)
  const known =
    (await exists(join(directory, 'model.safetensors'))) ||
    (await exists(join(directory, 'model.safetensors.index.json')))
  if (!known) return declared === 'bfloat16' ? 'bf16' : 'f32'
  const file = await openWeights(directory)
  const [first] = file.tensors.values()
  await file.close()
  return first.dtype === 'BF16' ? 'bf16' : 'f32'
}

/** A decoder whose weights are sizes only. */
async function emptyDecoder(
  counting: CountingDevice,
  directory: string,
  dtype: 'f32' | 'bf16',
  label: string,
): Promise<Decoder> {
  const generation = join(directory, 'generation_config.json')
  const config = decoderConfig(
    await readJsonObject(join(directory, 'config.json')),
    (await exists(generation)) ? await readJsonObject(generation) : {},
  )
  const { placements, sizes } = placeParameters(decoderSpecs(config))
  const group = (size: number) => keep(empty(counting.device, [size], dtype))
  const flat = { matrix: group(sizes.matrix), vector: group(sizes.vector) }
  const byName = new Map(placements.map((p) => [p.name, keep(flat[p.group].view(p.shape, p.offset))]))
  counting.label(label, Object.values(flat))
  return createDecoder(config, counting.device, { dtype, placements, flat, byName })
}

/** The policy with the adapter that is asked for. */
async function adapted({ lora, adapter }: EstimateOptions, base: Decoder): Promise<Decoder> {
  if (adapter !== undefined) return loadAdapter(base, adapter)
  if (lora === undefined) return base
  const config = loraConfig(lora)
  return withEmptyAdapter(base, config, targetsOf(config, [...linearModules(base.config).keys()]))
}

/** The model that the objective looks at: a folder of its own, the policy without its adapter, or a copy. */
async function referenceOf(
  counting: CountingDevice,
  { objective, training, reference, model, lora }: EstimateOptions,
  policy: Decoder,
): Promise<Decoder | undefined> {
  const { needs } = objective
  if (!needs.reference || (training.precomputeRefLogProbs && needs.kl === undefined)) return undefined
  if (reference === undefined && lora !== undefined) return withoutAdapter(policy)
  return emptyDecoder(counting, reference ?? model, policy.parameters.dtype, 'reference')
}

function labelState(counting: CountingDevice, { optimizer, tiedHead, policy }: Trainer): void {
  const { masters, gradients, firstMoments, secondMoments } = optimizer
  const all = (flat: FlatTensors) => Object.values(flat.flat)
  if (policy.adapter !== undefined) counting.label('adapter', all(policy.adapter.parameters))
  if (masters !== trainableOf(policy)) counting.label('f32 masters', all(masters))
  counting.label('gradients', all(gradients))
  counting.label('optimizer moments', [...all(firstMoments), ...all(secondMoments)])
  if (tiedHead !== undefined) counting.label('gradient of the tied head', [tiedHead.gradient])
}

/** Runs a step over each micro-batch and keeps the one with the highest peak. */
async function largestStep(
  counting: CountingDevice,
  trainer: Trainer,
  batches: readonly MicroBatch[],
): Promise<Pick<MemoryEstimate, 'peakBytes' | 'rows' | 'batch'>> {
  let found: { peakBytes: number; usage: Usage; batch: MicroBatch } | undefined
  for (const batch of batches) {
    counting.resetPeak()
    const { loss } = await trainStep(trainer, [batch], 0)
    if (!Number.isFinite(loss)) throw new WhetstoneError('E_INTERNAL', 'estimate', `expected a loss, got ${loss}`)
    const { peakBytes } = counting.device.memory()
    if (found === undefined || peakBytes > found.peakBytes) found = { peakBytes, usage: counting.usageAtPeak(), batch }
  }
  if (found === undefined) throw new WhetstoneError('E_CONFIG', 'data', 'expected at least one row, got none')
  const { sequences, packed, targets } = found.batch
  return {
    peakBytes: found.peakBytes,
    rows: rowsOf(found.usage),
    batch: { sequences: sequences.length, tokens: packed.ids.length, trainedTokens: targets.length },
  }
}

/** What the families of ops make in a step, besides the state of the run. */
const names: Readonly<Record<string, string>> = {
  inputs: 'activations: ids, positions, rotary tables',
  layout: 'activations: embeddings, rows for the head',
  elementwise: 'activations: residuals and gates',
  matmul: 'activations: projections',
  norm: 'activations: norms',
  attention: 'activations: rotated heads and attention',
  head: 'activations: head',
  reduce: 'activations: sums',
}

const rowsOf = (usage: Usage): EstimateRow[] =>
  [...usage].map(([label, bytes]) => ({ name: names[label] ?? label, bytes })).sort((a, b) => b.bytes - a.bytes)

/** The micro-batches with most tokens and with most trained tokens, and some of all sizes for the blocks left idle. */
function typicalBatches(examples: readonly EncodedExample[], training: TrainingOptions): MicroBatch[] {
  const plan = planData(examples, training)
  const steps =
    training.maxSteps > 0 ? training.maxSteps : Math.ceil(plan.stepsPerEpoch * Math.max(1, training.numTrainEpochs))
  const micros = Array.from({ length: Math.min(steps, mostSteps) }, (_, step) => plan.rowsOf(step)).flat()
  const sumOf = (of: readonly number[]) => (micro: readonly number[]) => micro.reduce((sum, row) => sum + of[row], 0)
  const tokens = sumOf(examples.map((example) => example.reduce((sum, { ids }) => sum + ids.length, 0)))
  const trained = sumOf(examples.map((example) => example.reduce((sum, own) => sum + countMarks(own.trained), 0)))
  const bySize = [...micros].sort((a, b) => tokens(b) - tokens(a))
  const spread = Array.from({ length: sampled }, (_, i) => bySize[Math.floor((i * bySize.length) / sampled)])
  const chosen = new Set([...spread, micros.reduce((best, micro) => (trained(micro) > trained(best) ? micro : best))])
  const share = training.sharePrompts ? 'example' : 'none'
  return [...chosen].map((micro) =>
    microBatchOf(
      micro.map((row) => examples[row]),
      { share },
    ),
  )
}

/** Steps to look through for the largest micro-batch. */
const mostSteps = 100_000

/** Micro-batches of different sizes to run. */
const sampled = 8

const countMarks = (trained: Uint8Array): number => trained.reduce((sum, mark) => sum + mark, 0)

/** The rows of the data; without data as many of the greatest length as a micro-batch takes. */
async function examplesOf(options: EstimateOptions): Promise<EncodedExample[]> {
  const { data, training, objective, model, limit } = options
  if (data === undefined) {
    const rows = training.packing ? 1 : objective.needs.wholeStep === true ? training.gradientAccumulationSteps : 1
    return Array.from({ length: rows * training.perDeviceTrainBatchSize }, () =>
      fullExample(objective, training.maxLength),
    )
  }
  const tokenizer = await loadTokenizer(model)
  const { rows } = await readData(data, rowKindOf(objective))
  return [...encodeFor(objective, tokenizer, rows.slice(0, limit), training).examples]
}

/** An example of the objective whose every token is trained, and whose sequences share nothing. */
function fullExample({ needs }: Objective, maxLength: number): EncodedExample {
  const roles: readonly Role[] = needs.roles ?? ['completion']
  const scores = Object.fromEntries(['advantage', 'label', ...(needs.scores ?? [])].map((name) => [name, 1]))
  return roles.map((role, s) => {
    const trained = new Uint8Array(maxLength).fill(1)
    trained[0] = 0
    return { ids: new Array<number>(maxLength).fill(s), trained, role, scores }
  })
}

/** Upper bound of what kernels use for themselves: tiles of logits, a packed operand, blocks of each worker. */
function scratchBytes(
  { vocabSize }: DecoderConfig,
  { needs }: Objective,
  { trainedTokens }: MemoryEstimate['batch'],
): number {
  const megabyte = 2 ** 20
  const tile = Math.min(4 * megabyte, 4 * trainedTokens * Math.min(vocabSize, 1024))
  return tile * (needs.kl === undefined ? 1 : 2) + 4 * megabyte + availableParallelism() * megabyte
}

/** Rows as lists of ids with marks; a checkpoint's weights, masters and moments, read before they are written. */
function hostBytes(examples: readonly EncodedExample[], { policy, optimizer }: Trainer): number {
  const tokens = examples.flat().reduce((sum, { ids }) => sum + ids.length, 0)
  const trainable = trainableOf(policy)
  const masters = optimizer.masters === trainable ? 0 : flatBytes(optimizer.masters)
  return tokens * (8 + 1) + flatBytes(trainable) + masters + 2 * flatBytes(optimizer.firstMoments)
}
