// From selected traces to what an objective trains on: completions, completions with advantages, preference pairs.
// Pure functions; old log-probs are the sampler's own, which are the trainer's bits. Packing is data/micro-batch.ts.

import type { Role, TokenInput } from '../../loss/define.js'
import { checkArgument, kinds } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import type { EncodedExample, EncodedSequence } from '../data/example.js'
import { turnAlone } from './recast.js'
import { rivalsOf } from './rivals.js'
import { byTask, type Segment, type Trace, tracesKind, turnsOf } from './trace.js'

/** Makes the examples of a round from what was selected. */
export type ToExamples = (traces: readonly Trace[], round: number) => readonly EncodedExample[]

/** Numbers of the tokens of one turn of the policy (0 is the first). */
export type TurnNumbers = (segment: Segment, turn: number) => ArrayLike<number>

/** What a sequence carries besides its tokens. */
export interface SequenceOptions {
  readonly role?: Role
  readonly scores?: Readonly<Record<string, number>>
  readonly weights?: TurnNumbers
  readonly inputs?: Readonly<Partial<Record<TokenInput, TurnNumbers>>>
}

/** One number per token of the trace: `numbers` where the policy wrote, 0 elsewhere. */
function spread({ segments, task, sample }: Trace, numbers: TurnNumbers): Float64Array {
  const all = new Float64Array(segments.reduce((length, { ids }) => length + ids.length, 0))
  let [at, turn] = [0, 0]
  for (const segment of segments) {
    if (segment.role === 'completion') {
      const own = numbers(segment, turn++)
      if (own.length !== segment.ids.length)
        throw new WhetstoneError(
          'E_SHAPE',
          `task ${task.id} sample ${sample}`,
          `expected a number for each of the ${segment.ids.length} tokens of turn ${turn}, got ${own.length}`,
        )
      all.set(own, at)
    }
    at += segment.ids.length
  }
  return all
}

/** The same number for every token of a segment. */
export const filled = ({ ids }: Segment, value: number): Float64Array => new Float64Array(ids.length).fill(value)

/** A trace as a sequence: what the policy wrote is trained, all else is not. */
export function sequenceOf(trace: Trace, options: SequenceOptions = {}): EncodedSequence {
  const { role, scores, weights, inputs = {} } = options
  const numbers = Object.entries(inputs).map(([name, of]) => [name, spread(trace, of)] as const)
  return {
    ids: trace.segments.flatMap(({ ids }) => ids),
    trained: Uint8Array.from(spread(trace, (segment) => filled(segment, 1))),
    ...(role && { role }),
    ...(scores && { scores }),
    ...(weights && { weights: spread(trace, weights) }),
    ...(numbers.length > 0 && { inputs: Object.fromEntries(numbers) }),
  }
}

/** Every trace an example of its own: likelihood objectives. */
export const completionExamples: ToExamples = (traces) => traces.map((trace) => [sequenceOf(trace)])

/** Log-probs under the policy that sampled. */
export const oldLogps: TurnNumbers = ({ logps = [] }) => logps

/** A score that a trace must have. */
function neededScore({ task, sample, scores }: Trace, name: string): number {
  if (scores[name] !== undefined) return scores[name]
  const text = `expected the score '${name}', got ${Object.keys(scores).join(', ') || 'none'}: score the traces, or leave this one out in select`
  throw new WhetstoneError('E_CONFIG', `task ${task.id} sample ${sample}`, text)
}

/**
 * Every trace with its `advantage` (see `credit`) and the log-probs under the policy that sampled it: policy gradients.
 *
 * @throws WhetstoneError E_CONFIG for a trace without an advantage, E_SHAPE for one whose log-probs were not kept
 */
export const policyExamples: ToExamples = (traces) => {
  checkArgument('policyExamples.traces', traces, tracesKind)
  return traces.map((trace) => [
    sequenceOf(trace, { scores: { advantage: neededScore(trace, 'advantage') }, inputs: { old: oldLogps } }),
  ])
}

/** Every trace with the score `preference`, the probability that it beats its rival: Nash-MD. */
export const preferenceExamples: ToExamples = (traces) =>
  traces.map((trace) => [sequenceOf(trace, { scores: { preference: neededScore(trace, 'preference') } })])

/** Each sample of the policy with its rival's (`sampleRivals`) as a pair, the preferred one chosen: XPO. */
export const rivalExamples: ToExamples = (traces) =>
  rivalsOf(traces).map(([own, other]) => {
    const preference = neededScore(own, 'preference')
    const onPolicy = Number(preference >= 0.5)
    const scores = { onPolicy, contrast: Number(preference !== 0.5) }
    const [chosen, rejected] = onPolicy === 1 ? [own, other] : [other, own]
    return [sequenceOf(chosen, { role: 'chosen', scores }), sequenceOf(rejected, { role: 'rejected', scores })]
  })

/** A trace that a score head reads at its last token, with the score `label`. */
export const scoredSequence = ({ segments }: Trace, label: number): EncodedSequence => {
  const ids = segments.flatMap((segment) => segment.ids)
  return { ids, trained: Uint8Array.from(ids, (_, i) => Number(i === ids.length - 1)), scores: { label } }
}

/** Every trace that has the score `label` an example of its own: `pointwiseReward`, values of prefixes among it. */
export const labelExamples: ToExamples = (traces) =>
  traces.flatMap((trace) => (trace.scores.label === undefined ? [] : [[scoredSequence(trace, trace.scores.label)]]))

/**
 * The samples of each task, by one of their scores: `listwiseReward`. Tasks whose samples tie are left out, and samples without
 * the score.
 */
export const rankExamples =
  (by: string): ToExamples =>
  (traces) =>
    byTask(traces).flatMap((all) => {
      const group = all.filter(({ scores }) => scores[by] !== undefined)
      const differs = group.some(({ scores }) => scores[by] !== group[0].scores[by])
      return differs ? [group.map((trace) => scoredSequence(trace, trace.scores[by]))] : []
    })

/**
 * The best and the worst of each task as a pair, of equals the first best and the last worst: preference objectives.
 * Pairs that tie stay, with weight 0: they have no gradient, and the number of examples is known before the round.
 *
 * @param by the score that compares, default `reward`
 * @throws WhetstoneError E_CONFIG for a task with one trace, and for a trace without the score
 */
export function pairExamples(by = 'reward'): ToExamples {
  checkArgument('pairExamples.by', by, kinds.filled)
  return (traces) => byTask(traces).map((group) => pairOf(group, by))
}

/**
 * Attempts of two turns whose rewards differ, as pairs behind the bare prompt: the better turn chosen, the worse rejected
 * (self-correction learning). Where none differs all are pairs with weight 0, which have no gradient.
 */
export const flipExamples: ToExamples = (traces) => {
  const pairs = traces.flatMap((trace) => {
    if (turnsOf(trace).length < 2) return []
    const gain = neededScore(trace, 'reward/2') - neededScore(trace, 'reward/1')
    return [{ trace, gain }]
  })
  const flips = pairs.filter(({ gain }) => gain !== 0)
  return (flips.length > 0 ? flips : pairs).map(({ trace, gain }) => {
    const turns = [turnAlone(trace, 0), turnAlone(trace, 1)]
    const [chosen, rejected] = gain > 0 ? turns.toReversed() : turns
    return weightedPair(chosen, rejected, Math.abs(Math.sign(gain)))
  })
}

/** Two traces as a pair whose log-probs count `weight`. */
function weightedPair(chosen: Trace, rejected: Trace, weight: number): EncodedExample {
  const side = (trace: Trace, role: Role) => sequenceOf(trace, { role, weights: (segment) => filled(segment, weight) })
  return [side(chosen, 'chosen'), side(rejected, 'rejected')]
}

/** The pair of a task's traces. */
function pairOf(group: readonly Trace[], by: string): EncodedExample {
  for (const trace of group) neededScore(trace, by)
  const ranked = group.toSorted((a, b) => b.scores[by] - a.scores[by] || a.sample - b.sample)
  const [best, ...others] = ranked
  const worst = others.findLast((trace) => trace.scores[by] < best.scores[by]) ?? others[0]
  if (worst === undefined)
    throw new WhetstoneError('E_CONFIG', `task ${best.task.id}`, 'expected at least 2 samples to compare, got 1')
  return weightedPair(best, worst, Number(worst.scores[by] < best.scores[by]))
}
