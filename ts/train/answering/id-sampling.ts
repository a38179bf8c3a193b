// ID-sampling, iterative deepening at inference: while an answer grows, a trigger that asks for reflection is put in whenever a
// budget of tokens is used up. Budgets grow geometrically, B0, gamma B0, gamma^2 B0 ..., so that a total of L tokens is cut into
//   ceil(log_gamma(1 + (gamma - 1) L / B0))
// parts (of gamma 1: L / B0), with one trigger fewer. K chains are combined by majority, or by reward.
// Read from summaries, as the code is not public: the authors' sentence, B0 and gamma are not known, and the defaults are ours.
// Ours differs: what happens where the policy ends before its budget is a setting, `atEnd`: the chain is done (default), or its
// end is taken back, the trigger follows and it writes on. The answer is all that a chain wrote, triggers among it; with
// `answerFrom: 'trigger'` what stands behind the last trigger, for policies that begin anew there.

import { checkOptions, kinds, optional, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import { answerReader, voteShare } from '../loop/answers.js'
import { chain, type Turn } from '../loop/chain.js'
import type { Score } from '../loop/score.js'
import { type Segment, type Trace, turnsOf } from '../loop/trace.js'
import { type AnswerMethod, type AnswerSampling, answerKinds, highest, patternKinds } from './method.js'

/** How chains deepen. */
export interface IdSamplingOptions extends AnswerSampling {
  /** Tokens before the first trigger, B0. */
  readonly firstBudget: number
  /** gamma, at least 1; default 2. */
  readonly growth?: number
  readonly trigger?: string
  /** Default `stop`. */
  readonly atEnd?: 'stop' | 'goOn'
  /** What is the answer; default `all`. */
  readonly answerFrom?: 'all' | 'trigger'
  /** Regular expression for the final answer that is voted on; default the whole text. */
  readonly answerPattern?: string
  /** Gives `reward`: the best of the chains answers. Default: the majority does. */
  readonly score?: Score
}

const ownKinds = {
  ...answerKinds,
  ...patternKinds,
  firstBudget: kinds.count,
  growth: optional(kinds.number),
  trigger: optional(kinds.filled),
  atEnd: optional(word('stop', 'goOn')),
  answerFrom: optional(word('all', 'trigger')),
  score: optional(kinds.call),
}

/** Tokens of each part, whole numbers whose sum is `total`. */
export function budgets(total: number, first: number, growth: number): number[] {
  const parts: number[] = []
  for (let used = 0, next = first; used < total; next *= growth) {
    const end = Math.min(total, Math.max(used + 1, Math.round(used + next)))
    parts.push(end - used)
    used = end
  }
  return parts
}

/** What the policy wrote and the triggers as one turn, or what is behind the last trigger as a turn of its own. */
function answered(trace: Trace, from: 'all' | 'trigger'): Trace {
  const [prompt, ...written] = trace.segments
  const begin = from === 'all' ? 0 : written.length - 1
  const join = (segments: readonly Segment[], role: Segment['role']): Segment[] =>
    segments.length === 0
      ? []
      : [{ role, text: segments.map(({ text }) => text).join(''), ids: segments.flatMap(({ ids }) => ids) }]
  return {
    ...trace,
    segments: [prompt, ...join(written.slice(0, begin), 'injected'), ...join(written.slice(begin), 'completion')],
    scores: { ...trace.scores, triggers: turnsOf(trace).length - 1 },
  }
}

/**
 * Iterative deepening; `maxNewTokens` is the total L, triggers not counted.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function idSampling(options: IdSamplingOptions): AnswerMethod {
  checkOptions('idSampling', options, ownKinds)
  const {
    firstBudget,
    growth = 2,
    trigger = '\nWait, there may be a mistake. Let me think again.\n',
    ...more
  } = options
  const { atEnd = 'stop', answerFrom = 'all', answerPattern, score, ...sampling } = more
  if (!(growth >= 1)) throw new WhetstoneError('E_CONFIG', 'growth', `expected at least 1, got ${growth}`)
  const { numGenerations, maxNewTokens, ...drawn } = sampling
  const [first, ...later] = budgets(maxNewTokens, firstBudget, growth)
  const inject = ({ finishReason }: Trace) => (atEnd === 'stop' && finishReason === 'stop' ? undefined : trigger)
  const turns = later.map((budget): Turn => ({ ...drawn, maxNewTokens: budget, inject, goesOn: true }))
  const explore = chain({ ...drawn, numGenerations, maxNewTokens: first }, turns)
  return {
    explore: async (context, tasks) => (await explore(context, tasks)).map((trace) => answered(trace, answerFrom)),
    score: score ?? voteShare(answerReader(answerPattern)),
    select: highest(score === undefined ? 'votes' : 'reward'),
    statistics: (traces) => ({ 'answers/triggers': mean(traces.map(({ scores }) => scores.triggers)) }),
  }
}
