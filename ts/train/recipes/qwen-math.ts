// The post-training of Qwen2.5-Math (Yang et al. 2024, arXiv 2409.12122) round by round: a reward model is fitted listwise to the
// samples of all rounds so far, and GRPO learns from the checker and the model together.
//   reward model: mean over pairs of a right and a wrong answer to one prompt of -log s(r_right - r_wrong); prompts all of whose
//                 answers are right, or wrong, are left out
//   reward:       s(alpha r_m) + (r_v - 1), r_v = 1 for a right answer and else 0   (../loop/verdict-rank.ts)
//   prompts:      those with 2 to 5 right answers of 8, as shares `leastRight` and `mostRight`
//   advantage:    (r - mean) / deviation within a prompt; clipped ratios, KL coefficient 1e-3
// Of each round: pass@1, pass@N and RM@N, the answer that the reward model thinks best. Supervised fine-tuning on such answers,
// with which the paper's rounds take turns, is `bestOfN` with the model's folder for a reward, before.
// Ours differs: the samples that the filter counts are those that are trained (theirs: 8 to filter once, then 32); the reward
// model's head is one layer (theirs: two) over the policy's base or `companion`, fitted anew in each round; the first round is
// ranked by it as it starts; tools, several sampling models and unlabelled prompts are not here. No code was published.

import * as z from 'zod'
import { advantages, grpo, listwiseReward } from '../../loss/index.js'
import type { QwenMathInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { neededCompanion } from '../loop/companion.js'
import { companionShape, fitOf } from '../loop/companion-settings.js'
import { credit } from '../loop/credit.js'
import { policyExamples, rankExamples } from '../loop/examples.js'
import { sampleGroup } from '../loop/explore.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { isUntruncated, onlineShape, samplingOf } from '../loop/online-shape.js'
import { byTask } from '../loop/trace.js'
import { passBand, rankedReward, rankStatistics } from '../loop/verdict-rank.js'
import type { PhaseResult } from '../loop.js'

const share = z.number().min(0).max(1)

/** Settings of GRPO on a checker and a reward model that is fitted between rounds. */
export const qwenMathOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(1e-5),
  ...companionShape,
  alpha: z.number().min(0).default(0.5).describe('scale of the reward model within right and within wrong answers'),
  right: z.number().default(1).describe('least reward of a right answer'),
  leastRight: share.default(0.25).describe('prompts to train on: least share of right answers'),
  mostRight: share.default(0.625).describe('prompts to train on: largest share of right answers'),
  maxResamples: z.int().min(1).default(4).describe('times promptsPerRound: prompts that a round may try'),
  beta: z.number().min(0).default(1e-3).describe('weight of KL(policy || reference)'),
  epsilon: z.number().positive().default(0.2).describe('ratios are clipped at 1 - epsilon and 1 + epsilon'),
})

type Settings = z.output<typeof qwenMathOptions>

/** What a run of it takes. */
export type QwenMathOptions = OnlineOptions & QwenMathInput

function methodOf(values: Settings): OnlineMethod {
  const { alpha, right, promptsPerRound, maxResamples, beta, epsilon } = values
  const tempered = isUntruncated(values)
  const band = passBand(values.leastRight, values.mostRight)
  return {
    objective: grpo({ beta, epsilon }),
    companion: fitOf(values, { objective: listwiseReward(), toExamples: rankExamples('right') }),
    explore: () => sampleGroup({ ...samplingOf(values), logps: tempered ? 'sampling' : 'model' }),
    temperature: tempered ? values.temperature : 1,
    promptsTried: promptsPerRound * maxResamples,
    enough: (traces) => byTask(band(traces)).length >= promptsPerRound,
    score: ({ rewards, companion }) => rankedReward(rewards, neededCompanion(companion), { alpha, right }),
    statistics: (traces) => ({ ...rankStatistics(traces), 'prompts/inBand': byTask(band(traces)).length }),
    select: () => (traces) => credit(advantages.grpo)(byTask(band(traces)).slice(0, promptsPerRound).flat()),
    toExamples: policyExamples,
  }
}

/** Trains a policy by a checker, and by a reward model that ranks what it says; see {@link startOnline}. */
export const qwenMath = (options: QwenMathOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(qwenMathOptions, sources), methodOf)
