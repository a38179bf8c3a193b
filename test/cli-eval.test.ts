// Evaluation and checkpoints on the command line, as child processes: settings under TRL's spellings, the best checkpoint,
// runs made longer or refused, and `whetstone eval`, which says of a checkpoint what its run said of it.

import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { rowKindOf } from '../ts/train/data/encode.js'
import { commandLine, words } from './support-cli.js'
import { makeObjective } from './support-kinds.js'

t.setTimeout(120_000)
const { folder, put, start, run, settingsOf, eventsOf } = await commandLine(t)

t.test("the best checkpoint, from a file with TRL's spellings", async (t) => {
  const settings = [
    'model_name_or_path: base',
    'data: completion.jsonl',
    'learning_rate: 0.1',
    'lr_scheduler_type: cosine_with_min_lr',
    'lr_scheduler_kwargs:',
    '  min_lr_rate: 0.5',
    'warmup_ratio: 0.1',
    'max_steps: 30',
    'per_device_train_batch_size: 2',
    'per_device_eval_batch_size: 3',
    'eval_strategy: epoch',
    'save_strategy: epoch',
    'eval_rows: 3',
    'save_total_limit: null',
    'load_best_model_at_end: true',
    'metric_for_best_model: eval_loss',
    'greater_is_better: false',
    'early_stopping_patience: 2',
  ]
  await put('best.yaml', settings.join('\n'))
  const { code, out, err } = await run(...words('train sft --config best.yaml --output best'))
  t.equal(code, 0, err)
  t.match(await settingsOf('best'), {
    lrSchedulerType: { value: 'cosineWithMinLr' },
    lrSchedulerKwargs: { value: { minLrRate: 0.5 }, origin: 'best.yaml:5' },
    saveTotalLimit: { value: 0 },
    loadBestModelAtEnd: { value: true, origin: 'best.yaml:15' },
  })
  const events = await eventsOf('best')
  const evaluations = events.filter(({ type }) => type === 'eval') as unknown as {
    step: number
    values: { loss: number }
  }[]
  const best = evaluations.reduce((a, b) => (b.values.loss < a.values.loss ? b : a))
  const last = evaluations.at(-1)?.step ?? 0
  t.ok(last < 30, `stopped early, at ${last}`)
  t.equal(last, best.step + 6, 'two epochs of three steps behind the best')
  t.match(
    err,
    `stopped early at step ${last}: the evaluations no longer improve; best checkpoint: step ${best.step}, loss`,
  )
  const checkpoint = `best/checkpoints/step-${String(best.step).padStart(8, '0')}`
  t.match(out, `checkpoint: ${checkpoint}`)
  t.equal((await readdir(join(folder, 'best', 'checkpoints'))).length, evaluations.length, 'all are kept')
  const again = await run(...words('train sft --config best.yaml --output best --resume --json'))
  t.match(JSON.parse(again.out), {
    stepsDone: 0,
    checkpoint,
    best: { step: best.step, value: best.values.loss, metric: 'loss' },
  })
})

t.test('settings that do not go together', async (t) => {
  const refused: readonly (readonly [flags: string, message: RegExp])[] = [
    ['--loadBestModelAtEnd', /^E_CONFIG \[loadBestModelAtEnd\] .*evalData or evalRows/m],
    [
      '--loadBestModelAtEnd --evalRows 2 --evalSteps 2 --saveSteps 3',
      /^E_CONFIG \[saveSteps\] .*multiple of evalSteps/m,
    ],
    ['--lrSchedulerType polynomial --lrSchedulerKwargs {"power":0}', /^E_CONFIG \[--lrSchedulerKwargs\] at power/m],
    ['--lrSchedulerKwargs {"minLr":1e-5,"min_lr":1e-6}', /^E_CONFIG \[--lrSchedulerKwargs\] .*min_lr/m],
    ['--lrSchedulerKwargs {"min_lr":1e-6}', /^E_CONFIG \[lrSchedulerKwargs.minLr\] .*linear/m],
    ['--warmupSteps 1.5', /^E_CONFIG \[warmupSteps\] .*whole steps/m],
    ['--evalStrategy never', /^E_CONFIG \[--evalStrategy\]/m],
    ['--saveTotalLimit -1', /^E_CONFIG \[--saveTotalLimit\]/m],
  ]
  for (const [flags, message] of refused) {
    const { code, err } = await run(
      ...words(`train sft --config run.yaml --data completion.jsonl --output no ${flags}`),
    )
    t.equal(code, 1)
    t.match(err, message, flags)
  }
  t.notOk((await readdir(folder)).includes('no'), 'and no folder is left')
})

t.test('schedules of trainers on samples', async (t) => {
  await put('rewards.mjs', 'export const long = ({ completions }) => completions.map((text) => text.length)\n')
  const settings = '--model base --data completion.jsonl --rewards rewards.mjs --rounds 4 --promptsPerRound 1'
  const of = (output: string, more: string) =>
    run(
      ...words(
        `train grpo ${settings} --numGenerations 2 --maxCompletionLength 4 --learningRate 1e-3 --output ${output} ${more}`,
      ),
    )
  const type = '--lrSchedulerType cosine_with_min_lr'
  const { code, err } = await of(
    'waves',
    `${type} --lrSchedulerKwargs {"min_lr":1e-3} --warmupRatio 0.5 --saveTotalLimit 0`,
  )
  t.equal(code, 0, err)
  const rates = (await eventsOf('waves')).flatMap(({ type, learningRate }) => (type === 'step' ? [learningRate] : []))
  t.same(rates, [0, 5e-4, 1e-3, 1e-3], 'half of the steps to the peak, which is the least rate too')
  t.equal((await readdir(join(folder, 'waves', 'rounds', 'checkpoints'))).length, 4, 'saveTotalLimit 0 keeps all')
  t.match((await of('no', type)).err, /^E_CONFIG \[lrSchedulerKwargs\] .*either minLr or minLrRate/m)
  t.notOk((await readdir(folder)).includes('no'), 'refused before there is a folder')
})

t.test('more steps: as if from the start, or refused with what to do', async (t) => {
  const of = (output: string, more: string) =>
    run(...words(`train sft --config run.yaml --data completion.jsonl --output ${output} ${more}`))
  const flat = '--lrSchedulerType constant_with_warmup --warmupSteps 2'
  t.equal((await of('flat', flat)).code, 0)
  const longer = await of('flat', `${flat} --maxSteps 7 --resume`)
  t.equal(longer.code, 0, longer.err)
  await of('whole', `${flat} --maxSteps 7`)
  const losses = async (name: string) =>
    (await eventsOf(name)).flatMap(({ type, loss }) => (type === 'step' ? [loss] : []))
  t.same(await losses('flat'), await losses('whole'))
  await of('sloped', '--maxSteps 4')
  const { code, err } = await of('sloped', '--maxSteps 7 --resume')
  t.equal(code, 1)
  t.match(
    err,
    /^E_MISMATCH \[maxSteps\] .*linear.*start a new run from its checkpoint, with sloped\/checkpoints\/step-00000004/m,
  )
})

t.test('a signal where only models are saved: the run does not promise to go on', async (t) => {
  const child = start(
    words('train sft --config run.yaml --data completion.jsonl --output alone --maxSteps 100000 --saveOnlyModel'),
  )
  let err = ''
  child.stderr?.on('data', (piece) => {
    err += piece
    if (!child.killed && /\d\/100000/.test(err)) child.kill('SIGINT')
  })
  await once(child, 'close')
  t.match(err, /stopped; its checkpoint is a model without the optimizer, .*cannot go on/)
  const again = await run(
    ...words(
      'train sft --config run.yaml --data completion.jsonl --output alone --maxSteps 100000 --saveOnlyModel --resume',
    ),
  )
  t.equal(again.code, 1)
  t.match(again.err, /^E_CONFIG \[saveOnlyModel\] .*start a new run from its checkpoint/m)
})

t.test('eval says of a checkpoint what its run said of it', async (t) => {
  for (const [name, settings, reference] of [
    ['sft', '', ''],
    ['dpo', '', '--reference base'],
    ['kto', '--lora.r 4', ''],
    ['reward', '', ''],
    ['superhf', '--lora.r 4', '--reference base'],
  ]) {
    const rows = `${rowKindOf(makeObjective(name))}.jsonl`
    const training = `train ${name} --config run.yaml --data ${rows} --evalData ${rows} --output r-${name} ${settings}`
    const trained = await run(...words(training.trim()))
    t.equal(trained.code, 0, trained.err)
    const said = (await eventsOf(`r-${name}`)).findLast(({ type }) => type === 'eval')?.values
    const model = `r-${name}/checkpoints/step-00000004`
    const command = `eval ${name} --model ${model} --data ${rows} --perDeviceEvalBatchSize 3 --json ${reference}`
    const { code, out, err } = await run(...words(command.trim()))
    t.equal(code, 0, err)
    const { rows: count, loss, stats, ...what } = JSON.parse(out)
    t.same({ loss, ...stats }, said, `${name}: to the bit`)
    t.same({ ...what, count }, { objective: name, model, data: rows, count: 8 })
  }
  const text = await run(
    ...words('eval sft --config run.yaml --evalData completion.jsonl --data preference.jsonl --limit 2'),
  )
  t.match(text.out, /^sft of base on 2 rows of completion\.jsonl\n {2}loss +\d+\.\d{6}$/m)
  const none = await run(...words('eval dpo --model base --data preference.jsonl'))
  t.match(none.err, /^E_CONFIG \[reference\] .*beside itself/m)
  t.match((await run(...words('eval sft --model base'))).err, /^E_CONFIG \[--data\]/m)
})
