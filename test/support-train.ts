// What the training suites share: rows for the toy model, trainers over it, and hashes of everything a step may change.

import { createHash } from 'node:crypto'
import type { Objective } from '../ts/loss/define.js'
import { sft } from '../ts/loss/index.js'
import { withAdapter } from '../ts/src/models/adapter.js'
import { type Decoder, disposeDecoder, trainableOf } from '../ts/src/models/decoder.js'
import { type Device, getDevice } from '../ts/src/native/device.js'
import type { LoraConfig } from '../ts/src/nn/lora.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import type { EncodedSequence } from '../ts/train/data/example.js'
import { microBatchOfRows } from '../ts/train/data/micro-batch.js'
import type { AdamWConfig } from '../ts/train/optimizer.js'
import { entriesOf, optimizerEntries } from '../ts/train/state.js'
import { createTrainer, disposeTrainer, type MicroBatch, type Trainer, trainStep } from '../ts/train/trainer.js'
import { randomOf } from './support.js'
import { toyDecoder } from './support-models.js'

/** AdamW with everything switched on. */
export const adamw: AdamWConfig = {
  adamBeta1: 0.9,
  adamBeta2: 0.95,
  adamEpsilon: 1e-8,
  weightDecay: 0.1,
  maxGradNorm: 1,
}

/** Rows of 2 to 40 tokens of the toy's vocabulary with a masked prompt. */
export function toyRows(name: string, count: number): EncodedSequence[] {
  const random = randomOf(name)
  return Array.from({ length: count }, () => {
    const ids = Array.from({ length: 2 + random.integer(39) }, () => random.integer(61))
    const prompt = 1 + random.integer(ids.length - 1)
    return { ids, trained: Uint8Array.from(ids, (_, t) => Number(t >= prompt)) }
  })
}

/** Cuts rows into micro-batches of the given numbers of rows. */
export function split(rows: readonly EncodedSequence[], sizes: readonly number[]): MicroBatch[] {
  let at = 0
  return sizes.map((size) => {
    at += size
    return microBatchOfRows(rows.slice(at - size, at))
  })
}

/** How the toy is trained. */
export interface ToyOptions {
  readonly tied?: boolean
  readonly dtype?: 'f32' | 'bf16'
  readonly objective?: Objective
  readonly reference?: Decoder
  readonly optimizer?: Partial<AdamWConfig>
  readonly seed?: number
  readonly activationCheckpointing?: boolean
  readonly device?: Device
  /** Trains an adapter. */
  readonly lora?: Partial<LoraConfig>
}

/** A trainer over a fresh toy. */
export function toyTrainer(options: ToyOptions = {}): Trainer {
  const { tied, dtype, lora, objective = sft(), device = getDevice() } = options
  const toy = toyDecoder(device, tied, dtype)
  const policy = lora === undefined ? toy : withAdapter(toy, lora, 3)
  return createTrainer({ ...options, policy, objective, optimizer: { ...adamw, ...options.optimizer } })
}

/** Frees the trainer and its policy. */
export function disposeToy(trainer: Trainer): void {
  disposeTrainer(trainer)
  disposeDecoder(trainer.policy, disposeFlat)
}

/** SHA-256 of weights, masters and moments: equal only when every bit is. */
export async function stateHash(trainer: Trainer): Promise<string> {
  const hash = createHash('sha256')
  for (const { name, data } of [
    ...(await entriesOf(trainableOf(trainer.policy))),
    ...(await optimizerEntries(trainer)),
  ])
    hash.update(name).update(data)
  return hash.digest('hex')
}

/** Trains the toy on `steps` lists of micro-batches and returns its final hash. */
export async function trainedHash(options: ToyOptions, steps: readonly (readonly MicroBatch[])[]): Promise<string> {
  const trainer = toyTrainer(options)
  try {
    for (const batches of steps) await trainStep(trainer, batches, 1e-2)
    return await stateHash(trainer)
  } finally {
    disposeToy(trainer)
  }
}
