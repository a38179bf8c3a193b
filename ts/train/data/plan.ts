// Which rows a step trains: a pure function of (seed, step), so there is no cursor to save. Rows are visited in a new
// order in every epoch; with packing, rows of an epoch are laid into bins of maxLength tokens first. Nothing is dropped:
// the last step of an epoch may be smaller.

import { deriveKey, permutation } from '../../src/base/rng.js'
import type { MicroBatch } from '../trainer.js'
import { type EncodedRow, microBatchOf } from './micro-batch.js'

/** How rows become steps. */
export interface PlanOptions {
  /** Rows (or bins) per micro-batch. */
  readonly perDeviceTrainBatchSize: number
  readonly gradientAccumulationSteps: number
  readonly packing: boolean
  readonly maxLength: number
  readonly shuffle: boolean
  readonly seed: number
}

/** The steps of a data set. */
export interface DataPlan {
  readonly stepsPerEpoch: number
  /** Micro-batches of step `step`, counted over all epochs. */
  step(step: number): MicroBatch[]
}

/**
 * Lays lengths into bins of at most `capacity`: best-fit decreasing, ties to the earlier row and the earlier bin. A
 * length above the capacity gets a bin of its own.
 *
 * @returns bins of row indices, each in ascending order, bins by their first row
 */
export function packBins(lengths: readonly number[], capacity: number): number[][] {
  const bins: { rows: number[]; left: number }[] = []
  const order = lengths.map((_, row) => row).sort((a, b) => lengths[b] - lengths[a] || a - b)
  for (const row of order) {
    let best: (typeof bins)[number] | undefined
    for (const bin of bins) if (bin.left >= lengths[row] && (best === undefined || bin.left < best.left)) best = bin
    if (best === undefined) {
      best = { rows: [], left: capacity }
      bins.push(best)
    }
    best.rows.push(row)
    best.left -= lengths[row]
  }
  return bins.map((bin) => bin.rows.sort((a, b) => a - b)).sort((a, b) => a[0] - b[0])
}

/** Plans the steps over encoded rows. */
export function planData(rows: readonly EncodedRow[], options: PlanOptions): DataPlan {
  const units = options.packing
    ? packBins(
        rows.map((row) => row.ids.length),
        options.maxLength,
      )
    : rows.map((_, row) => [row])
  const perStep = options.perDeviceTrainBatchSize * options.gradientAccumulationSteps
  const stepsPerEpoch = Math.ceil(units.length / perStep)
  let known: { epoch: number; order: readonly number[] } | undefined
  const orderOf = (epoch: number): readonly number[] => {
    if (known?.epoch !== epoch) {
      const order = options.shuffle
        ? permutation(units.length, deriveKey(options.seed, 'order', epoch))
        : units.map((_, i) => i)
      known = { epoch, order }
    }
    return known.order
  }
  const step = (number: number): MicroBatch[] => {
    const begin = (number % stepsPerEpoch) * perStep
    const chosen = orderOf(Math.floor(number / stepsPerEpoch)).slice(begin, begin + perStep)
    const micro: MicroBatch[] = []
    for (let at = 0; at < chosen.length; at += options.perDeviceTrainBatchSize)
      micro.push(
        microBatchOf(
          chosen.slice(at, at + options.perDeviceTrainBatchSize).flatMap((unit) => units[unit].map((row) => rows[row])),
        ),
      )
    return micro
  }
  return { stepsPerEpoch, step }
}

/** Row indices of `count` consecutive places from place `begin` of a walk. */
export type Walk = (begin: number, count: number) => number[]

/** An endless walk over `size` rows: pass after pass, each in a random order of its own, keyed by the names. */
export function createWalk(size: number, seed: number, ...names: readonly (string | number)[]): Walk {
  let known: { pass: number; order: readonly number[] } | undefined
  return (begin, count) =>
    Array.from({ length: count }, (_, i) => {
      const pass = Math.floor((begin + i) / size)
      if (known?.pass !== pass) known = { pass, order: permutation(size, deriveKey(seed, 'order', ...names, pass)) }
      return known.order[(begin + i) % size]
    })
}
