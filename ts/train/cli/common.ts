// What commands share: output, signals, options that are text, and a run from its settings to its result.

import { join } from 'node:path'
import type { Command } from 'commander'
import { WhetstoneError } from '../../src/base/errors.js'
import { createProgress, type Progress } from '../../src/base/progress.js'
import { plainName } from '../../src/base/spelling.js'
import { commandLine, describeConfig, type Resolved } from '../config/resolve.js'
import type { Run } from '../events.js'
import type { PhaseResult } from '../loop.js'
import { signalCodes } from './failure.js'
import type { Options } from './flags.js'
import { createShow } from './show.js'

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

/** The texts of an option that may be given several times. */
export const textsOf = (options: Options, name: string): readonly string[] => {
  const value = options[name]
  return Array.isArray(value) ? value : []
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

type SignalName = keyof typeof signalCodes

/** Aborts on the first SIGINT or SIGTERM, whose name is the reason's; the second ends the process at once. */
export function untilSignal(): AbortSignal {
  const controller = new AbortController()
  for (const name of Object.keys(signalCodes) as SignalName[])
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(signalCodes[name])
      process.stderr.write('\nstopping after this step; again to stop at once\n')
      controller.abort(new Error(name))
    })
  return controller.signal
}

/** Is it the error of work that this signal ended? */
export const isStop = (error: unknown, signal: AbortSignal): boolean =>
  signal.aborted && WhetstoneError.isInstance(error) && error.code === 'E_ABORTED'

/** A word as a shell takes it. */
const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)

const namesCheckpoint = (word = ''): boolean => plainName(word.replace(/=.*/s, '')) === 'resumefromcheckpoint'

/** The command that goes on with what was stopped; a checkpoint that was named is not the newest any more. */
export function resumeCommand(given = process.argv.slice(2)): string {
  const isDropped = (word: string, i: number) =>
    namesCheckpoint(word) || (!word.startsWith('-') && namesCheckpoint(given[i - 1]) && !given[i - 1].includes('='))
  const kept = given.filter((word, i) => !isDropped(word, i))
  const words = kept.includes('--resume') ? kept : [...kept, '--resume']
  return ['whetstone', ...words.map(quoted)].join(' ')
}

/**
 * Tells that a run was stopped with its state saved. That is no failure: the exit code stays 0.
 *
 * @param ends it saved a model without the optimizer, so that it cannot go on
 */
export function printStopped(progress: Progress, output: string, json: boolean, ends = false): void {
  const resume = ends ? undefined : resumeCommand()
  const onward = ends
    ? `its checkpoint is a model without the optimizer, so that the run cannot go on (${output})`
    : `the same command with --resume goes on (${output}):\n  ${resume}`
  progress.note(`stopped; ${onward}`)
  if (json) print(JSON.stringify({ stopped: true, output, resume }))
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
  /** Every setting with its origin. */
  readonly all: AnyResolved
  /** What settings are when nobody gives them, by their paths. */
  readonly usual: Readonly<Record<string, unknown>>
  readonly output: string
  /** Print one JSON object and nothing else. */
  readonly json: boolean
}

/**
 * The settings that differ from the defaults, and all that were typed: lines `name = value  (origin)`, and where the
 * others are.
 */
export function describeRun({ all: { values, origins }, usual, output }: Omit<RunView, 'json'>): string {
  const same = (key: string) => JSON.stringify(values[key]) === JSON.stringify(usual[key])
  const isShown = (key: string): boolean => {
    const origin = origins[key]
    if (values[key] === undefined || origin === 'default') return false
    return origin === commandLine || origin.startsWith('default of ') || !same(key)
  }
  const shown = Object.keys(values).filter(isShown)
  const count = Object.values(values).filter((value) => value !== undefined).length - shown.length
  const pick = <V>(of: Readonly<Record<string, V>>) => Object.fromEntries(shown.map((key) => [key, of[key]]))
  const text = describeConfig({ values: pick(values), origins: pick(origins) })
  return `${text}\n${count} other settings have their defaults; all of them: ${join(output, 'config.json')}`
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
export async function followRun(view: RunView, start: (run: RunStart) => Promise<Result>): Promise<void> {
  const { output, json } = view
  const progress = createProgress(process.stderr, json)
  const show = createShow(progress)
  const signal = untilSignal()
  try {
    const follow: RunStart['follow'] = async (run) => {
      for await (const event of run) {
        // Here, and not before: what fails before it starts has no use for them.
        if (event.type === 'start') progress.note(describeRun(view))
        show(event)
      }
      return run.result
    }
    const warn = (message: string) => show({ type: 'warning', message })
    const result = await start({ signal, follow, warn })
    progress.end()
    printResult(result, json)
  } catch (error) {
    progress.end()
    if (!isStop(error, signal)) throw error
    printStopped(progress, output, json, view.all.values.saveOnlyModel === true)
  }
}

function printResult(result: Result, json: boolean): void {
  const { loss } = result.metrics ?? result.last ?? {}
  const text = loss === undefined ? '' : `loss ${loss.toFixed(4)}; `
  print(json ? JSON.stringify(result) : `${text}checkpoint: ${result.checkpoint}`)
}
