// TRL's ready-made reward functions (trl.rewards), by the same formulas. There is no accuracy_reward, which compares LaTeX by a
// computer algebra system: cosineScaledReward takes a function of yours that says what is right.

import { overlongPenalty } from '../../loss/advantages.js'
import { checkArgument, checkMembers, checkOptions, kinds, listOf, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { askReward, type RewardFunction } from './rewards.js'

const thought = /^<think>(?![\s\S]*<think>)[\s\S]*?<\/think>/

/** 1 for completions that begin with one thought between `<think>` and `</think>`, else 0 (`think_format_reward`). */
export const thinkFormatReward: RewardFunction = function thinkFormatReward(input) {
  checkMembers('thinkFormatReward', input, { completions: listOf(kinds.text) })
  return input.completions.map((text) => Number(thought.test(text)))
}

/** How repetition is punished. */
export interface RepetitionPenaltyOptions {
  /** Tokens of the groups that are counted; default 3. */
  readonly ngramSize?: number
  /** Reward of a completion that does nothing but repeat; at most 0, default -1. */
  readonly maxPenalty?: number
}

function repetition(ids: readonly number[], size: number): number {
  const count = ids.length - size + 1
  if (count < 1) return 0
  const seen = new Set(Array.from({ length: count }, (_, i) => ids.slice(i, i + size).join()))
  return 1 - seen.size / count
}

/**
 * Share of n-grams of tokens that were there before, times `maxPenalty` (2502.03373, appendix C.2;
 * `get_repetition_penalty_reward`).
 *
 * @throws WhetstoneError E_CONFIG
 */
export function repetitionPenaltyReward(options: RepetitionPenaltyOptions = {}): RewardFunction {
  checkOptions('repetitionPenaltyReward', options, {
    ngramSize: optional(kinds.count),
    maxPenalty: optional(kinds.number),
  })
  const { ngramSize = 3, maxPenalty = -1 } = options
  if (!(maxPenalty <= 0))
    throw new WhetstoneError('E_CONFIG', 'maxPenalty', `expected a number of at most 0, got ${maxPenalty}`)
  return function repetitionPenaltyReward({ completionIds }) {
    return completionIds.map((ids) => {
      const share = repetition(ids, ngramSize)
      return share === 0 ? 0 : share * maxPenalty
    })
  }
}

/**
 * DAPO's penalty for the last `cache` tokens before `max`: 0 down to -1 (2503.14476, equation 13;
 * `get_soft_overlong_punishment`).
 *
 * @throws WhetstoneError E_CONFIG
 */
export function softOverlongReward(max: number, cache: number): RewardFunction {
  checkArgument('softOverlongReward.max', max, kinds.count)
  checkArgument('softOverlongReward.cache', cache, kinds.count)
  return function overlong({ completionIds }) {
    return completionIds.map((ids) => overlongPenalty(ids.length, max, cache))
  }
}

/** Rewards of a right and of a wrong completion at their shortest and longest. */
export interface CosineScaledOptions {
  /** Tokens at which the longest is reached. */
  readonly maxLength: number
  /** Right, at its longest; default 0.5. */
  readonly minValueCorrect?: number
  /** Right, at its shortest; default 1. */
  readonly maxValueCorrect?: number
  /** Wrong, at its shortest; default -1. */
  readonly minValueWrong?: number
  /** Wrong, at its longest; default -0.5. */
  readonly maxValueWrong?: number
}

const cosineKinds = {
  maxLength: kinds.count,
  minValueCorrect: optional(kinds.number),
  maxValueCorrect: optional(kinds.number),
  minValueWrong: optional(kinds.number),
  maxValueWrong: optional(kinds.number),
}

/**
 * Rewards short right and long wrong completions more than others, along a half cosine of the length (2502.03373, appendix
 * C.1; `get_cosine_scaled_reward`).
 *
 * @param correct what is right: above 0; null: not judged
 * @throws WhetstoneError E_CONFIG
 */
export function cosineScaledReward(correct: RewardFunction, options: CosineScaledOptions): RewardFunction {
  checkArgument('cosineScaledReward.correct', correct, kinds.call)
  checkOptions('cosineScaledReward', options, cosineKinds)
  const { maxLength, minValueCorrect = 0.5, maxValueCorrect = 1, minValueWrong = -1, maxValueWrong = -0.5 } = options
  const between = (longest: number, shortest: number, progress: number) =>
    longest + 0.5 * (shortest - longest) * (1 + Math.cos(Math.PI * progress))
  const named = { name: correct.name, evaluate: correct }
  return async function cosineScaledReward(input) {
    return (await askReward(named, input)).map((value, i) => {
      const progress = Math.min(input.completionIds[i].length / maxLength, 1)
      if (value === null) return null
      return value > 0
        ? between(minValueCorrect, maxValueCorrect, progress)
        : between(maxValueWrong, minValueWrong, progress)
    })
  }
}
