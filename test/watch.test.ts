// What evaluations decide: the best checkpoint stays and its weights end the run, patience stops it, and a run that was
// stopped anywhere decides as one that was not. Evaluations are scripted in the toy runs; the last tests run `train()`.

import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { loadModel, type ModelOptions } from '../ts/src/generate/language-model.js'
import { sft } from '../ts/src/index.js'
import { trainingOptions } from '../ts/train/config/options.js'
import type { TrainEvent } from '../ts/train/events.js'
import type { Phase } from '../ts/train/loop.js'
import { type TrainOptions, train } from '../ts/train/train.js'
import { isOver, judge, settle, unwatched, type Watch, watchOf } from '../ts/train/watch.js'
import { temporaryFolder } from './support.js'
import { rowsOf, tinyFolder, weightsHash } from './support-kinds.js'
import { type RunOptions, runToy, toyPlan } from './support-run.js'

t.setTimeout(120_000)

const watch: Watch = { metric: 'loss', greaterIsBetter: false, threshold: 0, loadBest: true }

/** Misses behind each evaluation, and the step of the best checkpoint at last, all steps saved. */
function decisions(given: Partial<Watch>, values: readonly number[]) {
  const own = { ...watch, ...given }
  let state = unwatched
  const misses = values.map((loss, i) => {
    state = settle(own, judge(own, state, i + 1, { loss }), i + 1)
    return state.misses
  })
  return { misses, best: state.best?.step, over: isOver(own, state) }
}

t.test('the rules of Transformers', async (t) => {
  t.same(decisions({}, [3, 2, 2, 4, 1]), { misses: [0, 0, 1, 2, 0], best: 5, over: false }, 'a tie is no improvement')
  t.same(decisions({ greaterIsBetter: true }, [3, 2, 4, 4]), { misses: [0, 1, 0, 1], best: 3, over: false })
  // A small gain is the best so far, but does not count for the patience.
  t.same(decisions({ threshold: 0.5, patience: 2 }, [3, 2.9, 2.8]), { misses: [0, 1, 2], best: 3, over: true })
  t.same(decisions({ threshold: 0.5, patience: 2 }, [3, 2.5, 1.9]), { misses: [0, 1, 0], best: 3, over: false })
  t.same(decisions({}, [Number.NaN, Number.NaN, 3, Number.NaN]), { misses: [1, 2, 0, 1], best: 3, over: false })
  t.equal(decisions({}, [Number.NaN, Number.POSITIVE_INFINITY]).best, undefined)
  const missing = { code: 'E_CONFIG', where: 'metricForBestModel', message: /one of loss, kl, got 'reward'/ }
  t.throws(() => judge({ ...watch, metric: 'reward' }, unwatched, 1, { loss: 1, kl: 2 }), missing)
})

t.test('settings that do not go together', async (t) => {
  const both = { evaluates: true, saves: true }
  const of = (given: object, where = both) => watchOf(trainingOptions.parse(given), where)
  const best = { loadBestModelAtEnd: true, evalSteps: 5, saveSteps: 10 }
  t.same(of(best), { ...watch, patience: undefined })
  t.match(of({ ...best, metricForBestModel: 'eval_rewards/margins' }), {
    metric: 'rewards/margins',
    greaterIsBetter: true,
  })
  t.match(of({ ...best, metricForBestModel: 'nll_loss' }), { greaterIsBetter: false })
  t.match(of({ ...best, greaterIsBetter: true }), { metric: 'loss', greaterIsBetter: true })
  t.match(of({ loadBestModelAtEnd: true, evalStrategy: 'epoch', saveStrategy: 'epoch' }), { loadBest: true })
  t.match(of({ earlyStoppingPatience: 2, evalSteps: 7 }), { patience: 2, loadBest: false }, 'patience alone')
  t.match(of({ saveStrategy: 'best', evalSteps: 7, metricForBestModel: 'kl' }), { metric: 'kl', loadBest: false })
  t.match(of({ ...best, saveStrategy: 'best', saveSteps: 7 }), { loadBest: true }, 'what is saved was evaluated')
  t.match(of({ ...best, saveStrategy: 'best', evalStrategy: 'epoch' }), { loadBest: true })
  t.equal(of({}), undefined)
  const refused: readonly (readonly [given: object, where: string, message: RegExp, has?: typeof both])[] = [
    [best, 'loadBestModelAtEnd', /evalData or evalRows/, { evaluates: false, saves: true }],
    [best, 'loadBestModelAtEnd', /output folder/, { evaluates: true, saves: false }],
    [
      { earlyStoppingPatience: 1, evalSteps: 5 },
      'earlyStoppingPatience',
      /evalData/,
      { evaluates: false, saves: true },
    ],
    [{ ...best, saveSteps: 12 }, 'saveSteps', /multiple of evalSteps \(5\).*got 12/],
    [{ ...best, saveSteps: 0 }, 'saveSteps', /got 0/],
    [{ ...best, evalSteps: 0 }, 'evalSteps', /at least 1/],
    [{ ...best, evalStrategy: 'no' }, 'evalStrategy', /got 'no'/],
    [{ ...best, saveStrategy: 'no' }, 'saveStrategy', /'steps' as evalStrategy.*got 'no'/],
    [{ ...best, saveStrategy: 'epoch' }, 'saveStrategy', /got 'epoch'/],
    [{ earlyStoppingThreshold: 0.1 }, 'earlyStoppingThreshold', /earlyStoppingPatience with it/],
    [{ metricForBestModel: 'kl' }, 'metricForBestModel', /got none of them/],
    [{ greaterIsBetter: false }, 'greaterIsBetter', /got none of them/],
    [{ saveStrategy: 'best', evalSteps: 5 }, 'saveStrategy', /evalData/, { evaluates: false, saves: true }],
    [{ saveStrategy: 'best' }, 'evalSteps', /at least 1 with saveStrategy 'best'/],
    [{ saveStrategy: 'best', evalStrategy: 'no' }, 'evalStrategy', /with saveStrategy 'best', got 'no'/],
  ]
  for (const [given, where, message, has] of refused)
    t.throws(() => of(given, has), { code: 'E_CONFIG', where, message }, `${where}: ${JSON.stringify(given)}`)
})

// Toy runs -------------------------------------------------------------------------------------------------------------

/** Evaluations of the toy by step: the best one that is saved is that of step 4; step 3 is better, but not saved. */
const script: Readonly<Record<number, number>> = {
  1: 9,
  2: 8,
  3: 4,
  4: 5,
  5: 6,
  6: 6,
  7: 7,
  8: 8,
  9: 9,
  10: 9,
  11: 9,
  12: 9,
}

const watched = (given: Partial<Phase> = {}): Partial<Phase> => ({
  evalSteps: 1,
  saveSteps: 2,
  evaluate: async (step) => ({ loss: script[step] }),
  watch,
  ...given,
})

const run = (options: RunOptions, given?: Partial<Phase>) => runToy({ ...options, phase: watched(given) })

t.test('the best checkpoint stays, and its weights end the run', async (t) => {
  const folder = await temporaryFolder(t)
  const at = async (name: string) => (await readdir(join(folder, name))).sort()
  const whole = await run({ directory: join(folder, 'whole') })
  t.match(whole, { step: 12, stopped: false, stoppedEarly: false, best: { step: 4, value: 5, metric: 'loss' } })
  t.match(whole.checkpoint, /step-00000004$/)
  t.equal(whole.best?.checkpoint, whole.checkpoint)
  t.same(await at('whole'), ['step-00000004', 'step-00000012'], 'two are kept: the best and the newest')
  const four = await runToy({ directory: join(folder, 'four'), stopAt: 4 })
  const weights = (path = '') => readFile(join(path, 'model.safetensors'))
  t.ok((await weights(whole.checkpoint)).equals(await weights(four.checkpoint)), 'which are those of step 4')
  const plain = await run({ directory: join(folder, 'plain') }, { watch: { ...watch, loadBest: false } })
  t.match(plain.checkpoint, /step-00000012$/, 'without loadBest the newest is the result')
  t.not(plain.hash, whole.hash)
  t.equal((await runToy({})).hash, plain.hash, 'watching changes no weight')
  for (const [limit, names] of [
    [1, [4, 12]],
    [3, [4, 10, 12]],
    [0, [2, 4, 6, 8, 10, 12]],
  ] as const) {
    await run({ directory: join(folder, `limit-${limit}`) }, { saveTotalLimit: limit })
    t.same(
      await at(`limit-${limit}`),
      names.map((step) => `step-${String(step).padStart(8, '0')}`),
      `limit ${limit}`,
    )
  }
  const again = await run({ directory: join(folder, 'whole') })
  t.match(again, { stepsDone: 0, hash: whole.hash, checkpoint: whole.checkpoint, best: whole.best }, 'finished before')
})

/** What `saveStrategy: 'best'` asks of the loop. */
const onImprovement: Partial<Phase> = { saveSteps: 0, saveBest: true }

t.test('saved whenever the evaluation improves', async (t) => {
  const folder = await temporaryFolder(t)
  const directory = join(folder, 'all')
  const saved: number[] = []
  const emit = (event: TrainEvent) => {
    if (event.type === 'checkpoint') saved.push(event.step)
  }
  const whole = await run({ directory }, { ...onImprovement, emit })
  t.same(saved, [1, 2, 3, 12], 'and at the end')
  t.match(whole, { best: { step: 3, value: 4 }, checkpoint: /step-00000003$/ })
  t.same((await readdir(directory)).sort(), ['step-00000003', 'step-00000012'])
  t.match(await run({ directory }, onImprovement), { stepsDone: 0, hash: whole.hash, best: { step: 3 } })
  const plain = { ...onImprovement, watch: { ...watch, loadBest: false } }
  t.match(await run({ directory: join(folder, 'plain') }, plain), { best: { step: 3 }, checkpoint: /step-00000012$/ })
  const rare = await run({ directory: join(folder, 'rare') }, { ...onImprovement, evalSteps: 4 })
  t.match(rare, { best: { step: 4, value: 5 } }, 'only what is evaluated is saved')
})

t.test('a best checkpoint that was not saved is not the best', async (t) => {
  const directory = join(await temporaryFolder(t), 'run')
  const plan = async (step: number) => {
    // In place of the folder lies a file while step 4 is saved: all checkpoints are new from then on.
    if (step === 3) await rm(directory, { recursive: true })
    if (step === 3) await writeFile(directory, 'in the way')
    if (step === 4) await rm(directory)
    return toyPlan(step)
  }
  const { best, warnings, checkpoint } = await run({ directory }, { plan })
  t.match(warnings, [/step 4 was not saved/])
  t.match(best, { step: 6, value: 6 })
  t.match(checkpoint, /step-00000006$/)
})

/** What two runs must agree in. */
const decided = ({ hash, best, stoppedEarly, stopped, step }: Awaited<ReturnType<typeof run>>) => ({
  hash,
  best: best && { step: best.step, value: best.value },
  stoppedEarly,
  stopped,
  step,
})

async function stoppedAnywhere(t: Test, given: Partial<Phase>): Promise<void> {
  const folder = await temporaryFolder(t)
  const whole = await run({ directory: join(folder, 'whole') }, given)
  for (let stopAt = 0; stopAt < whole.step; stopAt++) {
    const directory = join(folder, String(stopAt))
    t.match(await run({ directory, stopAt }, given), { step: stopAt, stopped: true })
    t.same(decided(await run({ directory }, given)), decided(whole), `stopped at ${stopAt} and resumed`)
  }
  const directory = join(folder, 'each')
  let last = whole
  for (let step = 1; step <= whole.step; step++) last = await run({ directory, stopAt: step }, given)
  t.same(decided(await run({ directory }, given)), decided(whole), 'stopped behind every step')
  t.ok(last.step === whole.step)
}

t.test('stopped anywhere: the same bits and decisions', async (t) => {
  await stoppedAnywhere(t, {})
  await stoppedAnywhere(t, { watch: { ...watch, patience: 3 } })
  await stoppedAnywhere(t, onImprovement)
})

t.test('patience', async (t) => {
  const folder = await temporaryFolder(t)
  const directory = join(folder, 'run')
  const patient = { watch: { ...watch, patience: 4 } }
  const found = await run({ directory }, patient)
  t.match(found, { step: 7, stopped: false, stoppedEarly: true, best: { step: 4 }, stepsDone: 7 })
  t.same((await readdir(directory)).sort(), ['step-00000004', 'step-00000007'], 'the end is saved')
  t.match(await run({ directory }, patient), { stepsDone: 0, stoppedEarly: true, hash: found.hash, step: 7 })
  const alone = await run({}, { watch: { ...watch, loadBest: false, patience: 4 } })
  t.match(alone, { step: 7, stoppedEarly: true, best: undefined, checkpoint: undefined }, 'without a folder')
})

t.test('a signal during an evaluation: it is made when the run goes on', async (t) => {
  const folder = await temporaryFolder(t)
  const patient = { ...watch, patience: 4 }
  const whole = await run({ directory: join(folder, 'whole') }, { watch: patient, saveSteps: 1 })
  for (let at = 1; at <= whole.step; at++) {
    const directory = join(folder, String(at))
    const stop = new AbortController()
    const made: number[] = []
    const evaluate = async (step: number) => {
      if (step === at && !stop.signal.aborted) {
        stop.abort()
        throw new WhetstoneError('E_ABORTED', 'evaluate', 'stopped')
      }
      made.push(step)
      return { loss: script[step] }
    }
    const given = { watch: patient, saveSteps: 1, evaluate }
    const first = await run({ directory }, { ...given, signal: stop.signal })
    t.match(first, { step: at, stopped: true }, `at ${at}`)
    const second = await run({ directory }, given)
    t.same(decided(second), decided(whole), 'and resumed')
    t.same(
      made,
      Array.from({ length: whole.step }, (_, i) => i + 1),
      'no evaluation is missing, none made twice',
    )
  }
})

// Through train() ------------------------------------------------------------------------------------------------------

const { folder, base } = await tinyFolder(t)
const rows = rowsOf.completion

async function trained(options: Partial<TrainOptions>, load: ModelOptions = {}) {
  using policy = await loadModel(base, load)
  const shared = { learningRate: 3e-2, lrSchedulerType: 'constant', perDeviceTrainBatchSize: 2, maxSteps: 12 } as const
  const job = train({ policy, objective: sft(), data: rows, ...shared, ...options })
  const events: TrainEvent[] = []
  const following = (async () => {
    for await (const event of job) events.push(event)
  })()
  const result = await job.result.finally(() => following.catch(() => undefined))
  const of = <T extends TrainEvent['type']>(type: T) =>
    events.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type)
  return { result, of, hash: await weightsHash(policy) }
}

t.test('train ends with the best weights in memory, and says where they lie', async (t) => {
  const output = join(folder, 'best')
  const options = {
    output,
    evalRows: 3,
    evalSteps: 1,
    saveSteps: 1,
    loadBestModelAtEnd: true,
    earlyStoppingPatience: 3,
  }
  const { result, of, hash } = await trained(options)
  const losses = of('eval').map(({ values, step }) => ({ loss: values.loss, step }))
  const least = losses.reduce((best, one) => (one.loss < best.loss ? one : best))
  t.match(result.best, { step: least.step, value: least.loss, metric: 'loss', checkpoint: result.checkpoint })
  t.match(result, { stoppedEarly: true, step: (least.step ?? 0) + 3 }, 'three evaluations behind the best one')
  t.match(of('end'), [{ best: result.best, stoppedEarly: true }])
  using best = await loadModel(result.checkpoint ?? '')
  t.equal(await weightsHash(best), hash)
  const again = await trained({ ...options, resume: true })
  t.match(again.result, { stepsDone: 0, best: result.best, checkpoint: result.checkpoint })
  t.equal(again.hash, hash, 'resumed behind its end')
  await t.rejects(trained({ ...options, output: join(folder, 'no metric'), metricForBestModel: 'kl' }), {
    code: 'E_CONFIG',
    where: 'metricForBestModel',
  })
  await t.rejects(trained({ ...options, output: join(folder, 'no rows'), evalRows: 0 }), { code: 'E_CONFIG' })
  t.notOk((await readdir(folder)).includes('no rows'), 'refused before there is a folder')
})

t.test('an adapter, and weights in bf16', async (t) => {
  const settings = { evalRows: 3, evalSteps: 2, saveSteps: 2, loadBestModelAtEnd: true, maxSteps: 8 }
  // The adapter's loss falls from one evaluation to the next, so the worst is taken for the best.
  for (const [name, load, more] of [
    ['adapter', { dtype: 'f32', lora: { r: 4, loraAlpha: 32 } }, { greaterIsBetter: true }],
    ['bf16', { dtype: 'bf16' }, { learningRate: 0.3 }],
  ] as const) {
    const { result, of, hash } = await trained({ ...settings, ...more, output: join(folder, name) }, load)
    const losses = of('eval').map(({ values }) => values.loss)
    t.equal(result.best?.value, name === 'adapter' ? Math.max(...losses) : Math.min(...losses))
    t.ok((result.best?.step ?? 8) < 8, `${name}: the last is not the best`)
    using best = await loadModel(result.checkpoint ?? '', { dtype: load.dtype })
    t.equal(await weightsHash(best), hash, name)
  }
})

t.test('by epochs', async (t) => {
  const output = join(folder, 'epochs')
  const epochs = { maxSteps: -1, numTrainEpochs: 2.5, evalRows: 2, output, saveTotalLimit: 0 }
  const { of } = await trained({ ...epochs, evalStrategy: 'epoch', saveStrategy: 'epoch' })
  const stepsOf = (type: 'eval' | 'checkpoint') => of(type).map(({ step }) => step)
  t.same(stepsOf('eval'), [3, 6, 8], 'three steps an epoch, and the end')
  t.same(stepsOf('checkpoint'), [3, 6, 8])
  t.equal((await readdir(join(output, 'checkpoints'))).length, 3, 'saveTotalLimit 0 keeps all')
  const no = await trained({ ...epochs, output: undefined, evalStrategy: 'no', saveStrategy: 'no', saveSteps: 1 })
  t.same([no.of('eval').length, no.of('checkpoint').length], [0, 0])
  t.match(no.of('warning'), [{ message: /the 2 rows held out are not evaluated/ }])
  const values = async (perDeviceEvalBatchSize?: number) =>
    (await trained({ evalData: rows, maxSteps: 1, perDeviceEvalBatchSize })).of('eval').map((event) => event.values)
  t.same(await values(3), await values(), 'the size of micro-batches changes no bit of an evaluation')
})

t.test('saveTotalLimit as TRL has it', async (t) => {
  t.equal(trainingOptions.parse({ saveTotalLimit: null }).saveTotalLimit, 0)
  t.equal(trainingOptions.parse({}).saveTotalLimit, 2)
  t.throws(() => trainingOptions.parse({ saveTotalLimit: -1 }))
})

t.test('checkpoints of the model alone', async (t) => {
  const output = join(folder, 'only model')
  const { result, hash } = await trained({ output, maxSteps: 2, saveOnlyModel: true })
  const files = await readdir(result.checkpoint ?? '')
  t.ok(files.includes('model.safetensors') && !files.includes('optimizer.safetensors'), files.join())
  using model = await loadModel(result.checkpoint ?? '')
  t.equal(await weightsHash(model), hash)
  await t.rejects(trained({ output, maxSteps: 2, saveOnlyModel: true, resume: true }), {
    code: 'E_CONFIG',
    where: 'saveOnlyModel',
    message: /no run resumes: start a new run .*step-00000002 as the model/,
  })
})

t.test('more steps for a run', async (t) => {
  const of = (name: string, more: Partial<TrainOptions>) =>
    trained({ output: join(folder, name), evalRows: 2, evalSteps: 2, warmupSteps: 2, ...more })
  const whole = await of('long', { maxSteps: 9 })
  await of('short', { maxSteps: 4 })
  const longer = await of('short', { maxSteps: 9, resume: true })
  t.equal(longer.hash, whole.hash, 'a run made longer has the bits of one that was as long from the start')
  t.match(longer.result, { step: 9, stepsDone: 5 })
  const { maxSteps } = JSON.parse(await readFile(join(folder, 'short', 'config.json'), 'utf8'))
  t.equal(maxSteps.value, 9, 'and its folder says so')
  await t.rejects(of('short', { maxSteps: 5, resume: true }), { code: 'E_MISMATCH', message: /at least the 9 steps/ })
  const epochs = await of('short', { maxSteps: -1, numTrainEpochs: 4, resume: true })
  t.equal(epochs.hash, (await of('by epochs', { maxSteps: -1, numTrainEpochs: 4 })).hash, 'by epochs too')
  await t.rejects(of('short', { maxSteps: 20, seed: 1, resume: true }), { code: 'E_MISMATCH', where: 'seed' })

  await of('linear', { maxSteps: 4, lrSchedulerType: 'linear' })
  const onward = /rates of linear .*start a new run from its checkpoint, with .*step-00000004 as the model/
  await t.rejects(of('linear', { maxSteps: 9, lrSchedulerType: 'linear', resume: true }), {
    code: 'E_MISMATCH',
    where: 'maxSteps',
    message: onward,
  })
  const patient = { earlyStoppingPatience: 9 }
  await of('patient', { maxSteps: 4, ...patient })
  await t.rejects(of('patient', { maxSteps: 9, resume: true, ...patient }), {
    code: 'E_MISMATCH',
    message: /evaluation at the old end/,
  })
})
