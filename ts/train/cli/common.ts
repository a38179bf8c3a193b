// What commands share: output, signals, options that are text, and a run from its settings to its result.

import type { Command } from 'commander'
import { WhetstoneError } from '../../src/base/errors.js'
import { createProgress } from '../../src/base/progress.js'
import { describeConfig, type Resolved } from '../config/resolve.js'
import type { Run } from '../events.js'
import type { PhaseResult } from '../loop.js'
import type { Options } from './flags.js'
import { show } from './show.js'

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

/**
 * A setting that a command cannot do without.
 *
 * @throws WhetstoneError E_CONFIG naming the flag
 */
export function needed<V>(value: V | undefined, name: string): V {
  if (value !== undefined) return value
  throw new WhetstoneError('E_CONFIG', `--${name}`, 'expected a value, got none; a config file may give it')
}

type AnyResolved = Resolved<Readonly<Record<string, unknown>>>

/** What a run folder keeps of its settings: all but its own place, because it may be moved. */
export function recordOf({ values: { output: _, ...values }, origins }: AnyResolved): AnyResolved {
  return { values, origins }
}

/** A run of the command line. */
export interface RunView {
  /** Every setting with its origin, printed first. */
  readonly all: AnyResolved
  readonly output: string
  /** Print one JSON object and nothing else. */
  readonly json: boolean
}

type Result = PhaseResult & { readonly metrics?: Readonly<Record<string, number>> }

/** What a run is started with. */
export interface RunStart {
  readonly signal: AbortSignal
  /** Shows a run's events until its result. */
  readonly follow: (run: Run<Result>) => Promise<Result>
  readonly warn: (message: string) => void
}

/** Shows a run from its settings to its result. A signal saves the state and ends it well. */
export async function followRun(
  { all, output, json }: RunView,
  start: (run: RunStart) => Promise<Result>,
): Promise<void> {
  const progress = createProgress(process.stderr, json)
  if (!json) progress.note(describeConfig(all))
  const signal = untilSignal()
  try {
    const follow: RunStart['follow'] = async (run) => {
      for await (const event of run) show(progress, event)
      return run.result
    }
    const warn = (message: string) => show(progress, { type: 'warning', message })
    const result = await start({ signal, follow, warn })
    progress.end()
    printResult(result, json)
  } catch (error) {
    progress.end()
    if (!signal.aborted || !WhetstoneError.isInstance(error) || error.code !== 'E_ABORTED') throw error
    const onward =
      all.values.saveOnlyModel === true
        ? 'its checkpoint is a model without the optimizer, so that the run cannot go on'
        : 'the same command with --resume goes on'
    progress.note(`stopped; ${onward} (${output})`)
  }
}

function printResult(result: Result, json: boolean): void {
  const { loss } = result.metrics ?? result.last ?? {}
  const text = loss === undefined ? '' : `loss ${loss.toFixed(4)}; `
  print(json ? JSON.stringify(result) : `${text}checkpoint: ${result.checkpoint}`)
}
