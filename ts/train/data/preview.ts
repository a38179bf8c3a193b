// Rows as the model will see them, before anything is trained: tokens, special ones among them, which are trained, and what
// is wrong with the data. Structured here; as text in preview-text.ts. Looks at all rows, shows the first ones.

import type { Objective, Role } from '../../loss/define.js'
import { checkArgument, kinds } from '../../src/base/arguments.js'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import { createCodec } from './answer.js'
import { checkEncoding, draftRows, rowKindOf, summaryOf } from './encode.js'
import { type EncodeOptions, encodeSettings } from './encode-options.js'
import { type EncodedKind, encoderFor } from './encoders.js'
import type { EncodedSequence } from './example.js'
import { type EncodeSummary, excluding, type FindingName, warningsOf } from './findings.js'
import type { PlacedRow, RowKinds } from './rows.js'

/** One token. */
export interface PreviewToken {
  readonly id: number
  /** Its share of the text; empty while a character is unfinished. */
  readonly text: string
  readonly special: boolean
  readonly trained: boolean
}

/** One sequence of an example. */
export interface PreviewSequence {
  readonly role: Role
  readonly tokens: readonly PreviewToken[]
  readonly trainedTokens: number
  readonly scores: Readonly<Record<string, number>>
}

/** One row. */
export interface PreviewExample {
  readonly where: string
  readonly sequences: readonly PreviewSequence[]
  readonly found: readonly FindingName[]
}

/** What a run would train on. */
export interface Preview {
  readonly objective: string
  readonly examples: readonly PreviewExample[]
  readonly summary: EncodeSummary
  /** What spoils a run: rows without a trained token, or without an end. */
  readonly errors: readonly string[]
  readonly warnings: readonly string[]
}

const spoiling: readonly FindingName[] = [...excluding, 'withoutEnd']

function showSequence(tokenizer: Tokenizer, sequence: EncodedSequence): PreviewSequence {
  const special = new Set(tokenizer.specialTokens.values())
  const { ids, trained, role = 'completion', scores = {} } = sequence
  const decoder = tokenizer.createDecoder()
  const tokens = ids.map((id, i) => ({
    id,
    text: decoder.push(id),
    special: special.has(id),
    trained: trained[i] === 1,
  }))
  const rest = decoder.end()
  const last = tokens.length - 1
  if (rest !== '' && last >= 0) tokens[last] = { ...tokens[last], text: tokens[last].text + rest }
  return { role, tokens, trainedTokens: tokens.filter((token) => token.trained).length, scores }
}

/**
 * Encodes rows for an objective and shows the first `count`. Rows that a run would refuse are shown and counted.
 *
 * @throws WhetstoneError as `encodeFor`, except for rows that train nothing
 */
export function preview(
  tokenizer: Tokenizer,
  objective: Pick<Objective, 'name' | 'needs'>,
  rows: readonly PlacedRow<RowKinds[EncodedKind]>[],
  options: EncodeOptions = {},
  count = 3,
): Preview {
  const kind = rowKindOf(objective)
  const needs = { ...objective.needs, rows: kind }
  const checked = checkEncoding('preview', tokenizer, rows, kind)
  checkArgument('preview.count', count, kinds.whole)
  const codec = createCodec(tokenizer, encodeSettings(options))
  const drafts = draftRows(codec, encoderFor(needs, objective.name), checked)
  const summary = summaryOf(drafts)
  return {
    objective: objective.name,
    examples: drafts.slice(0, count).map(({ where, example, found }) => ({
      where,
      found,
      sequences: example.map((sequence) => showSequence(tokenizer, sequence)),
    })),
    summary,
    errors: warningsOf(summary, (name) => spoiling.includes(name)),
    warnings: warningsOf(summary, (name) => !spoiling.includes(name)),
  }
}
