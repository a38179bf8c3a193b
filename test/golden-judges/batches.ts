// Micro-batches from token ids whose first `prompt` tokens are not trained, as the golden files give them.

import { packSequences } from '../../ts/src/models/pack.js'
import type { MicroBatch } from '../../ts/train/trainer.js'

/** A sequence and the length of its masked prompt (at least 1). */
export interface MaskedSequence {
  readonly ids: readonly number[]
  readonly prompt: number
}

/** One micro-batch that trains every token behind the prompts. */
export function microBatchOf(sequences: readonly MaskedSequence[]): MicroBatch {
  const packed = packSequences(sequences.map((sequence) => sequence.ids))
  const predictors: number[] = []
  const rowOf: number[] = []
  sequences.forEach(({ ids, prompt }, row) => {
    for (let t = Math.max(1, prompt); t < ids.length; t++) {
      predictors.push(packed.starts[row] + t - 1)
      rowOf.push(row)
    }
  })
  return {
    packed,
    predictors: Int32Array.from(predictors),
    targets: Int32Array.from(predictors, (i) => packed.ids[i + 1]),
    rowOf: Int32Array.from(rowOf),
    weights: new Float32Array(predictors.length).fill(1),
  }
}
