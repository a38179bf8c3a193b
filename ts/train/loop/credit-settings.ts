// How rewards become advantages, as settings have it: TRL's `scale_rewards` and `multi_objective_aggregation` (GRPOConfig),
// `reward_clip_range` and `normalize_advantages` (RLOOConfig).

import * as z from 'zod'
import { type Advantages, advantages, overBatch } from '../../loss/advantages.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { credit, creditEach } from './credit.js'
import type { NamedReward } from './rewards.js'
import type { Select } from './select.js'

/** Advantages by TRL's `scale_rewards`. */
const byScale = { group: advantages.grpo, batch: advantages.batchStd, none: advantages.drGrpo } as const

const scales = Object.keys(byScale) as [keyof typeof byScale, ...(keyof typeof byScale)[]]

/** Settings of what rewards become. */
export const creditShape = {
  scaleRewards: z.enum(scales).optional().describe('divide advantages by the deviation of group, batch, or nothing'),
  multiObjectiveAggregation: z
    .enum(['sumThenNormalize', 'normalizeThenSum'])
    .default('sumThenNormalize')
    .describe('normalise the sum of the rewards, or each of them before they are summed (GDPO, 2601.05242)'),
  rewardClipRange: z.array(z.number()).length(2).optional().describe('bounds of the summed reward'),
  normalizeAdvantages: z.boolean().default(false).describe('normalise advantages over the round'),
}

type CreditValues = z.output<z.ZodObject<typeof creditShape>>

/** What a method does where the settings say nothing. */
export interface CreditMethod {
  readonly scale?: keyof typeof byScale
  /** In place of a scale. */
  readonly advantages?: Advantages
}

const refuse = (setting: string, message: string): never => {
  throw new WhetstoneError('E_CONFIG', setting, message)
}

/**
 * The step from rewards to advantages.
 *
 * @throws WhetstoneError E_CONFIG for settings that exclude each other, or bounds in the wrong order
 */
export function creditOf(values: CreditValues, method: CreditMethod): (rewards: readonly NamedReward[]) => Select {
  const { scaleRewards, multiObjectiveAggregation, rewardClipRange, normalizeAdvantages } = values
  if (multiObjectiveAggregation === 'normalizeThenSum') {
    const others = { scaleRewards, rewardClipRange, normalizeAdvantages: normalizeAdvantages || undefined }
    const given = Object.entries(others).find(([, value]) => value !== undefined)
    if (given !== undefined)
      refuse(given[0], 'expected it without multiObjectiveAggregation normalizeThenSum, got both')
    return creditEach
  }
  const [low, high] = rewardClipRange ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
  if (low > high) refuse('rewardClipRange', `expected the lower bound first, got ${low} and ${high}`)
  const scaled = byScale[scaleRewards ?? method.scale ?? 'group']
  const advantagesOf: Advantages = scaleRewards === undefined ? (method.advantages ?? scaled) : scaled
  const clip = (reward: number) => Math.min(Math.max(reward, low), high)
  const select = credit((rows) => {
    const own = advantagesOf(rows.map((row) => row.map(clip)))
    return normalizeAdvantages ? overBatch(own) : own
  })
  return () => select
}
