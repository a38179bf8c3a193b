// Checks of the fields of rows, each refusing with the row's place, the field, what was expected and what came. Which
// fields make up a row is rows.ts.

import { isJsonObject, parseJson } from '../../src/io/json.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'
import { checkText, type Fields, refuseField, shownLength } from './refuse.js'
import { plainMessage } from './sharegpt.js'

/** A conversation. */
export type Messages = readonly ChatMessage[]

/** A prompt or an answer to one. */
export type Side = string | Messages

/** Checks a field and gives its value; `undefined` leaves the field out of the row. */
export type Check = (row: Fields, field: string, where: string) => unknown

/** Is it content in parts, all of them text: the form that Transformers has for models that see images too? */
const isTextParts = (content: unknown): content is { readonly text: unknown }[] =>
  Array.isArray(content) && content.length > 0 && content.every((part) => isJsonObject(part) && part.type === 'text')

/** Has the message anything besides role and content, such as `tool_calls`? Templates make the word None of a null. */
const saysMore = ({ role: _, content: __, name: ___, ...rest }: Fields): boolean =>
  Object.values(rest).some(
    (value) => value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0),
  )

function checkMessage(given: unknown, field: string, where: string): ChatMessage {
  if (!isJsonObject(given)) return refuseField(where, field, 'a message with role and content', given)
  const message = plainMessage(given, field, where)
  const { role, content } = message
  checkText(role, `${field}.role`, where)
  if (isTextParts(content)) {
    const texts = content.map(({ text }, i) => checkText(text, `${field}.content[${i}].text`, where))
    return { ...message, content: texts.join('') } as unknown as ChatMessage
  }
  if (content !== undefined && content !== null) checkText(content, `${field}.content`, where)
  else if (!saysMore(message)) refuseField(where, `${field}.content`, 'text, or calls of tools beside none', content)
  return message as unknown as ChatMessage
}

function checkMessages(value: unknown, field: string, where: string): Messages {
  if (!Array.isArray(value) || value.length === 0) return refuseField(where, field, 'a list of messages', value)
  return value.map((message, i) => checkMessage(message, `${field}[${i}]`, where))
}

export const text: Check = (row, field, where) => checkText(row[field], field, where)

export const messages: Check = (row, field, where) => checkMessages(row[field], field, where)

/** Messages, or one alone. */
export const oneOrMoreMessages: Check = (row, field, where) =>
  isJsonObject(row[field]) ? [checkMessage(row[field], field, where)] : messages(row, field, where)

export const truth: Check = (row, field, where) =>
  typeof row[field] === 'boolean' ? row[field] : refuseField(where, field, 'true or false', row[field])

/** Text or a conversation. */
export const textOrMessages: Check = (row, field, where) => {
  if (typeof row[field] === 'string') return text(row, field, where)
  if (Array.isArray(row[field])) return messages(row, field, where)
  return refuseField(where, field, 'text or a list of messages', row[field])
}

/** Of the same kind as another field: text beside text, messages beside messages. */
export const like =
  (other: string): Check =>
  (row, field, where) =>
    typeof row[other] === 'string' ? text(row, field, where) : messages(row, field, where)

/** A list, each entry checked by itself. */
export const listOf =
  (check: Check): Check =>
  (row, field, where) => {
    const list = row[field]
    if (!Array.isArray(list) || list.length === 0) return refuseField(where, field, 'a list', list)
    return list.map((value, i) => check({ [`${field}[${i}]`]: value }, `${field}[${i}]`, where))
  }

/** A list of texts beside text, of conversations beside messages. */
export const listLike =
  (other: string): Check =>
  (row, field, where) =>
    listOf(typeof row[other] === 'string' ? text : messages)(row, field, where)

/** A field that may be missing or null. */
export const optional =
  (check: Check): Check =>
  (row, field, where) =>
    row[field] === undefined || row[field] === null ? undefined : check(row, field, where)

/** A finite number within bounds. */
export const number =
  (least = Number.NEGATIVE_INFINITY, most = Number.POSITIVE_INFINITY): Check =>
  (row, field, where) => {
    const value = row[field]
    if (typeof value === 'number' && Number.isFinite(value) && value >= least && value <= most) return value
    const range = Number.isFinite(least) || Number.isFinite(most) ? ` from ${least} to ${most}` : ''
    return refuseField(where, field, `a number${range}`, value)
  }

/** A finite number, or nothing. */
export const ifNumber: Check = (row, field) => (Number.isFinite(row[field]) ? row[field] : undefined)

/** Descriptions of tools: a list, or as in data sets with fixed columns, a list as JSON text. */
export const tools: Check = (row, field, where) => {
  const value = row[field]
  const list = typeof value === 'string' ? parseJson(value, `${where}, field '${field}'`) : value
  return Array.isArray(list) ? list : refuseField(where, field, 'a list of tools', value)
}

/** Variables that are the template's own business, never a row's. */
export const reservedVariables = [
  'messages',
  'tools',
  'documents',
  'add_generation_prompt',
  'chat_template',
  'tokenize',
]

/** Words and numbers: nothing that could spell a control token inside the template's own text. */
export const harmlessText = /^[\w .,:/-]{0,200}$/

/** Variables for the chat template, such as `enable_thinking`. */
export const templateVariables: Check = (row, field, where) => {
  const value = row[field]
  if (!isJsonObject(value)) return refuseField(where, field, 'an object of template variables', value)
  for (const [name, setting] of Object.entries(value)) {
    const place = `${field}.${name.slice(0, shownLength)}`
    if (reservedVariables.includes(name)) refuseField(where, place, 'a variable of the template alone', setting)
    const harmless =
      typeof setting === 'string' ? harmlessText.test(setting) : ['boolean', 'number'].includes(typeof setting)
    if (!harmless) refuseField(where, place, 'true, false, a number or plain words', setting)
  }
  return value
}
