// The whole product in one screen: make a model, train it, save, load, generate, and find the same log-probs.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadModel, sft, train } from '../ts/src/index.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { createTask } from '../ts/train/tasks/index.js'
import { liveBytes, temporaryFolder } from './support.js'

const folder = await temporaryFolder(t)
const source = createTask('arithmetic', { seed: 1, difficulty: 1 })
const base = join(folder, 'base')
await makeTaskModel(base, source, { seed: 1, hiddenSize: 32, layers: 2, heads: 2, intermediateSize: 64 })
const data = join(folder, 'rows.jsonl')
const rows = source.warmup(10).map(({ prompt, answer }) => JSON.stringify({ prompt, completion: answer }))
await writeFile(data, `${rows.join('\n')}\n`)

t.test('train, save, load, generate', async (t) => {
  const before = await liveBytes()
  const options = { objective: sft(), data, output: join(folder, 'run'), learningRate: 1e-2, maxSteps: 100 }
  const losses: number[] = []
  {
    using policy = await loadModel(base)
    const run = train({ ...options, policy, perDeviceTrainBatchSize: 10 })
    for await (const event of run) if (event.type === 'step') losses.push(event.loss)
    const { checkpoint, stepsDone, metrics } = await run.result
    t.equal(stepsDone, 100)
    t.equal(metrics.loss, losses.at(-1))
    t.ok(losses[99] < losses[0] / 20, `the loss falls from ${losses[0]} to ${losses[99]}`)

    using trained = await loadModel(checkpoint ?? '')
    for (const task of source.warmup(10)) {
      const prompt = trained.tokenizer.encode(task.prompt)
      const [{ text, ids, logps }] = await trained.generate(prompt, { temperature: 0, maxNewTokens: 12 })
      t.equal(text, task.answer, `learned ${task.prompt}`)
      const again = await trained.logProbs([...prompt, ...ids])
      t.same(Array.from(again.subarray(prompt.length)), logps, 'the sampler saw what the trainer computes')
    }
  }
  using policy = await loadModel(base)
  const resumed = await train({ ...options, policy, perDeviceTrainBatchSize: 10, resume: true }).result
  t.equal(resumed.stepsDone, 0, 'a finished run has nothing to do')
  policy.dispose()
  t.equal(await liveBytes(), before, 'all memory came back')
})

t.test('refusals name the place', async (t) => {
  using policy = await loadModel(base)
  const run = (extra: object) => train({ policy, objective: sft(), data, maxSteps: 1, ...extra }).result
  await t.rejects(run({ lerningRate: 1 }), { code: 'E_CONFIG', where: 'lerningRate', message: /learningRate/ })
  await t.rejects(run({ learningRate: -1 }), { code: 'E_CONFIG', where: 'learningRate' })
  await t.rejects(run({ data: join(folder, 'none.jsonl') }), { code: 'E_IO' })
  await t.rejects(run({ data: [{ text: 5 }] }), { code: 'E_FORMAT', where: 'row 1' })
  await t.rejects(run({ data: [{ prompt: '1+1=', completion: '' }], maxLength: 4 }), {
    code: 'E_FORMAT',
    where: 'row 1',
  })
  await t.rejects(run({ output: join(folder, 'run') }), { code: 'E_CONFIG', message: /--resume/ })
})
