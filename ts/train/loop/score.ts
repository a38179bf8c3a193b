// Score: how attempts are judged. A score is a named number on the trace; a checker that fails is a value, not an
// exception: the trace gets no score of that name and the failure is counted.

import { checkArgument, kinds } from '../../src/base/arguments.js'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import type { Task, Verdict } from '../tasks/index.js'
import { completionLength, completionOf, type Trace, tracesKind, turnsOf, withScores } from './trace.js'

/** Adds scores to traces. */
export type Score = (traces: readonly Trace[]) => Promise<Trace[]>

/** Largest share of failed checks before the loop stops. */
const failureLimit = 0.05

/**
 * `reward` 1 when the task's exact checker accepts the completion, else 0. A completion that was cut off is wrong.
 *
 * @throws WhetstoneError E_VERIFIER when the checker itself fails on more than 5% of the traces
 */
export function verify(check: (task: Task, completion: string) => Verdict): Score {
  checkArgument('verify.check', check, kinds.call)
  return async (traces) => {
    checkArgument('verify: traces', traces, tracesKind)
    let failures = 0
    let last = ''
    const scored = traces.map((trace) => {
      try {
        const { correct } = check(trace.task, completionOf(trace))
        return withScores(trace, { reward: correct && trace.finishReason === 'stop' ? 1 : 0 })
      } catch (error) {
        failures++
        last = messageOf(error)
        return trace
      }
    })
    if (failures > traces.length * failureLimit)
      throw new WhetstoneError(
        'E_VERIFIER',
        'verify',
        `the checker failed on ${failures} of ${traces.length} samples: ${last}`,
      )
    return scored
  }
}

/** What a reward may be made of. */
export interface Shaped {
  readonly scores: Readonly<Record<string, number>>
  /** Tokens that the policy wrote. */
  readonly length: number
  /** How many turns it had. */
  readonly turns: number
}

/**
 * Makes a score of other ones, of lengths and of turns: sums with thresholds, penalties, bonuses for progress.
 *
 * @example shape(({ scores }) => 1 / (1 + Math.exp(-0.5 * scores.rank)) + scores.right - 1)
 * @param as name of the score; it replaces one of that name
 * @throws WhetstoneError E_VERIFIER where it is no finite number: a score that is missing
 */
export function shape(of: (trace: Shaped) => number, as = 'reward'): Score {
  checkArgument('shape.of', of, kinds.call)
  checkArgument('shape.as', as, kinds.filled)
  return async (traces) => {
    checkArgument('shape: traces', traces, tracesKind)
    return traces.map((trace) => {
      const value = of({ scores: trace.scores, length: completionLength(trace), turns: turnsOf(trace).length })
      if (Number.isFinite(value)) return withScores(trace, { [as]: value })
      const where = `task ${trace.task.id} sample ${trace.sample}`
      const text = `expected a finite number for ${as}, got ${value} of ${JSON.stringify(trace.scores)}`
      throw new WhetstoneError('E_VERIFIER', where, text)
    })
  }
}
