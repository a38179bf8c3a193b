// SMART, self-learning of strategies (Liu et al. 2024, arXiv 2410.16128): the first words of an answer name a strategy. The
// policy answers by the one that it chooses; while its answer is wrong it tries again with one that it has not used, and the
// successful attempt is learned behind the BARE prompt: attempts before it are dropped, so that next time the right strategy is
// the first one ("implicit biasing"). Rounds follow each other from the last policy.
//   loss = mean over tokens of -log pi of the successful attempt, its strategy's name included
// The loop knows the truth, by the paper's design: it stops at a right answer. What we know of the algorithm is from reviews and
// a read-me. Ours differs: a later strategy is begun by the loop, the unused ones in the order of `strategies`; the few-shot
// collection that their first stage has is `train sft` on answers by each strategy, before. The control that the paper lacks is
// `still` with startFrom current, skipSolved false and as many samples: rejection sampling without a change of strategy. Regret is to the
// best of a prompt's tries, so that a part of it is luck.

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import type { SmartInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain, type Turn } from '../loop/chain.js'
import { completionExamples } from '../loop/examples.js'
import { attemptStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { turnAlone } from '../loop/recast.js'
import { scoreTurns } from '../loop/rewards.js'
import { type Trace, turnRewards, turnsOf } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of SMART. */
export const smartOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(1e-5),
  numGenerations: z.int().min(1).default(1).describe('attempts per prompt, each with its changes of strategy'),
  strategies: z
    .array(z.string().min(1))
    .min(2)
    .default(['Step by step:', 'Subproblems:', 'Program:'])
    .describe('what an answer by each strategy begins with. As JSON they keep blanks and commas'),
  right: z.number().default(1).describe('least reward of a right answer'),
  retry: z
    .string()
    .min(1)
    .default('\nThis is wrong. Try another way.\n')
    .describe('what is put behind a wrong answer; of conversations the user’s next message'),
})

type Settings = z.output<typeof smartOptions>

/** What a run of SMART takes. */
export type SmartOptions = OnlineOptions & SmartInput

/** The strategy of each turn by its place in the list; -1 for none of them. */
const strategiesOf = (trace: Trace, strategies: readonly string[]): number[] =>
  turnsOf(trace).map(({ text }) => strategies.findIndex((name) => text.trimStart().startsWith(name.trimStart())))

/** Successful attempts behind the bare prompt. */
export const smartSelect =
  ({ right }: Pick<Settings, 'right'>) =>
  (traces: readonly Trace[]): Trace[] =>
    traces.flatMap((trace) => {
      const last = turnsOf(trace).length - 1
      return turnRewards(trace)[last] >= right ? [turnAlone(trace, last)] : []
    })

/** How often each strategy comes first, how often it is right then, and what choosing right each time would add. */
export function strategyStatistics(traces: readonly Trace[], strategies: readonly string[]): Record<string, number> {
  const chosen = traces.map((trace) => ({
    strategy: strategiesOf(trace, strategies)[0],
    reward: turnRewards(trace)[0],
  }))
  const ofEach = strategies.flatMap((name, i) => {
    const own = chosen.filter(({ strategy }) => strategy === i)
    const share = [`strategy/${name}`, own.length / traces.length] as const
    return own.length === 0
      ? [share]
      : [share, [`strategy/${name}/reward`, mean(own.map(({ reward }) => reward))] as const]
  })
  const best = traces.map((trace) => Math.max(...turnRewards(trace)))
  return { ...Object.fromEntries(ofEach), 'strategy/regret': mean(best) - mean(chosen.map(({ reward }) => reward)) }
}

/** Names must tell strategies apart. */
function checkStrategies(strategies: readonly string[]): void {
  const names = strategies.map((name) => name.trimStart())
  const twice = names.find((name, i) => names.some((other, j) => i !== j && other.startsWith(name)))
  if (twice === undefined) return
  const text = `expected names none of which begins with another, got ${JSON.stringify(twice)} and one that does`
  throw new WhetstoneError('E_CONFIG', 'strategies', text)
}

function methodOf(values: Settings): OnlineMethod {
  checkStrategies(values.strategies)
  const { strategies, right, retry, promptsPerRound, numGenerations } = values
  const sampling = samplingOf(values)
  const unused = (trace: Trace): string | undefined => {
    const used = strategiesOf(trace, strategies)
    return strategies.find((_, i) => !used.includes(i))
  }
  return {
    objective: sft(),
    explore: (rewards) => {
      const score = scoreTurns(rewards)
      const goesOn = (trace: Trace) =>
        turnRewards(trace)[turnsOf(trace).length - 1] < right && unused(trace) !== undefined
      const inject = (trace: Trace) => (goesOn(trace) ? retry : undefined)
      const next: Turn = { ...sampling, numGenerations: 1, score, inject, begin: (trace) => unused(trace) ?? '' }
      return chain(sampling, Array<Turn>(strategies.length).fill(next))
    },
    score: ({ rewards }) => scoreTurns(rewards),
    statistics: (traces) => ({ ...attemptStatistics(traces, 1), ...strategyStatistics(traces, strategies) }),
    select: () => smartSelect(values),
    toExamples: completionExamples,
    examplesPerRound: promptsPerRound * numGenerations,
  }
}

/** Trains a policy to choose at once the strategy that works; see {@link startOnline}. */
export const smart = (options: SmartOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(smartOptions, sources), methodOf)
