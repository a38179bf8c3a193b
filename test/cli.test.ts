// The built command line as a child process: help, configuration with its origins, refusals, JSON, exit codes, and
// readers that go away.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import t from 'tap'
import { onlineTrainers } from '../ts/train/config/online-settings.js'
import { rowTrainers, runCatalogue } from '../ts/train/config/run-settings.js'
import { golden, temporaryFolder } from './support.js'

const folder = await temporaryFolder(t)
const model = resolve(golden('llama'))
const program = resolve('dist', 'bundle', 'cli.js')

const start = (args: readonly string[]): ChildProcess =>
  spawn(process.execPath, [program, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })

interface Outcome {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

async function run(...args: string[]): Promise<Outcome> {
  const child = start(args)
  let [out, err] = ['', '']
  child.stdout?.on('data', (piece) => (out += piece))
  child.stderr?.on('data', (piece) => (err += piece))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, out, err }
}

const put = (name: string, text: string): Promise<void> => writeFile(join(folder, name), text)
const jsonLines = (rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('')
const words = ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight']
await put('rows.jsonl', jsonLines(words.map((word, i) => ({ prompt: `${word} `, completion: words[(i + 1) % 8] }))))

const quick = ['--data', 'rows.jsonl', '--model', model, '--maxSteps', '2', '--perDeviceTrainBatchSize', '2']

t.test('help names every command, every objective and every setting', async (t) => {
  const top = await run('--help')
  t.equal(top.code, 0)
  for (const command of ['improve', 'train', 'preview', 'estimate', 'eval', 'merge', 'generate', 'report', 'doctor'])
    t.match(top.out, new RegExp(`^ +${command}`, 'm'))
  const train = await run('train', '--help')
  for (const name of [...rowTrainers, ...Object.keys(onlineTrainers)])
    t.match(train.out, new RegExp(`^ +${name} `, 'm'), name)
  const dpo = await run('train', 'dpo', '--help')
  t.equal(dpo.code, 0)
  for (const { shortest } of runCatalogue('dpo').settings)
    t.match(dpo.out, new RegExp(`^ +--${shortest} `, 'm'), shortest)
  const text = dpo.out.replace(/\s+/g, ' ')
  t.match(text, 'peak learning rate [1e-6]', 'the default of this objective')
  t.match(text, '(reverseKl, forwardKl, jsDivergence, alphaDivergence) [reverseKl]')
  t.match(text, 'Settings of dpo: --beta <n> strength of the tie to the reference')
  t.match((await run('help', 'improve')).out, '--sftTasks <n>')
})

t.test('settings come from flags, file, objective and defaults, and the folder keeps all of them', async (t) => {
  await put('run.yaml', `model_name_or_path: ${model}\nlearning_rate: 1e-3\nmax_steps: 5\nsft:\n  loss_type: dft\n`)
  const flags = ['--data', 'rows.jsonl', '--output_dir', 'one', '--MAX-STEPS=2', '--no-shuffle', '--packing']
  const { code, out, err } = await run('train', 'sft', '--config', 'run.yaml', ...flags)
  t.equal(code, 0, err)
  t.match(out, /^loss \d+\.\d+; checkpoint: one\/checkpoints\/step-00000002$/m)
  t.match(err, /^learningRate += 0\.001 {2}\(run\.yaml:2\)$/m)
  t.match(err, /^maxSteps += 2 {2}\(command line\)$/m)
  t.match(err, /^shuffle += false {2}\(command line\)$/m)
  t.match(err, /^packing += true {2}\(command line\)$/m)
  t.match(err, /^sft\.lossType += "dft" {2}\(run\.yaml:5\)$/m)
  t.notMatch(err, /^adamBeta1 /m, 'what nobody gave is in the folder alone')
  t.match(err, /^\d+ other settings have their defaults; all of them: one\/config\.json$/m)
  const kept = JSON.parse(await readFile(join(folder, 'one', 'config.json'), 'utf8')) as Record<string, unknown>
  t.same(kept.adamBeta1, { value: 0.9, origin: 'default' })
  t.same(kept['sft.lossType'], { value: 'dft', origin: 'run.yaml:5' })
  t.same(kept.model, { value: model, origin: 'run.yaml:1' })
  t.notOk('output' in kept, 'a run folder may be moved')

  const again = await run('train', 'sft', '--config', 'run.yaml', ...flags)
  t.equal(again.code, 1)
  t.match(again.err, /^E_CONFIG \[one\] .*--resume/m)
  const resumed = await run('train', 'sft', '--config', 'run.yaml', ...flags, '--resume')
  t.equal(resumed.code, 0)
  t.match(resumed.err, 'finished already')
  const from = (checkpoint: string) =>
    run('train', 'sft', '--config', 'run.yaml', ...flags, '--resume_from_checkpoint', checkpoint)
  const checkpoints = join('one', 'checkpoints')
  const [oldest, newest] = ['step-00000001', 'step-00000002']
  await mkdir(join(folder, checkpoints, oldest))
  for (const checkpoint of ['true', 'one', join(checkpoints, newest)])
    t.match(await from(checkpoint), { code: 0, err: /finished already/ }, checkpoint)
  const older = await from(join(checkpoints, oldest))
  t.equal(older.code, 1)
  t.match(older.err, `expected true or the newest checkpoint of one, ${join(checkpoints, newest)}, got`)
  const fresh = await from('false')
  t.match(fresh.err, /^E_CONFIG \[one\] .*--resume/m)
  await put('resumed.yaml', 'resume_from_checkpoint: true\n')
  const inFile = await run('train', 'sft', '--config', 'resumed.yaml')
  t.match(inFile.err, /^E_CONFIG \[resumed\.yaml:1\] unknown setting 'resume_from_checkpoint'; .* --resume/m)
  const other = await run('train', 'sft', '--config', 'run.yaml', ...flags, '--resume', '--sft.lossType', 'nll')
  t.equal(other.code, 1)
  t.match(other.err, /^E_MISMATCH \[sft\.lossType\] .*"dft", now "nll"/m)
})

t.test('trainers that sample: prompts and rewards from files, or tasks', async (t) => {
  await put('rewards.mjs', 'export const short = ({ completions }) => completions.map((text) => -text.length)\n')
  await put('none.mjs', 'export const rewards = 5\n')
  await put('broken.mjs', 'export const = 5\n')
  const few = ['--model', model, '--rounds', '1', '--prompts-per-round', '2', '--max_completion_length', '6']
  const prompts = [...few, '--data', 'rows.jsonl', '--rewards']
  const { code, out, err } = await run(
    'train',
    'grpo',
    ...prompts,
    'rewards.mjs',
    '--num-generations=3',
    '--output',
    'g',
  )
  t.equal(code, 0, err)
  t.match(err, /round 1: 6 samples of 2 tasks, reward -\d/)
  t.match(err, /^method += "grpo" {2}\(trainer grpo\)$/m)
  t.match(out, /^loss .*checkpoint: g\/rounds\/checkpoints\/step-0+1$/m)
  const kept = JSON.parse(await readFile(join(folder, 'g', 'config.json'), 'utf8')) as Record<string, unknown>
  t.match(kept, { rewards: { value: 'rewards.mjs' }, numGenerations: { value: 3, origin: 'command line' } })
  const refused = async (text: RegExp, ...args: string[]) => {
    const outcome = await run('train', 'grpo', ...args, '--output', 'no')
    t.equal(outcome.code, 1, args.join(' '))
    t.match(outcome.err, text)
  }
  await put('silent.mjs', 'export const never = () => new Promise(() => {})\n')
  const silent = await run('train', 'grpo', ...prompts, 'silent.mjs', '--output', 'silent')
  t.match(
    silent,
    { code: 1, err: /^E_VERIFIER \[whetstone\] .*promise of a reward function/m },
    'no end without a word',
  )
  await put(
    'chatty.mjs',
    'console.log(1)\nexport const one = ({ completions: c }) => c.map(() => console.log(2) ?? 1)\n',
  )
  const chatty = await run('train', 'grpo', ...prompts, 'chatty.mjs', '--json', '--output', 'chatty')
  t.match(chatty, { code: 0, err: '1\n2\n' })
  t.match(JSON.parse(chatty.out), { stopped: false }, 'what modules print is not in the way of the object')
  await refused(/^E_CONFIG \[--tasks\] expected either/m, ...few)
  await refused(/^E_CONFIG \[--rewards\] expected a module/m, ...few, '--data', 'rows.jsonl')
  await refused(/^E_CONFIG \[none\.mjs\] .*exports functions/m, ...prompts, 'none.mjs')
  await refused(/^E_VERIFIER \[broken\.mjs\] cannot load/m, ...prompts, 'broken.mjs')
  await refused(/^E_CONFIG \[--tasks\] .*"arithmetic"\|"countdown"\|.*, got "chess"/m, ...few, '--tasks', 'chess')
})

t.test('LoRA: any lora.* asks for an adapter, with its own learning rate', async (t) => {
  await put(
    'lora.yaml',
    `model: ${model}\ndata: rows.jsonl\nmax_steps: 1\nlora:\n  r: 4\n  target_modules: [q_proj, v_proj]\n`,
  )
  const { code, err } = await run('train', 'sft', '--config', 'lora.yaml', '--lora_alpha', '8', '--output', 'l')
  t.equal(code, 0, err)
  t.match(err, /^lora\.r += 4 {2}\(lora\.yaml:5\)$/m)
  t.match(err, /^lora\.loraAlpha += 8 {2}\(command line\)$/m)
  t.match(err, /^learningRate += 1e-4 {2}\(default of sft with LoRA\)$/m)
  const help = (await run('train', 'sft', '--help')).out
  t.match(help, /^ +--lora\.targetModules /m)
})

t.test('preview shows rows and what is trained', async (t) => {
  const { code, out, err } = await run('preview', '--model', model, '--data', 'rows.jsonl', '--count', '1')
  t.equal(code, 0, err)
  t.match(out, /^sft\.v1: 8 rows, /m)
  t.match(out, /one t?⟦.*⟧/)
  const limited = JSON.parse(
    (await run('preview', '--config', 'run.yaml', '--data', 'rows.jsonl', '--limit=2', '--json')).out,
  )
  t.match(limited, { objective: 'sft.v1', summary: { rows: 2 } })
  const cut = await run('preview', '--model', model, '--data', 'rows.jsonl', '--maxLength', '3')
  t.equal(cut.code, 1, 'rows without a trained token or an end are an error')
  t.match(cut.out, /^error: /m)
  t.match((await run('preview', '--data', 'rows.jsonl')).err, /^E_CONFIG \[--model\]/)
  t.match(
    (await run('preview', '--model', model, '--data', 'rows.jsonl', '--objective', 'dpo')).err,
    /^E_FORMAT \[rows/,
  )
  t.match(
    (await run('preview', '--model', model, '--data', 'rows.jsonl', '--objective', 'dp')).err,
    /did you mean 'dpo'/,
  )
  t.match((await run('preview', '--model', model, '--data', 'rows.jsonl', '--count', 'x')).err, /^E_CONFIG \[--count\]/)
})

t.test('--json prints one object and nothing else', async (t) => {
  const { code, out, err } = await run('train', 'sft', ...quick, '--output', 'two', '--json')
  t.equal(code, 0, err)
  t.equal(err, '')
  const result = JSON.parse(out) as { step: number; metrics: { loss: number } }
  t.equal(result.step, 2)
  t.type(result.metrics.loss, 'number')
})

t.test('refusals: text, code 1, nothing written', async (t) => {
  await put('bad.yaml', `model: ${model}\nlearning_rte: 1\n`)
  await put('torn.yaml', 'model: [1\nb: {\n')
  const cases: [args: string[], text: RegExp][] = [
    [['tran'], /^E_CONFIG \[whetstone\] .*did you mean 'train'/],
    [['train', 'dqo'], /^E_CONFIG \[train\] .*did you mean 'dpo'/],
    [['train', 'sft', '--lerning-rate', '1'], /^E_CONFIG \[--lerning-rate\] .*did you mean '--learningRate'/],
    [['train', 'sft', '--beta', '1'], /^E_CONFIG \[--beta\] unknown option of 'sft'; --help lists them$/m],
    [['train', 'dpo', '--bf16'], /^E_CONFIG \[--bf16\] .*did you mean '--dtype'/],
    [['train', 'dpo', '--epochs', '1'], /^E_CONFIG \[--epochs\] .*did you mean '--numTrainEpochs'/],
    [['train', 'grpo', '--loadBestModelAtEnd'], /^E_CONFIG \[--loadBestModelAtEnd\] .*choose no checkpoint/],
    [
      ['train', 'dpo', ...quick, '--output', 'no', '--lossType', 'ddpo'],
      /^E_CONFIG \[--lossType\] expected one of "sigmoid"\|.*got "ddpo"/,
    ],
    [
      ['train', 'sft', ...quick, '--output', 'no', '--learningRate', 'x'],
      /^E_CONFIG \[--learningRate\] expected number, got "x"/,
    ],
    [
      ['train', 'sft', ...quick, '--output', 'no', '--learningRate='],
      /^E_CONFIG \[--learningRate\] expected number, got ""/,
    ],
    [
      ['train', 'sft', ...quick, '--output', 'no', '--packing', 'maybe'],
      /^E_CONFIG \[--packing\] expected boolean, got "maybe"/,
    ],
    [['train', 'sft', ...quick, '--output', 'no', '--no-seed'], /^E_CONFIG \[--no-seed\]/],
    [['train', 'sft', '--data', 'rows.jsonl', '--output', 'no'], /^E_CONFIG \[--model\] expected a value/],
    [['train', 'sft', '--model', model, '--data', 'rows.jsonl'], /^E_CONFIG \[--output\] expected a value/],
    [
      ['train', 'sft', '--config', 'bad.yaml'],
      /^E_CONFIG \[bad.yaml:2\] unknown setting 'learning_rte'; did you mean 'learningRate'/,
    ],
    [['train', 'sft', '--config', 'torn.yaml'], /^E_FORMAT \[torn.yaml:2\]/],
    [
      ['train', 'sft', ...quick, '--output', ''],
      /^E_CONFIG \[--output\] expected the name of a file or folder, got ""/,
    ],
    [['train', 'sft', '--model=', '--output', 'no'], /^E_CONFIG \[--model\] .*folder, got ""/],
    [
      ['train', 'grpo', '--model', model, '--data', 'rows.jsonl', '--rewards', '', '--output', 'no'],
      /^E_CONFIG \[--rewards\]/,
    ],
    [['improve', '--output', ''], /^E_CONFIG \[--output\] expected the name of a folder/],
    [['improve', '--rounds', '0'], /^E_CONFIG \[--rounds\]/],
    [['generate', '--prompt', 'x', '--modl', 'y'], /^E_CONFIG \[--modl\] .*'--model'/],
    [['generate', '--prompt', 'x', '--model', model, '--maxNewTokens', ' '], /^E_CONFIG \[--maxNewTokens\]/],
  ]
  const outcomes = await Promise.all(cases.map(([args]) => run(...args)))
  outcomes.forEach(({ code, out, err }, i) => {
    t.equal(code, 1, cases[i][0].join(' '))
    t.match(err, cases[i][1])
    t.equal(out, '')
  })
  await t.rejects(readFile(join(folder, 'no', 'config.json')), 'nothing was started')
})

t.test('a file that cannot be read ends with 74', async (t) => {
  const { code, err } = await run('train', 'sft', '--config', 'none.yaml')
  t.equal(code, 74)
  t.match(err, /^E_IO \[none\.yaml\]/)
})

t.test('a reader that goes away does not end the run', async (t) => {
  const child = start(['train', 'sft', ...quick, '--output', 'three', '--maxSteps', '4'])
  child.stderr?.once('data', () => child.stderr?.destroy())
  child.stdout?.destroy()
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
  t.same([code, signal], [0, null])
  t.match(await readFile(join(folder, 'three', 'metrics.jsonl'), 'utf8'), '"step":4')
})

t.test('readers that are gone from the start: every command ends quietly, with its own exit code', async (t) => {
  const cases: [readonly string[], number][] = [
    [['--help'], 0],
    [['doctor'], 0],
    [['doctor', '--json'], 0],
    [['preview', ...quick.slice(0, 4)], 0],
    [['estimate', 'sft', ...quick], 0],
    [['eval', 'sft', ...quick, '--json'], 0],
    [['generate', '--model', model, '--prompt', 'one', '--maxNewTokens', '40'], 0],
    [['merge', '--model', model, '--output', 'merged'], 1],
    [['report', 'three'], 0],
    [['report', 'nowhere'], 74],
  ]
  for (const closed of ['stdout', 'stderr', 'both'])
    for (const [args, expected] of cases) {
      const child = start(args)
      let err = ''
      if (closed !== 'stdout') child.stderr?.destroy()
      else child.stderr?.on('data', (piece) => (err += piece))
      if (closed !== 'stderr') child.stdout?.destroy()
      else child.stdout?.resume()
      const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
      t.same([code, signal], [expected, null], `${args.slice(0, 2).join(' ')} without ${closed}`)
      if (expected === 0 && closed === 'stdout') t.equal(err, '', 'and without a word')
    }
})

t.test(
  'output that a full disk does not take: said, with exit code 74',
  { skip: !existsSync('/dev/full') },
  async (t) => {
    const full = openSync('/dev/full', 'w')
    const child = spawn(process.execPath, [program, 'doctor'], { cwd: folder, stdio: ['ignore', full, 'pipe'] })
    let err = ''
    child.stderr?.on('data', (piece) => (err += piece))
    const [code] = await once(child, 'close')
    closeSync(full)
    t.equal(code, 74)
    t.equal(err, 'E_IO [stdout] cannot write the output (ENOSPC)\n')
  },
)

t.test('the first signal saves and ends well, and --resume goes on', async (t) => {
  const args = ['train', 'sft', ...quick, '--output', 'four', '--maxSteps', '100000', '--saveSteps', '0']
  const child = start(args)
  let err = ''
  child.stderr?.on('data', (piece) => {
    err += piece
    if (!child.killed && /\d\/100000/.test(err)) child.kill('SIGINT')
  })
  const [code] = (await once(child, 'close')) as [number | null]
  t.equal(code, 0, err)
  t.match(err, /stopped; the same command with --resume goes on \(four\)/)
  t.match(err, /^ {2}whetstone train sft .*--saveSteps 0 --resume$/m)
  const lines = (await readFile(join(folder, 'four', 'metrics.jsonl'), 'utf8')).trim().split('\n')
  t.ok(
    lines.some((line) => line.includes('"type":"checkpoint"')),
    'the state was saved',
  )
})
