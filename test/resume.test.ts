// Stopping and resuming: at every step, behind damage, behind kill -9, the run ends with the bits of one that was never
// stopped. What cannot be resumed exactly is refused.

import { execFile, spawn } from 'node:child_process'
import { appendFile, cp, mkdir, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { newestCheckpoint } from '../ts/train/checkpoint/load.js'
import { lockRun } from '../ts/train/checkpoint/lock.js'
import { saveCheckpoint } from '../ts/train/checkpoint/save.js'
import { randomOf, temporaryFolder } from './support.js'
import { type RunOutcome, runToy, toyPlan } from './support-run.js'

const child = join(import.meta.dirname, 'support-run.js')
const total = 12
const whole = await runToy()

/** The run ended like the one that was never stopped. */
function same(t: Test, outcome: RunOutcome, what: string): void {
  t.equal(outcome.hash, whole.hash, what)
  t.equal(outcome.stopped, false)
  for (const [step, loss] of outcome.losses)
    if (loss !== whole.losses.get(step)) t.fail(`${what}: loss of step ${step}`)
}

/** Process id of a process that is gone. */
async function deadProcess(): Promise<number> {
  const gone = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
  await new Promise((resolve) => gone.once('exit', resolve))
  return gone.pid ?? 0
}

t.test('stopped at every step', async (t) => {
  const folder = await temporaryFolder(t)
  for (let stopAt = 0; stopAt < total; stopAt++) {
    const directory = join(folder, String(stopAt))
    const first = await runToy({ directory, stopAt })
    t.match(first, { step: stopAt, stepsDone: stopAt, stopped: true }, `stopped at ${stopAt}`)
    const second = await runToy({ directory })
    t.equal(second.stepsDone, total - stopAt, 'only the rest is done')
    same(t, second, `stopped at ${stopAt} and resumed`)
  }
  const finished = await runToy({ directory: join(folder, '5') })
  t.match(finished, { step: total, stepsDone: 0, stopped: false }, 'a finished run does nothing')
  t.equal(finished.hash, whole.hash)
  t.match(finished.checkpoint, /step-00000012$/)
})

t.test('stopped behind every step of one run', async (t) => {
  const variants = [
    {},
    { dtype: 'bf16' },
    { dtype: 'bf16', optimizer: { stochasticRounding: true } },
    { tied: false, activationCheckpointing: true },
  ] as const
  for (const toy of variants) {
    const directory = join(await temporaryFolder(t), 'run')
    const expected = await runToy({ toy })
    const losses = new Map<number, number>()
    let last: RunOutcome | undefined
    for (let step = 1; step <= total; step++) {
      last = await runToy({ directory, stopAt: step, toy })
      t.equal(last.stepsDone, 1)
      for (const [at, loss] of last.losses) losses.set(at, loss)
    }
    t.equal(last?.hash, expected.hash, `${JSON.stringify(toy)}: twelve processes, one run`)
    t.same(losses, expected.losses)
    t.same((await readdir(directory)).sort(), ['step-00000011', 'step-00000012'], 'two checkpoints are kept')
  }
})

t.test('what does not fit is refused', async (t) => {
  const directory = join(await temporaryFolder(t), 'run')
  await runToy({ directory, stopAt: 5 })
  const fingerprint = { seed: 1, batch: 5, objective: 'sft.v1' }
  const changes: [string, object][] = [
    ['seed', { ...fingerprint, seed: 2 }],
    ['objective', { ...fingerprint, objective: 'superhf.v1' }],
    ['kappa', { ...fingerprint, kappa: 0.1 }],
    ['batch', { seed: 1, objective: 'sft.v1' }],
  ]
  for (const [where, changed] of changes) {
    const phase = { fingerprint: changed as Record<string, unknown> }
    await t.rejects(runToy({ directory, phase }), { code: 'E_MISMATCH', where }, `changed ${where}`)
  }
  await t.rejects(
    runToy({ directory, toy: { dtype: 'bf16' } }),
    { code: 'E_MISMATCH', message: /dtype/ },
    'another dtype',
  )
  await t.rejects(runToy({ directory, toy: { tied: false } }), { code: 'E_MISMATCH', where: 'lm_head.weight' })
  await t.rejects(runToy({ directory, resume: false }), { code: 'E_CONFIG', message: /resume/ }, 'starting over it')
  same(t, await runToy({ directory }), 'and nothing was harmed')
})

type Damage = readonly [what: string, work: () => Promise<unknown>]

/** Ways to damage a file of a checkpoint. */
function damagesOf(path: string, size: number, name: string): Damage[] {
  const random = randomOf(`damage ${name}`)
  const edit = async (change: (bytes: Buffer) => void) => {
    const bytes = await readFile(path)
    change(bytes)
    await writeFile(path, bytes)
  }
  const flip = (): Damage => {
    const [at, bit] = [random.integer(size), random.integer(8)]
    const change = (bytes: Buffer) => {
      bytes[at] ^= 1 << bit
    }
    return [`bit ${bit} of byte ${at}`, () => edit(change)]
  }
  const middle = size >> 1
  const cuts = [...new Set([0, 1, 7, 8, middle, size - 1])].filter((length) => length < size)
  return [
    ...cuts.map((length): Damage => [`cut to ${length}`, () => truncate(path, length)]),
    ...[flip(), flip(), flip(), flip()],
    ['zeroed block', () => edit((bytes) => bytes.fill(0, middle, Math.min(size, middle + 4096)))],
    ['a byte more', () => appendFile(path, ' ')],
    ['deleted', () => rm(path)],
  ]
}

t.test('damaged checkpoints', async (t) => {
  const folder = await temporaryFolder(t)
  const intact = join(folder, 'intact')
  await runToy({ directory: intact, stopAt: 9 })
  const newest = 'step-00000009'
  const directory = join(folder, 'copy')
  const fresh = async () => {
    await rm(directory, { recursive: true, force: true })
    await cp(intact, directory, { recursive: true })
  }
  const warned: string[] = []
  const find = () => {
    warned.length = 0
    return newestCheckpoint(directory, (message) => warned.push(message))
  }
  t.equal((await newestCheckpoint(intact, t.fail))?.step, 9, 'the copies are of a sound run')

  await t.test('every file, in many ways', async (t) => {
    for (const name of await readdir(join(intact, newest))) {
      const size = (await readFile(join(intact, newest, name))).length
      for (const [what, damage] of damagesOf(join(directory, newest, name), size, name)) {
        await fresh()
        await damage()
        const found = await find()
        // White space behind the JSON is harmless, and only manifest.json has no recorded size.
        if (name === 'manifest.json' && ['a byte more', `cut to ${size - 1}`].includes(what)) continue
        if (found?.step !== 8 || warned.length !== 1 || !warned[0].includes(newest))
          t.fail(`${name}, ${what}: step ${found?.step}, ${warned}`)
        if (!(await readdir(directory)).includes(`.bad-${newest}`)) t.fail(`${name}, ${what}: not set aside`)
      }
      t.pass(name)
    }
    await fresh()
    const [a, b] = ['model.safetensors', 'optimizer.safetensors'].map((name) => join(directory, newest, name))
    await rename(a, `${a}.kept`)
    await rename(b, a)
    await rename(`${a}.kept`, b)
    t.equal((await find())?.step, 8, 'two files swapped')
  })

  await t.test('resumed from the one before', async (t) => {
    for (const [name, length] of [
      ['manifest.json', 10],
      ['optimizer.safetensors', 1000],
      ['state.json', 0],
    ] as const) {
      await fresh()
      await truncate(join(directory, newest, name), length)
      const outcome = await runToy({ directory })
      t.equal(outcome.stepsDone, 4)
      t.match(outcome.warnings, [/step-00000009 is damaged and was set aside/])
      same(t, outcome, `${name} cut`)
    }
  })

  await t.test('too much damage is an end, not a new start', async (t) => {
    await fresh()
    await rm(join(directory, newest, 'state.json'))
    await rm(join(directory, 'step-00000008', 'model.safetensors'))
    await t.rejects(runToy({ directory }), { code: 'E_TORN', message: /model\.safetensors/ }, 'both damaged')
    await t.rejects(runToy({ directory }), { code: 'E_TORN' }, 'and again')
    await fresh()
    await rm(join(directory, 'step-00000008'), { recursive: true })
    await truncate(join(directory, newest, 'manifest.json'), 3)
    await t.rejects(runToy({ directory }), { code: 'E_TORN', message: /manifest\.json/ }, 'the only one damaged')
  })

  await t.test('the same step damaged again', async (t) => {
    await fresh()
    for (const _ of [1, 2]) {
      await truncate(join(directory, newest, 'state.json'), 0)
      t.equal((await find())?.step, 8)
      await runToy({ directory, stopAt: 9 })
    }
    t.equal((await find())?.step, 9)
    for (const name of await readdir(directory))
      if (!name.startsWith('.')) await rm(join(directory, name), { recursive: true })
    await t.rejects(find(), { code: 'E_TORN', message: /only \.bad-step-00000009/ }, 'only damaged ones are left')
  })

  await t.test('manifests that lie', async (t) => {
    const path = join(directory, newest, 'manifest.json')
    const manifest = JSON.parse(await readFile(join(intact, newest, 'manifest.json'), 'utf8'))
    const lies: [string, object, RegExp][] = [
      ['another version', { version: 2 }, /version 1, got 2/],
      ['another step', { step: 8 }, /step, got 8/],
      ['no files', { files: null }, /table of files/],
      [
        'a path',
        { files: { ...manifest.files, '../step-00000008/state.json': { bytes: 1, sha256: '' } } },
        /file name/,
      ],
    ]
    for (const [what, lie, message] of lies) {
      await fresh()
      await writeFile(path, JSON.stringify({ ...manifest, ...lie }))
      t.equal((await find())?.step, 8, what)
      t.match(warned[0], message)
    }
  })

  await t.test('leftovers', async (t) => {
    await fresh()
    const dead = await deadProcess()
    const left = [`.tmp-${dead}-12`, `.trash-${dead}-step-00000004`, `.tmp-${process.pid}-3`]
    const living = spawn(process.execPath, ['-e', 'setInterval(() => 0, 1000)'], { stdio: 'ignore' })
    t.teardown(() => living.kill())
    const others = [`.tmp-${living.pid}-12`, 'notes']
    for (const name of [...left, ...others]) await mkdir(join(directory, name, 'inner'), { recursive: true })
    t.equal((await find())?.step, 9)
    const names = await readdir(directory)
    t.same(
      left.filter((name) => names.includes(name)),
      [],
      'of dead processes go',
    )
    t.same(
      others.filter((name) => names.includes(name)),
      others,
      'of living ones stay',
    )
    t.equal(await newestCheckpoint(join(folder, 'nothing here'), t.fail), undefined)
  })
})

t.test('saves that fail', async (t) => {
  const folder = await temporaryFolder(t)
  const modelDirectory = join(folder, 'model')
  await mkdir(join(modelDirectory, 'config.json'), { recursive: true })
  const contents = { step: 3, files: {}, state: {}, modelDirectory, saveTotalLimit: 1 }
  const half = join(folder, 'half')
  await saveCheckpoint(half, { ...contents, step: 2, modelDirectory: folder })
  await t.rejects(
    saveCheckpoint(half, contents),
    { code: 'E_PATH', message: /config\.json/ },
    'in the middle of a save',
  )
  t.same(await readdir(half), ['step-00000002'], 'the one before stands and nothing else is left')
  /** In place of the checkpoint folder lies a file when the given steps have been made. */
  const run = (name: string, blocked: readonly number[]) => {
    const directory = join(folder, name)
    const plan = async (step: number) => {
      if (blocked.includes(step + 1)) {
        await rm(directory, { recursive: true, force: true })
        await writeFile(directory, 'in the way')
      } else if (blocked.includes(step)) await rm(directory)
      return toyPlan(step)
    }
    return runToy({ directory, phase: { plan, saveSteps: 2 } })
  }
  const once = await run('once', [2])
  same(t, once, 'one failed save does not stop training')
  t.match(once.warnings, [/step 2 was not saved/])
  await t.rejects(run('twice', [2, 3, 4]), { code: 'E_IO' }, 'two in a row do')
  await t.rejects(run('last', [12]), { code: 'E_IO' }, 'the last one must work')
})

t.test('one process per folder', async (t) => {
  const directory = await temporaryFolder(t)
  const release = await lockRun(directory)
  await t.rejects(lockRun(directory), { code: 'E_CONFIG', message: new RegExp(`process ${process.pid}`) }, 'ourselves')
  const script = `import { lockRun } from '${join(import.meta.dirname, '..', 'ts', 'train', 'checkpoint', 'lock.js')}'
    try { await lockRun(process.argv[1]); console.log('held'); setInterval(() => {}, 1000) } catch (e) { console.log(e.message) }`
  const start = async () => {
    const other = spawn(process.execPath, ['--input-type=module', '-e', script, directory], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const said = await new Promise<string>((resolve) => other.stdout.once('data', (chunk) => resolve(String(chunk))))
    return { other, said }
  }
  t.match((await start()).said, `in use by process ${process.pid}`, 'a second process is refused')
  await release()
  const { other, said } = await start()
  t.match(said, 'held')
  await t.rejects(lockRun(directory), { code: 'E_CONFIG', message: new RegExp(`process ${other.pid}`) })
  other.kill('SIGKILL')
  await new Promise((resolve) => other.once('exit', resolve))
  const again = await lockRun(directory)
  await again()
  t.same(await readdir(directory), [], 'a dead lock is taken over and nothing stays')
  // An earlier process may have had our id.
  await writeFile(join(directory, '.lock'), String(process.pid))
  await (await lockRun(directory))()
})

t.test('kill -9', async (t) => {
  const steps = 60
  const directory = join(await temporaryFolder(t), 'run')
  const expected = await runToy({ totalSteps: steps })
  const random = randomOf('kills')
  let kills = 0
  for (let i = 0; i < 10; i++) {
    const run = spawn(process.execPath, [child, directory, String(steps)], { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    const delay = random.integer(200)
    run.stdout.on('data', (chunk) => {
      if (output === '') setTimeout(() => run.kill('SIGKILL'), delay)
      output += chunk
    })
    const signal = await new Promise((resolve) => run.once('close', (_, name) => resolve(name)))
    if (signal === 'SIGKILL') kills++
    const lines = output.split('\n').slice(0, -1)
    t.comment(`kill ${i}: ${delay} ms behind ${lines[0]}, last ${lines.at(-1)}`)
    for (const line of lines) {
      const [what, step, loss] = line.split(' ')
      if (what === 'warning') t.fail(line)
      if (what === 'step' && Number(loss) !== expected.losses.get(Number(step))) t.fail(`another loss: ${line}`)
    }
  }
  const { stdout } = await promisify(execFile)(process.execPath, [child, directory, String(steps)])
  t.match(stdout, `end ${expected.hash} `, 'the bits of the uninterrupted run')
  t.ok(kills > 2, `${kills} kills`)
  const again = await promisify(execFile)(process.execPath, [child, directory, String(steps)])
  t.match(again.stdout, `end ${expected.hash} 0`)
  const names = await readdir(directory)
  t.same(
    names.filter((name) => !name.startsWith('step-')),
    [],
    'nothing is left of the killed',
  )
})
