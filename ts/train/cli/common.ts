// What commands share: output, signals, and options that are text.

import type { Command } from 'commander'
import { WhetstoneError } from '../../src/base/errors.js'
import type { Options } from './flags.js'

/** One line on standard output. */
export const print = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

/** The text of an option, if it was given. */
export const textOf = (options: Options, name: string): string | undefined => {
  const value = options[name]
  return typeof value === 'string' ? value : undefined
}

/**
 * The text of an option that must be there.
 *
 * @throws WhetstoneError E_CONFIG naming the option
 */
export function required(options: Options, name: string): string {
  const value = textOf(options, name)
  if (value !== undefined) return value
  throw new WhetstoneError('E_CONFIG', `--${name}`, 'expected a value, got none')
}

/** The number of an option, if it was given. */
export function numberOf(options: Options, name: string): number | undefined {
  const value = textOf(options, name)
  if (value === undefined) return undefined
  if (value.trim() !== '' && Number.isFinite(Number(value))) return Number(value)
  throw new WhetstoneError('E_CONFIG', `--${name}`, `expected a number, got '${value}'`)
}

/** The type of weights that was asked for. */
export function dtypeOf(options: Options): 'f32' | 'bf16' | undefined {
  const dtype = textOf(options, 'dtype')
  if (dtype === undefined || dtype === 'f32' || dtype === 'bf16') return dtype
  throw new WhetstoneError('E_CONFIG', '--dtype', `expected f32 or bf16, got '${dtype}'`)
}

/** Aborts on the first SIGINT or SIGTERM; the second ends the process at once. */
export function untilSignal(): AbortSignal {
  const controller = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(130)
      process.stderr.write('\nstopping after this step; again to stop at once\n')
      controller.abort(new Error(name))
    })
  return controller.signal
}

/** Makes a command; what each one is stands in its own file. */
export type AddCommand = (program: Command) => void
