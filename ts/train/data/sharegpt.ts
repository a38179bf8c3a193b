// Conversations as ShareGPT had them: messages with `from` and `value`, in rows of `conversations`. TRL's
// `maybe_convert_to_chatml` renames the fields and leaves the words of `from` as they are, which most templates do not know;
// here they become roles, as LLaMA-Factory and Axolotl read them. A `system` text beside `conversations` is its first message,
// and a call of functions (`function_call`, JSON with name and arguments) becomes `tool_calls`, both as in LLaMA-Factory.

import { isJsonObject, parseJson } from '../../src/io/json.js'
import { checkText, type Fields, refuseField } from './refuse.js'

const roles: Readonly<Record<string, string>> = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  assistant: 'assistant',
  function_call: 'assistant',
  system: 'system',
  developer: 'developer',
  tool: 'tool',
  observation: 'tool',
}

/** The calls that a message spells: one, or a list of them. */
function toolCalls(value: string, field: string, where: string): unknown[] {
  const calls = [parseJson(value, `${where}, field '${field}'`)].flat()
  return calls.map((call) => {
    if (!isJsonObject(call) || typeof call.name !== 'string' || call.arguments === undefined)
      return refuseField(where, field, 'calls of functions with name and arguments, as JSON', call)
    return { type: 'function', function: { name: call.name, arguments: call.arguments } }
  })
}

/** A message with role and content, whichever way it came. */
export function plainMessage(message: Fields, field: string, where: string): Fields {
  if (message.from === undefined || message.role !== undefined) return message
  const { from, value, ...rest } = message
  const word = checkText(from, `${field}.from`, where)
  if (!Object.hasOwn(roles, word))
    return refuseField(where, `${field}.from`, `one of ${Object.keys(roles).join(', ')}`, word)
  const content = checkText(value, `${field}.value`, where)
  if (word !== 'function_call') return { role: roles[word], content, ...rest }
  return { role: roles[word], content: '', tool_calls: toolCalls(content, `${field}.value`, where), ...rest }
}

/** The conversation of a row with its system prompt. */
function wholeConversation({ conversations, system }: Fields, where: string): readonly Fields[] {
  const turns = conversations as readonly Fields[]
  if (system === undefined || system === '') return turns
  if (turns[0].role === 'system')
    return refuseField(where, 'system', 'no second system prompt beside that of conversations', system)
  return [{ role: 'system', content: String(system) }, ...turns]
}

/** A row of `conversations` as one of `messages`. */
export const asMessages = ({ conversations, system, ...rest }: Fields, where: string): Fields => ({
  messages: wholeConversation({ conversations, system }, where),
  ...rest,
})

/** A preference whose `conversations` are the prompt. */
export function asPrompt({ conversations, system, ...rest }: Fields, where: string): Fields {
  for (const side of ['chosen', 'rejected']) {
    const [first] = rest[side] as readonly Fields[]
    if (first.role !== 'assistant')
      refuseField(where, side, "the assistant's answer to conversations, without them", first)
  }
  return { prompt: wholeConversation({ conversations, system }, where), ...rest }
}
