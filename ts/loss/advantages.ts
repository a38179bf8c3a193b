// Advantages and shaped rewards: plain numbers before any loss. objectives.md 7.1. Standard deviations use n - 1.
// Rewards of a batch are rows: one row per prompt, one number per sample.

import { checkArgument, checkOptions, kinds, listOf, optional } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'

type Rows = readonly (readonly number[])[]

const mean = (values: readonly number[]): number => values.reduce((sum, v) => sum + v, 0) / values.length

function deviation(values: readonly number[]): number {
  const centre = mean(values)
  return Math.sqrt(values.reduce((sum, v) => sum + (v - centre) ** 2, 0) / (values.length - 1))
}

const minus = (row: readonly number[], baseline: number): number[] => row.map((r) => r - baseline)

function checkRows(rewards: Rows): void {
  checkArgument('advantages.rewards', rewards, listOf(kinds.numbers))
}

function checkGroups(rewards: Rows): void {
  checkRows(rewards)
  const short = rewards.findIndex((row) => row.length < 2)
  if (short < 0) return
  throw new WhetstoneError(
    'E_SHAPE',
    `group ${short}`,
    `expected at least 2 samples to compare, got ${rewards[short].length}`,
  )
}

/** Rewards of groups to advantages of the same shape; `eps` is added to a standard deviation. */
export type Advantages = (rewards: Rows, eps?: number) => number[][]

const overGroups =
  (advantagesOf: (row: readonly number[], eps: number, rewards: Rows) => number[]): Advantages =>
  (rewards, eps = 1e-4) => {
    checkGroups(rewards)
    checkArgument('advantages.eps', eps, kinds.number)
    return rewards.map((row) => advantagesOf(row, eps, rewards))
  }

/**
 * Advantages by name. All but batchMean need groups of at least 2 and throw WhetstoneError E_SHAPE.
 *
 * - batchMean: reward - mean of the batch
 * - rloo: reward - mean of the others of its group (2402.14740)
 * - grpo: (reward - mean) / (deviation + eps) within the group (2402.03300; eps 1e-4 is TRL's)
 * - drGrpo: reward - mean of the group (2503.20783)
 * - batchStd: (reward - mean of the group) / (deviation of the batch + eps)
 */
export const advantages = {
  batchMean: (rewards: Rows) => {
    checkRows(rewards)
    return rewards.map((row) => minus(row, mean(rewards.flat())))
  },
  rloo: overGroups((row) => row.map((r) => r - (mean(row) * row.length - r) / (row.length - 1))),
  grpo: overGroups((row, eps) => minus(row, mean(row)).map((a) => a / (deviation(row) + eps))),
  drGrpo: overGroups((row) => minus(row, mean(row))),
  batchStd: overGroups((row, eps, rewards) => {
    const scale = deviation(rewards.flat()) + eps
    return minus(row, mean(row)).map((a) => a / scale)
  }),
} as const satisfies Record<string, Advantages>

/** (value - mean) / (deviation + eps) over the whole batch; a batch of one stays as it is. */
export function overBatch(values: Rows, eps = 1e-4): number[][] {
  const all = values.flat()
  if (all.length < 2) return values.map((row) => [...row])
  const scale = deviation(all) + eps
  return values.map((row) => minus(row, mean(all)).map((v) => v / scale))
}

/** Rewards of one function over a batch; null where it does not apply. */
export interface WeightedRewards {
  readonly weight: number
  readonly rows: readonly (readonly (number | null)[])[]
}

/**
 * GDPO (2601.05242): the rewards of each function normalised within their group, then summed with weights, then normalised
 * over the batch, so that a function with small differences counts as much as one with large ones. Where a function applies
 * to fewer than two samples of a group it adds nothing.
 */
export function normalizeThenSum(functions: readonly WeightedRewards[], eps = 1e-4): number[][] {
  const [{ rows: shape }] = functions
  const sums = shape.map((row) => row.map(() => 0))
  for (const { weight, rows } of functions)
    rows.forEach((row, g) => {
      const given = row.filter((r) => r !== null)
      if (given.length < 2) return
      const [centre, scale] = [mean(given), deviation(given) + eps]
      row.forEach((r, i) => {
        if (r !== null) sums[g][i] += (weight * (r - centre)) / scale
      })
    })
  return overBatch(sums, eps)
}

/** Rewards with the KL penalty of their samples: reward - beta sum_t (log pi - log ref). */
export const withKlPenalty = (rewards: Rows, logRatios: Rows, beta: number): number[][] =>
  rewards.map((row, i) => row.map((reward, j) => reward - beta * logRatios[i][j]))

/**
 * Generalised advantage estimation (1506.02438) over one episode, no value behind its end.
 *   delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lambda A_{t+1},  return_t = A_t + V_t
 */
export function gae(
  rewards: readonly number[],
  values: readonly number[],
  options: { readonly gamma?: number; readonly lambda?: number } = {},
): { advantages: number[]; returns: number[] } {
  checkArgument('gae.rewards', rewards, kinds.numbers)
  checkArgument('gae.values', values, kinds.numbers)
  checkOptions('gae', options, { gamma: optional(kinds.number), lambda: optional(kinds.number) })
  if (values.length !== rewards.length)
    throw new WhetstoneError(
      'E_SHAPE',
      'gae',
      `expected ${rewards.length} values, one per reward, got ${values.length}`,
    )
  const { gamma = 1, lambda = 0.95 } = options
  const estimates = new Array<number>(rewards.length)
  let later = 0
  let next = 0
  for (let t = rewards.length - 1; t >= 0; t--) {
    later = rewards[t] + gamma * next - values[t] + gamma * lambda * later
    next = values[t]
    estimates[t] = later
  }
  return { advantages: estimates, returns: estimates.map((a, t) => a + values[t]) }
}

/** DAPO's penalty of long completions: 0 up to max - cache tokens, then linear to -1 at max. */
export const overlongPenalty = (length: number, max: number, cache: number): number =>
  Math.min(0, Math.max(-1, (max - cache - length) / cache))

/** SCoRe's reward of a second attempt: second + alpha (second - first) (2409.12917). */
export const improvementReward = (first: number, second: number, alpha = 10): number =>
  second + alpha * (second - first)

/** What two attempts are credited with, and how strongly they are tied to the reference. */
export interface AttemptCredit {
  /** Reward of the first attempt and of the second, before a baseline. */
  readonly rewards: readonly [number, number]
  /** `klWeights` of the tokens of either attempt: factors of the objective's beta. */
  readonly klWeights: readonly [number, number]
}

/**
 * SCoRe's stages (2409.12917). `first` rewards the second attempt alone and holds the first one to the reference; `second`
 * rewards both, the second one for its improvement. An attempt is credited with its own reward only.
 *
 * @param alpha weight of the improvement, second stage
 * @param firstKlWeight how much more than beta the first attempt is held in the first stage (the paper's beta2 / beta1)
 */
export function attemptCredit(
  stage: 'first' | 'second',
  [first, second]: readonly [number, number],
  { alpha = 10, firstKlWeight = 10 }: { readonly alpha?: number; readonly firstKlWeight?: number } = {},
): AttemptCredit {
  if (stage === 'first') return { rewards: [0, second], klWeights: [firstKlWeight, 1] }
  return { rewards: [first, improvementReward(first, second, alpha)], klWeights: [1, 1] }
}
