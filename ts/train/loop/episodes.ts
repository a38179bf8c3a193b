// Explore: the policy acts step by step in an environment. An action is written by the policy, what the environment shows behind it
// is put there, and the next action sees all that came before as tokens, so that the log-probs of an episode are those of one
// sequence. All episodes of a call act side by side, and keys and values of what was read stay. Random keys are (seed, round, task,
// sample, token): neither batching nor interruption changes anything.

import { checkArgument, checkMembers, checkOptions, kinds, listOf, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import { mean } from '../../src/base/stats.js'
import type { Completion, GenerateOptions } from '../../src/generate/language-model.js'
import { limitOf } from '../../src/generate/request.js'
import { type Env, type EnvStep, envKind, type Task, taskKind } from '../tasks/task.js'
import { injectedIds } from './chain.js'
import {
  contextKinds,
  type Explore,
  type ExploreContext,
  promptIds,
  type SampleGroupOptions,
  samplingKinds,
  segmentOf,
} from './explore.js'
import { isOwn } from './rivals.js'
import { type Segment, type Trace, withScores } from './trace.js'

/** How a policy acts. */
export interface ActOptions {
  readonly env: Env
  /** Of an action; `numGenerations` is the number of episodes of a task, or of actions tried at a node. */
  readonly sampling: Omit<SampleGroupOptions, 'stopStrings' | 'mixtureCoef'>
  /** Most steps of an episode. */
  readonly maxSteps: number
}

/** How episodes are sampled. */
export interface EpisodeOptions extends ActOptions {
  /** Actions that are taken before the policy acts, and not trained: a pure function of the task. Default none. */
  readonly beginning?: (task: Task) => readonly string[]
}

/** A step of an episode. */
export interface EpisodeStep {
  /** What was done: a completion, or injected where the policy did not choose it. */
  readonly action: Segment
  /** What was seen behind it; none where the policy gave up. */
  readonly observation?: Segment
  readonly reward: number
  /** The state behind it. */
  readonly after: unknown
}

/** An episode as far as it has come. */
export interface Episode {
  readonly task: Task
  readonly prompt: Segment
  /** The state before the first step. */
  readonly start: unknown
  readonly steps: readonly EpisodeStep[]
  readonly over: boolean
  /** `length` where steps or tokens ran out. */
  readonly finishReason: 'stop' | 'length'
  /** Names it in random keys. */
  readonly place: string
}

const stepKinds = { observation: kinds.text, reward: kinds.number, done: kinds.flag }

/** The reward of all steps. */
export const returnOf = ({ steps }: Pick<Episode, 'steps'>): number =>
  steps.reduce((sum, { reward }) => sum + reward, 0)

const segmentsOf = ({ prompt, steps }: Episode): Segment[] => [
  prompt,
  ...steps.flatMap(({ action, observation }) => (observation === undefined ? [action] : [action, observation])),
]

/** Steps at which the same was done behind the same observation as before. */
function repeatsOf({ steps }: Episode): number {
  const made = steps.map(({ action }, i) => JSON.stringify([steps[i - 1]?.observation?.text ?? '', action.text]))
  return made.length - new Set(made).size
}

/**
 * An episode as a trace: its actions are completions, its observations injected. Scores: `return`, the reward of all steps, which
 * is its `reward` too; `step/1`, `step/2`, ... of each; `steps`; `repeats`, steps that did the same behind the same observation
 * as one before.
 */
export const episodeTrace = (episode: Episode, sample: number): Trace => ({
  task: episode.task,
  sample,
  segments: segmentsOf(episode),
  finishReason: episode.finishReason,
  scores: {
    return: returnOf(episode),
    reward: returnOf(episode),
    ...Object.fromEntries(episode.steps.map(({ reward }, i) => [`step/${i + 1}`, reward])),
    steps: episode.steps.length,
    repeats: repeatsOf(episode),
  },
})

/** Tasks as episodes that begin. */
export async function beginEpisodes({ policy }: ExploreContext, env: Env, tasks: readonly Task[]): Promise<Episode[]> {
  const begun: Episode[] = []
  for (const task of tasks) {
    const text = await env.reset(task)
    const prompt: Segment = { role: 'prompt', text, ids: promptIds(policy, { ...task, prompt: text }) }
    const rest = { steps: [], over: false, finishReason: 'stop', place: '0' } as const
    begun.push({ task, prompt, start: env.snapshot(), ...rest })
  }
  return begun
}

const stateOf = ({ start, steps }: Episode): unknown => (steps.length === 0 ? start : steps[steps.length - 1].after)

/** The answer of an environment, checked. */
async function answerOf(env: Env, { task }: Episode, action: string): Promise<EnvStep> {
  const answer = await env.step(action)
  const bad = Object.entries(stepKinds).find(([name, { fits }]) => !fits(answer?.[name as keyof EnvStep]))
  if (bad === undefined && Number.isFinite(answer.reward)) return answer
  const expected = bad === undefined ? 'a finite reward' : `${bad[1].expected} for ${bad[0]}`
  throw new WhetstoneError(
    'E_VERIFIER',
    `env of task ${task.id}`,
    `expected ${expected}, got ${JSON.stringify(answer)}`,
  )
}

/** An episode with one more step, whatever state the environment is in. */
export async function actIn(
  { policy }: ExploreContext,
  episode: Episode,
  action: Segment,
  { env, maxSteps }: Pick<ActOptions, 'env' | 'maxSteps'>,
): Promise<Episode> {
  await env.restore(stateOf(episode))
  const { observation: text, reward, done } = await answerOf(env, episode, action.text)
  const acted = episodeTrace({ ...episode, steps: [...episode.steps, { action, reward, after: undefined }] }, 0)
  const observation: Segment = { role: 'injected', text, ids: injectedIds(policy, acted, text) }
  const steps = [...episode.steps, { action, observation, reward, after: env.snapshot() }]
  const isLong = !done && steps.length >= maxSteps
  return { ...episode, steps, over: done || isLong, finishReason: isLong ? 'length' : 'stop' }
}

/** An episode in which a given action is taken: not the policy's, unless `role` says so. */
export const actGiven = (
  context: ExploreContext,
  episode: Episode,
  text: string,
  options: Pick<ActOptions, 'env' | 'maxSteps'> & { readonly role?: Segment['role'] },
): Promise<Episode> => {
  const ids = context.policy.tokenizer.encode(text, { addSpecialTokens: false })
  return actIn(context, episode, { role: options.role ?? 'injected', text, ids }, options)
}

/** An episode that goes on only where its next action fits into the positions of the model, which GPT-2's end. */
function withinLimit({ policy: { decoder } }: ExploreContext, episode: Episode, { sampling }: ActOptions): Episode {
  const limit = limitOf([decoder]) ?? Number.POSITIVE_INFINITY
  const length = segmentsOf(episode).reduce((sum, { ids }) => sum + ids.length, 0)
  return episode.over || length + sampling.maxNewTokens <= limit
    ? episode
    : { ...episode, over: true, finishReason: 'length' }
}

/** What the policy wrote as the next step. In text an end token gives the episode up; in conversations it ends the action. */
export async function actWritten(
  context: ExploreContext,
  episode: Episode,
  one: Completion,
  options: ActOptions,
): Promise<Episode> {
  const { decoder, tokenizer } = context.policy
  const isEnd = decoder.config.eosTokenIds.includes(one.ids[one.ids.length - 1])
  const own: Segment = { ...segmentOf(one, options.sampling.logps), finishReason: one.finishReason }
  const action = isEnd ? own : { ...own, text: tokenizer.decode(one.ids) }
  if (!isEnd || episode.task.messages !== undefined)
    return withinLimit(context, await actIn(context, episode, action, options), options)
  const steps = [...episode.steps, { action, reward: 0, after: stateOf(episode) }]
  return { ...episode, steps, over: true, finishReason: 'stop' }
}

/** How actions are drawn. */
interface DrawOptions {
  /** Of each episode. */
  readonly count: number
  /** Names them in random keys. */
  readonly what: string
  /** What comes behind them, if they are not the last. */
  readonly reply?: GenerateOptions['reply']
}

/** Actions drawn at the end of each episode. */
export function drawActions(
  { policy, seed, round, signal }: ExploreContext,
  episodes: readonly Episode[],
  { env, sampling }: ActOptions,
  { count, what, reply }: DrawOptions,
): Promise<Completion[][]> {
  const { numGenerations: _, logps: __, ...drawn } = sampling
  return policy.generate(
    episodes.map((episode) => segmentsOf(episode).flatMap(({ ids }) => ids)),
    {
      ...drawn,
      numGenerations: count,
      stopStrings: [env.actionEnd],
      seed,
      promptKeys: episodes.map(
        ({ task, place, steps }) => `round ${round} task ${task.id} ${what} ${place} step ${steps.length + 1}`,
      ),
      signal,
      reply,
    },
  )
}

/** Takes the beginnings. */
async function begunWith(context: ExploreContext, episodes: readonly Episode[], options: EpisodeOptions) {
  const begun: Episode[] = []
  for (let episode of episodes) {
    for (const text of options.beginning?.(episode.task) ?? [])
      if (!episode.over) episode = withinLimit(context, await actGiven(context, episode, text, options), options)
    begun.push(episode)
  }
  return begun
}

const { stopStrings: _, ...actionKinds } = samplingKinds
export const actKinds = { env: envKind, sampling: kinds.object, maxSteps: kinds.count }
export const actionSamplingKinds = { ...actionKinds, numGenerations: kinds.count }

/**
 * Episodes of each task, {@link episodeTrace} each.
 *
 * @throws WhetstoneError E_VERIFIER for an environment that answers with something else than a step
 */
export function sampleEpisodes(options: EpisodeOptions): Explore {
  checkOptions('sampleEpisodes', options, { ...actKinds, beginning: optional(kinds.call) })
  checkOptions('sampleEpisodes.sampling', options.sampling, actionSamplingKinds)
  const { env, sampling, beginning } = options
  const what = beginning === undefined ? 'episode' : 'episode behind a beginning'
  return async (context, tasks) => {
    checkMembers('explore', context, contextKinds)
    checkArgument('explore: tasks', tasks, listOf(taskKind))
    const begun = await begunWith(context, await beginEpisodes(context, env, tasks), options)
    const all = begun.map((one) =>
      Array.from({ length: sampling.numGenerations }, (_, sample): Episode => ({ ...one, place: `${sample}` })),
    )
    const going = begun.flatMap(({ over }, i) => (over ? [] : [i]))
    const reply = async (prompt: number, sample: number, action: Completion) => {
      const group = all[going[prompt]]
      group[sample] = await actWritten(context, group[sample], action, options)
      return group[sample].over ? undefined : group[sample].steps.at(-1)?.observation?.ids
    }
    const acting = going.map((i) => begun[i])
    if (acting.length > 0) await drawActions(context, acting, options, { count: sampling.numGenerations, what, reply })
    return all.flatMap((group) => group.map(episodeTrace))
  }
}

/** Beginnings that are mostly mistakes: random actions of an environment; undefined where it names none. */
export function randomBeginning({ actions }: Env, count: number, seed: number): EpisodeOptions['beginning'] {
  if (actions === undefined) return undefined
  return ({ id }) => {
    const key = deriveKey(seed, 'beginning', id)
    return Array.from({ length: count }, (_, i) => actions[Math.floor(uniform(key, i) * actions.length)])
  }
}

/** Episodes of the policy alone, and, with the scores `begun` 1 and `onPolicy` 0, as many behind a beginning, if there is one. */
export function sampleRecovery(options: EpisodeOptions): Explore {
  const { beginning, ...free } = options
  const alone = sampleEpisodes(free)
  if (beginning === undefined) return alone
  const behind = sampleEpisodes(options)
  const { numGenerations } = options.sampling
  return async (context, tasks) => {
    const recovering = (await behind(context, tasks)).map((trace) => ({
      ...trace,
      sample: numGenerations + trace.sample,
    }))
    return [
      ...(await alone(context, tasks)),
      ...recovering.map((trace) => withScores(trace, { begun: 1, onPolicy: 0 })),
    ]
  }
}

/**
 * Shares of the policy's episodes that are paid, and of those behind a beginning; and of steps that did the same behind the same
 * observation as one before. Nothing where there are no episodes.
 */
export function episodeStatistics(samples: readonly Trace[]): Record<string, number> {
  const traces = samples.filter(({ scores }) => scores.return !== undefined)
  if (traces.length === 0) return {}
  const [own, begun] = [traces.filter(isOwn), traces.filter(({ scores }) => scores.begun === 1)]
  const paid = (some: readonly Trace[]) => mean(some.map(({ scores }) => Number(scores.return > 0)))
  const loops = (some: readonly Trace[]) => mean(some.map(({ scores }) => scores.repeats / Math.max(1, scores.steps)))
  return {
    'episodes/success': paid(own),
    'episodes/loops': loops(own),
    'episodes/steps': mean(own.map(({ scores }) => scores.steps)),
    ...(begun.length > 0 && { 'episodes/recovery': paid(begun), 'episodes/recovery_loops': loops(begun) }),
  }
}
