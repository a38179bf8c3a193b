// Sequences laid end to end without padding, with what the kernels need to keep them apart: a position and a
// visibility triple per token (ops.def, attention). A sequence that begins like an earlier one may leave the common
// tokens out and look at that one's instead: key blocks follow logical positions, so its hidden states have the same
// bits. The one place where that layout is made. Pure typed arrays.

import { WhetstoneError } from '../base/errors.js'
import type { Key } from '../base/rng.js'

/** Token sequences as one packed run of N tokens. Token t of sequence s lies at `placeOf(packed, s, t)`. */
export interface PackedTokens {
  /** Token ids, [N]. */
  readonly ids: Int32Array
  /** Position of each token in its own sequence, a shared prefix included, [N]. */
  readonly positions: Int32Array
  /** Per token: first token of its segment, first and one-past-last token of its shared prefix, [N, 3]. */
  readonly visibility: Int32Array
  /** First of each sequence's own tokens, [S]. */
  readonly starts: Int32Array
  /** One past the last of each sequence's own tokens, [S]. */
  readonly ends: Int32Array
  /** Tokens at the start of each sequence that lie in an earlier one, [S]. */
  readonly shared: Int32Array
  /** Packed index of the first of those, [S]. */
  readonly roots: Int32Array
}

/** Packed index of token t of sequence s. */
export const placeOf = ({ starts, shared, roots }: PackedTokens, s: number, t: number): number =>
  t < shared[s] ? roots[s] + t : starts[s] + t - shared[s]

/**
 * Keys of each token's random numbers, [N, 4]: its sequence's key and its position, so that what is packed beside it changes
 * nothing. Fillers have zeros.
 */
export function tokenKeys(
  { ids, positions, starts, ends }: PackedTokens,
  keyOf: (sequence: number) => Key,
): Int32Array {
  const keys = new Int32Array(ids.length * 4)
  for (let s = 0; s < starts.length; s++) {
    const [low, high] = keyOf(s)
    for (let i = starts[s]; i < ends[s]; i++) keys.set([low, high, 0, positions[i]], 4 * i)
  }
  return keys
}

/** Tokens that both sequences begin with, short of the whole of `b`. */
export function commonPrefix(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const most = Math.min(a.length, b.length - 1)
  let common = 0
  while (common < most && a[common] === b[common]) common++
  return common
}

/**
 * Packs sequences one after another; none sees another's own tokens.
 *
 * @param sequences token ids, each at least one token long
 * @param roots for each sequence the earlier one, itself whole, whose first tokens it shares, or a negative number;
 *   default none shares
 * @throws WhetstoneError E_SHAPE for an empty sequence, or a root that is not a whole earlier sequence
 */
export function packSequences(sequences: readonly ArrayLike<number>[], roots?: ArrayLike<number>): PackedTokens {
  const count = sequences.length
  const starts = new Int32Array(count)
  const ends = new Int32Array(count)
  const shared = new Int32Array(count)
  const places = new Int32Array(count)
  sequences.forEach((sequence, s) => {
    if (sequence.length === 0) throw new WhetstoneError('E_SHAPE', 'packSequences', `sequence ${s} has no tokens`)
    starts[s] = s === 0 ? 0 : ends[s - 1]
    const root = roots?.[s] ?? -1
    if (root >= 0) {
      if (!(root < s && shared[root] === 0))
        throw new WhetstoneError('E_SHAPE', 'packSequences', `sequence ${s}: ${root} is no whole sequence before it`)
      shared[s] = commonPrefix(sequences[root], sequence)
      places[s] = starts[root]
    }
    ends[s] = starts[s] + sequence.length - shared[s]
  })
  const total = count === 0 ? 0 : ends[count - 1]
  const packed = {
    ids: new Int32Array(total),
    positions: new Int32Array(total),
    visibility: new Int32Array(total * 3),
    starts,
    ends,
    shared,
    roots: places,
  }
  for (const [s, sequence] of sequences.entries()) layOut(packed, sequence, s)
  return packed
}

function layOut(packed: PackedTokens, sequence: ArrayLike<number>, s: number): void {
  const { starts, ends, shared, roots } = packed
  for (let i = starts[s], t = shared[s]; i < ends[s]; i++, t++) {
    packed.ids[i] = sequence[t]
    packed.positions[i] = t
    packed.visibility[3 * i] = starts[s]
    // Without a prefix both ends are the segment's start.
    packed.visibility[3 * i + 1] = shared[s] > 0 ? roots[s] : starts[s]
    packed.visibility[3 * i + 2] = shared[s] > 0 ? roots[s] + shared[s] : starts[s]
  }
}

/** Packed tokens that were moved, and where each of them lies now, [N]. */
export interface MovedTokens {
  readonly packed: PackedTokens
  readonly places: Int32Array
}

/**
 * The same sequences with each group of them beginning at a multiple of `alignment`. What is left free behind a group is
 * filled with copies of its last token, which see each other alone and are seen by no sequence.
 *
 * @param groups first sequence of each group, ascending, from 0
 */
export function alignGroups(packed: PackedTokens, groups: readonly number[], alignment: number): MovedTokens {
  const { ids, positions, visibility, starts, ends, shared, roots } = packed
  const places = new Int32Array(ids.length)
  const gaps: { readonly from: number; readonly to: number; readonly id: number }[] = []
  let total = 0
  groups.forEach((first, g) => {
    const [begin, end] = [starts[first], g + 1 < groups.length ? starts[groups[g + 1]] : ids.length]
    for (let i = begin; i < end; i++) places[i] = total + i - begin
    const from = total + end - begin
    total = Math.ceil(from / alignment) * alignment
    gaps.push({ from, to: total, id: ids[end - 1] })
  })
  const moved = {
    ids: new Int32Array(total),
    positions: new Int32Array(total),
    visibility: new Int32Array(total * 3),
    starts: starts.map((at) => places[at]),
    ends: ends.map((end) => places[end - 1] + 1),
    shared,
    roots: roots.map((at) => places[at]),
  }
  places.forEach((to, i) => {
    const [own, prefix, end] = visibility.subarray(3 * i, 3 * i + 3)
    moved.ids[to] = ids[i]
    moved.positions[to] = positions[i]
    moved.visibility.set([places[own], places[prefix], places[prefix] + end - prefix], 3 * to)
  })
  for (const { from, to, id } of gaps) {
    moved.ids.fill(id, from, to)
    moved.visibility.fill(from, 3 * from, 3 * to)
  }
  return { packed: moved, places }
}
