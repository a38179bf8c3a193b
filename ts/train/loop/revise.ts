// Inference with self-revisions (SRPO, 2406.01660; objectives.md 2.5): y0 answers the prompt, y(k+1) improves y(k). Every
// revision has a fresh context that shows the prompt and the answer before it, under the template of training
// (data/srpo.ts), and nothing else.

import { checkArgument, checkOptions, either, kinds, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import {
  type Completion,
  type GenerateOptions,
  generateKinds,
  type LanguageModel,
  modelKind,
} from '../../src/generate/language-model.js'
import { type ChatMessage, messagesKind } from '../../src/tokenizer/template.js'
import { defaultRevision, type RevisionTemplate, revisionPrompt, templateKinds } from '../data/srpo.js'

/** How to revise. */
export interface ReviseOptions extends Omit<GenerateOptions, 'numGenerations' | 'promptKeys' | 'onText'> {
  /** Times that the answer is improved. */
  readonly revisions: number
  /** How a revision is asked for; default as SRPO trains it. */
  readonly template?: RevisionTemplate
}

const { numGenerations: _, promptKeys: __, onText: ___, ...sampledKinds } = generateKinds
const reviseKinds = { ...sampledKinds, revisions: kinds.number, template: optional(kinds.object) }

/** The last answer as the template takes it: text behind text, a turn behind a conversation. */
const shownAnswer = (prompt: string | readonly ChatMessage[], text: string) =>
  typeof prompt === 'string' ? text : [{ role: 'assistant', content: text }]

function check({ revisions }: ReviseOptions, template: RevisionTemplate): void {
  checkOptions('revise.template', template, templateKinds)
  const { text } = template
  if (!Number.isInteger(revisions) || revisions < 0)
    throw new WhetstoneError('E_CONFIG', 'revisions', `expected a whole number of at least 0, got ${revisions}`)
  const missing = ['{prompt}', '{answer}'].find((place) => !text.includes(place))
  if (missing !== undefined)
    throw new WhetstoneError('E_CONFIG', 'template', `expected ${missing} in it, got ${JSON.stringify(text)}`)
}

/**
 * An answer and its revisions.
 *
 * @returns `revisions` + 1 completions, the last one being the answer
 * @throws WhetstoneError E_CONFIG for a template without its places, and what generation throws
 */
export async function revise(
  model: LanguageModel,
  prompt: string | readonly ChatMessage[],
  options: ReviseOptions,
): Promise<Completion[]> {
  checkArgument('revise.model', model, modelKind)
  checkArgument('revise.prompt', prompt, either(kinds.text, messagesKind))
  checkOptions('revise', options, reviseKinds)
  const { revisions, template = defaultRevision, ...generation } = options
  check(options, template)
  const answers: Completion[] = []
  for (let turn = 0; turn <= revisions; turn++) {
    const last = answers.at(-1)
    const asked = last === undefined ? prompt : revisionPrompt(prompt, shownAnswer(prompt, last.text), template)
    const [[answer]] = await model.generate([asked], { ...generation, promptKeys: [`revision ${turn}`] })
    answers.push(answer)
  }
  return answers
}
