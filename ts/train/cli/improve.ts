// `whetstone improve`: the main job, its run folder and its result as text.

import { join } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { createProgress } from '../../src/base/progress.js'
import { exists } from '../../src/io/files.js'
import { catalogueOf } from '../config/catalogue.js'
import { resolveConfig } from '../config/resolve.js'
import { type ImproveResult, improve } from '../improve.js'
import { improveOptions, taskPresets } from '../improve-options.js'
import { writeReport } from '../report/report.js'
import { openRun } from '../run-folder.js'
import { type AddCommand, print, printStopped, textOf, untilSignal } from './common.js'
import { addDeviceFlags } from './device.js'
import { addFlags, type Options, readFlags } from './flags.js'
import { createShow } from './show.js'

const catalogue = catalogueOf([{ name: '', title: 'Settings', schema: improveOptions }])

/** Adds the command. */
export const improveCommand: AddCommand = (program) => {
  const command = program
    .command('improve')
    .description('make a small model, warm it up, let it train itself, and compare with a control')
    .option('--output <folder>', 'run folder [runs/improve-TASK-seedN]')
    .option('--resume', 'go on with the run in the folder')
    .option('--json', 'print one JSON object as the last line')
    .action((options: Options) => runImprove(options))
  addFlags(addDeviceFlags(command), catalogue)
}

/** A folder under runs/ that is free, NAME or NAME-2 and so on; when resuming, the newest of them. */
async function runName(name: string, resume: boolean): Promise<string> {
  const path = (count: number) => join('runs', count === 1 ? name : `${name}-${count}`)
  let count = 1
  while (await exists(path(count))) count++
  return path(resume && count > 1 ? count - 1 : count)
}

function configOf(options: Options) {
  const sources = readFlags(catalogue, options).map(({ setting, value, origin }) => ({
    origin,
    values: { [setting.key]: value },
  }))
  const task = String(options.task ?? 'arithmetic')
  return resolveConfig(improveOptions, [{ origin: `preset of ${task}`, values: taskPresets[task] ?? {} }, ...sources])
}

async function runImprove(options: Options): Promise<void> {
  const config = configOf(options)
  const resume = options.resume === true
  const given = textOf(options, 'output')
  if (given === '') throw new WhetstoneError('E_CONFIG', '--output', "expected the name of a folder, got ''")
  const output = given ?? (await runName(`improve-${config.values.task}-seed${config.values.seed}`, resume))
  const progress = createProgress(process.stderr, options.json === true)
  const show = createShow(progress)
  const warn = (message: string) => show({ type: 'warning', message })
  const folder = await openRun(output, config, resume, warn)
  let result: ImproveResult | undefined
  try {
    result = await improve(config, {
      output,
      resume,
      signal: untilSignal(),
      emit: (event) => {
        folder.log(event)
        show(event)
      },
    })
  } finally {
    progress.end()
    await folder.close()
  }
  const report = await writeReport(output)
  if (result === undefined) printStopped(progress, output, options.json === true)
  else printResult(result, report, options.json === true)
}

function printResult(result: ImproveResult, report: string, json: boolean): void {
  if (json) {
    print(JSON.stringify(result))
    return
  }
  const row = (name: string, { accuracy, low, high }: ImproveResult['final']) =>
    print(
      `${name.padEnd(24)} ${(100 * accuracy).toFixed(1)}%  (${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`,
    )
  print(`held-out accuracy on ${result.heldOut} ${result.task} tasks, 95% intervals`)
  row('after warm-up', result.warmup)
  row('control: more SFT', result.control)
  row('after self-training', result.final)
  print(`${result.seconds.toFixed(0)} s; report: ${report}`)
}
