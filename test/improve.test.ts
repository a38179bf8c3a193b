// The main job from its start model to its report, small, on the command line: all phases run, and rounds learn from samples.
// Settings that no schedule can be made of are refused before anything is.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { commandLine, words } from './support-cli.js'

t.setTimeout(120_000)
const { folder, run, eventsOf } = await commandLine(t)

const model = '--hiddenSize 32 --layers 1 --heads 2 --intermediateSize 64'
const phases =
  '--sftTasks 300 --sftSteps 200 --rounds 2 --tasksPerRound 32 --stepsPerRound 2 --batchSize 32 --warmupSteps 2'
const command = `improve --difficulty 2 ${model} ${phases} --heldOut 100 --evalTasks 8`

t.test('warm-up, rounds, control, report', async (t) => {
  const { code, out, err } = await run(...words(`${command} --json --output job`))
  t.equal(code, 0, err)
  const result = JSON.parse(out)
  for (const phase of ['warmup', 'control', 'final'])
    t.ok(result[phase].low <= result[phase].accuracy && result[phase].accuracy <= result[phase].high, phase)
  t.match(result, { task: 'arithmetic', seed: 1, heldOut: 100, run: 'job' })
  const events = await eventsOf('job')
  const stepsOf = (phase: string) => events.filter((event) => event.type === 'step' && event.phase === phase).length
  t.same([stepsOf('warmup'), stepsOf('round'), stepsOf('control')], [200, 4, 4])
  t.equal(events.filter(({ type }) => type === 'round').length, 2)
  t.ok(existsSync(join(folder, 'job', 'report.html')))
})

t.test('a schedule that cannot be', async (t) => {
  const { code, err } = await run(...words(`${command} --lrSchedulerType cosineWithMinLr --output none`))
  t.equal(code, 1)
  t.match(err, /^E_CONFIG \[lrSchedulerKwargs\] expected either minLr or minLrRate/m)
  t.notOk(existsSync(join(folder, 'none', 'base')), 'nothing is made')
})
