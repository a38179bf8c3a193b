// What the command line prints and how it ends: lines of steps and evaluations, settings, errors as text and JSON, exit
// codes of signals, flags of the device, several config files. Flags, spellings and refusals: cli.test.ts.

import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import type { Progress } from '../ts/src/base/progress.js'
import { describeRun, resumeCommand } from '../ts/train/cli/common.js'
import { createShow } from '../ts/train/cli/show.js'
import type { StepEvent, TrainEvent } from '../ts/train/events.js'
import { commandLine, words } from './support-cli.js'

t.setTimeout(120_000)
const { folder, put, start, run, settingsOf } = await commandLine(t)

/** What is shown of events. */
function shown(...events: readonly TrainEvent[]): string[] {
  const lines: string[] = []
  const add = (line: string) => void lines.push(line)
  const progress: Progress = { update: add, note: add, end: () => undefined }
  const show = createShow(progress)
  for (const event of events) show(event)
  return lines
}

const stepOf = (phase: string, stats: Record<string, number>): StepEvent => ({
  type: 'step',
  phase,
  step: 3,
  totalSteps: 10,
  loss: 0.5,
  gradNorm: 1,
  learningRate: 1e-3,
  trainedTokens: 5,
  tokens: 10,
  numTokens: 30,
  stats,
  applied: true,
  tokensPerSecond: 100,
  memoryBytes: 2048,
  seconds: 1,
})

t.test('a step shows the figures that tell most', async (t) => {
  const preference = { 'rewards/chosen': 1, 'rewards/accuracies': 0.75, 'rewards/margins': 1e-5, 'logps/chosen': -9 }
  t.same(shown(stepOf('dpo.v1', preference)), [
    'dpo.v1 3/10  loss 0.5000  accuracies 0.7500  margins 1.0e-5  100 tokens/s  2.0 KiB  1 s left',
  ])
  t.match(shown(stepOf('reward.v1', { accuracy: 0.5, margin: -0.25 })), [
    /loss 0\.5000 {2}accuracy 0\.5000 {2}margin -0/,
  ])
  t.match(shown(stepOf('sft.v1', { entropy: 2 })), [/loss 0\.5000 {2}100 tokens/])
  const round: TrainEvent = { type: 'round', round: 1, values: { samples: 8, tasks: 2, reward: 0.3, kept: 8 } }
  const [, during, behind] = shown(round, stepOf('round', { kl: 0.001 }), stepOf('control', {}))
  t.match(during, 'loss 0.5000  reward 0.3000  kl 0.0010  100', 'the reward of the round')
  t.notMatch(behind, 'reward', 'and of no other phase')
})

t.test('an evaluation shows its own figures, and an interval only where there is one', async (t) => {
  const values = { loss: 0.6, accuracy: 1, margin: 0.2, mean_reward: -0.1 }
  t.same(shown({ type: 'eval', name: 'eval', step: 4, values }), [
    '  eval at step 4: loss 0.6000, accuracy 1.0000, margin 0.2000, mean_reward -0.1000',
  ])
  const accuracy = { accuracy: 0.5, low: 0.25, high: 0.75, correct: 8, total: 16 }
  t.same(shown({ type: 'eval', name: 'round', round: 2, values: accuracy }), [
    '  after round 2: held-out accuracy 50.0% (25.0% to 75.0%, 16 tasks)',
  ])
  t.same(shown({ type: 'end', step: 5, stepsDone: 0, stopped: true }), [], 'stopped is not finished')
})

t.test('settings that differ from their defaults, and where the others are', async (t) => {
  const values = { model: 'm', seed: 42, maxSteps: 9, saveSteps: 500, limit: undefined, learningRate: 1e-6 }
  const origins = {
    model: 'a.yaml:1',
    seed: 'command line',
    maxSteps: 'a.yaml:2',
    saveSteps: 'a.yaml:3',
    limit: 'default',
    learningRate: 'default of dpo',
  }
  const usual = { seed: 42, maxSteps: -1, saveSteps: 500, learningRate: 1e-6 }
  t.equal(
    describeRun({ all: { values, origins }, usual, output: 'runs/x' }),
    [
      'model        = "m"  (a.yaml:1)',
      'seed         = 42  (command line)',
      'maxSteps     = 9  (a.yaml:2)',
      'learningRate = 1e-6  (default of dpo)',
      '1 other settings have their defaults; all of them: runs/x/config.json',
    ].join('\n'),
  )
  const { err } = await run(...words('train sft --config run.yaml --data none.jsonl --output none'))
  t.match(err, /^E_IO \[none\.jsonl\]/m)
  t.notMatch(err, / = /, 'no settings before an error')
})

t.test('reward models, from rows to the console', async (t) => {
  const command = 'train reward --config run.yaml --data preference.jsonl --evalRows 2 --evalSteps 2 --output reward'
  const { code, err } = await run(...words(command))
  t.equal(code, 0, err)
  const figures = String.raw`loss \d\.\d+, accuracy [01]\.\d+, margin \S+, mean_reward \S+$`
  t.match(err, new RegExp(`^ {2}eval at step 2: ${figures}`, 'm'))
  t.match(err, new RegExp(`^ {2}eval at step 4: ${figures}`, 'm'))
  t.match(err, /^reward\.v1 4\/4 {2}loss \S+ {2}accuracy \S+ {2}margin \S+ {2}\d+ tokens/m)
  t.notMatch(err, /NaN|undefined/)
})

t.test('errors as JSON, those of missing options among them', async (t) => {
  const cases: [command: string, expected: object][] = [
    ['generate --json', { code: 'E_CONFIG', where: '--model', message: 'expected a value, got none' }],
    ['merge --output x --json', { code: 'E_CONFIG', where: '--model' }],
    [
      'merge --model base --output x --dtype q8 --json',
      { code: 'E_CONFIG', where: '--dtype', message: /q8.*f32, bf16/ },
    ],
    ['train sft --json --config none.yaml', { code: 'E_IO', where: 'none.yaml', message: /^cannot open/ }],
    ['train sft --lerningRate 1 --json', { code: 'E_CONFIG', where: '--lerningRate', details: {} }],
  ]
  for (const [command, expected] of cases) {
    const { code, out, err } = await run(...words(command))
    t.match(JSON.parse(out), expected, command)
    t.equal(out.split('\n').length, 2, 'one line')
    t.match(err, /^E_(CONFIG|IO) \[/, 'and the text')
    t.equal(code, err.startsWith('E_IO') ? 74 : 1)
  }
  const plain = await run('report')
  t.same([plain.code, plain.out], [1, ''])
  t.match(plain.err, /^E_CONFIG \[folder\] missing required argument/)
})

t.test('a run that a signal stops', async (t) => {
  const command =
    'train sft --config run.yaml --data completion.jsonl --maxSteps 100000 --saveSteps 0 --json --output st'
  const child = start(words(command))
  let [out, err] = ['', '']
  child.stdout?.on('data', (piece) => (out += piece))
  child.stderr?.on('data', (piece) => (err += piece))
  const ended = once(child, 'close')
  const waiting = setInterval(async () => {
    if ((await settingsOf('st').catch(() => undefined)) && !child.killed) child.kill('SIGTERM')
  }, 20)
  const [code] = (await ended) as [number | null]
  clearInterval(waiting)
  t.equal(code, 0, err)
  t.same(JSON.parse(out), { stopped: true, output: 'st', resume: `whetstone ${command} --resume` })
  for (const given of ['--resume_from_checkpoint runs/a', '--resumeFromCheckpoint=a', '--resume-from-checkpoint'])
    t.equal(resumeCommand(words(`train sft ${given} --seed 1`)), 'whetstone train sft --seed 1 --resume')
  t.equal(resumeCommand(['train', 'it’s', "a'b", '--resume']), `whetstone train 'it’s' 'a'\\''b' --resume`)
})

t.test('flags of the device go before the environment', async (t) => {
  const command = words('train sft --config run.yaml --data completion.jsonl --maxSteps 1 --output')
  const environment = { ...process.env, WHETSTONE_DEVICE: 'cuda:9', WHETSTONE_THREADS: 'x' }
  const withEnvironment = async (...more: string[]) => {
    const child = start([...command, ...more], environment)
    let err = ''
    child.stderr?.on('data', (piece) => (err += piece))
    const [code] = (await once(child, 'close')) as [number | null]
    return { code, err }
  }
  const one = await withEnvironment('cpu', '--device', 'cpu', '--threads', '1', '--memory-limit', '0.5GiB')
  t.equal(one.code, 0, one.err)
  t.match(one.err, /4? ?optimizer steps on cpu \S+, 1 threads \(asked for\)/)
  const auto = await withEnvironment('auto', '--device', 'auto', '--threads', '1')
  t.equal(auto.code, 0, auto.err)
  const small = await run(...command, 'small', '--memoryLimit', '1KiB')
  t.equal(small.code, 1)
  t.match(small.err, /^E_OOM /m)
  for (const [flag, text] of [
    ['--device', 'gpu'],
    ['--threads', '0'],
    ['--threads', '1.5'],
    ['--memoryLimit', '-1'],
    ['--memoryLimit', '8GB'],
  ]) {
    const { code, err } = await run('generate', '--model', 'base', '--prompt', 'a', flag, text)
    t.equal(code, 1)
    t.match(err, new RegExp(`^E_CONFIG \\[${flag}\\] expected .*, got '${text}'`))
  }
  for (const name of ['train sft', 'train grpo', 'improve', 'generate', 'merge'])
    t.match(
      (await run(...words(`${name} --help`))).out,
      /--device .*\n[\s\S]*--threads .*\n[\s\S]*--memoryLimit /,
      name,
    )
  t.match(
    (await run(...words('estimate sft --config run.yaml --device cpu --output x --evalData completion.jsonl'))).out,
    /peak of the device/,
  )
})

t.test('config files in order, and that of a run', async (t) => {
  await put('more.yaml', 'max_steps: 2\nsave_steps: 1\n')
  const command = 'train dpo --config run.yaml --config more.yaml --data preference.jsonl --saveSteps 5'
  const { code, err } = await run(...words(`${command} --lora.r 4 --output first`))
  t.equal(code, 0, err)
  const first = await settingsOf('first')
  t.match(first, {
    model: { origin: 'run.yaml:1' },
    maxSteps: { value: 2, origin: 'more.yaml:1' },
    saveSteps: { value: 5, origin: 'command line' },
  })
  const kept = join('first', 'config.json')
  const again = await run(...words(`train dpo --config ${kept} --output second`))
  t.equal(again.code, 0, again.err)
  t.match(again.err, /^maxSteps += 2 {2}\(first\/config\.json\)$/m)
  const second = await settingsOf('second')
  const valuesOf = (settings: typeof first) => Object.entries(settings).map(([key, { value }]) => [key, value])
  t.same(valuesOf(second), valuesOf(first))
  t.equal(again.out.split(';')[0], (await run(...words(`train dpo --config ${kept} --output third`))).out.split(';')[0])
  const other = await run(...words(`train sft --config ${kept} --output no`))
  t.match(other.err, /^E_CONFIG \[first\/config\.json\] unknown setting 'dpo\./m)
})

t.test('--resume needs a run, and --evalSteps rows to evaluate on', async (t) => {
  const command = 'train sft --config run.yaml --data completion.jsonl --output no'
  const nothing = await run(...words(`${command} --resume`))
  t.equal(nothing.code, 1)
  t.match(nothing.err, /^E_CONFIG \[no\] there is no run in the folder to go on with/m)
  const named = await run(...words(`${command} --resume_from_checkpoint True`))
  t.match(named.err, /^E_CONFIG \[no\] there is no run in the folder to go on with/m, "TRL's name")
  const other = await run(...words(`${command} --resume_from_checkpoint base`))
  t.match(other.err, /^E_CONFIG \[--resumeFromCheckpoint\] expected true or a run with a checkpoint in no, got base: /m)
  t.match((await run(...words(`${command} --resume_from_checkpoint nowhere`))).err, /^E_IO \[nowhere\] cannot look at/m)
  const noRows = await run(...words(`${command} --evalSteps 5`))
  t.equal(noRows.code, 1)
  t.match(noRows.err, /^E_CONFIG \[evalSteps\] expected evalData or evalRows beside it/m)
  await t.rejects(settingsOf('no'), { code: 'ENOENT' }, 'nothing was started')
  t.match((await run(...words('improve --rounds 1 --resume --output no'))).err, /^E_CONFIG \[no\] there is no run/m)
  t.ok(folder)
})
