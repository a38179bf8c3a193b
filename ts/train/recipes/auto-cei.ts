// Auto-CEI, automatic curriculum expert iteration (Zhao et al. 2024, arXiv 2410.07627; code SalesforceAIResearch/Auto-CEI): an
// answer may be a refusal, and what a refusal is worth grows with the steps that were tried before it.
//   reward r: right +1, wrong -1, refusal R(l) = 2 / (1 + exp(-c2 (l - c1))) - 1, l its steps
//   of each prompt as many samples are drawn again, a share of exp(r / T_r) each, beside every sample once; wrong ones are
//   dropped, the rest is learned (SFT)
//   c1 climbs f = (1 - lambda) precision + lambda (1 - refusals), `roundsPerTrial` rounds at each value
// From the first round: c1 = mean steps of refusals + step (of all samples where none refuses), step = min(0.2 s, 0.5), s the
// deviation of steps, c2 = ln 10 / (4 s), T_r = the precision. A policy that never refuses learns no refusals: train some first.
// Ours differs: f is that of the next round's samples, before they are trained, where the paper has a validation split: with
// `trainTasks` for all rounds no prompt comes twice. Trials have a fixed number of rounds. Values are filed under the c1 that
// they were measured at (the authors' code files them under the next one). All samples of a run are kept in memory.

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import { deviation, mean } from '../../src/base/stats.js'
import type { AutoCeiInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { completionExamples, type ToExamples } from '../loop/examples.js'
import { sampleGroup } from '../loop/explore.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { isRefusal, type RefusalCurve, refusalReward, reliabilityOf, slopeOf, stepsOf } from '../loop/refusal.js'
import { resample } from '../loop/select.js'
import { type Trace, withScores } from '../loop/trace.js'
import { hillClimb, type Tuned } from '../loop/tuner.js'
import type { PhaseResult } from '../loop.js'

/** Settings of Auto-CEI. */
export const autoCeiOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(3e-4),
  numGenerations: onlineShape.numGenerations.default(16),
  refusal: z.string().min(1).default('I don’t know.').describe('what a refusal ends with'),
  stepEnd: z.string().min(1).default('\n').describe('what ends a step of an answer'),
  right: z.number().default(1).describe('least reward of a right answer'),
  lambda: z.number().min(0).max(1).default(0.2).describe('weight of answering at all beside being right'),
  roundsPerTrial: z.int().min(1).default(3).describe('rounds at each value of c1'),
})

type Settings = z.output<typeof autoCeiOptions>

/** What a run of Auto-CEI takes. */
export type AutoCeiOptions = OnlineOptions & AutoCeiInput

type Rules = Pick<Settings, 'refusal' | 'stepEnd' | 'right' | 'lambda' | 'roundsPerTrial' | 'seed'>

/** What the first round fixes. */
function startOf(first: readonly Trace[], rules: Rules) {
  const steps = first.map((trace) => stepsOf(trace, rules))
  const refusals = first.filter((trace) => isRefusal(trace, rules)).map((trace) => stepsOf(trace, rules))
  const spread = Math.max(deviation(steps), 1e-6)
  const step = Math.min(0.2 * spread, 0.5)
  const temperature = Math.max(reliabilityOf(first, rules.lambda, rules).precision, 1e-2)
  return { start: mean(refusals.length > 0 ? refusals : steps) + step, step, slope: slopeOf(spread), temperature }
}

/** The curve of a round: what was tried up to it, each trial by the samples that were drawn behind it, decides c1. */
export function curveOf(rounds: readonly (readonly Trace[])[], rules: Rules): RefusalCurve & { temperature: number } {
  const { start, step, slope, temperature } = startOf(rounds[0], rules)
  const tried: Tuned<number>[] = []
  let breakEven = start
  for (let round = rules.roundsPerTrial; round < rounds.length; round += rules.roundsPerTrial) {
    tried.push({ setting: breakEven, value: reliabilityOf(rounds[round], rules.lambda, rules).value })
    breakEven = hillClimb(tried, { start, step }).next
  }
  return { breakEven, slope, temperature }
}

/** What a round trains on, from the samples of all rounds so far. */
export const autoCeiExamples =
  (rules: Rules): ToExamples =>
  (traces, round) => {
    const rounds = Array.from({ length: round }, (_, i) => traces.filter(({ scores }) => scores.round === i + 1))
    const curve = curveOf(rounds, rules)
    const worthOf = (trace: Trace): number =>
      isRefusal(trace, rules)
        ? refusalReward(stepsOf(trace, rules), curve)
        : trace.scores.reward >= rules.right
          ? 1
          : -1
    const own = rounds[round - 1].map((trace) => withScores(trace, { value: worthOf(trace) }))
    const drawn = resample({ by: 'value', temperature: curve.temperature, seed: rules.seed, round })(own)
    return completionExamples(
      [...own, ...drawn].filter(({ scores }) => scores.value > -1),
      round,
    )
  }

function methodOf(values: Settings): OnlineMethod {
  const group = sampleGroup(samplingOf(values))
  return {
    objective: sft(),
    pool: 'accumulate',
    explore: () => async (context, tasks) =>
      (await group(context, tasks)).map((trace) => withScores(trace, { round: context.round })),
    statistics: (traces) => {
      const { precision, refusals, value } = reliabilityOf(traces, values.lambda, values)
      return { 'refusal/precision': precision, 'refusal/rate': refusals, 'refusal/value': value }
    },
    toExamples: autoCeiExamples(values),
    examplesPerRound: 2 * values.promptsPerRound * values.numGenerations,
  }
}

/** Trains a policy to refuse where it would be wrong, and no earlier; see {@link startOnline}. */
export const autoCei = (options: AutoCeiOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(autoCeiOptions, sources), methodOf)
