// Attempts that are scored and improved turn by turn, and of which the best turn answers.

import { chain, type Turn } from '../loop/chain.js'
import type { Explore } from '../loop/explore.js'
import { turnAlone } from '../loop/recast.js'
import { scoreTurns } from '../loop/rewards.js'
import type { Score } from '../loop/score.js'
import { byTask, type Trace, turnRewards, withScores } from '../loop/trace.js'
import { type AnswerMethod, type AnswerSampling, highest } from './method.js'

/** How attempts are improved. */
export interface Refinement {
  readonly sampling: AnswerSampling
  /** Turns of an attempt, the first among them. */
  readonly rounds: number
  /** Samples of a later turn. */
  readonly branches: number
  /** Attempts that go on: all, or of each task the first with the highest reward. */
  readonly going: 'all' | 'best'
  /** Gives `reward`; one of 1 is as good as can be, and is not improved. */
  readonly score: Score
  /** What is put behind a turn, which has the scores that `score` gave it. */
  readonly feedback: (trace: Trace) => string
}

/** The turn with the highest reward, of equals the first, as an attempt of its own; its number is the score `turn`. */
function bestTurn(trace: Trace): Trace {
  const rewards = turnRewards(trace)
  const turn = rewards.indexOf(Math.max(...rewards))
  return withScores(turnAlone(trace, turn), { reward: rewards[turn], turn: turn + 1 })
}

/** Attempts in turns; the best turn of the best attempt answers. */
export function refinement({ sampling, score, feedback, ...how }: Refinement): AnswerMethod & { explore: Explore } {
  const { numGenerations: _, ...drawn } = sampling
  const turn: Turn = {
    ...drawn,
    numGenerations: how.branches,
    score: scoreTurns(score),
    select: how.going === 'all' ? (traces) => [...traces] : highest('reward'),
    inject: (trace) => (trace.scores.reward >= 1 ? undefined : feedback(trace)),
  }
  return {
    explore: chain(sampling, Array<Turn>(how.rounds - 1).fill(turn)),
    score: scoreTurns(score),
    select: (traces) => highest('reward')(byTask(traces).flatMap((group) => group.map(bestTurn))),
  }
}
