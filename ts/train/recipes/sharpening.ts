// Sharpening (Huang et al. 2024, arXiv 2412.01951): self-improvement without any reward from outside. n samples of each prompt
// from the base model; its own opinion of them is the reward r; training moves the search for the best into the weights.
//   sft:   train the likelihood of argmax r over the n samples (SFT-Sharpening)
//   rlhf:  (beta [rho(y) - rho(y')] - [r(y) - r(y')])^2 over pairs y, y' of samples, rho = log pi - log base; its optimum is
//          base^(1 + 1/beta) for r = logps (RLHF-Sharpening, offline; objectives.md 0.1)
//   r:     logps = log base(y | x); meanLogps = logps / |y|; majority = share of the samples with the same final answer
// The base is the reference: the policy as it starts. It samples in every round, so that rounds are slices of the prompts.
// Ours differs: samples that were cut off are no answers, and are left out; the paper has pairs of 2 samples, ours are
// neighbours among n; beta is ours. With rewards, or the checker of a task source, `gold` numbers look on and change
// nothing. The paper's online form is `onlineXpo`. By its own account logps prefers short answers and may hurt.

import * as z from 'zod'
import { logRatio, sft } from '../../loss/index.js'
import { mean } from '../../src/base/stats.js'
import type { SharpeningInput } from '../config/recipes.gen.js'
import type { EncodedExample } from '../data/example.js'
import type { Run } from '../events.js'
import { answerReader, consistencyStatistics, likelihood, voteShare } from '../loop/answers.js'
import { completionExamples, sequenceOf, type ToExamples } from '../loop/examples.js'
import { sampleGroup } from '../loop/explore.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { ended, pick, type Select } from '../loop/select.js'
import { byTask, type Trace } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of sharpening. */
export const sharpeningOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(2e-5),
  numGenerations: onlineShape.numGenerations.default(16),
  form: z.enum(['sft', 'rlhf']).default('sft').describe('train the best sample, or regress on differences of pairs'),
  selfReward: z
    .enum(['logps', 'meanLogps', 'majority'])
    .default('logps')
    .describe('what the base makes of a sample: log-prob, log-prob per token, votes for its final answer'),
  answerPattern: z
    .string()
    .min(1)
    .optional()
    .describe('regular expression of the final answer: the last match, or its first group; default the whole sample'),
  maskTruncatedCompletions: z.boolean().default(true).describe('leave out samples that were cut off'),
  beta: z.number().positive().default(1).describe('rlhf: strength of the tie to the base'),
})

type Settings = z.output<typeof sharpeningOptions>

/** What a run of sharpening takes. */
export type SharpeningOptions = OnlineOptions & SharpeningInput

/** Neighbours among the samples of a task as pairs; what the log-ratios are to differ by is the difference of rewards. */
export const regressionExamples: ToExamples = (traces) =>
  byTask(traces).flatMap((group) =>
    Array.from({ length: Math.floor(group.length / 2) }, (_, i): EncodedExample => {
      const [one, other] = group.slice(2 * i, 2 * i + 2)
      const scores = { target: one.scores.self - other.scores.self }
      return [sequenceOf(one, { role: 'chosen', scores }), sequenceOf(other, { role: 'rejected', scores })]
    }),
  )

const selfOf = (traces: readonly Trace[]): number[] => traces.map(({ scores }) => scores.self)

function methodOf(values: Settings): OnlineMethod {
  const { form, selfReward, beta, promptsPerRound, numGenerations } = values
  const answerOf = answerReader(values.answerPattern)
  const score = {
    logps: likelihood('sum', 'self'),
    meanLogps: likelihood('mean', 'self'),
    majority: voteShare(answerOf, 'self'),
  }[selfReward]
  const best = pick({ by: 'self', perTask: 1 })
  const isSft = form === 'sft'
  const whole: Select = values.maskTruncatedCompletions ? ended : (traces) => [...traces]
  return {
    objective: isSft ? sft() : logRatio({ link: 'square', beta }),
    explore: () => sampleGroup({ ...samplingOf(values), mixtureCoef: 1 }),
    needsReference: true,
    unrewarded: true,
    score:
      ({ rewards }) =>
      async (traces) =>
        score(await rewards(traces)),
    statistics: (traces) => ({
      'self/mean': mean(selfOf(whole(traces))),
      'self/best': mean(selfOf(best(whole(traces)))),
      'self/best_reward': mean(best(whole(traces)).flatMap(({ scores }) => scores.reward ?? [])),
      ...consistencyStatistics(traces, answerOf),
    }),
    select: () => (traces) => (isSft ? best(whole(traces)) : whole(traces)),
    toExamples: isSft ? completionExamples : regressionExamples,
    examplesPerRound: promptsPerRound * (isSft ? 1 : Math.floor(numGenerations / 2)),
  }
}

/** Trains a policy on what it itself thinks best of its samples; see {@link startOnline}. */
export const sharpening = (options: SharpeningOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(sharpeningOptions, sources), methodOf)
