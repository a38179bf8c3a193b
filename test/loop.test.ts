// The self-training loop: killed at every point of a round it goes on with the same samples, the same selection and the
// same weights. Shards of samples, and the parts: select, score, statistics.

import { spawn } from 'node:child_process'
import { readdir, readFile, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import t, { type Test } from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import type { TrainEvent } from '../ts/train/events.js'
import { sampleGroup } from '../ts/train/loop/explore.js'
import { rollouts, tasksPerShard } from '../ts/train/loop/rollouts.js'
import { verify } from '../ts/train/loop/score.js'
import { pick } from '../ts/train/loop/select.js'
import { byTask, completionOf, type Trace } from '../ts/train/loop/trace.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import type { Task } from '../ts/train/tasks/index.js'
import { liveBytes, temporaryFolder } from './support.js'
import { filesOf, type Point, rounds, runLoop, source, stepsPerRound, tasksPerRound } from './support-loop.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTaskModel(base, source, { seed: 2, hiddenSize: 32, layers: 1, heads: 2, intermediateSize: 48 })

const task = (id: string): Task => ({ id, prompt: `${id}=`, answer: '' })

/** A trace with one completion. */
const trace = (id: string, sample: number, text: string, scores: Record<string, number> = {}): Trace => ({
  task: task(id),
  sample,
  segments: [
    { role: 'prompt', text: `${id}=`, ids: [1] },
    { role: 'completion', text, ids: [2] },
  ],
  finishReason: 'stop',
  scores,
})

t.test('killed anywhere', async (t) => {
  const events: TrainEvent[] = []
  const whole = join(folder, 'whole')
  const before = await liveBytes()
  const expected = await runLoop({ base, output: whole, onEvent: (event) => events.push(event) })
  t.equal(await liveBytes(), before, 'a run leaves no memory behind')
  t.match(expected, { step: rounds * stepsPerRound, stepsDone: rounds * stepsPerRound, stopped: false })
  const files = await filesOf(whole)
  t.equal(Object.keys(files).filter((name) => name.includes('samples-')).length, 4, 'two shards per round')
  const round = events.find(({ type }) => type === 'round')
  t.match(round, { values: { tasks: tasksPerRound, samples: 2 * tasksPerRound, unscored: 0 } })
  const kept = round?.type === 'round' ? round.values.kept : 0
  t.ok(kept > 10 && kept < tasksPerRound, `${kept} kept: the selection matters`)
  const memory = await runLoop({ base, options: { output: undefined } })
  t.equal(memory.hash, expected.hash, 'the same without files')

  const points: [Point, number][] = [
    ['explore', 0],
    ['explore', 3],
    ['sampling', 1],
    ['sampled', 0],
    ['scored', 2],
    ['selecting', 0],
    ['selected', 1],
    ['training', 0],
    ['training', 4],
    ['stepped', 1],
    ['stepped', 2],
    ['published', 0],
    ['evaluating', 0],
    ['stepped', 5],
    ['published', 1],
  ]
  for (const [point, number] of points) {
    const output = join(folder, `${point}-${number}`)
    const program = join(import.meta.dirname, 'support-loop.js')
    const child = spawn(process.execPath, [program, base, output, point, String(number)], { stdio: 'inherit' })
    const signal = await new Promise((resolve) => child.once('exit', (_, name) => resolve(name)))
    t.equal(signal, 'SIGKILL', `${point} ${number}: killed`)
    const { hash } = await runLoop({ base, output })
    t.equal(hash, expected.hash, `${point} ${number}: the same weights`)
    t.same(await filesOf(output), files, `${point} ${number}: the same samples, moments and state`)
  }
  const again = await runLoop({ base, output: whole })
  t.match(again, { stepsDone: 0, hash: expected.hash }, 'a finished run does nothing')
})

t.test('stopped by a signal', async (t) => {
  const expected = await runLoop({ base })
  const stops: [Point, number][] = [
    ['sampling', 0],
    ['stepped', 1],
    ['sampling', 2],
    ['evaluating', 0],
  ]
  for (const [point, number] of stops) {
    const output = join(folder, `signal-${point}-${number}`)
    const stop = new AbortController()
    const at = (name: Point, passed: number) => {
      if (name === point && passed === number) stop.abort()
    }
    const first = await runLoop({ base, output, at, options: { signal: stop.signal } })
    t.ok(first.stopped && first.step < rounds * stepsPerRound, `${point} ${number}: stopped at step ${first.step}`)
    const second = await runLoop({ base, output })
    t.equal(first.stepsDone + second.stepsDone, rounds * stepsPerRound)
    t.equal(second.hash, expected.hash, `${point} ${number}: the same weights`)
  }
})

t.test('what cannot be resumed', async (t) => {
  const output = join(folder, 'changed')
  const stop = new AbortController()
  const at = (name: Point, passed: number) => {
    if (name === 'stepped' && passed === 3) stop.abort()
  }
  await runLoop({ base, output, at, options: { signal: stop.signal } })
  const run = (options: object) => runLoop({ base, output, options })
  await t.rejects(run({ seed: 6 }), { code: 'E_MISMATCH', where: 'seed' })
  await t.rejects(run({ rounds: 3 }), { code: 'E_MISMATCH', where: 'rounds' })
  await t.rejects(run({ fingerprint: { task: 'other' } }), { code: 'E_MISMATCH', where: 'task' })
  await t.rejects(run({ tasks: () => source.train(tasksPerRound + 1).slice(1) }), {
    code: 'E_MISMATCH',
    message: /tasks/,
  })
  await t.rejects(run({ resume: false }), { code: 'E_CONFIG', message: /resume/ })
  const nothing = { select: () => [] }
  const other = runLoop({ base, options: nothing })
  await t.rejects(other, { code: 'E_VERIFIER', where: 'round 1', message: /none of 140 samples/ })
})

t.test('shards', async (t) => {
  const tasks = Array.from({ length: tasksPerShard * 2 + 5 }, (_, i) => task(`task ${i}`))
  const made: string[] = []
  const attempt = async (part: readonly Task[]) => {
    made.push(...part.map(({ id }) => id))
    return part.flatMap(({ id }) => [trace(id, 0, `a ${id} \u2028 ü`, { reward: 1 / 3 }), trace(id, 1, 'b')])
  }
  const store = { directory: join(folder, 'shards'), resume: true }
  const run = (round = 1, list = tasks) => rollouts(store, round, list, attempt)
  const first = await run()
  t.same(
    made,
    tasks.map(({ id }) => id),
    'every task once',
  )
  t.equal(first.length, 2 * tasks.length)
  t.same(await run(), first, 'read again as they were made')
  t.equal(made.length, tasks.length, 'nothing is made again')
  await run(2, tasks.slice(0, 3))
  t.equal(made.length, tasks.length + 3, 'another round has its own')
  t.same(await readdir(store.directory), ['round-001', 'round-002'])

  await t.test('of other tasks', async (t) => {
    const code = 'E_MISMATCH'
    await t.rejects(run(1, tasks.slice(1)), { code, message: /task 1'.*task 0/ }, 'others')
    await t.rejects(run(1, tasks.slice(0, -1)), { code }, 'fewer')
    await t.rejects(run(1, [...tasks, task('more')]), { code, message: /'more'/ }, 'more')
    const again = rollouts({ ...store, resume: false }, 1, tasks, attempt)
    await t.rejects(again, { code: 'E_CONFIG', message: /earlier run/ }, 'not asked to resume')
  })

  await t.test('damaged', async (t) => {
    const path = join(store.directory, 'round-001', 'samples-0001.json')
    const text = await readFile(path, 'utf8')
    await truncate(path, 100)
    await t.rejects(run(), { code: 'E_FORMAT', message: /samples-0001/ })
    await writeFile(path, '{"tasks": 5}')
    await t.rejects(run(), { code: 'E_FORMAT', message: /samples-0001/ })
    await writeFile(path, text.replace('"task":"task 64"', '"task":"task 1"'))
    await t.rejects(run(), { code: 'E_FORMAT', message: /task 1/ })
    await writeFile(path, text)
    t.same(await run(), first)
  })

  await t.test('an attempt that throws leaves nothing', async (t) => {
    const failing = async () => Promise.reject(new Error('out of luck'))
    await t.rejects(rollouts(store, 3, tasks, failing), { message: 'out of luck' })
    t.same(await readdir(store.directory), ['round-001', 'round-002'])
  })
})

/** Short names of traces: task, sample. */
const names = (traces: readonly Trace[]): string => traces.map(({ task, sample }) => `${task.id}${sample}`).join(' ')

t.test('pick', async (t) => {
  const traces = [
    trace('a', 0, 'x', { reward: 0.5 }),
    trace('b', 0, 'p', { reward: 1 }),
    trace('a', 1, 'y', { reward: 1 }),
    trace('a', 2, 'x', { reward: 0.9 }),
    trace('a', 3, 'z', { reward: 1 }),
    trace('b', 1, 'p', { reward: 1 }),
    trace('b', 2, 'q', { other: 3 }),
    trace('c', 0, 'w', { reward: 0 }),
  ]
  t.equal(names(pick()(traces)), 'a1 b0 c0', 'the best of each task, ties to the lower sample')
  t.equal(names(pick({ threshold: 0.9, perTask: 3 })(traces)), 'a1 a3 a2 b0', 'threshold; equal completions once')
  t.equal(names(pick({ threshold: 0.9, perTask: 3, distinct: false })(traces)), 'a1 a3 a2 b0 b1')
  t.equal(names(pick({ perTask: 9 })(traces)), 'a1 a3 a2 b0 c0', 'of equal texts the better one')
  t.equal(names(pick({ by: 'other' })(traces)), 'b2', 'another score; traces without it never')
  t.equal(names(pick({ threshold: 2 })(traces)), '')
  t.equal(names(traces), 'a0 b0 a1 a2 a3 b1 b2 c0', 'nothing is changed in place')
  t.same(byTask(traces).map(names), ['a0 a1 a2 a3', 'b0 b1 b2', 'c0'])
  t.equal(completionOf(traces[0]), 'x')
})

t.test('verify', async (t) => {
  const isRight = verify((_, completion) => ({ correct: completion === 'right' }))
  const cut = { ...trace('a', 3, 'right'), finishReason: 'length' as const }
  const scored = await isRight([trace('a', 0, 'right', { other: 2 }), trace('a', 1, 'wrong'), cut])
  t.same(
    scored.map(({ scores }) => scores),
    [{ other: 2, reward: 1 }, { reward: 0 }, { reward: 0 }],
  )

  const failing = (share: number) => {
    const check = verify((task) => {
      if (Number(task.id) < share) throw new Error('the checker broke')
      return { correct: true }
    })
    return check(Array.from({ length: 100 }, (_, i) => trace(String(i), 0, 'x')))
  }
  const some = await failing(5)
  t.equal(some.filter(({ scores }) => scores.reward === undefined).length, 5, 'five of a hundred go without a score')
  t.equal(pick()(some).length, 95, 'and are not picked')
  const error = { code: 'E_VERIFIER', message: /failed on 6 of 100 samples: the checker broke/ }
  await t.rejects(failing(6), error, 'six stop the loop')
  t.same(await isRight([]), [])
})

t.test('sampleGroup', async (t) => {
  using policy = await loadModel(base)
  const tasks = source.train(6)
  const explore = sampleGroup({ numGenerations: 3, maxNewTokens: 12 })
  const traces = await explore({ policy, seed: 1, round: 1 }, tasks)
  t.equal(traces.length, 18)
  t.same(
    traces.map(({ task, sample }) => [task.id, sample]),
    tasks.flatMap(({ id }) => [0, 1, 2].map((sample) => [id, sample])),
  )
  const [{ segments }] = traces
  t.match(segments, [{ role: 'prompt', text: tasks[0].prompt }, { role: 'completion' }])
  t.equal(segments[1].ids.length, segments[1].logps?.length)
  const alone = await explore({ policy, seed: 1, round: 1 }, tasks.slice(4, 5))
  t.same(alone, traces.slice(12, 15), 'a task alone has the samples that it has among others')
  const others = [
    await explore({ policy, seed: 2, round: 1 }, tasks),
    await explore({ policy, seed: 1, round: 2 }, tasks),
  ]
  for (const other of others) t.notOk(isDeepStrictEqual(other, traces), 'another seed or round has others')
})

t.test('a checker that breaks in the loop', async (t: Test) => {
  const events: TrainEvent[] = []
  let calls = 0
  const score = verify(() => {
    if (++calls % 50 === 0) throw new Error('now and then')
    return { correct: true }
  })
  await runLoop({ base, options: { score, rounds: 1 }, onEvent: (event) => events.push(event) })
  t.match(
    events.find(({ type }) => type === 'round'),
    { values: { unscored: 2 } },
    'is counted',
  )
  const broken = verify(() => {
    throw new Error('for good')
  })
  await t.rejects(runLoop({ base, options: { score: broken } }), { code: 'E_VERIFIER', message: /for good/ })
})
