// Hypothesis refinement (Qiu et al. 2023, "Phenomenal yet puzzling", arXiv 2310.08559, recalled): the policy proposes N rules or programs for
// the examples of a prompt, an interpreter says what share of the examples each one reproduces, the first of the best goes on, and
// its failing examples (input, expected, actual) are the feedback behind which N others are proposed, for T rounds at most. A
// rule that fits all examples is not refined.
// Ours differs: the interpreter is a score and its words a function, both yours; rules in plain words, which the authors have
// translated to programs by the model, are left out. The authors answer with the best rule of the last round, we with the best of all
// rounds, the first of equals. The interpreter sees the examples of the prompt alone: a score that looks at hidden tests is an oracle.

import { checkOptions, kinds, optional } from '../../src/base/arguments.js'
import { mean } from '../../src/base/stats.js'
import type { Score } from '../loop/score.js'
import type { Trace } from '../loop/trace.js'
import { type AnswerMethod, type AnswerSampling, answerKinds } from './method.js'
import { refinement } from './refine.js'

/** How hypotheses are refined. */
export interface HypothesisOptions extends AnswerSampling {
  /** Gives `reward`, the share of the prompt's examples that a rule reproduces. */
  readonly score: Score
  /** What is put behind the best rule of a round: its failing examples. */
  readonly feedback: (trace: Trace) => string
  /** T; default 3. */
  readonly rounds?: number
}

const ownKinds = { ...answerKinds, score: kinds.call, feedback: kinds.call, rounds: optional(kinds.count) }

/** Refined hypotheses; `numGenerations` are proposed each round. */
export function hypothesis(options: HypothesisOptions): AnswerMethod {
  checkOptions('hypothesis', options, ownKinds)
  const { score, feedback, rounds = 3, ...sampling } = options
  const branches = sampling.numGenerations
  return {
    ...refinement({ sampling, score, feedback, rounds, branches, going: 'best' }),
    statistics: (_, chosen) => ({
      'hypotheses/fit': mean(chosen.map(({ scores }) => scores.reward)),
      'hypotheses/solved': mean(chosen.map(({ scores }) => Number(scores.reward >= 1))),
      'hypotheses/round': mean(chosen.map(({ scores }) => scores.turn)),
    }),
  }
}
