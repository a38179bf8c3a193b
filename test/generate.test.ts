// Generation: the sampler's log-probs are the trainer's bit for bit, samples depend on prompt, settings and key alone,
// stop rules, streaming, refusals, memory.

import { isDeepStrictEqual } from 'node:util'
import t, { type Test } from 'tap'
import { type LanguageModel, languageModel, loadModel } from '../ts/src/generate/language-model.js'
import { followTexts } from '../ts/src/generate/text.js'
import { loadAddon } from '../ts/src/native/addon.js'
import { getDevice } from '../ts/src/native/device.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import { golden, liveBytes, randomIds, wordsOf } from './support.js'
import { gemmaDecoder, gpt2Decoder } from './support-models.js'

const dtypes = ['f32', 'bf16'] as const
const families = ['llama', 'smollm', 'mistral', 'qwen2', 'qwen3', 'gemma', 'gpt2'] as const
const made = { gemma: gemmaDecoder, gpt2: gpt2Decoder }

/** A golden model, the small Gemma with soft-caps, or the GPT-2 with room for long prompts. */
async function open(name: (typeof families)[number], dtype: 'f32' | 'bf16' = 'f32'): Promise<LanguageModel> {
  if (name !== 'gemma' && name !== 'gpt2') return loadModel(golden(name), { dtype })
  const tokenizer = await loadTokenizer(golden('qwen2'))
  return languageModel(made[name](getDevice(), dtype), tokenizer, golden('qwen2'))
}

/** Lengths around one and two key blocks of 32. */
const prompts = [1, 5, 31, 32, 33, 63, 64, 65].map((length) => randomIds(`prompt ${length}`, length, 320))

/** Behaviour log-probs of every sample against the model's log-probs of the same tokens, packed together. */
async function checkLogProbs(t: Test, model: LanguageModel, what: string, options: object): Promise<void> {
  const groups = await model.generate(prompts, { ...options, seed: 3 })
  const samples = groups.flatMap((group, p) => group.map((one) => ({ ...one, prompt: prompts[p] })))
  const exact = await model.logProbs(samples.map(({ prompt, ids }) => [...prompt, ...ids]))
  const wrong = samples.filter(
    ({ logps, prompt }, i) => `${wordsOf(logps)}` !== `${wordsOf(exact[i].subarray(prompt.length))}`,
  )
  const tokens = samples.reduce((sum, { ids }) => sum + ids.length, 0)
  t.equal(wrong.length, 0, `${what}: ${tokens} tokens of ${samples.length} samples have the trainer's bits`)
  t.ok(tokens > samples.length, 'something was sampled')
}

t.test('sampler = trainer, bit for bit', async (t) => {
  const { levels } = loadAddon().cpu()
  const [best, ...lower] = levels.split(' ').reverse()
  for (const isa of [best, ...lower]) {
    getDevice().close()
    getDevice({ isa, threads: 2 })
    for (const name of families)
      for (const dtype of dtypes) {
        using model = await open(name, dtype)
        const check = (what: string, options: object) =>
          checkLogProbs(t, model, `${isa} ${name} ${dtype} ${what}`, options)
        const long = { maxNewTokens: 36, stopIds: [] }
        const truncated = { temperature: 0.7, topK: 20, topP: 0.9, minP: 0.01 }
        await check('groups of 5', { ...long, ...truncated, numGenerations: 5, maxRows: 64 })
        await check('three rows', { ...long, maxNewTokens: 6, maxRows: 3 })
        await check('a penalty', { ...long, ...truncated, repetitionPenalty: 1.4, numGenerations: 2, maxNewTokens: 8 })
        if (isa !== best) continue
        const short = { maxNewTokens: 30, stopIds: [...Array(60).keys()] }
        await check('rows that end early', { ...short, numGenerations: 5, maxRows: 7 })
        await check('one group at a time', { ...long, numGenerations: 5, maxRows: 1, maxNewTokens: 4 })
        await check('one row at a time', { ...long, maxRows: 1, maxNewTokens: 2 })
      }
  }
  getDevice().close()
})

t.test('sequences longer than the first rotary table', async (t) => {
  for (const name of ['llama', 'mistral'] as const) {
    using model = await open(name)
    const prompt = randomIds('long', 250, 320)
    const short = await model.logProbs(prompt)
    const [{ ids, logps }] = await model.generate(prompt, { maxNewTokens: 20, stopIds: [] })
    const long = await model.logProbs([...prompt, ...ids])
    t.same(wordsOf(long.subarray(250)), wordsOf(logps), `${name}: 250 tokens and 20 new ones`)
    t.same(wordsOf(long.subarray(0, 250)), wordsOf(short), `${name}: what came before stays`)
  }
})

t.test('samples depend on prompt, settings and key alone', async (t) => {
  for (const name of ['llama', 'mistral', 'gemma'] as const) {
    using model = await open(name)
    const promptKeys = prompts.map((_, i) => `task ${i}`)
    const settings = { maxNewTokens: 12, numGenerations: 9, seed: 11, promptKeys, repetitionPenalty: 1.2 }
    const expected = await model.generate(prompts, settings)
    const equal = (got: unknown, wanted: unknown, what: string) =>
      t.ok(isDeepStrictEqual(got, wanted), `${name}: ${what}`)
    for (const maxRows of [1, 7, 64])
      equal(await model.generate(prompts, { ...settings, maxRows }), expected, `${maxRows} rows at once`)
    for (const threads of [1, 2, 3, 8]) {
      getDevice().threads = threads
      equal(await model.generate(prompts, settings), expected, `${threads} threads`)
    }
    getDevice().threads = 2
    const turned = await model.generate(prompts.toReversed(), {
      ...settings,
      promptKeys: settings.promptKeys.toReversed(),
    })
    equal(turned.toReversed(), expected, 'another order')
    const fewer = await model.generate(prompts, { ...settings, numGenerations: 1, maxRows: 1 })
    equal(
      fewer,
      expected.map((group) => group.slice(0, 1)),
      'the first of each, one row at a time',
    )
    const [one] = await model.generate([prompts[4]], { ...settings, promptKeys: ['task 4'] })
    equal(one, expected[4], 'one prompt alone')
    const other = await model.generate(prompts, { ...settings, seed: 12 })
    t.notOk(isDeepStrictEqual(other, expected), `${name}: another seed gives others`)
    t.equal(new Set(expected[7].map(({ ids }) => `${ids}`)).size, 9, `${name}: samples of a prompt differ`)
  }
})

/** log softmax of logits / temperature over the ids that are kept. */
function logSoftmax(logits: Float32Array, temperature: number, kept: (id: number) => boolean): Float64Array {
  const scaled = Float64Array.from(logits, (z, id) => (kept(id) ? z / temperature : Number.NEGATIVE_INFINITY))
  const top = scaled.reduce((most, z) => Math.max(most, z))
  const total = scaled.reduce((sum, z) => sum + Math.exp(z - top), 0)
  return scaled.map((z) => z - top - Math.log(total))
}

t.test('what is drawn', async (t) => {
  using model = await open('llama')
  const prompt = prompts[1]
  const logitsBehind = async (ids: readonly number[]) =>
    (await model.logits(ids)).slice(-model.decoder.config.vocabSize)
  const ranked = (logits: Float32Array) => Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a])

  await t.test('greedy is the argmax of the logits', async (t) => {
    for (const name of families) {
      using greedy = await open(name)
      const [{ ids, logps }] = await greedy.generate(prompt, { temperature: 0, maxNewTokens: 40, stopIds: [] })
      const all = await greedy.logits([...prompt, ...ids])
      const { vocabSize } = greedy.decoder.config
      ids.forEach((id, i) => {
        const row = all.subarray((prompt.length + i - 1) * vocabSize, (prompt.length + i) * vocabSize)
        if (row.indexOf(Math.max(...row)) !== id) t.fail(`${name}: token ${i}`)
      })
      t.ok(
        logps.every((logp) => logp < 0),
        name,
      )
    }
  })

  await t.test('first tokens follow the distribution', async (t) => {
    const count = 4000
    const exact = logSoftmax(await logitsBehind(prompt), 1, () => true)
    const drawn = await model.generate(prompt, { numGenerations: count, maxNewTokens: 1, maxRows: count })
    const best = Array.from(exact.keys()).sort((a, b) => exact[b] - exact[a])
    for (const id of best.slice(0, 6)) {
      const p = Math.exp(exact[id])
      const share = drawn.filter(({ ids }) => ids[0] === id).length / count
      t.ok(Math.abs(share - p) < 4 * Math.sqrt((p * (1 - p)) / count), `token ${id}: ${share} of ${p.toFixed(4)}`)
    }
  })

  await t.test('log-probs of the distribution that was drawn from', async (t) => {
    const settings = { temperature: 0.6, topK: 4, numGenerations: 64, maxNewTokens: 1 }
    const logits = await logitsBehind(prompt)
    const kept = new Set(ranked(logits).slice(0, 4))
    const exact = logSoftmax(logits, 0.6, (id) => kept.has(id))
    const drawn = await model.generate(prompt, settings)
    t.ok(
      drawn.every(({ ids }) => kept.has(ids[0])),
      'only the four best',
    )
    t.ok(drawn.every(({ ids, samplingLogps }) => Math.abs(samplingLogps[0] - exact[ids[0]]) < 1e-4))
    const only = await model.generate(prompt, { topP: 1e-6, numGenerations: 8, maxNewTokens: 1 })
    t.same(
      only.map(({ ids, samplingLogps }) => [ids[0], samplingLogps[0]]),
      Array(8).fill([ranked(logits)[0], 0]),
    )
    const strict = await model.generate(prompt, { minP: 1, numGenerations: 8, maxNewTokens: 1 })
    t.ok(
      strict.every(({ ids }) => ids[0] === ranked(logits)[0]),
      'min-p 1 keeps the best',
    )
  })
})

t.test('repetition penalty', async (t) => {
  for (const name of ['llama', 'gemma'] as const) {
    using model = await open(name)
    const { vocabSize } = model.decoder.config
    const settings = { repetitionPenalty: 1.5, maxNewTokens: 30, stopIds: [], seed: 4 }
    for (const temperature of [0, 0.7]) {
      const [{ ids, samplingLogps }] = await model.generate(prompts[2], { ...settings, temperature })
      const all = [...prompts[2], ...ids]
      const logits = await model.logits(all)
      const off = ids.map((id, i) => {
        // Transformers' RepetitionPenaltyLogitsProcessor over the tokens so far.
        const before = all.slice(0, prompts[2].length + i)
        const row = logits.slice((before.length - 1) * vocabSize, before.length * vocabSize)
        const z = row.map((logit, v) => (!before.includes(v) ? logit : logit < 0 ? logit * 1.5 : logit / 1.5))
        if (temperature === 0) return Number(z.indexOf(Math.max(...z)) !== id)
        return Math.abs(samplingLogps[i] - logSoftmax(z, temperature, () => true)[id])
      })
      t.ok(Math.max(...off) < 1e-4, `${name} ${temperature}: from the penalized logits, off by ${Math.max(...off)}`)
    }
  }
})

t.test('stop rules', async (t) => {
  using model = await open('llama')
  const settings = { maxNewTokens: 24, stopIds: [] as number[], seed: 5 }
  const [free] = await model.generate(prompts[3], settings)
  t.equal(free.finishReason, 'length')
  t.equal(free.ids.length, 24)
  t.equal(free.text, model.tokenizer.decode(free.ids))

  await t.test('stop ids', async (t) => {
    const at = free.ids.findIndex((id, i) => i >= 6 && free.ids.indexOf(id) === i)
    const [stopped] = await model.generate(prompts[3], { ...settings, stopIds: [free.ids[at], 7777] })
    t.same(stopped.ids, free.ids.slice(0, at + 1), 'the stop token is part of the sample')
    t.same(wordsOf(stopped.logps), wordsOf(free.logps.slice(0, at + 1)))
    t.equal(stopped.finishReason, 'stop')
    t.equal(stopped.text, model.tokenizer.decode(free.ids.slice(0, at)), 'but not of the text')
    const [first] = await model.generate(prompts[3], { ...settings, stopIds: [free.ids[0]] })
    t.match(first, { ids: [free.ids[0]], text: '', finishReason: 'stop' })
    const [end] = model.decoder.config.eosTokenIds
    const many = await model.generate(prompts[3], { maxNewTokens: 100, numGenerations: 40 })
    const ended = many.filter(({ finishReason }) => finishReason === 'stop')
    t.ok(ended.length > 0, 'default stop ids are the end tokens')
    const ends = new Set(model.decoder.config.eosTokenIds)
    t.ok(
      ended.every(({ ids }) => ends.has(ids[ids.length - 1]) && ids.findIndex((id) => ends.has(id)) === ids.length - 1),
    )
    t.ok(ends.has(end) && many.every(({ ids, finishReason }) => finishReason === 'stop' || ids.length === 100))
  })

  await t.test('stop strings', async (t) => {
    const stop = free.text.slice(8, 11)
    const cut = free.text.indexOf(stop)
    const [stopped] = await model.generate(prompts[3], { ...settings, stopStrings: ['never to be seen', stop] })
    t.equal(stopped.finishReason, 'stop')
    t.equal(stopped.text, free.text.slice(0, cut), 'cut before the stop string')
    t.same(stopped.ids, free.ids.slice(0, stopped.ids.length), 'the tokens stay')
    t.ok(stopped.ids.length < free.ids.length)
    t.ok(model.tokenizer.decode(stopped.ids).includes(stop))
    t.notOk(model.tokenizer.decode(stopped.ids.slice(0, -1)).includes(stop), 'ended as soon as it appeared')
  })

  await t.test('signal', async (t) => {
    const before = await liveBytes()
    const stop = new AbortController()
    let pieces = 0
    const onText = () => {
      if (++pieces === 5) stop.abort()
    }
    await t.rejects(model.generate(prompts, { ...settings, signal: stop.signal, onText }), { code: 'E_ABORTED' })
    t.ok(pieces < 8 * 24, 'before its end')
    await t.rejects(model.generate(prompts[0], { ...settings, signal: AbortSignal.abort() }), { code: 'E_ABORTED' })
    t.equal(await liveBytes(), before)
  })
})

/** Where the earliest of some texts begins. */
const cutAt = (text: string, stops: readonly string[]): string =>
  stops.reduce((cut, stop) => (text.includes(stop) ? cut.slice(0, text.indexOf(stop)) : cut), text)

t.test('streaming with stop strings gives out the text of the completion and no more', async (t) => {
  using model = await open('qwen2')
  const settings = { maxNewTokens: 24, stopIds: [], seed: 5 }
  const [{ text }] = await model.generate(prompts[3], settings)
  const stopSets = [
    ...[1, 3, 6].flatMap((length) => [4, 11, text.length - length].map((at) => [text.slice(at, at + length)])),
    [`${text.slice(5, 9)}\n never`, text.slice(14, 17)],
    [text.slice(9, 12), text.slice(8, 10)],
    [`${text.slice(-2)} and more that never comes`],
  ]
  for (const stopStrings of stopSets) {
    let streamed = ''
    const onText = (_prompt: number, _sample: number, piece: string) => {
      streamed += piece
    }
    const [stopped] = await model.generate(prompts[3], { ...settings, stopStrings, onText })
    const [silent] = await model.generate(prompts[3], { ...settings, stopStrings })
    t.same(stopped, silent, 'following changes nothing')
    t.equal(streamed, stopped.text, `what came before ${JSON.stringify(stopStrings)}`)
    t.equal(stopped.text, cutAt(text, stopStrings))
  }
})

t.test('text is held back only while it may begin a stop string', async (t) => {
  const tokenizer = await loadTokenizer(golden('qwen2'))
  const ids = tokenizer.encode('a b\n\nUser: aab 日本', { addSpecialTokens: false })
  const pieces: string[] = []
  const onText = (_prompt: number, _sample: number, piece: string) => pieces.push(piece)
  const half = { stopIds: new Set<number>(), stopStrings: ['\n\nUser!', 'aab c'], maxNewTokens: ids.length - 1 }
  const texts = followTexts(tokenizer, { ...half, onText })
  const asked = ids.slice(0, -1).map((id) => texts.follow(0, 0, id))
  t.notOk(asked.includes(true))
  t.ok(pieces.length > 3 && !pieces.includes(''), 'as soon as it is decided')
  t.equal(pieces.join(''), tokenizer.decode(ids.slice(0, -1)), 'all of it, also what was held back at the end')
  t.ok(pieces.join('').endsWith('\uFFFD'), 'with the beginning of a character that never came whole')
  t.equal(texts.textOf(0, 0), pieces.join(''))
  const letters = ['a', 'b', 'aa', 'é', ' a', '\n']
  const tokens = letters.flatMap((text) => tokenizer.encode(text, { addSpecialTokens: false }))
  const random = randomIds('held back', 6 * 500, tokens.length).map((i) => tokens[i])
  const end = tokenizer.encode('z', { addSpecialTokens: false })[0]
  let stops = 0
  for (let run = 0; run < 500; run++) {
    const own = random.slice(run * 6, run * 6 + 6)
    const stopStrings = [letters[run % 6] + letters[(run >> 1) % 6], `b${letters[(run >> 2) % 6]}`]
    pieces.length = 0
    const follower = followTexts(tokenizer, { stopIds: new Set([end]), stopStrings, maxNewTokens: 9, onText })
    const at = [...own, end].findIndex((id) => follower.follow(0, run, id))
    stops += Number(at >= 0)
    const whole = tokenizer.decode(own)
    if (pieces.join('') !== cutAt(whole, stopStrings) || follower.textOf(0, run) !== pieces.join(''))
      t.fail(`${JSON.stringify(whole)} by ${JSON.stringify(stopStrings)} gave ${JSON.stringify(pieces)}`)
  }
  t.ok(stops > 50 && stops < 450, `${stops} of 500 stopped`)
})

t.test('streaming', async (t) => {
  for (const name of ['llama', 'qwen2', 'smollm'] as const) {
    using model = await open(name)
    const pieces = new Map<string, string>()
    const onText = (prompt: number, sample: number, text: string) => {
      const key = `${prompt} ${sample}`
      pieces.set(key, (pieces.get(key) ?? '') + text)
    }
    const groups = await model.generate(prompts, { maxNewTokens: 60, numGenerations: 3, onText, seed: 9 })
    const plain = await model.generate(prompts, { maxNewTokens: 60, numGenerations: 3, seed: 9 })
    t.same(groups, plain, `${name}: following changes nothing`)
    let characters = 0
    groups.forEach((group, p) => {
      group.forEach(({ text }, s) => {
        const streamed = pieces.get(`${p} ${s}`) ?? ''
        characters += streamed.length
        if (streamed !== text) t.fail(`${name} ${p} ${s}: ${JSON.stringify(streamed)} is not ${JSON.stringify(text)}`)
      })
    })
    t.ok(characters > 500, `${name}: ${characters} characters came in pieces`)
    const text = 'größer 日本語 👩‍🚀 naïve Ωmega'
    const decoder = model.tokenizer.createDecoder()
    const parts = model.tokenizer.encode(text, { addSpecialTokens: false }).map((id) => decoder.push(id))
    t.equal(parts.join(''), text.normalize(), 'characters of several tokens')
    t.notOk(
      parts.some((part) => part.includes('\uFFFD') || /[\uD800-\uDBFF]$/.test(part)),
      'never half a character',
    )
  }
})

t.test('refusals', async (t) => {
  using model = await open('llama')
  const before = await liveBytes()
  const bad: Record<string, unknown[]> = {
    temperature: [-1, Number.NaN, Number.POSITIVE_INFINITY],
    topK: [-1, 1.5, Number.NaN],
    topP: [0, -0.1, 1.1, Number.NaN],
    minP: [-0.1, 1.1, Number.NaN],
    repetitionPenalty: [-1, 0, 1e7, Number.NaN],
    numGenerations: [0, -1, 1.5],
    maxNewTokens: [0, -1, 2.5, Number.POSITIVE_INFINITY],
    maxRows: [0, -1, 1.5],
    seed: [-1, 0.5, 2 ** 60],
    promptKeys: [[], ['a', 'b']],
  }
  for (const [name, values] of Object.entries(bad))
    for (const value of values)
      await t.rejects(
        model.generate([prompts[0]], { [name]: value }),
        { code: 'E_CONFIG', message: `[generate.${name}] expected` },
        `${name} ${value}`,
      )
  for (const ids of [[406], [-1], [1.5], [Number.NaN]]) {
    await t.rejects(model.generate([ids]), { code: 'E_CONFIG', message: /token ids below 406/ }, `token ${ids}`)
    await t.rejects(model.logProbs(ids), { code: 'E_CONFIG', message: /token ids below 406/ }, `log-prob of ${ids}`)
  }
  await t.rejects(model.generate([[]]), { code: 'E_CONFIG', message: /at least one token/ })
  await t.rejects(model.logProbs([[1], []]), { code: 'E_SHAPE' })
  t.same(await model.generate([]), [], 'no prompts, no samples')
  t.equal(await liveBytes(), before)
})

t.test('a damaged model and a small memory', async (t) => {
  for (const dtype of dtypes) {
    using model = await open('qwen3', dtype)
    const norm = model.decoder.parameters.byName.get('model.norm.weight')
    norm?.write(dtype === 'f32' ? new Float32Array(64).fill(Number.NaN) : new Uint16Array(64).fill(0x7fc0))
    await model.logProbs(prompts[0]) // makes the rotary tables, which stay
    const before = await liveBytes()
    await t.rejects(model.generate(prompts, { maxNewTokens: 4 }), { code: 'E_NONFINITE', message: /prompt 0/ })
    t.equal(await liveBytes(), before, `${dtype}: memory comes back`)
  }
  getDevice().close()
  const device = getDevice({ memoryLimitBytes: 3_000_000 })
  t.teardown(() => device.close())
  using model = await open('llama')
  await model.logProbs(prompts[0])
  const before = await liveBytes(device)
  await t.rejects(model.generate(prompts, { numGenerations: 64, maxRows: 512 }), { code: 'E_OOM' })
  t.equal(await liveBytes(device), before, 'memory comes back')
  const small = await model.generate(prompts, { maxRows: 2, maxNewTokens: 4 })
  t.equal(small.length, prompts.length, 'smaller work goes on')
})
