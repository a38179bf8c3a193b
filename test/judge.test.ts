// Judges that write, held against what the model generates; critics, on attempts made by hand and in a short run.

import { join } from 'node:path'
import t from 'tap'
import { mean } from '../ts/src/base/stats.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { chain } from '../ts/train/loop/chain.js'
import { balancedSet, criticise, criticStatistics } from '../ts/train/loop/critic.js'
import { type JudgeOptions, judge, judgeReward } from '../ts/train/loop/judge.js'
import { rewardStatistics } from '../ts/train/loop/metrics.js'
import { nameRewards, scoreRewards, scoreTurns } from '../ts/train/loop/rewards.js'
import { type Trace, turnsOf, withScores } from '../ts/train/loop/trace.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters, runRecipe, share } from './support-recipes.js'
import { trace } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

const count = (text: string): number => [...text].filter((c) => c === 'b').length
const asking: JudgeOptions = {
  ...{
    template: ({ completion }) => `${completion.replaceAll(/[^ab]/g, '')}=`,
    parse: count,
    samples: 16,
    maxNewTokens: 6,
    seed: 5,
  },
}
const written = ['b', 'abab', 'aa', 'b', 'ba'].map((text, i) => trace('a', i, [text]))

t.test('what judgements come to', async (t) => {
  using policy = await loadModel(base)
  const scored = await judge(policy, asking)(written)
  for (const [i, { scores, segments }] of scored.entries()) {
    const ids = policy.tokenizer.encode(`${segments[1].text}=`)
    const drawn = { maxNewTokens: 6, numGenerations: 16, seed: 5, promptKeys: [`judge ${ids.join()}`] }
    const [group] = await policy.generate([ids], drawn)
    const ended = group.filter(({ finishReason }) => finishReason === 'stop').map(({ text }) => count(text))
    t.ok(ended.length > 0 && ended.length < 16, 'some judgements are cut off')
    t.match(scores, { judge: mean(ended), 'judge/read': ended.length / 16 }, `sample ${i}`)
  }
  t.same(scored[3].scores, scored[0].scores, 'the same text is judged the same')
  t.same(await judge(policy, asking)(written.slice(1, 3)), scored.slice(1, 3), 'alone or among others: the same bits')
  t.same(await judge(policy, asking)([]), [])

  const odd = (text: string) => (count(text) === 1 ? 7 : undefined)
  const [few] = await judge(policy, { ...asking, parse: odd, as: 'odd' })(written)
  t.equal(few.scores.odd, 7, 'what cannot be read does not count')
  t.ok(few.scores['odd/read'] < scored[0].scores['judge/read'])
  // Of the judgements that end, the n-th is read as the n-th of these.
  const majorityOf = async (numbers: readonly number[]): Promise<number> => {
    let at = 0
    const parse = () => numbers[at++]
    return (await judge(policy, { ...asking, reduction: 'majority', parse })(written.slice(0, 1)))[0].scores.judge
  }
  t.equal(await majorityOf([3, 1, 1]), 1, 'the most frequent one')
  t.equal(await majorityOf([3, 1, 1, 3]), 3, 'of equals the first')

  const [none] = await judge(policy, { ...asking, parse: () => undefined })(written)
  t.same(none.scores, { 'judge/read': 0 })
  await t.rejects(judge(policy, { ...asking, parse: () => Number.NaN })(written), { code: 'E_VERIFIER' })
  await t.rejects(judge(policy, { ...asking, template: (() => 7) as never })(written), { code: 'E_CONFIG' })
  t.throws(() => judge(policy, { ...asking, logps: 'model' } as never), { code: 'E_CONFIG' })
})

t.test('a judge as a reward function', async (t) => {
  using policy = await loadModel(base)
  const short = (text: string) => (text === '' ? undefined : count(text))
  const options = { ...asking, parse: short, samples: 1 }
  const plain = await judge(policy, options)(written)
  const known = plain.map(({ scores }) => scores.judge)
  t.ok(known.some((value) => value === undefined) && known.some((value) => value !== undefined))
  const zero = Object.defineProperty(() => written.map(() => 0), 'name', { value: 'zero' })
  const rewards = (more = {}) => scoreRewards(nameRewards([judgeReward(policy, { ...options, ...more }), zero]))
  const scored = await rewards()(written)
  t.same(
    scored.map(({ scores }) => scores['rewards/judge']),
    known,
  )
  const applied = known.filter((value) => value !== undefined).length / known.length
  const values = rewardStatistics(scored, scored)
  t.equal(values['rewards/judge/applied'], applied)
  t.notOk('rewards/zero/applied' in values, 'nothing to say where it applies to all')
  const filled = await rewards({ unread: -1 })(written)
  t.same(
    filled.map(({ scores }) => scores['rewards/judge']),
    known.map((value) => value ?? -1),
  )
  const alone = scoreRewards(nameRewards([judgeReward(policy, options)]))
  await t.rejects(alone(written), { code: 'E_VERIFIER' }, 'the only reward says nothing')
})

t.test('iterative SimPO with a judge that writes', async (t) => {
  using reviewer = await loadModel(base)
  const rewardFuncs = [judgeReward(reviewer, { ...asking, samples: 4, unread: 0 }), share]
  const run = () => runRecipe('onlineSimpo', { base, options: { rewardFuncs, rewardWeights: [1, 0], rounds: 2 } })
  const [first, again] = [await run(), await run()]
  t.equal(first.hash, again.hash)
  const [values] = first.events.flatMap((event) => (event.type === 'round' ? [event.values] : []))
  t.match(values, { 'rewards/judge/mean': values.reward, 'rewards/share/mean': Number })
})

/** Answers before and after. */
const answered = (before: number, after: number, i: number) =>
  withScores(trace('a', i, ['x', 'y']), { 'reward/1': before, 'reward/2': after })

t.test('what critics make of answers', async (t) => {
  const kinds = [
    [1, 1],
    [1, 1],
    [1, 0],
    [0, 1],
    [0, 1],
    [0, 0],
  ] as const
  const traces = kinds.map(([a, b], i) => answered(a, b, i))
  t.same(criticStatistics([...traces, trace('b', 0, ['z'], { 'reward/1': 1 })]), {
    'critic/accuracy': 4 / 6,
    'critic/gain': 1 / 6,
    'critic/right_to_right': 2,
    'critic/right_to_wrong': 1,
    'critic/wrong_to_right': 2,
    'critic/wrong_to_wrong': 1,
  })
  t.same(criticStatistics([answered(0.5, 1, 0)]), {}, 'neither right nor wrong')
  t.same(criticStatistics([]), {})
})

t.test('a balanced set', async (t) => {
  const made = Array.from({ length: 30 }, (_, i) =>
    trace(`t${i % 10}`, Math.floor(i / 10), ['x'], { reward: Number(i % 3 === 0) }),
  )
  const set = balancedSet(made, 12, 1)
  t.same([set.length, set.filter(({ scores }) => scores['reward/1'] === 1).length], [12, 6])
  const named = (some: readonly Trace[]) => some.map(({ task, sample }) => `${task.id} ${sample}`)
  t.same(named(balancedSet(made.toReversed(), 12, 1)).sort(), named(set).sort(), 'the order of the samples is nothing')
  t.notSame(named(balancedSet(made, 12, 2)), named(set), 'a draw of the seed')
  t.notOk('logps' in set[0].segments[1], 'somebody else wrote them')
  t.throws(() => balancedSet(made, 22, 1), { code: 'E_CONFIG', message: /11 samples with reward 1, got 10/ })
  t.throws(() => balancedSet(made, 11, 1), { code: 'E_CONFIG' })
  t.throws(() => balancedSet([...made, made[0]], 12, 1), { code: 'E_CONFIG' })
  const cut = made.map((one) => ({ ...one, finishReason: 'length' as const }))
  t.throws(() => balancedSet(cut, 2, 1), { code: 'E_CONFIG' }, 'cut off')
})

t.test('given answers go on as own ones do', async (t) => {
  using policy = await loadModel(base)
  const context = { policy, seed: 1, round: 1 }
  const tasks = ['a=', 'b=', 'ab='].map((prompt) => ({ id: prompt, prompt, answer: '' }))
  const turns = [{ maxNewTokens: 3, inject: () => '=' }]
  const first = { numGenerations: 4, maxNewTokens: 4 }
  const whole = await chain(first, turns)(context, tasks)
  const own = await chain(first, [])(context, tasks)
  const texts = (some: readonly Trace[]) => some.map((one) => turnsOf(one).map(({ text }) => text))
  t.same(texts(await criticise(own, turns)(context, tasks)), texts(whole))
  t.same(
    texts(await criticise(own, turns)(context, tasks.slice(1, 2))),
    texts(whole.slice(4, 8)),
    'those of the tasks alone',
  )
  let judged = 0
  const right = async (traces: readonly Trace[]) => {
    judged += traces.length
    return traces.map((one) => withScores(one, { reward: Number(turnsOf(one)[0].text.includes('b')) }))
  }
  const set = balancedSet(await right(own), 2, 1)
  judged = 0
  const scored = await scoreTurns(right)(await criticise(set, turns)(context, tasks))
  t.equal(judged, 2, 'what is known of given answers is not asked again')
  const now = scored.map((one) => Number(turnsOf(one)[1].text.includes('b')))
  t.equal(criticStatistics(scored)['critic/accuracy'], mean(now))
})
