// Preference rows without a prompt of their own: it is what both sides begin with, as TRL's `extract_prompt` has it. The
// common beginning is counted in messages or characters, leaves at least one of them to each side, and does not end in
// the space before the first difference. Differs from TRL: characters outside the BMP are not cut in half, an empty
// beginning stays empty (TRL's index -1 reaches the end), and a conversation without a common beginning is refused.
// A `prompt` as text beside conversations (data sets that repeat the last user message there) must be that message.

import { isDeepStrictEqual } from 'node:util'
import { like, type Messages } from './fields.js'
import { type Fields, refuseField } from './refuse.js'

const same = (a: unknown, b: unknown): boolean => a === b || (typeof a === 'object' && isDeepStrictEqual(a, b))

/** Entries that both begin with; one is left to each. */
function commonLength(a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  const most = Math.max(0, Math.min(a.length, b.length) - 1)
  let length = 0
  while (length < most && same(a[length], b[length])) length++
  return length
}

const isHighSurrogate = (text: string, i: number): boolean => (text.charCodeAt(i) & 0xfc00) === 0xd800

/** Characters that both begin with. */
function commonText(a: string, b: string): number {
  const length = commonLength(a, b)
  const differs = a[length] !== b[length]
  const back = length > 0 && (isHighSurrogate(a, length - 1) || (differs && a[length - 1] === ' '))
  return back ? length - 1 : length
}

function splitMessages(row: Fields, where: string): Fields {
  const [chosen, rejected] = [row.chosen, row.rejected] as Messages[]
  const length = commonLength(chosen, rejected)
  if (length === 0)
    refuseField(where, 'rejected', "the chosen side's first message, as there is no prompt", rejected[0])
  const last = chosen[length - 1].content ?? ''
  if (row.prompt !== undefined && last.trim() !== String(row.prompt).trim())
    refuseField(where, 'prompt', 'a list of messages, or the message before the answers as text', row.prompt)
  return { ...row, prompt: chosen.slice(0, length), chosen: chosen.slice(length), rejected: rejected.slice(length) }
}

/** The row with its prompt apart from both sides. */
export function withImplicitPrompt(row: Fields, where: string): Fields {
  const { prompt, chosen, rejected } = row
  if (prompt !== undefined && (Array.isArray(prompt) || typeof chosen === 'string')) {
    like('prompt')(row, 'chosen', where)
    return row
  }
  if (typeof chosen !== 'string') return splitMessages(row, where)
  const length = commonText(chosen, String(rejected))
  return {
    ...row,
    prompt: chosen.slice(0, length),
    chosen: chosen.slice(length),
    rejected: String(rejected).slice(length),
  }
}
