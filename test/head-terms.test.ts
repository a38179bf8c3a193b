// What objectives see of the whole distribution, through a model: entropy, mean log-probs, squares and divergences from a
// reference, against float64 over all 61 log-probs of the toy; gradients against differences of the loss.

import t from 'tap'
import type { Objective, SequenceTerms } from '../ts/loss/define.js'
import { distill, dpo, gkd, grpo, sft } from '../ts/loss/index.js'
import { distributionTerms } from '../ts/loss/vocabulary.js'
import { type Decoder, disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import type { EncodedExample, EncodedSequence } from '../ts/train/data/example.js'
import { microBatchOf, microBatchOfRows } from '../ts/train/data/micro-batch.js'
import {
  createTrainer,
  disposeTrainer,
  evaluateLoss,
  gradientsOf,
  type Trainer,
  trainStep,
} from '../ts/train/trainer.js'
import { toyDecoder } from './support-models.js'
import { adamw, disposeToy, toyTrainer } from './support-train.js'

const words = 61
const prompt = [5, 44, 12]
const sequence = (answer: readonly number[], rest: Partial<EncodedSequence> = {}): EncodedSequence => ({
  ids: [...prompt, ...answer],
  trained: Uint8Array.from([...prompt, ...answer], (_, i) => Number(i >= prompt.length)),
  ...rest,
})
const answer = [7, 30, 8]

async function withTrainer(objective: Objective, work: (trainer: Trainer) => Promise<void>): Promise<void> {
  const reference = toyDecoder(getDevice(), false)
  const trainer = toyTrainer({ objective, reference })
  await work(trainer).finally(() => {
    disposeToy(trainer)
    disposeDecoder(reference, disposeFlat)
  })
}

/** The terms that the trainer's objective is given. */
async function seen(trainer: Trainer, example: EncodedExample): Promise<readonly SequenceTerms[]> {
  let terms: readonly SequenceTerms[] = []
  const { objective } = trainer
  const watching: Objective = {
    ...objective,
    evaluate: (batch) => {
      terms = batch.sequences
      return objective.evaluate(batch)
    },
  }
  await evaluateLoss({ ...trainer, objective: watching }, [microBatchOf([example])])
  return terms
}

/** log p of every token at each place of the answer: one row per place and token, of which the last token counts. */
async function distributions(policy: Decoder, tokens: readonly number[]): Promise<Float64Array[]> {
  const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw })
  const rows = tokens.flatMap((_, place) =>
    Array.from({ length: words }, (_, word): EncodedSequence => {
      const ids = [...prompt, ...tokens.slice(0, place), word]
      return { ids, trained: Uint8Array.from(ids, (_, i) => Number(i === ids.length - 1)) }
    }),
  )
  let logps: number[] = []
  const reading: Objective = {
    ...sft(),
    evaluate: (batch) => {
      logps = batch.sequences.map((own) => own.logps[0])
      return sft().evaluate(batch)
    },
  }
  await evaluateLoss({ ...trainer, objective: reading }, [microBatchOfRows(rows)])
  disposeTrainer(trainer)
  return tokens.map((_, place) => Float64Array.from(logps.slice(place * words, (place + 1) * words)))
}

const side = (role: 'chosen' | 'rejected', ids: readonly number[]): EncodedSequence => sequence(ids, { role })
const single: EncodedExample = [sequence(answer, { scores: { advantage: 0.7 } })]
/** Log-probs of the policy of before: without them the ratio of a policy to itself is constant. */
const old = { old: Float32Array.from([0, 0, 0, -3, -4, -5]) }
const sampled: EncodedExample = [sequence(answer, { scores: { advantage: 0.7 }, inputs: old })]
const pair: EncodedExample = [side('chosen', answer), side('rejected', [9, 9])]

/** Objective, an example for it, the term it looks at, and that term's float64 name. */
const cases: readonly (readonly [Objective, EncodedExample, keyof SequenceTerms, keyof typeof distributionTerms])[] = [
  [sft({ labelSmoothing: 0.1 }), single, 'meanLogps', 'meanLogps'],
  [grpo({ entropyCoef: 0.3, epsilon: 50, epsilonHigh: 50 }), sampled, 'entropy', 'entropy'],
  [dpo({ useWeighting: true }), pair, 'logSquares', 'logSquares'],
  [distill({ direction: 'priorToPolicy' }), single, 'kl', 'priorToPolicy'],
  [distill({ direction: 'policyToPrior' }), single, 'kl', 'policyToPrior'],
  [gkd({ beta: 0.3 }), single, 'kl', 'jsd'],
]

for (const [objective, example, term, name] of cases)
  t.test(`${objective.name}: ${name}`, (t) =>
    withTrainer(objective, async (trainer) => {
      const [own] = await seen(trainer, example)
      const rows = await distributions(trainer.policy, answer)
      const priors = await distributions(trainer.reference as Decoder, answer)
      const exact = rows.map((logits, i) => {
        const row = { logits, prior: priors[i], label: answer[i] }
        return name === 'jsd' ? distributionTerms.jsd(row, 0.3).value : distributionTerms[name](row).value
      })
      const given = own[term] as Float64Array
      t.equal(given.length, answer.length)
      exact.forEach((value, i) => {
        t.ok(Math.abs(given[i] - value) < 2e-5 * (1 + Math.abs(value)), `${given[i]} is ${value}`)
      })
      t.same(
        [...own.logps],
        [...answer.keys()].map((i) => rows[i][answer[i]]),
        'the log-probs are those of the plain head',
      )
    }),
  )

/** d loss / d (a step along the gradient), by differences, over its value by the gradient's own square. */
async function slopeRatio(trainer: Trainer, example: EncodedExample): Promise<number> {
  const batch = microBatchOf([example])
  const { gradients } = await gradientsOf(trainer, [batch])
  const square = [...gradients.values()].flatMap((g) => [...g]).reduce((sum, x) => sum + x * x, 0)
  const size = 1e-2 / Math.sqrt(square)
  const start = new Map<string, Float32Array>()
  for (const { name } of trainer.policy.parameters.placements)
    start.set(name, Float32Array.from(await (trainer.policy.parameters.byName.get(name)?.data() ?? [])))
  const lossAt = async (factor: number) => {
    for (const [name, weights] of start) {
      const gradient = gradients.get(name)
      trainer.policy.parameters.byName.get(name)?.write(weights.map((w, i) => w + factor * size * (gradient?.[i] ?? 0)))
    }
    return (await evaluateLoss(trainer, [batch])).loss
  }
  const across = async (factor: number) => (await lossAt(factor)) - (await lossAt(-factor))
  const difference = (8 * (await across(1)) - (await across(2))) / 6
  return difference / (2 * size * square)
}

t.test('gradients through the model are the slopes of the loss', async (t) => {
  for (const [objective, example, term, name] of cases) {
    if (term === 'logSquares') continue // a constant weight of the loss: no slope of its own
    await withTrainer(objective, async (trainer) => {
      const ratio = await slopeRatio(trainer, example)
      t.ok(Math.abs(ratio - 1) < 5e-3, `${objective.name} with ${name}: ${ratio}`)
    })
  }
})

t.test('distillation brings the policy to its teacher', async (t) => {
  for (const objective of [distill(), distill({ direction: 'policyToPrior' }), gkd(), gkd({ beta: 0.9 })])
    await withTrainer(objective, async (trainer) => {
      const losses: number[] = []
      for (let step = 0; step < 25; step++) losses.push((await trainStep(trainer, [microBatchOf([single])], 3e-3)).loss)
      t.ok(losses[24] < 0.2 * losses[0], `${objective.name}: ${losses[0].toFixed(4)} to ${losses[24].toFixed(4)}`)
    })
})

t.test('WPO weighs pairs by how likely the policy finds them', (t) =>
  withTrainer(dpo({ useWeighting: true }), async (trainer) => {
    const { loss } = await evaluateLoss(trainer, [microBatchOf([pair])])
    const plain = await evaluateLoss({ ...trainer, objective: dpo() }, [microBatchOf([pair])])
    const weight = (await seen(trainer, pair)).reduce((product, { logps, logSquares = logps }) => {
      const excess = logps.map((l, i) => l - logSquares[i])
      return product * Math.exp(excess.reduce((sum, x) => sum + x, 0) / excess.length)
    }, 1)
    t.ok(Math.abs(loss / plain.loss - Math.min(weight, 1)) < 1e-9, `${loss / plain.loss} is ${weight}`)
  }),
)

t.test('a KL and other numbers of the distribution do not come from one pass', (t) =>
  withTrainer(distill(), async (trainer) => {
    const objective = { ...distill(), needs: { ...distill().needs, terms: ['entropy'] as const } }
    await t.rejects(trainStep({ ...trainer, objective }, [microBatchOf([single])], 1e-3), { code: 'E_CONFIG' })
  }),
)
