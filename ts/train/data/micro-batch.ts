// Rows of token ids with their trained tokens -> one packed micro-batch. The only place where the shift between a
// token and the hidden state that predicts it is made.

import { WhetstoneError } from '../../src/base/errors.js'
import { packSequences } from '../../src/models/pack.js'
import type { MicroBatch } from '../trainer.js'

/** A row ready to train. */
export interface EncodedRow {
  readonly ids: readonly number[]
  /** 1 for each token that is a target; the first token never is. */
  readonly trained: Uint8Array
}

/**
 * Packs rows; none sees another.
 *
 * @throws WhetstoneError E_SHAPE when ids and mask differ in length
 */
export function microBatchOf(rows: readonly EncodedRow[]): MicroBatch {
  const packed = packSequences(rows.map((row) => row.ids))
  const predictors: number[] = []
  const rowOf: number[] = []
  rows.forEach(({ ids, trained }, row) => {
    if (ids.length !== trained.length)
      throw new WhetstoneError(
        'E_SHAPE',
        `row ${row}`,
        `expected one mark per token, got ${trained.length} for ${ids.length}`,
      )
    for (let t = 1; t < ids.length; t++)
      if (trained[t] === 1) {
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
