// Answers, critiques of the wrong ones, and answers behind a critique (turns of one chain): which of them are worth training.

import { mean } from '../../src/base/stats.js'
import { turnAlone, turnInContext } from './recast.js'
import { pick, type Select } from './select.js'
import { byTask, type Trace, withScores } from './trace.js'

/** Turns of a criticised attempt. */
export const [answer, critique, refined] = [0, 1, 2]

/** The reward of a turn; undefined where there is no such turn. */
export const rewardOf = ({ scores }: Trace, turn: number): number | undefined => scores[`reward/${turn + 1}`]

/** One answer of each attempt behind the bare prompt, the best of each prompt that are right. */
function rightAnswers(
  traces: readonly Trace[],
  turn: number,
  { right, most }: { right: number; most: number },
): Trace[] {
  const judged = traces.filter((trace) => rewardOf(trace, turn) !== undefined)
  const alone = judged.map((trace) => withScores(turnAlone(trace, turn), { reward: rewardOf(trace, turn) ?? 0 }))
  return pick({ threshold: right, perTask: most })(alone)
}

/** Critiques in their context, with the score `helped`: the share of their refinements that are right. */
const critiquesOf = (refinedTraces: readonly Trace[], right: number, refinements: number): Trace[] =>
  byTask(refinedTraces).flatMap((group) => {
    const critiques = [...new Set(group.map(({ sample }) => Math.floor(sample / refinements)))]
    return critiques.map((number) => {
      const own = group.filter(({ sample }) => Math.floor(sample / refinements) === number)
      const helped = mean(own.map((trace) => Number((rewardOf(trace, refined) ?? 0) >= right)))
      return withScores(turnInContext(own[0], critique), { helped })
    })
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
    const mended = traces.filter((trace) => (rewardOf(trace, refined) ?? Number.NEGATIVE_INFINITY) >= right)
    const criticised = options.withCritique ? traces.filter((trace) => rewardOf(trace, refined) !== undefined) : []
    return [
      ...rightAnswers(first, answer, { right, most: perPrompt }),
      ...rightAnswers(mended, refined, { right, most: refinedPerPrompt }),
      ...(options.withRefinement ? mended.map((trace) => turnInContext(trace, refined)) : []),
      ...critiquesOf(criticised, right, refinements).filter(({ scores }) => scores.helped >= keepCritiqueAt),
    ]
  }
