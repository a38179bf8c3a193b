// SRPO's second role: the prompt that shows an answer and asks for a better one (objectives.md 2.4; arXiv 2406.01660). The same
// function serves training and sampling, so that the policy revises under the prompt it was trained with. Texts go through
// a template with {prompt} and {answer}; conversations get the answer as a turn and a request of the user behind it.
// The paper's own templates are for summaries: there, pass one like 'POST: {prompt} EXAMPLE SUMMARY: {answer} TL;DR:'.

import type { Role } from '../../loss/define.js'
import { checkArgument, checkOptions, either, kinds } from '../../src/base/arguments.js'
import { messagesKind } from '../../src/tokenizer/template.js'
import type { Side } from './fields.js'

/** How a revision is asked for. */
export interface RevisionTemplate {
  /** For text prompts: has {prompt} and {answer}. */
  readonly text: string
  /** For conversations: what the user says behind the answer. */
  readonly request: string
}

/** Works for any task; short, as the log-ratios are to a reference under the same words. */
export const defaultRevision: RevisionTemplate = {
  text: '{prompt}\n\nAn answer:\n{answer}\n\nA better answer:\n',
  request: 'Give a better answer.',
}

/** Roles behind a prompt that shows an answer: which answer is shown, and which one is scored. */
export const revisionRoles = {
  chosenGivenRejected: { shown: 'rejected', scored: 'chosen' },
  rejectedGivenRejected: { shown: 'rejected', scored: 'rejected' },
  chosenGivenChosen: { shown: 'chosen', scored: 'chosen' },
  rejectedGivenChosen: { shown: 'chosen', scored: 'rejected' },
} as const satisfies Readonly<Partial<Record<Role, { shown: 'chosen' | 'rejected'; scored: 'chosen' | 'rejected' }>>>

const sideKind = either(kinds.text, messagesKind)

/** Kinds of {@link RevisionTemplate}. */
export const templateKinds = { text: kinds.text, request: kinds.text }

/** The prompt that shows an answer, of the prompt's kind. */
export function revisionPrompt(prompt: Side, answer: Side, template: RevisionTemplate = defaultRevision): Side {
  checkArgument('revisionPrompt.prompt', prompt, sideKind)
  checkArgument('revisionPrompt.answer', answer, typeof prompt === 'string' ? kinds.text : messagesKind)
  checkOptions('revisionPrompt.template', template, templateKinds)
  const { text, request } = template
  if (typeof prompt !== 'string')
    return [...prompt, ...(answer as Exclude<Side, string>), { role: 'user', content: request }]
  const values: Readonly<Record<string, string>> = { '{prompt}': prompt, '{answer}': String(answer) }
  return text.replace(/\{prompt\}|\{answer\}/g, (name) => values[name])
}
