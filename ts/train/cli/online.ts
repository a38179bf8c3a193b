// `whetstone train TRAINER` for trainers that learn from the model's own samples: prompts from built-in tasks or a file,
// rewards from the tasks' checker or a module of functions.

import '../../src/base/dispose.js'
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import { withoutAdapter } from '../../src/models/adapter.js'
import {
  type OnlineRunOptions,
  type OnlineSettings,
  onlineCatalogue,
  onlineTrainers,
  resolveOnline,
} from '../config/online-settings.js'
import type { PairJudge } from '../loop/judges.js'
import type { OnlineOptions } from '../loop/online.js'
import { isTaskSource } from '../loop/prompts.js'
import type { RewardFunction } from '../loop/rewards.js'
import { recipes } from '../recipes/index.js'
import { createTask } from '../tasks/index.js'
import { followRun, needed, recordOf } from './common.js'
import type { Options } from './flags.js'
import { loadPolicy, loadReference, type ModelSettings } from './models.js'
import { resumeOf } from './resume.js'
import { givenOf, usualValues } from './settings.js'

/**
 * The functions that a module exports, by name or in its default export.
 *
 * @throws WhetstoneError E_CONFIG when it exports none, E_VERIFIER when it cannot be loaded
 */
async function readFunctions(file: string): Promise<((...args: never) => unknown)[]> {
  let module: Readonly<Record<string, unknown>>
  try {
    module = (await import(pathToFileURL(resolve(file)).href)) as Record<string, unknown>
  } catch (cause) {
    throw new WhetstoneError('E_VERIFIER', file, `cannot load the functions: ${messageOf(cause)}`, { cause })
  }
  const functions = Object.values(module)
    .flat()
    .filter((value) => typeof value === 'function')
  if (functions.length > 0) return functions as ((...args: never) => unknown)[]
  throw new WhetstoneError(
    'E_CONFIG',
    file,
    'expected a module that exports functions (samples => numbers), found none',
  )
}

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false

/** What judges samples: reward models by their folders, and the functions of modules. */
async function judgesOf(given: string | readonly string[]): Promise<(RewardFunction | string)[]> {
  const judges: (RewardFunction | string)[] = []
  for (const path of [given].flat())
    if (isFolder(path)) judges.push(path)
    else judges.push(...((await readFunctions(path)) as RewardFunction[]))
  return judges
}

/** What judges pairs: a model by its folder, or the function of a module. */
async function readJudge(file: string): Promise<PairJudge | string> {
  if (isFolder(file)) return file
  const functions = await readFunctions(file)
  if (functions.length === 1) return functions[0] as PairJudge
  const text = `expected a module that exports one function (pairs => probabilities), found ${functions.length}`
  throw new WhetstoneError('E_CONFIG', file, text)
}

type Prompts = Pick<OnlineOptions, 'prompts' | 'env' | 'rewardFuncs' | 'judge'>

/** The tasks or the file of prompts. */
export function promptSource({ tasks, difficulty, data }: OnlineRunOptions, seed: number): Prompts['prompts'] {
  if (tasks !== undefined && data === undefined) return createTask(tasks, { seed, difficulty })
  if (data !== undefined && tasks === undefined) return data
  const text = 'expected either --tasks NAME or --data FILE with --rewards MODULE or FOLDER'
  throw new WhetstoneError('E_CONFIG', '--tasks', text)
}

/** The world of the tasks, where it is asked for. */
function envOf(run: OnlineRunOptions, prompts: Prompts['prompts']): Prompts['env'] {
  if (run.env !== true) return undefined
  const env = isTaskSource(prompts) ? prompts.env : undefined
  if (env !== undefined) return env
  throw new WhetstoneError('E_CONFIG', '--env', 'expected tasks that have an environment, such as --tasks grid')
}

async function promptsOf(trainer: string, run: OnlineRunOptions, seed: number): Promise<Prompts> {
  const prompts = promptSource(run, seed)
  const env = envOf(run, prompts)
  const rewardFuncs = run.rewards === undefined ? undefined : await judgesOf(run.rewards)
  const judge = run.judge === undefined ? undefined : await readJudge(run.judge)
  const isJudged = run.tasks !== undefined || rewardFuncs !== undefined || judge !== undefined
  const { distils = false, unrewarded = false } = onlineTrainers[trainer]
  if (isJudged || distils || unrewarded) return { prompts, env, rewardFuncs, judge }
  const text = 'expected a module of reward functions, or a reward model, for the prompts, got none'
  throw new WhetstoneError('E_CONFIG', '--rewards', text)
}

/** Is the policy tied by a weight above 0 to a reference, which is itself unless another is given? */
export function isTied(trainer: string, { values }: OnlineSettings): boolean {
  const { distils = false, untied = false } = onlineTrainers[trainer]
  return !distils && !untied && ['beta', 'beta1', 'beta2'].some((name) => Number(values[name] ?? 0) > 0)
}

/** The reference: what is asked for, else the policy without its fresh adapter, else the model once more. */
async function referenceOf(trainer: string, settings: OnlineSettings, models: ModelSettings, policy: LanguageModel) {
  const given = await loadReference(models, policy)
  if (given !== undefined || !isTied(trainer, settings)) return given
  return settings.lora === undefined
    ? loadPolicy(models)
    : { decoder: withoutAdapter(policy.decoder), [Symbol.dispose]: () => {} }
}

/** The settings of an online run: defaults, then the files of `--config`, then flags. */
export async function onlineSettingsOf(trainer: string, options: Options): Promise<OnlineSettings> {
  const catalogue = onlineCatalogue(trainer)
  return resolveOnline(trainer, catalogue, await givenOf(catalogue, options))
}

/** Runs an online trainer. */
export async function runOnline(trainer: string, options: Options): Promise<void> {
  const settings = await onlineSettingsOf(trainer, options)
  const { run, sources, values, lora, all } = settings
  const output = needed(run.output, 'output')
  const resume = await resumeOf(options, output)
  const usual = usualValues(onlineCatalogue(trainer))
  await followRun({ all, usual, output, json: options.json === true }, async ({ signal, follow, warn }) => {
    const seed = Number(values.seed)
    const prompts = await promptsOf(trainer, run, seed)
    const models: ModelSettings = { run, lora, seed, warn }
    using policy = await loadPolicy(models)
    using reference = await referenceOf(trainer, settings, models, policy)
    const start = recipes[onlineTrainers[trainer].recipe]
    const given = { policy, reference: reference?.decoder, ...prompts, evalData: run.evalData, output, resume, signal }
    return await follow(start({ ...given, sources, record: recordOf(all) }))
  })
}
