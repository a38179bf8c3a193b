// What `train`, `preview` and `estimate` have in common: a subcommand per trainer whose flags are that trainer's
// settings, and the settings of a run from config file and flags.

import type { Command } from 'commander'
import { modelFolder } from '../../src/io/model-folder.js'
import { isAdapterFolder } from '../../src/models/peft.js'
import type { Catalogue } from '../config/catalogue.js'
import { trainerDefaults } from '../config/defaults.js'
import { type Given, readConfigFile } from '../config/file.js'
import type { Source } from '../config/resolve.js'
import { defaultSources, type RunSettings, resolveRun, rowTrainers, runCatalogue } from '../config/run-settings.js'
import { textsOf } from './common.js'
import { addFlags, gathered, type Options, prepareLater, readFlags } from './flags.js'

/** A subcommand as {@link addTrainer} takes it. */
export interface TrainerCommand {
  readonly description: string
  /** Adds its flags; called when it is the command that was asked for. */
  readonly flags: (command: Command) => void
  readonly run: (options: Options) => Promise<void>
}

/** `--config`, of all commands that have it. */
export const configOption = [
  '--config <file>',
  'settings as .yaml or .json, under any spelling of their flags, or config.json of a run; of several files the later wins, and flags win',
  gathered,
] as const

/** Adds the subcommand of a trainer. */
export function addTrainer(command: Command, name: string, { description, flags, run }: TrainerCommand): void {
  const own = command
    .command(name)
    .description(description)
    .option(...configOption)
    .option('--json', 'print one JSON object and nothing else')
    .action(run)
  prepareLater(own, () => flags(own))
}

/**
 * Adds a subcommand for every trainer on rows.
 *
 * @param addDevice adds the flags of the device
 */
export function addObjectives(
  command: Command,
  describe: (objective: string) => string,
  run: (objective: string, options: Options) => Promise<void>,
  addDevice: (command: Command) => Command,
): void {
  for (const objective of rowTrainers)
    addTrainer(command, objective, {
      description: describe(objective),
      flags: (own) => addSettings(addDevice(own), objective),
      run: (options) => run(objective, options),
    })
}

/** Adds the flags of an objective's settings. */
export function addSettings(command: Command, objective: string): void {
  const defaults = Object.assign({}, ...defaultSources(objective, false).map(({ values }) => values))
  addFlags(command, runCatalogue(objective), defaults)
}

/** One line on what an objective does. */
export const aboutObjective = (objective: string): string => trainerDefaults[objective].description

/** Settings that name the folder of a model. */
const folders: readonly string[] = ['model', 'adapter', 'reference']

/** Puts the newest checkpoint in place of a run's folder: what is loaded is what settings and the new run say. */
function placeModels(given: readonly Given[]): Promise<Given[]> {
  const place = async (one: Given): Promise<Given> => {
    const { setting, value, origin } = one
    const counts = given.findLast((other) => other.setting.path === setting.path) === one
    if (!counts || !folders.includes(setting.path) || typeof value !== 'string' || value === '') return one
    const folder = await modelFolder(value)
    return folder === value ? one : { ...one, value: folder, origin: `${origin}, newest checkpoint of ${value}` }
  }
  return Promise.all(given.map(place))
}

/**
 * What was given: by the files of `--config` in their order, then by flags.
 *
 * @throws WhetstoneError E_CONFIG, E_IO, E_FORMAT naming the setting and where it came from
 */
export async function givenOf(catalogue: Catalogue, options: Options): Promise<Given[]> {
  const files = textsOf(options, 'config').map((file) => readConfigFile(file, catalogue))
  return placeModels([...(await Promise.all(files)).flat(), ...readFlags(catalogue, options)])
}

/** What settings are when nobody gives them, by their paths: the schemas' defaults, and those of the trainer. */
export const usualValues = ({ settings }: Catalogue, sources: readonly Source[] = []): Record<string, unknown> =>
  Object.assign(
    Object.fromEntries(settings.map(({ path, field }) => [path, field.fallback])),
    ...sources.filter(({ origin }) => origin.startsWith('default of ')).map(({ values }) => values),
  )

/**
 * The settings of a run: defaults, then the files of `--config`, then flags.
 *
 * @throws WhetstoneError E_CONFIG, E_IO, E_FORMAT naming the setting and where it came from
 */
export async function settingsOf(objective: string, options: Options): Promise<RunSettings> {
  const catalogue = runCatalogue(objective)
  const given = await givenOf(catalogue, options)
  const model = given.findLast(({ setting }) => setting.path === 'model')?.value
  return resolveRun(objective, catalogue, given, typeof model === 'string' && (await isAdapterFolder(model)))
}
