// `whetstone train OBJECTIVE`: settings, models and rows in, a run folder out. What training does is train.ts.

import { WhetstoneError } from '../../src/base/errors.js'
import { createProgress } from '../../src/base/progress.js'
import { type LanguageModel, loadModel } from '../../src/generate/language-model.js'
import { describeConfig } from '../config/resolve.js'
import type { RunOptions, RunSettings } from '../config/run-settings.js'
import { type TrainResult, train } from '../train.js'
import { type AddCommand, print, untilSignal } from './common.js'
import type { Options } from './flags.js'
import { aboutObjective, addObjectives, settingsOf } from './settings.js'
import { show } from './show.js'

/** Adds the command. */
export const trainCommand: AddCommand = (program) => {
  const command = program.command('train').description('train a model on rows; one subcommand per objective')
  addObjectives(command, aboutObjective, runTrain)
  for (const own of command.commands) own.option('--resume', 'go on with the run in the output folder')
}

/** A setting of the run that training cannot do without. */
function needed(run: RunOptions, key: 'data' | 'output'): string {
  const value = run[key]
  if (value !== undefined) return value
  throw new WhetstoneError('E_CONFIG', `--${key}`, 'expected a value, got none; a config file may give it')
}

async function runTrain(objective: string, options: Options): Promise<void> {
  const settings = await settingsOf(objective, options)
  const output = needed(settings.run, 'output')
  const json = options.json === true
  const progress = createProgress(process.stderr, json)
  if (!json) progress.note(describeConfig(settings.all))
  const { run } = settings
  using policy = await loadModel(run.model, { dtype: run.dtype })
  using reference = run.reference === undefined ? undefined : await loadModel(run.reference, { dtype: run.dtype })
  const signal = untilSignal()
  try {
    const result = await follow(
      settings,
      { policy, reference, output, resume: options.resume === true, signal },
      (event) => show(progress, event),
    )
    progress.end()
    printResult(result, json)
  } catch (error) {
    progress.end()
    if (!signal.aborted || !WhetstoneError.isInstance(error) || error.code !== 'E_ABORTED') throw error
    progress.note(`stopped; the same command with --resume goes on (${output})`)
  }
}

interface Models {
  readonly policy: LanguageModel
  readonly reference: LanguageModel | undefined
  readonly output: string
  readonly resume: boolean
  readonly signal: AbortSignal
}

async function follow(
  { run, sources, objective, all }: RunSettings,
  { policy, reference, output, resume, signal }: Models,
  onEvent: (event: Parameters<typeof show>[1]) => void,
): Promise<TrainResult> {
  const training = train({
    policy,
    reference: reference?.decoder,
    objective,
    data: needed(run, 'data'),
    evalData: run.evalData,
    output,
    resume,
    signal,
    sources,
    record: kept(all),
  })
  for await (const event of training) onEvent(event)
  return await training.result
}

/** What the run folder keeps: everything but its own place. */
function kept({ values: { output: _, ...values }, origins }: RunSettings['all']): RunSettings['all'] {
  return { values, origins }
}

function printResult(result: TrainResult, json: boolean): void {
  const loss = result.metrics.loss === undefined ? '' : `loss ${result.metrics.loss.toFixed(4)}; `
  print(json ? JSON.stringify(result) : `${loss}checkpoint: ${result.checkpoint}`)
}
