// Select: which attempts are trained on. Pure and deterministic: ties go to the lower sample number.

import { checkArgument, checkOptions, kinds, optional } from '../../src/base/arguments.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import { byStem, byTask, completionOf, type Trace, tracesKind } from './trace.js'

/** Chooses among scored traces. */
export type Select = (traces: readonly Trace[]) => Trace[]

/** How `pick` chooses. */
export interface PickOptions {
  /** Name of the score. */
  readonly by?: string
  /** Least score to be kept. */
  readonly threshold?: number
  /** Most traces per task, best first; SuperHF's top K. */
  readonly perTask?: number
  /** Keep one of several equal completions of a task. */
  readonly distinct?: boolean
}

const pickKinds = {
  by: optional(kinds.filled),
  threshold: optional(kinds.number),
  perTask: optional(kinds.whole),
  distinct: optional(kinds.flag),
}

/** The best traces of each task at or above a threshold. Traces without the score are never kept. */
export function pick(options: PickOptions = {}): Select {
  checkOptions('pick', options, pickKinds)
  const { by = 'reward', threshold = Number.NEGATIVE_INFINITY, perTask = 1, distinct = true } = options
  return (traces) => {
    checkArgument('pick: traces', traces, tracesKind)
    return byTask(traces).flatMap((group) => {
      const fit = group.filter((trace) => trace.scores[by] !== undefined && trace.scores[by] >= threshold)
      const ranked = fit.sort((a, b) => b.scores[by] - a.scores[by] || a.sample - b.sample)
      return (distinct ? withoutRepeats(ranked) : ranked).slice(0, perTask)
    })
  }
}

function withoutRepeats(traces: readonly Trace[]): Trace[] {
  const seen = new Set<string>()
  return traces.filter((trace) => {
    const text = completionOf(trace)
    return !seen.has(text) && seen.add(text)
  })
}

/**
 * Of the branches that a turn of `chain` has made of each trace the one with the highest reward, of equals the first.
 *
 * @param branches `numGenerations` of that turn
 */
export const bestBranch =
  (branches: number): Select =>
  (traces) =>
    byStem(traces, branches).map((own) =>
      own.reduce((best, next) => (next.scores.reward > best.scores.reward ? next : best)),
    )

/** Tasks that are neither always nor never solved: whose samples have a reward of `right` and more, and ones below. */
export const partlySolved =
  (right = 1): Select =>
  (traces) =>
    byTask(traces)
      .filter((group) => {
        const solved = group.filter(({ scores }) => scores.reward >= right).length
        return solved > 0 && solved < group.length
      })
      .flat()

/** Traces that ended by themselves. */
export const ended: Select = (traces) => traces.filter(({ finishReason }) => finishReason === 'stop')

/** How `resample` draws. */
export interface ResampleOptions {
  /** Name of the score. */
  readonly by: string
  readonly temperature: number
  /** Draws of each task; default as many as it has samples. */
  readonly perTask?: number
  /** Keys of the draws. */
  readonly seed: number
  readonly round: number
}

/** Samples of each task drawn again with replacement, a share of exp(score / temperature) each (Boltzmann resampling). */
export const resample =
  ({ by, temperature, perTask, seed, round }: ResampleOptions): Select =>
  (traces) =>
    byTask(traces).flatMap((group) => {
      const most = Math.max(...group.map(({ scores }) => scores[by]))
      const masses = group.map(({ scores }) => Math.exp((scores[by] - most) / temperature))
      const total = masses.reduce((sum, mass) => sum + mass, 0)
      const key = deriveKey(seed, 'resample', round, group[0].task.id)
      const draw = (index: number): Trace => {
        let left = uniform(key, index) * total
        for (const [i, mass] of masses.entries()) {
          left -= mass
          if (left < 0) return group[i]
        }
        return group[group.length - 1]
      }
      return Array.from({ length: perTask ?? group.length }, (_, i) => draw(i))
    })
