// What an objective gives back, checked where the trainer takes it: an objective may be anybody's, and a gradient that is
// missing or too short would train nothing, or the wrong tokens, without a word. That the loss is finite is the step's
// business.

import type { Evaluation, Needs, Objective, ObjectiveBatch, SequenceTerms, TermGradients } from '../loss/define.js'
import { termWidth, usedTerms } from '../loss/view.js'
import { kinds, shownArgument } from '../src/base/arguments.js'
import { type ErrorCode, WhetstoneError } from '../src/base/errors.js'

type Refuse = (code: ErrorCode, message: string) => never

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`

/**
 * The objective's value on a batch.
 *
 * @throws WhetstoneError E_CONFIG for what is no evaluation, E_SHAPE for gradients and statistics that do not fit the batch
 */
export function evaluated(objective: Objective, batch: ObjectiveBatch): Evaluation {
  const evaluation: unknown = objective.evaluate(batch)
  const refuse: Refuse = (code, message) => {
    throw new WhetstoneError(code, `${objective.name}: evaluate`, message)
  }
  checkObject(evaluation, refuse)
  const { loss, gradients, stats } = evaluation
  if (typeof loss !== 'number') refuse('E_CONFIG', `expected loss to be a number, got ${shownArgument(loss)}`)
  checkGradients(objective.needs, batch.sequences, gradients, refuse)
  checkStatistics(stats, refuse)
  return evaluation
}

const expectedForm = 'expected { loss, gradients, stats }'

function checkObject(evaluation: unknown, refuse: Refuse): asserts evaluation is Evaluation {
  if (!kinds.object.fits(evaluation)) refuse('E_CONFIG', `${expectedForm}, got ${shownArgument(evaluation)}`)
  if (typeof (evaluation as { then?: unknown }).then !== 'function') return
  // What becomes of the promise is of no interest any more, its failure neither.
  Promise.resolve(evaluation).catch(() => undefined)
  refuse('E_CONFIG', `must not be async: ${expectedForm}, got a promise; return the numbers themselves`)
}

function checkGradients(needs: Needs, sequences: readonly SequenceTerms[], gradients: unknown, refuse: Refuse): void {
  if (!Array.isArray(gradients))
    refuse('E_CONFIG', `expected gradients to be a list, one entry per sequence, got ${shownArgument(gradients)}`)
  const { length } = gradients as readonly unknown[]
  if (length !== sequences.length)
    refuse('E_SHAPE', `expected ${count(sequences.length, 'gradient')}, one per sequence, got ${length}`)
  sequences.forEach((terms, i) => {
    const gradient: unknown = (gradients as readonly unknown[])[i]
    if (!kinds.object.fits(gradient))
      refuse('E_CONFIG', `expected gradients[${i}] to be { logps, ... }, got ${shownArgument(gradient)}`)
    checkGradient(needs, terms.logps.length, gradient as TermGradients, (code, message) =>
      refuse(code, `gradients[${i}] of the ${terms.role} sequence: ${message}`),
    )
  })
}

/** Every term that the objective uses has a number for each trained token; log-probs of a score head are no numbers of it. */
function checkGradient(needs: Needs, tokens: number, gradient: TermGradients, refuse: Refuse): void {
  const used = usedTerms(needs)
  const alien = Object.entries(gradient).find(([term, d]) => d !== undefined && !used.some((known) => known === term))
  if (alien !== undefined) refuse('E_SHAPE', `expected ${used.join(', ')}, which the objective needs, got ${alien[0]}`)
  for (const term of used) {
    if (term === 'logps' && needs.values !== undefined) continue
    const values: unknown = gradient[term]
    const width = termWidth(needs, term) * tokens
    const expected = `expected ${term} of length ${width}, ${termWidth(needs, term)} for each trained token`
    if (!kinds.numbers.fits(values)) refuse('E_SHAPE', `${expected}, got ${shownArgument(values)}`)
    const { length } = values as ArrayLike<number>
    if (length !== width) refuse('E_SHAPE', `${expected}, got length ${length}`)
  }
}

function checkStatistics(stats: unknown, refuse: Refuse): void {
  if (!kinds.object.fits(stats))
    refuse('E_CONFIG', `expected stats to be an object, {} where there are none, got ${shownArgument(stats)}`)
  for (const [name, value] of Object.entries(stats as object)) {
    const { sum, count } = (kinds.object.fits(value) ? value : {}) as { sum?: unknown; count?: unknown }
    if (typeof sum !== 'number' || typeof count !== 'number')
      refuse('E_CONFIG', `expected stats.${name} to be { sum, count }, got ${shownArgument(value)}`)
  }
}
