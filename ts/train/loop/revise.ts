// Inference with self-revisions (SRPO, 2406.01660, section on inference; objectives.md 2.5): y0 answers the prompt, y(k+1)
// improves y(k). Every revision has a fresh context that shows the prompt and the answer before it, and nothing else:
// the template must be the one of training.

import { WhetstoneError } from '../../src/base/errors.js'
import type { Completion, GenerateOptions, LanguageModel } from '../../src/generate/language-model.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'

/** How to revise. */
export interface ReviseOptions extends Omit<GenerateOptions, 'numGenerations' | 'promptKeys' | 'onText'> {
  /** Times that the answer is improved. */
  readonly revisions: number
  /**
   * Text prompts: the prompt of a revision, with `{prompt}` and `{answer}` in it. Conversations: the request that follows
   * the answer as the user's next message; it may hold `{prompt}` and `{answer}` too.
   */
  readonly template: string
}

/** Puts a prompt and an answer into a template. What they hold is never read as a place of its own. */
export const fillTemplate = (template: string, values: Readonly<Record<'prompt' | 'answer', string>>): string =>
  template.replace(/\{(prompt|answer)\}/g, (_, name: 'prompt' | 'answer') => values[name])

type RevisablePrompt = string | readonly ChatMessage[]

const lastUser = (messages: readonly ChatMessage[]): string =>
  messages.findLast(({ role }) => role === 'user')?.content ?? ''

/** The prompt that asks for a better answer. */
export function revisionPrompt(prompt: RevisablePrompt, answer: string, template: string): RevisablePrompt {
  if (typeof prompt === 'string') return fillTemplate(template, { prompt, answer })
  const request = fillTemplate(template, { prompt: lastUser(prompt), answer })
  return [...prompt, { role: 'assistant', content: answer }, { role: 'user', content: request }]
}

function check({ revisions, template }: ReviseOptions, conversation: boolean): void {
  if (!Number.isInteger(revisions) || revisions < 0)
    throw new WhetstoneError('E_CONFIG', 'revisions', `expected a whole number of at least 0, got ${revisions}`)
  const missing = conversation ? undefined : ['{prompt}', '{answer}'].find((place) => !template.includes(place))
  if (missing !== undefined)
    throw new WhetstoneError('E_CONFIG', 'template', `expected ${missing} in it, got ${JSON.stringify(template)}`)
}

/**
 * An answer and its revisions.
 *
 * @returns `revisions` + 1 completions, the last one being the answer
 * @throws WhetstoneError E_CONFIG for a template without its places, and what generation throws
 */
export async function revise(
  model: LanguageModel,
  prompt: RevisablePrompt,
  options: ReviseOptions,
): Promise<Completion[]> {
  const { revisions, template, ...generation } = options
  check(options, typeof prompt !== 'string')
  const answers: Completion[] = []
  for (let turn = 0; turn <= revisions; turn++) {
    const last = answers.at(-1)
    const asked = last === undefined ? prompt : revisionPrompt(prompt, last.text, template)
    const [[answer]] = await model.generate([asked], { ...generation, promptKeys: [`revision ${turn}`] })
    answers.push(answer)
  }
  return answers
}
