// Refusals: answers that end with a text that says so. What they are worth by their length (Auto-CEI), and how a policy that
// may refuse is judged: by how often it is right where it answers, and how often it answers.

import { mean } from '../../src/base/stats.js'
import { completionOf, type Trace } from './trace.js'

/** How answers and refusals are told from each other, and how long they are. */
export interface RefusalOptions {
  /** What a refusal ends with. */
  readonly refusal: string
  /** What ends a step of an answer. */
  readonly stepEnd: string
  /** Least reward of a right answer. */
  readonly right: number
}

export const isRefusal = (trace: Trace, { refusal }: Pick<RefusalOptions, 'refusal'>): boolean =>
  trace.finishReason === 'stop' && completionOf(trace).trimEnd().endsWith(refusal)

/** Steps of an answer: pieces between ends of steps that hold anything. */
export const stepsOf = (trace: Trace, { stepEnd }: Pick<RefusalOptions, 'stepEnd'>): number =>
  completionOf(trace)
    .split(stepEnd)
    .filter((step) => step.trim() !== '').length

/** Lengths at which refusing is worth as much as being neither right nor wrong, and how fast it gains. */
export interface RefusalCurve {
  /** Steps at which a refusal has the reward 0. */
  readonly breakEven: number
  /** Per step. */
  readonly slope: number
}

/** R(l) = 2 / (1 + exp(-c2 (l - c1))) - 1: from -1, refused at once, to 1, refused after much work. */
export const refusalReward = (steps: number, { breakEven, slope }: RefusalCurve): number =>
  2 / (1 + Math.exp(-slope * (steps - breakEven))) - 1

/** Slope that makes a refusal one deviation of the lengths from the break-even worth +-0.28, two deviations +-0.52. */
export const slopeOf = (deviation: number): number => Math.LN10 / (4 * deviation)

/** Precision, refusals, and their trade-off f = (1 - lambda) precision + lambda (1 - refusals). */
export interface Reliability {
  /** Share of right ones among the answers; 0 where all are refusals. */
  readonly precision: number
  readonly refusals: number
  readonly value: number
}

/** How reliable samples are. */
export function reliabilityOf(traces: readonly Trace[], lambda: number, options: RefusalOptions): Reliability {
  const answers = traces.filter((trace) => !isRefusal(trace, options))
  const precision = answers.length === 0 ? 0 : mean(answers.map(({ scores }) => Number(scores.reward >= options.right)))
  const refusals = 1 - answers.length / traces.length
  return { precision, refusals, value: (1 - lambda) * precision + lambda * (1 - refusals) }
}
