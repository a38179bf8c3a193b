// Training of weights that are bf16 alone: they move on average as f32 masters do, where rounding to the nearest would
// leave them; bits depend on the seed and not on how a step is cut or threaded; what has no bf16 weights is refused.

import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { getDevice } from '../ts/src/native/device.js'
import { parameterGroups } from '../ts/src/nn/parameters.js'
import { train } from '../ts/train/train.js'
import { createTrainer, type Trainer, trainStep } from '../ts/train/trainer.js'
import { golden } from './support.js'
import { adamw, disposeToy, split, toyRows, toyTrainer, trainedHash } from './support-train.js'

const rows = [0, 1, 2].map((step) => toyRows(`rounding ${step}`, 8))
const cut = (...sizes: number[]) => rows.map((eight) => split(eight, sizes))
const alone = { dtype: 'bf16', optimizer: { stochasticRounding: true } } as const

/** All weights that steps change, as numbers. */
const weightsOf = async ({ optimizer }: Trainer): Promise<number[]> =>
  (await Promise.all(parameterGroups.map((group) => optimizer.masters.flat[group].data()))).flatMap((x) => [...x])

t.test('the loss falls without masters', async (t) => {
  const losses: Record<string, number[]> = {}
  for (const stochasticRounding of [false, true]) {
    const trainer = toyTrainer({ dtype: 'bf16', optimizer: { stochasticRounding } })
    t.equal(trainer.optimizer.masters === trainer.policy.parameters, stochasticRounding)
    const own: number[] = []
    for (let k = 0; k < 20; k++) own.push((await trainStep(trainer, cut(8)[k % 3], 3e-3)).loss)
    losses[`${stochasticRounding}`] = own
    disposeToy(trainer)
  }
  t.equal(losses.true[0], losses.false[0], 'both begin at the same weights')
  t.ok(losses.true[19] < losses.true[0] - 0.5, `${losses.true[0].toFixed(2)} -> ${losses.true[19].toFixed(2)}`)
  t.ok(
    Math.abs(losses.true[19] - losses.false[19]) < 0.1,
    `with masters ${losses.false[19].toFixed(3)}, without ${losses.true[19].toFixed(3)}`,
  )
})

t.test('steps far below the resolution of bf16 add up', async (t) => {
  const trainers = [{ dtype: 'bf16' as const }, alone].map(toyTrainer)
  const moves: number[][] = []
  for (const trainer of trainers) {
    const before = await weightsOf(trainer)
    for (let k = 0; k < 10; k++) await trainStep(trainer, cut(8)[0], 1e-6)
    moves.push((await weightsOf(trainer)).map((w, i) => w - before[i]))
    disposeToy(trainer)
  }
  const [wanted, got] = moves
  const square = wanted.reduce((total, x) => total + x * x, 0)
  const along = wanted.reduce((total, x, i) => total + x * got[i], 0) / square
  const moved = got.filter((x) => x !== 0).length / got.length
  t.ok(moved > 0 && moved < 0.5, `${(100 * moved).toFixed(1)} % of the weights moved`)
  t.ok(Math.abs(along - 1) < 0.1, `along the masters' way they went ${along.toFixed(3)} of it`)
})

t.test('the same bits however a step is cut, on every number of threads', async (t) => {
  const whole = await trainedHash(alone, cut(8))
  t.equal(await trainedHash(alone, cut(1, 1, 1, 1, 1, 1, 1, 1)), whole, '8 x 1')
  t.equal(await trainedHash({ ...alone, activationCheckpointing: true }, cut(3, 5)), whole, '3 + 5, recomputed')
  for (const threads of [1, 3]) {
    getDevice().threads = threads
    t.equal(await trainedHash(alone, cut(8)), whole, `${threads} threads`)
  }
  getDevice().threads = 2
  t.not(await trainedHash({ ...alone, seed: 1 }, cut(8)), whole, 'another seed rounds otherwise')
})

t.test('refused where weights are f32', async (t) => {
  const refusal = { code: 'E_CONFIG', where: 'stochasticRounding', message: /expected weights in bf16, got f32/ }
  t.throws(() => toyTrainer({ optimizer: { stochasticRounding: true } }), refusal)
  using model = await loadModel(golden('llama'), { dtype: 'bf16', lora: { r: 4 } })
  const optimizer = { ...adamw, stochasticRounding: true }
  t.throws(() => createTrainer({ policy: model.decoder, objective: sft(), optimizer }), refusal, 'LoRA')
  using policy = await loadModel(golden('llama'))
  const run = train({ policy, objective: sft(), data: [{ text: 'one two' }], stochasticRounding: true })
  await t.rejects(run.result, refusal, 'train(...)')
})
