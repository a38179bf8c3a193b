// One training of a policy at a time. Two would take turns at the same weights, each with moments and a schedule of its
// own, and neither would be what was asked for.

import { WhetstoneError } from '../src/base/errors.js'
import { type Decoder, trainableOf } from '../src/models/decoder.js'
import { checkTrainable } from './optimizer.js'

/** What is being trained: all weights of a model, or an adapter. Two adapters over one base do not meet. */
const busy = new WeakSet<object>()

/**
 * Does work that trains a policy.
 *
 * @throws WhetstoneError E_CONFIG for four-bit weights without an adapter, while another training of the policy has not
 *   ended; and what the work throws
 */
export async function whileTrained<R>(policy: Decoder, work: () => Promise<R>): Promise<R> {
  checkTrainable(policy)
  const trained = trainableOf(policy)
  if (busy.has(trained))
    throw new WhetstoneError(
      'E_CONFIG',
      'policy',
      'expected a policy that nothing else trains, got one that is in training: await the result of its run first',
    )
  busy.add(trained)
  try {
    return await work()
  } finally {
    busy.delete(trained)
  }
}
