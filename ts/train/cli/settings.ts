// What `train`, `preview` and `estimate` have in common: a subcommand per objective whose flags are that objective's
// settings, and the settings of a run from config file and flags.

import type { Command } from 'commander'
import { objectives } from '../../loss/index.js'
import type { Catalogue } from '../config/catalogue.js'
import { trainerDefaults } from '../config/defaults.js'
import { readConfigFile } from '../config/file.js'
import { defaultSources, type RunSettings, resolveRun, runCatalogue } from '../config/run-settings.js'
import { textOf } from './common.js'
import { addFlags, type Options, prepareLater, readFlags } from './flags.js'

/** Adds a subcommand for every objective; its flags are made when it is the one that was asked for. */
export function addObjectives(
  command: Command,
  describe: (objective: string) => string,
  run: (objective: string, options: Options) => Promise<void>,
): void {
  for (const objective of Object.keys(objectives)) {
    const own = command
      .command(objective)
      .description(describe(objective))
      .option('--config <file>', 'settings as .yaml or .json, with any names that flags have; flags go before')
      .option('--json', 'print one JSON object as the last line')
      .action((options: Options) => run(objective, options))
    prepareLater(own, () => addSettings(own, objective))
  }
}

/** Adds the flags of an objective's settings. */
export function addSettings(command: Command, objective: string): Catalogue {
  const catalogue = runCatalogue(objective)
  const defaults = Object.assign({}, ...defaultSources(objective, false).map(({ values }) => values))
  addFlags(command, catalogue, defaults)
  return catalogue
}

/** One line on what an objective does. */
export const aboutObjective = (objective: string): string =>
  trainerDefaults[objective]?.description ?? `train with the objective ${objective}`

/**
 * The settings of a run: defaults, then the file of `--config`, then flags.
 *
 * @throws WhetstoneError E_CONFIG, E_IO, E_FORMAT naming the setting and where it came from
 */
export async function settingsOf(objective: string, options: Options): Promise<RunSettings> {
  const catalogue = runCatalogue(objective)
  const file = textOf(options, 'config')
  const fromFile = file === undefined ? [] : await readConfigFile(file, catalogue)
  return resolveRun(objective, catalogue, [...fromFile, ...readFlags(catalogue, options)])
}
