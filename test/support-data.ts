// What the suites of rows and examples share: tokenizers, rows with places, encoding by kind and by objective, and what
// a sequence trains.

import type { Test } from 'tap'
import type { Objective } from '../ts/loss/define.js'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import { type EncodedData, encodeExamples, encodeFor, rowKindOf } from '../ts/train/data/encode.js'
import type { EncodeOptions } from '../ts/train/data/encode-options.js'
import type { EncodedKind, EncodeNeeds } from '../ts/train/data/encoders.js'
import type { EncodedSequence } from '../ts/train/data/example.js'
import { checkRow, type PlacedRow, type RowKinds } from '../ts/train/data/rows.js'
import { golden } from './support.js'

export const llama = await loadTokenizer(golden('llama'))
export const qwen = await loadTokenizer(golden('qwen2'))
export const eos = llama.eosId ?? 0
export const bos = llama.bosId ?? 0

export const placed = <K extends keyof RowKinds>(kind: K, values: readonly unknown[]): PlacedRow<RowKinds[K]>[] =>
  values.map((value, i) => ({ row: checkRow(value, `rows:${i + 1}`, kind), where: `rows:${i + 1}` }))

export const encode = (
  rows: EncodedKind,
  values: readonly unknown[],
  options?: EncodeOptions,
  needs?: Partial<EncodeNeeds>,
) => encodeExamples(llama, placed(rows, values), { ...needs, rows }, options)

export const encodeBy = (objective: Objective, values: readonly unknown[], options?: EncodeOptions): EncodedData =>
  encodeFor(objective, llama, placed(rowKindOf(objective), values), options)

export const trainedIds = ({ ids, trained }: EncodedSequence): number[] => ids.filter((_, i) => trained[i] === 1)
export const restIds = ({ ids, trained }: EncodedSequence): number[] => ids.filter((_, i) => trained[i] !== 1)
export const trainedText = (sequence: EncodedSequence): string => llama.decode(trainedIds(sequence))
export const restText = (sequence: EncodedSequence): string => llama.decode(restIds(sequence))

/** Refused with a code, in some words. */
export function refuses(t: Test, work: () => unknown, code: string, ...words: string[]): void {
  try {
    t.fail(`expected ${code}, got ${JSON.stringify(work()).slice(0, 200)}`)
  } catch (error) {
    if (!WhetstoneError.isInstance(error)) throw error
    t.equal(error.code, code, error.message)
    for (const word of words) t.ok(error.message.includes(word), `'${word}' in ${error.message}`)
    t.ok(error.message.length < 500, 'the message is short')
  }
}

export const user = (content: string) => ({ role: 'user', content })
export const bot = (content: string) => ({ role: 'assistant', content })
