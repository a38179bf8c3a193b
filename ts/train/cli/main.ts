#!/usr/bin/env node
// The command line: which commands there are and which options they take. Errors end with their text and code 1.

import { Command } from 'commander'
import { objectives } from '../../loss/index.js'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { readPackageVersion } from '../../src/native/addon.js'
import { trainingOptions } from '../config/options.js'
import { improveOptions } from '../improve-options.js'
import { type Options, runDoctor, runGenerate, runImprove, runReport, runTrain } from './commands.js'
import { addFlags } from './flags.js'

const program = new Command('whetstone')
  .description('Fine-tune, align and self-improve language models. No Python.')
  .version(readPackageVersion())

addFlags(program.command('improve'), improveOptions)
  .description('make a small model, warm it up, let it train itself, and compare with a control')
  .option('--output <folder>', 'run folder [runs/improve-TASK-seedN]')
  .option('--resume', 'go on with the run in the folder')
  .option('--json', 'print one JSON object as the last line')
  .action((options: Options) => runImprove(options))

addFlags(program.command('train <objective>'), trainingOptions)
  .description(`train a model on rows; objectives: ${Object.keys(objectives).join(', ')}`)
  .requiredOption('--model <folder>', 'Hugging Face folder')
  .requiredOption('--data <file>', 'rows: .jsonl or .json')
  .requiredOption('--output <folder>', 'run folder')
  .option('--evalData <file>', 'rows to evaluate on')
  .option('--dtype <dtype>', 'f32 or bf16 [what the weights are]')
  .option('--config <file>', 'settings as a JSON file')
  .option('--resume', 'go on with the run in the folder')
  .option('--json', 'print one JSON object as the last line')
  .action((objective: string, options: Options) => runTrain(objective, options))

program
  .command('generate')
  .description('continue a prompt')
  .requiredOption('--model <folder>', 'Hugging Face folder')
  .requiredOption('--prompt <text>', 'what to continue')
  .option('--chat', 'the prompt is a user turn: apply the chat template')
  .option('--numGenerations <n>', 'samples [1]')
  .option('--maxNewTokens <n>', 'longest completion in tokens [256]')
  .option('--temperature <t>', '0 takes the most probable token [1]')
  .option('--topK <k>', 'keep the k most probable tokens')
  .option('--topP <p>', 'keep the smallest set with this mass')
  .option('--minP <p>', 'drop tokens below this share of the largest probability')
  .option('--seed <n>', 'key of the random choices [0]')
  .option('--dtype <dtype>', 'f32 or bf16 [what the weights are]')
  .option('--json', 'print ids and log-probs as JSON')
  .action((options: Options) => runGenerate(options))

program
  .command('report <folder>')
  .description('write report.html of a run')
  .action((folder: string) => runReport(folder))

program
  .command('doctor')
  .description('what this machine has and what was chosen, with reasons')
  .option('--json', 'as JSON')
  .action((options: Options) => runDoctor(options))

/** A reader that closes the pipe ends the output, not the run. */
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })

program.parseAsync().catch((error: unknown) => {
  const code = WhetstoneError.isInstance(error) ? `${error.code} ` : ''
  process.stderr.write(`${code}${messageOf(error)}\n`)
  process.exitCode = 1
})
