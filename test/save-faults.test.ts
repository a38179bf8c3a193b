// Saving a checkpoint when the system refuses, takes less than it was given, or the process is killed: at every file
// operation in turn. Whatever happens, the newest checkpoint is whole, and the next save leaves nothing else behind.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { cp, mkdir, readdir, rm, truncate } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import t, { type Test } from 'tap'
import { sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { attempt, faults } from '../ts/src/io/files.js'
import { newestCheckpoint } from '../ts/train/checkpoint/load.js'
import { type CheckpointContents, saveCheckpoint } from '../ts/train/checkpoint/save.js'
import { readMetrics } from '../ts/train/run-folder.js'
import { train } from '../ts/train/train.js'
import { golden, temporaryFolder } from './support.js'
import { runToy } from './support-run.js'

t.setTimeout(280_000)

interface Operation {
  readonly operation: string
  readonly path: string
}

const entry = (name: string, bytes: number, value: number) => ({
  name,
  dtype: 'F32' as const,
  shape: [bytes / 4],
  data: new Uint8Array(bytes).fill(value),
})

const contentsOf = (step: number): CheckpointContents => ({
  step,
  files: {
    'model.safetensors': [entry('a', 400, step), entry('b', 40, step)],
    'optimizer.safetensors': [entry('m', 80, step)],
  },
  state: { step },
  texts: { 'notes.json': '{}\n' },
  modelDirectory: resolve(golden('smollm')),
  saveTotalLimit: 1,
})

const folder = await temporaryFolder(t)
const first = join(folder, 'first')
await saveCheckpoint(first, contentsOf(1))
let copies = 0

/** A folder with the checkpoint of step 1. */
async function fresh(): Promise<string> {
  const directory = join(folder, `run-${copies++}`)
  await cp(first, directory, { recursive: true })
  return directory
}

/** Runs with hooks. */
async function under<R>(hooks: Partial<typeof faults>, work: () => Promise<R>): Promise<R> {
  Object.assign(faults, hooks)
  try {
    return await work()
  } finally {
    Object.assign(faults, { before: undefined, room: undefined })
  }
}

/** The operations of a piece of work. */
async function recorded(work: () => Promise<unknown>): Promise<Operation[]> {
  const seen: Operation[] = []
  await under({ before: (operation, path) => void seen.push({ operation, path }) }, work)
  return seen
}

const codes = ['EIO', 'ENOSPC', 'EDQUOT', 'EROFS', 'EACCES', 'EMFILE']
const refusal = (code: string): Error => Object.assign(new Error(code), { code })

/** The newest checkpoint holds what was saved for its step. */
async function newestStep(t: Test, directory: string, what: string): Promise<number | undefined> {
  const found = await newestCheckpoint(directory, (message) => t.fail(`${what}: ${message}`))
  const tensors = await found?.tensors('model.safetensors')
  const bytes = await tensors?.read('a').finally(() => tensors.close())
  if (bytes?.every((byte) => byte === found?.step) !== true) t.fail(`${what}: other bytes than were saved`)
  return found?.step
}

const operations = await recorded(async () => saveCheckpoint(await fresh(), contentsOf(2)))
const published = operations.findIndex(({ operation }) => operation === 'publish')

t.test('every operation refused, once and from then on', async (t) => {
  t.ok(operations.length > 30, `${operations.length} operations`)
  for (const forEver of [false, true])
    for (const [at, { operation }] of operations.entries()) {
      const code = codes[(at + Number(forEver)) % codes.length]
      const what = `${code} at ${at}, ${operation}${forEver ? ', for ever' : ''}`
      const directory = await fresh()
      let count = 0
      const before = () => {
        const now = count++
        if (now === at || (forEver && now > at)) throw refusal(code)
      }
      const error = await under({ before }, () => saveCheckpoint(directory, contentsOf(2))).catch((e) => e)
      if (error.code !== 'E_IO' || error.details.code !== code || !error.message.includes('cannot'))
        t.fail(`${what}: ${error}`)
      if (at <= published) t.same(await readdir(directory), ['step-00000001'], what)
      const again = join(folder, 'again')
      await cp(directory, again, { recursive: true })
      t.equal(await newestStep(t, again, what), at <= published ? 1 : 2, 'the newest loads')
      t.notOk(
        (await readdir(again)).some((name) => name.startsWith('.')),
        'and sweeps what is left',
      )
      await rm(again, { recursive: true })
      await saveCheckpoint(directory, contentsOf(3))
      t.same(await readdir(directory), ['step-00000003'], `${what}: the next save`)
    }
})

t.test('short writes', async (t) => {
  for (const most of [1, 7, 100]) {
    const directory = await fresh()
    await under({ room: (bytes) => Math.min(most, bytes) }, () => saveCheckpoint(directory, contentsOf(2)))
    t.equal(await newestStep(t, directory, `${most} bytes`), 2)
  }
})

t.test('the disk fills after any number of bytes', async (t) => {
  let total = 0
  const count = (bytes: number) => {
    total += bytes
    return bytes
  }
  await under({ room: count }, async () => saveCheckpoint(await fresh(), contentsOf(2)))
  for (let part = 0; part < 40; part++) {
    const full = Math.floor((part * total) / 40)
    const directory = await fresh()
    let left = full
    const room = (bytes: number) => {
      if (left === 0) throw refusal('ENOSPC')
      const taken = Math.min(bytes, left)
      left -= taken
      return taken
    }
    await t.rejects(
      under({ room }, () => saveCheckpoint(directory, contentsOf(2))),
      { code: 'E_IO', message: /the disk is full/ },
      `${full} of ${total} bytes`,
    )
    t.same(await readdir(directory), ['step-00000001'])
    t.equal(await newestStep(t, directory, `${full} bytes`), 1)
    await saveCheckpoint(directory, contentsOf(2))
    t.same(await readdir(directory), ['step-00000002'], 'and when there is room again')
  }
})

t.test('nothing is published that is not durable', async (t) => {
  const order = operations.map(({ operation, path }) => `${operation} ${basename(path)}`)
  const temporary = dirname(operations.find(({ operation }) => operation === 'create')?.path ?? '')
  const files = new Set(operations.flatMap(({ operation, path }) => (operation === 'create' ? [basename(path)] : [])))
  for (const name of files) {
    const [written, synced] = [order.lastIndexOf(`write ${name}`), order.indexOf(`sync ${name}`)]
    t.ok(written < synced && synced < published, `${name} is synced behind its last write and before publication`)
  }
  t.equal([...files].at(-1), 'manifest.json', 'the manifest comes last')
  const folders = operations.flatMap(({ operation, path }, i) => (operation === 'sync the folder' ? [{ path, i }] : []))
  t.ok((folders.find(({ path }) => path === temporary)?.i ?? published) < published, 'the folder before')
  t.equal(folders.at(-1)?.i, published + 1, 'the folder above right behind')
  t.ok(order.findIndex((one) => one.startsWith('retire')) > published + 1, 'older ones go last')
})

const modules = join(import.meta.dirname, '..', 'ts')
const killer = `import { faults } from '${modules}/src/io/files.js'
  import { saveCheckpoint } from '${modules}/train/checkpoint/save.js'
  import { newestCheckpoint } from '${modules}/train/checkpoint/load.js'
  const [, what, at, directory, contents] = process.argv
  const parsed = JSON.parse(contents, (key, value) => (key === 'data' ? Uint8Array.from(Object.values(value)) : value))
  let count = 0
  const reads = /^(open|read|look at|resolve|list)/
  faults.before = (operation) => {
    if (!reads.test(operation) && count++ === Number(at)) process.kill(process.pid, 'SIGKILL')
  }
  if (what === 'save') await saveCheckpoint(directory, parsed)
  else await newestCheckpoint(directory, () => undefined)`

/** A process that is killed before operation `at`, those that only read left out; its signal, null when it came to its end. */
async function killed(what: 'save' | 'load', at: number, directory: string): Promise<NodeJS.Signals | null> {
  const args = ['--input-type=module', '-e', killer, what, String(at), directory, JSON.stringify(contentsOf(2))]
  const child = spawn(process.execPath, args, { stdio: 'inherit' })
  const [, signal] = (await once(child, 'exit')) as [number, NodeJS.Signals | null]
  return signal
}

t.test('killed before every operation that changes something', async (t) => {
  const steps = new Set<number | undefined>()
  for (let at = 0; ; at++) {
    const directory = await fresh()
    if ((await killed('save', at, directory)) === null) {
      t.ok(at > 20, `${at} operations`)
      break
    }
    steps.add(await newestStep(t, directory, `killed at ${at}`))
    if ((await readdir(directory)).some((name) => name.startsWith('.'))) t.fail(`${at}: not swept`)
  }
  t.same([...steps], [1, 2], 'the old checkpoint, then the new one')
})

t.test('killed while recovering', async (t) => {
  const damaged = async () => {
    const directory = await fresh()
    await under({}, () => saveCheckpoint(directory, { ...contentsOf(2), saveTotalLimit: 2 }))
    await truncate(join(directory, 'step-00000002', 'state.json'), 0)
    for (const name of ['.tmp-999999999-3-aa', '.trash-999999999-4-bb'])
      await mkdir(join(directory, name, 'inner'), { recursive: true })
    return directory
  }
  for (let at = 0; ; at++) {
    const directory = await damaged()
    const signal = await killed('load', at, directory)
    const found = await newestCheckpoint(directory, () => undefined)
    t.equal(found?.step, 1, `killed at ${at}`)
    t.same((await readdir(directory)).sort(), ['.bad-step-00000002', 'step-00000001'])
    if (signal === null) break
  }
})

t.test('an old checkpoint that cannot be removed is a warning, and the new one counts', async (t) => {
  const directory = join(folder, 'toy')
  let refused = 0
  const before = (operation: string) => {
    if (operation === 'retire' && refused++ === 0) throw refusal('EACCES')
  }
  const run = await under({ before }, () => runToy({ directory, phase: { saveSteps: 2, saveTotalLimit: 1 } }))
  t.match(run.warnings, [/step 4 is saved, but an older checkpoint could not be removed/])
  t.equal(run.warnings.length, 1)
  t.same(await readdir(directory), ['step-00000012'], 'the next save removes it')
  await t.rejects(
    attempt('look', 'x', () => Promise.reject(refusal('EIO'))),
    { code: 'E_IO' },
    'the hooks are off',
  )
})

t.test('stopped right behind a save that failed: it is tried again', async (t) => {
  const directory = join(folder, 'stopped')
  let refused = 0
  const before = (operation: string) => {
    if (operation === 'create' && refused++ === 0) throw refusal('ENOSPC')
  }
  const first = await under({ before }, () => runToy({ directory, stopAt: 4 }))
  t.match(first.warnings, [/step 4 was not saved/])
  t.match(first.checkpoint, /step-00000004$/)
  const second = await runToy({ directory })
  t.equal(second.stepsDone, 8)
  t.equal(second.hash, (await runToy()).hash)
})

t.test('a log that the disk has no room for has a gap; the run goes on to its end', async (t) => {
  using policy = await loadModel(golden('smollm'))
  const data = [{ text: '2 + 2' }, { text: '2 + 3' }]
  const output = join(folder, 'logged')
  let count = 0
  const before = (operation: string, path: string) => {
    if (operation !== 'append to') return
    count++
    if (count !== 3 && count !== 4) return
    appendFileSync(path, '{"type":"st')
    throw refusal('ENOSPC')
  }
  const warnings: string[] = []
  const { step } = await under({ before }, async () => {
    const run = train({ policy, objective: sft(), data, maxSteps: 6, output })
    for await (const event of run) if (event.type === 'warning') warnings.push(event.message)
    return run.result
  })
  t.equal(step, 6)
  t.match(warnings, [/^an event was not logged.*disk is full/])
  t.equal(warnings.length, 1, 'told once')
  const logged = await readMetrics(output)
  t.equal(logged.length, count - 2, 'every other line is whole')
  t.equal(logged.at(-1)?.type, 'end')
})
