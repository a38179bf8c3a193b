// `whetstone estimate OBJECTIVE`: the memory that `train` with the same options would need, as a table or as JSON.

import { WhetstoneError } from '../../src/base/errors.js'
import { bytesText } from '../../src/base/progress.js'
import { onlineCatalogue, onlineTrainers } from '../config/online-settings.js'
import { estimateMemory, type MemoryEstimate } from '../estimate.js'
import { estimateOnline } from '../estimate-online.js'
import { type AddCommand, print } from './common.js'
import { addDeviceFlag } from './device.js'
import { addFlags, type Options } from './flags.js'
import { isTied, onlineSettingsOf, promptSource } from './online.js'
import { addObjectives, addTrainer, settingsOf } from './settings.js'

/** Adds the command. */
export const estimateCommand: AddCommand = (program) => {
  const command = program
    .command('estimate')
    .description('predict the memory of a training run before it starts; one subcommand per objective')
  const describe = (name: string) => `memory of train ${name} with the same options`
  addObjectives(command, describe, runEstimate, addDeviceFlag)
  for (const name of Object.keys(onlineTrainers))
    addTrainer(command, name, {
      description: describe(name),
      flags: (own) => addFlags(addDeviceFlag(own), onlineCatalogue(name)),
      run: (options) => runOnlineEstimate(name, options),
    })
}

async function runEstimate(objective: string, options: Options): Promise<void> {
  const settings = await settingsOf(objective, options)
  const { run, training, objective: own, lora } = settings
  const { output, lora: isFresh, ...models } = run
  const estimate = await estimateMemory({ ...models, training, objective: own, lora })
  if (options.json === true) return print(JSON.stringify(estimate))
  const { sequences, tokens, trainedTokens } = estimate.batch
  const largest = `largest micro-batch: ${sequences} sequences, ${tokens} tokens (a shared prompt counts once), ${trainedTokens} trained`
  printTable(`train ${objective} on ${run.model} in ${estimate.dtype}\n${largest}`, estimate)
}

async function runOnlineEstimate(trainer: string, options: Options): Promise<void> {
  const settings = await onlineSettingsOf(trainer, options)
  const { run, values } = settings
  const { recipe, acts = run.env === true } = onlineTrainers[trainer]
  if (acts)
    throw new WhetstoneError(
      'E_CONFIG',
      trainer,
      'expected samples, got episodes: how long they get is not known before',
    )
  const prompts = promptSource(run, Number(values.seed))
  const estimate = await estimateOnline({ recipe, settings, prompts, tied: isTied(trainer, settings) })
  if (options.json === true) return print(JSON.stringify(estimate))
  const { samples, promptTokens, completionTokens } = estimate.round
  const round = `a round: ${samples} samples of ${completionTokens} tokens behind prompts of up to ${promptTokens}`
  printTable(`train ${trainer} on ${run.model} in ${estimate.dtype}\n${round}`, estimate)
}

type Table = Pick<MemoryEstimate, 'peakBytes' | 'rows' | 'besideBytes' | 'hostBytes'>

function printTable(head: string, { peakBytes, rows, besideBytes, hostBytes }: Table): void {
  const line = (name: string, bytes: number) => print(`  ${name.padEnd(44)} ${bytesText(bytes).padStart(10)}`)
  print(head)
  for (const { name, bytes } of rows) line(name, bytes)
  line('peak of the device', peakBytes)
  print('beside it, about:')
  line('blocks kept for use again, kernel scratch', besideBytes)
  line('host memory of rows and of a checkpoint', hostBytes)
}
