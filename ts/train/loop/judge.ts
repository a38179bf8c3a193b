// A judge that writes: a model reads a sample in a prompt of its own, writes a few judgements, and the numbers that can be read off
// them are put together. CycleResearcher's reviewer is the mean of four (Weng et al. 2024, arXiv 2411.00816; temperature 0.4, top-p
// 0.95); self-rewarding models are the same with the policy for the judge. A verdict without words is `verdict`.

import { checkArgument, checkOptions, either, kinds, optional, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'
import type { Task } from '../tasks/index.js'
import { consistencyOf } from './answers.js'
import { promptIds, type SampleGroupOptions, samplingKinds } from './explore.js'
import { inputOf, type RewardFunction, type RewardInput } from './rewards.js'
import type { Score } from './score.js'
import { tracesKind, withScores } from './trace.js'

/** What a judge is told of a sample. */
export interface JudgedSample {
  readonly prompt: string
  /** Text without end tokens; of several turns the last one. */
  readonly completion: string
  readonly task: Task
  /** Columns of the data set; empty for tasks that came from none. */
  readonly row: Readonly<Record<string, unknown>>
}

/** How judgements are asked for and read. */
export interface JudgeOptions extends Omit<SampleGroupOptions, 'numGenerations' | 'logps' | 'mixtureCoef'> {
  /** What the judge reads: text, or a conversation. A pure function. */
  readonly template: (sample: JudgedSample) => string | readonly ChatMessage[]
  /** The number that a judgement comes to; undefined where it cannot be read. Judgements that were cut off are not read. */
  readonly parse: (judgement: string) => number | undefined
  /** Judgements of a sample. Default 1. */
  readonly samples?: number
  /** The mean of their numbers (default), or the most frequent one, of equals the first. */
  readonly reduction?: 'mean' | 'majority'
  /** Key of the draws. */
  readonly seed: number
  /** Name of the score or reward. Default `judge`. */
  readonly as?: string
}

/** How a {@link judge} is asked as a reward function. */
export interface JudgeRewardOptions extends JudgeOptions {
  /** Reward of samples without a judgement that can be read. Default: the function does not apply to them. */
  readonly unread?: number
}

const { logps: _, ...drawnKinds } = samplingKinds
const judgeKinds = {
  ...drawnKinds,
  template: kinds.call,
  parse: kinds.call,
  samples: optional(kinds.count),
  reduction: optional(word('mean', 'majority')),
  seed: kinds.whole,
  as: optional(kinds.filled),
}

/** What is thought of a sample. */
interface Opinion {
  /** undefined where no judgement can be read. */
  readonly value: number | undefined
  /** Share of the judgements that can be read. */
  readonly read: number
}

const reductions = {
  mean,
  majority: (numbers: readonly number[]): number => {
    const { votes, majority } = consistencyOf(numbers.map(String))
    return numbers[votes.indexOf(majority)]
  },
} as const

/** The number of a judgement, checked. */
function numberOf(parse: JudgeOptions['parse'], text: string): number[] {
  const value = parse(text)
  if (value === undefined) return []
  if (Number.isFinite(value)) return [value]
  const got = `${String(value)} for ${JSON.stringify(text.slice(0, 80))}`
  throw new WhetstoneError('E_VERIFIER', 'judge.parse', `expected a finite number or undefined, got ${got}`)
}

/** Tokens that the judge reads of each sample. */
const readings = (
  model: LanguageModel,
  template: JudgeOptions['template'],
  input: RewardInput,
): (readonly number[])[] =>
  input.tasks.map((task, i) => {
    const [prompt, completion, row] = [input.prompts[i], input.completions[i], input.rows[i]]
    const told = template({ prompt, completion, task, row })
    checkArgument('judge.template: what it gives', told, either(kinds.text, kinds.list))
    const text = { id: task.id, prompt: '', answer: '' }
    return promptIds(model, typeof told === 'string' ? { ...text, prompt: told } : { ...text, messages: told })
  })

/** What the judge thinks of samples: a pure function of what it reads and the seed. The same reading is judged once. */
async function opinionsOf(model: LanguageModel, options: JudgeOptions, input: RewardInput): Promise<Opinion[]> {
  const { template, parse, samples = 1, reduction = 'mean', seed, as: _, ...sampling } = options
  const read = readings(model, template, input)
  const names = read.map((ids) => `judge ${ids.join()}`)
  const different = new Map(names.map((name, i) => [name, read[i]]))
  const promptKeys = [...different.keys()]
  const drawn = { ...sampling, seed, promptKeys, numGenerations: samples }
  const groups = await model.generate([...different.values()], drawn)
  const opinions = groups.map((group): Opinion => {
    const ended = group.filter(({ finishReason }) => finishReason === 'stop')
    const numbers = ended.flatMap(({ text }) => numberOf(parse, text))
    const value = numbers.length === 0 ? undefined : reductions[reduction](numbers)
    return { value, read: numbers.length / samples }
  })
  const byName = new Map(promptKeys.map((name, i) => [name, opinions[i]]))
  return names.map((name) => byName.get(name) as Opinion)
}

/**
 * Adds the score `judge`, what a model's judgements of a sample come to, and `judge/read`, the share of them that can be read. A
 * sample without any gets no `judge`. Batches change no bit.
 *
 * @throws WhetstoneError E_CONFIG; E_VERIFIER for a `parse` that gives something else than a finite number or undefined
 */
export function judge(model: LanguageModel, options: JudgeOptions): Score {
  checkArgument('judge.model', model, modelKind)
  checkOptions('judge', options, judgeKinds)
  const { as = 'judge' } = options
  return async (traces) => {
    checkArgument('judge: traces', traces, tracesKind)
    if (traces.length === 0) return []
    const opinions = await opinionsOf(model, options, inputOf(traces))
    return traces.map((trace, i) => {
      const { value, read } = opinions[i]
      return withScores(trace, { ...(value !== undefined && { [as]: value }), [`${as}/read`]: read })
    })
  }
}

/**
 * The same as a reward function, for methods that take rewards: null, or `unread`, where no judgement can be read. How many have
 * a number is in the rounds, `rewards/judge/applied`.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function judgeReward(model: LanguageModel, options: JudgeRewardOptions): RewardFunction {
  checkArgument('judgeReward.model', model, modelKind)
  checkOptions('judgeReward', options, { ...judgeKinds, unread: optional(kinds.number) })
  const { unread = null, ...others } = options
  const reward: RewardFunction = async (input) => {
    const opinions = await opinionsOf(model, others, input)
    return opinions.map(({ value }) => value ?? unread)
  }
  return Object.defineProperty(reward, 'name', { value: options.as ?? 'judge' })
}
