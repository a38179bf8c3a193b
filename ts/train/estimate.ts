// How much memory a run will need, before it starts: the trainer's own step on a device that only counts, over the
// micro-batches that hold most. Read are config.json, the type of the weights, and rows; no weight is loaded. The peak is
// what `memory().peakBytes` will say; kernel scratch and host memory, which are not in it, are estimated beside it.

import { availableParallelism } from 'node:os'
import type { Objective } from '../loss/define.js'
import { objectiveKind } from '../loss/objective.js'
import { checkOptions, kinds, optional, word } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'
import type { DecoderConfig } from '../src/models/config.js'
import { trainableOf } from '../src/models/decoder.js'
import { usualAlignment } from '../src/native/device.js'
import { type FlatTensors, flatBytes } from '../src/nn/parameters.js'
import { trainingOptions } from './config/options.js'
import { resolveConfig } from './config/resolve.js'
import { alignmentOf } from './data/align.js'
import type { EncodedExample } from './data/example.js'
import type { MicroBatch } from './data/micro-batch.js'
import { dataKind } from './data/rows.js'
import { examplesOf, largestEvaluations, typicalBatches, withReferenceLogps } from './estimate-batches.js'
import { type CountingDevice, openCountingDevice, type Usage } from './estimate-device.js'
import { type EstimateOptions, isPrecomputed, policyOf, referenceOf } from './estimate-models.js'

import { checkTeacher } from './reference.js'
import { flatState } from './state.js'
import { trainerSettings } from './train.js'
import { createTrainer, evaluateLoss, type Trainer, trainStep } from './trainer.js'

export type { EstimateOptions } from './estimate-models.js'

const estimateKinds = {
  model: kinds.path,
  objective: objectiveKind,
  training: kinds.object,
  dtype: optional(word('f32', 'bf16')),
  loadIn4bit: optional(kinds.flag),
  bnb4bitUseDoubleQuant: optional(kinds.flag),
  reference: optional(kinds.path),
  data: optional(dataKind),
  limit: optional(kinds.number),
  evalData: optional(dataKind),
  lora: optional(kinds.object),
  adapter: optional(kinds.path),
  chatTemplatePath: optional(kinds.path),
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
  /** The micro-batch that needs most, of training or of an evaluation. */
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
export async function estimateMemory(given: EstimateOptions): Promise<MemoryEstimate> {
  checkOptions('estimateMemory', given, estimateKinds)
  checkTeacher(given.objective, given.reference)
  const { values } = resolveConfig(trainingOptions, [{ origin: 'argument', values: given.training }])
  const options = { ...given, training: values }
  const { training, objective } = options
  const counting = openCountingDevice(usualAlignment())
  const policy = await policyOf(counting, options)
  const read = await examplesOf(options, policy.config)
  const known = (examples: EncodedExample[]) => (isPrecomputed(options) ? withReferenceLogps(examples) : examples)
  const [train, held] = [known(read.train), known(read.held)]
  const reference = await referenceOf(counting, options, policy)
  const trainer = createTrainer({
    policy,
    objective,
    reference,
    ...trainerSettings(training),
  })
  labelState(counting, trainer)
  const peak = await largestWork(counting, [
    ...typicalBatches(train, options, alignmentOf(policy)).map((batch) => ({
      batch,
      run: () => trainStep(trainer, [batch], 0),
    })),
    ...largestEvaluations(held, options).map((batch) => ({ batch, run: () => evaluateLoss(trainer, [batch]) })),
  ])
  return {
    ...peak,
    besideBytes:
      counting.device.memory().poolBytes - peak.peakBytes + scratchBytes(policy.config, objective, peak.batch),
    hostBytes: hostBytes([...train, ...held], trainer),
    dtype: policy.parameters.dtype,
  }
}

/** Names what stays of a run all the time. */
export function labelState(counting: CountingDevice, { optimizer, tiedHead, policy }: Trainer): void {
  const { masters, gradients, firstMoments, secondMoments } = optimizer
  const all = (flat: FlatTensors) => Object.values(flat.flat)
  if (policy.adapter !== undefined) counting.label('adapter', all(policy.adapter.parameters))
  if (masters !== trainableOf(policy)) counting.label('f32 masters', all(masters))
  counting.label('gradients', all(gradients))
  counting.label('optimizer moments', [...all(firstMoments), ...all(secondMoments)])
  if (tiedHead !== undefined) counting.label('gradient of the tied head', [tiedHead.gradient])
}

/** A step or an evaluation over a micro-batch. */
interface Work {
  readonly batch: MicroBatch
  readonly run: () => Promise<{ readonly loss: number }>
}

/** Runs the work over each micro-batch and keeps the one with the highest peak. */
async function largestWork(
  counting: CountingDevice,
  works: readonly Work[],
): Promise<Pick<MemoryEstimate, 'peakBytes' | 'rows' | 'batch'>> {
  let found: { peakBytes: number; usage: Usage; batch: MicroBatch } | undefined
  for (const { batch, run } of works) {
    counting.resetPeak()
    const { loss } = await run()
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
  quantize: 'activations: an unpacked matrix',
  reduce: 'activations: sums',
}

/** A table of what memory is used for, the largest first. */
export const rowsOf = (usage: Usage): EstimateRow[] =>
  [...usage].map(([label, bytes]) => ({ name: names[label] ?? label, bytes })).sort((a, b) => b.bytes - a.bytes)

/** Upper bound of what kernels use for themselves: tiles of logits, a packed operand, blocks of each worker. */
export function scratchBytes(
  { vocabSize }: DecoderConfig,
  { needs }: Objective,
  { trainedTokens }: MemoryEstimate['batch'],
): number {
  const megabyte = 2 ** 20
  const tile = Math.min(4 * megabyte, 4 * trainedTokens * Math.min(vocabSize, 1024))
  return tile * (needs.kl === undefined ? 1 : 2) + 4 * megabyte + availableParallelism() * megabyte
}

/** Rows as lists of ids with marks; a checkpoint's tensors, read before they are written. */
function hostBytes(examples: readonly EncodedExample[], trainer: Trainer): number {
  const tokens = examples.flat().reduce((sum, { ids }) => sum + ids.length, 0)
  const saved = [trainableOf(trainer.policy), ...flatState(trainer).map(([, flat]) => flat)]
  return tokens * (8 + 1) + saved.reduce((sum, flat) => sum + flatBytes(flat), 0)
}
