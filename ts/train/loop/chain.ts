// Explore in several turns: the policy writes, the loop puts text behind it (a request to revise, a result), the policy
// writes on. Two attempts (SCoRe, 2409.12917), RISE and other chains are settings of `chain`. A later turn sees all that
// came before it as tokens, not as text again, so the log-probs of every turn are those of one sequence.

import { checkArgument, checkOptions, kinds, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'
import {
  type Explore,
  type ExploreContext,
  type SampleGroupOptions,
  sampleGroup,
  samplingKinds,
  segmentOf,
} from './explore.js'
import type { Score } from './score.js'
import type { Select } from './select.js'
import type { Segment, Trace } from './trace.js'

/** A turn behind the first one. */
export interface Turn extends Omit<SampleGroupOptions, 'numGenerations' | 'mixtureCoef'> {
  /** Branches: continuations of each trace. Default 1. */
  readonly numGenerations?: number
  /**
   * What is put between the turns: text for prompts of text, the user's next message for conversations. undefined ends
   * the trace where it is. A pure function of the trace.
   */
  readonly inject: (trace: Trace) => string | undefined
  /**
   * What the turn begins with, in the policy's name: text that it goes on from and that is trained as its own. Such turns keep
   * no log-probs. A pure function of the trace; default nothing.
   */
  readonly begin?: (trace: Trace) => string
  /**
   * The text belongs to the policy's own turn, also in conversations: an end that it has written is taken back, and it
   * writes on. Default false.
   */
  readonly goesOn?: boolean
  /** Scores the traces before this turn: what `inject` may look at. */
  readonly score?: Score
  /** Chooses among them, behind `score`: which branches go on. */
  readonly select?: Select
}

/**
 * Tokens between a turn of the assistant and its next one, by the chat template: what closes the turn (unless the policy
 * wrote that itself), the user's message, and the next header. What the assistant said does not matter to them, so the
 * request stands in its place: a policy may write what no text gives again.
 *
 * @throws WhetstoneError E_TEMPLATE when the template does not tell where a turn of the assistant ends
 */
function chatTokens({ tokenizer, decoder }: LanguageModel, { task, segments }: Trace, content: string): number[] {
  const turns = segments
    .slice(1)
    .map(
      ({ role, text }): ChatMessage =>
        role === 'completion' ? { role: 'assistant', content } : { role: 'user', content: text },
    )
  const { ids, assistantMask } = tokenizer.applyChatTemplate(
    [...(task.messages ?? []), ...turns, { role: 'user', content }],
    { ...task.chat, addGenerationPrompt: true, returnAssistantTokensMask: true },
  )
  const ends = new Set(decoder.config.eosTokenIds)
  const last = assistantMask?.lastIndexOf(1) ?? -1
  const close = [last, last + 1].find((at) => ends.has(ids[at]))
  if (last < 0 || close === undefined)
    throw new WhetstoneError(
      'E_TEMPLATE',
      'chat_template',
      'expected the turn of the assistant to be closed by an end token of the model: the next turn cannot be placed',
    )
  const written = segments.at(-1)?.ids.at(-1)
  return ids.slice(written !== undefined && ends.has(written) ? close + 1 : close)
}

/** Tokens of what is put behind an attempt: text behind text, the user's next message behind a conversation. */
export const injectedIds = (policy: LanguageModel, trace: Trace, text: string, goesOn = false): number[] =>
  trace.task.messages === undefined || goesOn
    ? policy.tokenizer.encode(text, { addSpecialTokens: false })
    : chatTokens(policy, trace, text)

/** Segments without the end token of the last one. */
function withoutEnd({ decoder }: LanguageModel, segments: readonly Segment[]): Segment[] {
  const { ids, logps, ...last } = segments[segments.length - 1]
  if (!decoder.config.eosTokenIds.includes(ids[ids.length - 1])) return [...segments]
  const open = { ...last, ids: ids.slice(0, -1), ...(logps !== undefined && { logps: logps.slice(0, -1) }) }
  return [...segments.slice(0, -1), open]
}

/** What the policy wrote behind what it was made to begin with. */
function withBeginning(own: Segment, text: string, ids: readonly number[]): Segment {
  if (ids.length === 0) return own
  const { logps: _, ...written } = own
  return { ...written, text: `${text}${own.text}`, ids: [...ids, ...own.ids] }
}

/** Traces with one more turn, those that go on `branches` times each. */
async function extend(context: ExploreContext, traces: readonly Trace[], turn: Turn, number: number): Promise<Trace[]> {
  const { policy, seed, round, signal } = context
  const { inject, begin, goesOn = false, logps, numGenerations = 1, score: _, select: __, ...sampling } = turn
  const going = traces.flatMap((trace) => {
    const text = inject(trace)
    if (text === undefined) return []
    const injected: Segment = { role: 'injected', text, ids: injectedIds(policy, trace, text, goesOn) }
    const begun = begin?.(trace) ?? ''
    const begunIds = begun === '' ? [] : policy.tokenizer.encode(begun, { addSpecialTokens: false })
    const before = goesOn ? withoutEnd(policy, trace.segments) : trace.segments
    return [{ trace, segments: [...before, injected], begun, begunIds }]
  })
  if (going.length === 0) return [...traces]
  const groups = await policy.generate(
    going.map(({ segments, begunIds }) => [...segments.flatMap(({ ids }) => ids), ...begunIds]),
    {
      ...sampling,
      numGenerations,
      seed,
      promptKeys: going.map(({ trace: { task, sample } }) => `round ${round} task ${task.id} ${sample} turn ${number}`),
      signal,
    },
  )
  const continued = new Map(
    going.map(({ trace, segments, begun, begunIds }, i) => [
      trace,
      groups[i].map((one, branch): Trace => {
        const { finishReason } = one
        const own = withBeginning({ ...segmentOf(one, logps), finishReason }, begun, begunIds)
        const sample = trace.sample * numGenerations + branch
        return { ...trace, sample, segments: [...segments, own], finishReason }
      }),
    ]),
  )
  return traces.flatMap((trace) => continued.get(trace) ?? { ...trace, sample: trace.sample * numGenerations })
}

const turnKinds = {
  ...samplingKinds,
  numGenerations: optional(kinds.number),
  inject: kinds.call,
  begin: optional(kinds.call),
  goesOn: optional(kinds.flag),
  score: optional(kinds.call),
  select: optional(kinds.call),
}

/** Traces as a turn begins. */
async function prepared(traces: readonly Trace[], { score, select }: Turn): Promise<Trace[]> {
  const scored = score === undefined ? [...traces] : await score(traces)
  return select === undefined ? scored : select(scored)
}

/** Each turn of a trace with how it ended. */
const withReasons = (trace: Trace): Trace => ({
  ...trace,
  segments: trace.segments.map((segment) =>
    segment.role === 'completion' ? { ...segment, finishReason: trace.finishReason } : segment,
  ),
})

function checkTurns(turns: readonly Turn[]): void {
  checkArgument('chain.turns', turns, kinds.list)
  for (const turn of turns) checkOptions('chain.turn', turn, turnKinds)
}

/**
 * Traces with further turns.
 *
 * @param number of the first of these turns: 2 behind a first answer. With it and the task and sample of a trace random keys
 *   are made, so that no two traces may have the same
 */
export async function goOn(
  context: ExploreContext,
  traces: readonly Trace[],
  turns: readonly Turn[],
  number: number,
): Promise<Trace[]> {
  let current = [...traces]
  for (const [i, turn] of turns.entries())
    current = await extend(context, await prepared(current, turn), turn, number + i)
  return current
}

/**
 * A group of samples per task, each continued turn by turn. The key of every sample is (seed, round, task, sample, turn):
 * batching and interruption change nothing.
 *
 * @throws WhetstoneError E_TEMPLATE for conversations whose template cannot go on
 */
export function chain(first: SampleGroupOptions, turns: readonly Turn[]): Explore {
  const explore = sampleGroup(first)
  checkTurns(turns)
  return async (context, tasks) => goOn(context, (await explore(context, tasks)).map(withReasons), turns, 2)
}
