// Verdicts of a model on attempts, held against its logits; and refinements that are chosen by them (ILF).

import { join } from 'node:path'
import t from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import { type Trace, withScores } from '../ts/train/loop/trace.js'
import { verdict } from '../ts/train/loop/verdict.js'
import { ilfSelect } from '../ts/train/recipes/ilf.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters, runRecipe } from './support-recipes.js'
import { task, trace } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

t.test('a verdict is P(yes) / (P(yes) + P(no)) behind the attempt and the question', async (t) => {
  using policy = await loadModel(base)
  const idsOf = (text: string) => policy.tokenizer.encode(text)
  const attempt = (text: string, sample: number): Trace => ({
    task: task('a'),
    sample,
    segments: [
      { role: 'prompt', text: 'a=', ids: idsOf('a=') },
      { role: 'completion', text, ids: idsOf(text) },
    ],
    finishReason: 'stop',
    scores: { reward: sample },
  })
  const traces = ['b', 'abab', 'aa', ''].map(attempt)
  const ask = async (question: Parameters<typeof verdict>[1]['question'], some = traces, more = {}) =>
    (await verdict(policy, { question, yes: 'a', no: 'b', ...more })(some)).map(({ scores }) => scores.verdict)
  const values = await ask('=b')
  for (const [i, { segments }] of traces.entries()) {
    const logits = await policy.logits([...segments.flatMap(({ ids }) => ids), ...idsOf('=b')])
    const last = logits.subarray(logits.length - policy.decoder.config.vocabSize)
    const [a, b] = ['a', 'b'].map((text) => Math.exp(last[idsOf(text)[0]]))
    t.ok(Math.abs(values[i] - a / (a + b)) < 1e-6, `attempt ${i}: ${values[i]}`)
  }
  t.same(await ask('=b', traces.slice(1, 2)), values.slice(1, 2), 'alone or among others: the same bits')
  const other = await ask(({ segments: [, own] }) => `=${own.text.slice(0, 1)}`)
  t.same(
    await ask([({ segments: [, own] }) => `=${own.text.slice(0, 1)}`, '=b']),
    other.map((value, i) => (value + values[i]) / 2),
    'the mean of several questions',
  )
  const swapped = await ask('=b', traces, { yes: 'b', no: 'a' })
  t.ok(swapped.every((value, i) => Math.abs(value + values[i] - 1) < 1e-12))
  const [long] = await ask('=', traces.slice(0, 1), { yes: 'ab', no: 'bbb' })
  const ids = [...traces[0].segments.flatMap(({ ids }) => ids), ...idsOf('=')]
  const sums = await Promise.all(
    ['ab', 'bbb'].map(async (text) =>
      (await policy.logProbs([...ids, ...idsOf(text)])).slice(-text.length).reduce((sum, l) => sum + l, 0),
    ),
  )
  t.ok(Math.abs(long - 1 / (1 + Math.exp(sums[1] - sums[0]))) < 1e-12, 'answers of several tokens')
  const [named] = await verdict(policy, { question: '=', yes: 'a', no: 'b', as: 'kept' })(traces.slice(0, 1))
  t.match(named.scores, { reward: 0, kept: Number })
  t.throws(() => verdict(policy, { question: [] }), { code: 'E_CONFIG' })
  t.throws(() => verdict(policy, { question: '?', yes: 'a', no: 'a' }), { code: 'E_CONFIG' })
})

t.test('ILF: the best refinement of each draft, behind the bare prompt', async (t) => {
  const refined = (id: string, sample: number, text: string, [reward, by]: readonly number[]) =>
    withScores(trace(id, sample, ['draft', text]), { reward, verdict: by })
  const given = [
    refined('m', 0, 'u', [0, 0.4]),
    refined('m', 1, 'v', [1, 0.6]),
    refined('m', 2, 'w', [0.5, 0.9]),
    refined('m', 3, 'x', [0, 0.1]),
    refined('m', 4, 'y', [0, 0.2]),
    trace('k', 0, ['fine'], { reward: 1, verdict: 0.5 }),
  ]
  const kept = (selectBy: 'verdict' | 'reward' | 'random', more = {}) =>
    ilfSelect({ refinements: 3, selectBy, keepDrafts: true, seed: 1, ...more })(given).map(
      ({ task: { id }, segments }) => `${id} ${segments.map(({ text }) => text).join('')}`,
    )
  t.same(kept('verdict'), ['m m=w', 'm m=y', 'k k=fine'])
  t.same(kept('reward'), ['m m=v', 'm m=x', 'k k=fine'], 'of equals the first')
  t.same(kept('verdict', { keepDrafts: false }), ['m m=w', 'm m=y'])
  t.same(kept('random'), kept('random'))
  t.ok(new Set([1, 2, 3, 4, 5, 6].map((seed) => String(kept('random', { seed })))).size > 1, 'a draw of the seed')
})

t.test('ILF by the verdict of the policy itself, with feedback from a column', async (t) => {
  const rows = ['a=', 'b=', 'aa=', 'ab='].map((prompt, i) => ({ prompt, wanted: 'b', feedback: i === 0 ? '' : 'b' }))
  const options = { prompts: rows, feedback: undefined, selectBy: 'verdict', rounds: 2, refineRequest: '={feedback}=' }
  const { events } = await runRecipe('ilf', { base, options })
  const [values] = events.flatMap((event) => (event.type === 'round' ? [event.values] : []))
  t.match(values, { samples: 4 + 3 * 12, kept: 16, 'turns/first': Number, 'turns/gain': Number })
  await t.rejects(runRecipe('ilf', { base, options: { feedback: 'no function' } }), { code: 'E_CONFIG' })
})
