// RISE, recursive introspection (Qu et al. 2024, arXiv 2407.18219; code cmu-mind/RISE), by self-distillation: the policy answers,
// is told to try again, and of `branches` further answers the best goes on, turn after turn. Every kept turn is an item:
// loss on that answer alone, behind all that came before it.
//   loss = mean over items of exp(r / tau) times the mean over its tokens of -log pi
// which is REINFORCE with exp(r / tau) for an advantage: reward-weighted regression, weights not renormalised.
// Kept turns by `criterion`: all; better: better than the turn before; best: the best one; success: reward 1 and more. First
// turns always, but for success. An answer that repeats an earlier one of its attempt is left out.
// Ours differs: the authors stop at a right answer, for which the loop must know the truth: `stopAtSuccess`, off by
// default. Off, right answers are retried as well. All earlier turns are context (theirs: the last two, at test time).
// Their rewards are -1, 0, 1; ours are what reward functions give. Their other teacher, a larger model, is not here.

import * as z from 'zod'
import { reinforce } from '../../loss/index.js'
import { WhetstoneError } from '../../src/base/errors.js'
import type { RiseInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain, type Turn } from '../loop/chain.js'
import { sequenceOf, type ToExamples } from '../loop/examples.js'
import { attemptStatistics, correctionStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { turnInContext } from '../loop/recast.js'
import { scoreTurns } from '../loop/rewards.js'
import { bestBranch } from '../loop/select.js'
import { type Trace, turnRewards, turnsOf } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of RISE. */
export const riseOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(1e-5),
  numGenerations: z.int().min(1).default(1).describe('first answers per prompt'),
  turns: z.int().min(2).default(2).describe('answers of an attempt'),
  branches: z.int().min(1).default(16).describe('samples of a later answer, the best of which is kept'),
  tau: z.number().positive().default(0.4).describe('temperature of the weights exp(reward / tau)'),
  criterion: z.enum(['all', 'better', 'best', 'success']).default('all').describe('which answers are trained'),
  stopAtSuccess: z.boolean().default(false).describe('end an attempt at reward 1 and more: the loop knows the truth'),
  instruction: z
    .string()
    .min(1)
    .default('\nYour answer is incorrect. Try again.\n')
    .describe('what is put between the answers; of conversations the user’s next message'),
})

type Settings = z.output<typeof riseOptions>

/** What a run of RISE takes. */
export type RiseOptions = OnlineOptions & RiseInput

/** Does an answer pass the criterion? */
const passes: Readonly<Record<Settings['criterion'], (rewards: readonly number[], turn: number) => boolean>> = {
  all: () => true,
  better: (rewards, turn) => turn === 0 || rewards[turn] > rewards[turn - 1],
  best: (rewards, turn) => turn === 0 || rewards.indexOf(Math.max(...rewards)) === turn,
  success: (rewards, turn) => rewards[turn] >= 1,
}

/** The items of attempts, each weighted by its reward. */
export const riseExamples =
  ({ tau, criterion }: Pick<Settings, 'tau' | 'criterion'>): ToExamples =>
  (traces) =>
    traces.flatMap((trace) => {
      const [rewards, texts] = [turnRewards(trace), turnsOf(trace).map(({ text }) => text)]
      const kept = rewards.flatMap((_, k) =>
        texts.indexOf(texts[k]) === k && passes[criterion](rewards, k) ? [k] : [],
      )
      return kept.map((turn) => {
        const advantage = Math.exp(rewards[turn] / tau)
        if (Number.isFinite(advantage)) return [sequenceOf(turnInContext(trace, turn), { scores: { advantage } })]
        const text = `expected a reward whose exp(reward / tau) is a number, got ${rewards[turn]}: raise tau`
        throw new WhetstoneError('E_VERIFIER', `task ${trace.task.id} sample ${trace.sample}`, text)
      })
    })

function methodOf(values: Settings): OnlineMethod {
  const { turns, branches, stopAtSuccess, instruction, promptsPerRound, numGenerations } = values
  const sampling = samplingOf(values)
  const isSolved = (trace: Trace) => (turnRewards(trace).at(-1) ?? 0) >= 1
  const inject = (trace: Trace) => (stopAtSuccess && isSolved(trace) ? undefined : instruction)
  const best = bestBranch(branches)
  const later: Turn = { ...sampling, numGenerations: branches, inject }
  return {
    objective: reinforce({ aggregation: 'sequenceMean' }),
    explore: (rewards) => {
      const begun = { ...later, score: scoreTurns(rewards) }
      return chain(sampling, [begun, ...Array<Turn>(turns - 2).fill({ ...begun, select: best })])
    },
    score: ({ rewards }) => scoreTurns(rewards),
    statistics: (traces) => ({
      ...attemptStatistics(traces, branches ** (turns - 1)),
      ...correctionStatistics(traces),
    }),
    select: () => best,
    toExamples: riseExamples(values),
    examplesPerRound: promptsPerRound * numGenerations * turns,
  }
}

/** Trains a policy to improve on its own answers; see {@link startOnline}. */
export const rise = (options: RiseOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(riseOptions, sources), methodOf)
