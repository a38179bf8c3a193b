// The command line over the life of a run, as child processes: killed and resumed, merged, used and trained on.

import { once } from 'node:events'
import { cp, readdir, readFile, realpath } from 'node:fs/promises'
import { isAbsolute, join } from 'node:path'
import t from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import { newestCheckpoint } from '../ts/train/checkpoint/load.js'
import { commandLine, words } from './support-cli.js'
import { makeObjective } from './support-kinds.js'

const { folder, put, start, run, settingsOf, eventsOf } = await commandLine(t)

t.setTimeout(120_000)
let kills = 0

/** Runs a command and kills it with -9 when its log has that many steps. */
async function killed(args: readonly string[], output: string, steps: number): Promise<void> {
  const child = start(args)
  const file = join(folder, output, 'metrics.jsonl')
  const ended = once(child, 'close')
  const watch = setInterval(async () => {
    const text = await readFile(file, 'utf8').catch(() => '')
    if (text.split('"type":"step"').length > steps) child.kill('SIGKILL')
  }, 5)
  const [, signal] = (await ended) as [number | null, string | null]
  clearInterval(watch)
  kills += Number(signal === 'SIGKILL')
}

/** The bytes of every file of the newest checkpoint that a run must not change. */
async function checkpointOf(output: string): Promise<Record<string, string>> {
  const found = await newestCheckpoint(join(folder, output, 'checkpoints'), (text) => t.fail(text))
  const directory = found?.directory ?? ''
  const names = (await readdir(directory)).filter((name) => name !== 'manifest.json')
  const contents = names.map(
    async (name) => [name, (await readFile(join(directory, name))).toString('base64')] as const,
  )
  return Object.fromEntries(await Promise.all(contents))
}

const lora = '--lora.r 4 --lora.loraAlpha 32 --lora.loraDropout 0.1'

/** Runs by the name of their folder: the trainer, and its settings. */
const lives: Readonly<Record<string, readonly [trainer: string, settings: string]>> = {
  s: ['sft', `${lora} --neftuneNoiseAlpha 5`],
  d: ['dpo', `${lora} --lora.useDora --precomputeRefLogProbs`],
  b: ['bco', '--gradientAccumulationSteps 2 --perDeviceTrainBatchSize 2'],
  r: ['reward', lora],
}

t.test('killed twice and resumed: the files of the run that went through', async (t) => {
  for (const [name, [trainer, settings]] of Object.entries(lives)) {
    const data = `${makeObjective(trainer).needs.rows}.jsonl`
    const long = '--maxSteps 40 --saveSteps 3 --evalRows 2 --evalSteps 15'
    const of = (output: string) =>
      words(`train ${trainer} --config run.yaml --data ${data} ${long} ${settings} --output ${output}`)
    const whole = await run(...of(`${name}-whole`))
    t.equal(whole.code, 0, whole.err)
    await killed(of(name), name, 5)
    await killed([...of(name), '--resume'], name, 15)
    const { code, err } = await run(...of(name), '--resume')
    t.equal(code, 0, err)
    const [expected, got] = [await checkpointOf(`${name}-whole`), await checkpointOf(name)]
    t.same(Object.keys(got), Object.keys(expected))
    for (const [file, bytes] of Object.entries(expected)) t.ok(got[file] === bytes, `${trainer}: ${file}`)
    const steps = (await eventsOf(name)).flatMap(({ type, step }) => (type === 'step' ? [Number(step)] : []))
    t.equal(new Set(steps).size, 40, 'every step is in the log')
  }
  t.ok(kills >= 5, `${kills} of 8 kills came in time`)
})

const adapterOf = (name: string): string => `${name}/checkpoints/step-00000040`

t.test('adapters merged, used and trained on', async (t) => {
  for (const name of ['s', 'd', 'r']) {
    const merged = await run(...words(`merge --model ${adapterOf(name)} --output ${name}-merged --json`))
    t.equal(merged.code, 0, merged.err)
    t.ok(JSON.parse(merged.out).merged.largest < 1e-4)
    using one = await loadModel(join(folder, adapterOf(name)))
    using two = await loadModel(join(folder, `${name}-merged`))
    t.equal(two.decoder.adapter, undefined)
    t.equal(two.decoder.config.scoreLabels, one.decoder.config.scoreLabels)
  }
  const models = ['base', adapterOf('s'), 's-merged']
  const generate = (model: string) =>
    run(...words(`generate --temperature 0 --maxNewTokens 4 --model ${model} --prompt`), 'say ab: ')
  const texts = await Promise.all(models.map(generate))
  for (const { code, err } of texts) t.equal(code, 0, err)
  t.equal(texts[2].out, texts[1].out, 'the merged model writes what the adapter writes')
  t.not(texts[1].out, texts[0].out, 'and not what the base writes')

  const first = async (model: string, output: string) => {
    const command = `train dpo --model ${model} --data preference.jsonl --maxSteps 1 --output ${output}`
    const { code, err } = await run(...words(command))
    t.equal(code, 0, err)
    return Number((await eventsOf(output)).find(({ type }) => type === 'step')?.loss)
  }
  t.equal(await first('s-merged', 'onward'), Math.LN2, 'DPO behind SFT begins as its own reference')
  const near = await first(adapterOf('s'), 'onward-adapter')
  const rate = (await settingsOf('onward-adapter')).learningRate
  t.match(rate, { value: 1e-5, origin: 'default of dpo with LoRA' }, 'the rate is that of adapters')
  // Dropout acts on the policy alone.
  t.ok(Math.abs(near - Math.LN2) < 0.01, `so does a trained adapter: ${near}`)
})

t.test('a run is named where a model is asked for', async (t) => {
  const ok = async (command: string, ...more: string[]) => {
    const outcome = await run(...words(command), ...more)
    t.equal(outcome.code, 0, outcome.err)
    return outcome
  }
  const chain = (more: string) => `train sft --model base --data completion.jsonl --output chain/sft ${more}`
  const missing = await run(...words(chain('--maxSteps 2').replace('completion', 'none')))
  t.equal(missing.code, 74)
  const none = await run(...words('generate --model chain/sft --prompt a'))
  t.match(none.err, /^E_CONFIG \[chain\/sft\] the run has no checkpoint yet/)
  await ok(chain('--maxSteps 2'))
  const tuned = 'chain/sft/checkpoints/step-00000002'
  const origin = (source: string) => ({ value: tuned, origin: `${source}, newest checkpoint of chain/sft` })

  const onward = 'train dpo --data preference.jsonl --maxSteps 2'
  const { err } = await ok(`${onward} --model chain/sft --reference chain/sft --lora.r 2 --output chain/dpo`)
  t.match(err, `"${tuned}"  (command line, newest checkpoint of chain/sft)`)
  t.match(err, `model ${tuned}, 8 rows; 2 optimizer steps`)
  const kept = await settingsOf('chain/dpo')
  t.match(kept, { model: origin('command line'), reference: origin('command line') })
  const adapter = join(folder, 'chain', 'dpo', 'checkpoints', 'step-00000002')
  const config = JSON.parse(await readFile(join(adapter, 'adapter_config.json'), 'utf8'))
  t.ok(isAbsolute(config.base_model_name_or_path), 'PEFT finds the base from any working directory')
  t.equal(config.base_model_name_or_path, join(await realpath(folder), tuned))

  const generate = 'generate --temperature 0 --maxNewTokens 4 --json --prompt ab --model'
  const [named, exact] = [await ok(`${generate} chain/dpo`), await ok(`${generate} ${adapter}`)]
  t.equal(named.out, exact.out)
  t.equal((await ok(`${generate} chain/sft --adapter chain/dpo`)).out, exact.out)
  await ok('merge --model chain/dpo --output chain/merged')
  await ok('preview --objective dpo --model chain/sft --data preference.jsonl')
  const estimate = 'estimate dpo --data preference.jsonl --json --model'
  t.equal((await ok(`${estimate} chain/dpo`)).out, (await ok(`${estimate} ${adapter}`)).out, 'as an adapter')
  await ok('train grpo --tasks arithmetic --rounds 1 --maxCompletionLength 4 --output chain/g --model', 'chain/sft')
  t.match((await settingsOf('chain/g')).model, origin('command line'))

  await put('dpo.yaml', 'model: chain/sft\n')
  const fromFile = `${onward} --config dpo.yaml --output chain/file`
  await ok(fromFile)
  t.match((await settingsOf('chain/file')).model, origin('dpo.yaml:1'))
  await ok(`${fromFile} --resume`)
  await ok(`train sft --model ${tuned} --data completion.jsonl --maxSteps 3 --output chain/other`)
  await cp(join(folder, 'chain/other/checkpoints'), join(folder, 'chain/sft/checkpoints'), { recursive: true })
  const moved = await run(...words(`${fromFile} --resume`))
  t.match(moved.err, /^E_MISMATCH \[model\] .*step-00000002", now ".*step-00000003": resume with the same settings$/m)
  await ok(`${fromFile} --resume --model ${tuned}`)
})

t.test('a base in four bits', async (t) => {
  const ok = async (command: string, ...more: string[]) => {
    const outcome = await run(...words(command), ...more)
    t.equal(outcome.code, 0, outcome.err)
    return outcome
  }
  const train = 'train dpo --config run.yaml --data preference.jsonl --load_in_4bit --use_bnb_nested_quant'
  const bare = await run(...words(`${train} --output bare`))
  t.equal(bare.code, 1)
  t.match(bare.err, /^E_CONFIG \[loadIn4bit\] expected an adapter .*--lora/m)
  await ok(`${train} --use_peft --lora_r 4 --output four`)
  t.match((await eventsOf('four')).find(({ type }) => type === 'step')?.loss, Math.LN2)
  t.match((await settingsOf('four')).bnb4bitUseDoubleQuant, { value: true, origin: 'command line' })
  const base = '--loadIn4bit --bnb4bitUseDoubleQuant'
  await ok(`merge --model four --output four-merged ${base}`)
  const generate = 'generate --temperature 0 --maxNewTokens 4 --json --model'
  const [one, two] = [`four ${base}`, 'four-merged'].map((model) => ok(`${generate} ${model} --prompt`, 'say ab: '))
  const idsOf = (text: string) => JSON.parse(text).map(({ ids }: { ids: number[] }) => ids)
  t.same(idsOf((await one).out), idsOf((await two).out), 'the merged model writes what the adapter writes')
  await ok(`eval dpo --model four ${base} --data preference.jsonl`)
  const estimate = await ok(`estimate dpo --model base ${base} --lora.r 4 --data preference.jsonl`)
  t.match(estimate.out, /weights in four bits/)
})

t.test('a teacher of another type is read in the type of the policy', async (t) => {
  const rows = '--config run.yaml --data completion.jsonl'
  const made = await run(...words(`train sft ${rows} --model teacher --dtype bf16 --output wide`))
  t.equal(made.code, 0, made.err)
  const { code, err } = await run(
    ...words(`train gkd ${rows} --reference wide/checkpoints/step-00000004 --output taught`),
  )
  t.equal(code, 0, err)
  const steps = (await eventsOf('taught')).filter(({ type }) => type === 'step')
  t.ok(steps.length === 4 && steps.every(({ loss }) => Number(loss) > 0))
  const untaught = await run(...words(`train gkd ${rows} --output untaught`))
  t.equal(untaught.code, 1)
  t.match(untaught.err, /^E_CONFIG \[reference\] gkd.v1 needs it, the teacher/m)
})
