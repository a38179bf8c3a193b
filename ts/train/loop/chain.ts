// Explore in several turns: the policy writes, the loop puts text behind it (a request to revise, a result), the policy
// writes on. Two attempts (SCoRe, 2409.12917), RISE and other chains are settings of `chain`. A later turn sees all that
// came before it as tokens, not as text again, so the log-probs of every turn are those of one sequence.

import { WhetstoneError } from '../../src/base/errors.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'
import { type Explore, type ExploreContext, type SampleGroupOptions, sampleGroup, segmentOf } from './explore.js'
import { type Segment, type Trace, turnsOf } from './trace.js'

/** A turn behind the first one. */
export interface Turn extends Omit<SampleGroupOptions, 'numGenerations'> {
  /** Branches: continuations of each trace. Default 1. */
  readonly numGenerations?: number
  /**
   * What is put between the turns: text for prompts of text, the user's next message for conversations. undefined ends
   * the trace where it is. A pure function of the trace.
   */
  readonly inject: (trace: Trace) => string | undefined
}

/** The conversation so far: the prompt's messages, then turns of assistant and user. */
const conversation = ({ task, segments }: Trace): ChatMessage[] => [
  ...(task.messages ?? []),
  ...segments.slice(1).map(({ role, text }) => ({ role: role === 'completion' ? 'assistant' : 'user', content: text })),
]

/**
 * Tokens between a turn of the assistant and its next one, by the chat template: what closes the turn (unless the policy
 * wrote that itself), the user's message, and the next header.
 *
 * @throws WhetstoneError E_TEMPLATE when the template renders a conversation differently once it goes on
 */
function chatTokens({ tokenizer, decoder }: LanguageModel, trace: Trace, content: string): number[] {
  const before = conversation(trace)
  const closed = tokenizer.applyChatTemplate(before).ids
  const whole = tokenizer.applyChatTemplate([...before, { role: 'user', content }], { addGenerationPrompt: true }).ids
  const ends = new Set(decoder.config.eosTokenIds)
  const end = closed.findLastIndex((id) => ends.has(id))
  if (end < 0 || closed.some((id, i) => whole[i] !== id))
    throw new WhetstoneError(
      'E_TEMPLATE',
      'chat_template',
      'expected a template that ends turns with an end token and keeps them as they are when the conversation goes on',
    )
  const last = turnsOf(trace).at(-1)?.ids.at(-1)
  return whole.slice(last !== undefined && ends.has(last) ? end + 1 : end)
}

const injectedIds = (policy: LanguageModel, trace: Trace, text: string): number[] =>
  trace.task.messages === undefined
    ? policy.tokenizer.encode(text, { addSpecialTokens: false })
    : chatTokens(policy, trace, text)

/** Traces with one more turn, those that go on `branches` times each. */
async function extend(context: ExploreContext, traces: readonly Trace[], turn: Turn, number: number): Promise<Trace[]> {
  const { policy, seed, round, signal } = context
  const { inject, logps, numGenerations = 1, ...sampling } = turn
  const going = traces.flatMap((trace) => {
    const text = inject(trace)
    if (text === undefined) return []
    const injected: Segment = { role: 'injected', text, ids: injectedIds(policy, trace, text) }
    return [{ trace, segments: [...trace.segments, injected] }]
  })
  if (going.length === 0) return [...traces]
  const groups = await policy.generate(
    going.map(({ segments }) => segments.flatMap(({ ids }) => ids)),
    {
      ...sampling,
      numGenerations,
      seed,
      promptKeys: going.map(({ trace: { task, sample } }) => `round ${round} task ${task.id} ${sample} turn ${number}`),
      signal,
    },
  )
  const continued = new Map(
    going.map(({ trace, segments }, i) => [
      trace,
      groups[i].map((one, branch): Trace => {
        const { finishReason } = one
        const own: Segment = { ...segmentOf(one, logps), finishReason }
        const sample = trace.sample * numGenerations + branch
        return { ...trace, sample, segments: [...segments, own], finishReason }
      }),
    ]),
  )
  return traces.flatMap((trace) => continued.get(trace) ?? { ...trace, sample: trace.sample * numGenerations })
}

/** Each turn of a trace with how it ended. */
const withReasons = (trace: Trace): Trace => ({
  ...trace,
  segments: trace.segments.map((segment) =>
    segment.role === 'completion' ? { ...segment, finishReason: trace.finishReason } : segment,
  ),
})

/**
 * A group of samples per task, each continued turn by turn. The key of every sample is (seed, round, task, sample, turn):
 * batching and interruption change nothing.
 *
 * @throws WhetstoneError E_TEMPLATE for conversations whose template cannot go on
 */
export const chain =
  (first: SampleGroupOptions, turns: readonly Turn[]): Explore =>
  async (context, tasks) => {
    let traces = (await sampleGroup(first)(context, tasks)).map(withReasons)
    for (const [i, turn] of turns.entries()) traces = await extend(context, traces, turn, i + 2)
    return traces
  }
