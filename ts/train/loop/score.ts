// Score: how attempts are judged. A score is a named number on the trace; a checker that fails is a value, not an
// exception: the trace gets no score of that name and the failure is counted.

import { checkArgument, kinds } from '../../src/base/arguments.js'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import type { Task, Verdict } from '../tasks/index.js'
import { completionOf, type Trace, tracesKind, withScores } from './trace.js'

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
