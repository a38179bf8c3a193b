// `whetstone eval OBJECTIVE`: the loss and statistics of a model on a file of rows, as `train` reports them of rows held out.

import { createProgress } from '../../src/base/progress.js'
import { commandLine } from '../config/resolve.js'
import type { RunSettings } from '../config/run-settings.js'
import { evaluateRows } from '../evaluate.js'
import { type AddCommand, needed, print } from './common.js'
import { addDeviceFlags } from './device.js'
import type { Options } from './flags.js'
import { loadPolicy, loadReference } from './models.js'
import { addObjectives, settingsOf } from './settings.js'
import { createShow } from './show.js'

/** Adds the command. */
export const evaluateCommand: AddCommand = (program) => {
  const command = program
    .command('eval')
    .description('loss and statistics of a model on rows, without training; one subcommand per objective')
  const describe = (objective: string) => `evaluate a model on rows, with the options of train ${objective}`
  addObjectives(command, describe, runEvaluate, addDeviceFlags)
}

/** The rows: `evalData`, or `data` where there is none or the command line says so itself. */
function rowsOf({ run: { data, evalData }, all: { origins } }: RunSettings): string {
  const asked = origins.data === commandLine && origins.evalData !== commandLine
  return needed(asked ? data : (evalData ?? data), 'data')
}

async function runEvaluate(name: string, options: Options): Promise<void> {
  const settings = await settingsOf(name, options)
  const { run, training: values, objective, lora } = settings
  const data = rowsOf(settings)
  const progress = createProgress(process.stderr, options.json === true)
  const show = createShow(progress)
  const warn = (message: string) => show({ type: 'warning', message })
  const models = { run, lora, scoreLabels: objective.needs.values, seed: values.seed, warn }
  using policy = await loadPolicy(models)
  using reference = await loadReference(models, policy)
  const given = { policy, reference: reference?.decoder, objective, data, limit: run.limit, values, warn }
  const { rows, loss, stats } = await evaluateRows(given)
  progress.end()
  if (options.json === true)
    return print(JSON.stringify({ objective: name, model: run.model, data, rows, loss, stats }))
  print(`${name} of ${run.model} on ${rows} rows of ${data}`)
  for (const [what, value] of Object.entries({ loss, ...stats })) print(`  ${what.padEnd(28)} ${value.toFixed(6)}`)
}
