// `whetstone train TRAINER`: settings, models and rows in, a run folder out. What training does is train.ts. Trainers that
// learn from the model's own samples are in online.ts.

import { onlineCatalogue, onlineTrainers } from '../config/online-settings.js'
import { runCatalogue } from '../config/run-settings.js'
import { checkEvaluation } from '../evaluate.js'
import { train } from '../train.js'
import { type AddCommand, followRun, needed, recordOf } from './common.js'
import { addDeviceFlags } from './device.js'
import { addFlags, type Options } from './flags.js'
import { loadPolicy, loadReference } from './models.js'
import { runOnline } from './online.js'
import { addResume, resumeOf } from './resume.js'
import { aboutObjective, addObjectives, addTrainer, settingsOf, usualValues } from './settings.js'

/** Adds the command. */
export const trainCommand: AddCommand = (program) => {
  const command = program.command('train').description('train a model on rows, or on its own samples')
  addObjectives(command, aboutObjective, runTrain, addDeviceFlags)
  for (const [name, { description }] of Object.entries(onlineTrainers))
    addTrainer(command, name, {
      description,
      flags: (own) => addFlags(addDeviceFlags(own), onlineCatalogue(name)),
      run: (options) => runOnline(name, options),
    })
  for (const own of command.commands) addResume(own)
}

async function runTrain(name: string, options: Options): Promise<void> {
  const { run, training, sources, objective, lora, all } = await settingsOf(name, options)
  const output = needed(run.output, 'output')
  const data = needed(run.data, 'data')
  checkEvaluation(training, run.evalData)
  const resume = await resumeOf(options, output)
  const usual = usualValues(runCatalogue(name), sources)
  await followRun({ all, usual, output, json: options.json === true }, async ({ signal, follow, warn }) => {
    const models = { run, lora, scoreLabels: objective.needs.values, seed: training.seed, warn }
    using policy = await loadPolicy(models)
    using reference = await loadReference(models, policy)
    const given = { policy, reference: reference?.decoder, objective, data, limit: run.limit, evalData: run.evalData }
    return await follow(train({ ...given, output, resume, signal, sources, record: recordOf(all) }))
  })
}
