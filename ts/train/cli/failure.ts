// How the program ends: exit codes, and errors as text and as JSON. docs/command-line.md lists the codes.

import { CommanderError } from 'commander'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'

/** Exit codes of errors that have their own; others end with 1. */
export const exitCodes: Readonly<Record<string, number>> = { E_IO: 74, E_DEVICE_LOST: 70 }

/** Exit codes of a signal that leaves work undone, as shells have them: 128 and the number of the signal. */
export const signalCodes = { SIGINT: 130, SIGTERM: 143 } as const

/** Help and version come as errors, too. */
const isAnswer = (error: unknown): error is CommanderError =>
  error instanceof CommanderError && /^commander\.(help|version)/.test(error.code)

/** What commander reports in words of its own, by its code. */
const commanderTexts: Readonly<Record<string, string>> = {
  'commander.missingMandatoryOptionValue': 'expected a value, got none',
  'commander.optionMissingArgument': 'expected a value, got none',
}

/** An error of commander as one of ours: the option or argument that it names is where. */
function fromCommander({ code, message }: CommanderError): WhetstoneError {
  const text = message.replace(/^error: /, '')
  const [, where = 'whetstone'] = /'(--\w+|[\w-]+)/.exec(text) ?? []
  return new WhetstoneError('E_CONFIG', where, commanderTexts[code] ?? text)
}

const asText = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? String(value) : value)

/** The line of `--json` for an error. */
function jsonLine(error: unknown): string {
  const text = messageOf(error)
  if (!WhetstoneError.isInstance(error))
    return JSON.stringify({ code: 'E_INTERNAL', where: 'whetstone', message: text, details: {} })
  const { code, where, details } = error
  const begin = `[${where}] `
  const message = text.startsWith(begin) ? text.slice(begin.length) : text
  return JSON.stringify({ code, where, message, details }, asText)
}

/**
 * Tells an error and sets the exit code: one line of text on standard error, and with `json` one JSON object on standard
 * output, where the result would be.
 */
export function endWith(thrown: unknown, json: boolean): void {
  if (isAnswer(thrown)) {
    process.exitCode = thrown.exitCode
    return
  }
  const error = thrown instanceof CommanderError ? fromCommander(thrown) : thrown
  const code = WhetstoneError.isInstance(error) ? error.code : undefined
  process.stderr.write(`${code === undefined ? '' : `${code} `}${messageOf(error)}\n`)
  if (json) process.stdout.write(`${jsonLine(error)}\n`)
  process.exitCode = exitCodes[code ?? ''] ?? 1
}
