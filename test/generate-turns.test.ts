// Samples of several turns: what is put behind a turn is read over the keys that are there, and every log-prob is still that
// of the whole sequence, bit for bit; texts and stop strings begin anew; the cache grows.

import t from 'tap'
import {
  type Completion,
  type GenerateOptions,
  type LanguageModel,
  languageModel,
  loadModel,
} from '../ts/src/generate/language-model.js'
import { getDevice } from '../ts/src/native/device.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import { golden, liveBytes, randomIds, wordsOf } from './support.js'
import { gpt2Decoder } from './support-models.js'

const prompts = [1, 31, 32, 40].map((length) => randomIds(`turns ${length}`, length, 320))
/** What is put behind turn n of a sample: nothing, one token, or enough for several blocks of keys. */
const behind = (prompt: number, sample: number, turn: number): number[] | undefined =>
  turn === 3
    ? undefined
    : randomIds(`reply ${prompt} ${sample} ${turn}`, [0, 1, 7, 70][(prompt + sample + turn) % 4], 320)

interface Dialogue {
  readonly prompt: number
  readonly sample: number
  readonly ids: number[]
  /** What the sampler said of its tokens, by their places. */
  readonly said: Map<number, number>
  readonly turns: Completion[]
}

/** Dialogues of some prompts, by their numbers. */
async function converse(model: LanguageModel, which: readonly number[], options: GenerateOptions): Promise<Dialogue[]> {
  const { numGenerations = 1 } = options
  const all = which.map((prompt) =>
    Array.from({ length: numGenerations }, (_, sample): Dialogue => {
      return { prompt, sample, ids: [...prompts[prompt]], said: new Map(), turns: [] }
    }),
  )
  const last = await model.generate(
    which.map((prompt) => prompts[prompt]),
    {
      ...options,
      promptKeys: which,
      reply: (p, s, turn) => {
        const one = all[p][s]
        for (const [i, logp] of turn.logps.entries()) one.said.set(one.ids.length + i, logp)
        one.turns.push(turn)
        const ids = behind(one.prompt, s, one.turns.length)
        one.ids.push(...turn.ids, ...(ids ?? []))
        return ids
      },
    },
  )
  t.same(
    last.flat().map(({ ids, text }) => [ids, text]),
    all.flat().map(({ turns }) => [turns[turns.length - 1].ids, turns[turns.length - 1].text]),
    'what is given back is the last turn',
  )
  return all.flat()
}

for (const [name, dtype] of [
  ['llama', 'f32'],
  ['qwen3', 'bf16'],
  ['mistral', 'bf16'],
] as const)
  t.test(`${name} in ${dtype}: log-probs of the whole sequence`, async (t) => {
    const before = await liveBytes()
    {
      using model = await loadModel(golden(name), { dtype })
      const options = { maxNewTokens: 6, numGenerations: 3, seed: 5, stopIds: [...Array(40).keys()], topP: 0.9 }
      const all = await converse(model, [0, 1, 2, 3], options)
      const exact = await model.logProbs(all.map(({ ids }) => ids))
      for (const [i, { said, turns }] of all.entries()) {
        t.equal(turns.length, 3)
        t.ok(turns.every(({ ids }) => ids.length > 0 && ids.length <= 6))
        t.equal(wordsOf([...said.values()]).join(), wordsOf([...said.keys()].map((at) => exact[i][at])).join())
      }
      t.ok(new Set(all.map(({ turns }) => turns.at(-1)?.ids.join())).size > 6, 'turns differ')
      const [alone, few] = [
        await converse(model, [2], options),
        await converse(model, [3, 1, 0], { ...options, maxRows: 4 }),
      ]
      const of = (which: number) => all.filter(({ prompt }) => prompt === which)
      t.same(alone, of(2), 'alone')
      t.same(few, [...of(3), ...of(1), ...of(0)], 'a few rows at a time')
    }
    t.equal(await liveBytes(), before, 'caches that grew leave nothing behind')
  })

t.test('texts and stop strings begin anew with each turn', async (t) => {
  using model = await loadModel(golden('smollm'))
  const told: string[] = []
  const pieces: string[] = []
  await model.generate('2 + 2 =', {
    ...{ maxNewTokens: 12, stopStrings: ['e'], seed: 3, stopIds: [] },
    onText: (_, __, text) => pieces.push(text),
    reply: (_, __, { text, finishReason }) => {
      told.push(text)
      t.ok(finishReason === 'stop' || !text.includes('e'))
      return told.length < 4 ? model.tokenizer.encode(' e e') : undefined
    },
  })
  t.equal(told.length, 4)
  t.notOk(
    told.some((text) => text.includes('e')),
    'cut at the stop string of each turn',
  )
  t.equal(pieces.join(''), told.join(''), 'given out as they come')
})

t.test('refused', async (t) => {
  using model = await loadModel(golden('llama'))
  const reply = (given: unknown) => model.generate([1, 2], { maxNewTokens: 2, reply: () => given as never })
  for (const given of [[-1], [1e6], [0.5], 'x', 7]) await t.rejects(reply(given), { code: 'E_CONFIG' })
  const failing = model.generate([1, 2], {
    maxNewTokens: 2,
    reply: async () => {
      throw new Error('the world has ended')
    },
  })
  await t.rejects(failing, /the world has ended/)
  const stop = new AbortController()
  const endless = model.generate([1], {
    ...{ maxNewTokens: 1, signal: stop.signal },
    reply: (_, __, { ids }) => {
      stop.abort()
      return ids
    },
  })
  await t.rejects(endless, { code: 'E_ABORTED' })
  const before = await liveBytes()
  const learned = languageModel(gpt2Decoder(getDevice(), 'f32'), await loadTokenizer(golden('qwen2')), golden('qwen2'))
  const far = learned.generate([1], { maxNewTokens: 8, reply: () => randomIds('far', 60, 100) })
  await t.rejects(far, { code: 'E_CONFIG', message: /positions of the model/ }, 'learned positions end')
  learned.dispose()
  t.equal(await liveBytes(), before)
})
