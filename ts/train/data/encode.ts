// Rows -> examples for an objective: encoded as its needs say, cut, checked and counted. A row that would train nothing is
// refused, or left out and counted on request, never passed over in silence; every sequence of an example must train
// something. Reward models and SRPO cut no row (TRL's RewardTrainer leaves long pairs out; a cut prompt of SRPO would lose
// the answer that it shows). What the sequences of a row are is encoders.ts.

import type { Objective } from '../../loss/define.js'
import { checkArgument, checkMembers, having, kinds, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { atOnce } from '../../src/base/turns.js'
import type { DecoderConfig } from '../../src/models/config.js'
import { positionLimit } from '../../src/models/decoder.js'
import { type Tokenizer, tokenizerKind } from '../../src/tokenizer/tokenizer.js'
import { type Codec, createCodec } from './answer.js'
import { type Cut, cutPart, type Part } from './cut.js'
import { type EncodeOptions, type EncodeSettings, encodeSettings } from './encode-options.js'
import {
  type EncodedKind,
  type EncodeNeeds,
  type Encoder,
  encodedKinds,
  encoderFor,
  kindOf,
  scoreColumn,
} from './encoders.js'
import type { EncodedExample, EncodedSequence } from './example.js'
import { createTally, type EncodeSummary, excluding, type FindingName } from './findings.js'
import { checkPlaced, type PlacedRow, type RowKinds } from './rows.js'
import { mismatches } from './unpaired.js'

/** Encoded rows and what happened to them. */
export interface EncodedData {
  readonly examples: readonly EncodedExample[]
  /** Where each example comes from. */
  readonly places: readonly string[]
  readonly summary: EncodeSummary
}

/** A row on its way, and what was found on it. */
export interface Draft {
  readonly where: string
  readonly parts: readonly Part[]
  readonly example: EncodedExample
  readonly found: readonly FindingName[]
}

/** Names the row in what its encoding throws. */
export function atRow<R>(where: string, work: () => R): R {
  try {
    return work()
  } catch (error) {
    if (!WhetstoneError.isInstance(error) || error.code === 'E_CONFIG') throw error
    throw new WhetstoneError(error.code, where, error.message, { cause: error, details: { ...error.details } })
  }
}

const trains = ({ trained }: Pick<EncodedSequence, 'trained'>): boolean => trained.includes(1)

/** Does the last trained token that is more than white space end something? */
function endsWithSpecial({ tokenizer, isSpecial }: Codec, { ids, trained }: Part): boolean {
  for (let i = ids.length - 1; i >= 0; i--) {
    if (trained[i] !== 1) continue
    if (isSpecial(ids[i])) return true
    if (tokenizer.decode([ids[i]]).trim() !== '') return false
  }
  return false
}

const lacksEnd = (codec: Codec, part: Part): boolean =>
  !part.readsOwn && part.role !== 'prompt' && trains(part) && !endsWithSpecial(codec, part)

function findingsOf(codec: Codec, parts: readonly Part[], cuts: readonly Cut[], uncut: boolean): FindingName[] {
  const { bosId } = codec.tokenizer
  const untrained = parts.some((part) => !trains(part))
  const overlong = !untrained && cuts.some(({ sequence, over }) => (uncut && over > 0) || !trains(sequence))
  const found: Readonly<Partial<Record<FindingName, boolean>>> = {
    untrained,
    overlong,
    truncated: !untrained && !overlong && cuts.some(({ isCut }) => isCut),
    withoutEnd: parts.some((part) => lacksEnd(codec, part)),
    straddling: parts.some(({ straddles }) => straddles),
    spelled: parts.some(({ spells }) => spells),
    doubleBegin: bosId !== undefined && parts.some(({ ids }) => ids[0] === bosId && ids[1] === bosId),
  }
  return (Object.keys(found) as FindingName[]).filter((name) => found[name])
}

function draftOf(codec: Codec, { uncut }: Encoder, where: string, parts: readonly Part[]): Draft {
  const cuts = parts.map((part) => cutPart(part, codec.settings))
  return {
    where,
    parts,
    example: cuts.map(({ sequence }) => sequence),
    found: findingsOf(codec, parts, cuts, uncut),
  }
}

/** Is the row left out? */
export const isExcluded = ({ found }: Draft): boolean => found.some((name) => excluding.includes(name))

/** The arguments that encoding and previews share; gives the rows. */
export function checkEncoding<K extends EncodedKind>(
  name: string,
  tokenizer: Tokenizer,
  rows: readonly PlacedRow<unknown>[],
  kind: K,
): PlacedRow<RowKinds[K]>[] {
  checkArgument(`${name}.tokenizer`, tokenizer, tokenizerKind)
  return checkPlaced(`${name}.rows`, rows, kind)
}

type Rows = readonly PlacedRow<RowKinds[EncodedKind]>[]

/** Every row as a draft, those that will be left out among them; `spare`: see {@link mismatches}. */
export const draftRows = (codec: Codec, encoder: Encoder, rows: Rows, spare: Rows = []): readonly Draft[] =>
  atOnce(draftsOf(codec, encoder, rows, spare))

function* draftsOf(codec: Codec, encoder: Encoder, rows: Rows, spare: Rows): Generator<void, readonly Draft[]> {
  if (encoder.revises && codec.settings.maxPromptLength !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'maxPromptLength',
      'cannot cut prompts that show an answer (SRPO): leave it out',
    )
  const partsOf = ({ row, where }: Rows[number]) => atRow(where, () => encoder.parts(codec, row))
  const drafts: Draft[] = []
  for (const row of rows) {
    drafts.push(draftOf(codec, encoder, row.where, partsOf(row)))
    yield
  }
  if (!encoder.mismatch) return drafts
  const live = drafts.filter((draft) => !isExcluded(draft))
  const answers = live.map(({ parts }) => parts[0])
  const others = new Map(mismatches(answers, answersOf(spare, partsOf)).map((part, i) => [live[i], part]))
  return drafts.map((draft) => {
    const other = others.get(draft)
    return other === undefined ? draft : draftOf(codec, encoder, draft.where, [...draft.parts, other])
  })
}

/** The answers of rows that have one, encoded as they are asked for. */
function* answersOf(rows: Rows, partsOf: (row: Rows[number]) => readonly Part[]): Generator<Part> {
  for (const row of rows) {
    const [answer] = partsOf(row)
    if (trains(answer)) yield answer
  }
}

function refuseRow({ where, parts, found }: Draft, { maxLength }: EncodeSettings): never {
  const longest = Math.max(...parts.map(({ ids }) => ids.length))
  const untrained = parts.find((part) => !trains(part))
  const message = found.includes('overlong')
    ? `expected something to train within maxLength = ${maxLength} (the row has ${longest} tokens): raise maxLength, shorten the row, or set untrainedRows 'skip'`
    : `the ${untrained?.role} trains no token: expected a completion, or an assistant turn (or set untrainedRows 'skip')`
  throw new WhetstoneError('E_FORMAT', where, message)
}

/** Every example has the scores that the objective looks at. */
function checkScores({ scores = [], sequenceScores = [] }: EncodeNeeds, name: string, { where, example }: Draft): void {
  const lacks = (score: string) => (sequence: EncodedSequence) => sequence.scores?.[score] === undefined
  const missing = scores.find((score) => example.every(lacks(score)))
  if (missing !== undefined)
    throw new WhetstoneError('E_FORMAT', where, `expected the number '${missing}', which ${name} looks at, got nothing`)
  for (const score of sequenceScores) {
    const without = example.filter(lacks(score))
    if (without.length === 0) continue
    const columns = (of: readonly EncodedSequence[]) => of.map(({ role }) => scoreColumn(score, role)).join(', ')
    const text = `expected the columns ${columns(example)}, numbers that ${name} looks at, got none in ${columns(without)}`
    throw new WhetstoneError('E_FORMAT', where, text)
  }
}

/** Counts over rows and what became of them. */
export function summaryOf(drafts: readonly Draft[]): EncodeSummary {
  const tally = createTally()
  for (const { where, found } of drafts) tally.add(where, found)
  const live = drafts.filter((draft) => !isExcluded(draft))
  const sequences = live.flatMap(({ example }) => example)
  return {
    rows: drafts.length,
    examples: live.length,
    sequences: sequences.length,
    tokens: sequences.reduce((sum, { ids }) => sum + ids.length, 0),
    trainedTokens: sequences.reduce((sum, { trained }) => sum + trained.reduce((all, mark) => all + mark, 0), 0),
    findings: tally.findings(),
  }
}

/**
 * Encodes rows as an objective's needs say.
 *
 * @param needs `{ rows: kind }` gives the sequences that the kind has by default
 * @param name of who needs them, for errors
 * @param spare rows of the same kind that KTO may take the other answer from, where `rows` have one prompt only
 * @throws WhetstoneError naming the row: E_FORMAT when it trains no token or is no Unicode, E_TEMPLATE; E_CONFIG when
 *   no row is left, or no row can give what is needed
 */
export function encodeExamples<K extends EncodedKind>(
  tokenizer: Tokenizer,
  rows: readonly PlacedRow<RowKinds[K]>[],
  needs: EncodeNeeds & { readonly rows: K },
  options: EncodeOptions = {},
  name = 'data',
  spare: readonly PlacedRow<RowKinds[K]>[] = [],
): EncodedData {
  return atOnce(encoding(tokenizer, rows, needs, options, name, spare))
}

function* encoding<K extends EncodedKind>(
  tokenizer: Tokenizer,
  rows: readonly PlacedRow<RowKinds[K]>[],
  needs: EncodeNeeds & { readonly rows: K },
  options: EncodeOptions,
  name: string,
  spare: readonly PlacedRow<RowKinds[K]>[],
): Generator<void, EncodedData> {
  checkMembers('encodeExamples.needs', needs, { rows: word(...encodedKinds) })
  checkArgument('encodeExamples.name', name, kinds.text)
  const encoder = encoderFor(needs, name)
  const checked = checkEncoding('encodeExamples', tokenizer, rows, needs.rows)
  const checkedSpare = checkPlaced('encodeExamples.spare', spare, needs.rows)
  const settings = encodeSettings(options)
  const drafts = yield* draftsOf(createCodec(tokenizer, settings), encoder, checked, checkedSpare)
  const excluded = drafts.find(isExcluded)
  if (excluded !== undefined && settings.untrainedRows === 'refuse') refuseRow(excluded, settings)
  const live = drafts.filter((draft) => !isExcluded(draft))
  for (const draft of live) checkScores(needs, name, draft)
  if (live.length === 0 && rows.length > 0)
    throw new WhetstoneError('E_CONFIG', 'data', `none of the ${rows.length} rows trains a token within maxLength`)
  return {
    examples: live.map(({ example }) => example),
    places: live.map(({ where }) => where),
    summary: summaryOf(drafts),
  }
}

/**
 * Checks that a model has a position for every token.
 *
 * @throws WhetstoneError E_LIMIT naming the row
 */
export function checkLengths({ examples, places }: EncodedData, config: DecoderConfig): void {
  const most = positionLimit(config)
  if (most === undefined) return
  examples.forEach((example, i) => {
    const longest = Math.max(...example.map(({ ids }) => ids.length))
    if (longest <= most) return
    const text = `expected sequences of at most ${most} tokens, got ${longest}: ${config.family} has no positions beyond; set maxLength to ${most} or shorten the row`
    throw new WhetstoneError('E_LIMIT', places[i], text)
  })
}

/**
 * Checks that a model has an embedding for every token: a tokenizer may have more tokens than it.
 *
 * @param where the row, for errors
 * @throws WhetstoneError E_MISMATCH
 */
export function checkIds(where: string, ids: readonly number[], vocabSize: number, tokenizer: Tokenizer): void {
  const foreign = ids.find((id) => id >= vocabSize)
  if (foreign === undefined) return
  const text = `expected ids below the ${vocabSize} of the model's vocabulary, got ${foreign} for ${JSON.stringify(tokenizer.tokenOf(foreign))}: the tokenizer has more tokens than the model; use the tokenizer.json that belongs to it`
  throw new WhetstoneError('E_MISMATCH', where, text)
}

/** {@link checkIds} of all rows. */
export function checkVocabulary(
  { examples, places }: EncodedData,
  { vocabSize }: DecoderConfig,
  tokenizer: Tokenizer,
): void {
  examples.forEach((example, i) => {
    for (const { ids } of example) checkIds(places[i], ids, vocabSize, tokenizer)
  })
}

/** Encodes rows for an objective; see {@link encodeExamples}. Its rows are read as `rowKindOf(objective)`. */
export function encodeFor(
  objective: Pick<Objective, 'name' | 'needs'>,
  tokenizer: Tokenizer,
  rows: Rows,
  options: EncodeOptions = {},
  spare: Rows = [],
): EncodedData {
  return atOnce(encodingFor(objective, tokenizer, rows, options, spare))
}

/** {@link encodeFor} as work with turns: a million rows take minutes. */
export function encodingFor(
  objective: Pick<Objective, 'name' | 'needs'>,
  tokenizer: Tokenizer,
  rows: Rows,
  options: EncodeOptions,
  spare: Rows,
): Generator<void, EncodedData> {
  const kind = rowKindOf(objective)
  return encoding(tokenizer, rows, { ...objective.needs, rows: kind }, options, objective.name, spare)
}

/**
 * The kind of rows that an objective trains on.
 *
 * @throws WhetstoneError E_CONFIG for objectives over samples of the policy
 */
export function rowKindOf(objective: Pick<Objective, 'name' | 'needs'>): EncodedKind {
  checkArgument('objective', objective, having('an objective, such as sft()', 'name', 'needs'))
  const { name, needs } = objective
  const kind = kindOf(needs)
  if (kind !== undefined) return kind
  throw new WhetstoneError(
    'E_CONFIG',
    name,
    'is trained on samples of the policy, not on rows: use it in a loop that samples',
  )
}
