// Judges golden/traces/*.jsonl: the rows, encoded for the objective, are the batches that TRL's trainer made of them,
// tokens and trained positions alike. Exact.

import { join } from 'node:path'
import type { Objective } from '../../ts/loss/define.js'
import { dpo, sft } from '../../ts/loss/index.js'
import { readJson } from '../../ts/src/io/json.js'
import { loadTokenizer } from '../../ts/src/tokenizer/tokenizer.js'
import { encodeFor, rowKindOf } from '../../ts/train/data/encode.js'
import type { EncodedExample } from '../../ts/train/data/example.js'
import { readData } from '../../ts/train/data/rows.js'
import type { Finding } from './finding.js'

/** A padded batch as the trainer made it; SFT has labels, DPO a mask and all chosen sides before all rejected ones. */
export interface TraceBatch {
  readonly input_ids: readonly number[][]
  readonly attention_mask: readonly number[][]
  readonly labels?: readonly number[][]
  readonly completion_mask?: readonly number[][]
}

const rowsPerBatch = 4

/** Sequences of a batch in the trainer's order: the first ones of all examples, then the second ones. */
const sequencesOf = (examples: readonly EncodedExample[]) =>
  examples[0].flatMap((_, side) => examples.map((example) => example[side]))

/** Examples against one batch of the trainer. */
export function compareBatch(entry: string, examples: readonly EncodedExample[], batch: TraceBatch): Finding[] {
  const sequences = sequencesOf(examples)
  return batch.input_ids.map((padded, i): Finding => {
    const length = batch.attention_mask[i].reduce((sum, bit) => sum + bit, 0)
    const trained = batch.completion_mask?.[i] ?? batch.labels?.[i].map((label) => Number(label !== -100)) ?? []
    const expected = [padded.slice(0, length), trained.slice(0, length)]
    const got = [sequences[i]?.ids, Array.from(sequences[i]?.trained ?? [])]
    const ok = JSON.stringify(got) === JSON.stringify(expected)
    return { entry: `${entry} row ${i}`, ok, detail: ok ? 'equal' : `got ${JSON.stringify(got)}` }
  })
}

/** Rows of a trace as examples, and the batches of its steps. */
export async function readTrace(root: string, name: string, objective: Objective) {
  const tokenizer = await loadTokenizer(join(root, 'models', 'llama'))
  const { rows } = await readData(join(root, 'traces', `${name}.jsonl`), rowKindOf(objective))
  const { examples } = encodeFor(objective, tokenizer, rows)
  const { steps } = (await readJson(join(root, 'traces', `${name}.json`))) as { steps: { batch: TraceBatch }[] }
  return { examples, batches: steps.map(({ batch }) => batch) }
}

const traces: Readonly<Record<string, () => Objective>> = { sft, dpo }

/** Rows of the file against the batches of the trace, which go through the file again and again. */
export async function judgeTraceRows(root: string, name: string): Promise<Finding[]> {
  const { examples, batches } = await readTrace(root, name, traces[name]())
  return batches.flatMap((batch, step) => {
    const own = Array.from({ length: rowsPerBatch }, (_, i) => examples[(step * rowsPerBatch + i) % examples.length])
    return compareBatch(`traces/${name}.jsonl step ${step}`, own, batch)
  })
}
