// Beginning again from the start: what a trainer was when the run began, kept on the host, and put back. Rounds of
// self-training that start from the base model are made of it.

import { trainableOf } from '../src/models/decoder.js'
import { type Entry, type EntrySource, entriesOf, optimizerEntries, restoreTrainer } from './state.js'
import type { Trainer } from './trainer.js'

const sourceOf = (entries: readonly Entry[]): EntrySource => {
  const byName = new Map(entries.map((entry) => [entry.name, entry]))
  return {
    shapeOf: (name) => byName.get(name)?.shape,
    read: async (name) => byName.get(name)?.data ?? new Uint8Array(),
  }
}

/**
 * Keeps weights and optimizer as they are: as many bytes of host memory as a checkpoint has.
 *
 * @returns what puts them back, bit for bit, the count of updates and the totals that objectives look back on among them
 */
export async function keepStart(trainer: Trainer): Promise<() => Promise<void>> {
  const { updates } = trainer.optimizer
  const { history } = trainer
  const weights = sourceOf(await entriesOf(trainableOf(trainer.policy)))
  const optimizer = sourceOf(await optimizerEntries(trainer))
  return async () => {
    await restoreTrainer(trainer, weights, optimizer, updates)
    trainer.history = history
  }
}
