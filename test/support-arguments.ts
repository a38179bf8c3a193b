// What arguments-table.ts makes its calls of: a folder to work in, models, rows, tasks and traces.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import * as api from '../ts/src/index.js'
import { golden } from './support.js'

/** A public function with a call that works. Kinds are those of arguments.test.ts. */
export interface Entry {
  readonly call: (...args: never[]) => unknown
  readonly args: readonly unknown[]
  /** Kinds of `wrong` that are fair as argument N, separated by blanks. */
  readonly fair?: Readonly<Record<number, string>>
  /** Options of argument N with the kinds that are fair; leaving one out is fair too, unless its name ends in `!`. */
  readonly options?: Readonly<Record<number, Readonly<Record<string, string>>>>
  /** Arguments whose further members belong to somebody else; all others refuse what they do not know. */
  readonly open?: readonly number[]
}

export const model = resolve(golden('smollm'))
export const folder = mkdtempSync(join(tmpdir(), 'whetstone-arguments-'))
const home = process.cwd()
process.chdir(folder)
t.teardown(() => {
  process.chdir(home)
  rmSync(folder, { recursive: true, force: true })
})

let made = 0
export const fresh = () => join(folder, `out-${made++}`)
export const policy = await api.loadModel(model, { device: 'cpu' })
export const frozen = await api.loadModel(model, { device: 'cpu' })
export const scorer = await api.loadModel(model, { device: 'cpu', scoreLabels: 1 })
export const { tokenizer, decoder } = policy
export const adapted = api.withAdapter(decoder, { r: 2 })
export const saved = fresh()
await api.saveAdapter(adapted, saved, model)
export const row = { prompt: '2 + 2 =', completion: ' 4' }
export const rows = [row, { ...row, completion: ' 5' }]
export const pairs = [{ prompt: '2 + 2 =', chosen: ' 4', rejected: ' 5' }]
export const placed = rows.map((one, i) => ({ row: one, where: `row ${i + 1}` }))
export const source = api.createTask('arithmetic', { seed: 1, difficulty: 1 })
export const [task] = source.train(1)
export const trace = {
  task,
  sample: 0,
  segments: [
    { role: 'prompt', text: 'a', ids: [3] },
    { role: 'completion', text: 'b', ids: [4], logps: [-1] },
  ],
  finishReason: 'stop',
  scores: { reward: 1 },
}
export const context = { policy, seed: 1, round: 1 }
export const emit = () => undefined
export const reward = Object.assign(
  ({ completions }: { completions: unknown[] }) => completions.map((_, i) => i % 2),
  {},
)
export const loop = {
  policy,
  tasks: () => source.train(2),
  explore: api.sampleGroup({ numGenerations: 1, maxNewTokens: 2 }),
  score: async (traces: readonly api.Trace[]) => traces.map((one) => ({ ...one, scores: { reward: 1 } })),
  select: api.pick(),
  update: {
    objective: api.sft(),
    optimizer: { adamBeta1: 0.9, adamBeta2: 0.99, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 },
    schedule: { learningRate: 0, lrSchedulerType: 'constant' as const, warmupSteps: 0 },
    stepsPerRound: 1,
    batchSize: 2,
  },
  rounds: 1,
  seed: 1,
  emit,
}
export const finished = fresh()
await api.train({ policy, objective: api.sft(), data: rows, maxSteps: 1, learningRate: 0, output: finished }).result
export const sequence = { logps: Float64Array.of(-1), role: 'completion', example: 0 }
