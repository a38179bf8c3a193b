// Explore: how attempts are made. `sampleGroup` draws n samples per task over a shared prompt; attempts of several turns
// are chain.ts.

import { checkArgument, checkMembers, checkOptions, kinds, listOf, optional, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { type Completion, type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import { type Decoder, decoderKind } from '../../src/models/decoder.js'
import { type Task, taskKind } from '../tasks/task.js'
import type { Segment, Trace } from './trace.js'

/** What an exploring primitive works with. */
export interface ExploreContext {
  readonly policy: LanguageModel
  /** The frozen model of the run, where it has one. */
  readonly reference?: Decoder
  readonly seed: number
  readonly round: number
  /** All tasks of the round, of which those to attempt may be a part. */
  readonly roundTasks?: readonly Task[]
  readonly signal?: AbortSignal
}

/** Makes attempts at tasks. */
export type Explore = (context: ExploreContext, tasks: readonly Task[]) => Promise<Trace[]>

/** How `sampleGroup` samples. */
export interface SampleGroupOptions {
  /** Samples per task. */
  readonly numGenerations: number
  readonly maxNewTokens: number
  readonly temperature?: number
  readonly topK?: number
  readonly topP?: number
  readonly minP?: number
  /** Against tokens of the prompt and of the sample so far; log-probs of the model are without it. */
  readonly repetitionPenalty?: number
  /** Tokens that end a sample. Default the policy's end tokens. */
  readonly stopIds?: readonly number[]
  /** Texts that end a sample. Their tokens are trained with the rest; the text of the sample ends before them. */
  readonly stopStrings?: readonly string[]
  /** Most samples in flight at once: memory, never results. Default 256. */
  readonly maxRows?: number
  /**
   * Log-probs that traces keep: of the model at temperature 1 (default), or of the distribution that was sampled from.
   * Without penalty, top-k, top-p and min-p the latter are the bits of a trainer at the same temperature.
   */
  readonly logps?: 'model' | 'sampling'
  /**
   * Share of the reference in what tokens are drawn from, the geometric mixture of both models (Nash-MD, 2312.00886).
   * Default 0: the policy alone; 1: the reference alone. Such samples have keys of their own.
   */
  readonly mixtureCoef?: number
}

/** Kinds of {@link ExploreContext}. */
export const contextKinds = {
  policy: modelKind,
  reference: optional(decoderKind),
  seed: kinds.whole,
  round: kinds.whole,
  roundTasks: optional(listOf(taskKind)),
  signal: optional(kinds.signal),
}

/** Kinds of {@link SampleGroupOptions} but for how many. */
export const samplingKinds = {
  maxNewTokens: kinds.number,
  temperature: optional(kinds.number),
  topK: optional(kinds.number),
  topP: optional(kinds.number),
  minP: optional(kinds.number),
  repetitionPenalty: optional(kinds.number),
  stopIds: optional(kinds.numbers),
  stopStrings: optional(listOf(kinds.filled)),
  maxRows: optional(kinds.count),
  logps: optional(word('model', 'sampling')),
}
const groupKinds = { ...samplingKinds, numGenerations: kinds.number, mixtureCoef: optional(kinds.number) }

/** Tokens of a task's prompt. */
export const promptIds = ({ tokenizer }: LanguageModel, { prompt, messages, chat }: Task): readonly number[] =>
  messages === undefined
    ? tokenizer.encode(prompt)
    : tokenizer.applyChatTemplate(messages, { ...chat, addGenerationPrompt: true }).ids

/** What the policy wrote, as a segment. */
export const segmentOf = (
  { text, ids, logps, samplingLogps }: Completion,
  kept: SampleGroupOptions['logps'],
): Segment => ({ role: 'completion', text, ids, logps: kept === 'sampling' ? samplingLogps : logps })

/** What samples are drawn from besides the policy. */
function mixtureOf({ reference }: ExploreContext, mixtureCoef: number) {
  if (mixtureCoef === 0) return undefined
  if (reference !== undefined) return { reference, mixtureCoef }
  const text = `expected a reference for the share of ${mixtureCoef} that it has in the samples, got none`
  throw new WhetstoneError('E_CONFIG', 'mixtureCoef', text)
}

/** n samples per task; the key of each is (seed, round, task, sample), so batching and interruption change nothing. */
export function sampleGroup(settings: SampleGroupOptions): Explore {
  checkOptions('sampleGroup', settings, groupKinds)
  const { logps, mixtureCoef = 0, ...options } = settings
  return async (context, tasks) => {
    checkMembers('explore', context, contextKinds)
    checkArgument('explore: tasks', tasks, listOf(taskKind))
    const { policy, seed, round, signal } = context
    const prompts = tasks.map((task) => promptIds(policy, task))
    const mixture = mixtureOf(context, mixtureCoef)
    // With the keys of the policy's samples the reference's would be the same ones, as long as both models are.
    const who = mixture === undefined ? '' : ' with the reference'
    const promptKeys = tasks.map((task) => `round ${round} task ${task.id}${who}`)
    const groups = await policy.generate(prompts, { ...options, seed, promptKeys, mixture, signal })
    return groups.flatMap((samples, t) =>
      samples.map(
        (sample, index): Trace => ({
          task: tasks[t],
          sample: index,
          segments: [{ role: 'prompt', text: tasks[t].prompt, ids: prompts[t] }, segmentOf(sample, logps)],
          finishReason: sample.finishReason,
          scores: {},
        }),
      ),
    )
  }
}
