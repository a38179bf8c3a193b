// The commands of the command line: each takes parsed options and does its job. What they do lives elsewhere.

import { join } from 'node:path'
import { objectives } from '../../loss/index.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { createProgress } from '../../src/base/progress.js'
import { loadModel } from '../../src/generate/language-model.js'
import { exists } from '../../src/io/files.js'
import { readJson } from '../../src/io/json.js'
import { doctor, formatDoctor } from '../../src/native/doctor.js'
import { trainingOptions } from '../config/options.js'
import { describeConfig, resolveConfig, type Source } from '../config/resolve.js'
import { type ImproveResult, improve } from '../improve.js'
import { improveOptions, taskPresets } from '../improve-options.js'
import { writeReport } from '../report/report.js'
import { openRun } from '../run-folder.js'
import { train } from '../train.js'
import { readFlags } from './flags.js'
import { show } from './show.js'

/** Parsed options of a command. */
export type Options = Readonly<Record<string, string | boolean | undefined>>

const text = (options: Options, name: string): string | undefined => {
  const value = options[name]
  return typeof value === 'string' ? value : undefined
}

function required(options: Options, name: string): string {
  const value = text(options, name)
  if (value !== undefined) return value
  throw new WhetstoneError('E_CONFIG', `--${name}`, 'expected a value, got none')
}

const print = (line: string): void => {
  process.stdout.write(`${line}\n`)
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

/** A folder under runs/ that is free, NAME or NAME-2 and so on; when resuming, the newest of them. */
async function runName(name: string, resume: boolean): Promise<string> {
  const path = (count: number) => join('runs', count === 1 ? name : `${name}-${count}`)
  let count = 1
  while (await exists(path(count))) count++
  return path(resume && count > 1 ? count - 1 : count)
}

/** `whetstone improve`: the main job. */
export async function runImprove(options: Options): Promise<void> {
  const flags = readFlags(improveOptions, options)
  const task = String(flags.task ?? 'arithmetic')
  const config = resolveConfig(improveOptions, [
    { origin: `preset of ${task}`, values: taskPresets[task] ?? {} },
    { origin: 'command line', values: flags },
  ])
  const output =
    text(options, 'output') ?? (await runName(`improve-${task}-seed${config.values.seed}`, options.resume === true))
  const progress = createProgress(process.stderr, options.json === true)
  const folder = await openRun(output, config, options.resume === true)
  let result: ImproveResult | undefined
  try {
    result = await improve(config, {
      output,
      resume: options.resume === true,
      signal: untilSignal(),
      emit: (event) => {
        folder.log(event)
        show(progress, event)
      },
    })
  } finally {
    progress.end()
    await folder.close()
  }
  const report = await writeReport(output)
  if (result === undefined) progress.note(`stopped; the same command with --resume goes on (${output})`)
  else printResult(result, report, options.json === true)
}

function printResult(result: ImproveResult, report: string, json: boolean): void {
  if (json) {
    print(JSON.stringify(result))
    return
  }
  const row = (name: string, { accuracy, low, high }: ImproveResult['final']) =>
    print(
      `${name.padEnd(24)} ${(100 * accuracy).toFixed(1)}%  (${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`,
    )
  print(`held-out accuracy on ${result.heldOut} ${result.task} tasks, 95% intervals`)
  row('after warm-up', result.warmup)
  row('control: more SFT', result.control)
  row('after self-training', result.final)
  print(`${result.seconds.toFixed(0)} s; report: ${report}`)
}

/** `whetstone train OBJECTIVE`. */
export async function runTrain(objectiveName: string, options: Options): Promise<void> {
  const make = Object.hasOwn(objectives, objectiveName) ? objectives[objectiveName] : undefined
  if (make === undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'objective',
      `expected one of ${Object.keys(objectives).join(', ')}, got '${objectiveName}'`,
    )
  const sources = await sourcesOf(options)
  const json = options.json === true
  const progress = createProgress(process.stderr, json)
  if (!json) progress.note(describeConfig(resolveConfig(trainingOptions, sources)))
  using policy = await loadModel(required(options, 'model'), { dtype: dtypeOf(options) })
  const run = train({
    policy,
    objective: make(),
    data: required(options, 'data'),
    evalData: text(options, 'evalData'),
    output: required(options, 'output'),
    resume: options.resume === true,
    signal: untilSignal(),
    sources,
  })
  for await (const event of run) show(progress, event)
  progress.end()
  const result = await run.result
  const loss = result.metrics.loss === undefined ? '' : `loss ${result.metrics.loss.toFixed(4)}; `
  print(json ? JSON.stringify(result) : `${loss}checkpoint: ${result.checkpoint}`)
}

async function sourcesOf(options: Options): Promise<Source[]> {
  const file = text(options, 'config')
  const flags = { origin: 'command line', values: readFlags(trainingOptions, options) }
  if (file === undefined) return [flags]
  return [{ origin: file, values: (await readJson(file)) as Record<string, unknown> }, flags]
}

function dtypeOf(options: Options): 'f32' | 'bf16' | undefined {
  const dtype = text(options, 'dtype')
  if (dtype === undefined || dtype === 'f32' || dtype === 'bf16') return dtype
  throw new WhetstoneError('E_CONFIG', '--dtype', `expected f32 or bf16, got '${dtype}'`)
}

const numberOf = (options: Options, name: string): number | undefined => {
  const value = text(options, name)
  if (value === undefined) return undefined
  if (Number.isFinite(Number(value))) return Number(value)
  throw new WhetstoneError('E_CONFIG', `--${name}`, `expected a number, got '${value}'`)
}

/** `whetstone generate`: prints completions, streaming when there is one. */
export async function runGenerate(options: Options): Promise<void> {
  using model = await loadModel(required(options, 'model'), { dtype: dtypeOf(options) })
  const numGenerations = numberOf(options, 'numGenerations') ?? 1
  const streams = numGenerations === 1 && options.json !== true
  const prompt = required(options, 'prompt')
  const completions = await model.generate(options.chat === true ? [{ role: 'user', content: prompt }] : prompt, {
    numGenerations,
    maxNewTokens: numberOf(options, 'maxNewTokens'),
    temperature: numberOf(options, 'temperature'),
    topK: numberOf(options, 'topK'),
    topP: numberOf(options, 'topP'),
    minP: numberOf(options, 'minP'),
    seed: numberOf(options, 'seed'),
    signal: untilSignal(),
    onText: streams ? (_prompt, _sample, piece) => process.stdout.write(piece) : undefined,
  })
  if (streams) return print('')
  if (options.json === true) return print(JSON.stringify(completions))
  completions.forEach((completion, i) => {
    print(`[${i + 1}] ${completion.text}`)
  })
}

/** `whetstone doctor`. */
export function runDoctor(options: Options): void {
  const report = doctor()
  print(options.json === true ? JSON.stringify(report) : formatDoctor(report))
}

/** `whetstone report DIR`. */
export async function runReport(directory: string): Promise<void> {
  print(await writeReport(directory))
}
