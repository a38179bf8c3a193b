// Whole sequences -> sequences of at most maxLength tokens, as TRL 1.x cuts them: each sequence of an example by itself,
// keeping its start or its end. `maxPromptLength` (TRL before 0.29) first drops the beginning of the prompt, its begin
// token too. What is left is always one stretch. Whether a row may be cut, and what is done with it, is encode.ts.

import type { Role } from '../../loss/define.js'
import type { WholeSequence } from './answer.js'
import type { EncodeSettings } from './encode-options.js'
import type { EncodedSequence } from './example.js'

/** A sequence of an example before any cut. */
export interface Part extends WholeSequence {
  readonly role: Role
  readonly scores?: Readonly<Record<string, number>>
  readonly weights?: Float64Array
  readonly inputs?: EncodedSequence['inputs']
  /** Its numbers are read at the trained tokens themselves (score heads), so that the first token may be one. */
  readonly readsOwn?: boolean
  /** Tokens behind the last trained one are of no use. */
  readonly endsWithTrained?: boolean
}

/** What is left of a part, and whether anything was cut off. */
export interface Cut {
  readonly sequence: EncodedSequence
  readonly isCut: boolean
  /** Tokens beyond maxLength. */
  readonly over: number
}

/** Tokens [from, to) that stay, and how many of the rest lie beyond maxLength. */
function stretchOf({ ids, promptLength }: Part, settings: EncodeSettings): [from: number, to: number, over: number] {
  const { maxLength, truncationMode, maxPromptLength = promptLength } = settings
  const first = Math.max(0, promptLength - maxPromptLength)
  const over = Math.max(0, ids.length - first - maxLength)
  return truncationMode === 'keepStart' ? [first, ids.length - over, over] : [first + over, ids.length, over]
}

/** Cuts a sequence to the settings' lengths. */
export function cutPart(part: Part, settings: EncodeSettings): Cut {
  const { ids, role, scores } = part
  const [from, end, over] = stretchOf(part, settings)
  const to = part.endsWithTrained ? Math.min(end, part.trained.lastIndexOf(1) + 1) : end
  const trained = part.trained.slice(from, Math.max(from, to))
  if (!part.readsOwn && trained.length > 0) trained[0] = 0
  const inputs = Object.entries(part.inputs ?? {}).map(([name, values]) => [name, Array.from(values).slice(from, to)])
  return {
    isCut: from > 0 || end < ids.length,
    over,
    sequence: {
      ids: ids.slice(from, to),
      trained,
      role,
      ...(scores && { scores }),
      ...(part.weights && { weights: part.weights.slice(from, to) }),
      ...(part.inputs && { inputs: Object.fromEntries(inputs) }),
    },
  }
}
