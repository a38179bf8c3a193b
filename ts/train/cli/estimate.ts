// `whetstone estimate OBJECTIVE`: the memory that `train` with the same options would need, as a table or as JSON.

import { bytesText } from '../../src/base/progress.js'
import { estimateMemory, type MemoryEstimate } from '../estimate.js'
import { type AddCommand, print } from './common.js'
import { addDeviceFlag } from './device.js'
import type { Options } from './flags.js'
import { addObjectives, settingsOf } from './settings.js'

/** Adds the command. */
export const estimateCommand: AddCommand = (program) => {
  const command = program
    .command('estimate')
    .description('predict the memory of a training run before it starts; one subcommand per objective')
  addObjectives(
    command,
    (objective) => `memory of train ${objective} with the same options`,
    runEstimate,
    addDeviceFlag,
  )
}

async function runEstimate(objective: string, options: Options): Promise<void> {
  const settings = await settingsOf(objective, options)
  const { run, training, objective: own, lora } = settings
  const estimate = await estimateMemory({ ...run, training, objective: own, lora })
  if (options.json === true) return print(JSON.stringify(estimate))
  printTable(`train ${objective} on ${run.model}`, estimate)
}

function printTable(what: string, { peakBytes, rows, batch, besideBytes, hostBytes, dtype }: MemoryEstimate): void {
  const line = (name: string, bytes: number) => print(`  ${name.padEnd(44)} ${bytesText(bytes).padStart(10)}`)
  print(`${what} in ${dtype}`)
  print(
    `largest micro-batch: ${batch.sequences} sequences, ${batch.tokens} tokens (a shared prompt counts once), ${batch.trainedTokens} trained`,
  )
  for (const { name, bytes } of rows) line(name, bytes)
  line('peak of the device', peakBytes)
  print('beside it, about:')
  line('blocks kept for use again, kernel scratch', besideBytes)
  line('host memory of rows and of a checkpoint', hostBytes)
}
