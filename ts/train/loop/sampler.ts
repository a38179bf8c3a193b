// What a round samples where its method says nothing else: groups of samples, or episodes in an environment.

import { WhetstoneError } from '../../src/base/errors.js'
import type { Env } from '../tasks/task.js'
import { sampleEpisodes } from './episodes.js'
import { type Explore, type SampleGroupOptions, sampleGroup } from './explore.js'
import type { OnlineMethod } from './online-method.js'
import { actionsOf, type OnlineValues, samplingOf } from './online-shape.js'

/** The samples of a round. */
export const samplerOf = (
  values: OnlineValues,
  env: (() => Env) | undefined,
  logps: SampleGroupOptions['logps'],
): Explore =>
  env === undefined
    ? sampleGroup({ ...samplingOf(values), logps })
    : sampleEpisodes({ env: env(), sampling: { ...actionsOf(values), logps }, maxSteps: values.maxEpisodeSteps })

/**
 * Refuses an environment that a method would not act in.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkEnv(env: unknown, { explore, acts = false }: OnlineMethod): void {
  if (env === undefined || explore === undefined || acts) return
  const text = 'expected none: this method makes its samples in a way of its own, which knows no episodes'
  throw new WhetstoneError('E_CONFIG', 'env', text)
}
