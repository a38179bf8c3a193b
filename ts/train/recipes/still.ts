// Explore and self-improve as in STILL-2 (Min et al. 2024, arXiv 2412.09413), on what the policy writes itself: many samples of
// each prompt; those with the right answer are kept, of prompts that are not always solved; ranked, of each prompt the first
// `perPrompt`; joined with those of all rounds so far; and the BASE model is trained on them, not the last policy.
//   rankBy: random, shortest, longest, likely, unlikely (likelihood per token under the policy that wrote it)
// The paper ranks by length and by perplexity, for longer and less expected answers are more to learn from; whether that holds
// is open, so that the rule is a setting. ReST-EM (2312.06585) is rankBy random, skipSolved false, pool replace, perPrompt 10.
// Every round has the rates of a whole schedule. Ours differs: the imitation phase, on answers of a teacher, is `train sft`,
// before; the paper's DPO on right against wrong is `onlineDpo`; with `pool: accumulate` a round has as many steps as one
// without, over larger batches. What we know of the paper's numbers (20 samples a problem) is recalled.

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import type { StillInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { likelihood } from '../loop/answers.js'
import { completionExamples } from '../loop/examples.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape } from '../loop/online-shape.js'
import { ended, partlySolved, pick } from '../loop/select.js'
import { completionLength, type Trace, withScores } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of exploring and self-improving. */
export const stillOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(1e-5),
  numGenerations: onlineShape.numGenerations.default(20),
  right: z.number().default(1).describe('least reward of a right sample'),
  skipSolved: z.boolean().default(true).describe('leave out prompts all of whose samples are right'),
  rankBy: z
    .enum(['random', 'shortest', 'longest', 'likely', 'unlikely'])
    .default('longest')
    .describe('which right samples of a prompt come first'),
  perPrompt: z.int().min(1).default(1).describe('right samples of a prompt to train on'),
  maskTruncatedCompletions: z.boolean().default(true).describe('leave out samples that were cut off'),
  startFrom: z.enum(['base', 'current']).default('base').describe('where the update of a round starts'),
  pool: z.enum(['accumulate', 'replace']).default('accumulate').describe('train on all rounds so far, or on the last'),
})

type Settings = z.output<typeof stillOptions>

/** What a run of it takes. */
export type StillOptions = OnlineOptions & StillInput

/** The rank of a sample; the highest comes first. */
const ranks: Readonly<Record<Settings['rankBy'], (trace: Trace, seed: number) => number>> = {
  random: ({ task, sample }, seed) => uniform(deriveKey(seed, 'rank', task.id, sample), 0),
  shortest: (trace) => -completionLength(trace),
  longest: completionLength,
  likely: ({ scores }) => scores.likelihood,
  unlikely: ({ scores }) => -scores.likelihood,
}

/** The right samples to train on. */
export const stillSelect =
  (values: Pick<Settings, 'right' | 'skipSolved' | 'rankBy' | 'perPrompt' | 'maskTruncatedCompletions' | 'seed'>) =>
  (traces: readonly Trace[]): Trace[] => {
    const { right, skipSolved, rankBy, perPrompt, maskTruncatedCompletions, seed } = values
    const hard = skipSolved ? partlySolved(right)(traces) : traces
    const whole = maskTruncatedCompletions ? ended(hard) : hard
    const solved = whole.filter(({ scores }) => scores.reward >= right)
    const ranked = solved.map((trace) => withScores(trace, { rank: ranks[rankBy](trace, seed) }))
    return pick({ by: 'rank', perTask: perPrompt })(ranked)
  }

function methodOf(values: Settings): OnlineMethod {
  const perToken = likelihood('mean')
  return {
    objective: sft(),
    startFrom: values.startFrom,
    pool: values.pool,
    score:
      ({ rewards }) =>
      async (traces) =>
        perToken(await rewards(traces)),
    select: () => stillSelect(values),
    toExamples: completionExamples,
    examplesPerRound: values.promptsPerRound * values.perPrompt,
  }
}

/** Trains the base anew in each round on all that was solved so far; see {@link startOnline}. */
export const still = (options: StillOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(stillOptions, sources), methodOf)
