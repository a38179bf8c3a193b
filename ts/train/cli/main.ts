#!/usr/bin/env node
// The command line: a table of commands, each in its own file. Errors end with their code and text on standard error, with
// --json as an object on standard output too, and with an exit code (failure.ts).

import { Console } from 'node:console'
import { Command } from 'commander'
import { WhetstoneError } from '../../src/base/errors.js'
import { readPackageVersion } from '../../src/native/addon.js'
import type { AddCommand } from './common.js'
import { openDeviceOf } from './device.js'
import { estimateCommand } from './estimate.js'
import { evaluateCommand } from './evaluate.js'
import { endWith, exitCodes } from './failure.js'
import { asksForJson, spellArguments } from './flags.js'
import { generateCommand } from './generate.js'
import { improveCommand } from './improve.js'
import { doctorCommand, reportCommand } from './inspect.js'
import { mergeCommand } from './merge.js'
import { previewCommand } from './preview.js'
import { trainCommand } from './train.js'

const commands: readonly AddCommand[] = [
  improveCommand,
  trainCommand,
  previewCommand,
  estimateCommand,
  evaluateCommand,
  mergeCommand,
  generateCommand,
  reportCommand,
  doctorCommand,
]

/**
 * A reader that closes the pipe ends the output, not the run, and quietly. What else keeps the output from being written
 * (a full disk) does not end the run either, but its exit code says so.
 */
function surviveLostOutput(): void {
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE' || process.exitCode === exitCodes.E_IO) return
      process.exitCode = exitCodes.E_IO
      if (stream === process.stdout) process.stderr.write(`E_IO [stdout] cannot write the output (${error.code})\n`)
    })
}

async function main(given: readonly string[]): Promise<void> {
  const program = new Command('whetstone')
    .description('Fine-tune, align and self-improve language models. No Python.')
    .version(readPackageVersion())
    .exitOverride()
    .configureOutput({ outputError: () => undefined })
    .hook('preAction', (_, command) => openDeviceOf(command.opts()))
  for (const add of commands) add(program)
  await program.parseAsync(spellArguments(program, given), { from: 'user' })
}

/**
 * Node ends in silence, and with 0, where nothing is left that could settle what a program awaits: here a promise of a
 * reward function or a judge.
 */
function tellUnsettled(json: boolean): void {
  const text = 'what the run waits for can never come: a promise of a reward function or a judge that nothing settles'
  endWith(new WhetstoneError('E_VERIFIER', 'whetstone', text), json)
}

surviveLostOutput()
const given = process.argv.slice(2)
const json = asksForJson(given)
// Modules of reward functions may print; standard output is for the one object.
if (json) globalThis.console = new Console(process.stderr)
const unsettled = () => tellUnsettled(json)
process.once('beforeExit', unsettled)
main(given)
  .catch((error: unknown) => endWith(error, json))
  .finally(() => process.off('beforeExit', unsettled))
