// A reference that follows the policy (TR-DPO): the mean it becomes, the losses of TRL, when it moves, the bits behind a
// stop, and what is refused.

import { join } from 'node:path'
import t from 'tap'
import { dpo, kto, sft, superhf } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { readJson } from '../ts/src/io/json.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat, parameterGroups } from '../ts/src/nn/parameters.js'
import { microBatchOf } from '../ts/train/data/micro-batch.js'
import { disposeCopy, frozenCopy, modelHash } from '../ts/train/reference.js'
import { moveReference } from '../ts/train/reference-sync.js'
import { createTrainer, disposeTrainer, trainStep } from '../ts/train/trainer.js'
import { type DpoBatch, pairsOf } from './golden-judges/dpo.js'
import { golden, liveBytes } from './support.js'
import { type KindOptions, makeTiny, runKind, tinyFolder } from './support-kinds.js'
import { toyDecoder } from './support-models.js'

const { folder, base } = await tinyFolder(t)
const follows = { syncRefModel: true, refModelSyncSteps: 2 }

t.test('the mean that a reference becomes', async (t) => {
  for (const dtype of ['f32', 'bf16'] as const)
    for (const alpha of [0, 0.6, 1]) {
      const [policy, reference] = [0, 1].map(() => toyDecoder(getDevice(), false, dtype))
      for (const group of parameterGroups) {
        const flat = reference.parameters.flat[group]
        flat.write((await flat.bits()).slice().reverse())
      }
      const read = () =>
        Promise.all(
          [policy, reference].flatMap(({ parameters }) =>
            parameterGroups.map(async (group) => Float64Array.from(await parameters.flat[group].data())),
          ),
        )
      const [own, ownVectors, was, wasVectors] = await read()
      moveReference(reference, policy, alpha)
      const [still, stillVectors, matrices, vectors] = await read()
      t.same([still, stillVectors], [own, ownVectors], 'the policy stays')
      const offBy = (moved: Float64Array, from: Float64Array, to: Float64Array) =>
        moved.reduce((most, x, i) => {
          const size = Math.max(Math.abs(from[i]), Math.abs(to[i]), 1e-30)
          return Math.max(most, Math.abs(x - (alpha * to[i] + (1 - alpha) * from[i])) / size)
        }, 0)
      const worst = Math.max(offBy(matrices, was, own), offBy(vectors, wasVectors, ownVectors))
      t.ok(
        worst <= (alpha === 0.6 ? { f32: 2 ** -22, bf16: 2 ** -8 }[dtype] : 0),
        `${dtype}, ${alpha}: off by ${worst}`,
      )
      for (const m of [policy, reference]) disposeDecoder(m, disposeFlat)
    }
})

/** DPOTrainer of TRL 1.13 over the batches of golden/traces/dpo.json at rate 1e-3, ref_model_sync_steps 2, alpha 0.6. */
const trl = {
  losses: [Math.LN2, 0.47765836, 0.59349221, 0.61988032, 0.12429596, 0.06991392, 0.23805065, 0.14447534],
  gradNorms: [16.967428, 9.8856401, 12.584898, 12.283371, 3.3671813, 1.68979, 4.9700723, 3.2535729],
}

t.test('the losses of TRL', async (t) => {
  const { steps } = (await readJson(join('test', 'golden', 'traces', 'dpo.json'))) as { steps: { batch: DpoBatch }[] }
  using model = await loadModel(golden('llama'))
  const reference = frozenCopy(model.decoder)
  const optimizer = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 }
  const referenceSync = { refModelSyncSteps: 2, refModelMixupAlpha: 0.6 }
  const trainer = createTrainer({ policy: model.decoder, reference, objective: dpo(), optimizer, referenceSync })
  for (const [k, { batch }] of steps.entries()) {
    const { loss, gradNorm } = await trainStep(trainer, [microBatchOf(pairsOf(batch))], 1e-3)
    t.ok(Math.abs(loss - trl.losses[k]) < 1e-5, `step ${k}: ${loss}, TRL ${trl.losses[k]}`)
    t.ok(Math.abs(gradNorm / trl.gradNorms[k] - 1) < 1e-5, `step ${k}: norm ${gradNorm}, TRL ${trl.gradNorms[k]}`)
  }
  disposeTrainer(trainer)
  disposeCopy(reference)
})

t.test('it moves behind every second step', async (t) => {
  const before = await liveBytes()
  using frozen = await loadModel(base)
  const hash = await modelHash(frozen.decoder)
  for (const dtype of ['f32', 'bf16'] as const) {
    const replaced = await runKind({ base, objective: dpo(), load: { dtype }, ...follows, refModelMixupAlpha: 1 })
    replaced.losses.forEach((loss, step) => {
      if (step % 2 === 0) t.equal(loss, Math.LN2, `${dtype}: at step ${step} policy and reference are equal`)
      else t.not(loss, Math.LN2)
    })
    const still = await runKind({ base, objective: dpo(), load: { dtype } })
    const mixed = await runKind({ base, objective: dpo(), load: { dtype }, ...follows })
    t.same(mixed.losses.slice(0, 2), still.losses.slice(0, 2), 'nothing differs before the first move')
    t.not(mixed.losses[2], still.losses[2])
    t.ok(Math.abs(mixed.losses[2] - Math.LN2) < Math.abs(still.losses[2] - Math.LN2), 'the reference came closer')
    const given = await runKind({ base, objective: dpo(), load: { dtype }, ...follows, reference: frozen.decoder })
    if (dtype === 'f32') t.equal(given.hash, mixed.hash, 'the reference that is given is the start')
    t.equal(await modelHash(frozen.decoder), hash, 'and stays as it is')
  }
  frozen.dispose()
  t.equal(await liveBytes(), before, 'all memory is free again')
})

t.test('stopped and resumed: the bits of the run that went through', async (t) => {
  const runs: readonly (readonly [string, Partial<KindOptions> & Pick<KindOptions, 'objective'>])[] = [
    ['dpo', { objective: dpo() }],
    ['dpo bf16', { objective: dpo(), load: { dtype: 'bf16' } }],
    ['dpo bf16 alone', { objective: dpo(), load: { dtype: 'bf16' }, stochasticRounding: true }],
    ['kto', { objective: kto(), gradientAccumulationSteps: 2, perDeviceTrainBatchSize: 2 }],
    ['superhf', { objective: superhf() }],
  ]
  for (const [name, options] of runs) {
    const whole = await runKind({ base, ...options, ...follows })
    for (const stopAt of [1, 4, 5]) {
      const output = join(folder, `${name}-${stopAt}`)
      await t.rejects(runKind({ base, ...options, ...follows, output, stopAt }), { code: 'E_ABORTED' })
      const rest = await runKind({ base, ...options, ...follows, output, resume: true })
      t.equal(rest.hash, whole.hash, `${name}: stopped at ${stopAt}`)
      t.same(rest.losses, whole.losses.slice(whole.losses.length - rest.losses.length), 'the same losses')
    }
  }
  const output = join(folder, 'mismatch')
  await t.rejects(runKind({ base, objective: dpo(), ...follows, output, stopAt: 3 }), { code: 'E_ABORTED' })
  const resume = (other: Partial<KindOptions>) =>
    runKind({ base, objective: dpo(), ...follows, output, resume: true, ...other })
  await t.rejects(resume({ refModelMixupAlpha: 0.5 }), { code: 'E_MISMATCH', where: 'refModelMixupAlpha' })
  await t.rejects(resume({ syncRefModel: false }), { code: 'E_MISMATCH', where: 'syncRefModel' })
})

t.test('what cannot follow', async (t) => {
  using other = await loadModel(await makeTiny(join(folder, 'wide'), 48))
  const refused: readonly (readonly [RegExp, Partial<KindOptions>])[] = [
    [/without precomputeRefLogProbs/, { precomputeRefLogProbs: true }],
    [/got LoRA/, { load: { lora: { r: 4 } } }],
    [/the parameters of the policy, .* \[98, 32\], got .* \[98, 48\]/, { reference: other.decoder }],
    [/got none: nothing looks at one/, { objective: sft() }],
    [/refModelSyncSteps/, { refModelSyncSteps: 0 }],
    [/refModelMixupAlpha/, { refModelMixupAlpha: 1.5 }],
  ]
  for (const [message, options] of refused)
    await t.rejects(
      runKind({ base, objective: dpo(), ...follows, ...options }),
      { code: 'E_CONFIG', message },
      `${message}`,
    )
})
