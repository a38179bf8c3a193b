// PIT: samples behind shown answers, of the data or of a writer, and the reward of a model of the gap between two answers.

import { join } from 'node:path'
import t from 'tap'
import { gapReward } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { gapRewardModel } from '../ts/train/loop/reward-model.js'
import { exploreShown, givenAnswers, writtenAnswers } from '../ts/train/loop/shown.js'
import { recipes } from '../ts/train/recipes/index.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { temporaryFolder } from './support.js'
import { makeTiny } from './support-kinds.js'
import { makeTwoLetters } from './support-recipes.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

const template = { text: '{prompt}{answer}=', request: '' }
const tasks = ['a', 'b', 'ab', 'ba', 'aa', 'bb'].map((prompt) => ({
  id: prompt,
  prompt: `${prompt}=`,
  answer: '',
  row: { rejected: 'a', chosen: 'bb' },
}))

t.test('samples behind answers of the data, and behind those of a writer', async (t) => {
  using policy = await loadModel(base)
  const sampling = { numGenerations: 2, maxNewTokens: 3 }
  const context = { policy, seed: 1, round: 1 }
  const explore = exploreShown(givenAnswers(['rejected', 'chosen']), sampling, template)
  const traces = await explore(context, tasks)
  const shownOf = (some: typeof traces) => some.map(({ task: { row } }) => String(row?.shown))
  const shown = shownOf(traces)
  t.same(new Set(shown), new Set(['a', 'bb']), 'both columns come')
  for (const [i, { task, segments, sample }] of traces.entries()) {
    const seen = `${task.id}=${shown[i]}=`
    t.equal(segments[0].text, seen)
    t.same(segments[0].ids, policy.tokenizer.encode(seen), 'what the policy read')
    t.equal(task.prompt, `${task.id}=`, 'the task is what it was: checkers read it')
    const keys = [`round 1 task ${task.id}`]
    const [alone] = await policy.generate([seen], { numGenerations: 2, maxNewTokens: 3, seed: 1, promptKeys: keys })
    t.same(segments[1].ids, alone[sample].ids, 'sampled as any other prompt, alone or among others')
  }
  t.same(shownOf(await explore(context, tasks.slice(2, 3))), shown.slice(4, 6), 'drawn by task')
  const again = shownOf(await explore({ ...context, round: 2 }, tasks))
  t.notSame(again, shown, 'and by round')
  await t.rejects(exploreShown(givenAnswers(['better']), sampling, template)(context, tasks), {
    code: 'E_CONFIG',
    where: 'a',
    message: /column 'better'/,
  })

  using writer = await loadModel(base)
  const written = await exploreShown(writtenAnswers(writer, sampling), sampling, template)(context, tasks)
  const promptKeys = tasks.map(({ id }) => `round 1 task ${id} to be shown`)
  const prompts = tasks.map(({ prompt }) => prompt)
  const answers = await writer.generate(prompts, { numGenerations: 1, maxNewTokens: 3, seed: 1, promptKeys })
  t.same(
    shownOf(written).filter((_, i) => i % 2 === 0),
    answers.map(([{ text }]) => text),
  )
  t.equal(written[0].segments[0].text, `a=${answers[0][0].text}=`)
})

t.test('the reward of a model of the gap', async (t) => {
  const wide = join(folder, 'gap')
  await makeTiny(wide)
  using model = await loadModel(wide, { scoreLabels: gapReward().needs.values, seed: 2 })
  const reward = gapRewardModel(model)
  t.equal(reward.name, 'gap')
  const input = (rows: readonly object[]) => ({
    prompts: rows.map(() => 'p'),
    tasks: rows.map((row, i) => ({ id: String(i), prompt: 'p', answer: '', row })),
    rows,
    completions: rows.map((_, i) => ['good', 'bad'][i]),
  })
  const given = [{ shown: 'bad' }, { shown: 'good' }]
  const gaps = await reward(input(given) as never)
  for (const [i, { shown }] of given.entries()) {
    const text = `p\n\nAn answer:\n${shown}\n\nA better answer:\n${['good', 'bad'][i]}`
    const ids = [...model.tokenizer.encode(text), model.tokenizer.eosId ?? 0]
    t.equal(gaps[i], (await model.scores([ids]))[0][0], 'read as the objective trains')
  }
  await t.rejects(async () => reward(input([{}]) as never), { code: 'E_CONFIG', message: /'shown'/ })
})

t.test('runs of both stages', async (t) => {
  using policy = await loadModel(base)
  using writer = await loadModel(base)
  const short = {
    rounds: 1,
    promptsPerRound: 2,
    numGenerations: 2,
    maxCompletionLength: 2,
    revisionText: template.text,
  }
  const prompts = tasks.map(({ prompt, row }) => ({ prompt, ...row }))
  const seen: string[] = []
  const gain = ({ completions, rows }: { completions: readonly string[]; rows: readonly Record<string, unknown>[] }) =>
    completions.map((text, i) => {
      seen.push(String(rows[i].shown))
      return text.length - String(rows[i].shown).length
    })
  await recipes.pit({ policy, prompts, rewardFuncs: [gain], ...short }).result
  t.ok(seen.length === 4 && seen.every((text) => ['a', 'bb'].includes(text)), 'stage A: rewards see the data’s answers')
  seen.length = 0
  const onlyPrompts = prompts.map(({ prompt }) => ({ prompt }))
  await recipes.pit({ policy, prompts: onlyPrompts, rewardFuncs: [gain], writer, ...short }).result
  t.equal(seen.length, 4, 'stage B needs no column')
  const kept = { policy, prompts: onlyPrompts, rewardFuncs: [gain], ...short, output: join(folder, 'kept') }
  await recipes.pit({ ...kept, writer }).result
  const other = join(folder, 'other')
  const size = { seed: 8, hiddenSize: 16, layers: 1, heads: 2, intermediateSize: 32 }
  await makeTaskModel(other, { characters: 'ab=' } as never, size)
  using stranger = await loadModel(other)
  await t.rejects(async () => recipes.pit({ ...kept, writer: stranger, resume: true }).result, {
    code: 'E_MISMATCH',
    message: /models was/,
  })
  t.throws(() => recipes.pit({ policy, prompts, rewardFuncs: ['folder'], ...short }), {
    code: 'E_CONFIG',
    message: /gapRewardModel/,
  })
})
