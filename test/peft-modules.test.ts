// Modules that an adapter trains whole, as files: PEFT's modules_to_save in and out, tied matrices, merging.

import { cp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { type LanguageModel, languageModel, loadModel } from '../ts/src/generate/language-model.js'
import { readJsonObject } from '../ts/src/io/json.js'
import { type TensorEntry, writeSafetensors } from '../ts/src/io/safetensors.js'
import { adapterIn, withoutAdapter } from '../ts/src/models/adapter.js'
import type { Decoder } from '../ts/src/models/decoder.js'
import { adapterEntries, saveAdapter } from '../ts/src/models/peft.js'
import type { LoraConfig } from '../ts/src/nn/lora.js'
import { trainingOptions } from '../ts/train/config/options.js'
import { estimateMemory } from '../ts/train/estimate.js'
import { merge } from '../ts/train/merge.js'
import { entriesOfFile, golden, liveBytes, randomIds, temporaryFolder, wordsOf } from './support.js'

const peftFolder = join('test', 'golden', 'train', 'llama', 'lora_end')
const ids = randomIds('peft', 30, 300)
const random: Partial<LoraConfig> = { r: 4, loraAlpha: 8, initLoraWeights: false }

const bitsOf = async (model: LanguageModel): Promise<number[]> => wordsOf(await model.logProbs(ids))

const editConfig = async (folder: string, changes: Record<string, unknown>): Promise<void> => {
  const path = join(folder, 'adapter_config.json')
  await writeFile(path, JSON.stringify({ ...(await readJsonObject(path)), ...changes }))
}

const adapterBytes = async (m: Decoder): Promise<Buffer> =>
  Buffer.concat((await adapterEntries(m)).map(({ data }) => data))

/** An adapter whose whole modules have moved, by numbers that bf16 does not hold. */
async function movedAdapter(name: string, dtype: 'f32' | 'bf16', modulesToSave: string[]): Promise<LanguageModel> {
  const model = await loadModel(golden(name), { dtype, lora: { ...random, modulesToSave }, seed: 5 })
  for (const whole of adapterIn(model.decoder).replaced.values())
    whole.write(((await whole.data()) as Float32Array).map((value, i) => value * (1.1 + (i % 7) / 30)))
  return model
}

t.test('modules that are trained whole: there and back, off, and merged', async (t) => {
  const folder = await temporaryFolder(t)
  const head = 'lm_head.weight'
  for (const [name, given, saved, tensors] of [
    ['llama', ['embed_tokens', 'lm_head'], ['embed_tokens', 'lm_head'], ['model.embed_tokens.weight', head]],
    ['llama', ['lm_head'], ['lm_head'], [head]],
    ['smollm', ['embed_tokens'], ['embed_tokens', 'lm_head'], ['model.embed_tokens.weight', head]],
    [
      'gpt2',
      ['lm_head', 'ln_f'],
      ['lm_head', 'ln_f', 'wte'],
      ['transformer.wte.weight', 'transformer.ln_f.weight', 'transformer.ln_f.bias', head],
    ],
  ] as const) {
    const output = join(folder, `${name} ${given}`)
    for (const dtype of ['f32', 'bf16'] as const) {
      using model = await movedAdapter(name, dtype, [...given])
      using base = await loadModel(golden(name), { dtype })
      const off = languageModel(withoutAdapter(model.decoder), model.tokenizer, '')
      t.same(await bitsOf(off), await bitsOf(base), `${name} ${dtype}: off, the bits of the base`)
      t.notSame(await bitsOf(model), await bitsOf(base))
      await saveAdapter(model.decoder, output, golden(name))
      using again = await loadModel(golden(name), { dtype, adapter: output })
      t.same(await bitsOf(again), await bitsOf(model), 'loaded')
      t.ok((await adapterBytes(again.decoder)).equals(await adapterBytes(model.decoder)), 'tensors')
    }
    const settings = await readJsonObject(join(output, 'adapter_config.json'))
    t.match(settings, { modules_to_save: saved, task_type: 'CAUSAL_LM' })
    t.equal(settings.ensure_weight_tying, name === 'llama' ? undefined : true)
    const entries = await entriesOfFile(join(output, 'adapter_model.safetensors'))
    const whole = entries.filter((entry) => !entry.name.includes('.lora_'))
    t.same(whole.map((entry) => entry.name).sort(), tensors.map((tensor) => `base_model.model.${tensor}`).sort())
    const objective = sft()
    const training = trainingOptions.parse({ maxLength: 32 })
    const folders = { model: golden(name), adapter: output }
    const { peakBytes } = await estimateMemory({ ...folders, objective, training, dtype: 'f32' })
    const lora = { ...random, modulesToSave: [...given] }
    const fresh = await estimateMemory({ model: golden(name), lora, objective, training, dtype: 'f32' })
    t.equal(peakBytes, fresh.peakBytes, 'an estimate reads the folder')
    const { merged } = await merge({ model: output, output: `${output} merged` })
    t.ok(merged.largest <= 1e-4, `merged: ${merged.largest}`)
  }
})

t.test('a folder of PEFT with modules_to_save', async (t) => {
  const base = golden('llama')
  const adapter = join(await temporaryFolder(t), 'adapter')
  await cp(peftFolder, adapter, { recursive: true })
  const own = await entriesOfFile(join(base, 'model.safetensors'))
  const scaled = own.map((entry) => {
    if (!/embed_tokens|lm_head/.test(entry.name)) return entry
    const numbers = Float32Array.from(
      new Float32Array(entry.data.slice().buffer),
      (value, i) => value * (1 + (i % 5) / 9),
    )
    return { ...entry, data: new Uint8Array(numbers.buffer) }
  })
  const changed = scaled.filter((entry) => /embed_tokens|lm_head/.test(entry.name))
  t.same(
    changed.map(({ dtype }) => dtype),
    ['F32', 'F32'],
  )
  const lora = await entriesOfFile(join(adapter, 'adapter_model.safetensors'))
  const write = (whole: readonly TensorEntry[]) =>
    writeSafetensors(join(adapter, 'adapter_model.safetensors'), [
      ...lora,
      ...whole.map((entry) => ({ ...entry, name: `base_model.model.${entry.name}` })),
    ])
  await write(changed)
  const unnamed = { code: 'E_MISMATCH', message: /one that was trained is named in modules_to_save/ }
  await t.rejects(loadModel(base, { adapter }), unnamed, 'other values than the base, and not named')
  // As PEFT names them when weights were to be tied: this base has none.
  await editConfig(adapter, { modules_to_save: ['model.embed_tokens', 'lm_head'], ensure_weight_tying: true })
  using found = await loadModel(base, { adapter })
  const other = join(await temporaryFolder(t), 'other')
  await cp(base, other, { recursive: true })
  await writeSafetensors(join(other, 'model.safetensors'), scaled)
  using expected = await loadModel(other, { adapter: peftFolder })
  t.same(await bitsOf(found), await bitsOf(expected), 'the bits of a base that has these matrices')
  await write(changed.slice(1))
  await t.rejects(
    loadModel(base, { adapter }),
    { code: 'E_MISMATCH', message: /missing: .*\.weight/ },
    'one is missing',
  )
})

t.test('embedding and head that are one matrix in the base, and two in the file', async (t) => {
  const adapter = join(await temporaryFolder(t), 'adapter')
  const path = join(adapter, 'adapter_model.safetensors')
  {
    using model = await movedAdapter('smollm', 'f32', ['embed_tokens'])
    await saveAdapter(model.decoder, adapter, golden('smollm'))
  }
  const before = await liveBytes()
  const entries = await entriesOfFile(path)
  const advice = { code: 'E_MISMATCH', message: /ensure_weight_tying=True/ }
  for (const name of ['lm_head', 'embed_tokens']) {
    await editConfig(adapter, { modules_to_save: [name], ensure_weight_tying: false })
    await writeSafetensors(
      path,
      entries.filter((entry) => /lora_/.test(entry.name) || entry.name.includes(name)),
    )
    await t.rejects(loadModel(adapter), advice, `${name} alone`)
    const apart = entries.map((entry) =>
      entry.name.includes(name) ? { ...entry, data: entry.data.map((byte, i) => (i === 1 ? byte ^ 1 : byte)) } : entry,
    )
    await writeSafetensors(path, apart)
    await t.rejects(loadModel(adapter), advice, `another ${name}`)
  }
  t.equal(await liveBytes(), before, 'every failed load gave its memory back')
  await writeSafetensors(path, entries)
  using again = await loadModel(adapter)
  t.ok(again.decoder.adapter, 'two that are equal')
})
