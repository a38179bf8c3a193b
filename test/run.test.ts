// A job in progress as its caller sees it: who gets which events, what leaving them means, and that no failure is lost.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { type Emit, type Run, startRun, type TrainEvent } from '../ts/train/events.js'

const tick = () => new Promise((resolve) => setTimeout(resolve, 1))

/** A job of some warnings, one at a time, that fails at the end when it is told to. */
const job = (failure?: Error): Run<string> =>
  startRun(async (emit: Emit) => {
    for (const message of ['a', 'b', 'c']) {
      emit({ type: 'warning', message })
      await tick()
    }
    if (failure !== undefined) throw failure
    return 'done'
  })

const textOf = (event: TrainEvent): string => (event.type === 'warning' ? event.message : event.type)

async function follow(run: Run<string>, most = Number.POSITIVE_INFINITY): Promise<string> {
  let seen = ''
  for await (const event of run) {
    seen += textOf(event)
    if (seen.length >= most) break
  }
  return seen
}

/** Runs `work` and gives what was rejected without anybody's notice. */
async function lostIn(work: () => Promise<unknown>): Promise<unknown[]> {
  const lost: unknown[] = []
  const note = (error: unknown) => lost.push(error)
  const others = process.listeners('unhandledRejection')
  process.removeAllListeners('unhandledRejection')
  process.on('unhandledRejection', note)
  await work()
  for (let i = 0; i < 10; i++) await tick()
  process.off('unhandledRejection', note)
  for (const other of others) process.on('unhandledRejection', other)
  return lost
}

t.test('who iterates when gets what', async (t) => {
  const run = job()
  t.same(await Promise.all([follow(run), follow(run)]), ['abc', 'abc'], 'at once: everything, however many they are')
  t.equal(await run.result, 'done')
  t.equal(await follow(run), '', 'behind the end nothing')
  const late = job()
  await tick()
  t.match(await follow(late), /^b?c$/, 'later: what follows')
})

t.test('leaving the events leaves the job alone', async (t) => {
  const run = job()
  t.equal(await follow(run, 1), 'a')
  t.equal(await run.result, 'done')
  const failed = new Error('late')
  const lost = await lostIn(async () => follow(job(failed), 1))
  t.same(lost, [failed], 'and what goes wrong behind that is not lost')
})

t.test('a failure reaches whoever looks, and only nobody else', async (t) => {
  const failure = new Error('failed')
  t.same(await lostIn(async () => t.rejects(follow(job(failure)), failure, 'in the loop')), [])
  t.same(await lostIn(async () => t.rejects(job(failure).result, failure, 'in the result')), [])
  const both = async () => {
    const run = job(failure)
    await t.rejects(follow(run), failure)
    await t.rejects(run.result, failure)
    await t.rejects(follow(run), failure, 'and in a loop behind the end')
  }
  t.same(await lostIn(both), [])
  t.same(await lostIn(async () => job(failure)), [failure], 'nobody looked: an unhandled rejection')
})

t.test('training that nobody watches ends the process when it fails', async (t) => {
  const module = (path: string) => JSON.stringify(pathToFileURL(join(import.meta.dirname, '..', 'ts', path)).href)
  const program = `import { sft } from ${module('loss/index.js')}; import { train } from ${module('train/train.js')}
    train({ objective: sft(), data: 'rows.jsonl' })`
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })
  t.equal(status, 1)
  t.match(stderr, /\[train\.policy\] expected what loadModel\(\) gives/)
})
