// Rows of a data set in TRL's shapes, and ShareGPT's as those. Every row is checked; a bad one is refused with its file and
// line, the field, what was expected and what came. Fields that a shape does not know are allowed, and counted so that a run
// can say so; rows of prompts keep them for reward functions. How rows become tokens is encode.ts.

import { checkArgument, kinds, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { isJsonObject } from '../../src/io/json.js'
import { readCells } from './cells.js'
import {
  type Check,
  ifNumber,
  like,
  listLike,
  listOf,
  type Messages,
  messages,
  number,
  oneOrMoreMessages,
  optional,
  templateVariables,
  text,
  textOrMessages,
  tools,
  truth,
} from './fields.js'
import { withImplicitPrompt } from './implicit-prompt.js'
import { type Fields, refuseField, shown } from './refuse.js'
import { asMessages, asPrompt } from './sharegpt.js'
import { type DataSource, dataKind, placedKind, readSource } from './sources.js'

export type { Messages } from './fields.js'
export { type DataSource, dataKind } from './sources.js'

/** What a conversation may bring for its template. */
export interface ChatFields {
  /** Descriptions of tools; in files also as JSON text. */
  readonly tools?: readonly unknown[]
  /** Variables of the template, such as `enable_thinking`. */
  readonly chat_template_kwargs?: Readonly<Record<string, string | number | boolean>>
}

/** A row to learn by heart: a text, a conversation, or an answer to a prompt. `weight` multiplies its loss. */
export type Row = { readonly weight?: number } & (
  | { readonly text: string }
  | ({ readonly messages: Messages } & ChatFields)
  | { readonly prompt: string; readonly completion: string }
  | ({ readonly prompt: Messages; readonly completion: Messages } & ChatFields)
)

/** Numbers of a pair that objectives look at, each optional; see their files in ts/loss. */
export interface PairNumbers {
  /** By how much the chosen side is better (reward models). */
  readonly margin?: number
  /** Probability that it is better (SRPO). */
  readonly preference?: number
  readonly weight?: number
  readonly labelSmoothing?: number
  readonly target?: number
  readonly onPolicy?: number
  /** Rewards of both sides (CoPG). */
  readonly score_chosen?: number
  readonly score_rejected?: number
}

/**
 * Two answers to a prompt, the first of which is better. In files the prompt may be left out: then it is what both
 * answers begin with.
 */
export type PreferenceRow = PairNumbers &
  (
    | { readonly prompt: string; readonly chosen: string; readonly rejected: string }
    | ({ readonly prompt: Messages; readonly chosen: Messages; readonly rejected: Messages } & ChatFields)
  )

/**
 * An answer to a prompt that is good (`label` true) or bad. As it comes it may be a preference, which is two rows: the chosen
 * answer is good, the rejected one bad.
 */
export type UnpairedRow = { readonly label: boolean } & (
  | { readonly prompt: string; readonly completion: string }
  | ({ readonly prompt: Messages; readonly completion: Messages } & ChatFields)
)

/**
 * A prompt for the policy to answer, with whatever else the row holds. As it comes it may be a conversation, `messages` or
 * `conversations`: where the assistant has the last word, that is the `completion`, and what is before it the prompt.
 */
export type PromptRow = { readonly prompt: string | Messages } & ChatFields & Readonly<Record<string, unknown>>

/** The steps of an answer, each with its label: right or wrong. */
export interface StepwiseRow {
  readonly prompt: string
  readonly completions: readonly string[]
  readonly labels: readonly boolean[]
}

/** Answers to a prompt with a number each; the larger one is better. */
export type RankedRow = { readonly scores: readonly number[] } & (
  | { readonly prompt: string; readonly completions: readonly string[] }
  | ({ readonly prompt: Messages; readonly completions: readonly Messages[] } & ChatFields)
)

/** Kinds of rows, by the names that objectives ask for. */
export interface RowKinds {
  completion: Row
  preference: PreferenceRow
  unpaired: UnpairedRow
  prompt: PromptRow
  stepwise: StepwiseRow
  ranked: RankedRow
}

/** A row with the place that errors name. */
export interface PlacedRow<R = Row> {
  readonly row: R
  readonly where: string
}

/** All rows of a source. */
export interface DataRows<R> {
  readonly rows: readonly PlacedRow<R>[]
  /** Fields that no shape knows, and in how many rows each was. */
  readonly extraFields: ReadonlyMap<string, number>
}

/** The fields of a row. */
interface Shape {
  readonly required: Readonly<Record<string, Check>>
  readonly optional?: Readonly<Record<string, Check>>
  /** What the fields must be together; gives the row. */
  readonly whole?: (row: Fields, where: string) => Fields
  /** The rows that it stands for; default that one. */
  readonly split?: (row: Fields) => readonly Fields[]
}

/** Fields of a conversation; beside texts they are extra fields like any other. */
const ofChats =
  (check: Check): Check =>
  (row, field, where) =>
    Array.isArray(row.messages ?? row.conversations ?? row.prompt ?? row.chosen) ? check(row, field, where) : undefined

const chat = { tools: ofChats(tools), chat_template_kwargs: ofChats(templateVariables) }

/** Numbers under names that data sets use for other things too: anything else there is an extra field. */
const maybeNumbers = Object.fromEntries(
  ['weight', 'labelSmoothing', 'target', 'onPolicy', 'score_chosen', 'score_rejected'].map((name) => [name, ifNumber]),
)
const pairFields = { margin: number(), preference: number(0, 1), ...maybeNumbers, ...chat }
const answered = { prompt: textOrMessages, completion: like('prompt') }

/** One entry of `field` for each completion. */
function checkEach(row: Fields, field: string, where: string): Fields {
  const [completions, list] = [row.completions, row[field]] as unknown[][]
  if (completions.length === list.length) return row
  return refuseField(where, field, `one for each of the ${completions.length} completions`, list)
}

function checkRanks(row: Fields, where: string): Fields {
  if (new Set(row.scores as number[]).size > 1) return checkEach(row, 'scores', where)
  return refuseField(where, 'scores', 'at least two that differ, as answers are compared', row.scores)
}

/** A conversation as a prompt and the answer that it ends with, if it has one. */
function withLastAnswer(row: Fields, where: string): Fields {
  const all = row.messages as Messages
  const last = all[all.length - 1]
  if (last.role !== 'assistant') return { ...row, prompt: all }
  if (all.length === 1) refuseField(where, 'messages', 'a message for the assistant to answer', all)
  return { ...row, prompt: all.slice(0, -1), completion: [last] }
}

/** Two answers to a prompt, one of which is better. */
const pairShapes = (more: Readonly<Record<string, Check>>): readonly Shape[] => [
  {
    required: { prompt: textOrMessages, chosen: textOrMessages, rejected: like('chosen') },
    optional: more,
    whole: withImplicitPrompt,
  },
  {
    required: { conversations: messages, chosen: oneOrMoreMessages, rejected: oneOrMoreMessages },
    optional: { ...more, system: text },
    whole: asPrompt,
  },
  { required: { chosen: textOrMessages, rejected: like('chosen') }, optional: more, whole: withImplicitPrompt },
]

/** A pair as two rows with a label each (TRL's `unpair_preference_dataset`). */
const labelled = ({ chosen, rejected, ...rest }: Fields): Fields[] => [
  { ...rest, completion: chosen, label: true },
  { ...rest, completion: rejected, label: false },
]

/** Shapes by kind, in the order they are tried. */
const shapes: Readonly<Record<keyof RowKinds, readonly Shape[]>> = {
  completion: [
    { required: { messages }, optional: { weight: number(), ...chat } },
    { required: { conversations: messages }, optional: { weight: number(), system: text, ...chat }, whole: asMessages },
    { required: answered, optional: { weight: number(), ...chat } },
    { required: { text }, optional: { weight: number() } },
  ],
  preference: pairShapes(pairFields),
  unpaired: [
    { required: { ...answered, label: truth }, optional: chat },
    ...pairShapes(chat).map((shape) => ({ ...shape, split: labelled })),
  ],
  prompt: [
    { required: { prompt: textOrMessages }, optional: chat, whole: (row) => row },
    { required: { messages }, optional: chat, whole: withLastAnswer },
    {
      required: { conversations: messages },
      optional: { ...chat, system: text },
      whole: (row, where) => withLastAnswer({ ...row, ...asMessages(row, where) }, where),
    },
  ],
  stepwise: [
    {
      required: { prompt: text, completions: listOf(text), labels: listOf(truth) },
      whole: (row, where) => checkEach(row, 'labels', where),
    },
  ],
  ranked: [
    {
      required: { prompt: textOrMessages, completions: listLike('prompt'), scores: listOf(number()) },
      optional: chat,
      whole: checkRanks,
    },
  ],
}

const namesOf = ({ required }: Shape): string[] => Object.keys(required)

/** Names that the shapes of a kind know. */
const fieldNames = (kind: keyof RowKinds): Set<string> =>
  new Set(shapes[kind].flatMap(({ required, optional: more = {} }) => [...Object.keys(required), ...Object.keys(more)]))

/** The fields of a shape; those of prompts and whatever else the row holds. */
function fieldsOf(row: Fields, { required, optional: more = {} }: Shape, where: string, keepRest: boolean): Fields {
  const checks = Object.entries({
    ...required,
    ...Object.fromEntries(Object.entries(more).map(([field, check]) => [field, optional(check)])),
  })
  const entries = checks.map(([field, check]) => [field, check(row, field, where)] as const)
  const rest = keepRest ? Object.entries(row) : []
  return Object.fromEntries([...rest, ...entries.filter(([, value]) => value !== undefined)])
}

/** The rows of a kind that a value stands for, and the fields that they are made of. */
function rowsOf<K extends keyof RowKinds>(
  value: unknown,
  where: string,
  kind: K,
): { rows: readonly RowKinds[K][]; fields: Fields } {
  if (!isJsonObject(value)) throw new WhetstoneError('E_FORMAT', where, `expected a row object, got ${shown(value)}`)
  const has = (field: string) => value[field] !== undefined && value[field] !== null && Object.hasOwn(value, field)
  const withAll = (isThere: typeof has) => shapes[kind].find((candidate) => namesOf(candidate).every(isThere))
  // Tables of mixed rows have every field in each, null where a row has none; null alone is refused as such.
  const shape = withAll(has) ?? withAll((field) => Object.hasOwn(value, field))
  if (shape !== undefined) {
    const fields = fieldsOf(value, shape, where, kind === 'prompt')
    const row = shape.whole?.(fields, where) ?? fields
    return { rows: (shape.split?.(row) ?? [row]) as unknown as RowKinds[K][], fields }
  }
  const known = shapes[kind].map((candidate) => namesOf(candidate).join(' + ')).join('; ')
  throw new WhetstoneError(
    'E_FORMAT',
    where,
    `expected the fields of a row (${known}), got ${Object.keys(value).join(', ').slice(0, 200) || 'none'}`,
  )
}

/**
 * Checks one row of a kind; of a preference that is two, its first. The result holds the fields of its shape and, except for
 * prompts, no others.
 *
 * @throws WhetstoneError E_FORMAT with the place, the field, what was expected and what came
 */
export const checkRow = <K extends keyof RowKinds>(value: unknown, where: string, kind: K): RowKinds[K] =>
  rowsOf(value, where, kind).rows[0]

/**
 * All rows of a source, or its first ones, with a summary of what they hold besides.
 *
 * @param limit most rows of the source; what lies behind them is not read
 * @throws WhetstoneError E_IO, E_FORMAT naming the row, E_CONFIG when there is none
 */
export async function readData<K extends keyof RowKinds>(
  source: DataSource<unknown>,
  kind: K,
  limit = Number.POSITIVE_INFINITY,
): Promise<DataRows<RowKinds[K]>> {
  checkArgument('readData.source', source, dataKind)
  checkArgument('readData.kind', kind, word(...Object.keys(shapes)))
  checkArgument('readData.limit', limit, kinds.number)
  if (limit !== Number.POSITIVE_INFINITY && !(Number.isInteger(limit) && limit >= 1))
    throw new WhetstoneError('E_CONFIG', 'limit', `expected a whole number of at least 1, got ${limit}`)
  const rows: PlacedRow<RowKinds[K]>[] = []
  const extraFields = new Map<string, number>()
  const known = fieldNames(kind)
  let read = 0
  for await (const { value, where, isTexts } of readSource(source)) {
    const typed = isTexts === true ? readCells(value as Fields, known, where) : value
    const { rows: made, fields } = rowsOf(typed, where, kind)
    rows.push(...made.map((row) => ({ row, where })))
    for (const field of Object.keys(value as object))
      if (!Object.hasOwn(fields, field)) extraFields.set(field, (extraFields.get(field) ?? 0) + made.length)
    if (++read >= limit) break
  }
  if (rows.length === 0)
    throw new WhetstoneError(
      'E_CONFIG',
      typeof source === 'string' ? source : 'data',
      'expected at least one row, got none',
    )
  return { rows, extraFields }
}

/**
 * Rows that a program brings with their places, checked and given back as {@link readData} gives them.
 *
 * @param where function and argument
 * @throws WhetstoneError E_CONFIG, E_FORMAT naming the row
 */
export function checkPlaced<K extends keyof RowKinds>(
  where: string,
  rows: readonly PlacedRow<unknown>[],
  kind: K,
): PlacedRow<RowKinds[K]>[] {
  checkArgument(where, rows, placedKind)
  return rows.flatMap(({ row, where }) => rowsOf(row, where, kind).rows.map((own) => ({ row: own, where })))
}

/** Extra fields as lines: which, and in how many rows. */
export const extraFieldWarnings = (extraFields: ReadonlyMap<string, number>, rows: number): string[] =>
  [...extraFields].map(([field, count]) => `field '${field.slice(0, 80)}' (in ${count} of ${rows} rows) is not used`)
