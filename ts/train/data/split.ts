// Which rows are trained and which are evaluated on: those of `evalData`, or `evalRows` rows of the data that the seed chooses.
// What one row of the data was made into stays together.

import type { Objective } from '../../loss/define.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, permutation } from '../../src/base/rng.js'
import { rowKindOf } from './encode.js'
import type { EncodedKind } from './encoders.js'
import { type DataSource, extraFieldWarnings, type PlacedRow, type RowKinds, readData } from './rows.js'

/** Where the rows of a run come from. */
export interface RowSources {
  readonly objective: Objective
  readonly data: DataSource
  /** The first rows of the data only. */
  readonly limit?: number
  readonly evalData?: DataSource
}

/** The rows of a run. */
export interface SplitRows {
  readonly train: readonly PlacedRow<RowKinds[EncodedKind]>[]
  readonly held: readonly PlacedRow<RowKinds[EncodedKind]>[]
  readonly warnings: readonly string[]
}

/**
 * Reads the rows of a run.
 *
 * @throws WhetstoneError E_CONFIG when no row is left to train, and as `readData`
 */
export async function splitRows(
  { objective, data, limit, evalData }: RowSources,
  { evalRows, seed }: { readonly evalRows: number; readonly seed: number },
): Promise<SplitRows> {
  const kind = rowKindOf(objective)
  const { rows, extraFields } = await readData(data, kind, limit)
  const warnings = extraFieldWarnings(extraFields, rows.length)
  if (evalData !== undefined) return { train: rows, held: (await readData(evalData, kind)).rows, warnings }
  const places = [...new Set(rows.map(({ where }) => where))]
  if (evalRows >= places.length)
    throw new WhetstoneError('E_CONFIG', 'evalRows', `expected fewer than the ${places.length} rows, got ${evalRows}`)
  const chosen = permutation(places.length, deriveKey(seed, 'evaluation')).slice(0, evalRows)
  const held = new Set(Array.from(chosen, (index) => places[index]))
  const isHeld = ({ where }: (typeof rows)[number]) => held.has(where)
  return { train: rows.filter((row) => !isHeld(row)), held: rows.filter(isHeld), warnings }
}
