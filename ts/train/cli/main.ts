#!/usr/bin/env node
// The command line: a table of commands, each in its own file. Errors end with their code and text on standard error
// and with an exit code: 74 when the operating system refused a file operation, 70 when a device failed for good, else 1.

import { Command } from 'commander'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { readPackageVersion } from '../../src/native/addon.js'
import type { AddCommand } from './common.js'
import { estimateCommand } from './estimate.js'
import { evaluateCommand } from './evaluate.js'
import { spellArguments } from './flags.js'
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

const exitCodes: Readonly<Record<string, number>> = { E_IO: 74, E_DEVICE_LOST: 70 }

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

async function main(): Promise<void> {
  const program = new Command('whetstone')
    .description('Fine-tune, align and self-improve language models. No Python.')
    .version(readPackageVersion())
  for (const add of commands) add(program)
  await program.parseAsync(spellArguments(program, process.argv.slice(2)), { from: 'user' })
}

surviveLostOutput()
main().catch((error: unknown) => {
  const code = WhetstoneError.isInstance(error) ? error.code : undefined
  process.stderr.write(`${code === undefined ? '' : `${code} `}${messageOf(error)}\n`)
  process.exitCode = exitCodes[code ?? ''] ?? 1
})
