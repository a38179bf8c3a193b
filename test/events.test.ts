// What a run writes as it goes: the metrics log against kills, torn lines and full disks; progress against closed pipes.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { openMetrics, readMetrics } from '../ts/src/base/events.js'
import {
  bytesText,
  createProgress,
  duration,
  emphasized,
  fitted,
  hasColor,
  type ProgressStream,
  stepLine,
  withoutControls,
} from '../ts/src/base/progress.js'
import { parseJson } from '../ts/src/io/json.js'
import { temporaryFolder } from './support.js'

const module = (name: string): string =>
  JSON.stringify(pathToFileURL(join(import.meta.dirname, '..', 'ts', 'src', 'base', `${name}.js`)).href)

// The metrics log ------------------------------------------------------------------------------------------------------

const valuesOf = (path: string): unknown[] => readMetrics(path, parseJson).map(({ value }) => value)
const step = (phase: string, n: number) => ({ type: 'step', phase, step: n, loss: 1 / n })

t.test('records come back in order, with their places', async (t) => {
  const path = join(await temporaryFolder(t), 'metrics.jsonl')
  const records = [{ type: 'start', text: 'line\nbreak, ü, \u2028, 😀' }, step('a', 1), { loss: Number.NaN }]
  const log = openMetrics(path, parseJson)
  for (const record of records) log.log(record)
  t.equal(readMetrics(path, parseJson).length, 3, 'readable before it is closed')
  log.close()
  t.same(valuesOf(path), [records[0], records[1], { loss: null }])
  const [, second] = readMetrics(path, parseJson)
  t.same([second.line, second.byteOffset], [2, readFileSync(path).indexOf(0x0a) + 1])
})

t.test('a log cut at any byte is read and continued', async (t) => {
  const path = join(await temporaryFolder(t), 'metrics.jsonl')
  const log = openMetrics(path, parseJson)
  const records = [step('ü', 1), step('ü', 2), step('ü', 3)]
  for (const record of records) log.log(record)
  log.close()
  const bytes = readFileSync(path)
  for (let cut = 0; cut <= bytes.byteLength; cut++) {
    writeFileSync(path, bytes.subarray(0, cut))
    const whole = records.slice(0, bytes.subarray(0, cut).filter((byte) => byte === 0x0a).length)
    const before = valuesOf(path)
    const again = openMetrics(path, parseJson)
    again.log({ type: 'end' })
    again.close()
    const after = valuesOf(path)
    if (JSON.stringify([before, after]) !== JSON.stringify([whole, [...whole, { type: 'end' }]]))
      t.fail(`cut at ${cut}`)
  }
  t.pass(`${bytes.byteLength + 1} cuts`)
})

t.test('going on from a step drops what will be redone', async (t) => {
  const path = join(await temporaryFolder(t), 'metrics.jsonl')
  const records = [
    step('warmup', 1),
    step('warmup', 2),
    step('warmup', 3),
    step('round', 1),
    { type: 'checkpoint', step: 1 },
    step('round', 2),
    { type: 'round', round: 2 },
    step('round', 3),
  ]
  const lines = records.map((record) => `${JSON.stringify(record)}\n`).join('')
  const kept = (options: object): unknown[] => {
    writeFileSync(path, `${lines}{"type":"st`)
    openMetrics(path, parseJson, options).close()
    return valuesOf(path)
  }
  t.same(kept({}), records, 'only the torn line goes')
  t.same(kept({ keepUntilStep: 1, phase: 'round' }), records.slice(0, 5), 'steps of other phases do not count')
  t.same(kept({ keepUntilStep: 0, phase: 'round' }), records.slice(0, 3))
  t.same(kept({ keepUntilStep: 1 }), records.slice(0, 1))
  t.same(kept({ keepUntilStep: 3 }), records)
  t.same(kept({ keepUntilStep: 0, phase: 'other' }), records)
})

t.test('damaged logs are refused by line; missing ones too', async (t) => {
  const folder = await temporaryFolder(t)
  const path = join(folder, 'metrics.jsonl')
  t.throws(() => readMetrics(path, parseJson), { code: 'E_IO' })
  t.throws(() => openMetrics(join(folder, 'none', 'metrics.jsonl'), parseJson), { code: 'E_IO' })
  writeFileSync(path, '{"step":1}\n{"step":\n{"step":3}\n')
  t.throws(() => readMetrics(path, parseJson), { code: 'E_FORMAT', where: `${path}:2` })
  t.throws(() => openMetrics(path, parseJson, { keepUntilStep: 5 }), { code: 'E_FORMAT' })
  writeFileSync(path, '{"step":1}\n')
  appendFileSync(path, Buffer.from([0x7b, 0xff, 0x7d, 0x0a]))
  t.throws(() => readMetrics(path, parseJson), { code: 'E_FORMAT', where: `${path}:2` })
})

t.test('a killed writer leaves every line that it logged', async (t) => {
  const path = join(await temporaryFolder(t), 'metrics.jsonl')
  // It never closes its log and never ends by itself. It rests between lines and stops at 5000 of them: however late the
  // kill comes on a busy machine, the log stays small.
  const program = `import { openMetrics } from ${module('events')}
    const log = openMetrics(process.argv[1], JSON.parse)
    const rest = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
    for (let step = 1; step <= 5000; step++) {
      log.log({ step, text: 'x'.repeat(step % 500) })
      process.stdout.write(step + '\\n')
      if (step % 10 === 0) rest(1)
    }
    rest(60_000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let told = ''
  child.stdout.on('data', (data) => {
    told += data
    if (told.length > 3000) child.kill('SIGKILL')
  })
  const [, signal] = await once(child, 'close')
  t.equal(signal, 'SIGKILL')
  const last = Number(told.split('\n').at(-2))
  const values = valuesOf(path) as { step: number }[]
  t.ok(values.length >= last && last > 100, `${last} told, ${values.length} found`)
  t.ok(values.every((value, i) => value.step === i + 1))
})

t.test('a full disk is an error and tears no line', { skip: !existsSync('/bin/bash') }, async (t) => {
  const path = join(await temporaryFolder(t), 'metrics.jsonl')
  const program = `import { openMetrics } from ${module('events')}
    process.on('SIGXFSZ', () => {})
    const log = openMetrics(process.argv[1], JSON.parse)
    try { for (let step = 1; ; step++) log.log({ step, text: 'x'.repeat(300) }) }
    catch (error) { process.stdout.write(error.code) }`
  const command = 'ulimit -f 1; exec "$0" --input-type=module -e "$1" "$2"'
  const child = spawnSync('/bin/bash', ['-c', command, process.execPath, program, path], { encoding: 'utf8' })
  t.equal(child.stdout, 'E_IO', child.stderr)
  t.equal(readFileSync(path).at(-1), 0x0a)
  t.equal(valuesOf(path).length, 3)
})

// Progress -------------------------------------------------------------------------------------------------------------

/** A stream that remembers. */
function fakeStream(facts: Partial<ProgressStream> = {}) {
  const written: string[] = []
  const listeners: ((error: Error) => void)[] = []
  const stream: ProgressStream = {
    ...facts,
    write: (text) => written.push(text),
    on: (_event, listener) => listeners.push(listener),
  }
  const fail = () => {
    for (const listener of listeners) listener(new Error('write EPIPE'))
  }
  return { stream, written, fail }
}

t.test('texts', async (t) => {
  const facts = {
    phase: 'round',
    step: 12,
    totalSteps: 400,
    loss: 0.04123,
    tokensPerSecond: 17_900.4,
    secondsLeft: 185,
  }
  t.equal(stepLine(facts), 'round 12/400  loss 0.0412  17900 tokens/s  3 min 5 s left')
  t.equal(
    stepLine({ ...facts, reward: 0.7131, kl: 0.0214, memoryBytes: 78_249_984 }),
    'round 12/400  loss 0.0412  reward 0.713  kl 0.021  17900 tokens/s  74.6 MiB  3 min 5 s left',
  )
  t.equal(
    stepLine({ ...facts, tokensPerSecond: Number.POSITIVE_INFINITY, secondsLeft: Number.NaN }),
    'round 12/400  loss 0.0412  ? tokens/s  ? left',
  )
  t.same([0, 59.4, 59.6, 3599, 3600, 7440, -1, Number.POSITIVE_INFINITY].map(duration), [
    '0 s',
    '59 s',
    '1 min 0 s',
    '59 min 59 s',
    '1 h 0 min',
    '2 h 4 min',
    '0 s',
    '?',
  ])
  t.same([0, 1023, 1024, 12.3 * 2 ** 20, 2 ** 40].map(bytesText), ['0 B', '1023 B', '1.0 KiB', '12.3 MiB', '1.0 TiB'])
  t.equal(fitted('short', 80), 'short')
  t.equal(fitted('0123456789', 8), '012345…', 'one column stays free, so that no terminal wraps')
  t.equal(withoutControls('a\u001b[31m\u0007b\nc\u009b'), 'a?[31m?b\nc?')
  t.equal(emphasized('round 1/2', true), '\u001b[1mround\u001b[22m 1/2')
  t.equal(emphasized('round 1/2', false), 'round 1/2')
})

t.test('colours follow NO_COLOR and the terminal', async (t) => {
  t.ok(hasColor({ isTTY: true }, {}))
  t.ok(hasColor({ isTTY: true }, { NO_COLOR: '' }), 'empty counts as unset')
  t.notOk(hasColor({ isTTY: true }, { NO_COLOR: '1' }))
  t.notOk(hasColor({ isTTY: true }, { TERM: 'dumb' }))
  t.notOk(hasColor({}, {}))
})

t.test('a terminal has one live line', async (t) => {
  const { stream, written } = fakeStream({ isTTY: true, columns: 20 })
  const progress = createProgress(stream, false, { env: {} })
  progress.update('round 1/9')
  progress.update('round 2/9  a long line that must not wrap')
  progress.note('kept')
  progress.end()
  t.same(written, [
    '\r\u001b[2K\u001b[1mround\u001b[22m 1/9',
    '\r\u001b[2K\u001b[1mround\u001b[22m 2/9  a long …',
    '\r\u001b[2K',
    'kept\n',
  ])
  const unsized = fakeStream({ isTTY: true, columns: 0 })
  createProgress(unsized.stream, false, { env: { NO_COLOR: '1' } }).update('round 1/9')
  t.same(unsized.written, ['\r\u001b[2Kround 1/9'], 'a terminal that does not say how wide it is')
  const plain = fakeStream({ isTTY: true })
  createProgress(plain.stream, false, { env: { NO_COLOR: '1' } }).update('round 1/9')
  t.same(plain.written, ['\r\u001b[2Kround 1/9'])
})

t.test('off a terminal a plain line every few seconds', async (t) => {
  for (const facts of [{}, { isTTY: true }]) {
    const { stream, written } = fakeStream(facts)
    let clock = 0
    const progress = createProgress(stream, false, { now: () => clock, env: { TERM: 'dumb' } })
    for (; clock <= 12_000; clock += 1000) progress.update(`at ${clock}`)
    progress.note('kept')
    progress.end()
    progress.end()
    t.same(written, ['at 0\n', 'at 5000\n', 'at 10000\n', 'kept\n', 'at 12000\n'])
  }
})

t.test('quiet writes nothing; a failed stream is left alone', async (t) => {
  const silent = fakeStream({ isTTY: true })
  const quiet = createProgress(silent.stream, true, { env: {} })
  quiet.update('a')
  quiet.note('b')
  quiet.end()
  t.same(silent.written, [])

  const broken = fakeStream()
  const progress = createProgress(broken.stream, false, { env: {} })
  progress.note('before')
  broken.fail()
  progress.note('after')
  createProgress(broken.stream, false, { env: {} }).note('also after')
  t.same(broken.written, ['before\n'])
  const throwing = createProgress({ write: () => JSON.parse('') }, false, { env: {} })
  t.doesNotThrow(() => throwing.note('a'))
})

t.test('a closed pipe does not end the process', async (t) => {
  const program = `import { createProgress } from ${module('progress')}
    const progress = createProgress(process.stderr)
    let left = 50
    const timer = setInterval(() => {
      progress.note('x'.repeat(5000))
      if (--left > 0) return
      clearInterval(timer)
      process.stdout.write('done')
    }, 2)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'pipe'] })
  child.stderr.once('data', () => child.stderr.destroy())
  let out = ''
  child.stdout.on('data', (data) => {
    out += data
  })
  const [code] = await once(child, 'close')
  t.same([code, out], [0, 'done'])
})
