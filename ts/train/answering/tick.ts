// TICK and STICK (Cook et al. 2024, arXiv 2410.03608, recalled): a checklist of yes-or-no questions says how good an answer is, and what
// to improve. With `yes` of the questions that apply answered yes,
//   pass rate PR = yes / questions,
// the answer with the highest PR is chosen (best of n), behind up to `refinements` turns that are told which items failed;
// where all are met an answer stays. Over all prompts questions are pooled (DRFR), not averaged by prompt.
// Ours differs: the checklist is given, as questions that functions judge (the probability of yes, or null where a question is not
// for the prompt) or a model by P(yes); the authors' model writes it from the instruction, and reasons before its answer. Read
// from notes.

import { checkArgument, checkOptions, having, kinds, listOf, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import { askReward, inputOf, type RewardFunction } from '../loop/rewards.js'
import type { Score } from '../loop/score.js'
import { type Trace, withScores } from '../loop/trace.js'
import { verdict } from '../loop/verdict.js'
import { type AnswerMethod, type AnswerSampling, answerKinds } from './method.js'
import { refinement } from './refine.js'

/** A yes-or-no question about answers. */
export interface ChecklistItem {
  readonly question: string
  /** For each sample the probability of yes; null where the question is not for its prompt. Default: `judge` is asked. */
  readonly check?: RewardFunction
}

/** How answers are held against a checklist. */
export interface TickOptions extends AnswerSampling {
  readonly checklist: readonly ChecklistItem[]
  /** The model that answers questions without a function, by its P(yes) behind the answer; the policy, or one with its tokenizer. */
  readonly judge?: LanguageModel
  /** Turns behind the first one; default 1, 0: best of n alone. */
  readonly refinements?: number
  /** Probability from which on an answer is yes; default 0.5. */
  readonly yesAt?: number
  /** What a refinement is asked with, from the questions whose answer is no. */
  readonly feedback?: (failed: readonly string[], trace: Trace) => string
}

const itemKind = having('an item of a checklist', 'question')

const listed = (failed: readonly string[]): string =>
  `\nThe answer does not do this:\n${failed.map((question) => `- ${question}\n`).join('')}A better answer:\n`

/** For each trace the probability of yes. */
async function judged(
  { question, check }: ChecklistItem,
  judge: LanguageModel | undefined,
  traces: readonly Trace[],
): Promise<readonly (number | null)[]> {
  if (check !== undefined) return askReward({ name: question, evaluate: check }, inputOf(traces))
  if (judge === undefined)
    throw new WhetstoneError('E_CONFIG', 'tick.judge', `expected a model for '${question}', which has no function`)
  const told = await verdict(judge, { question: `\n${question}` })(traces)
  return told.map(({ scores }) => scores.verdict)
}

/**
 * Scores `checklist/N` of every question that applies, 1 for yes and 0 for no, and `reward`, the pass rate.
 *
 * @throws WhetstoneError E_VERIFIER when a function fails, or no question applies
 */
export function passRate(checklist: readonly ChecklistItem[], yesAt = 0.5, judge?: LanguageModel): Score {
  return async (traces) => {
    if (traces.length === 0) return []
    const answers = await Promise.all(checklist.map((item) => judged(item, judge, traces)))
    return traces.map((trace, i) => {
      const own = answers.flatMap((values, item) => {
        const value = values[i]
        return value === null ? [] : [[`checklist/${item + 1}`, Number(value >= yesAt)] as const]
      })
      if (own.length === 0)
        throw new WhetstoneError('E_VERIFIER', 'checklist', `expected a question for ${trace.task.id}, got none`)
      return withScores(trace, { ...Object.fromEntries(own), reward: mean(own.map(([, yes]) => yes)) })
    })
  }
}

/** Share of all questions about the given traces whose answer is yes. */
export function pooledPassRate(traces: readonly Trace[]): number {
  const all = traces.flatMap(({ scores }) =>
    Object.entries(scores).flatMap(([name, yes]) => (name.startsWith('checklist/') ? [yes] : [])),
  )
  return mean(all)
}

/** Best of n by a checklist, with refinement. */
export function tick(options: TickOptions): AnswerMethod {
  const own = {
    checklist: listOf(itemKind),
    judge: optional(modelKind),
    refinements: optional(kinds.whole),
    yesAt: optional(kinds.number),
  }
  checkOptions('tick', options, { ...answerKinds, ...own, feedback: optional(kinds.call) })
  const { checklist, judge, refinements = 1, yesAt, feedback = listed, ...sampling } = options
  if (checklist.length === 0)
    throw new WhetstoneError('E_CONFIG', 'tick.checklist', 'expected at least one question, got none')
  for (const { question, check } of checklist) {
    checkArgument('tick.checklist: question', question, kinds.filled)
    checkArgument('tick.checklist: check', check, optional(kinds.call))
  }
  const failedOf = ({ scores }: Trace) =>
    checklist.flatMap(({ question }, item) => (scores[`checklist/${item + 1}`] === 0 ? [question] : []))
  const score = passRate(checklist, yesAt, judge)
  const method = refinement({
    ...{ sampling, score, rounds: refinements + 1, branches: 1, going: 'all' },
    feedback: (trace) => feedback(failedOf(trace), trace),
  })
  return {
    ...method,
    statistics: (traces, chosen) => ({
      'checklist/first': mean(traces.map(({ scores }) => scores['reward/1'])),
      'checklist/chosen': mean(chosen.map(({ scores }) => scores.reward)),
      'checklist/pooled': pooledPassRate(traces),
    }),
  }
}
