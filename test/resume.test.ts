// Exact resume: a phase that was stopped at any step, or whose process was killed, ends with the bits of one that was
// not. Damaged checkpoints are found before anything is restored.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cp, open, readdir, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { readBytes } from '../ts/src/io/files.js'
import { stepFolder } from '../ts/train/checkpoint/manifest.js'
import { microBatchOf } from '../ts/train/data/micro-batch.js'
import { createWalk } from '../ts/train/data/plan.js'
import { type PhaseResult, runPhase } from '../ts/train/loop.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { createTask } from '../ts/train/tasks/index.js'
import { createTrainer, disposeTrainer } from '../ts/train/trainer.js'
import { temporaryFolder } from './support.js'

const totalSteps = 12
const source = createTask('arithmetic', { seed: 1, difficulty: 2 })

/** Runs the toy phase in `folder`; stops after `stopAfter` steps of this process. */
async function run(
  base: string,
  folder: string,
  options: { stopAfter?: number; resume?: boolean; fingerprint?: object; warnings?: string[] } = {},
): Promise<PhaseResult> {
  using model = await loadModel(base, { dtype: 'f32' })
  const optimizer = { adamBeta1: 0.9, adamBeta2: 0.99, adamEpsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 }
  const trainer = createTrainer({ policy: model.decoder, objective: sft(), optimizer })
  const rows = source.warmup(40).map(({ prompt, answer }) => {
    const head = model.tokenizer.encode(prompt)
    const ids = [...head, ...model.tokenizer.encode(answer), 1]
    return { ids, trained: Uint8Array.from(ids, (_, i) => Number(i >= head.length)) }
  })
  const walk = createWalk(rows.length, 1, 'resume')
  const controller = new AbortController()
  let steps = 0
  try {
    return await runPhase({
      name: 'toy',
      model,
      trainer,
      schedule: { learningRate: 1e-3, lrSchedulerType: 'cosine', warmupSteps: 2, totalSteps },
      plan: async (step) => [microBatchOf(walk(step * 8, 8).map((row) => rows[row]))],
      directory: folder,
      fingerprint: { seed: 1, ...options.fingerprint },
      saveSteps: 3,
      resume: options.resume ?? false,
      signal: controller.signal,
      emit: (event) => {
        if (event.type === 'warning') options.warnings?.push(event.message)
        if (event.type === 'step' && ++steps === options.stopAfter) controller.abort()
      },
    })
  } finally {
    disposeTrainer(trainer)
  }
}

/** Hash of weights and moments behind the last step. */
async function hashOf(folder: string): Promise<string> {
  const hash = createHash('sha256')
  for (const name of ['model.safetensors', 'optimizer.safetensors'])
    hash.update(await readBytes(join(folder, stepFolder(totalSteps), name)))
  return hash.digest('hex')
}

if (process.argv[2] === 'child') {
  await run(process.argv[3], process.argv[4], { resume: true })
  process.exit(0)
}

const root = await temporaryFolder(t)
const base = join(root, 'base')
await makeTaskModel(base, source, { seed: 1, hiddenSize: 32, layers: 2, heads: 2, intermediateSize: 64 })
const whole = join(root, 'whole')
await run(base, whole)
const expected = await hashOf(whole)

t.test('stopped at every step and resumed: equal bits', async (t) => {
  for (let stopAfter = 1; stopAfter < totalSteps; stopAfter++) {
    const folder = join(root, `stop-${stopAfter}`)
    const first = await run(base, folder, { stopAfter })
    t.same([first.stopped, first.step], [true, stopAfter], `stopped at ${stopAfter}`)
    const second = await run(base, folder, { resume: true })
    t.equal(second.stepsDone, totalSteps - stopAfter, 'goes on where it was')
    t.equal(await hashOf(folder), expected, `bits behind a stop at ${stopAfter}`)
  }
})

t.test('stopped after each single step', async (t) => {
  const folder = join(root, 'single')
  await run(base, folder, { stopAfter: 1 })
  for (let i = 1; i < totalSteps; i++) await run(base, folder, { stopAfter: 1, resume: true })
  t.equal(await hashOf(folder), expected)
})

t.test('a finished run does zero steps, another configuration is refused by name', async (t) => {
  const again = await run(base, whole, { resume: true })
  t.same([again.step, again.stepsDone, again.stopped], [totalSteps, 0, false])
  t.equal(await hashOf(whole), expected)
  await t.rejects(run(base, whole, { resume: true, fingerprint: { seed: 2 } }), { code: 'E_MISMATCH', where: 'seed' })
})

type Damage = (file: string) => Promise<void>

const flipBit: Damage = async (file) => {
  const handle = await open(file, 'r+')
  const at = Math.floor((await stat(file)).size / 2)
  const byte = Buffer.alloc(1)
  await handle.read(byte, 0, 1, at)
  byte[0] ^= 4
  await handle.write(byte, 0, 1, at)
  await handle.close()
}

const damages: Readonly<Record<string, Damage>> = {
  empty: (file) => truncate(file, 0),
  // One byte would take a line's end only, which changes nothing in a manifest.
  'two bytes short': async (file) => truncate(file, (await stat(file)).size - 2),
  'half of it': async (file) => truncate(file, Math.floor((await stat(file)).size / 2)),
  'one bit flipped': flipBit,
  missing: (file) => rm(file),
}

t.test('a damaged newest checkpoint: the one before is taken, and the end has the same bits', async (t) => {
  const stopped = join(root, 'stopped')
  await run(base, stopped, { stopAfter: 7 })
  const newest = stepFolder(7)
  for (const file of await readdir(join(stopped, newest)))
    for (const [name, damage] of Object.entries(damages)) {
      const folder = join(root, 'damaged')
      await rm(folder, { recursive: true, force: true })
      await cp(stopped, folder, { recursive: true })
      await damage(join(folder, newest, file))
      const warnings: string[] = []
      const { stepsDone } = await run(base, folder, { resume: true, warnings })
      t.equal(stepsDone, totalSteps - 6, `${file}: ${name}`)
      t.match(warnings.join('\n'), newest, 'says which')
      t.equal(await hashOf(folder), expected, `${file}: ${name}, bits`)
    }
})

t.test('all checkpoints damaged: an error, never a restart; leftovers are swept', async (t) => {
  const folder = join(root, 'torn')
  await run(base, folder, { stopAfter: 7 })
  await writeFile(join(folder, '.tmp-999999999-8'), 'left behind')
  for (const step of [6, 7]) await damages.empty(join(folder, stepFolder(step), 'state.json'))
  await t.rejects(run(base, folder, { resume: true }), { code: 'E_TORN' })
  t.notOk((await readdir(folder)).includes('.tmp-999999999-8'), 'swept')
  t.notOk((await readdir(folder)).includes(stepFolder(3)), 'nothing was trained')
  await t.resolves(stat(join(folder, stepFolder(6))), 'what is left stays where it is')
  await rename(folder, join(root, 'looked-at'))
})

t.test('killed at random moments and started again: equal bits', async (t) => {
  const folder = join(root, 'killed')
  let delay = 350
  for (let kills = 0; kills < 10; kills++, delay += 45) {
    const child = spawn(process.execPath, [process.argv[1], 'child', base, folder], { stdio: 'ignore' })
    const timer = setTimeout(() => child.kill('SIGKILL'), delay)
    await new Promise((resolve) => child.on('exit', resolve))
    clearTimeout(timer)
  }
  await run(base, folder, { resume: true })
  t.equal(await hashOf(folder), expected)
})
