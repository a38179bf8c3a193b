// Whose completions distillation trains in a round (Agarwal et al. 2023, arXiv 2306.13649, algorithm 1): the student's own with
// probability lmbda; else the teacher's, with seqKd, or those of the data. One draw per round, a function of seed and round.

import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import { createCodec, encodeAnswer } from '../data/answer.js'
import { encodeSettings } from '../data/encode-options.js'
import type { Side } from '../data/fields.js'
import { checkRow } from '../data/rows.js'
import type { Task } from '../tasks/index.js'
import { type Explore, type SampleGroupOptions, sampleGroup } from './explore.js'
import { chatFieldsOf } from './prompts.js'
import { marked } from './rivals.js'
import type { Trace } from './trace.js'

/** Whose completions. */
export interface Writers {
  /** Share of rounds with the student's own. */
  readonly lmbda: number
  /** Of the others: the teacher's samples, in place of the data's completions. */
  readonly seqKd: boolean
}

/** A row with the completion that it brings. */
type Answered = { readonly prompt: Side; readonly completion: Side }

/**
 * Refuses tasks without a completion where one will be trained.
 *
 * @throws WhetstoneError E_FORMAT naming the row, E_CONFIG for tasks that came from no rows
 */
export function checkAnswered({ lmbda, seqKd }: Writers, tasks: readonly Task[]): void {
  if (lmbda === 1 || seqKd) return
  for (const { id, row } of tasks) {
    if (row === undefined)
      throw new WhetstoneError(
        'E_CONFIG',
        'lmbda',
        `expected 1, or seqKd, for tasks, which bring no completions, got ${lmbda}`,
      )
    const { prompt, completion, tools, chat_template_kwargs } = row
    checkRow({ prompt, completion, tools, chat_template_kwargs }, id, 'completion')
  }
}

const textOf = (completion: Side): string =>
  typeof completion === 'string' ? completion : completion.map(({ content }) => content ?? '').join('')

/** Traces of the completions that rows bring, with their end tokens. */
function dataTraces({ tokenizer }: LanguageModel, tasks: readonly Task[]): Trace[] {
  const codec = createCodec(tokenizer, encodeSettings({}))
  return tasks.map((task) => {
    const { prompt, completion } = task.row as unknown as Answered
    const { ids, promptLength } = encodeAnswer(codec, prompt, completion, chatFieldsOf(task))
    return {
      task,
      sample: 0,
      segments: [
        { role: 'prompt', text: task.prompt, ids: ids.slice(0, promptLength) },
        { role: 'completion', text: textOf(completion), ids: ids.slice(promptLength) },
      ],
      finishReason: 'stop',
      scores: {},
    }
  })
}

/** Completions of a round. The score `onPolicy` is 1 on the student's own. */
export function sampleOrTake({ lmbda, seqKd }: Writers, sampling: SampleGroupOptions): Explore {
  const [student, teacher] = [sampleGroup(sampling), sampleGroup({ ...sampling, mixtureCoef: 1 })]
  return async (context, tasks) => {
    const { policy, seed, round } = context
    if (uniform(deriveKey(seed, 'lmbda', round), 0) < lmbda) return marked(await student(context, tasks), 1)
    return marked(seqKd ? await teacher(context, tasks) : dataTraces(policy, tasks), 0)
  }
}
