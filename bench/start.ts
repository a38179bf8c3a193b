// Suite `start`: a fresh process from its beginning to the end of the first training step of the 0.8M model (Node, the package
// joined as it is shipped, the addon, weights, one step), the same from the import of the package on, and `whetstone --help`
// as it is shipped beside the same modules one by one.
// Processes per second, so that more is better, as in every row.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { packageRoot } from '../ts/src/native/addon.js'
import { getDevice } from '../ts/src/native/device.js'
import { type BenchOptions, race, timed } from './harness.js'
import { benchShapes, shapeWords } from './models.js'

const programs = join(packageRoot(), 'dist')

async function start(args: readonly string[], threads = 1): Promise<string> {
  const env = { ...process.env, WHETSTONE_THREADS: String(threads), WHETSTONE_DEVICE: getDevice().name }
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: programs, env, encoding: 'utf8' })
  if (status !== 0) throw new WhetstoneError('E_INTERNAL', 'start', `the process ended with ${status}\n${stderr}`)
  return stdout
}

async function benchHelp({ rounds, report }: BenchOptions): Promise<void> {
  const side = (file: string) => ({ run: timed(() => start([file, '--help'])), amount: 1 })
  const peer = { ...side('ts/train/cli/main.js'), name: 'module by module' }
  const subject = { suite: 'start', name: 'whetstone --help', shape: 'dist/bundle/cli.js', dtype: '', threads: 1 }
  const result = await race({ ours: side('bundle/cli.js'), peer }, rounds)
  report({ ...subject, isa: getDevice().level, unit: 'starts/s', ...result })
}

/** The command line, then two rows per type and number of threads. */
export async function benchStart(options: BenchOptions): Promise<void> {
  await benchHelp(options)
  const [shape] = benchShapes
  const device = getDevice()
  for (const dtype of options.dtypes)
    for (const threads of options.threads) {
      const firstStep = () => start(['bundle-own/first-step.js', dtype], threads)
      const ways = {
        'first step 0.8M': timed(firstStep),
        'first step 0.8M, from import': async () => Number(await firstStep()) / 1000,
      }
      for (const [name, run] of Object.entries(ways)) {
        const result = await race({ ours: { run, amount: 1 } }, options.rounds)
        const subject = { suite: 'start', name, shape: shapeWords(shape), dtype, threads }
        options.report({ ...subject, isa: device.level, unit: 'starts/s', ...result })
      }
    }
}
