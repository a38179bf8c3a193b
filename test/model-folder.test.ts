// Which folder a model is loaded from: a run's folder stands for its newest checkpoint, and a folder that holds no model
// is refused with what it is and what to do.

import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { dpo, estimateMemory, loadModel, loadTokenizer, merge, saveAdapter, sft, train } from '../ts/src/index.js'
import { modelFolder } from '../ts/src/io/model-folder.js'
import { golden, temporaryFolder, wordsOf } from './support.js'
import { makeTiny, rowsOf } from './support-kinds.js'
import { makeTwoLetters, runRecipe } from './support-recipes.js'

const step = (n: number): string => `step-${String(n).padStart(8, '0')}`
const ids = [5, 9, 20, 33]

/** A tiny model in `base`, trained for two steps in `run`, with a checkpoint of each. */
async function trained(t: Test, lora?: object): Promise<{ folder: string; base: string; run: string }> {
  const folder = await temporaryFolder(t)
  const base = await makeTiny(join(folder, 'base'))
  const run = join(folder, 'run')
  using policy = await loadModel(base, { lora })
  const data = rowsOf.completion as { prompt: string; completion: string }[]
  const started = train({ policy, objective: sft(), data, output: run, maxSteps: 2, saveSteps: 1, learningRate: 1e-2 })
  const notes: (readonly string[])[] = []
  for await (const event of started) if (event.type === 'start') notes.push(event.notes)
  t.same(notes, [[`model ${base}`, '8 rows']], 'the log says what was loaded')
  return { folder, base, run }
}

t.test("a run's folder is its newest checkpoint", async (t) => {
  const { folder, base, run } = await trained(t)
  const newest = join(run, 'checkpoints', step(2))
  for (const path of [run, join(run, 'checkpoints'), newest]) t.equal(await modelFolder(path), newest, path)
  using model = await loadModel(run)
  using exact = await loadModel(newest)
  using start = await loadModel(base)
  t.equal(model.directory, newest)
  t.same(wordsOf(await model.logProbs(ids)), wordsOf(await exact.logProbs(ids)))
  t.notSame(wordsOf(await model.logProbs(ids)), wordsOf(await start.logProbs(ids)), 'it is not the start')
  t.same((await loadTokenizer(run)).encode('ab'), model.tokenizer.encode('ab'))

  const output = join(folder, 'dpo')
  using policy = await loadModel(run, { lora: { r: 2 } })
  const data = rowsOf.preference as { prompt: string; chosen: string; rejected: string }[]
  await train({ policy, reference: exact.decoder, objective: dpo(), data, output, maxSteps: 1 }).result
  const adapter = join(output, 'checkpoints', step(1))
  const config = JSON.parse(await readFile(join(adapter, 'adapter_config.json'), 'utf8'))
  t.equal(config.base_model_name_or_path, newest, 'an adapter names the checkpoint that it was trained on')
  using adapted = await loadModel(output)
  using beside = await loadModel(run, { adapter: output })
  t.same(wordsOf(await beside.logProbs(ids)), wordsOf(await adapted.logProbs(ids)), 'beside its base, both by runs')
  const merged = join(folder, 'merged')
  await merge({ model: output, output: merged })
  t.equal(await modelFolder(merged), merged)
  await merge({ model: run, adapter: output, output: `${merged} too` })

  const settings = { objective: dpo(), training: {}, data }
  const sizeOf = async (model: string, reference: string) =>
    (await estimateMemory({ ...settings, model, reference })).peakBytes
  t.equal(await sizeOf(run, run), await sizeOf(newest, newest), 'estimates')
  const withAdapter = await estimateMemory({ ...settings, model: run, adapter: output })
  t.same(withAdapter, await estimateMemory({ ...settings, model: output }))
})

t.test('relative paths, and adapters saved by name', async (t) => {
  const { folder, run } = await trained(t)
  const adapter = join(folder, 'adapter')
  using model = await loadModel(run, { lora: { r: 2, initLoraWeights: false } })
  await saveAdapter(model.decoder, adapter, run)
  using again = await loadModel(adapter)
  t.equal(again.directory, join(run, 'checkpoints', step(2)), 'a base that is a run')
  t.same(wordsOf(await again.logProbs(ids)), wordsOf(await model.logProbs(ids)))
})

t.test('runs of rounds', async (t) => {
  const folder = await temporaryFolder(t)
  const base = join(folder, 'base')
  await makeTwoLetters(base)
  const output = join(folder, 'run')
  const { checkpoint, events } = await runRecipe('grpo', { base, options: { output, rounds: 1 } })
  t.equal(await modelFolder(output), checkpoint)
  t.match(events[0], { type: 'start', notes: [`model ${base}`, '6 prompts', 'rewards: share'] })
  t.equal(await modelFolder(join(output, 'rounds')), checkpoint, 'what iterate(...) writes')
  using model = await loadModel(output)
  t.equal(model.directory, checkpoint)
})

t.test('runs without a whole checkpoint', async (t) => {
  const { run } = await trained(t)
  const checkpoints = join(run, 'checkpoints')
  await rename(join(checkpoints, step(2)), join(checkpoints, `.bad-${step(2)}`))
  t.equal(await modelFolder(run), join(checkpoints, step(1)), 'one that was set aside does not count')
  await cp(join(checkpoints, step(1)), join(checkpoints, step(3)), { recursive: true })
  await rm(join(checkpoints, step(3), 'manifest.json'))
  const torn = { code: 'E_TORN', where: join(checkpoints, step(3)), message: new RegExp(`manifest.json.*${step(1)}`) }
  await t.rejects(loadModel(run), torn, 'copied in part: an older one is not taken in silence')
  for (const n of [1, 3]) await rm(join(checkpoints, step(n)), { recursive: true })
  const none = { code: 'E_CONFIG', where: run, message: /no checkpoint yet.*checkpoints or rounds/ }
  await t.rejects(loadModel(run), none)
  await t.rejects(loadTokenizer(run), none)
  await rm(checkpoints, { recursive: true })
  await rm(join(run, 'metrics.jsonl'))
  await t.rejects(loadModel(run), none, 'known by its settings alone')
  await mkdir(join(run, 'warmup'))
  await t.rejects(loadModel(run), { ...none, message: /those of its warm-up are in .*warmup/ })
})

t.test('no such folder', async (t) => {
  const absent = (name: string) => ({ code: 'E_IO', where: name, message: /there is no such folder/ })
  const hub = {
    code: 'E_IO',
    message: /there is no such folder.*hub.*`hf download org-x\/name-1\.5B --local-dir name-1/,
  }
  await t.rejects(loadModel('org-x/name-1.5B'), hub)
  await t.rejects(loadTokenizer('org-x/name-1.5B'), hub)
  await t.rejects(loadModel('gpt2-of-the-hub'), { message: /hf download gpt2-of-the-hub --local-dir/ })
  await t.rejects(loadModel(golden('llama'), { adapter: 'org-x/name-1.5B' }), hub)
  await t.rejects(merge({ model: 'org-x/name-1.5B', output: 'merged' }), hub)
  await t.rejects(estimateMemory({ model: 'org-x/name-1.5B', objective: sft(), training: {} }), hub)
  const path = join(await temporaryFolder(t), 'none')
  await t.rejects(loadModel(path), absent(path))
  const error = await loadModel(path).catch((caught: Error) => caught)
  t.notMatch(String((error as Error).message), /hub/, 'no name of the hub')
})

t.test('other things than models', async (t) => {
  const folder = await temporaryFolder(t)
  await t.rejects(loadModel(folder), { code: 'E_IO', where: folder, message: /the folder is empty: expected config/ })
  await writeFile(join(folder, 'model-Q4_K_M.gguf'), 'GGUF')
  const gguf = { code: 'E_FORMAT', message: /GGUF is not read/ }
  await t.rejects(loadModel(folder), gguf)
  await t.rejects(loadModel(join(folder, 'model-Q4_K_M.gguf')), gguf)
  const file = join(golden('llama'), 'config.json')
  await t.rejects(loadModel(file), { code: 'E_PATH', where: file, message: /name the folder that it lies in/ })
})

/** A copy of a golden model's folder. */
async function copied(t: Test): Promise<string> {
  const folder = join(await temporaryFolder(t), 'model')
  await cp(golden('llama'), folder, { recursive: true })
  return folder
}

t.test('files in formats that are not read', async (t) => {
  const folder = await copied(t)
  const at = (name: string) => join(folder, name)
  await rename(at('model.safetensors'), at('pytorch_model.bin'))
  await writeFile(at('training_args.bin'), '')
  const pickled = {
    code: 'E_FORMAT',
    where: at('model.safetensors'),
    message: /pytorch_model\.bin.*convert them to safet/,
  }
  await t.rejects(loadModel(folder), pickled)
  await rm(at('pytorch_model.bin'))
  await t.rejects(loadModel(folder), { code: 'E_IO', where: at('model.safetensors') }, 'settings are no weights')
  await rename(at('tokenizer.json'), at('tokenizer.model'))
  const slow = { code: 'E_FORMAT', where: at('tokenizer.json'), message: /tokenizer\.model does.*AutoTokenizer/ }
  await t.rejects(loadTokenizer(folder), slow)
  await t.rejects(loadModel(folder), slow)
})

t.test('pointers in place of files', async (t) => {
  const folder = await copied(t)
  const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${'0'.repeat(64)}\nsize 1234\n`
  await writeFile(join(folder, 'model.safetensors'), pointer)
  const lfs = (name: string) => ({ code: 'E_FORMAT', where: join(folder, name), message: /`git lfs pull`/ })
  await t.rejects(loadModel(folder), { ...lfs(''), where: String })
  await writeFile(join(folder, 'tokenizer.json'), pointer)
  await t.rejects(loadTokenizer(folder), lfs('tokenizer.json'))
})

t.test('quantised checkpoints', async (t) => {
  const folder = await copied(t)
  const path = join(folder, 'config.json')
  const config = JSON.parse(await readFile(path, 'utf8'))
  const put = (quantization: unknown) =>
    writeFile(path, JSON.stringify({ ...config, quantization_config: quantization }))
  for (const method of ['bitsandbytes', 'gptq', 'awq', 'compressed-tensors']) {
    await put({ quant_method: method, bits: 4 })
    const refused = {
      code: 'E_CONFIG',
      where: 'config.json: quantization_config',
      message: new RegExp(`not.*"${method}"`),
    }
    await t.rejects(loadModel(folder), refused)
    await t.rejects(estimateMemory({ model: folder, objective: sft(), training: {} }), refused)
  }
  const four = { quant_method: 'bitsandbytes', load_in_4bit: true }
  const faults: [object, RegExp][] = [
    [{}, /bnb_4bit_quant_type.*"nf4", got "fp4"/],
    [{ bnb_4bit_quant_type: 'fp4' }, /"nf4", got "fp4"/],
    [{ bnb_4bit_quant_type: 'nf4', bnb_4bit_quant_storage: 'bfloat16' }, /bnb_4bit_quant_storage.*"uint8"/],
    [{ bnb_4bit_quant_type: 'nf4', bnb_4bit_use_double_quant: 1 }, /bnb_4bit_use_double_quant.*true or false/],
  ]
  for (const [fields, message] of faults) {
    await put({ ...four, ...fields })
    await t.rejects(loadModel(folder), { code: 'E_CONFIG', message }, JSON.stringify(fields))
  }
  await put({ load_in_8bit: true })
  await t.rejects(loadModel(folder), { code: 'E_CONFIG', message: /quantised checkpoints are not supported/ })
  await put(null)
  using model = await loadModel(folder)
  t.ok(model)
})

t.test('a chat template from elsewhere', async (t) => {
  const folder = await temporaryFolder(t)
  const base = await makeTiny(join(folder, 'base'))
  const put = async (name: string, text: string | Uint8Array): Promise<string> => {
    await writeFile(join(folder, name), text)
    return join(folder, name)
  }
  const source =
    '{% for m in messages %}{{ m.role[0] }}: {% generation %}{{ m.content }}\n{% endgeneration %}{% endfor %}{% if add_generation_prompt %}a: {% endif %}'
  const chatTemplatePath = await put('chat.jinja', source)
  const turns = [
    { role: 'user', content: 'ab' },
    { role: 'assistant', content: 'cd' },
  ]
  const templateOf = async (path: string) => (await loadTokenizer(path)).chatTemplate
  t.not(await templateOf(base), source)
  const tokenizer = await loadTokenizer(base, { chatTemplatePath })
  t.equal(tokenizer.applyChatTemplate(turns).text, 'u: ab\na: cd\n')
  const prompt = turns.slice(0, 1)
  {
    using given = await loadModel(base, { chatTemplatePath })
    using plain = await loadModel(base)
    const greedy = { temperature: 0, maxNewTokens: 4 }
    t.same(await given.generate(prompt, greedy), await plain.generate('u: ab\na: ', greedy), 'what is generated')
  }

  const trainIn = async (name: string, model: string, options: Parameters<typeof loadModel>[1]) => {
    using policy = await loadModel(model, options)
    const data = [{ messages: turns }]
    const run = train({ policy, objective: sft(), data, output: join(folder, name), maxSteps: 1 })
    return (await run.result).checkpoint ?? ''
  }
  const whole = await trainIn('whole', base, { chatTemplatePath })
  t.equal(await templateOf(whole), source, 'saved with the model')
  const adapter = await trainIn('adapter', base, { chatTemplatePath, lora: { r: 2 } })
  t.equal(await templateOf(adapter), source, 'beside an adapter')
  t.equal(await templateOf(await trainIn('onward', adapter, {})), source, 'of which training goes on')
  await merge({ model: adapter, output: join(folder, 'merged') })
  t.equal(await templateOf(join(folder, 'merged')), source, 'merged')
  const other = await trainIn('other', whole, { chatTemplatePath: await put('other.jinja', `{# #}${source}`) })
  t.equal(await templateOf(other), `{# #}${source}`, 'replaced again')
  t.equal(await templateOf(await trainIn('same', whole, {})), source)

  const smollm = await loadTokenizer(golden('smollm'), { chatTemplatePath: golden('gpt2') })
  t.equal(smollm.chatTemplate, await templateOf(golden('gpt2')), "another tokenizer's")
  const refused: readonly (readonly [path: string, code: string, message: RegExp])[] = [
    [golden('qwen2'), 'E_MISMATCH', /got <\|im_start\|>, <\|im_end\|>: no token is added/],
    [base, 'E_CONFIG', /a tokenizer with a chat template/],
    [join(folder, 'none'), 'E_IO', /cannot look at/],
    [await put('bad.jinja', '{% if %}'), 'E_TEMPLATE', /bad\.jinja/],
    [await put('bytes.jinja', Uint8Array.of(0xff)), 'E_FORMAT', /UTF-8/],
    [await put('long.jinja', ' '.repeat(2 ** 20 + 1)), 'E_LIMIT', /at most/],
  ]
  for (const [path, code, message] of refused) {
    const loading = loadTokenizer(path === base ? golden('llama') : base, { chatTemplatePath: path })
    await t.rejects(loading, { code, message })
  }
  await t.rejects(loadModel(base, { chatTemplatePath: 7 as never }), { code: 'E_CONFIG' })
})
