// Suite `start`: a fresh process from its beginning to the end of the first training step of the 0.8M model: Node, the
// package, the addon, weights, one step. Processes per second, so that more is better, as in every row.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { packageRoot } from '../ts/src/native/addon.js'
import { getDevice } from '../ts/src/native/device.js'
import { type BenchOptions, race, timed } from './harness.js'
import { benchShapes, shapeWords } from './models.js'

const program = join(packageRoot(), 'dist', 'bench', 'first-step.js')

async function start(dtype: string, threads: number): Promise<void> {
  const env = { ...process.env, WHETSTONE_THREADS: String(threads), WHETSTONE_DEVICE: getDevice().name }
  const { status, stderr } = spawnSync(process.execPath, [program, dtype], { env, encoding: 'utf8' })
  if (status !== 0) throw new WhetstoneError('E_INTERNAL', 'start', `the process ended with ${status}\n${stderr}`)
}

/** One row per type and number of threads. */
export async function benchStart(options: BenchOptions): Promise<void> {
  const [shape] = benchShapes
  const device = getDevice()
  for (const dtype of options.dtypes)
    for (const threads of options.threads) {
      const result = await race({ ours: { run: timed(() => start(dtype, threads)), amount: 1 } }, options.rounds)
      const subject = { suite: 'start', name: 'first step 0.8M', shape: shapeWords(shape), dtype, threads }
      options.report({ ...subject, isa: device.level, unit: 'starts/s', ...result })
    }
}
