// Parts of the loop besides rounds: rewards, credit, pairs, examples, chains of turns, prompts, revisions.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { advantages } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { writeSafetensors } from '../ts/src/io/safetensors.js'
import { decoderConfig } from '../ts/src/models/config.js'
import { createDecoder, decoderSpecs } from '../ts/src/models/decoder.js'
import { initializeDecoder, smallLlamaConfig } from '../ts/src/models/init.js'
import { getDevice } from '../ts/src/native/device.js'
import { createFlat, disposeFlat } from '../ts/src/nn/parameters.js'
import { characterTokenizer } from '../ts/src/tokenizer/character.js'
import { chain } from '../ts/train/loop/chain.js'
import { countUntied, credit, untiedFirst } from '../ts/train/loop/credit.js'
import { completionExamples, pairExamples, policyExamples, sequenceOf } from '../ts/train/loop/examples.js'
import { referenceLogps } from '../ts/train/loop/likelihood.js'
import { rewardStatistics, twoTurnStatistics } from '../ts/train/loop/metrics.js'
import { readPrompts, taskRounds } from '../ts/train/loop/prompts.js'
import { softOverlongReward } from '../ts/train/loop/ready-rewards.js'
import { revise } from '../ts/train/loop/revise.js'
import { nameRewards, type RewardFunction, scoreRewards, scoreTurns } from '../ts/train/loop/rewards.js'
import { rollouts } from '../ts/train/loop/rollouts.js'
import { completionLength, type Segment, type Trace, turnsOf } from '../ts/train/loop/trace.js'
import { entriesOf } from '../ts/train/state.js'
import type { Task } from '../ts/train/tasks/index.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters } from './support-recipes.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

const task = (id: string): Task => ({ id, prompt: `${id}=`, answer: '', row: { column: `row of ${id}` } })

const segment = (text: string, turn: Partial<Segment> = {}): Segment => ({
  role: 'completion',
  text,
  ids: [...text].map((c) => c.charCodeAt(0)),
  logps: [...text].map((_, i) => -0.5 * (i + 1)),
  ...turn,
})

const trace = (id: string, sample: number, texts: readonly string[], scores: Record<string, number> = {}): Trace => ({
  task: task(id),
  sample,
  segments: [
    { role: 'prompt', text: `${id}=`, ids: [1, 2] },
    ...texts.flatMap((text, i) => [
      ...(i === 0 ? [] : [{ role: 'injected' as const, text: '?', ids: [3] }]),
      segment(text),
    ]),
  ],
  finishReason: 'stop',
  scores,
})

const group = (id: string, rewards: readonly number[]): Trace[] =>
  rewards.map((reward, i) => trace(id, i, ['x'.repeat(i + 1)], { reward }))

t.test('rewards', async (t) => {
  const length: RewardFunction = function length({ completions }) {
    return completions.map((text) => text.length)
  }
  const some: RewardFunction = async ({ tasks, rows, prompts, completionIds, finishReasons }) =>
    tasks.map(({ id }, i) => {
      t.equal(rows[i].column, `row of ${id}`)
      t.equal(prompts[i], `${id}=`)
      t.equal(finishReasons[i], 'stop')
      return completionIds[i].length === 1 ? null : 10
    })
  const named = nameRewards([length, some], [2, 0.5])
  t.same(
    named.map(({ name, weight }) => [name, weight]),
    [
      ['length', 2],
      ['some', 0.5],
    ],
  )
  const scored = await scoreRewards(named)([trace('a', 0, ['x']), trace('b', 0, ['xyz'], { other: 1 })])
  t.same(
    scored.map(({ scores }) => scores),
    [
      { 'rewards/length': 1, reward: 2 },
      { other: 1, 'rewards/length': 3, 'rewards/some': 10, reward: 11 },
    ],
    'null does not apply',
  )
  t.same(await scoreRewards(named)([]), [])
  t.match(nameRewards([() => [], () => []]), [{ name: 'reward1', weight: 1 }, { name: 'reward2' }])
  const fails = (reward: unknown) => scoreRewards(nameRewards([reward as RewardFunction]))(group('a', [0, 0]))
  const code = 'E_VERIFIER'
  await t.rejects(
    fails(() => [1]),
    { code, message: /2 numbers.*1 entries/ },
  )
  await t.rejects(
    fails(() => undefined),
    { code, message: /got nothing/ },
  )
  await t.rejects(
    fails(() => [1, '1']),
    { code, message: /sample 1 of task a/ },
  )
  await t.rejects(
    fails(() => [1, Number.POSITIVE_INFINITY]),
    { code },
  )
  await t.rejects(
    fails(() => [1, null]),
    { code, message: /none applies to sample 1 of task a/ },
  )
  const punished = await softOverlongReward(4, 2)({ completionIds: [[1], [1, 2, 3], [1, 2, 3, 4]] } as never)
  t.same(
    punished,
    [0, -0.5, -1].map((v) => v + 0),
  )

  const turns = await scoreTurns(scoreRewards(nameRewards([length])))([
    trace('a', 0, ['x', 'yz']),
    trace('b', 1, ['w']),
  ])
  t.same(
    turns.map(({ scores }) => scores),
    [
      { 'rewards/length': 2, reward: 2, 'reward/1': 1, 'reward/2': 2 },
      { 'rewards/length': 1, reward: 1, 'reward/1': 1 },
    ],
  )
  t.equal(turnsOf(turns[0]).length, 2, 'the traces stay whole')
})

t.test('credit', async (t) => {
  const traces = [...group('a', [1, 0, 0, 1]), ...group('b', [2, 2])]
  const given = (method: keyof typeof advantages) =>
    credit(advantages[method])(traces).map(({ scores }) => Number(scores.advantage.toFixed(6)))
  t.same(given('rloo'), [0.666667, -0.666667, -0.666667, 0.666667, 0, 0])
  t.same(given('grpo'), [0.865875, -0.865875, -0.865875, 0.865875, 0, 0])
  t.same(given('drGrpo'), [0.5, -0.5, -0.5, 0.5, 0, 0])
  t.throws(() => credit(advantages.grpo)(group('a', [1])), { code: 'E_SHAPE' })
  const [failed, ...others] = group('d', [1, 0, 1]).map((one, i) => (i === 0 ? { ...one, scores: {} } : one))
  const alone = group('e', [1, 0]).map((one, i) => (i === 0 ? { ...one, scores: {} } : one))
  t.same(
    credit(advantages.drGrpo)([failed, ...others, ...alone]).map(({ scores }) => scores.advantage),
    [-0.5, 0.5],
    'what has no reward is left out',
  )
  t.equal(countUntied(traces), 1)
  const ids = (count: number) => untiedFirst(count)([...group('c', [0, 0]), ...traces]).map(({ task: { id } }) => id)
  t.same(ids(1), ['a', 'a', 'a', 'a'])
  t.same(ids(2), ['a', 'a', 'a', 'a', 'c', 'c'], 'tied groups take the places that remain')
})

t.test('examples', async (t) => {
  const two = { ...trace('a', 0, ['pq', 'r'], { advantage: 2 }) }
  const [[plain]] = completionExamples([two], 1)
  t.same(plain, { ids: [1, 2, 112, 113, 3, 114], trained: Uint8Array.of(0, 0, 1, 1, 0, 1) })
  const [[policy]] = policyExamples([two], 1)
  t.match(policy, { scores: { advantage: 2 }, inputs: { old: [0, 0, -0.5, -1, 0, -0.5] } })
  const weighted = sequenceOf(two, { weights: ({ ids }, turn) => ids.map(() => turn + 1) })
  t.same(weighted.weights, Float64Array.of(0, 0, 1, 1, 0, 2))
  t.throws(() => sequenceOf(two, { inputs: { old: () => [1] } }), { code: 'E_SHAPE', where: 'task a sample 0' })

  const pairs = pairExamples()([...group('a', [0, 1, 1, 0]), ...group('b', [3, 3])], 1)
  t.same(
    pairs.map((pair) => pair.map(({ ids, role }) => [role, ids.length - 2])),
    [
      [
        ['chosen', 2],
        ['rejected', 4],
      ],
      [
        ['chosen', 1],
        ['rejected', 2],
      ],
    ],
    'best and worst, ties to the lower sample of the best and the higher of the worst',
  )
  t.same(pairs[0][0].weights, Float64Array.of(0, 0, 1, 1))
  t.same(pairs[1][0].weights, Float64Array.of(0, 0, 0), 'a pair that ties has no weight')
  t.throws(() => pairExamples()(group('a', [1]), 1), { code: 'E_CONFIG' })
})

t.test('statistics', async (t) => {
  const cut = { ...trace('b', 1, ['xxxxx'], { reward: 2, 'rewards/r': 2 }), finishReason: 'length' as const }
  const values = rewardStatistics([...group('a', [1, 0]), ...group('b', [2]), cut], [cut])
  t.match(values, {
    tasks: 2,
    samples: 4,
    kept: 1,
    reward: 1.25,
    reward_std: Math.sqrt(11 / 12),
    frac_reward_zero_std: 0.5,
    'rewards/r/mean': 2,
    'rewards/r/std': 0,
    'completions/mean_length': 9 / 4,
    'completions/min_length': 1,
    'completions/max_length': 5,
    'completions/clipped_ratio': 0.25,
    'completions/mean_terminated_length': 4 / 3,
    'completions/min_terminated_length': 1,
    'completions/max_terminated_length': 2,
  })
  t.notOk('kl' in values)
  t.match(rewardStatistics([cut], []), { 'completions/min_terminated_length': 0, 'completions/max_length': 5 })
  const both = (r1: number, r2: number, second: string) =>
    trace('a', 0, ['x', second], { 'reward/1': r1, 'reward/2': r2 })
  t.same(
    twoTurnStatistics([both(0, 1, 'y'), both(1, 0, 'y'), both(1, 1, 'x'), both(0, 1, 'z'), trace('a', 0, ['x'])]),
    {
      'turns/gain': 0.25,
      'turns/mended': 0.5,
      'turns/broken': 0.25,
      'turns/changed': 0.75,
    },
  )
})

t.test('rounds that stop when they have enough', async (t) => {
  const tasks = Array.from({ length: 7 }, (_, i) => task(`t${i}`))
  let made = 0
  const attempt = async (part: readonly Task[]) => {
    made += part.length
    return part.map(({ id }) => trace(id, 0, ['x']))
  }
  const limits = { shardSize: 2, enough: (traces: readonly Trace[]) => traces.length >= 3 }
  const store = { directory: join(folder, 'enough'), resume: true }
  t.equal((await rollouts(store, 1, tasks, attempt, limits)).length, 4)
  t.equal((await rollouts(store, 1, tasks, attempt, limits)).length, 4)
  t.equal(made, 4, 'read again, nothing is made again')
  t.equal((await rollouts(undefined, 1, tasks, attempt, { shardSize: 2, enough: () => false })).length, 7)
})

t.test('prompts', async (t) => {
  using model = await loadModel(base)
  const rows = [{ prompt: 'a=', solution: 4 }, { prompt: 'b=' }]
  const read = (source: Parameters<typeof readPrompts>[0]) => readPrompts(source, model.tokenizer, 3)
  const tasks = await read(rows)
  t.match(tasks, [{ id: 'prompt 1', prompt: 'a=', row: { solution: 4 } }, { id: 'prompt 2' }])
  for (const [name, text] of [
    ['p.jsonl', rows.map((row) => JSON.stringify(row)).join('\n')],
    ['p.json', JSON.stringify(rows)],
  ]) {
    await writeFile(join(folder, name), text)
    t.same(await read(join(folder, name)), tasks, name)
  }
  const code = 'E_FORMAT'
  await writeFile(join(folder, 'bad.jsonl'), '{"prompt": "a"}\n{"prompt": 5}\n')
  await t.rejects(read(join(folder, 'bad.jsonl')), { code, where: `${join(folder, 'bad.jsonl')}:2` })
  await t.rejects(read([{ prompt: [{ content: 'a' } as never] }]), { code })
  await t.rejects(read([]), { code: 'E_CONFIG' })

  const of = taskRounds(
    Array.from({ length: 5 }, (_, i) => task(`t${i}`)),
    3,
    1,
  )
  const seen = [1, 2, 3, 4, 5].flatMap((round) => of(round).map(({ id }) => id))
  t.equal(new Set(seen).size, 15, 'every pass has names of its own')
  t.same([...new Set(seen.map((id) => id.slice(0, 2)))].sort(), ['t0', 't1', 't2', 't3', 't4'])
  t.same(of(4), of(4), 'a pure function')
})

/** A model of letters with a chat template: <u>, <a> before a turn, the end token behind it and a line break. */
async function makeChat(path: string): Promise<void> {
  const tokenizer = characterTokenizer('ab\n', {
    specials: ['<u>', '<a>'],
    chatTemplate:
      "{% for m in messages %}{{ '<a>' if m.role == 'assistant' else '<u>' }}{{ m.content }}{{ '<end>' }}{{ '\n' }}{% endfor %}{{ mood }}{% if add_generation_prompt %}<a>{% endif %}",
  })
  const size = { hiddenSize: 16, layers: 1, heads: 2, intermediateSize: 32, maxPositions: 128 }
  const raw = smallLlamaConfig({
    ...size,
    vocabSize: tokenizer.vocabSize,
    eosTokenId: tokenizer.eosId,
    padTokenId: tokenizer.padId,
  })
  await writeFile(join(path, 'config.json'), JSON.stringify(raw))
  await writeFile(join(path, 'tokenizer.json'), JSON.stringify(tokenizer.tokenizerJson))
  await writeFile(join(path, 'tokenizer_config.json'), JSON.stringify(tokenizer.tokenizerConfigJson))
  const config = decoderConfig(raw)
  const device = getDevice()
  const decoder = createDecoder(config, device, createFlat(device, decoderSpecs(config), 'f32'))
  initializeDecoder(decoder, 5)
  await writeSafetensors(join(path, 'model.safetensors'), await entriesOf(decoder.parameters))
  disposeFlat(decoder.parameters)
}

const sampling = { numGenerations: 2, maxNewTokens: 4 }

t.test('chains of turns', async (t) => {
  using model = await loadModel(base)
  const tasks = ['ab', 'ba', 'bb'].map(task)
  const context = { policy: model, seed: 1, round: 1 }
  const stop = (trace: Trace) => (turnsOf(trace)[0].text.startsWith('a') ? undefined : 'a=')
  const explore = chain(sampling, [
    { maxNewTokens: 3, inject: stop },
    { maxNewTokens: 2, numGenerations: 2, inject: () => '=' },
  ])
  const traces = await explore(context, tasks)
  t.equal(traces.length, 12, 'two samples, one continuation, two branches')
  t.same(
    traces.map(({ task: { id }, sample }) => `${id} ${sample}`),
    tasks.flatMap(({ id }) => [0, 1, 2, 3].map((sample) => `${id} ${sample}`)),
  )
  const ended = traces.filter((trace) => stop(trace) === undefined)
  t.ok(ended.length > 0 && ended.length < 12, 'some end after their first turn')
  for (const trace of traces) {
    const roles = trace.segments.map(({ role }) => role).join(' ')
    const injected = 'prompt completion injected completion'
    t.equal(roles, stop(trace) === undefined ? injected : `${injected} injected completion`)
    const logps = await model.logProbs(trace.segments.flatMap(({ ids }) => ids))
    const own = trace.segments.flatMap((part) => [...(part.logps ?? part.ids.map(() => Number.NaN))])
    t.ok(
      own.every((logp, i) => Number.isNaN(logp) || logp === logps[i]),
      'every turn has the log-probs of the whole sequence, bit for bit',
    )
  }
  t.same(await explore(context, tasks.slice(1, 2)), traces.slice(4, 8), 'alone as among others')
  const noted = await referenceLogps(model.decoder, model)(traces)
  t.ok(noted.every((trace) => turnsOf(trace).every(({ logps, reference }) => String(logps) === String(reference))))
  t.equal(rewardStatistics(noted, []).kl, 0, 'a policy is its own reference')
  const none = await chain(sampling, [{ maxNewTokens: 1, inject: () => undefined }])(context, tasks)
  t.ok(none.every((trace) => turnsOf(trace).length === 1 && completionLength(trace) <= 4))
})

t.test('chains of conversations', async (t) => {
  using model = await loadModel(await temporaryFolder(t).then(async (path) => makeChat(path).then(() => path)))
  const { tokenizer } = model
  const asked = { prompt: [{ role: 'user', content: 'ab' }] }
  const tasks = await readPrompts([asked], tokenizer, 1)
  const [shared, own] = await readPrompts([asked, { ...asked, chat_template_kwargs: { mood: 'b' } }], tokenizer, 1, {
    mood: 'a',
  })
  t.same(
    [shared.prompt, own.prompt].map((text) => text.slice(-4)),
    ['a<a>', 'b<a>'],
    'variables of the template',
  )
  t.equal(tasks[0].prompt, '<u>ab<end>\n<a>')
  const traces = await chain({ numGenerations: 6, maxNewTokens: 5 }, [{ maxNewTokens: 3, inject: () => 'b' }])(
    { policy: model, seed: 2, round: 1 },
    tasks,
  )
  const reasons = new Set(traces.map((trace) => turnsOf(trace)[0].finishReason))
  t.same([...reasons].sort(), ['length', 'stop'], 'some first turns end, some are cut off')
  for (const { segments } of traces) {
    const ids = segments.slice(0, 3).flatMap((part) => part.ids)
    const [, first] = segments
    t.equal(tokenizer.decode(ids), `<u>ab<end>\n<a>${first.text}<end>\n<u>b<end>\n<a>`, 'as the template writes it')
  }
  const [first] = await revise(model, tasks[0].messages ?? [], { revisions: 0, maxNewTokens: 3 })
  t.same([first], await model.generate(tasks[0].messages ?? [], { maxNewTokens: 3, promptKeys: ['revision 0'] }))
})

t.test('revisions', async (t) => {
  const seed = 12
  using model = await loadModel(base)
  // A seed whose answers are letters alone: the tokenizer has no characters for the name of its padding token.
  const options = { template: { text: '{prompt}{answer}=', request: '' }, maxNewTokens: 4, seed }
  const answers = await revise(model, 'ab=', { ...options, revisions: 3 })
  t.equal(answers.length, 4)
  const [second] = await model.generate([`ab=${answers[0].text}=`], {
    maxNewTokens: 4,
    seed,
    promptKeys: ['revision 1'],
  })
  t.same(second, [answers[1]], 'a revision sees the prompt and the last answer alone')
  t.same(await revise(model, 'ab=', { ...options, revisions: 1 }), answers.slice(0, 2), 'more revisions begin alike')
  const code = 'E_CONFIG'
  await t.rejects(revise(model, 'a', { ...options, revisions: -1 }), { code, where: 'revisions' })
  const template = { text: '{prompt}', request: '' }
  await t.rejects(revise(model, 'a', { ...options, revisions: 1, template }), { code, where: 'template' })
})
