// Confidence and critique training (Yang et al. 2024, arXiv 2412.19513; code Zhe-Young/SelfCorrectDecompose): second answers are
// trained behind first answers of the policy's own. Behind a right first answer a right one is learned (CLT: keep to it),
// behind a wrong one a right one (CST: mend it); loss on the second answer alone. Numbers of a round: confidence CL, critique
// CS and RSS (../loop/metrics.ts), by second answers that the policy gives itself.
//   share of CLT items: `confidenceShare`, the paper's best is about 0.4
// Alone it costs first answers (the paper, and ours more); `withFirst` trains right answers behind the bare prompt beside it
// (the paper's SFT + CCT), at most as many as items.
// Ours differs: the right answer is one of the policy's, of the same prompt and round, where the paper has a reference
// solution; of a prompt without a right answer nothing is learned; the paper repeats the question between both answers,
// ours puts `instruction` there. Items are cut to the share; where a round has none of one kind it has all of the other.

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import type { CctInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain } from '../loop/chain.js'
import { sequenceOf, type ToExamples } from '../loop/examples.js'
import { correctionStatistics, twoTurnStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { turnAlone, turnInContext } from '../loop/recast.js'
import { scoreTurns } from '../loop/rewards.js'
import { byTask, type Trace, turnRewards } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of confidence and critique training. */
export const cctOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-5),
  right: z.number().default(1).describe('least reward of a right answer'),
  confidenceShare: z.number().min(0).max(1).default(0.4).describe('share of items whose first answer is right'),
  withFirst: z.boolean().default(true).describe('train right answers to the bare prompt, too'),
  instruction: z
    .string()
    .min(1)
    .default('\nAnswer the question again.\n')
    .describe('what is put between the answers; of conversations the user’s next message'),
})

type Settings = z.output<typeof cctOptions>

/** What a run of confidence and critique training takes. */
export type CctOptions = OnlineOptions & CctInput

/** Both turns of a trace as answers to the bare prompt, those that are right. */
const rightTurns = (trace: Trace, right: number): Trace[] =>
  [0, 1].flatMap((turn) => (turnRewards(trace)[turn] >= right ? [turnAlone(trace, turn)] : []))

/** First answers with a right one behind them, and whether the first was right. */
function itemsOf(group: readonly Trace[], right: number): { trace: Trace; confident: boolean }[] {
  const answers = group.flatMap((trace) => rightTurns(trace, right))
  if (answers.length === 0) return []
  return group.map((trace, i) => {
    const [prompt, first, between] = trace.segments
    const { segments, finishReason } = answers[i % answers.length]
    const joined = { ...trace, segments: [prompt, first, between, segments[1]], finishReason }
    return { trace: turnInContext(joined, 1), confident: trace.scores['reward/1'] >= right }
  })
}

/** The items of a round, in the shares that are asked for. */
export const cctExamples =
  ({ right, confidenceShare, withFirst }: Pick<Settings, 'right' | 'confidenceShare' | 'withFirst'>): ToExamples =>
  (traces) => {
    const items = byTask(traces).flatMap((group) => itemsOf(group, right))
    const [kept, mended] = [true, false].map((confident) => items.filter((item) => item.confident === confident))
    const most = Math.min(kept.length / confidenceShare, mended.length / (1 - confidenceShare))
    const isOne = kept.length === 0 || mended.length === 0
    const take = (list: typeof items, share: number) => (isOne ? list : list.slice(0, Math.round(most * share)))
    const chosen = [...take(kept, confidenceShare), ...take(mended, 1 - confidenceShare)]
    const first = withFirst ? traces.flatMap((trace) => rightTurns(trace, right)).slice(0, chosen.length) : []
    return [...first, ...chosen.map(({ trace }) => trace)].map((trace) => [sequenceOf(trace)])
  }

function methodOf(values: Settings): OnlineMethod {
  const { instruction, promptsPerRound, numGenerations } = values
  const sampling = samplingOf(values)
  return {
    objective: sft(),
    explore: () => chain(sampling, [{ ...sampling, numGenerations: 1, inject: () => instruction }]),
    score: ({ rewards }) => scoreTurns(rewards),
    statistics: (traces) => ({ ...twoTurnStatistics(traces), ...correctionStatistics(traces) }),
    toExamples: cctExamples(values),
    examplesPerRound: promptsPerRound * numGenerations * (values.withFirst ? 2 : 1),
  }
}

/** Trains a policy to keep to right answers and to mend wrong ones; see {@link startOnline}. */
export const cct = (options: CctOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(cctOptions, sources), methodOf)
