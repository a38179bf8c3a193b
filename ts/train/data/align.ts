// Where a device sums several tokens of a bf16 weight's gradient at once (`Device.tokenAlignment`), a micro-batch is laid out
// again before it is trained: every example begins at a multiple of so many tokens, and its trained tokens at a multiple of
// so many rows of the head. Then no sum takes tokens of two examples, and a step has the same bits however its examples are
// cut into micro-batches. What fills the gaps has a gradient of exactly zero and counts nowhere.

import type { TokenInput } from '../../loss/define.js'
import type { Decoder } from '../../src/models/decoder.js'
import { alignGroups } from '../../src/models/pack.js'
import type { MicroBatch } from './micro-batch.js'

/** Tokens that the gradients of this policy's weights take at once. */
export const alignmentOf = ({ device, parameters }: Decoder): number =>
  parameters.dtype === 'bf16' ? device.tokenAlignment : 1

/** For each row of the head the target that it has, or as a filler repeats: the last one of the example before it. */
function alignedRows({ rowOf, sequences }: MicroBatch, alignment: number) {
  const rows: { readonly target: number; readonly isFiller: boolean }[] = []
  const exampleOf = (target: number) => sequences[rowOf[target]]?.example
  rowOf.forEach((_, target) => {
    rows.push({ target, isFiller: false })
    if (exampleOf(target) === exampleOf(target + 1)) return
    while (rows.length % alignment !== 0) rows.push({ target, isFiller: true })
  })
  return rows
}

/** The micro-batch with examples and their targets at multiples of `alignment`; fillers among the targets are of row -1. */
export function alignExamples(batch: MicroBatch, alignment: number): MicroBatch {
  if (alignment === 1) return batch
  const { sequences } = batch
  const groups = sequences.flatMap(({ example }, s) => (example === sequences[s - 1]?.example ? [] : [s]))
  const { packed, places } = alignGroups(batch.packed, groups, alignment)
  const rows = alignedRows(batch, alignment)
  const spread = (values: Float64Array) => Float64Array.from(rows, (row) => (row.isFiller ? 0 : values[row.target]))
  const inputs = Object.entries(batch.inputs) as [TokenInput, Float64Array][]
  return {
    packed,
    predictors: Int32Array.from(rows, ({ target }) => places[batch.predictors[target]]),
    targets: Int32Array.from(rows, ({ target }) => batch.targets[target]),
    rowOf: Int32Array.from(rows, ({ target, isFiller }) => (isFiller ? -1 : batch.rowOf[target])),
    weights: Float32Array.from(rows, ({ target, isFiller }) => (isFiller ? 0 : batch.weights[target])),
    inputs: Object.fromEntries(inputs.map(([name, values]) => [name, spread(values)])),
    sequences,
  }
}
