// Self-Rationalization: judgements with grades, which of them are pairs, and a judge that learns from its own.

import { join } from 'node:path'
import t from 'tap'
import { mean } from '../ts/src/base/stats.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { answerReader } from '../ts/train/loop/answers.js'
import { graded, judgementStatistics, majorityGrade } from '../ts/train/loop/grades.js'
import { recipes } from '../ts/train/recipes/index.js'
import { judgementPairs } from '../ts/train/recipes/self-rationalization.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { temporaryFolder } from './support.js'
import { trace } from './support-traces.js'

const folder = await temporaryFolder(t)

/** Judgements of one thing, with its label. */
const judgements = (id: string, label: number | undefined, texts: readonly string[]) =>
  texts.map((text, i) => {
    const one = trace(id, i, [text])
    return { ...one, task: { ...one.task, ...(label !== undefined && { row: { label } }) } }
  })
const read = graded(answerReader('(-?\\d+(?:\\.\\d+)?)\\s*$'), 'label')

t.test('grades are the last number', async (t) => {
  const texts = ['two of 5 digits: 4', 'good 3.5 ', '-2', 'none', 'so 4: fine']
  const traces = read(judgements('a', 4, texts))
  t.same(
    traces.map(({ scores }) => scores.grade),
    [4, 3.5, -2, undefined, undefined],
  )
  t.ok(traces.every(({ scores }) => scores.label === 4))
  const cut = { ...judgements('a', 4, ['4'])[0], finishReason: 'length' as const }
  t.notOk('grade' in read([cut])[0].scores, 'what was cut off has not come to its grade')
  t.equal(majorityGrade(read(judgements('a', 4, ['2', '3', '3', 'x', '2']))), 2, 'of equals the first')
  t.equal(majorityGrade(read(judgements('a', 4, ['x']))), undefined)
})

t.test('pairs by label and by majority', async (t) => {
  const pairs = (pairBy: 'label' | 'majority', margin: number, texts: readonly string[], label?: number) =>
    judgementPairs({ pairBy, margin })(read(judgements('a', label, texts))).map(
      ({ segments, scores }) => `${segments[1].text} ${scores.pairing}`,
    )
  t.same(pairs('label', 2, ['r 4', 's 3', 't 1', 'u 4'], 4), ['r 4 1', 't 1 0'], 'the first right one, the farthest')
  t.same(pairs('label', 2, ['r 4', 's 3'], 4), ['r 4 0', 's 3 0'], 'nearer than the margin: no pair')
  t.same(pairs('label', 1, ['r 4', 's 3'], 4), ['r 4 1', 's 3 0'])
  t.same(pairs('label', 2, ['s 3', 't 1'], 4), ['s 3 0', 't 1 0'], 'none is right')
  t.same(pairs('label', 2, ['r 4', 'x'], 4), ['r 4 1', 'x 0'], 'what cannot be read is farther than any')
  t.same(pairs('majority', 2, ['a 1', 'b 5', 'c 5']), ['b 5 1', 'a 1 0'], 'no label is needed')
  t.same(pairs('majority', 2, ['x', 'y']), ['x 0', 'y 0'])
  t.throws(() => pairs('label', 2, ['r 4', 's 3']), { code: 'E_CONFIG', where: 'a' })
})

t.test('how judgements agree', async (t) => {
  const traces = read([...judgements('a', 4, ['4', '4', '2', 'x']), ...judgements('b', 1, ['1', '3'])])
  const values = judgementStatistics(traces)
  t.equal(values['grades/read'], 5 / 6)
  t.equal(values['grades/mae'], (2 + 2) / 5)
  t.equal(values['grades/right'], 3 / 5)
  // Shares: 2/3 twice and right, 1/3 wrong; 1/2 right and 1/2 wrong.
  t.ok(Math.abs(values['grades/calibration_error'] - (2 * (1 / 3) + 1 / 3 + 0) / 5) < 1e-12)
  t.same(judgementStatistics(read(judgements('a', undefined, ['4']))), { 'grades/read': 1 })
})

t.test('a judge learns from its own judgements', async (t) => {
  const base = join(folder, 'judge')
  const size = { seed: 7, hiddenSize: 16, layers: 1, heads: 2, intermediateSize: 32 }
  await makeTaskModel(base, { characters: '123=' } as never, size)
  using policy = await loadModel(base)
  const prompts = ['1=', '2=', '11=', '22=', '12=', '21='].map((prompt) => ({ prompt, label: 3 }))
  const settings = { learningRate: 1e-2, lrSchedulerType: 'constant', rounds: 30, promptsPerRound: 6, seed: 3 } as const
  const run = recipes.selfRationalization({
    ...{ policy, prompts, margin: 1, numGenerations: 8, maxCompletionLength: 4, perDeviceTrainBatchSize: 6 },
    ...settings,
  })
  const right: number[] = []
  for await (const event of run) if (event.type === 'round') right.push(event.values['grades/right'] ?? 0)
  await run.result
  const [early, late] = [mean(right.slice(0, 3)), mean(right.slice(-3))]
  t.ok(late > early + 0.3, `grades come closer to labels: ${early.toFixed(2)} to ${late.toFixed(2)}`)
})
