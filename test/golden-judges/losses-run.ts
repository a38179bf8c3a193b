// How a case of golden/losses runs through an objective: sequences from ragged rows, settings from parameters (TRL's names
// in camelCase), gradients back as ragged rows.

import type { Evaluation, Objective, ObjectiveBatch, Role, SequenceTerms, StepCounts } from '../../ts/loss/define.js'
import { countStep } from '../../ts/loss/view.js'

/** A number, or lists of them. */
export type Nested = number | readonly Nested[]

/** One row per sequence, one number per token. */
export type Rows = readonly (readonly number[])[]

/** Parameters of a case. */
export type Params = Readonly<Record<string, unknown>>

/** A set of inputs; what a runner reads from it is checked nowhere but by the comparison. */
export interface Inputs {
  readonly [name: string]: unknown
}

/** What a runner makes of a case. */
export interface Outcome {
  readonly loss?: number
  readonly perExample?: ArrayLike<number>
  readonly grad?: Readonly<Record<string, Nested>>
  readonly value?: Nested
}

/** Runs a case. */
export type Runner = (inputs: Inputs, params: Params) => Outcome

export const rowsOf = (inputs: Inputs, name: string): Rows => inputs[name] as Rows
export const numbersOf = (inputs: Inputs, name: string): readonly number[] => (inputs[name] as number[]).map(Number)

const camel = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())

/** Parameters as settings. `renamed`: parameter -> setting, or '' for one that is no setting. */
export function settingsOf(params: Params, renamed: Readonly<Record<string, string>> = {}): object {
  const entries = Object.entries(params).flatMap(([name, value]) => {
    const own = renamed[name] ?? camel(name)
    return own === '' ? [] : [[own, typeof value === 'string' ? camel(value) : value]]
  })
  return Object.fromEntries(entries)
}

/** A maker of objectives whose settings the compiler does not know; the settings check themselves. */
export type Maker = (config?: never) => Objective
export const make = (maker: Maker, config: object): Objective => (maker as (config?: object) => Objective)(config)

/** Terms of a sequence without the arrays' types. */
export type RawSequence = Pick<SequenceTerms, 'role' | 'example' | 'scores'> & {
  readonly [name: string]: unknown
}

/** A sequence from plain lists. */
export function sequenceOf(raw: RawSequence): SequenceTerms {
  const arrays = Object.entries(raw).map(([name, value]) => [
    name,
    Array.isArray(value) ? Float64Array.from(value) : value,
  ])
  return Object.fromEntries(arrays) as unknown as SequenceTerms
}

/** What an objective says of a whole step. */
export interface Run extends Evaluation {
  /** Gradients by the log-probs of the sequences with a role. */
  readonly of: (role: Role, term?: 'logps' | 'values') => number[][]
}

/** Evaluates one step. */
export function runStep(
  objective: Objective,
  raw: readonly RawSequence[],
  more: { readonly step?: Partial<StepCounts>; readonly history?: ObjectiveBatch['history'] } = {},
): Run {
  const sequences = raw.map(sequenceOf)
  const counted = countStep(sequences.map((terms) => ({ ...terms, tokens: terms.logps.length, weight: undefined })))
  const weight = sequences.reduce(
    (all, { logps, weights }) => all + (weights ?? logps.map(() => 1)).reduce((a, b) => a + b, 0),
    0,
  )
  const evaluation = objective.evaluate({
    sequences,
    step: { ...counted, weight, ...more.step },
    history: more.history,
  })
  const of: Run['of'] = (role, term = 'logps') =>
    evaluation.gradients.flatMap((own, i) => (sequences[i].role === role ? [Array.from(own[term] ?? [])] : []))
  return { ...evaluation, of }
}

/** Zeros in the shape of rows: the gradient of what an objective does not look at. */
export const zerosLike = (rows: Rows): number[][] => rows.map((row) => row.map(() => 0))
