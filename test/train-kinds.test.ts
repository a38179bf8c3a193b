// train() with every objective on rows: it learns, logs TRL's names, leaves a checkpoint with the bits of the policy in
// memory, and does not depend on how steps are cut. Score heads fit a tiny set whole. Adapters, references and resuming:
// train-references.test.ts; the command line: cli-kinds.test.ts.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { listwiseReward, objectives } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { getDevice } from '../ts/src/native/device.js'
import type { EncodedExample } from '../ts/train/data/example.js'
import { microBatchOf } from '../ts/train/data/micro-batch.js'
import { readMetrics } from '../ts/train/run-folder.js'
import { createTrainer, disposeTrainer, evaluateLoss, trainStep } from '../ts/train/trainer.js'
import { liveBytes, randomOf, wordsOf } from './support.js'
import {
  makeObjective,
  makeTiny,
  putRows,
  rowObjectives,
  rowsFor,
  rowsOf,
  runKind,
  settingsOf,
  tinyFolder,
} from './support-kinds.js'
import { adamw, disposeToy, stateHash, toyTrainer } from './support-train.js'

const { folder, base } = await tinyFolder(t)
const teacher = await makeTiny(join(folder, 'teacher'), 48)

const pairNames = [
  'rewards/chosen',
  'rewards/rejected',
  'rewards/margins',
  'rewards/accuracies',
  'logps/chosen',
  'logps/rejected',
  'logits/chosen',
  'logits/rejected',
]
const labelledNames = ['rewards/chosen', 'rewards/rejected', 'logps/chosen', 'logps/rejected', ...pairNames.slice(6)]
const scoreNames = ['accuracy', 'margin', 'mean_reward']

/** Statistics by objective: TRL's names where TRL has the trainer. */
const names: Readonly<Record<string, readonly string[]>> = {
  sft: ['logps/token', 'entropy', 'mean_token_accuracy'],
  dpo: [...pairNames, 'entropy', 'mean_token_accuracy'],
  superhf: ['nll', 'kl'],
  distill: ['kl', 'logps/token'],
  gkd: ['kl', 'logps/token'],
  logRatio: ['rewards/margins', 'rewards/accuracies'],
  srpo: ['generative', 'selfImprovement'],
  kto: [...labelledNames, 'rewards/margins', 'kl', 'entropy'],
  bco: [...labelledNames, 'rewards/margins', 'logRatio', 'delta'],
  apoZeroUnpaired: [...labelledNames, 'entropy'],
  reward: scoreNames,
  listwiseReward: scoreNames,
  pointwiseReward: ['accuracy', 'mean_reward'],
  pairReward: scoreNames,
  gapReward: scoreNames,
  processReward: ['accuracy'],
}

/** Settings beside the default ones, one run each. */
const variants: readonly (readonly [name: string, config: Readonly<Record<string, unknown>>])[] = [
  ['sft', { lossType: 'dft' }],
  ['sft', { labelSmoothing: 0.1 }],
  ['superhf', { normalisation: 'authors', inverseLoss: 0.1 }],
  ['superhf', { direction: 'policyToPrior' }],
  ['distill', { direction: 'policyToPrior' }],
  ...['hinge', 'ipo', 'ipoSum', 'exoPair', 'bcoPair', 'aotUnpaired', 'discopop', 'apoZero'].map(
    (lossType) => ['dpo', { lossType, labelSmoothing: lossType === 'exoPair' ? 0.01 : 0 }] as const,
  ),
  ['dpo', { lossType: ['sigmoid', 'bcoPair', 'sft'], lossWeights: [0.8, 0.2, 1], useWeighting: true }],
  ['dpo', { fDivergenceType: 'jsDivergence', ldAlpha: 0.5, rpoAlpha: 0.5 }],
  ['simpo', { alpha: 0.2, sftWeight: 0.5 }],
  ['cpo', { lossType: 'hinge' }],
  ['orpo', { nllOver: 'all' }],
  ['kto', { lossType: 'apoZeroUnpaired' }],
  ['xpo', { lossType: 'ipo' }],
  ['srpo', { reduction: 'mean' }],
  ['pointwiseReward', { lossType: 'mse' }],
]

/** What rises where the loss need not fall, because its weights are probabilities of the policy itself. */
const rising: Readonly<Record<string, string>> = { dft: 'logps/token', weighted: 'rewards/margins' }

const cases = [...rowObjectives.map((name): (typeof variants)[number] => [name, {}]), ...variants]

t.test('every objective on rows learns, tells how, and leaves its policy behind', async (t) => {
  const before = await liveBytes()
  using larger = await loadModel(teacher)
  for (const [i, [name, config]] of cases.entries()) {
    const what = `${name} ${JSON.stringify(config)}`
    const objective = makeObjective(name, config)
    // A teacher of another size: distillation from the policy itself has nothing to learn.
    const reference = name === 'distill' || name === 'gkd' ? larger.decoder : undefined
    const output = join(folder, `run-${i}`)
    const data = await putRows(folder, `rows-${i}.jsonl`, rowsFor(objective))
    let kept: number[][] = []
    const sequences = [
      [40, 41, 42, 43, 44],
      [50, 51, 60],
    ]
    const { losses, stats, result, warnings } = await runKind({
      base,
      objective,
      data,
      reference,
      output,
      maxSteps: 12,
      perDeviceTrainBatchSize: 8,
      after: async (policy) => {
        const numbers = objective.needs.values === undefined ? policy.logProbs(sequences) : policy.scores(sequences)
        kept = (await numbers).map(wordsOf)
      },
    })
    const rises = rising[config.useWeighting === true ? 'weighted' : String(config.lossType)]
    const path = rises === undefined ? losses : stats.map((own) => -own[rises])
    t.ok(path[11] < path[0], `${what}: ${path[0].toFixed(4)} -> ${path[11].toFixed(4)}`)
    const wanted = names[String(config.lossType)] ?? names[name] ?? pairNames
    t.same(
      Object.keys(stats[0])
        .filter((own) => wanted.includes(own))
        .sort(),
      [...wanted].sort(),
      `${what}: names`,
    )
    t.ok(
      stats.every((own) => Object.values(own).every(Number.isFinite)),
      `${what}: finite statistics`,
    )
    const extra = warnings.filter((text) => !/is not used$/.test(text))
    t.same(extra, [], `${what}: nothing to warn of but fields of other objectives`)
    using again = await loadModel(result.checkpoint ?? '')
    t.equal(again.decoder.config.scoreLabels, objective.needs.values, 'a model of the same kind')
    const numbers = objective.needs.values === undefined ? again.logProbs(sequences) : again.scores(sequences)
    t.same((await numbers).map(wordsOf), kept, `${what}: the checkpoint has the bits of the policy`)
    const logged = (await readMetrics(output)).flatMap((event) => (event.type === 'step' ? [event.loss] : []))
    t.same(logged, losses, 'metrics.jsonl has them all')
  }
  larger.dispose()
  t.equal(await liveBytes(), before, 'nothing stays in memory')
})

t.test('a step cut in another way has the same bits', async (t) => {
  for (const [name, config] of cases) {
    const objective = makeObjective(name, config)
    const run = (size: number) =>
      runKind({
        base,
        objective,
        perDeviceTrainBatchSize: size,
        gradientAccumulationSteps: 8 / size,
        maxSteps: 3,
      })
    const whole = await run(8)
    for (const size of [1, 4]) {
      const { hash, losses } = await run(size)
      t.equal(hash, whole.hash, `${name} ${JSON.stringify(config)}: ${8 / size} x ${size}`)
      // Sums of shares are in another order where an objective is a sum over examples.
      t.ok(
        losses.every((loss, i) => Math.abs(loss - whole.losses[i]) <= 1e-12 * Math.abs(loss)),
        'and the same loss',
      )
    }
  }
})

t.test('dropout and noise do not see how a step is cut, nor how many threads there are', async (t) => {
  const lora = { r: 4, loraDropout: 0.3 }
  for (const name of ['sft', 'superhf', 'dpo', 'srpo', 'kto', 'bco', 'reward', 'listwiseReward'])
    for (const useDora of [false, true]) {
      const run = (size: number) => {
        const cut = { perDeviceTrainBatchSize: size, gradientAccumulationSteps: 8 / size, maxSteps: 3 }
        return runKind({
          base,
          objective: makeObjective(name),
          load: { lora: { ...lora, useDora } },
          neftuneNoiseAlpha: 5,
          disableDropout: false,
          ...cut,
        })
      }
      const what = `${name} ${useDora ? 'DoRA' : 'LoRA'}`
      const { hash } = await run(8)
      t.equal((await run(1)).hash, hash, `${what}: 8 x 1`)
      getDevice().threads = 1
      t.equal((await run(4)).hash, hash, `${what}: 2 x 4 on one thread`)
      getDevice().threads = 2
    }
})

t.test('dropout is left out where log-probs or scores are compared', async (t) => {
  const hashOf = async (name: string, loraDropout: number, disableDropout?: boolean) => {
    const load = { lora: { r: 4, loraDropout } }
    return (await runKind({ base, objective: makeObjective(name), load, maxSteps: 2, disableDropout })).hash
  }
  for (const name of ['sft', 'superhf', 'dpo', 'orpo', 'kto', 'reward', 'processReward']) {
    const [none, dropped] = [await hashOf(name, 0), await hashOf(name, 0.5, false)]
    t.not(dropped, none, `${name}: on request it is there`)
    t.equal(await hashOf(name, 0.5, true), none, 'and gone')
    t.equal(await hashOf(name, 0.5), name === 'sft' ? dropped : none, 'TRL’s default')
  }
})

// Objectives over groups --------------------------------------------------------------------------------------------------

const random = randomOf('groups')
const ids = (length: number): number[] => Array.from({ length }, () => random.integer(61))
const marks = (length: number, from: number) => Uint8Array.from({ length }, (_, i) => Number(i >= from))

/** Eight samples of two prompts with what policy gradients look at. */
const samples: EncodedExample[] = [ids(9), ids(14)].flatMap((prompt) =>
  [3, 7, 1, 5].map((length, i): EncodedExample => {
    const all = [...prompt, ...ids(length)]
    const numbers = Float64Array.from(all, () => -3 - random.next())
    return [
      {
        ids: all,
        trained: marks(all.length, prompt.length),
        scores: { advantage: i - 1.5, preference: i / 3 },
        inputs: { old: numbers, sampler: numbers.map((l) => l - 0.1), reference: numbers.map((l) => l + 0.2) },
      },
    ]
  }),
)

t.test('objectives over samples: a step cut in another way has the same bits', async (t) => {
  const groups = Object.keys(objectives).filter((name) => makeObjective(name).needs.rows === 'group')
  const more: readonly (readonly [string, object])[] = [
    ['grpo', { beta: 0.1 }],
    ['dapo', { beta: 0.1, klEstimator: 'rhoK3' }],
  ]
  for (const [name, config] of [...groups.map((name) => [name, settingsOf[name] ?? {}] as const), ...more]) {
    const objective = makeObjective(name, config)
    if (objective.needs.values !== undefined) continue
    const hash = async (sizes: readonly number[]) => {
      const trainer = toyTrainer({ objective })
      let at = 0
      const batches = sizes.map((size) => {
        at += size
        return microBatchOf(samples.slice(at - size, at))
      })
      for (let step = 0; step < 2; step++) await trainStep(trainer, batches, 1e-2)
      const state = await stateHash(trainer)
      disposeToy(trainer)
      return state
    }
    const whole = await hash([8])
    for (const sizes of [
      [1, 1, 1, 1, 1, 1, 1, 1],
      [3, 5],
    ])
      t.equal(await hash(sizes), whole, `${name} ${JSON.stringify(config)}: ${sizes.join(' + ')}`)
  }
})

// Score heads ------------------------------------------------------------------------------------------------------------

t.test('score heads fit a tiny set', async (t) => {
  for (const name of ['reward', 'pointwiseReward', 'listwiseReward', 'pairReward', 'gapReward', 'processReward'])
    for (const dtype of ['f32', 'bf16'] as const) {
      const objective = makeObjective(name)
      const { losses, stats, result } = await runKind({
        base,
        objective,
        load: { dtype },
        perDeviceTrainBatchSize: 8,
        maxSteps: 80,
        // at 1e-2 Adam overshoots: losses of gapReward leap from 0.4 to 10 after 25 steps, and where they end is up to rounding
        learningRate: 3e-3,
        saveSteps: 0,
        output: join(folder, `score-${name}-${dtype}`),
      })
      t.equal(stats[79].accuracy, 1, `${name} ${dtype}: ${losses[0].toFixed(3)} -> ${losses[79].toFixed(3)}`)
      t.ok(losses[79] < 0.2 * losses[0], 'the loss falls')
      const config = JSON.parse(await readFile(join(result.checkpoint ?? '', 'config.json'), 'utf8'))
      t.match(config.architectures, ['LlamaForSequenceClassification'], 'Transformers finds the head')
      t.equal(config.num_labels, objective.needs.values)
    }
})

t.test('a reward model ranks what it was shown', async (t) => {
  const { result } = await runKind({
    base,
    objective: makeObjective('reward'),
    perDeviceTrainBatchSize: 8,
    maxSteps: 40,
    output: join(folder, 'ranks'),
  })
  using judge = await loadModel(result.checkpoint ?? '')
  const { tokenizer } = judge
  const score = async (text: string) => (await judge.scores([[...tokenizer.encode(text), tokenizer.eosId ?? 0]]))[0][0]
  for (const row of rowsOf.preference as readonly Record<string, string>[])
    t.ok((await score(row.prompt + row.chosen)) > (await score(row.prompt + row.rejected)), row.prompt)
})

t.test('all answers to a prompt at once', async (t) => {
  const ranked = [ids(6), ids(11), ids(8)].map(
    (prompt): EncodedExample =>
      [4, 2, 5, 3].map((length, i) => {
        const all = [...prompt, ...ids(length)]
        return { ids: all, trained: marks(all.length, all.length - 1), scores: { label: i % 3 } }
      }),
  )
  const batchesOf = (sizes: readonly number[]) => {
    let at = 0
    return sizes.map((size) => {
      at += size
      return microBatchOf(ranked.slice(at - size, at), { reads: 'own' })
    })
  }
  const run = async (sizes: readonly number[], steps: number) => {
    using model = await loadModel(base, { scoreLabels: 1, seed: 3 })
    const trainer = createTrainer({ policy: model.decoder, objective: listwiseReward(), optimizer: adamw })
    const batches = batchesOf(sizes)
    for (let step = 0; step < steps; step++) await trainStep(trainer, batches, 1e-2)
    const outcome = { hash: await stateHash(trainer), ...(await evaluateLoss(trainer, batches)) }
    disposeTrainer(trainer)
    return outcome
  }
  const whole = await run([3], 2)
  for (const sizes of [
    [1, 1, 1],
    [2, 1],
  ])
    t.equal((await run(sizes, 2)).hash, whole.hash, `${sizes.join(' + ')}`)
  const fitted = await run([3], 60)
  t.equal(fitted.stats.accuracy, 1, `every pair in order, loss ${fitted.loss.toFixed(3)}`)
})
