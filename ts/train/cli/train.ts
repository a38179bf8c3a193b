// `whetstone train TRAINER`: settings, models and rows in, a run folder out. What training does is train.ts. Trainers that
// learn from the model's own samples are in online.ts.

import { loadModel } from '../../src/generate/language-model.js'
import { onlineCatalogue, onlineTrainers } from '../config/online-settings.js'
import { train } from '../train.js'
import { type AddCommand, followRun, needed, recordOf } from './common.js'
import { addFlags, type Options } from './flags.js'
import { runOnline } from './online.js'
import { aboutObjective, addObjectives, addTrainer, settingsOf } from './settings.js'

/** Adds the command. */
export const trainCommand: AddCommand = (program) => {
  const command = program.command('train').description('train a model on rows, or on its own samples')
  addObjectives(command, aboutObjective, runTrain)
  for (const [name, { description }] of Object.entries(onlineTrainers))
    addTrainer(command, name, {
      description,
      flags: (own) => addFlags(own, onlineCatalogue(name)),
      run: (options) => runOnline(name, options),
    })
  for (const own of command.commands) own.option('--resume', 'go on with the run in the output folder')
}

async function runTrain(objective: string, options: Options): Promise<void> {
  const { run, sources, objective: own, all } = await settingsOf(objective, options)
  const output = needed(run.output, 'output')
  const data = needed(run.data, 'data')
  await followRun({ all, output, json: options.json === true }, async (signal, follow) => {
    using policy = await loadModel(run.model, { dtype: run.dtype })
    using reference = run.reference === undefined ? undefined : await loadModel(run.reference, { dtype: run.dtype })
    return await follow(
      train({
        policy,
        reference: reference?.decoder,
        objective: own,
        data,
        evalData: run.evalData,
        output,
        resume: options.resume === true,
        signal,
        sources,
        record: recordOf(all),
      }),
    )
  })
}
