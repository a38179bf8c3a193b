// Micro-batches from token ids whose first `prompt` tokens are not trained, as the golden files give them.

import { microBatchOfRows } from '../../ts/train/data/micro-batch.js'
import type { MicroBatch } from '../../ts/train/trainer.js'

/** A sequence and the length of its masked prompt. */
export interface MaskedSequence {
  readonly ids: readonly number[]
  readonly prompt: number
}

/** One micro-batch that trains every token behind the prompts. */
export const maskedBatch = (sequences: readonly MaskedSequence[]): MicroBatch =>
  microBatchOfRows(
    sequences.map(({ ids, prompt }) => ({ ids, trained: Uint8Array.from(ids, (_, t) => Number(t >= prompt)) })),
  )
