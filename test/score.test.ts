// Score heads: their numbers against float64, their gradients against the formula, the same bits in any batch and any
// split; what a folder must say to have one, what is written so that Transformers finds it, and what is refused.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import { type LanguageModel, loadModel } from '../ts/src/generate/language-model.js'
import { readJsonObject, replaceMembers } from '../ts/src/io/json.js'
import { type TensorEntry, writeSafetensors } from '../ts/src/io/safetensors.js'
import { decoderConfig } from '../ts/src/models/config.js'
import { type Decoder, forward, packedInput } from '../ts/src/models/decoder.js'
import { packSequences } from '../ts/src/models/pack.js'
import { configJson, scoreRows, scoreWeight } from '../ts/src/models/score.js'
import { getDevice } from '../ts/src/native/device.js'
import { parameter } from '../ts/src/nn/parameters.js'
import { zeros } from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { entriesOf } from '../ts/train/state.js'
import { changedModel, golden, liveBytes, randomIds, randomOf, temporaryFolder, wordsOf } from './support.js'

const dtypes = ['f32', 'bf16'] as const
const sequences = [40, 7, 33].map((length) => randomIds(`scores ${length}`, length, 300))
const normal = (name: string, size: number): Float32Array => {
  const random = randomOf(name)
  return Float32Array.from({ length: size }, () => random.normal())
}

/** h W^T + b in float64. */
const product = (h: ArrayLike<number>, w: ArrayLike<number>, channels: number, bias?: ArrayLike<number>): number[] =>
  Array.from({ length: (h.length / channels) * (w.length / channels) }, (_, i) => {
    const labels = w.length / channels
    const [row, label] = [Math.floor(i / labels), i % labels]
    let sum = bias?.[label] ?? 0
    for (let c = 0; c < channels; c++) sum += h[row * channels + c] * w[label * channels + c]
    return sum
  })

const largestError = (got: ArrayLike<number>, expected: readonly number[]): number =>
  expected.reduce((most, value, i) => Math.max(most, Math.abs(value - got[i])), 0)

/** Hidden states of one sequence, [tokens, C]. */
async function hiddenOf(m: Decoder, ids: readonly number[]): Promise<ArrayLike<number>> {
  using scope = new Scope()
  return scope.run(() => forward(m, packedInput(m, packSequences([ids])))).data()
}

t.test('Granite divides logits, and no scores', async (t) => {
  using scorer = await loadModel(golden('granite'), { scoreLabels: 1 })
  using speaker = await loadModel(golden('granite'))
  const [scored, spoken] = [await hiddenOf(scorer.decoder, [5, 6, 7]), await hiddenOf(speaker.decoder, [5, 6, 7])]
  t.equal(speaker.decoder.config.headScale, 1 / 6)
  t.same(wordsOf(Float32Array.from(scored, (x) => x * Math.fround(1 / 6))), wordsOf(spoken as Float32Array))
})

t.test('numbers', async (t) => {
  for (const name of ['llama', 'gemma2', 'gpt2', 'phi3'])
    for (const dtype of dtypes) {
      using model = await loadModel(golden(name), { dtype, scoreLabels: 3, seed: 4 })
      const { hiddenSize } = model.decoder.config
      const weight = await parameter(model.decoder.parameters, 'score.weight').data()
      const scores = await model.scores(sequences)
      const everywhere = await model.scores(
        sequences,
        sequences.map((ids) => [...ids.keys()]),
      )
      for (const [s, ids] of sequences.entries()) {
        const hidden = await hiddenOf(model.decoder, ids)
        const expected = product(hidden, weight, hiddenSize)
        // The sum is in f32 even where the weights are bf16: rounding it to bf16 would cost 4e-3.
        t.ok(largestError(everywhere[s], expected) < 2e-6, `${name} ${dtype}: every token of sequence ${s}`)
        t.equal(everywhere[s].length, 3 * ids.length)
        t.same(wordsOf(scores[s]), wordsOf(everywhere[s].subarray(-3)), 'by default at the last token')
        const [alone] = await model.scores([ids])
        t.same(wordsOf(alone), wordsOf(scores[s]), 'alone or in a batch: the same bits')
      }
      t.same(await model.scores(sequences, [[], [6, 0], []]).then((all) => all.map(({ length }) => length)), [0, 6, 0])
    }
})

/** Gradients of sum(dy * scores) for the hidden states and the head, in the given pieces. */
async function gradientsOf(m: Decoder, hidden: Tensor, dy: Float32Array, pieces: readonly number[]) {
  const device = getDevice()
  const [tokens, channels] = hidden.shape
  const labels = m.config.scoreLabels ?? 0
  using scope = new Scope()
  const leaves = new Map<Tensor, Tensor>()
  for (const name of ['score.weight', 'score.bias']) {
    const leaf = m.parameters.byName.get(name)
    if (leaf !== undefined)
      leaves.set(
        leaf,
        scope.run(() => zeros(device, leaf.shape)),
      )
  }
  const parts: Tensor[] = []
  for (const [i, begin] of pieces.entries()) {
    const end = pieces[i + 1] ?? tokens
    using tape = new Tape(leaves)
    const rows = scope.run(() => hidden.view([end - begin, channels], begin * channels))
    tape.watch(rows)
    const y = scope.run(() => tape.record(() => scoreRows(m, rows)))
    const slope = scope.run(() => tensor(device, dy.slice(begin * labels, end * labels), [end - begin, labels]))
    tape.backward([[y, slope]])
    parts.push(tape.gradientOf(rows)!)
  }
  const read = (all: Iterable<Tensor>) => Promise.all(Array.from(all, (one) => one.data()))
  const result = { leaves: await read(leaves.values()), dx: (await read(parts)).flatMap((part) => [...part]) }
  for (const part of parts) part.release()
  return result
}

t.test('gradients', async (t) => {
  const before = await liveBytes()
  const folder = await tokenClassifier(join(await temporaryFolder(t), 'model'))
  for (const dtype of dtypes) {
    using model = await loadModel(folder, { dtype })
    const m = model.decoder
    const [tokens, channels, labels] = [67, m.config.hiddenSize, 3]
    using scope = new Scope()
    const hidden = scope.run(() =>
      tensor(getDevice(), bitsOf(normal('hidden', tokens * channels), dtype), [tokens, channels]),
    )
    const h = Array.from(await hidden.data())
    const w = await parameter(m.parameters, 'score.weight').data()
    const dy = normal('slopes', tokens * labels)
    const whole = await gradientsOf(m, hidden, dy, [0])
    const split = await gradientsOf(m, hidden, dy, [0, 1, 30, 64])
    const dw = Array.from({ length: labels * channels }, (_, i) => {
      const [label, c] = [Math.floor(i / channels), i % channels]
      return h.reduce(
        (sum, value, j) => (j % channels === c ? sum + value * dy[Math.floor(j / channels) * labels + label] : sum),
        0,
      )
    })
    const db = [0, 1, 2].map((label) => dy.reduce((sum, value, i) => (i % labels === label ? sum + value : sum), 0))
    const dx = h.map((_, i) => {
      const [row, c] = [Math.floor(i / channels), i % channels]
      return [0, 1, 2].reduce((sum, label) => sum + dy[row * labels + label] * w[label * channels + c], 0)
    })
    t.ok(largestError(whole.leaves[0], dw) < 2e-5, `${dtype}: weight, ${largestError(whole.leaves[0], dw)}`)
    t.ok(largestError(whole.leaves[1], db) < 2e-5, `${dtype}: bias`)
    const rounding = Math.max(...dx.map(Math.abs)) * (dtype === 'f32' ? 1e-6 : 2 ** -8)
    t.ok(largestError(whole.dx, dx) <= rounding, `${dtype}: hidden states`)
    for (const i of [0, 1])
      t.same(wordsOf(split.leaves[i]), wordsOf(whole.leaves[i]), 'micro-batches add up to the bits')
    t.same(split.dx, whole.dx)
  }
  t.equal(await liveBytes(), before, 'nothing stays behind')
})

const bitsOf = (values: Float32Array, dtype: 'f32' | 'bf16'): Float32Array | Uint16Array =>
  dtype === 'f32' ? values : new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1)

const entry = (name: string, shape: number[]): TensorEntry => ({
  name,
  dtype: 'F32',
  shape,
  data: new Uint8Array(
    normal(
      name,
      shape.reduce((a, b) => a * b),
    ).buffer,
  ),
})

/** The golden Llama as Transformers saves a token classifier: three labels, with a bias. */
const tokenClassifier = (folder: string): Promise<string> =>
  changedModel(folder, 'llama', {
    config: { architectures: ['LlamaForTokenClassification'], id2label: { 0: 'bad', 1: 'neutral', 2: 'good' } },
    weights: (all) => [
      ...all.filter(({ name }) => name !== 'lm_head.weight'),
      entry('score.weight', [3, 64]),
      entry('score.bias', [3]),
    ],
  })

t.test('heads of a folder', async (t) => {
  const folder = join(await temporaryFolder(t), 'model')
  await t.test('a token classifier', async (t) => {
    using model = await loadModel(await tokenClassifier(folder), { scoreLabels: 3 })
    const hidden = await hiddenOf(model.decoder, sequences[1])
    const expected = product(hidden, normal('score.weight', 192), 64, normal('score.bias', 3))
    const [scores] = await model.scores([sequences[1]], [[...sequences[1].keys()]])
    t.ok(largestError(scores, expected) < 1e-6 * Math.max(...expected.map(Math.abs)))
    await t.rejects(loadModel(folder, { scoreLabels: 2 }), { code: 'E_MISMATCH', message: /expected 3.*got 2/ })
  })
  await t.test('labels', async (t) => {
    const raw = await readJsonObject(join(golden('llama'), 'config.json'))
    const architectures = ['LlamaForSequenceClassification']
    const labels = (patch: object) => decoderConfig({ ...raw, ...patch }).scoreLabels
    t.equal(labels({}), undefined)
    t.equal(labels({ num_labels: 5, id2label: { 0: 'a' } }), undefined, 'a language model whatever else is said')
    t.equal(labels({ architectures, num_labels: 5 }), 5)
    t.equal(labels({ architectures, id2label: { 0: 'a' } }), 1)
    t.equal(labels({ architectures }), 2, "Transformers' default")
    for (const num_labels of [0, -1, 1.5, '2', 2 ** 31])
      t.throws(() => labels({ architectures, num_labels }), { code: 'E_CONFIG', message: /num_labels/ })
  })
  await t.test('weights that do not fit', async (t) => {
    const architectures = ['LlamaForSequenceClassification']
    const config = { architectures, num_labels: 2 }
    await changedModel(folder, 'llama', { config })
    await t.rejects(loadModel(folder), { code: 'E_MISMATCH', message: /missing: score\.weight$/ })
    await changedModel(folder, 'llama', { config, weights: (all) => [...all, entry('score.weight', [1, 64])] })
    await t.rejects(loadModel(folder), { code: 'E_MISMATCH', message: /score\.weight \(expected \[2, 64\]/ })
    await changedModel(folder, 'llama', { weights: (all) => [...all, entry('score.weight', [1, 64])] })
    await t.rejects(loadModel(folder, { scoreLabels: 1 }), {
      code: 'E_MISMATCH',
      message: /unexpected: score\.weight$/,
    })
  })
})

t.test('fresh heads', async (t) => {
  const said: string[] = []
  const open = (seed?: number, dtype?: 'f32' | 'bf16') =>
    loadModel(golden('smollm'), { scoreLabels: 50, seed, dtype, warn: (message) => said.push(message) })
  const weightOf = async (model: LanguageModel) => {
    using m = model
    return Array.from(await scoreWeight(m.decoder)!.data())
  }
  const first = await weightOf(await open())
  t.same(await weightOf(await open(0)), first, 'the same seed, the same head')
  t.notSame(await weightOf(await open(1)), first)
  t.match(said[0], 'the head of the language model is not used; score.weight [50, 72] is new, with values of seed 0')
  const deviation = Math.sqrt(first.reduce((sum, x) => sum + x * x, 0) / first.length)
  t.ok(Math.abs(deviation - 0.02) < 0.001, `deviation ${deviation}`)
  const rounded = await weightOf(await open(0, 'bf16'))
  t.ok(largestError(rounded, first) < 4e-3 * 0.1, 'bf16 values of the same numbers')
  using plain = await loadModel(golden('smollm'))
  t.equal(scoreWeight(plain.decoder), undefined)
})

t.test('what is written loads again', async (t) => {
  const folder = join(await temporaryFolder(t), 'model')
  for (const name of ['llama', 'gpt2', 'gemma2']) {
    await changedModel(folder, name, {})
    using model = await loadModel(folder, { scoreLabels: 2 })
    const path = join(folder, 'config.json')
    const text = await readFile(path, 'utf8')
    const written = configJson(model.decoder.config, text, 'f32')
    await writeFile(path, written)
    await writeSafetensors(join(folder, 'model.safetensors'), await entriesOf(model.decoder.parameters))
    using again = await loadModel(folder)
    const bits = async (m: LanguageModel) => (await m.scores(sequences)).map(wordsOf)
    t.same(await bits(again), await bits(model), name)
    t.equal(configJson(again.decoder.config, written, 'f32'), written, 'said once')
    const raw = await readJsonObject(path)
    const { architectures, num_labels, id2label, label2id, ...others } = raw
    const { architectures: old, ...before } = JSON.parse(text)
    t.same(others, before, 'nothing else has changed')
    t.notSame(architectures, old)
    t.match(architectures, [/^(Llama|GPT2|Gemma2)ForSequenceClassification$/])
    t.same({ num_labels, id2label }, { num_labels: 2, id2label: { 0: 'LABEL_0', 1: 'LABEL_1' } })
    t.same(label2id, { LABEL_0: 0, LABEL_1: 1 })
  }
  const text = await readFile(join(golden('gemma2'), 'config.json'), 'utf8')
  const spelled = /"final_logit_softcapping": \d+\.0,/.exec(text)?.[0] ?? 'not there'
  t.ok(
    await readFile(join(folder, 'config.json'), 'utf8').then((now) => now.includes(spelled)),
    'numbers keep their dot',
  )
  using plain = await loadModel(golden('gemma2'))
  t.equal(configJson(plain.decoder.config, text, 'f32'), text, 'a language model keeps its file')
  const rounded = JSON.parse(configJson(plain.decoder.config, text, 'bf16'))
  t.same(rounded, { ...JSON.parse(text), torch_dtype: 'bfloat16' }, 'but for the type of its weights')
  const now = JSON.stringify({ ...JSON.parse(text), torch_dtype: undefined, dtype: 'float16' })
  t.equal(JSON.parse(configJson(plain.decoder.config, now, 'f32')).dtype, 'float32', 'under the key that it has')
  const { torch_dtype: _, ...untyped } = JSON.parse(text)
  const silent = JSON.stringify(untyped)
  t.equal(configJson(plain.decoder.config, silent, 'bf16'), silent, 'where nothing is said, the weights say it')
})

t.test('members of a text', async (t) => {
  const text = '{"a": 10.0, "b\\n\\"": [1, {"a": 2}], "c":{"x":",}"},"d":"\\\\"}'
  const changed = replaceMembers(text, { c: [3], e: null })
  t.equal(changed, '{\n  "a": 10.0,\n  "b\\n\\"": [1, {"a": 2}],\n  "c": [3],\n  "d": "\\\\",\n  "e": null\n}\n')
  t.same(JSON.parse(changed), { ...JSON.parse(text), c: [3], e: null })
  t.same(JSON.parse(replaceMembers('{ }', { a: 1 })), { a: 1 })
})

t.test('refusals', async (t) => {
  const before = await liveBytes()
  using plain = await loadModel(golden('smollm'))
  using scorer = await loadModel(golden('smollm'), { scoreLabels: 1 })
  const ids = sequences[1]
  await t.rejects(plain.scores([ids]), { code: 'E_CONFIG', message: /expected a score head, got a language model/ })
  const noHead = { code: 'E_CONFIG', message: /expected a language model, got one with a score head/ }
  await t.rejects(scorer.logProbs(ids), noHead)
  await t.rejects(scorer.logits(ids), noHead)
  await t.rejects(scorer.generate(ids, { maxNewTokens: 2 }), noHead)
  for (const scoreLabels of [0, -1, 1.5, Number.NaN])
    await t.rejects(loadModel(golden('smollm'), { scoreLabels }), { code: 'E_CONFIG', message: /scoreLabels/ })
  await t.rejects(scorer.scores([[]]), { code: 'E_SHAPE', message: /no tokens/ })
  await t.rejects(scorer.scores([ids, [9999]]), { code: 'E_CONFIG', message: /sequence 1/ })
  await t.rejects(scorer.scores([ids], []), { code: 'E_CONFIG', message: /a list for each of 1/ })
  for (const at of [-1, ids.length, 0.5])
    await t.rejects(scorer.scores([ids], [[0, at]]), { code: 'E_CONFIG', message: /sequence 0.*below its length, 7/ })
  plain.dispose()
  scorer.dispose()
  t.equal(await liveBytes(), before)
})

t.test('more sequences than one pass takes', async (t) => {
  const many = Array.from({ length: 40 }, (_, s) => randomIds(`pass ${s}`, 250 + s, 300))
  using plain = await loadModel(golden('smollm'))
  using scorer = await loadModel(golden('smollm'), { scoreLabels: 2 })
  const [logps, numbers] = [await plain.logProbs(many), await scorer.scores(many)]
  for (const s of [0, 17, 39]) {
    t.same(logps[s], await plain.logProbs(many[s]), `log-probs of sequence ${s} are those of it alone`)
    t.same([numbers[s]], await scorer.scores([many[s]]))
  }
  t.same([logps.length, numbers.length], [40, 40])
  await t.rejects(plain.logProbs([...many, []]), { code: 'E_SHAPE', where: 'sequence 40' })
})
