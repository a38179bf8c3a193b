// A batch as formulas see it: tokens of all sequences end to end, sequences by their role, examples in order of first
// appearance. What an objective needs and does not get is refused here, once for all of them. No formula lives here.

import { checkArgument, checkMembers, having, kinds, listOf, optional } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'
import { div, gather, leaf, segmentSum, sum, type Vector } from './autodiff.js'
import type { Needs, ObjectiveBatch, Observed, Role, SequenceTerms, StepCounts, Term, TokenInput } from './define.js'

/** The vectors of a batch: each term, tokens end to end, empty unless the objective uses it; and where they belong. */
export interface View extends Readonly<Record<Term, Vector>> {
  readonly batch: ObjectiveBatch
  /** Name of the objective, for errors. */
  readonly name: string
  /** Sequence of each token. */
  readonly sequenceOf: Int32Array
  /** Tokens of each sequence. */
  readonly lengths: Float64Array
  /** Sequences of each example by role. */
  readonly examples: readonly ReadonlyMap<Role, number>[]
}

const allTerms = ['logps', 'kl', 'entropy', 'meanLogps', 'values'] as const satisfies readonly Term[]

/** Every kind of numbers per token that a sequence may bring, `values` apart. */
export const tokenArrays = [
  'logps',
  'kl',
  'entropy',
  'meanLogps',
  'reference',
  'old',
  'sampler',
  'logSquares',
  'topLogps',
  'meanLogits',
  'advantages',
  'klWeights',
  'labels',
  'weights',
] as const satisfies readonly (Term | TokenInput | Observed | 'weights')[]

/** Terms that an objective differentiates by. */
export const usedTerms = ({ kl, terms = [], values }: Needs): readonly Term[] => [
  'logps',
  ...(kl === undefined ? [] : (['kl'] as const)),
  ...terms,
  ...(values === undefined ? [] : (['values'] as const)),
]

/** Numbers of a term for each trained token. */
export const termWidth = ({ values = 1 }: Needs, term: Term): number => (term === 'values' ? values : 1)

/** What the counts of a step are made of: one entry per sequence. */
export interface CountedSequence {
  readonly role: Role
  readonly example: number
  /** Trained tokens. */
  readonly tokens: number
  /** Sum of their weights; default one each. */
  readonly weight?: number
}

const countedKinds = {
  role: kinds.text,
  example: kinds.number,
  tokens: kinds.number,
  weight: optional(kinds.number),
}

/** Counts of a whole step from the sequences of all its micro-batches; example numbers must be unique in the step. */
export function countStep(sequences: Iterable<CountedSequence>): StepCounts {
  checkArgument('countStep.sequences', sequences, kinds.iterable)
  const tokensOf: Partial<Record<Role, number>> = {}
  const examples = new Set<number>()
  let tokens = 0
  let weight = 0
  for (const sequence of sequences) {
    checkMembers('countStep: sequence', sequence, countedKinds)
    examples.add(sequence.example)
    tokens += sequence.tokens
    weight += sequence.weight ?? sequence.tokens
    tokensOf[sequence.role] = (tokensOf[sequence.role] ?? 0) + sequence.tokens
  }
  return { tokens, examples: examples.size, tokensOf, weight }
}

const weightOf = ({ weights, logps }: SequenceTerms): number => weights?.reduce((all, w) => all + w, 0) ?? logps.length

const countBatch = ({ sequences }: ObjectiveBatch): StepCounts =>
  countStep(sequences.map((s) => ({ ...s, tokens: s.logps.length, weight: weightOf(s) })))

const sequenceKinds = Object.fromEntries([
  ...[...tokenArrays, 'values'].map((key) => [key, optional(kinds.float64)]),
  ['logps', kinds.float64],
  ['role', kinds.text],
  ['example', kinds.number],
  ['scores', optional(kinds.object)],
])

const batchKinds = {
  sequences: listOf(kinds.object),
  step: having('counts of the step', 'tokens', 'examples'),
  history: optional(kinds.object),
}

/**
 * Checks a batch against the needs of an objective.
 *
 * @throws WhetstoneError E_SHAPE naming the example that lacks something, E_CONFIG when the step must not be cut
 */
export function viewOf(name: string, needs: Needs, batch: ObjectiveBatch): View {
  checkMembers(name, batch, batchKinds)
  const { sequences, step } = batch
  for (const terms of sequences) checkMembers(`${name}: sequence`, terms, sequenceKinds)
  checkCounts(name, needs, batch)
  for (const terms of sequences) checkTokens(name, needs, terms)
  const used = usedTerms(needs)
  const terms = allTerms.map((term) => [term, leaf(used.includes(term) ? endToEnd(sequences, (s) => s[term]) : [])])
  const view: View = {
    ...(Object.fromEntries(terms) as Record<Term, Vector>),
    batch,
    name,
    sequenceOf: Int32Array.from(sequences.flatMap((s, i) => new Array<number>(s.logps.length).fill(i))),
    lengths: Float64Array.from(sequences, (s) => s.logps.length),
    examples: examplesOf(name, needs, sequences),
  }
  for (const score of needs.scores ?? []) scoresOf(view, score)
  if (!(step.tokens > 0 && step.examples > 0))
    throw new WhetstoneError('E_SHAPE', name, `expected a step with trained tokens, got ${JSON.stringify(step)}`)
  return view
}

function endToEnd(
  sequences: readonly SequenceTerms[],
  of: (terms: SequenceTerms) => Float64Array | undefined,
): Float64Array {
  const parts = sequences.map((terms) => of(terms) ?? new Float64Array(terms.logps.length))
  const all = new Float64Array(parts.reduce((size, part) => size + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

/** True when the batch holds every token and example of its step. */
export function isWholeStep({ batch }: Pick<View, 'batch'>): boolean {
  const own = countBatch(batch)
  return own.tokens === batch.step.tokens && own.examples === batch.step.examples
}

function checkCounts(name: string, needs: Needs, batch: ObjectiveBatch): void {
  if (!needs.wholeStep || isWholeStep({ batch })) return
  const own = countBatch(batch)
  throw new WhetstoneError(
    'E_CONFIG',
    name,
    `its loss looks at all examples of a step together, and this batch has ${own.examples} of ${batch.step.examples}: set gradientAccumulationSteps to 1, or evaluate the step at once`,
  )
}

/** Every array of numbers per token is there when it is needed, and as long as the log-probs. */
function checkTokens(name: string, needs: Needs, terms: SequenceTerms): void {
  const reference = needs.reference && needs.kl === undefined ? ['reference'] : []
  const needed: readonly string[] = [...usedTerms(needs), ...reference, ...(needs.tokens ?? [])]
  for (const key of [...tokenArrays, 'values'] as const) {
    const width = key === 'values' ? termWidth(needs, key) : 1
    const length = terms[key]?.length
    if (length === width * terms.logps.length || (length === undefined && !needed.includes(key))) continue
    const each = width === 1 ? 'one number' : `${width} numbers`
    const expected = `expected '${key}' of the ${terms.role} sequence to have ${each} for each of its ${terms.logps.length} trained tokens`
    refuseBatch({ name }, terms.example, `${expected}, got ${length ?? 'nothing'}`)
  }
}

/** Sequences by role for each example, in order of first appearance. */
function examplesOf(name: string, needs: Needs, sequences: readonly SequenceTerms[]): Map<Role, number>[] {
  const byNumber = new Map<number, Map<Role, number>>()
  sequences.forEach((terms, i) => {
    const own = byNumber.get(terms.example) ?? new Map<Role, number>()
    byNumber.set(terms.example, own)
    checkRole(name, needs, terms, own)
    own.set(terms.role, i)
  })
  for (const [example, own] of byNumber) {
    const missing = needs.roles?.find((role) => !own.has(role))
    if (missing === undefined) continue
    const got = [...own.keys()].join(', ')
    refuseBatch({ name }, example, `expected a ${missing} sequence, got ${got} alone`)
  }
  return [...byNumber.values()]
}

function checkRole(name: string, needs: Needs, terms: SequenceTerms, own: ReadonlyMap<Role, number>): void {
  const { roles, optionalRoles = [] } = needs
  const { role, example, logps } = terms
  if (roles === undefined) return
  const known = [...roles, ...optionalRoles]
  const fault = !known.includes(role)
    ? `expected sequences with a role of ${known.join(', ')}, got ${role}`
    : own.has(role)
      ? `expected one ${role} sequence, got another one`
      : roles.includes(role) && logps.length === 0
        ? `expected at least one trained token in the ${role} sequence, got none`
        : undefined
  if (fault !== undefined) refuseBatch({ name }, example, fault)
}

/** Refuses a batch for one of its examples. */
export function refuseBatch({ name }: Pick<View, 'name'>, example: number, message: string): never {
  throw new WhetstoneError('E_SHAPE', `${name}: example ${example}`, message)
}

/** Numbers per token that are no variables: reference log-probs, old ones, ...; `initial` where a sequence has none. */
export const tokensOf = (
  { batch }: View,
  input: TokenInput,
  initial?: (terms: SequenceTerms) => Float64Array,
): Vector => leaf(endToEnd(batch.sequences, (terms) => terms[input] ?? initial?.(terms)))

/** Weight of each token. */
export const weightsOf = ({ batch }: View): Vector =>
  leaf(endToEnd(batch.sequences, ({ weights, logps }) => weights ?? new Float64Array(logps.length).fill(1)))

/** Sums over the tokens of each sequence. */
export const sequenceSums = ({ sequenceOf, lengths }: View, x: Vector): Vector =>
  segmentSum(x, sequenceOf, lengths.length)

/** Means over the tokens of each sequence; NaN for an empty one. */
export const sequenceMeans = (view: View, x: Vector): Vector => div(sequenceSums(view, x), leaf(view.lengths))

/** Of one value per sequence, those of a role, one per example. */
export const ofRole = ({ examples }: View, role: Role, x: Vector): Vector =>
  gather(
    x,
    examples.map((own) => own.get(role) ?? Number.NaN),
  )

/** A named number of each example, from whichever of its sequences carries it. */
export function scoresOf(view: View, name: string, initial?: number): Float64Array {
  const { batch, examples } = view
  return Float64Array.from(examples, (own) => {
    const sequences = [...own.values()].map((i) => batch.sequences[i])
    const value = sequences.find(({ scores }) => scores?.[name] !== undefined)?.scores?.[name] ?? initial
    if (value !== undefined) return value
    return refuseBatch(view, sequences[0].example, `expected the score '${name}'`)
  })
}

/** A named number of each sequence. */
export const sequenceScoresOf = (view: View, name: string): Float64Array =>
  Float64Array.from(view.batch.sequences, ({ scores, example, role }) => {
    if (scores?.[name] !== undefined) return scores[name]
    return refuseBatch(view, example, `expected the score '${name}' of ${role}`)
  })

/** Trained tokens with one of the roles in the whole step. */
export function stepTokensOf(view: View, ...roles: readonly Role[]): number {
  const counts = countedBy(view, 'tokensOf')
  return roles.reduce((all, role) => all + (counts[role] ?? 0), 0)
}

/** A count that the trainer may leave out where the batch is the whole step. */
export function countedBy<K extends 'tokensOf' | 'weight'>(view: View, count: K): NonNullable<StepCounts[K]> {
  const given = view.batch.step[count] ?? (isWholeStep(view) ? countBatch(view.batch)[count] : undefined)
  if (given !== undefined) return given
  throw new WhetstoneError('E_SHAPE', view.name, `expected step.${count}, which counts over all micro-batches`)
}

/** Mean over the trained tokens of the step: this batch's share. */
export const overTokens = ({ batch }: View, x: Vector): Vector => div(sum(x), batch.step.tokens)

/** Mean over the examples of the step: this batch's share. */
export const overExamples = ({ batch }: View, x: Vector): Vector => div(sum(x), batch.step.examples)
