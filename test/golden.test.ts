// The golden suite: every entry of the folder in WHETSTONE_GOLDEN (default test/golden) is judged, one assertion per
// entry. What lies there and is not known fails. That the judges can fail is tested on damaged copies.

import { appendFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { catalogue } from './golden-judges/catalogue.js'

const committed = join('test', 'golden')
const root = process.env.WHETSTONE_GOLDEN || committed

const entries = await catalogue(root)
t.ok(entries.length > 0, 'the folder has entries')
for (const { name, judge } of entries) {
  const findings = await judge()
  const failing = findings.filter((finding) => !finding.ok).map(({ entry, detail }) => `${entry}: ${detail}`)
  if (findings.length === 0) failing.push('nothing was judged')
  t.same(failing.slice(0, 20), [], `${name}: ${findings.length} findings, ${failing.length} failing`)
}

/** Names of failing findings of a folder, by entry. */
async function failures(folder: string): Promise<Record<string, string[]>> {
  const failing: Record<string, string[]> = {}
  for (const { name, judge } of await catalogue(folder)) {
    const bad = (await judge()).filter((finding) => !finding.ok)
    if (bad.length > 0) failing[name] = bad.map(({ entry, detail }) => `${entry}: ${detail}`)
  }
  return failing
}

// The judges are the same on every device, and an emulated one is slow.
const skip = process.env.WHETSTONE_CUDA_LIBRARY === undefined ? false : 'shown on the CPU'

t.test('the judges can fail', { skip }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'whetstone-golden-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const copyOf = (...path: string[]) => cp(join(committed, ...path), join(folder, ...path), { recursive: true })
  const edit = async (path: string, from: string, to: string) => {
    const text = await readFile(join(folder, path), 'utf8')
    t.ok(text.includes(from), `${path} has ${from}`)
    await writeFile(join(folder, path), text.replace(from, to))
  }

  await t.test('what has no judge is named', async (t) => {
    await mkdir(join(folder, 'extras'))
    await mkdir(join(folder, 'models', 'gpt2'), { recursive: true })
    await mkdir(join(folder, 'train', 'llama', 'lora_start'), { recursive: true })
    const files = ['extras/pairs.json', 'traces.json', 'traces/kto.json', 'train/llama/dora.json']
    await mkdir(join(folder, 'traces'))
    for (const file of files) await writeFile(join(folder, file), '{}')
    await writeFile(join(folder, 'README.md'), 'no entry')
    const failing = await failures(folder)
    const names = [...files, 'train/llama/lora_start/', 'models/gpt2/']
    t.same(Object.keys(failing).sort(), names.sort())
    for (const name of names) t.match(failing[name][0], `no judge for ${name}`)
    await rm(folder, { recursive: true })
  })

  await t.test('one changed number in each kind of entry', async (t) => {
    await copyOf('tokenizers', 'gpt2')
    await copyOf('templates', 'generation')
    await copyOf('models', 'smollm')
    await copyOf('models', 'llama')
    await copyOf('train', 'llama')
    await copyOf('traces')
    await copyOf('losses')
    t.same(await failures(folder), {}, 'the copies are sound')
    await edit('tokenizers/gpt2/cases.json', '"ids": [', '"ids": [1, ')
    await edit('templates/generation/cases.json', '"assistant_mask": [0', '"assistant_mask": [1')
    await edit('train/llama/full.json', '"grad_norm": ', '"grad_norm": 1')
    await edit('train/llama/lora.json', '"grad_norm": ', '"grad_norm": 1')
    await edit('losses/srpo.json', '"loss": ', '"loss": 1')
    await edit('losses/vocab.json', '"name": "sft"', '"name": "new"')
    await edit('traces/sft.jsonl', '"content": "', '"content": "x')
    await edit('traces/dpo.jsonl', '"rejected": " ', '"rejected": " x')
    await edit('traces/sft.json', '"mean_token_accuracy": ', '"mean_token_accuracy": 1')
    await edit('traces/dpo.json', '"logits/rejected": -', '"logits/rejected": -1')
    await appendFile(join(folder, 'models', 'llama', 'notes.txt'), 'unknown')
    const weights = join(folder, 'models', 'smollm', 'model.safetensors')
    const bytes = await readFile(weights)
    bytes[bytes.length - 1] ^= 0x80
    await writeFile(weights, bytes)
    const failing = await failures(folder)
    t.same(Object.keys(failing).sort(), [
      'losses/srpo.json',
      'losses/vocab.json',
      'models/llama/notes.txt',
      'models/smollm',
      'templates/generation',
      'tokenizers/gpt2',
      'traces/dpo.json',
      'traces/dpo.jsonl',
      'traces/sft.json',
      'traces/sft.jsonl',
      'train/llama/full',
      'train/llama/lora',
    ])
    t.match(failing['tokenizers/gpt2'], { length: 1 })
    t.match(failing['traces/sft.json'], { length: 1, 0: /mean_token_accuracy/ })
    t.match(failing['traces/dpo.json'], { length: 1, 0: /logits.rejected/ })
    t.match(failing['losses/vocab.json'], [/no judge for the case new/])
  })
})
