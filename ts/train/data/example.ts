// What rows become before they are laid into micro-batches: examples of one or more sequences with trained tokens marked.
// Types alone. How rows become examples is encode*.ts; how examples become micro-batches is micro-batch.ts.

import type { Role, TokenInput } from '../../loss/define.js'

/** One sequence of an example. */
export interface EncodedSequence {
  readonly ids: readonly number[]
  /** 1 for each token that is a target; the first token never is. With a score head: 1 where its numbers are read. */
  readonly trained: Uint8Array
  /** What it is to its example; default `completion`. */
  readonly role?: Role
  /** Named numbers for the objective: label, margin, advantage, ... */
  readonly scores?: Readonly<Record<string, number>>
  /** Weight of each token of `ids`; default 1. Only those of trained tokens count. */
  readonly weights?: ArrayLike<number>
  /** Further numbers for each token of `ids`, as the objective needs them. */
  readonly inputs?: Readonly<Partial<Record<TokenInput, ArrayLike<number>>>>
}

/** The sequences of one example: one answer, both sides of a pair, and so on. */
export type EncodedExample = readonly EncodedSequence[]
