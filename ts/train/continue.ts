// What a resumed run may change. Exact resume forbids whatever changes arithmetic. How many steps there are changes none
// where the rate of a step does not depend on it and no evaluation decides: then a run may be made longer, or shorter, with
// the bits that it would have had from the start. Else the text says how to go on.

import { join } from 'node:path'
import { WhetstoneError } from '../src/base/errors.js'
import { checkpointNames } from '../src/io/model-folder.js'
import type { TrainingOptions } from './config/options.js'
import type { Changes } from './run-folder.js'
import { dependsOnTotal } from './schedule.js'

/** Settings that say how many steps there are. */
const lengths = ['maxSteps', 'numTrainEpochs'] as const

const none: Changes = { allowed: [], advice: {} }

/**
 * What resuming the run in `output` may change, and what to do about the rest.
 *
 * @param watched evaluations decide what is best or when to stop
 * @throws WhetstoneError E_CONFIG for a run whose checkpoints lack the optimizer
 */
export async function changesOf(
  values: TrainingOptions,
  output: string | undefined,
  watched: boolean,
): Promise<Changes> {
  if (output === undefined) return none
  const [newest] = await checkpointNames(join(output, 'checkpoints'))
  // Nothing was saved: the run begins anew, with whatever settings its folder has.
  if (newest === undefined) return none
  const onward = `start a new run from its checkpoint, with ${join(output, 'checkpoints', newest)} as the model and another output`
  if (values.saveOnlyModel)
    throw new WhetstoneError(
      'E_CONFIG',
      'saveOnlyModel',
      `expected checkpoints with their optimizer, but saveOnlyModel leaves it out, so that no run resumes: ${onward}`,
    )
  if (!watched && !dependsOnTotal(values)) return { allowed: lengths, advice: {} }
  const why = watched
    ? 'the evaluation at the old end would count among those that decide'
    : `the rates of ${values.lrSchedulerType} with its warm-up depend on the number of steps`
  const advice = `${why}, so that the run cannot go on exactly: ${onward}`
  return { allowed: [], advice: Object.fromEntries(lengths.map((name) => [name, advice])) }
}

/** What a new run may change: there is nothing yet. */
export const noChanges = none
