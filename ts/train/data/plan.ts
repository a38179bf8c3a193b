// Which rows a step trains: a pure function of (seed, step), so there is no cursor to save. Rows are visited in a new
// order in every epoch; with packing, rows of an epoch are laid into bins of maxLength tokens first. Nothing is dropped:
// the last step of an epoch may be smaller. How rows become tokens is encode.ts.

import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, permutation } from '../../src/base/rng.js'
import type { EncodedExample } from './example.js'
import { type MicroBatch, type MicroBatchOptions, microBatchOf } from './micro-batch.js'
import { packBins } from './pack-bins.js'

/** How rows become steps. */
export interface PlanOptions extends MicroBatchOptions {
  /** Examples (or bins of them) per micro-batch. */
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
  /** Indices of the rows in each micro-batch of step `step`. */
  rowsOf(step: number): number[][]
}

/** Orders of `size` things by epoch; the latest one is kept. */
function createOrder(size: number, { shuffle, seed }: PlanOptions): (epoch: number) => readonly number[] {
  let known: { epoch: number; order: readonly number[] } | undefined
  return (epoch) => {
    if (known?.epoch !== epoch)
      known = {
        epoch,
        order: shuffle ? permutation(size, deriveKey(seed, 'order', epoch)) : Array.from({ length: size }, (_, i) => i),
      }
    return known.order
  }
}

/**
 * Plans the steps over examples.
 *
 * @throws WhetstoneError E_CONFIG when there is no row
 */
export function planData(examples: readonly EncodedExample[], options: PlanOptions): DataPlan {
  const { perDeviceTrainBatchSize: size, gradientAccumulationSteps, packing, maxLength } = options
  if (examples.length === 0)
    throw new WhetstoneError('E_CONFIG', 'data', 'expected at least one row to train, got none')
  const lengths = examples.map((example) => example.reduce((sum, { ids }) => sum + ids.length, 0))
  const units = packing ? packBins(lengths, maxLength) : examples.map((_, row) => [row])
  const perStep = size * gradientAccumulationSteps
  const stepsPerEpoch = Math.ceil(units.length / perStep)
  const orderOf = createOrder(units.length, options)
  const rowsOf = (step: number): number[][] => {
    const begin = (step % stepsPerEpoch) * perStep
    const chosen = orderOf(Math.floor(step / stepsPerEpoch)).slice(begin, begin + perStep)
    const starts = Array.from({ length: Math.ceil(chosen.length / size) }, (_, i) => i * size)
    return starts.map((at) => chosen.slice(at, at + size).flatMap((unit) => units[unit]))
  }
  return {
    stepsPerEpoch,
    rowsOf,
    step: (step) =>
      rowsOf(step).map((micro) =>
        microBatchOf(
          micro.map((row) => examples[row]),
          options,
        ),
      ),
  }
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
