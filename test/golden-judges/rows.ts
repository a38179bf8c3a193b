// Judges golden/traces/sft.jsonl: the rows, encoded with the model's chat template, are the batches that SFTTrainer made
// of them, tokens and trained positions alike. Exact.

import { join } from 'node:path'
import { readBytes } from '../../ts/src/io/files.js'
import { decodeUtf8, parseJson, readJson } from '../../ts/src/io/json.js'
import { type ChatMessage, encodeChat } from '../../ts/src/tokenizer/template.js'
import { loadTokenizer } from '../../ts/src/tokenizer/tokenizer.js'
import type { Finding } from './finding.js'

interface Row {
  readonly prompt: ChatMessage[]
  readonly completion: ChatMessage[]
}

interface Batch {
  readonly input_ids: number[][]
  readonly attention_mask: number[][]
  readonly labels: number[][]
}

const rowsPerBatch = 4

/** Rows of the file against the batches of sft.json, which go through the file again and again. */
export async function judgeSftRows(root: string): Promise<Finding[]> {
  const tokenizer = await loadTokenizer(join(root, 'models', 'llama'))
  const path = join(root, 'traces', 'sft.jsonl')
  const lines = decodeUtf8(await readBytes(path), path)
    .trimEnd()
    .split('\n')
  const rows = lines.map((line) => parseJson(line, path) as Row)
  const { steps } = (await readJson(join(root, 'traces', 'sft.json'))) as { steps: { batch: Batch }[] }
  const encode = (messages: ChatMessage[], addGenerationPrompt: boolean): number[] =>
    encodeChat(tokenizer, messages, { addGenerationPrompt }).ids
  return steps.flatMap(({ batch }, step) =>
    batch.input_ids.map((padded, i): Finding => {
      const { prompt, completion } = rows[(step * rowsPerBatch + i) % rows.length]
      const ids = encode([...prompt, ...completion], false)
      const from = encode(prompt, true).length
      const length = batch.attention_mask[i].reduce((sum, bit) => sum + bit, 0)
      const labels = ids.map((id, t) => (t < from ? -100 : id))
      const ok =
        JSON.stringify([ids, labels]) === JSON.stringify([padded.slice(0, length), batch.labels[i].slice(0, length)])
      return { entry: `traces/sft.jsonl step ${step} row ${i}`, ok, detail: ok ? 'equal' : `got ${ids}` }
    }),
  )
}
