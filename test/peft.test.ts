// Adapters as files: PEFT's folders in and out, what is refused, and merging.

import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { Command } from 'commander'
import t, { type Test } from 'tap'
import { type LanguageModel, loadModel } from '../ts/src/generate/language-model.js'
import { readJsonObject } from '../ts/src/io/json.js'
import { type TensorEntry, writeSafetensors } from '../ts/src/io/safetensors.js'
import { adapterIn, mergeAdapter, withAdapter } from '../ts/src/models/adapter.js'
import { type Decoder, disposeDecoder, forward, packedInput, trainableOf } from '../ts/src/models/decoder.js'
import { packSequences } from '../ts/src/models/pack.js'
import { adapterEntries, loadAdapter, saveAdapter } from '../ts/src/models/peft.js'
import { scoreRows } from '../ts/src/models/score.js'
import type { LoraConfig } from '../ts/src/nn/lora.js'
import { disposeFlat, parameter } from '../ts/src/nn/parameters.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { mergeCommand } from '../ts/train/cli/merge.js'
import { merge } from '../ts/train/merge.js'
import { entriesOfFile, golden, liveBytes, randomIds, sameBytes, temporaryFolder, wordsOf } from './support.js'

const train = (...path: string[]) => join('test', 'golden', 'train', ...path)
const ids = randomIds('peft', 30, 300)
const random: Partial<LoraConfig> = { r: 4, loraAlpha: 8, initLoraWeights: false }

const bitsOf = async (model: LanguageModel): Promise<number[]> => wordsOf(await model.logProbs(ids))

t.test('saved and loaded: the same bits', async (t) => {
  const folder = await temporaryFolder(t)
  const variants: [string, Partial<LoraConfig>][] = [
    ['all-linear', {}],
    ['names', { targetModules: ['q_proj', 'mlp.down_proj'], useRslora: true, loraDropout: 0 }],
    ['pattern', { targetModules: String.raw`model\.layers\.1\..*_proj` }],
    ['DoRA', { useDora: true, loraDropout: 0.2 }],
    ['ranks', { rankPattern: { 'self_attn.v_proj': 2 }, alphaPattern: { 'model.layers.0.mlp.up_proj': 3 } }],
  ]
  for (const dtype of ['f32', 'bf16'] as const)
    for (const [name, lora] of variants) {
      using model = await loadModel(golden('qwen2'), { dtype, lora: { ...random, ...lora }, seed: 5 })
      const output = join(folder, `${dtype} ${name}`)
      await saveAdapter(model.decoder, output, golden('qwen2'))
      using again = await loadModel(golden('qwen2'), { dtype, adapter: output })
      t.same(await bitsOf(again), await bitsOf(model), `${dtype} ${name}: log-probs`)
      const [saved, loaded] = await Promise.all([adapterEntries(model.decoder), adapterEntries(again.decoder)])
      t.same(loaded, saved, 'tensors')
      const { targetModules, ...others } = adapterIn(model.decoder).config
      t.match(adapterIn(again.decoder).config, others, 'settings')
      if (lora.targetModules !== undefined) t.same(adapterIn(again.decoder).config.targetModules, targetModules)
      using whole = await loadModel(output, { dtype })
      t.same(await bitsOf(whole), await bitsOf(model), 'the adapter brings its base, relative to the working directory')
      t.equal(whole.directory, join(process.cwd(), golden('qwen2')))
    }
})

t.test('what PEFT wrote is what we write', async (t) => {
  const output = join(await temporaryFolder(t), 'adapter')
  using model = await loadModel(golden('llama'), { adapter: train('llama', 'lora_end') })
  await saveAdapter(model.decoder, output, 'models/llama')
  const read = async (folder: string) => {
    const entries = await entriesOfFile(join(folder, 'adapter_model.safetensors'))
    return new Map(entries.map((entry) => [entry.name, entry]))
  }
  const [ours, theirs] = [await read(output), await read(train('llama', 'lora_end'))]
  t.same([...ours.keys()].sort(), [...theirs.keys()].sort(), 'names')
  for (const [name, { data, shape }] of ours) {
    t.same(shape, theirs.get(name)?.shape)
    t.ok(sameBytes(data, theirs.get(name)!.data), name)
  }
  const settings = await readJsonObject(join(output, 'adapter_config.json'))
  const known = await readJsonObject(join(train('llama', 'lora_end'), 'adapter_config.json'))
  for (const [key, value] of Object.entries(settings)) t.same(value, known[key], key)
})

/** An adapter's folder inside a model's. */
async function nested(t: Test): Promise<{ base: string; adapter: string }> {
  const base = join(await temporaryFolder(t), 'base')
  await cp(golden('llama'), base, { recursive: true })
  const adapter = join(base, 'adapter')
  await cp(train('llama', 'lora_end'), adapter, { recursive: true })
  return { base, adapter }
}

const editConfig = async (folder: string, changes: Record<string, unknown>): Promise<void> => {
  const path = join(folder, 'adapter_config.json')
  await writeFile(path, JSON.stringify({ ...(await readJsonObject(path)), ...changes }))
}

t.test('where the base is', async (t) => {
  const { base, adapter } = await nested(t)
  const elsewhere = { code: 'E_CONFIG', message: /loadModel\(base, \{ adapter \}\)/ }
  await t.rejects(loadModel(adapter), elsewhere, "the name of golden's base means nothing here")
  await editConfig(adapter, { base_model_name_or_path: null })
  await t.rejects(loadModel(adapter), elsewhere, 'no name')
  await editConfig(adapter, { base_model_name_or_path: `${base} moved` })
  const moved = { code: 'E_CONFIG', message: /base moved' is none.*--model BASE --adapter FOLDER/ }
  await t.rejects(loadModel(adapter), moved, 'a base that is gone')
  for (const name of ['..', base]) {
    await editConfig(adapter, { base_model_name_or_path: name })
    using model = await loadModel(adapter)
    t.equal(relative(base, model.directory), '', name)
    t.ok(model.decoder.adapter)
  }
  await t.rejects(loadModel(adapter, { adapter }), { code: 'E_CONFIG' }, 'an adapter on an adapter')
  await t.rejects(loadModel(base, { adapter, lora: {} }), { code: 'E_CONFIG' }, 'two adapters')
  await cp(join(golden('llama'), 'tokenizer.json'), join(adapter, 'tokenizer.json'))
  await writeFile(join(adapter, 'chat_template.jinja'), '{{ messages[0].content }}')
  using model = await loadModel(adapter)
  const [{ text }] = await model.generate([{ role: 'user', content: 'a' }], { maxNewTokens: 1 })
  t.type(text, 'string', "the adapter's own tokenizer and template")
})

t.test('settings that are refused by name', async (t) => {
  const { base, adapter } = await nested(t)
  const cases: [Record<string, unknown>, string][] = [
    [{ peft_type: 'IA3' }, 'peft_type'],
    [{ peft_type: null }, 'peft_type'],
    [{ task_type: 'SEQ_2_SEQ_LM' }, 'task_type'],
    [{ bias: 'all' }, 'bias'],
    [{ lora_bias: true }, 'lora_bias'],
    [{ modules_to_save: ['q_proj'] }, 'modules_to_save'],
    [{ modules_to_save: 'lm_head' }, 'modules_to_save'],
    [{ ensure_weight_tying: 1 }, 'ensure_weight_tying'],
    [{ init_lora_weights: 'pissa' }, 'init_lora_weights'],
    [{ layers_to_transform: [0] }, 'layers_to_transform'],
    [{ layer_replication: [[0, 1]] }, 'layer_replication'],
    [{ trainable_token_indices: [1] }, 'trainable_token_indices'],
    [{ target_parameters: ['x'] }, 'target_parameters'],
    [{ alora_invocation_tokens: [1] }, 'alora_invocation_tokens'],
    [{ use_qalora: true }, 'use_qalora'],
    [{ exclude_modules: 'q_proj' }, 'exclude_modules'],
    [{ some_later_setting: 1 }, 'some_later_setting'],
    [{ target_modules: null }, 'target_modules'],
    [{ target_modules: [] }, 'target_modules'],
    [{ target_modules: [7] }, 'target_modules'],
    [{ alpha_pattern: { '.*(q|k)_proj': 3 } }, 'alpha_pattern'],
    [{ rank_pattern: { q_proj: '4' } }, 'rank_pattern'],
    [{ r: '4' }, 'r'],
    [{ base_model_name_or_path: 7 }, 'base_model_name_or_path'],
  ]
  const before = await liveBytes()
  for (const [changes, key] of cases) {
    await rm(adapter, { recursive: true })
    await cp(train('llama', 'lora_end'), adapter, { recursive: true })
    await editConfig(adapter, changes)
    const where = `${join(adapter, 'adapter_config.json')}: ${key}`
    await t.rejects(loadModel(base, { adapter }), { code: 'E_CONFIG', where }, JSON.stringify(changes))
  }
  for (const [changes, where] of [
    [{ r: 0 }, 'lora.r'],
    [{ r: 1e9 }, 'lora.r'],
    [{ lora_alpha: -1 }, 'lora.loraAlpha'],
    [{ lora_dropout: 2 }, 'lora.loraDropout'],
  ] as const) {
    await editConfig(adapter, { base_model_name_or_path: null, ...changes })
    await t.rejects(loadModel(base, { adapter }), { code: 'E_CONFIG', where })
    await rm(adapter, { recursive: true })
    await cp(train('llama', 'lora_end'), adapter, { recursive: true })
  }
  await writeFile(join(adapter, 'adapter_config.json'), '[]')
  await t.rejects(loadModel(base, { adapter }), { code: 'E_FORMAT' })
  await writeFile(join(adapter, 'adapter_config.json'), '{}')
  await t.rejects(loadModel(base, { adapter }), { code: 'E_CONFIG', message: /"LORA"/ })
  t.equal(await liveBytes(), before, 'every failed load gave its memory back')
})

t.test('a pattern that would never end is not run', async (t) => {
  const { base, adapter } = await nested(t)
  await editConfig(adapter, { target_modules: '([a-z_.0-9]+)+!' })
  using model = await loadModel(base, { adapter })
  t.equal(adapterIn(model.decoder).modules.size, 4)
})

t.test('tensors that do not fit', async (t) => {
  const { base, adapter } = await nested(t)
  const path = join(adapter, 'adapter_model.safetensors')
  const entries = await entriesOfFile(path)
  const name = (part: RegExp) => entries.find((entry) => part.test(entry.name))!.name
  const q = name(/0\.self_attn\.q_proj\.lora_A/)
  const changed = (change: Partial<TensorEntry>) => entries.map((e) => (e.name === q ? { ...e, ...change } : e))
  const size = entries.find((entry) => entry.name === q)!.shape
  const without = (part: RegExp) => entries.filter((entry) => !part.test(entry.name))
  const cases: [string, TensorEntry[], string, RegExp][] = [
    ['no A', without(/0\.self_attn\.q_proj\.lora_A/), 'E_MISMATCH', /missing: .*0\.self_attn\.q_proj\.lora_A/],
    ['no B', without(/0\.self_attn\.q_proj\.lora_B/), 'E_MISMATCH', /missing: .*0\.self_attn\.q_proj\.lora_B/],
    ['no module', without(/1\.self_attn\.q_proj/), 'E_MISMATCH', /missing: .*1\.self_attn\.q_proj/],
    ['nothing', [], 'E_MISMATCH', /missing/],
    ['turned', changed({ shape: [size[1], size[0]] }), 'E_MISMATCH', /misshapen: .*expected \[4, 64\], got \[64, 4\]/],
    [
      'another name',
      changed({ name: 'base_model.model.lm_head.lora_A.weight' }),
      'E_MISMATCH',
      /unexpected: .*lm_head/,
    ],
    ['the name of an adapter', changed({ name: q.replace('lora_A.', 'lora_A.default.') }), 'E_MISMATCH', /default/],
    ['a module of another model', changed({ name: q.replace('q_proj', 'query') }), 'E_MISMATCH', /query/],
    ['integers', changed({ dtype: 'I32' }), 'E_DTYPE', /I32/],
  ]
  const before = await liveBytes()
  for (const [what, tensors, code, message] of cases) {
    await writeSafetensors(path, tensors)
    await t.rejects(loadModel(base, { adapter }), { code, message }, what)
  }
  await writeFile(path, (await readFile(path)).subarray(0, 100))
  await t.rejects(loadModel(base, { adapter }), { code: 'E_TORN' }, 'cut off')
  await rm(path)
  await t.rejects(loadModel(base, { adapter }), { code: 'E_IO' }, 'no file')
  await t.rejects(loadModel(golden('qwen2'), { adapter: train('llama', 'lora_end') }), { code: 'E_MISMATCH' })
  t.equal(await liveBytes(), before, 'every failed load gave its memory back')
})

t.test('matrices of the base that a file repeats', async (t) => {
  const folder = await temporaryFolder(t)
  // smollm's head is its embedding; PEFT then saves it under both names.
  for (const [name, dtype, embedding] of [
    ['llama', 'bf16', 'model.embed_tokens'],
    ['smollm', 'f32', 'model.embed_tokens'],
    ['gpt2', 'f32', 'transformer.wte'],
  ] as const) {
    using model = await loadModel(golden(name), { dtype, lora: random })
    const adapter = join(folder, name)
    const path = join(adapter, 'adapter_model.safetensors')
    await saveAdapter(model.decoder, adapter, golden(name))
    const own = await entriesOfFile(join(golden(name), 'model.safetensors'))
    const matrix = own.find((entry) => entry.name === `${embedding}.weight`)!
    const head = own.find((entry) => entry.name === 'lm_head.weight') ?? matrix
    const saved = await entriesOfFile(path)
    const write = (repeated: TensorEntry[]) =>
      writeSafetensors(path, [
        ...saved,
        ...repeated.map((entry, i) => ({
          ...entry,
          name: `base_model.model.${[embedding, 'lm_head'][i]}.weight`,
        })),
      ])
    await write([matrix, head])
    {
      using again = await loadModel(golden(name), { dtype, adapter })
      t.same(await bitsOf(again), await bitsOf(model), `${name}: equal ones say nothing new`)
    }
    const before = await liveBytes()
    const data = head.data.slice()
    data[data.length - 1] ^= 0x40
    await write([matrix, { ...head, data }])
    const other = { code: 'E_MISMATCH', message: /values of the base, got others in .*lm_head/ }
    await t.rejects(loadModel(golden(name), { dtype, adapter }), other, `${name}: another head`)
    const [rows, width] = matrix.shape
    await write([{ ...matrix, shape: [rows - 1, width], data: matrix.data.slice(0, -4 * width) }, head])
    const resized = { code: 'E_MISMATCH', message: /misshapen/ }
    await t.rejects(loadModel(golden(name), { dtype, adapter }), resized, `${name}: a resized embedding`)
    t.equal(await liveBytes(), before)
  }
})

// Merging ------------------------------------------------------------------------------------------------------------

/** Largest difference of log-probs. */
async function apart(a: LanguageModel, b: LanguageModel): Promise<number> {
  const [x, y] = [await a.logProbs(ids), await b.logProbs(ids)]
  return x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i])), 0)
}

t.test('a merged model is the adapted one', async (t) => {
  const folder = await temporaryFolder(t)
  for (const [name, dtype, useDora] of [
    ['llama', 'f32', false],
    ['qwen2', 'f32', true],
    ['gpt2', 'f32', true],
    ['mistral', 'bf16', false],
  ] as const) {
    const adapter = join(folder, `${name} adapter`)
    using model = await loadModel(golden(name), { dtype: 'f32', lora: { ...random, useDora }, seed: 2 })
    // Lengths that are not where they begin.
    for (const [part, t] of trainableOf(model.decoder).byName)
      if (part.endsWith('magnitude_vector'))
        t.write(((await t.data()) as Float32Array).map((value, i) => value * (1 + (i % 3) / 4)))
    await saveAdapter(model.decoder, adapter, golden(name))
    const output = join(folder, name)
    const result = await merge({ model: adapter, output })
    t.equal(result.dtype, dtype, "the base's type")
    t.ok(result.compared >= 100 && result.merged.largest <= 1e-4, `f32: ${result.merged.largest}`)
    using merged = await loadModel(output)
    t.equal(merged.decoder.parameters.dtype, dtype)
    t.notOk(merged.decoder.adapter)
    using plain = await loadModel(golden(name), { dtype: 'f32' })
    const difference = await apart(merged, model)
    t.ok(difference <= (dtype === 'f32' ? 1e-4 : 0.3), `${dtype}: ${difference} apart`)
    t.ok((await apart(plain, model)) > 1, 'the base is far from it')
    const wide = await merge({ model: golden(name), adapter, output: `${output} f32`, dtype: 'f32' })
    using exact = await loadModel(`${output} f32`)
    t.ok((await apart(exact, model)) <= 1e-4, `written as f32: ${wide.merged.largest}`)
    const config = await readJsonObject(join(`${output} f32`, 'config.json'))
    t.equal(config.torch_dtype ?? config.dtype, 'float32', 'the configuration says so')
    await t.rejects(merge({ model: adapter, output }), { code: 'E_CONFIG', where: output }, 'the output exists')
  }
})

t.test('what is not merged', async (t) => {
  const folder = await temporaryFolder(t)
  const output = join(folder, 'merged')
  await t.rejects(merge({ model: golden('llama'), output }), { code: 'E_CONFIG', message: /adapter/ })
  const before = await liveBytes()
  for (const factor of [1e6, Number.NaN]) {
    const adapter = join(folder, `adapter ${factor}`)
    {
      using model = await loadModel(golden('llama'), { scoreLabels: 1, lora: random })
      const head = parameter(trainableOf(model.decoder), 'base_model.model.score.weight')
      head.write(((await head.data()) as Float32Array).map((value) => factor * value))
      await saveAdapter(model.decoder, adapter, golden('llama'))
    }
    const apart = { code: 'E_MISMATCH', message: /expected the merged model.*nothing was written/ }
    await t.rejects(merge({ model: adapter, output }), apart, `scores times ${factor} are too far apart`)
  }
  t.equal(await liveBytes(), before)
  await t.rejects(readFile(join(output, 'config.json')), 'nothing was written')
})

t.test('whetstone merge', async (t) => {
  const output = join(await temporaryFolder(t), 'merged')
  const program = new Command()
  mergeCommand(program)
  const adapter = train('llama', 'lora_end')
  const lines = t.capture(process.stdout, 'write', () => true)
  await program.parseAsync(['merge', '--model', golden('llama'), '--adapter', adapter, '--output', output, '--json'], {
    from: 'user',
  })
  lines.restore()
  const printed = lines()
    .map(({ args }) => String(args[0]))
    .find((line) => line.startsWith('{'))
  t.match(JSON.parse(printed ?? ''), { directory: output, dtype: 'f32' })
  using merged = await loadModel(output)
  using model = await loadModel(golden('llama'), { adapter })
  t.ok((await apart(merged, model)) <= 1e-4)
})

// Score heads --------------------------------------------------------------------------------------------------------

async function scoresOf(m: Decoder): Promise<number[]> {
  using scope = new Scope()
  return wordsOf(await scope.run(() => scoreRows(m, forward(m, packedInput(m, packSequences([ids]))))).data())
}

t.test('a score head is part of the adapter', async (t) => {
  const folder = join(await temporaryFolder(t), 'adapter')
  const lora = { ...random, modulesToSave: ['embed_tokens'] }
  using model = await loadModel(golden('llama'), { scoreLabels: 2, lora, seed: 4 })
  const names = [...trainableOf(model.decoder).byName.keys()]
  t.ok(names.includes('base_model.model.score.weight'))
  const fresh = await scoresOf(model.decoder)
  const own = parameter(trainableOf(model.decoder), 'base_model.model.score.weight')
  own.write(((await own.data()) as Float32Array).map((value) => value + 1))
  const moved = await scoresOf(model.decoder)
  t.notSame(moved, fresh, "the adapter's head gives the scores")
  await saveAdapter(model.decoder, folder, golden('llama'))
  t.match(await readJsonObject(join(folder, 'adapter_config.json')), {
    task_type: 'SEQ_CLS',
    modules_to_save: ['embed_tokens', 'score'],
  })
  using again = await loadModel(folder)
  t.equal(again.decoder.config.scoreLabels, 2)
  t.same(await scoresOf(again.decoder), moved)
  const output = `${folder} merged`
  t.ok((await merge({ model: folder, output })).merged.largest <= 1e-4)
  using merged = await loadModel(output)
  t.equal(merged.decoder.config.scoreLabels, 2)
})

t.test('merging frees the adapter', async (t) => {
  using model = await loadModel(golden('smollm'))
  const before = await liveBytes()
  const merged = mergeAdapter(withAdapter(model.decoder, random))
  t.equal(await liveBytes(), before)
  t.throws(() => mergeAdapter(merged), { code: 'E_CONFIG' })
  const other = await loadModel(golden('smollm'))
  const adapted = withAdapter(other.decoder, random)
  disposeDecoder(adapted, disposeFlat)
  t.equal(await liveBytes(), before, 'a decoder frees its adapter')
  await t.rejects(loadAdapter(merged, golden('smollm')), { code: 'E_IO', message: /adapter_config/ })
})
