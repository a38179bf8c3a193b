// MAgICoRe (Chen et al. 2024, arXiv 2409.12147, recalled; code dinobby/MAgICoRe): k chains, each with an outcome score o and step scores s_j;
//   q = o + product of s_j.
// A problem is hard where both hold, and only hard ones are reviewed and refined:
//   C1  the mean z-score of q over the chains with the majority answer is below 0; mean and deviation (n - 1) are those of the
//       first chain of every problem, before any refinement
//   C2  2 / (1 + e^H) < 1/2 for o or for the products, with H the entropy (nats) of their sums by answer: more than 3 answers
//       in effect
// All chains of a hard problem are reviewed (shown their step scores as n/10) and rewritten; old and new are pooled, the k with the
// highest q stay, and the problem is tested again, up to `rounds` times. The answer is a vote weighted by q.
// Ours differs: one policy is reviewer and refiner, in one conversation per chain and without worked examples; the majority is
// taken anew in every round (the code keeps the first one); an easy problem keeps its pool (the code goes back to first chains). Where
// no step scores are given q = o, and C2 looks at o alone.

import { checkOptions, kinds, optional, word } from '../../src/base/arguments.js'
import { deviation, mean } from '../../src/base/stats.js'
import { type AnswerOf, answerReader, consistencyOf, weightedVotes } from '../loop/answers.js'
import { goOn, type Turn } from '../loop/chain.js'
import { type ExploreContext, sampleGroup } from '../loop/explore.js'
import { turnAlone } from '../loop/recast.js'
import type { Score } from '../loop/score.js'
import { byTask, type Trace, turnsOf, withScores } from '../loop/trace.js'
import { type AnswerMethod, type AnswerSampling, answerKinds, highest, patternKinds } from './method.js'

/** How problems are routed and chains refined. */
export interface MagicoreOptions extends AnswerSampling {
  /** Gives `reward`, o from 0 to 1. */
  readonly score: Score
  /** The scores s_j of each trace's steps, from 0 to 1; default none. */
  readonly stepScores?: (traces: readonly Trace[]) => Promise<readonly (readonly number[])[]>
  /** Most rounds of refinement; default 3. */
  readonly rounds?: number
  /** What is refined: hard problems (default), or all of them or none, for comparison. */
  readonly route?: 'hard' | 'all' | 'none'
  /** Regular expression for the final answer; default the whole text. */
  readonly answerPattern?: string
  /** What asks for the review of a chain; undefined: it is rewritten without one. */
  readonly review?: (steps: readonly number[], trace: Trace) => string | undefined
  /** What asks for the chain to be written anew. */
  readonly refine?: string
}

const ownKinds = {
  ...answerKinds,
  ...patternKinds,
  score: kinds.call,
  stepScores: optional(kinds.call),
  rounds: optional(kinds.whole),
  route: optional(word('hard', 'all', 'none')),
  review: optional(kinds.call),
  refine: optional(kinds.filled),
}

const asked = (steps: readonly number[]): string => {
  const list = steps.map((score, i) => `Step ${i + 1}: ${Math.round(10 * score)}/10\n`).join('')
  return `\nReview the solution${list === '' ? '.' : `, above all steps below 6.\n${list}`} Do not solve it.\n`
}

/** Of chains with the same answer the sums of a score, as a distribution: 2 / (1 + e^H). */
export function answerConfidence(group: readonly Trace[], answerOf: AnswerOf, by: string): number {
  const sums = new Map<string | Trace, number>()
  for (const trace of group) {
    // Chains without an answer agree with none.
    const name = answerOf(trace) ?? trace
    sums.set(name, (sums.get(name) ?? 0) + trace.scores[by])
  }
  const all = [...sums.values()].reduce((sum, value) => sum + value, 0)
  const shares = [...sums.values()].map((value) => (all === 0 ? 1 / sums.size : value / all))
  const entropy = shares.reduce((sum, p) => (p === 0 ? sum : sum - p * Math.log(p)), 0)
  return 2 / (1 + Math.exp(entropy))
}

/** Chains of a problem with the answer that most of them have, of equals the first. */
function ofMajority(group: readonly Trace[], answerOf: AnswerOf): Trace[] {
  const { votes, majority } = consistencyOf(group.map(answerOf))
  const chosen = answerOf(group[votes.indexOf(majority)])
  return majority === 0 ? [...group] : group.filter((trace) => answerOf(trace) === chosen)
}

/** Mean and deviation of q over a data set. */
export interface QualityScale {
  readonly centre: number
  readonly spread: number
}

/** Is a problem hard: C1 and C2? */
export function isHard(group: readonly Trace[], answerOf: AnswerOf, { centre, spread }: QualityScale): boolean {
  const z = mean(ofMajority(group, answerOf).map(({ scores }) => (spread === 0 ? 0 : (scores.q - centre) / spread)))
  const names = group[0].scores.steps === undefined ? ['reward'] : ['reward', 'steps']
  return z < 0 && names.some((by) => answerConfidence(group, answerOf, by) < 0.5)
}

/** Adds `steps`, the product of step scores, `step/N` each, and `q`. */
const qualityOf =
  ({ score, stepScores }: MagicoreOptions): Score =>
  async (traces) => {
    const scored = await score(traces)
    const steps = await stepScores?.(scored)
    return scored.map((trace, i) => {
      const own = steps?.[i]
      if (own === undefined) return withScores(trace, { q: trace.scores.reward })
      const product = own.reduce((all, one) => all * one, 1)
      const each = Object.fromEntries(own.map((one, j) => [`step/${j + 1}`, one]))
      return withScores(trace, { ...each, steps: product, q: trace.scores.reward + product })
    })
  }

const stepsOf = ({ scores }: Trace): number[] =>
  Object.entries(scores).flatMap(([name, value]) => (name.startsWith('step/') ? [value] : []))

/** A chain that was reviewed and rewritten, as an attempt of its own. */
const rewritten = (trace: Trace, sample: number): Trace => ({
  ...turnAlone(trace, turnsOf(trace).length - 1),
  sample,
  scores: {},
})

/** Routed refinement; `numGenerations` is k. */
export function magicore(options: MagicoreOptions): AnswerMethod {
  checkOptions('magicore', options, ownKinds)
  const { score: _, stepScores: __, answerPattern, ...more } = options
  const { rounds = 3, route = 'hard', review = asked, refine = '\nThe solution, rewritten:\n', ...sampling } = more
  const { numGenerations: k, ...drawn } = sampling
  const answerOf = answerReader(answerPattern)
  const quality = qualityOf(options)
  const first = sampleGroup(sampling)
  const turns: Turn[] = [
    { ...drawn, inject: (trace) => review(stepsOf(trace), trace) },
    { ...drawn, inject: () => refine },
  ]
  /** The pool of each problem that is refined, behind a round more. */
  const refined = async (context: ExploreContext, pools: readonly Trace[][], round: number): Promise<Trace[][]> => {
    const again = await goOn(context, pools.flat(), turns, 2 * round)
    const fresh = byTask(await quality(again.map((trace) => rewritten(trace, 0))))
    return pools.map((pool, i) => {
      const all = [...pool, ...fresh[i].map((trace, j) => ({ ...trace, sample: k * round + j }))]
      return all.sort((a, b) => b.scores.q - a.scores.q || a.sample - b.sample).slice(0, k)
    })
  }
  return {
    explore: async (context, tasks) => {
      let pools = byTask(await quality(await first(context, tasks)))
      const qualities = pools.map(([{ scores }]) => scores.q)
      const scale = { centre: mean(qualities), spread: deviation(qualities) }
      const tested: Readonly<Record<'hard' | 'all' | 'none', (pool: Trace[]) => boolean>> = {
        hard: (pool) => isHard(pool, answerOf, scale),
        all: () => true,
        none: () => false,
      }
      for (let round = 1; round <= rounds; round++) {
        const hard = pools.map(tested[route])
        if (!hard.includes(true)) break
        const grown = await refined(
          context,
          pools.filter((_, i) => hard[i]),
          round,
        )
        pools = pools.map((pool, i) => {
          const next = hard[i] ? (grown.shift() ?? pool) : pool
          return next.map((trace) => withScores(trace, { refined: (pool[0].scores.refined ?? 0) + Number(hard[i]) }))
        })
      }
      return pools.flat()
    },
    score: weightedVotes(answerOf, 'q'),
    select: (traces) => {
      const best = highest('votes')(traces)
      return best.map((one) => {
        const same = traces.filter((trace) => trace.task.id === one.task.id && answerOf(trace) === answerOf(one))
        return highest('q')(same)[0]
      })
    },
    statistics: (_, chosen) => ({
      'refined/problems': mean(chosen.map(({ scores }) => Number((scores.refined ?? 0) > 0))),
      'refined/rounds': mean(chosen.map(({ scores }) => scores.refined ?? 0)),
    }),
  }
}
