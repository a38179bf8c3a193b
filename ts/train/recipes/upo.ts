// UPO, uncertainty-enhanced preference optimisation (2409.11212 by memory; of text and code, which disagree): a second opinion cleans noisy pairs.
//   pairs:     better half of a prompt's samples by reward against the worse half
//   estimator: p_t, t = 1 .. passes, of a model of pairs with dropout;  B = H(mean p) - mean H(p)   (../loop/uncertainty.ts)
//   filter:    pairs go where most p_t do not say what the reward says
//   draw:      easyShare of the rest with chances as 1 - B, hardShare of what is left with chances as B; perPrompt of a prompt
//   loss:      -(1 - a) log s(z) - a log s(-z) - rpoAlpha log pi(y_w) / |y_w|,  a = min(1/2, B / (2 ln 2))
// with the policy of the round before as the reference, by `syncRefModel`: it cannot follow an adapter, with which it is to be false.
// The paper's own a = 1 / (P + 1), P a probability over all pairs, is never below 1/2 and near 1: it trains against the label; and
// its likelihood term has the wrong sign for a loss that is made smaller. Its code has neither. Ours differs: a as above (0 where the
// estimator is sure, 1/2 where it knows nothing); the estimator is `judge`, what `train pairReward` leaves with an adapter whose
// loraDropout is above 0; no pairs of an earlier data set and no reference answers are mixed in; rpoAlpha 1 is ours.

import * as z from 'zod'
import { logRatio } from '../../loss/index.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import type { UpoInput } from '../config/recipes.gen.js'
import type { Source } from '../config/resolve.js'
import type { EncodedExample } from '../data/example.js'
import type { Run } from '../events.js'
import { sequenceOf, type ToExamples } from '../loop/examples.js'
import { drawPairs, firstOfTask, type JudgedPair, judgedPairs, judgeHalves, noiseRate } from '../loop/judged-pairs.js'
import type { PairJudge } from '../loop/judges.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape } from '../loop/online-shape.js'
import { byTask, type Trace } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

const share = z.number().min(0).max(1)

/** Settings of UPO. */
export const upoOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-6),
  numGenerations: onlineShape.numGenerations.default(4),
  syncRefModel: onlineShape.syncRefModel.default(true),
  refModelMixupAlpha: onlineShape.refModelMixupAlpha.default(1),
  refModelSyncSteps: z
    .int()
    .min(1)
    .optional()
    .describe('steps from one move of the reference to the next; default a round'),
  passes: z.int().min(2).default(10).describe('draws of the estimator for each pair'),
  easyShare: share.default(0.5).describe('share of the pairs to train on that are drawn as 1 - B: sure ones'),
  hardShare: share.default(0.1).describe('share of the pairs that are drawn as B: unsure ones'),
  perPrompt: z.int().min(1).default(1).describe('most pairs of a prompt to train on'),
  beta: z.number().positive().default(0.1).describe('strength of the tie to the reference'),
  rpoAlpha: z.number().min(0).default(1).describe('weight of the NLL per token of the chosen side'),
})

type Settings = z.output<typeof upoOptions>

/** What a run of UPO takes. `judge` is the estimator, a model of pairs with dropout or its folder. */
export type UpoOptions = OnlineOptions & UpoInput

/** The pairs of a round to train on. */
export function upoPairs(
  traces: readonly Trace[],
  { easyShare, hardShare, perPrompt, seed }: Pick<Settings, 'easyShare' | 'hardShare' | 'perPrompt' | 'seed'>,
): JudgedPair[] {
  const agreed = judgedPairs(traces).filter(({ vote }) => vote === 1)
  const easy = drawPairs(agreed, Math.ceil(easyShare * agreed.length), ({ bald }) => 1 - bald, seed, 'easy')
  const left = agreed.filter((pair) => !easy.includes(pair))
  const hard = drawPairs(left, Math.ceil(hardShare * agreed.length), ({ bald }) => bald, seed, 'hard')
  return firstOfTask([...easy, ...hard], perPrompt)
}

/** Pairs as examples. Where a round has none its samples stand beside themselves with weight 0. */
export const upoExamples =
  (values: Parameters<typeof upoPairs>[1]): ToExamples =>
  (traces) => {
    const example = (chosen: Trace, rejected: Trace, scores: Readonly<Record<string, number>>): EncodedExample => [
      sequenceOf(chosen, { role: 'chosen', scores }),
      sequenceOf(rejected, { role: 'rejected', scores }),
    ]
    const pairs = upoPairs(traces, values)
    if (pairs.length === 0) return byTask(traces).map(([one]) => example(one, one, { weight: 0 }))
    return pairs.map(({ chosen, rejected, bald }) =>
      example(chosen, rejected, { labelSmoothing: Math.min(0.5, bald / (2 * Math.LN2)) }),
    )
  }

function statistics(traces: readonly Trace[], values: Settings): Record<string, number> {
  const [all, chosen] = [judgedPairs(traces), upoPairs(traces, values)]
  const noise = { 'pairs/noise': noiseRate(all), 'pairs/noise_kept': noiseRate(chosen) }
  return {
    'pairs/all': all.length,
    'pairs/kept': chosen.length,
    'pairs/agreed': mean(all.map(({ vote }) => Number(vote === 1))),
    'pairs/bald': mean(all.map(({ bald }) => bald)),
    'pairs/bald_kept': mean(chosen.map(({ bald }) => bald)),
    ...Object.fromEntries(Object.entries(noise).flatMap(([name, rate]) => (rate === undefined ? [] : [[name, rate]]))),
  }
}

function estimatorOf(judge: PairJudge | undefined): PairJudge {
  if (judge?.sample !== undefined) return judge
  const text = 'expected the estimator, a model of pairs with dropout in its adapter, got none that has draws'
  throw new WhetstoneError('E_CONFIG', 'judge', text)
}

const methodOf = (values: Settings): OnlineMethod => ({
  objective: logRatio({ beta: values.beta, rpoAlpha: values.rpoAlpha }),
  comparesPairs: true,
  score: ({ rewards, judge }) => judgeHalves(rewards, estimatorOf(judge), { passes: values.passes, seed: values.seed }),
  statistics: (traces) => statistics(traces, values),
  toExamples: upoExamples(values),
  examplesPerRound: values.promptsPerRound * values.perPrompt,
})

/** Settings; of none for the reference the steps of a round. */
function resolve(sources: readonly Source[]) {
  const { values, origins } = settingsFrom(upoOptions, sources)
  const batch = values.perDeviceTrainBatchSize * values.gradientAccumulationSteps
  const steps = values.numIterations * Math.ceil((values.promptsPerRound * values.perPrompt) / batch)
  return { values: { ...values, refModelSyncSteps: values.refModelSyncSteps ?? steps }, origins }
}

/** Trains a policy on pairs of its samples that an estimator is sure of; see {@link startOnline}. */
export const upo = (options: UpoOptions): Run<PhaseResult> => startOnline(options, resolve, methodOf)
