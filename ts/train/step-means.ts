// Loss and statistics of the steps between two step events, as sums: part of a checkpoint, so that the means behind a
// resume are those of a run that was not stopped.

import type { StepResult } from './trainer.js'

/** A sum, and of how many numbers. */
type Sum = readonly [sum: number, count: number]

interface Sums {
  readonly loss: Sum
  readonly stats: Readonly<Record<string, Sum>>
}

/** Sums over steps: over all of them, and over those that changed something. */
export interface StepSums {
  readonly all: Sums
  readonly applied: Sums
}

const none: Sums = { loss: [0, 0], stats: {} }

/** No steps yet. */
export const noSteps: StepSums = { all: none, applied: none }

const plus = ([sum, count]: Sum = [0, 0], value: number): Sum => [sum + value, count + 1]

function addTo({ loss, stats }: Sums, step: StepResult): Sums {
  const added = Object.entries(step.stats).map(([name, value]) => [name, plus(stats[name], value)])
  return { loss: plus(loss, step.loss), stats: { ...stats, ...Object.fromEntries(added) } }
}

/** The sums with one more step. */
export const addStep = ({ all, applied }: StepSums, step: StepResult): StepSums => ({
  all: addTo(all, step),
  applied: step.applied ? addTo(applied, step) : applied,
})

const meanOf = ([sum, count]: Sum): number => sum / count

/** Means over the steps, each over those that have it; steps that changed nothing count only when all did not. */
export function meansOf({ all, applied }: StepSums): Pick<StepResult, 'loss' | 'stats'> {
  const { loss, stats } = applied.loss[1] > 0 ? applied : all
  const means = Object.entries(stats).map(([name, sum]) => [name, meanOf(sum)])
  return { loss: meanOf(loss), stats: Object.fromEntries(means) }
}

/** JSON has no word for NaN and Infinity: null. */
const readSum = ([sum, count]: readonly [number | null, number]): Sum => [sum ?? Number.NaN, count]

const readSums = ({ loss, stats }: Sums): Sums => ({
  loss: readSum(loss),
  stats: Object.fromEntries(Object.entries(stats).map(([name, sum]) => [name, readSum(sum)])),
})

/** Sums as a checkpoint keeps them; checkpoints of earlier versions have none. */
export function readSteps(stored: unknown): StepSums {
  if (stored === undefined) return noSteps
  const { all, applied } = stored as StepSums
  return { all: readSums(all), applied: readSums(applied) }
}
