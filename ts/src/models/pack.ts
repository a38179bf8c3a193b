// Sequences laid end to end without padding, with what the kernels need to keep them apart: a position and a
// visibility triple per token (ops.def, attention). The one place where that layout is made. Pure typed arrays.

import { WhetstoneError } from '../base/errors.js'

/** Token sequences as one packed run of N tokens; sequence s is `starts[s] .. starts[s + 1]`. */
export interface PackedTokens {
  /** Token ids, [N]. */
  readonly ids: Int32Array
  /** Position of each token in its own sequence, a shared prefix included, [N]. */
  readonly positions: Int32Array
  /** Per token: first token of its segment, first and one-past-last token of its shared prefix, [N, 3]. */
  readonly visibility: Int32Array
  /** Boundaries of the sequences, [S + 1]. */
  readonly starts: Int32Array
}

/**
 * Packs sequences one after another; none sees another.
 *
 * @param sequences token ids, each at least one token long
 * @throws WhetstoneError E_SHAPE for an empty sequence
 */
export function packSequences(sequences: readonly ArrayLike<number>[]): PackedTokens {
  const starts = new Int32Array(sequences.length + 1)
  sequences.forEach((sequence, s) => {
    if (sequence.length === 0) throw new WhetstoneError('E_SHAPE', 'packSequences', `sequence ${s} has no tokens`)
    starts[s + 1] = starts[s] + sequence.length
  })
  const total = starts[sequences.length]
  const packed = {
    ids: new Int32Array(total),
    positions: new Int32Array(total),
    visibility: new Int32Array(total * 3),
    starts,
  }
  sequences.forEach((sequence, s) => {
    packed.ids.set(sequence, starts[s])
    for (let i = 0; i < sequence.length; i++) {
      packed.positions[starts[s] + i] = i
      packed.visibility.fill(starts[s], (starts[s] + i) * 3, (starts[s] + i) * 3 + 3)
    }
  })
  return packed
}
