// Methods that answer and train nothing: formulas on known cases, what each method chooses, what it counts.

import { join } from 'node:path'
import t from 'tap'
import * as api from '../ts/src/index.js'
import { budgets } from '../ts/train/answering/id-sampling.js'
import { answerConfidence, isHard } from '../ts/train/answering/magicore.js'
import { passRate, pooledPassRate } from '../ts/train/answering/tick.js'
import { answerReader, weightedVotes } from '../ts/train/loop/answers.js'
import { completionLength, turnsOf } from '../ts/train/loop/trace.js'
import { golden, temporaryFolder } from './support.js'
import { weightsHash } from './support-kinds.js'
import { makeTwoLetters, prompts } from './support-recipes.js'
import { task, trace } from './support-traces.js'

const { answer, answering } = api
const folder = await temporaryFolder(t)
const letters = join(folder, 'letters')
await makeTwoLetters(letters)
const policy = await api.loadModel(letters)
t.teardown(() => policy.dispose())
const asked = { policy, prompts, seed: 5 }
const drawn = { numGenerations: 4, maxNewTokens: 4 }

/** Share of the letter b in four. */
const bees: api.RewardFunction = function bees({ completions }) {
  return completions.map((text) => [...text].filter((c) => c === 'b').length / Math.max(4, text.length))
}
const score = api.scoreRewards(api.nameRewards([bees]))
const own = (all: api.Answers, { task: { id } }: api.Answer) => all.traces.filter((one) => one.task.id === id)
const textOf = (one: api.Trace) => turnsOf(one).at(-1)?.text ?? ''

t.test('votes and the best', async (t) => {
  const before = await weightsHash(policy)
  const voted = await answer({ ...asked, method: answering.vote(drawn) })
  t.equal(voted.answers.length, prompts.length)
  for (const one of voted.answers) {
    const texts = own(voted, one).map((found) => textOf(found).trim())
    const count = (text: string) => texts.filter((other) => other === text).length
    t.equal(count(one.text.trim()), Math.max(...texts.map(count)))
    t.equal(
      texts.indexOf(one.text.trim()),
      texts.findIndex((text) => count(text) === Math.max(...texts.map(count))),
    )
  }
  const best = await answer({ ...asked, method: answering.bestOf({ ...drawn, score }) })
  t.same(best.traces.map(textOf), voted.traces.map(textOf), 'of the same samples')
  for (const one of best.answers)
    t.equal(one.trace.scores.reward, Math.max(...own(best, one).map(({ scores }) => scores.reward)))
  const written = best.traces.reduce((sum, one) => sum + completionLength(one), 0)
  t.equal(best.statistics.tokens, written / prompts.length, 'tokens per prompt')
  t.same(await answer({ ...asked, method: answering.bestOf({ ...drawn, score }) }), best, 'the same bits again')
  t.equal(await weightsHash(policy), before, 'nothing is trained')
  t.equal(voted.statistics.accuracy, undefined, 'rows have no checker')
})

t.test('a checker looks on', async (t) => {
  const source = api.createTask('arithmetic', { seed: 1, difficulty: 1, scratch: false })
  const told = {
    ...source,
    check: ({ prompt }: api.Task, text: string) => ({ correct: prompt.length === 4 && text.includes('b') }),
  }
  const held = source.heldOut(6).map((one) => ({ ...one, prompt: `${'ab'.repeat(2)}` }))
  const two = { ...told, heldOut: () => held }
  const found = await answer({ policy, prompts: two, tasks: 6, seed: 5, method: answering.vote(drawn) })
  const isRight = (one: api.Trace) => Number(one.finishReason === 'stop' && textOf(one).includes('b'))
  const share = (some: readonly api.Trace[]) => some.reduce((sum, one) => sum + isRight(one), 0) / some.length
  t.equal(found.statistics.accuracy, share(found.answers.map((one) => one.trace)))
  t.equal(found.statistics['accuracy/mean'], share(found.traces))
  const any = found.answers.map((one) => Math.max(...own(found, one).map(isRight)))
  t.equal(found.statistics['accuracy/any'], any.reduce((a, b) => a + b, 0) / 6)
  t.ok(share(found.traces) > 0 && share(found.traces) < 1)
})

t.test('ID-sampling: budgets', async (t) => {
  t.same(budgets(248, 8, 2), [8, 16, 32, 64, 128])
  t.same(budgets(248, 8, 4), [8, 32, 128, 80])
  t.same(budgets(10, 4, 1), [4, 4, 2], 'fixed intervals')
  for (const [total, first, growth] of [
    [248, 8, 2],
    [248, 8, 4],
    [1000, 16, 3],
    [63, 1, 2],
    [64, 1, 2],
  ]) {
    const parts = Math.ceil(Math.log(1 + ((growth - 1) * total) / first) / Math.log(growth) - 1e-9)
    t.equal(budgets(total, first, growth).length, parts, `${total} from ${first} by ${growth}`)
    t.equal(
      budgets(total, first, growth).reduce((a, b) => a + b),
      total,
    )
  }
  t.throws(() => answering.idSampling({ ...drawn, firstBudget: 2, growth: 0.5 }), { code: 'E_CONFIG', where: 'growth' })
})

t.test('ID-sampling: triggers', async (t) => {
  const settings = { numGenerations: 3, maxNewTokens: 14, firstBudget: 2, trigger: '=a=' }
  const on = await answer({ ...asked, method: answering.idSampling({ ...settings, atEnd: 'goOn' }) })
  for (const one of on.traces) {
    t.equal(one.scores.triggers, 2, 'parts of 2, 4 and 8 tokens')
    t.ok(textOf(one).split('=a=').length >= 3)
    t.ok(one.segments[1].ids.length <= 14 + 2 * 3)
    const ends = one.segments[1].ids.filter((id) => policy.decoder.config.eosTokenIds.includes(id))
    t.ok(ends.length <= 1, 'ends are taken back, but for the last')
  }
  const stop = await answer({ ...asked, method: answering.idSampling(settings) })
  t.ok(
    stop.traces.some(({ scores }) => scores.triggers < 2),
    'a chain that ends is done',
  )
  t.ok(stop.statistics.tokens <= on.statistics.tokens)
  t.ok(on.statistics.tokens <= 3 * 14)
  const last = await answer({
    ...asked,
    method: answering.idSampling({ ...settings, atEnd: 'goOn', answerFrom: 'trigger' }),
  })
  for (const [i, one] of last.traces.entries())
    t.equal(textOf(on.traces[i]), `${one.segments[1].text}${textOf(one)}`, 'the same chain, its last part')
})

t.test('a turn that goes on stays in its turn', async (t) => {
  using chat = await api.loadModel(golden('smollm'))
  const messages = [{ role: 'user', content: 'Hi' }] as const
  const sampling = { numGenerations: 2, maxNewTokens: 3, temperature: 1 }
  const explore = api.chain(sampling, [{ maxNewTokens: 2, inject: () => ' Wait', goesOn: true }])
  const found = await explore({ policy: chat, seed: 1, round: 1 }, [{ ...task('a'), messages }])
  for (const one of found) t.same(one.segments[2].ids, chat.tokenizer.encode(' Wait', { addSpecialTokens: false }))
})

t.test('votes with weights', async (t) => {
  const group = ['1', '2', '2', '3'].map((text, i) => trace('x', i, [text], { q: [5, 1, 2, 2][i] }))
  const voted = await weightedVotes(answerReader(), 'q')(group)
  t.same(
    voted.map(({ scores }) => scores.votes),
    [0.5, 0.3, 0.3, 0.2],
  )
})

t.test('MAgICoRe: who is hard', async (t) => {
  const answers = (texts: string, scores: Record<string, number> = {}) =>
    [...texts].map((text, i) => trace('x', i, [text], { reward: 0.5, q: 0.5, ...scores }))
  const confidence = (texts: string) => answerConfidence(answers(texts), answerReader(), 'reward')
  const near = (value: number, wanted: number) => t.ok(Math.abs(value - wanted) < 1e-12, `${value}`)
  near(confidence('1111'), 1)
  near(confidence('1122'), 2 / 3)
  near(confidence('123'), 0.5)
  near(confidence('1234'), 0.4)
  near(
    answerConfidence(
      [trace('x', 0, ['1'], { reward: 0 }), trace('x', 1, ['2'], { reward: 0 })],
      answerReader(),
      'reward',
    ),
    2 / 3,
  )
  const scale = { centre: 0.6, spread: 0.1 }
  t.equal(isHard(answers('1234'), answerReader(), scale), true, 'poor and scattered')
  t.equal(isHard(answers('123'), answerReader(), scale), false, 'three answers are not more than three')
  t.equal(isHard(answers('1234'), answerReader(), { ...scale, centre: 0.4 }), false, 'better than the others')
  t.equal(isHard(answers('1234'), answerReader(), { ...scale, spread: 0 }), false)
  const steps = [0.9, 0.001, 0.001, 0.001].map((value, i) =>
    trace('x', i, [`${i}`], { reward: 0.5, steps: value, q: 0.5 }),
  )
  t.equal(isHard(steps, answerReader(), scale), true, 'one of both scores is enough')
})

t.test('MAgICoRe: routes', async (t) => {
  const settings = { numGenerations: 6, maxNewTokens: 4, score, rounds: 2, refine: '=', review: () => 'a=' }
  const stepScores = async (traces: readonly api.Trace[]) =>
    traces.map((one) => [...textOf(one)].map((c) => (c === 'b' ? 0.9 : 0.5)))
  const run = (route: 'hard' | 'all' | 'none') =>
    answer({ ...asked, method: answering.magicore({ ...settings, stepScores, route }) })
  const [hard, all, none] = [await run('hard'), await run('all'), await run('none')]
  t.same(
    [none, all].map(({ statistics }) => statistics['refined/rounds']),
    [0, 2],
  )
  t.equal(hard.traces.length, 6 * prompts.length, 'k chains stay')
  t.ok(hard.statistics.tokens > none.statistics.tokens && hard.statistics.tokens < all.statistics.tokens)
  t.ok(hard.statistics['refined/problems'] > 0 && hard.statistics['refined/problems'] < 1)
  const meanQ = ({ traces }: api.Answers) => traces.reduce((sum, { scores }) => sum + scores.q, 0) / traces.length
  t.ok(meanQ(all) > meanQ(none), 'the better of old and new stay')
  for (const { trace: one } of all.answers) {
    const letters = [...textOf(one)].map((c) => (c === 'b' ? 0.9 : 0.5))
    t.equal(one.scores.q, one.scores.reward + letters.reduce((product, s) => product * s, 1))
  }
})

const item = (question: string, yes: (text: string) => number | null): api.ChecklistItem => ({
  question,
  check: ({ completions }) => completions.map(yes),
})

t.test('TICK: pass rates', async (t) => {
  const checklist = [
    item('Is there a b?', (text) => Number(text.includes('b'))),
    item('Two letters?', (text) => (text.length === 2 ? 0.7 : 0.3)),
    item('A capital?', (text) => (text.startsWith('x') ? Number(text === 'xX') : null)),
  ]
  const scored = await passRate(checklist)([trace('p', 0, ['ab']), trace('q', 0, ['xab']), trace('r', 0, ['aa'])])
  t.same(
    scored.map(({ scores }) => scores.reward),
    [1, 1 / 3, 0.5],
  )
  t.equal(pooledPassRate(scored), 4 / 7, 'questions are pooled')
  t.same(scored[1].scores, { 'checklist/1': 1, 'checklist/2': 0, 'checklist/3': 0, reward: 1 / 3 })
  await t.rejects(passRate([item('No.', () => null)])([trace('p', 0, ['a'])]), { code: 'E_VERIFIER' })
  const seen: string[][] = []
  const feedback = (failed: readonly string[]) => {
    seen.push([...failed])
    return '='
  }
  const found = await answer({
    ...asked,
    method: answering.tick({ ...drawn, checklist: checklist.slice(0, 2), refinements: 2, feedback }),
  })
  t.ok(seen.some((failed) => failed.length === 1) && seen.every((failed) => failed.length > 0))
  for (const one of found.traces) {
    const rates = turnsOf(one).map((_, turn) => one.scores[`reward/${turn + 1}`])
    t.equal(rates.slice(0, -1).includes(1), false, 'what meets all stays')
  }
  t.ok(found.statistics['checklist/chosen'] > found.statistics['checklist/first'])
  for (const one of found.answers) {
    const rates = own(found, one).flatMap((kept) => turnsOf(kept).map((_, turn) => kept.scores[`reward/${turn + 1}`]))
    t.equal(one.trace.scores.reward, Math.max(...rates), 'the best turn of all')
  }
})

t.test('TICK: a model as the judge', async (t) => {
  const checklist = [{ question: 'Is there a b?' }]
  using judge = await api.loadModel(golden('smollm'))
  const asked = { policy: judge, prompts: [{ prompt: 'Name a river.' }], seed: 2 }
  const method = answering.tick({ ...drawn, checklist, judge, yesAt: 0.5, refinements: 0 })
  const found = await answer({ ...asked, method })
  const told = await api.verdict(judge, { question: '\nIs there a b?' })(found.traces)
  t.ok(told.every(({ scores }) => scores.verdict > 0 && scores.verdict < 1))
  for (const { scores } of told) t.equal(scores.reward, Number(scores.verdict >= 0.5))
  const alone = answering.tick({ ...drawn, checklist })
  await t.rejects(answer({ ...asked, method: alone }), { code: 'E_CONFIG', where: 'tick.judge' })
})

t.test('hypotheses are refined from the best', async (t) => {
  const fed: number[] = []
  const feedback = ({ scores }: api.Trace) => {
    fed.push(scores.reward)
    return '='
  }
  const settings = { numGenerations: 3, maxNewTokens: 4, score, feedback }
  const once = await answer({ ...asked, method: answering.hypothesis({ ...settings, rounds: 1 }) })
  t.same(fed, [], 'one round has no feedback')
  const found = await answer({ ...asked, method: answering.hypothesis(settings) })
  t.ok(fed.length > 0 && fed.every((reward) => reward < 1))
  t.ok(found.statistics['hypotheses/fit'] > once.statistics['hypotheses/fit'])
  for (const [i, one] of found.answers.entries()) {
    t.ok(one.trace.scores.reward >= once.answers[i].trace.scores.reward, 'the best of all rounds')
    t.equal(turnsOf(own(found, one)[0]).length, one.trace.scores.reward === 1 ? one.trace.scores.turn : 3)
  }
})

t.test('what is no method, and a signal', async (t) => {
  await t.rejects(answer({ ...asked, method: {} as never }), { code: 'E_CONFIG', where: /method/ })
  await t.rejects(answer({ ...asked, method: answering.vote(drawn), signal: AbortSignal.abort() }), {
    code: 'E_ABORTED',
  })
  const none = { ...answering.vote(drawn), select: () => [] }
  await t.rejects(answer({ ...asked, method: none }), { code: 'E_CONFIG', message: /expected an answer to prompt 1/ })
})
