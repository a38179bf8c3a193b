// Examples -> one packed micro-batch. The only place where the shift between a token and the hidden state that predicts
// it is made, and where sequences with a common beginning (chosen and rejected behind one prompt) share it.

import type { SequenceTerms, TokenInput } from '../../loss/define.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { commonPrefix, type PackedTokens, packSequences, placeOf } from '../../src/models/pack.js'
import type { EncodedExample, EncodedSequence } from './example.js'

/** A micro-batch: packed sequences and which of their tokens are trained. */
export interface MicroBatch {
  readonly packed: PackedTokens
  /** Packed index of the hidden state that predicts each target, [T]. */
  readonly predictors: Int32Array
  /** Trained token ids, [T]. */
  readonly targets: Int32Array
  /** Which sequence of the batch each target belongs to, ascending, [T]; -1 for fillers (align.ts). */
  readonly rowOf: Int32Array
  /** Weight of each target, [T]. */
  readonly weights: Float32Array
  /** Further numbers of each target, [T] each; those that any sequence has, 0 where one lacks them. */
  readonly inputs: Readonly<Partial<Record<TokenInput, Float64Array>>>
  /** What each sequence is for the objective; examples count from 0 in each micro-batch. */
  readonly sequences: readonly (Pick<SequenceTerms, 'role' | 'example' | 'scores'> & {
    readonly inputs: readonly TokenInput[]
  })[]
}

/** How examples are laid out. */
export interface MicroBatchOptions {
  /**
   * Which sequences share a common beginning: those of one example (default: bits do not depend on how examples are cut
   * into micro-batches), neighbours in the whole batch as well (n samples of a prompt), or none.
   */
  readonly share?: 'example' | 'batch' | 'none'
  /** What stands at a trained token: the hidden state that predicts it (default), or its own (score heads). */
  readonly reads?: 'next' | 'own'
}

/** Below this many tokens, a shared beginning saves less than it costs. */
const leastShared = 8

/** For each sequence the earlier whole one that it shares most with, or -1. */
function rootsOf(examples: readonly EncodedExample[], share: MicroBatchOptions['share']): number[] {
  const flat = examples.flat()
  const roots = flat.map(() => -1)
  let latest: number[] = []
  let s = 0
  for (const example of examples) {
    let candidates = share === 'batch' ? latest : []
    for (const { ids } of example) {
      const shares = share === 'none' ? [] : candidates.map((root) => commonPrefix(flat[root].ids, ids))
      const most = Math.max(...shares, 0)
      if (most >= leastShared) roots[s] = candidates[shares.indexOf(most)]
      else {
        candidates = [...candidates, s]
        latest = [s]
      }
      s++
    }
  }
  return roots
}

function checkSequence({ ids, trained, weights, inputs }: EncodedSequence, s: number): void {
  for (const [name, values] of Object.entries({ trained, weights, ...inputs }))
    if (values !== undefined && values.length !== ids.length)
      throw new WhetstoneError(
        'E_SHAPE',
        `sequence ${s}`,
        `expected one number per token in '${name}', got ${values.length} for ${ids.length}`,
      )
}

/** Trained tokens of all sequences in order: sequence and token. */
function trainedTokens(sequences: readonly EncodedSequence[], reads: MicroBatchOptions['reads']) {
  const first = reads === 'own' ? 0 : 1
  const found: { s: number; t: number }[] = []
  sequences.forEach(({ trained }, s) => {
    for (let t = first; t < trained.length; t++) if (trained[t] === 1) found.push({ s, t })
  })
  return found
}

/**
 * Packs examples; none sees another.
 *
 * @throws WhetstoneError E_SHAPE when the numbers of a sequence do not fit its tokens
 */
export function microBatchOf(examples: readonly EncodedExample[], options: MicroBatchOptions = {}): MicroBatch {
  const sequences = examples.flat()
  sequences.forEach(checkSequence)
  const packed = packSequences(
    sequences.map(({ ids }) => ids),
    rootsOf(examples, options.share ?? 'example'),
  )
  const found = trainedTokens(sequences, options.reads)
  const back = options.reads === 'own' ? 0 : 1
  const names = [...new Set(sequences.flatMap(({ inputs }) => Object.keys(inputs ?? {})))] as TokenInput[]
  const input = (name: TokenInput) => Float64Array.from(found, ({ s, t }) => sequences[s].inputs?.[name]?.[t] ?? 0)
  return {
    packed,
    predictors: Int32Array.from(found, ({ s, t }) => placeOf(packed, s, t - back)),
    targets: Int32Array.from(found, ({ s, t }) => sequences[s].ids[t]),
    rowOf: Int32Array.from(found, ({ s }) => s),
    weights: Float32Array.from(found, ({ s, t }) => sequences[s].weights?.[t] ?? 1),
    inputs: Object.fromEntries(names.map((name) => [name, input(name)])),
    sequences: examples.flatMap((example, number) =>
      example.map(({ role = 'completion', scores, inputs = {} }) => ({
        role,
        example: number,
        scores,
        inputs: Object.keys(inputs) as TokenInput[],
      })),
    ),
  }
}

/** Examples of one sequence each: the answer to a prompt, a text. */
export const microBatchOfRows = (rows: readonly EncodedSequence[], options?: MicroBatchOptions): MicroBatch =>
  microBatchOf(
    rows.map((row) => [row]),
    options,
  )
