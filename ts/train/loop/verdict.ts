// Verdicts: what a model says when it is asked yes or no about an attempt, read off the probabilities of the two answers. Self-
// evaluation by P(True) (Kadavath et al. 2022, arXiv 2207.05221), and ILF's choice among refinements (2303.16755).

import { checkArgument, checkOptions, either, kinds, listOf, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { logistic, mean } from '../../src/base/stats.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import { injectedIds } from './chain.js'
import type { Score } from './score.js'
import { type Trace, tracesKind, withScores } from './trace.js'

/** What is asked about an attempt: text behind it; of conversations the user's next message. A pure function of the trace. */
export type Question = string | ((trace: Trace) => string)

/** How a verdict is asked for. */
export interface VerdictOptions {
  /** One question, or several, whose verdicts are averaged. */
  readonly question: Question | readonly Question[]
  /** Answers whose probabilities are compared. Default ` Yes` and ` No`. */
  readonly yes?: string
  readonly no?: string
  /** Name of the score. Default `verdict`. */
  readonly as?: string
}

const questionKind = either(kinds.filled, kinds.call)
const verdictKinds = {
  question: either(questionKind, listOf(questionKind)),
  yes: optional(kinds.filled),
  no: optional(kinds.filled),
  as: optional(kinds.filled),
}

/** log p of the tokens behind a context. */
const behind = (logps: Float32Array, context: number): number =>
  logps.subarray(context - 1).reduce((sum, logp) => sum + logp, 0)

/**
 * Adds a score, P(yes) / (P(yes) + P(no)) behind the attempt and the question, from 0 to 1, the mean over the questions. The
 * model reads the attempt's own tokens: the policy that wrote it, or one with the same tokenizer. Batches change no bit.
 *
 * @throws WhetstoneError E_CONFIG for answers that are equal, or no question; E_TEMPLATE as in `chain`
 */
export function verdict(model: LanguageModel, options: VerdictOptions): Score {
  checkArgument('verdict.model', model, modelKind)
  checkOptions('verdict', options, verdictKinds)
  const { question, yes = ' Yes', no = ' No', as = 'verdict' } = options
  const questions = Array.isArray(question) ? (question as readonly Question[]) : [question as Question]
  if (questions.length === 0) throw new WhetstoneError('E_CONFIG', 'verdict.question', 'expected a question, got none')
  if (yes === no)
    throw new WhetstoneError('E_CONFIG', 'verdict.no', `expected another answer than yes, got '${no}' for both`)
  const answers = [yes, no].map((text) => model.tokenizer.encode(text, { addSpecialTokens: false }))
  return async (traces) => {
    checkArgument('verdict: traces', traces, tracesKind)
    if (traces.length === 0) return []
    const contexts = traces.flatMap((trace) =>
      questions.map((one) => {
        const asked = typeof one === 'string' ? one : one(trace)
        return [...trace.segments.flatMap(({ ids }) => ids), ...injectedIds(model, trace, asked)]
      }),
    )
    const read = await model.logProbs(contexts.flatMap((context) => answers.map((answer) => [...context, ...answer])))
    const shares = contexts.map((context, i) => {
      const [accepted, refused] = [0, 1].map((a) => behind(read[2 * i + a], context.length))
      return logistic(accepted - refused)
    })
    return traces.map((trace, i) => {
      const own = shares.slice(i * questions.length, (i + 1) * questions.length)
      return withScores(trace, { [as]: mean(own) })
    })
  }
}
