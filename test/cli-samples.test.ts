// The command line with every trainer on samples, as child processes: prompts and rewards from files, settings from a
// config file and flags, --resume. Trainers on rows: cli-kinds.test.ts.

import { join } from 'node:path'
import t from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import { onlineTrainers } from '../ts/train/config/online-settings.js'
import { commandLine, inPairs, words } from './support-cli.js'

t.setTimeout(120_000)
const { folder, put, run, settingsOf, eventsOf } = await commandLine(t)

/** What untrained models need, so that some samples are kept. */
const own: Readonly<Record<string, string>> = {
  bstar: '--temperatures 0.8,1.2 --thresholds=-1 --rightAt 0',
  still: '--maskTruncatedCompletions false --right 0 --skipSolved false',
  sharpening: '--maskTruncatedCompletions false',
  cct: '--right 0',
  ilf: '--seed 1',
  pit: '--shownColumns completion',
  ledex: '--right 100 --explanations 2',
  selfRationalization: '--pairBy majority',
  restMcts: '--right 0 --maskTruncatedCompletions false --temperature 1',
  alphaLlm: '--maskTruncatedCompletions false --threshold -100 --temperature 1',
  qwenMath: '--right 8 --leastRight 0 --mostRight 1 --temperature 1',
  critiqueInLoop: '--right 0',
  smart: '--right 0',
  autoCei: '--right 0',
  agentR: '--alphas 0 --maxEpisodeSteps 2 --simulations 2',
  dapo: '--maskTruncatedCompletions false',
}

/** What they work on, where that is no file of rows. */
const worlds: Readonly<Record<string, string>> = { agentR: '--tasks grid' }

/** One with and one without an adapter. */
const resumedToo = ['grpo', 'onlineDpo', 'onlineGkd']

t.test('every trainer on samples, by name', async (t) => {
  await put('rewards.mjs', 'export const long = ({ completions }) => completions.map((text) => text.length)\n')
  const settings = ['model: base', 'learning_rate: 1e-2', 'max_completion_length: 8', 'num_generations: 4', 'rounds: 2']
  await put('online.yaml', `${settings.join('\n')}\nprompts_per_round: 2\n`)
  const files = '--data completion.jsonl --rewards rewards.mjs'
  const command = `--config online.yaml ${files}`
  const estimating = 'train pairReward --model base --data preference.jsonl --lora.r 2 --lora.loraDropout 0.1'
  const estimated = await run(...words(`${estimating} --maxSteps 1 --output estimator`))
  const estimator = /checkpoint: (\S+)/.exec(estimated.out)?.[1]
  await inPairs(Object.keys(onlineTrainers), async (name) => {
    const output = `online-${name}`
    // Nearly all samples of an untrained model are cut off.
    const mask = own[name] ?? '--temperature 1'
    const adapter = name === 'gspo' || name === 'onlineDpo' ? '--lora.r 4 --lora.loraDropout 0.1' : '--seed 1'
    const teachers: Readonly<Record<string, string>> = {
      onlineGkd: '--teacher_model_name_or_path teacher --lmbda 0.5 ',
      upo: `--judge ${estimator} `,
    }
    const teacher = teachers[name] ?? ''
    const asked = words(
      `train ${name} --config online.yaml ${worlds[name] ?? files} ${teacher}${mask} ${adapter} --output ${output}`,
    )
    const { code, out, err } = await run(...asked)
    t.equal(code, 0, `${name}: ${err}`)
    const events = await eventsOf(output)
    t.equal(events.filter(({ type }) => type === 'round').length, 2, `${name}: two rounds`)
    t.match(await settingsOf(output), { rounds: { value: 2, origin: 'online.yaml:5' } })
    using model = await loadModel(join(folder, /checkpoint: (\S+)/.exec(out)?.[1] ?? ''))
    t.equal((await model.logProbs([40, 41, 42])).length, 3, 'the checkpoint loads')
    if (!resumedToo.includes(name)) return
    const resumed = await run(...asked, '--resume')
    t.equal(resumed.code, 0, resumed.err)
    t.match(resumed.err, 'finished already')
  })
  const cut = await run(...words(`train dapo ${command} --maxCompletionLength 1 --seed 4 --output cut`))
  t.equal(cut.code, 1)
  t.match(cut.err, /^E_VERIFIER \[round 1\] all \d samples that were kept were cut off.*maskTruncatedCompletions/m)
})

t.test('a judge of pairs, distillation without rewards, episodes', async (t) => {
  const judge = 'export default ({ completions }) => completions.map(([a, b]) => Number(a.length > b.length))\n'
  await put('judge.mjs', judge)
  const command = '--config online.yaml --data completion.jsonl --rounds 1'
  for (const [name, more] of [
    ['onlineXpo', '--judge judge.mjs'],
    ['onlineNashMd', '--judge judge.mjs --mixture_coef 0.25'],
    ['onlineGkd', '--reference teacher --seq_kd --lmbda 0'],
  ]) {
    const { code, err } = await run(...words(`train ${name} ${command} ${more} --output unrewarded-${name}`))
    t.equal(code, 0, err)
    const [round] = (await eventsOf(`unrewarded-${name}`)).filter(({ type }) => type === 'round')
    t.notOk(Object.keys(round.values as object).includes('reward'), name)
  }
  t.match(await settingsOf('unrewarded-onlineNashMd'), { judge: { value: 'judge.mjs' }, mixtureCoef: { value: 0.25 } })
  t.match(await settingsOf('unrewarded-onlineGkd'), { seqKd: { value: true, origin: 'command line' } })
  t.equal((await run('report', 'unrewarded-onlineGkd')).code, 0, 'a report without rewards')
  const none = await run(...words(`train onlineXpo ${command} --output none`))
  t.match(none.err, /^E_CONFIG \[--rewards\] expected a module of reward functions/m)
  await put('two.mjs', 'export const a = () => []\nexport const b = () => []\n')
  const two = await run(...words(`train onlineXpo ${command} --judge two.mjs --output two`))
  t.match(two.err, /^E_CONFIG \[two\.mjs\] expected a module that exports one function .* found 2/m)
  const untaught = await run(...words(`train onlineGkd ${command} --output untaught`))
  t.match(untaught.err, /^E_CONFIG \[reference\] gkd\.v1 needs it, the teacher/m)
  const rooms = '--config online.yaml --tasks grid --rounds 1 --maxEpisodeSteps 2'
  const acted = await run(...words(`train grpo ${rooms} --env true --output acted`))
  t.equal(acted.code, 0, acted.err)
  const episodes = (await eventsOf('acted')).filter(({ type }) => type === 'round')
  t.match(episodes, [{ values: { 'rewards/env/mean': Number, 'episodes/steps': Number } }])
  const worldless = await run(...words(`train grpo ${command} --env true --output worldless`))
  t.match(worldless.err, /^E_CONFIG \[--env\] expected tasks that have an environment/m)
  const turns = await run(...words(`train rise ${rooms} --env true --output turns`))
  t.match(turns.err, /^E_CONFIG \[env\] expected none: this method makes its samples/m)
  for (const trainer of ['agentR', 'grpo --env true']) {
    const estimated = await run(...words(`estimate ${trainer} ${rooms}`))
    t.match(estimated.err, /^E_CONFIG .* how long they get is not known before/m)
  }
  const lmbda = await run(...words(`train onlineGkd ${command} --reference teacher --lmbda 2 --output lmbda`))
  t.match(lmbda.err, /^E_CONFIG \[--lmbda\] .*got 2/m)
})

t.test('reward models by folder, beside modules', async (t) => {
  const trained = await run(...words('train reward --model base --data preference.jsonl --maxSteps 1 --output judge'))
  t.equal(trained.code, 0, trained.err)
  const judge = /checkpoint: (\S+)/.exec(trained.out)?.[1] ?? ''
  const command = '--config online.yaml --data completion.jsonl --stopStrings a --rounds 1'
  const both = await run(...words(`train grpo ${command} --reward_funcs rewards.mjs,${judge} --output judged`))
  t.equal(both.code, 0, both.err)
  const [round] = (await eventsOf('judged')).filter(({ type }) => type === 'round')
  t.match(round, { values: { 'rewards/long/mean': Number, 'rewards/judge/mean': Number } })
  t.match(await settingsOf('judged'), { rewards: { value: ['rewards.mjs', judge] }, stopStrings: { value: ['a'] } })
  const pairs = await run(...words('train pairReward --model base --data preference.jsonl --maxSteps 1 --output pairs'))
  t.equal(pairs.code, 0, pairs.err)
  const evaluated = '--eval_data completion.jsonl --num_generations_eval 1'
  const compared = await run(...words(`train onlineDpo ${command} --judge pairs ${evaluated} --output compared`))
  t.equal(compared.code, 0, compared.err)
  const told = (await eventsOf('compared')).filter(({ type }) => type === 'eval')
  t.match(told, [{ round: 1, values: { 'val/contain_eos_token': Number } }])
  t.equal((await run('report', 'compared')).code, 0)
  t.match((await eventsOf('compared'))[0], { notes: ['model base', String, 'judge: pairs'] })
  const plain = await run(...words(`train grpo ${command} --rewards base --output plain`))
  t.equal(plain.code, 1)
  t.match(plain.err, /^E_CONFIG \[base\] expected a reward model with a score head of one number/m)
})

t.test('memory of trainers on samples, before they run', async (t) => {
  await put('score.mjs', 'export const long = ({ completions }) => completions.map((text) => text.length)\n')
  const settings = ['model: base', 'max_completion_length: 24', 'num_generations: 4', 'rounds: 1', 'rewards: score.mjs']
  await put('estimate.yaml', `${settings.join('\n')}\nprompts_per_round: 4\ndata: completion.jsonl\n`)
  const runs = [
    ['grpo', ''],
    ['grpo', '--beta 0.1'],
    ['grpo', '--lora.r 4 --beta 0.1'],
    ['rloo', '--dtype bf16 --stochasticRounding'],
    ['dapo', '--maskTruncatedCompletions false'],
    ['onlineDpo', '--dtype bf16 --gradientCheckpointing'],
    ['onlineXpo', ''],
    ['onlineNashMd', '--reference teacher'],
    ['onlineGkd', '--reference teacher --lmbda 1'],
    ['onlineGkd', '--reference teacher --lmbda 0 --seqKd'],
    ['onlineGkd', '--reference teacher --lmbda 0'],
    ['bestOfN', '--threshold -1'],
    ['score', ''],
    ['bstar', '--temperatures 1 --thresholds=-1 --rightAt 0'],
    ['still', '--maskTruncatedCompletions false --right 0 --skipSolved false'],
    ['sharpening', '--maskTruncatedCompletions false'],
    ['mctsDpo', '--simulations 1'],
  ]
  await inPairs(runs, async ([name, own]) => {
    const what = `${name} ${own}`.trim()
    const output = `memory ${what}`
    const command = words(`${what} --config estimate.yaml`)
    const { code, err } = await run('train', ...command, '--output', output)
    t.equal(code, 0, err)
    const used = (await eventsOf(output)).flatMap(({ memoryBytes }) =>
      typeof memoryBytes === 'number' ? memoryBytes : [],
    )
    const estimate = await run('estimate', ...command, '--json')
    t.equal(estimate.code, 0, `${what}: ${estimate.err}`)
    const { peakBytes, rows } = JSON.parse(estimate.out) as {
      peakBytes: number
      rows: { name: string; bytes: number }[]
    }
    const last = Math.max(...used)
    t.ok(Math.abs(peakBytes / last - 1) < 0.15, `${what}: ${peakBytes} predicted for ${last}`)
    t.equal(
      rows.reduce((sum, { bytes }) => sum + bytes, 0),
      peakBytes,
      `${what}: the table adds up`,
    )
    t.ok(
      rows.every(({ bytes }) => bytes > 0),
      what,
    )
  })
  const text = await run(...words('estimate grpo --config estimate.yaml'))
  t.match(text.out, /^train grpo on base in f32\na round: 16 samples of 24 tokens behind prompts of up to \d+\n/)
  t.match(text.out, /^ +samples, their cache, activations +\d/m)
  t.match((await run(...words('estimate grpo --model base'))).err, /^E_CONFIG \[--tasks\] expected either/)
  t.match((await run(...words('estimate grpo --model base --tasks arithmetic --rounds 1'))).out, /peak of the device/)
})
