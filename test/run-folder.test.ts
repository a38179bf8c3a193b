// Who may start in a run's folder: anybody where a run ended before its first step, nobody but its own resume where there
// is work to lose. Also a token that the model does not have, which is such an end no longer.

import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { loadModel, sft, type TrainOptions, train } from '../ts/src/index.js'
import { estimateMemory } from '../ts/train/estimate.js'
import { evaluateLoss } from '../ts/train/evaluate-loss.js'
import { improve } from '../ts/train/improve.js'
import { improveOptions } from '../ts/train/improve-options.js'
import { recipes } from '../ts/train/recipes/index.js'
import { openRun, readMetrics } from '../ts/train/run-folder.js'
import { temporaryFolder } from './support.js'
import { makeTiny, putRows, rowsOf } from './support-kinds.js'
import { makeTwoLetters, prompts, share } from './support-recipes.js'

const folder = await temporaryFolder(t)
const base = await makeTiny(join(folder, 'base'))
const data = await putRows(folder, 'rows.jsonl', rowsOf.completion)
const bad = await putRows(folder, 'bad.jsonl', [{ prompt: 'no completion' }])

type Settings = Partial<TrainOptions>

async function runOf(output: string, settings: Settings) {
  using policy = await loadModel(base)
  const options = { policy, objective: sft(), data, maxSteps: 1, perDeviceTrainBatchSize: 4, ...settings }
  const run = train({ ...options, output: join(folder, output) })
  const warnings: string[] = []
  const following = async () => {
    for await (const event of run) if (event.type === 'warning') warnings.push(event.message)
  }
  const [result] = await Promise.all([run.result, following()])
  return { ...result, warnings }
}

const settingsIn = async (output: string) => JSON.parse(await readFile(join(folder, output, 'config.json'), 'utf8'))

t.test('the corrected command starts again where no step was made', async (t) => {
  const failures: [string, Settings, RegExp][] = [
    ['rows', { data: bad }, /completion/],
    ['short', { maxLength: 4 }, /maxLength/],
    ['device', { objective: { ...sft(), evaluate: () => Promise.reject(new Error('no room')) as never } }, /./],
  ]
  for (const [output, wrong, message] of failures) {
    await t.rejects(runOf(output, { ...wrong, learningRate: 1e-3 }), { message }, output)
    await t.rejects(runOf(output, { ...wrong, learningRate: 1e-3 }), { message }, 'the same once more')
    const changed = { code: 'E_MISMATCH', message: /without --resume: it has made no step/ }
    await t.rejects(runOf(output, { learningRate: 2e-3, resume: true }), changed, 'resuming is for equal settings')
    const { stepsDone, warnings } = await runOf(output, { learningRate: 2e-3 })
    t.equal(stepsDone, 1, output)
    t.match(warnings, [/ended before its first step; it is started again/])
    t.equal((await settingsIn(output)).learningRate.value, 2e-3, 'the settings are those of the run')
    const kinds = (await readMetrics(join(folder, output))).map(({ type }) => type)
    t.same(kinds, ['start', 'step', 'checkpoint', 'end'], 'and so is the log')
    t.same((await readdir(join(folder, output))).sort(), ['checkpoints', 'config.json', 'metrics.jsonl'])
  }
})

t.test('equal settings resume what has made no step', async (t) => {
  await t.rejects(runOf('fixed', { data: bad }), { code: 'E_FORMAT' })
  t.equal((await runOf('fixed', { resume: true })).stepsDone, 1, 'rows are no setting of train()')
  await rm(join(folder, 'fixed', 'checkpoints', 'step-00000001'), { recursive: true })
  const lost = { code: 'E_TORN', message: /the log tells of a checkpoint of step 1, but there is none/ }
  await t.rejects(runOf('fixed', { resume: true }), lost, 'what was saved and is gone is no reason to begin again')
})

t.test('work keeps its folder', async (t) => {
  await runOf('done', {})
  const held = async (what: string, change: (path: string) => Promise<unknown>, advice = /choose another --output/) => {
    const path = join(folder, `held by ${what}`)
    await cp(join(folder, 'done'), path, { recursive: true })
    await change(path)
    const before = await readFile(join(path, 'config.json'), 'utf8')
    const refused = {
      code: 'E_CONFIG',
      where: path,
      message: new RegExp(`already holds a run, which has made ${what}`),
    }
    await t.rejects(runOf(`held by ${what}`, { learningRate: 1 }), refused)
    await t.rejects(runOf(`held by ${what}`, { learningRate: 1 }), { message: advice })
    const changed = runOf(`held by ${what}`, { learningRate: 1, resume: true })
    const error = await changed.catch((caught: Error) => caught)
    t.match(error, { code: 'E_MISMATCH', message: /resume with the same settings$/ })
    t.equal(await readFile(join(path, 'config.json'), 'utf8'), before, 'nothing was written')
    await rm(path, { recursive: true })
  }
  const drop =
    (...names: string[]) =>
    (path: string) =>
      Promise.all(names.map((name) => rm(join(path, name), { recursive: true })))
  await held('a checkpoint', drop('metrics.jsonl'))
  await held('a step', drop('checkpoints'))
  await held('a checkpoint', async (path) => {
    await drop('metrics.jsonl', 'checkpoints')(path)
    await mkdir(join(path, 'checkpoints', '.bad-step-00000001'), { recursive: true })
  })
  for (const phase of ['warmup', 'control', join('rounds', 'checkpoints')])
    await held('a checkpoint', async (path) => {
      await drop('metrics.jsonl', 'checkpoints')(path)
      await mkdir(join(path, phase, 'step-00000100'), { recursive: true })
    })
  const samples = async (path: string) => {
    await drop('metrics.jsonl', 'checkpoints')(path)
    await mkdir(join(path, 'rounds', 'round-001'), { recursive: true })
  }
  await held('samples', samples, /or remove .*rounds to start again/)
})

t.test('what is no run, and a run that is at work', async (t) => {
  const model = await makeTiny(join(folder, 'a model'))
  const before = await readFile(join(model, 'config.json'), 'utf8')
  for (const resume of [false, true]) {
    const other = { code: 'E_CONFIG', where: model, message: /something else than a run/ }
    await t.rejects(runOf('a model', { resume }), other)
  }
  t.equal(await readFile(join(model, 'config.json'), 'utf8'), before)

  const settings = { values: { rate: 1 }, origins: { rate: 'argument' } }
  const first = await openRun(join(folder, 'busy'), settings, false, () => undefined)
  const busy = { code: 'E_CONFIG', message: /in use by process/ }
  const others = { ...settings, values: { rate: 2 } }
  await t.rejects(
    openRun(join(folder, 'busy'), others, false, () => undefined),
    busy,
  )
  t.same((await settingsIn('busy')).rate.value, 1)
  await first.close()
  const second = await openRun(join(folder, 'busy'), others, false, () => undefined)
  t.same((await settingsIn('busy')).rate.value, 2)
  await second.close()
})

t.test('online runs', async (t: Test) => {
  const letters = join(folder, 'letters')
  await makeTwoLetters(letters)
  const output = join(folder, 'online')
  const shared = { prompts, rounds: 1, promptsPerRound: 2, numGenerations: 2, maxCompletionLength: 3, output }
  const start = async (settings: object) => {
    using policy = await loadModel(letters)
    return await recipes.grpo({ policy, rewardFuncs: [share], ...shared, ...settings }).result
  }
  await t.rejects(start({ prompts: [{ prompt: 'x' }] }), { code: 'E_FORMAT' })
  const broken = () => {
    throw new Error('no judge')
  }
  await t.rejects(start({ rewardFuncs: [broken] }), { message: /no judge/ })
  t.equal((await start({ learningRate: 1e-3 })).stepsDone > 0, true)
  await t.rejects(start({}), { code: 'E_CONFIG', message: /has made a checkpoint/ })
})

t.test('improve makes its start model again', async (t) => {
  const output = join(folder, 'improve')
  const few = { sftTasks: 4, sftSteps: 1, rounds: 1, heads: 2, layers: 1, intermediateSize: 32 }
  const start = async (settings: object, resume = false) => {
    const values = improveOptions.parse({ ...few, ...settings })
    const stop = new AbortController()
    stop.abort()
    return improve({ values, origins: {} }, { output, resume, emit: () => undefined, signal: stop.signal })
  }
  const model = join(output, 'base', 'model.safetensors')
  await start({ hiddenSize: 32 })
  const small = await readFile(model)
  await start({ hiddenSize: 32 }, true)
  t.ok(small.equals(await readFile(model)))
  await start({ hiddenSize: 32, seed: 2 })
  t.notOk(small.equals(await readFile(model)), 'another seed')
  await start({ hiddenSize: 64 })
  t.ok((await stat(model)).size > 1.5 * small.byteLength, 'another shape')
  await mkdir(join(output, 'warmup', 'step-00000001'), { recursive: true })
  await start({ hiddenSize: 32 }).catch(() => undefined)
  t.ok((await stat(model)).size > 1.5 * small.byteLength, 'not under the checkpoints of an earlier run')
})

t.test('a token that the model does not have', async (t) => {
  const wide = join(folder, 'wide')
  await cp(base, wide, { recursive: true })
  const path = join(wide, 'tokenizer.json')
  const tokenizer = JSON.parse(await readFile(path, 'utf8'))
  const id =
    Math.max(
      ...Object.values<number>(tokenizer.model.vocab),
      ...tokenizer.added_tokens.map((e: { id: number }) => e.id),
    ) + 1
  const token = {
    id,
    content: '<more>',
    special: false,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  }
  await writeFile(path, JSON.stringify({ ...tokenizer, added_tokens: [...tokenizer.added_tokens, token] }))
  using policy = await loadModel(wide)
  const rows = [
    { prompt: 'a', completion: 'b' },
    { prompt: 'a', completion: 'b<more>' },
  ]
  const start = (own: typeof rows, evalData?: typeof rows) =>
    train({ policy, objective: sft(), data: own, evalData, maxSteps: 1 }).result
  t.equal((await start(rows.slice(0, 1))).stepsDone, 1, 'rows without it train')
  const foreign = (where: string) => ({ code: 'E_MISMATCH', where, message: `${id} for "<more>"` })
  await t.rejects(start(rows), foreign('row 2'))
  await t.rejects(start(rows.slice(0, 1), rows), foreign('row 2'), 'rows to evaluate on')
  await t.rejects(estimateMemory({ model: wide, objective: sft(), training: {}, data: rows }), foreign('row 2'))
  await t.rejects(evaluateLoss({ policy, objective: sft(), data: rows }), foreign('row 2'))
  const online = { policy, rewardFuncs: [() => []], rounds: 2, promptsPerRound: 1 }
  const asked = recipes.grpo({ ...online, prompts: [{ prompt: 'a' }, { prompt: '<more>' }] }).result
  await t.rejects(asked, { code: 'E_MISMATCH', message: `${id} for "<more>"` }, 'before the first round')
})
