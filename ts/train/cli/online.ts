// `whetstone train TRAINER` for trainers that learn from the model's own samples: prompts from built-in tasks or a file,
// rewards from the tasks' checker or a module of functions.

import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import { withoutAdapter } from '../../src/models/adapter.js'
import { readConfigFile } from '../config/file.js'
import {
  type OnlineRunOptions,
  type OnlineSettings,
  onlineCatalogue,
  onlineTrainers,
  resolveOnline,
} from '../config/online-settings.js'
import type { OnlineOptions } from '../loop/online.js'
import type { RewardFunction } from '../loop/rewards.js'
import { recipes } from '../recipes/index.js'
import { createTask } from '../tasks/index.js'
import { followRun, needed, recordOf, textOf } from './common.js'
import { type Options, readFlags } from './flags.js'
import { loadPolicy, loadReference, type ModelSettings } from './models.js'

/** The settings of an online run: defaults, then the file of `--config`, then flags. */
async function settingsOf(trainer: string, options: Options): Promise<OnlineSettings> {
  const catalogue = onlineCatalogue(trainer)
  const file = textOf(options, 'config')
  const fromFile = file === undefined ? [] : await readConfigFile(file, catalogue)
  return resolveOnline(trainer, catalogue, [...fromFile, ...readFlags(catalogue, options)])
}

/**
 * The functions that a module exports, by name or in its default export.
 *
 * @throws WhetstoneError E_CONFIG when it exports none, E_VERIFIER when it cannot be loaded
 */
async function readRewards(file: string): Promise<RewardFunction[]> {
  let module: Readonly<Record<string, unknown>>
  try {
    module = (await import(pathToFileURL(resolve(file)).href)) as Record<string, unknown>
  } catch (cause) {
    throw new WhetstoneError('E_VERIFIER', file, `cannot load the reward functions: ${messageOf(cause)}`, { cause })
  }
  const functions = Object.values(module)
    .flat()
    .filter((value) => typeof value === 'function')
  if (functions.length > 0) return functions as RewardFunction[]
  throw new WhetstoneError(
    'E_CONFIG',
    file,
    'expected a module that exports functions (samples => numbers), found none',
  )
}

type Prompts = Pick<OnlineOptions, 'prompts' | 'rewardFuncs'>

async function promptsOf({ tasks, difficulty, data, rewards }: OnlineRunOptions, seed: number): Promise<Prompts> {
  if ((tasks === undefined) === (data === undefined))
    throw new WhetstoneError('E_CONFIG', '--tasks', 'expected either --tasks NAME or --data FILE with --rewards MODULE')
  const rewardFuncs = rewards === undefined ? undefined : await readRewards(rewards)
  if (tasks !== undefined) return { prompts: createTask(tasks, { seed, difficulty }), rewardFuncs }
  if (rewardFuncs === undefined)
    throw new WhetstoneError('E_CONFIG', '--rewards', 'expected a module of reward functions for the prompts, got none')
  return { prompts: String(data), rewardFuncs }
}

/** Is the policy tied to a reference by a weight above 0? */
const isTied = ({ values }: OnlineSettings): boolean =>
  ['beta', 'beta1', 'beta2'].some((name) => Number(values[name] ?? 0) > 0)

/** The reference: what is asked for, else the policy without its fresh adapter, else the model once more. */
async function referenceOf(settings: OnlineSettings, models: ModelSettings, policy: LanguageModel) {
  const given = await loadReference(models, policy)
  if (given !== undefined || !isTied(settings)) return given
  return settings.lora === undefined
    ? loadPolicy(models)
    : { decoder: withoutAdapter(policy.decoder), [Symbol.dispose]: () => {} }
}

/** Runs an online trainer. */
export async function runOnline(trainer: string, options: Options): Promise<void> {
  const settings = await settingsOf(trainer, options)
  const { run, sources, values, lora, all } = settings
  const output = needed(run.output, 'output')
  const resume = options.resume === true
  await followRun({ all, output, json: options.json === true }, async ({ signal, follow, warn }) => {
    const seed = Number(values.seed)
    const prompts = await promptsOf(run, seed)
    const models: ModelSettings = { run, lora, seed, warn }
    using policy = await loadPolicy(models)
    using reference = await referenceOf(settings, models, policy)
    const start = recipes[onlineTrainers[trainer].recipe]
    const given = { policy, reference: reference?.decoder, ...prompts, output, resume, signal }
    return await follow(start({ ...given, sources, record: recordOf(all) }))
  })
}
