// Online XPO, Nash-MD and on-policy GKD against formulas in float64 from logits: what the mixture draws from, the first loss of
// a run, whose completions a round trains. Judges of pairs, ties, cut samples, and what is refused under TRL's names. That
// they learn, and go on after a kill to the same bits: recipes.test.ts.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type LanguageModel, loadModel } from '../ts/src/generate/language-model.js'
import { getDevice } from '../ts/src/native/device.js'
import type { TrainEvent } from '../ts/train/events.js'
import type { PairInput, PairJudge } from '../ts/train/loop/judges.js'
import type { RewardFunction, RewardInput } from '../ts/train/loop/rewards.js'
import { recipes } from '../ts/train/recipes/index.js'
import { createTask } from '../ts/train/tasks/index.js'
import { liveBytes } from './support.js'
import { makeTiny, tinyFolder, weightsHash } from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const wide = await makeTiny(join(folder, 'wide'), 48)
const prompts = ['ab', 'cd', 'ef'].map((word) => ({ prompt: `say ${word}: `, completion: word.repeat(2) }))

type Recipe = 'onlineXpo' | 'onlineNashMd' | 'onlineGkd'
const names = ['onlineXpo', 'onlineNashMd', 'onlineGkd'] as const

/** A short run against the wider model, with everything that it told. */
async function run(recipe: Recipe, options: Readonly<Record<string, unknown>>) {
  using policy = await loadModel(base)
  using other = await loadModel(wide)
  const short = { rounds: 1, promptsPerRound: 3, maxCompletionLength: 9, learningRate: 1e-2, seed: 5 }
  const start = recipes[recipe] as (options: unknown) => ReturnType<(typeof recipes)[Recipe]>
  const job = start({ policy, reference: other.decoder, prompts, ...short, ...options })
  const events: TrainEvent[] = []
  for await (const event of job) events.push(event)
  await job.result
  const hash = await weightsHash(policy)
  const steps = events.flatMap((event) => (event.type === 'step' ? [event] : []))
  const rounds = events.flatMap((event) => (event.type === 'round' ? [event.values] : []))
  return { events, steps, rounds, hash }
}

/** A reward that looks at texts, and what it saw. */
function watching() {
  const seen: RewardInput[] = []
  const letters: RewardFunction = function letters(input) {
    seen.push(input)
    return input.completions.map((text) => [...text].filter((c) => c > 'Z').length / 3)
  }
  return { seen, letters }
}

// Float64 ----------------------------------------------------------------------------------------------------------------

const sum = (values: Iterable<number>): number => [...values].reduce((all, value) => all + value, 0)
const mean = (values: readonly number[]): number => sum(values) / values.length

function logSoftmax(z: ArrayLike<number>): number[] {
  const all = Array.from(z)
  const top = Math.max(...all)
  const lse = top + Math.log(sum(all.map((x) => Math.exp(x - top))))
  return all.map((x) => x - lse)
}

/** log p over the vocabulary at each token of a completion. */
async function logProbsOf(model: LanguageModel, prompt: readonly number[], completion: readonly number[]) {
  const { vocabSize } = model.decoder.config
  const logits = await model.logits([...prompt, ...completion])
  const row = (i: number) => logSoftmax(logits.subarray(i * vocabSize, (i + 1) * vocabSize))
  return completion.map((_, i) => row(prompt.length - 1 + i))
}

/** log p of the tokens of each sample under a model. */
async function tokenLogps(model: LanguageModel, { prompts, completionIds }: RewardInput): Promise<number[][]> {
  const found: number[][] = []
  for (const [i, ids] of completionIds.entries()) {
    const rows = await logProbsOf(model, model.tokenizer.encode(prompts[i]), ids)
    found.push(rows.map((row, k) => row[ids[k]]))
  }
  return found
}

/** GKDTrainer.generalized_jsd_loss at a token. */
function divergence(student: readonly number[], teacher: readonly number[], beta: number): number {
  const kl = (a: readonly number[], b: readonly number[]) => sum(a.map((l, v) => Math.exp(l) * (l - b[v])))
  if (beta === 0) return kl(teacher, student)
  if (beta === 1) return kl(student, teacher)
  const mixed = student.map((l, v) => Math.log((1 - beta) * Math.exp(l) + beta * Math.exp(teacher[v])))
  return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)
}

const near = (t: Test, got: number, expected: number, what: string) =>
  t.ok(Math.abs(got - expected) <= 1e-5 * Math.max(1, Math.abs(expected)), `${what}: ${got} for ${expected}`)

const logistic = (x: number): number => 1 / (1 + Math.exp(-x))

// The mixture ------------------------------------------------------------------------------------------------------------

t.test('tokens of a mixture are drawn from the mixed logits of both models', async (t) => {
  using policy = await loadModel(base)
  using other = await loadModel(wide)
  const asked = ['say ab: ', 'x']
  const usual = { numGenerations: 3, maxNewTokens: 40, seed: 5, temperature: 0.8, promptKeys: ['a', 'b'] }
  const mixture = { reference: other.decoder, mixtureCoef: 0.3 }
  const groups = await policy.generate(asked, { ...usual, mixture })
  const before = await liveBytes()
  t.same(await policy.generate(asked, { ...usual, mixture }), groups, 'again: the same')
  t.equal(await liveBytes(), before, 'no cache stays behind')
  t.ok(
    groups.flat().some(({ ids }) => ids.length > 32),
    'across blocks of the cache',
  )
  for (const [p, samples] of groups.entries())
    for (const { ids, logps, samplingLogps } of samples) {
      const prompt = policy.tokenizer.encode(asked[p])
      const [own, others] = [await logProbsOf(policy, prompt, ids), await logProbsOf(other, prompt, ids)]
      const mixed = own.map((row, i) => row.map((l, v) => 0.7 * l + 0.3 * others[i][v]))
      const worst = (given: readonly number[], rows: readonly (readonly number[])[]) =>
        Math.max(...given.map((l, i) => Math.abs(l - logSoftmax(rows[i])[ids[i]])))
      t.ok(worst(logps, mixed) < 1e-5, 'logps are those of the mixture')
      const tempered = mixed.map((row) => row.map((l) => l / 0.8))
      t.ok(worst(samplingLogps, tempered) < 1e-5, 'and of what was drawn from')
    }
  for (const change of [{ maxRows: 1 }, { threads: 1 }, { threads: 2 }]) {
    const { threads = getDevice().threads, ...options } = change as { threads?: number; maxRows?: number }
    const usually = getDevice().threads
    getDevice().threads = threads
    t.same(await policy.generate(asked, { ...usual, ...options, mixture }), groups, JSON.stringify(change))
    getDevice().threads = usually
  }
  const [alone] = await policy.generate(['x'], { ...usual, promptKeys: ['b'], mixture })
  t.same(alone, groups[1], 'alone: the same bits')
  const only = (mixtureCoef: number) => policy.generate(asked, { ...usual, mixture: { ...mixture, mixtureCoef } })
  t.same(await only(0), await policy.generate(asked, usual), 'share 0: the model')
  t.same(await only(1), await other.generate(asked, usual), 'share 1: the reference')
  t.not((await policy.generate(asked, usual))[0][0].text, groups[0][0].text)
})

t.test('models that cannot be mixed', async (t) => {
  using policy = await loadModel(base)
  using half = await loadModel(wide, { dtype: 'bf16' })
  using scoring = await loadModel(wide, { scoreLabels: 1 })
  const refused = (mixture: object, where: string, message?: RegExp) =>
    t.rejects(policy.generate('a', { mixture: mixture as never, maxNewTokens: 2 }), {
      code: 'E_CONFIG',
      where,
      ...(message && { message }),
    })
  await refused({ reference: policy.decoder, mixtureCoef: 1.5 }, 'generate.mixture.mixtureCoef', /from 0 to 1, got 1.5/)
  await refused({ reference: policy.decoder }, 'generate.mixture.mixtureCoef')
  await refused({ reference: policy, mixtureCoef: 0.5 }, 'generate.mixture.reference')
  await refused({ reference: half.decoder, mixtureCoef: 0.5 }, 'generate.mixture.reference', /dtype, f32/)
  await refused({ reference: scoring.decoder, mixtureCoef: 0.5 }, 'generate.mixture.reference', /score head/)
  const capped = { ...policy.decoder, config: { ...policy.decoder.config, logitSoftcap: 30 } }
  await refused({ reference: capped, mixtureCoef: 0.5 }, 'generate.mixture.reference', /cap on logits/)
  const fewer = { ...policy.decoder, config: { ...policy.decoder.config, vocabSize: 7 } }
  await refused({ reference: fewer, mixtureCoef: 1 }, 'generate.mixture.reference', /vocabulary of \d+ tokens, got 7/)
  const even = { mixture: { reference: policy.decoder, mixtureCoef: 0.5 }, maxNewTokens: 2 }
  const punished = policy.generate('a', { ...even, repetitionPenalty: 1.2 })
  await t.rejects(punished, { code: 'E_CONFIG', where: 'generate.repetitionPenalty' })
  t.equal(
    (await policy.generate('a', { mixture: { reference: half.decoder, mixtureCoef: 1 }, maxNewTokens: 2 })).length,
    1,
  )
})

// Losses -----------------------------------------------------------------------------------------------------------------

t.test('the first loss of Nash-MD is that of TRL’s formula', async (t) => {
  using policy = await loadModel(base)
  using other = await loadModel(wide)
  const { seen, letters } = watching()
  const { steps, rounds } = await run('onlineNashMd', { rewardFuncs: [letters], numGenerations: 2, beta: 0.2 })
  const [input] = seen
  const [own, ref] = [await tokenLogps(policy, input), await tokenLogps(other, input)]
  const scores = (await letters(input)) as number[]
  const half = scores.length / 2
  t.equal(half, 6)
  const probabilities = scores.slice(0, half).map((score, i) => logistic(score - scores[half + i]))
  t.ok(new Set(probabilities).size > 2)
  const losses = probabilities.map((p, i) => {
    const penalty = sum(own[i].map((l, k) => (l - ref[i][k]) * l))
    return 0.2 * penalty - (p - 0.5) * sum(own[i])
  })
  near(t, steps[0].loss, mean(losses), 'loss')
  near(t, steps[0].stats.preference, mean(probabilities), 'preference')
  near(t, rounds[0]['rewards/probabilities'], mean(probabilities), 'TRL’s name of it')
  near(t, rounds[0]['objective/scores_margin'], mean(scores.slice(0, half)) - mean(scores.slice(half)), 'margin')
  near(t, rounds[0].reward, mean(scores.slice(0, half)), 'reward of the policy alone')
})

t.test('the first loss of XPO is that of TRL’s formula', async (t) => {
  using policy = await loadModel(base)
  using other = await loadModel(wide)
  for (const lossType of ['sigmoid', 'ipo']) {
    const { seen, letters } = watching()
    const settings = { numGenerations: 2, beta: 0.3, alpha: 0.05, lossType }
    const { steps, rounds } = await run('onlineXpo', { rewardFuncs: [letters], ...settings })
    const [input] = seen
    const [own, ref] = [await tokenLogps(policy, input), await tokenLogps(other, input)]
    const scores = (await letters(input)) as number[]
    const half = scores.length / 2
    const ratios = own.map((logps, i) => sum(logps) - sum(ref[i]))
    let ties = 0
    const losses = Array.from({ length: half }, (_, i) => {
      const [a, b] = [i, half + i]
      ties += Number(scores[a] === scores[b])
      const logit = scores[a] >= scores[b] ? ratios[a] - ratios[b] : ratios[b] - ratios[a]
      const dpo = lossType === 'ipo' ? (logit - 1 / 0.6) ** 2 : -Math.log(logistic(0.3 * logit))
      return (scores[a] === scores[b] ? 0 : dpo) + 0.05 * sum(own[b])
    })
    t.ok(ties < half, 'some pairs do not tie')
    near(t, steps[0].loss, mean(losses), lossType)
    near(t, rounds[0]['objective/ref_scores'], mean(scores.slice(half)), 'rewards of the reference')
    t.match(rounds[0], { 'val/model_contain_eos_token': Number, 'val/ref_contain_eos_token': Number })
  }
})

t.test('the first loss of GKD is that of TRL’s formula, whoever wrote', async (t) => {
  using policy = await loadModel(base)
  using teacher = await loadModel(wide)
  const kinds = { student: { lmbda: 1 }, teacher: { lmbda: 0, seqKd: true }, data: { lmbda: 0 } }
  for (const [name, own] of Object.entries(kinds))
    for (const beta of [0, 0.3, 1]) {
      const { seen, letters } = watching()
      const { steps, rounds } = await run('onlineGkd', { rewardFuncs: [letters], beta, ...own })
      const [input] = seen
      const all: number[] = []
      for (const [i, ids] of input.completionIds.entries()) {
        const prompt = policy.tokenizer.encode(input.prompts[i])
        const [p, q] = [await logProbsOf(policy, prompt, ids), await logProbsOf(teacher, prompt, ids)]
        all.push(...p.map((row, k) => divergence(row, q[k], beta)))
        if (name === 'data') t.equal(input.completions[i], input.rows[i].completion)
        if (name === 'data') t.equal(ids.at(-1), policy.tokenizer.eosId, 'its end is trained too')
      }
      near(t, steps[0].loss, mean(all), `${name}, beta ${beta}`)
      t.equal(steps[0].trainedTokens, all.length)
      t.equal(rounds[0].onPolicy, Number(name === 'student'))
    }
})

// Distillation -----------------------------------------------------------------------------------------------------------

t.test('the share of rounds on the student’s own samples', async (t) => {
  const many = { rounds: 24, promptsPerRound: 1, maxCompletionLength: 2 }
  const kindsOf = async (options: object) =>
    (await run('onlineGkd', { ...many, ...options })).rounds.map((r) => r.onPolicy)
  const half = await kindsOf({ lmbda: 0.5 })
  t.ok(sum(half) > 5 && sum(half) < 19, `${sum(half)} of 24`)
  t.same(await kindsOf({ lmbda: 0.5, seqKd: true }), half, 'the same draws')
  t.not(String(await kindsOf({ lmbda: 0.5, seed: 6 })), String(half), 'others by another seed')
  t.ok(sum(await kindsOf({ lmbda: 0.9 })) > 18)
  const output = join(folder, 'distilled')
  const whole = await run('onlineGkd', { ...many, rounds: 8 })
  const stopped = new AbortController()
  let asked = 0
  const stopping: RewardFunction = function stopping({ tasks }) {
    if (++asked === 5) stopped.abort(new Error('enough'))
    return tasks.map(() => 0)
  }
  const settings = { ...many, rounds: 8, output, rewardFuncs: [stopping] }
  await t.rejects(run('onlineGkd', { ...settings, signal: stopped.signal }), { code: 'E_ABORTED' })
  t.equal(
    (await run('onlineGkd', { ...settings, resume: true })).hash,
    whole.hash,
    'resumed, and watched: the same bits',
  )
})

t.test('conversations as data', async (t) => {
  const chatty = await makeTiny(join(folder, 'chatty'))
  const file = join(chatty, 'tokenizer_config.json')
  const template =
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
  const config = JSON.parse(await readFile(file, 'utf8')) as object
  await writeFile(file, JSON.stringify({ ...config, chat_template: template }))
  const turns = (answer: string) => [
    { role: 'user', content: 'hi' },
    { role: 'assistant', content: answer },
  ]
  using policy = await loadModel(chatty)
  const { seen, letters } = watching()
  const data = [{ messages: turns('yes') }, { messages: turns('no') }]
  const settings = { policy, prompts: data, rewardFuncs: [letters], lmbda: 0, promptsPerRound: 2, beta: 0 }
  await run('onlineGkd', settings)
  t.same([...seen[0].completions].sort(), ['no', 'yes'], 'the last turn is the completion')
  t.ok(seen[0].completionIds.every((ids) => ids.at(-1) === policy.tokenizer.eosId))
  t.ok(seen[0].prompts.every((prompt) => prompt === '[user]hi<end>[assistant]'))
  const unanswered = [{ messages: turns('yes').slice(0, 1) }]
  const lacking = run('onlineGkd', { ...settings, prompts: unanswered })
  await t.rejects(lacking, { code: 'E_FORMAT', where: 'prompt 1', message: /completion/ })
  const shared = [{ conversations: [{ from: 'human', value: 'hi' }] }]
  await run('onlineNashMd', { policy, prompts: shared, promptsPerRound: 1, rewardFuncs: [letters] })
  t.equal(seen[1].prompts[0], '[user]hi<end>[assistant]', 'conversations without an answer are prompts')
  t.same(seen[1].tasks[0].messages, turns('').slice(0, 1))
})

// Judges and rewards -----------------------------------------------------------------------------------------------------

t.test('a judge of pairs', async (t) => {
  const inputs: PairInput[] = []
  const longer: PairJudge = async function longer(input) {
    inputs.push(input)
    return input.completions.map(([a, b]) => (a.length === b.length ? 0.5 : Number(a.length > b.length)))
  }
  const length: RewardFunction = function length({ completions }) {
    return completions.map((text) => 100 * text.length)
  }
  for (const recipe of ['onlineXpo', 'onlineNashMd'] as const) {
    const settings = { numGenerations: 4, rounds: 2 }
    const judged = await run(recipe, { ...settings, judge: longer })
    t.match(judged.events[0], { notes: [`model ${base}`, '3 prompts', 'judge: longer'] })
    t.equal(judged.rounds[0].reward, undefined, 'no rewards, none reported')
    const rewarded = await run(recipe, { ...settings, rewardFuncs: [length] })
    t.equal(judged.hash, rewarded.hash, `${recipe}: a reward that is sure says the same`)
    const first: PairJudge = ({ completions }) => completions.map(() => 1)
    const { rounds } = await run(recipe, { numGenerations: 32, judge: first })
    t.ok(Math.abs(rounds[0]['rewards/probabilities'] - 0.5) < 0.2, 'who favours the first place favours nobody')
    const bad = (judge: unknown, message: RegExp) =>
      t.rejects(run(recipe, { judge }), { code: 'E_VERIFIER', where: 'judge', message })
    await bad(() => [1], /list of 3 probabilities, one per pair, got 1 entries/)
    await bad(() => 'all', /one per pair, got 'all'/)
    await bad(({ tasks }: PairInput) => tasks.map(() => 1.5), /from 0 to 1, got 1.5 for task prompt/)
    await bad(() => Promise.reject(new Error('no judge today')), /no judge today/)
    const both = run(recipe, { judge: longer, missingEosPenalty: 1 })
    await t.rejects(both, { code: 'E_CONFIG', where: 'missingEosPenalty' })
    await t.rejects(run(recipe, { judge: longer, rewardWeights: [2] }), { code: 'E_CONFIG', where: 'rewardFuncs' })
  }
  t.match(inputs[0], { rows: [{ prompt: String }], prompts: [/^say/], tasks: [{ id: String }] })
  await t.rejects(run('onlineGkd', { judge: longer }), { code: 'E_CONFIG', where: 'judge' })
})

t.test('pairs that tie have the bonus alone', async (t) => {
  const same: RewardFunction = function same({ tasks }) {
    return tasks.map(() => 0.25)
  }
  const none = await run('onlineXpo', { rewardFuncs: [same], alpha: 0, weightDecay: 0 })
  t.equal(none.steps[0].gradNorm, 0)
  t.equal(none.steps[0].loss, 0)
  const { seen, letters } = watching()
  const bonus = await run('onlineXpo', { rewardFuncs: [same, letters], rewardWeights: [1, 0], alpha: 0.5 })
  using policy = await loadModel(base)
  const sums = (await tokenLogps(policy, seen[0])).map(sum)
  near(t, bonus.steps[0].loss, 0.5 * mean(sums.slice(3)), 'of the reference’s samples')
  t.ok(bonus.steps[0].gradNorm > 0)
})

t.test('samples that were cut off', async (t) => {
  const { seen, letters } = watching()
  const settings = { rewardFuncs: [letters], missingEosPenalty: 2, maxCompletionLength: 3 }
  const { rounds } = await run('onlineNashMd', settings)
  const cut = seen[0].finishReasons.slice(0, 3).filter((reason) => reason === 'length').length
  t.equal(rounds[0]['rewards/missingEos/mean'], (-2 * cut) / 3)
  near(t, rounds[0].reward, rounds[0]['rewards/letters/mean'] - (2 * cut) / 3, 'taken from the reward')
  t.equal(rounds[0]['val/model_contain_eos_token'], 1 - cut / 3)
})

// Refusals ---------------------------------------------------------------------------------------------------------------

t.test('refused before anything is sampled', async (t) => {
  const { seen, letters } = watching()
  const refused = (recipe: Recipe, options: object, where: string, message?: RegExp, code = 'E_CONFIG') =>
    t.rejects(
      run(recipe, { rewardFuncs: [letters], ...options }),
      { code, where, ...(message && { message }) },
      `${recipe} ${where}`,
    )
  await refused('onlineGkd', { lmbda: 1.5 }, 'lmbda')
  await refused('onlineGkd', { lmbda: -0.1 }, 'lmbda')
  await refused('onlineGkd', { beta: 2 }, 'beta')
  await refused('onlineGkd', { seqKd: 'yes' }, 'seqKd')
  await refused('onlineGkd', { seqKD: true }, 'seqKD', /did you mean 'seqKd'/)
  await refused('onlineGkd', { lambda: 0.5 }, 'lambda', /did you mean 'lmbda'/)
  await refused('onlineGkd', { reference: undefined }, 'reference', /the teacher/)
  await refused('onlineGkd', { prompts: [...prompts, { prompt: 'a' }] }, 'prompt 4', /completion/, 'E_FORMAT')
  await refused('onlineGkd', { prompts: [{ prompt: 'a', completion: 3 }] }, 'prompt 1', /completion/, 'E_FORMAT')
  await refused(
    'onlineGkd',
    { prompts: createTask('arithmetic', { seed: 1 }), trainTasks: 3 },
    'lmbda',
    /expected 1, or seqKd/,
  )
  await refused('onlineNashMd', { mixtureCoef: 1.1 }, 'mixtureCoef')
  await refused('onlineNashMd', { mixtureCoef: [0.5, 0.2] }, 'mixtureCoef', /expected number/)
  await refused('onlineNashMd', { beta: 0 }, 'beta')
  await refused('onlineNashMd', { missingEosPenalty: -1 }, 'missingEosPenalty')
  await refused('onlineNashMd', { rewardFuncs: undefined }, 'rewardFuncs')
  await refused('onlineXpo', { alpha: -1 }, 'alpha')
  await refused('onlineXpo', { lossType: 'hinge' }, 'lossType')
  await refused('onlineXpo', { numGenerations: 0 }, 'numGenerations')
  await refused('onlineXpo', { rewardFuncs: undefined }, 'rewardFuncs')
  await refused('onlineXpo', { judge: 7 }, 'recipe.judge')
  t.equal(seen.length, 0)
  using half = await loadModel(wide, { dtype: 'bf16' })
  for (const recipe of names.slice(1))
    await t.rejects(run(recipe, { rewardFuncs: [letters], reference: half.decoder }), {
      code: 'E_CONFIG',
      message: /dtype/,
    })
  t.equal(seen.length, 0)
})
