// A closed-loop test of critics (RealCritic, Tang et al. 2025, arXiv 2501.14492, recalled): a critic is as good as the answers that come of its
// critiques. Given answers of which half are right are criticised and answered anew, and only what is answered last is graded.
//   cross-critique: answers of others, `balancedSet`; doing nothing keeps half of them right
//   self-critique: the policy's own answers, `chain`; doing nothing is direct answering
// Ours differs: critique and answer are turns of their own where the authors ask for both in one; the set is made of samples of
// models and a task source, where theirs is fixed. Protocol read from notes.

import { checkArgument, kinds, listOf } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import { goOn, type Turn } from './chain.js'
import type { Explore } from './explore.js'
import { turnAlone } from './recast.js'
import { byTask, type Trace, tracesKind, turnsOf } from './trace.js'

/** A first answer with what is known of it. */
const given = (trace: Trace): Trace => {
  const alone = turnAlone(trace, 0)
  const { finishReason, segments } = alone
  const [prompt, { logps: _, reference: __, ...own }] = segments
  return { ...alone, segments: [prompt, { ...own, finishReason }], scores: { 'reward/1': trace.scores.reward } }
}

/**
 * Answers to criticise, half of them right: drawn among samples with `reward` 1 and 0, of one turn, that ended by themselves.
 *
 * @param size how many, an even number
 * @throws WhetstoneError E_CONFIG for an odd size, too few of either kind, and samples of one task with the same number
 */
export function balancedSet(traces: readonly Trace[], size: number, seed: number): Trace[] {
  checkArgument('balancedSet.traces', traces, tracesKind)
  checkArgument('balancedSet.size', size, kinds.count)
  checkArgument('balancedSet.seed', seed, kinds.whole)
  if (size % 2 !== 0) throw new WhetstoneError('E_CONFIG', 'balancedSet.size', `expected an even number, got ${size}`)
  const nameOf = ({ task, sample }: Trace) => JSON.stringify([task.id, sample])
  if (new Set(traces.map(nameOf)).size < traces.length)
    throw new WhetstoneError('E_CONFIG', 'balancedSet.traces', 'expected samples of a task to have different numbers')
  const order = ({ task, sample }: Trace) => uniform(deriveKey(seed, 'critic', task.id, sample), 0)
  const ended = traces.filter((trace) => trace.finishReason === 'stop' && turnsOf(trace).length === 1)
  const chosen = [1, 0].flatMap((reward) => {
    const among = ended.filter(({ scores }) => scores.reward === reward)
    if (among.length >= size / 2) return among.toSorted((a, b) => order(a) - order(b)).slice(0, size / 2)
    const text = `expected ${size / 2} samples with reward ${reward}, got ${among.length}`
    throw new WhetstoneError('E_CONFIG', 'balancedSet.traces', text)
  })
  const names = new Set(chosen.map(nameOf))
  return traces.filter((trace) => names.has(nameOf(trace))).map(given)
}

/**
 * Goes on behind given answers in place of the policy's own: the same turns as in {@link chain}. Their writer needs the tokenizer
 * of the policy.
 *
 * @throws WhetstoneError E_TEMPLATE as in {@link chain}
 */
export function criticise(answers: readonly Trace[], turns: readonly Turn[]): Explore {
  checkArgument('criticise.answers', answers, tracesKind)
  checkArgument('criticise.turns', turns, listOf(kinds.object))
  const groups = new Map(byTask(answers).map((group) => [group[0].task.id, group]))
  return (context, tasks) => {
    const own = tasks.flatMap(({ id }) => groups.get(id) ?? [])
    return goOn(context, own, turns, 2)
  }
}

/**
 * What critics make of answers, from the first turn and the last of each trace: how many were right or wrong before and after,
 * the share that is right after, and its gain, over a half in a balanced set and over direct answering in self-critique. Traces
 * with one turn are left out; nothing where a reward is neither 0 nor 1. Rates of each kind are `turns/confidence` and
 * `turns/critique`.
 */
export function criticStatistics(traces: readonly Trace[]): Record<string, number> {
  checkArgument('criticStatistics.traces', traces, tracesKind)
  const pairs = traces.flatMap((trace) => {
    const turns = turnsOf(trace).length
    return turns < 2 ? [] : [[trace.scores['reward/1'], trace.scores[`reward/${turns}`]] as const]
  })
  if (pairs.length === 0 || pairs.flat().some((reward) => reward !== 0 && reward !== 1)) return {}
  const count = (before: 0 | 1, after: 0 | 1): number => pairs.filter(([a, b]) => a === before && b === after).length
  const [kept, broken, mended, missed] = [count(1, 1), count(1, 0), count(0, 1), count(0, 0)]
  return {
    'critic/accuracy': (kept + mended) / pairs.length,
    'critic/gain': (mended - broken) / pairs.length,
    'critic/right_to_right': kept,
    'critic/right_to_wrong': broken,
    'critic/wrong_to_right': mended,
    'critic/wrong_to_wrong': missed,
  }
}
