// Answers, critiques of the wrong ones, and answers behind a critique (turns of one chain): which of them are worth training.

import { mean } from '../../src/base/stats.js'
import { turnAlone, turnInContext } from './recast.js'
import { pick, type Select } from './select.js'
import { byStem, type Trace, turnRewards, withScores } from './trace.js'

/** Turns of a commented attempt: an answer, what is said of it (a critique, an explanation), and an answer behind that. */
export const [answer, comment, refined] = [0, 1, 2]

/** One answer of each attempt behind the bare prompt, the best of each prompt that are right. */
function rightAnswers(
  traces: readonly Trace[],
  turn: number,
  { right, most }: { right: number; most: number },
): Trace[] {
  const judged = traces.filter((trace) => turnRewards(trace)[turn] !== undefined)
  const alone = judged.map((trace) => withScores(turnAlone(trace, turn), { reward: turnRewards(trace)[turn] }))
  return pick({ threshold: right, perTask: most })(alone)
}

/** Critiques in their context, with the score `helped`: the share of their refinements that are right. */
const critiquesOf = (criticised: readonly Trace[], right: number, refinements: number): Trace[] =>
  byStem(criticised, refinements).map((own) => {
    const helped = mean(own.map((trace) => Number(turnRewards(trace)[refined] >= right)))
    return withScores(turnInContext(own[0], comment), { helped })
  })

/** What of criticised attempts is kept. */
export interface CritiqueSelectOptions {
  /** Least reward of a right answer. */
  readonly right: number
  /** Right first answers of a prompt. */
  readonly perPrompt: number
  /** Right refined answers of a prompt. */
  readonly refinedPerPrompt: number
  /** Critiques of an answer, and refinements of a critique: how the numbers of samples are made up. */
  readonly critiques: number
  readonly refinements: number
  /** Right refined answers behind their critique as well. */
  readonly withRefinement: boolean
  /** Critiques that help as well: at least this share of their refinements is right. */
  readonly withCritique: boolean
  readonly keepCritiqueAt: number
}

/** What a round trains: right answers behind the bare prompt, and what else is asked for. */
export const critiqueSelect =
  (options: CritiqueSelectOptions): Select =>
  (traces: readonly Trace[]): Trace[] => {
    const { right, perPrompt, refinedPerPrompt, critiques, refinements, keepCritiqueAt } = options
    const first = traces.filter(({ sample }) => sample % (critiques * refinements) === 0)
    const mended = traces.filter((trace) => turnRewards(trace)[refined] >= right)
    const criticised = options.withCritique ? traces.filter((trace) => turnRewards(trace)[refined] !== undefined) : []
    return [
      ...rightAnswers(first, answer, { right, most: perPrompt }),
      ...rightAnswers(mended, refined, { right, most: refinedPerPrompt }),
      ...(options.withRefinement ? mended.map((trace) => turnInContext(trace, refined)) : []),
      ...critiquesOf(criticised, right, refinements).filter(({ scores }) => scores.helped >= keepCritiqueAt),
    ]
  }
