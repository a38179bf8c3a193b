// Which sequences an objective wants of a row: one table by kind of row and role. A role is a function from a row to a
// sequence before any cut; score heads change where it is read. KTO's mismatch needs two rows and is added by encode.ts.

import type { Needs, Role, RowKind } from '../../loss/define.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { type Codec, encodeAnswer, encodeMessages, encodeText, unended, type WholeSequence } from './answer.js'
import type { Part } from './cut.js'
import type { Side } from './fields.js'
import { encodeSteps, scoredAtEnd } from './reward.js'
import type { ChatFields, PreferenceRow, Row, RowKinds } from './rows.js'
import { revisionPrompt, revisionRoles } from './srpo.js'

/** What encoding looks at of an objective's needs. */
export type EncodeNeeds = Pick<Needs, 'roles' | 'scores' | 'sequenceScores' | 'values'> & { readonly rows: EncodedKind }

/** Kinds of rows that become examples; the rest is sampled by the policy. `ranked` is a group that is one example. */
export type EncodedKind = Exclude<RowKind, 'group'> | 'ranked'

/** The kind of rows that give what is needed; undefined for samples of the policy. */
export function kindOf({ rows, roles, values }: Pick<Needs, 'rows' | 'roles' | 'values'>): EncodedKind | undefined {
  if (rows !== 'group') return rows
  return values !== undefined && roles === undefined ? 'ranked' : undefined
}

type Made = Omit<Part, 'role'>

/** One sequence of the role, or several. */
type Maker<R> = (codec: Codec, row: R) => Made | readonly Made[]

type Makers = { readonly [K in EncodedKind]: Readonly<Partial<Record<Role, Maker<RowKinds[K]>>>> }

const allTrained = (whole: WholeSequence): WholeSequence => ({
  ...whole,
  trained: whole.trained.map((_, i) => Number(i > 0)),
})

function completion(codec: Codec, row: Row): Made {
  const { weight } = row
  const whole = wholeRow(codec, row)
  return weight === undefined ? whole : { ...whole, weights: new Float64Array(whole.ids.length).fill(weight) }
}

function wholeRow(codec: Codec, row: Row): WholeSequence {
  if ('text' in row) return encodeText(codec, row.text)
  if ('messages' in row) return encodeMessages(codec, row.messages, row)
  const whole = encodeAnswer(codec, row.prompt, row.completion, row as ChatFields)
  return codec.settings.completionOnlyLoss ? whole : allTrained(whole)
}

/** The numbers of a pair, under the names that objectives ask for. */
function pairScores(row: PreferenceRow, reward?: number): Pick<Part, 'scores'> {
  const { margin, preference, weight, labelSmoothing, target, onPolicy } = row
  const all = { margin, preference, weight, labelSmoothing, target, onPolicy, reward }
  const given = Object.entries(all).flatMap(([name, value]) => (value === undefined ? [] : [[name, value] as const]))
  return given.length === 0 ? {} : { scores: Object.fromEntries(given) }
}

/** The column of a row that a score of a sequence comes from. */
export const scoreColumn = (score: string, role: Role = 'completion'): string =>
  score === 'reward' ? `score_${role}` : score

const side =
  (name: 'chosen' | 'rejected') =>
  (codec: Codec, row: PreferenceRow): Made => ({
    ...encodeAnswer(codec, row.prompt, row[name], row as ChatFields),
    ...pairScores(row, row[`score_${name}`]),
  })

/** The prompt before the chosen answer, itself trained: both together are the whole chosen sequence. */
const promptOfChosen: Maker<PreferenceRow> = (codec, row) => {
  const whole = side('chosen')(codec, row)
  const trained = whole.trained.map((_, i) => Number(i > 0 && i < whole.promptLength))
  return { ...whole, trained, endsWithTrained: true }
}

/** An answer behind the prompt that shows an answer. */
function revised({
  shown,
  scored,
}: {
  shown: 'chosen' | 'rejected'
  scored: 'chosen' | 'rejected'
}): Maker<PreferenceRow> {
  return (codec, row) => {
    const { revisionText: text, revisionRequest: request } = codec.settings
    const example: Side = row[shown]
    const visible = typeof example === 'string' ? unended(example, codec.tokenizer) : example
    const prompt = revisionPrompt(row.prompt, visible, { text, request })
    return { ...encodeAnswer(codec, prompt, row[scored], row as ChatFields), ...pairScores(row) }
  }
}

/** Sequences by kind of row and role. */
const encoders: Makers = {
  completion: { completion },
  preference: {
    chosen: side('chosen'),
    rejected: side('rejected'),
    prompt: promptOfChosen,
    chosenGivenRejected: revised(revisionRoles.chosenGivenRejected),
    rejectedGivenRejected: revised(revisionRoles.rejectedGivenRejected),
    chosenGivenChosen: revised(revisionRoles.chosenGivenChosen),
    rejectedGivenChosen: revised(revisionRoles.rejectedGivenChosen),
  },
  unpaired: {
    completion: (codec, row) => ({
      ...encodeAnswer(codec, row.prompt, row.completion, row as ChatFields),
      scores: { label: Number(row.label) },
    }),
  },
  stepwise: { completion: encodeSteps },
  ranked: {
    completion: (codec, row) =>
      row.completions.map((answer, i) => ({
        ...encodeAnswer(codec, row.prompt, answer, row as ChatFields),
        scores: { label: row.scores[i] },
      })),
  },
}

/** Roles of objectives that name none. */
const defaultRoles: Readonly<Record<EncodedKind, readonly Role[]>> = {
  completion: ['completion'],
  preference: ['chosen', 'rejected'],
  unpaired: ['completion'],
  stepwise: ['completion'],
  ranked: ['completion'],
}

/** The kinds of rows that become examples. */
export const encodedKinds: readonly string[] = Object.keys(encoders)

/** How an objective's rows become sequences. */
export interface Encoder {
  readonly parts: (codec: Codec, row: RowKinds[EncodedKind]) => Part[]
  /** Each example also gets another one's answer. */
  readonly mismatch: boolean
  /** Sequences are never cut: a longer row is left out. */
  readonly uncut: boolean
  /** Prompts show answers: cutting their beginnings would take different things from each. */
  readonly revises: boolean
}

/**
 * The encoder that an objective needs.
 *
 * @param name of the objective, for errors
 * @throws WhetstoneError E_CONFIG when no kind of row gives what it needs
 */
export function encoderFor(needs: EncodeNeeds, name: string): Encoder {
  const { rows, values } = needs
  const roles = needs.roles ?? defaultRoles[rows]
  const makers = encoders[rows] as Readonly<Partial<Record<Role, Maker<RowKinds[EncodedKind]>>>>
  const unknown = roles.find((role) => makers[role] === undefined && !(rows === 'unpaired' && role === 'mismatch'))
  if (unknown !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      name,
      `expected roles that ${rows} rows have (${Object.keys(makers).join(', ')}), got ${unknown}`,
    )
  const scored = values !== undefined && rows !== 'stepwise'
  const parts = (codec: Codec, row: RowKinds[EncodedKind]): Part[] =>
    roles.flatMap((role) => {
      const made = [makers[role]?.(codec, row) ?? []].flat()
      return made.map((part) => ({ ...(scored ? scoredAtEnd(part) : part), role }))
    })
  const revises = roles.some((role) => Object.hasOwn(revisionRoles, role))
  return { parts, mismatch: roles.includes('mismatch'), uncut: scored || revises, revises }
}
