// `--resume`, and TRL's `--resume_from_checkpoint`: true, or a checkpoint. A run goes on in its own folder and from its newest
// checkpoint alone, so that what lies there is one run; another checkpoint is refused with what to do instead.

import { realpath } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import { WhetstoneError } from '../../src/base/errors.js'
import { attempt } from '../../src/io/files.js'
import { checkpointFolders, checkpointNames } from '../../src/io/model-folder.js'
import type { Options } from './flags.js'

/** Adds both flags. */
export const addResume = (command: Command): Command =>
  command
    .option('--resume', 'go on with the run in the output folder')
    .option(
      '--resumeFromCheckpoint [true|folder]',
      "the same under TRL's name; a folder must be the run's newest checkpoint",
    )

const realOf = (path: string): Promise<string> => attempt('look at', path, () => realpath(path))

/** The newest checkpoint of a run. */
async function newestOf(output: string): Promise<string | undefined> {
  for (const folder of checkpointFolders) {
    const [newest] = await checkpointNames(join(output, folder))
    if (newest !== undefined) return join(output, folder, newest)
  }
  return undefined
}

/**
 * Is the run in `output` to go on?
 *
 * @throws WhetstoneError E_CONFIG for a checkpoint that is not the newest of this run, E_IO where there is none
 */
export async function resumeOf({ resume, resumeFromCheckpoint: given }: Options, output: string): Promise<boolean> {
  const text = String(given ?? false)
  if (/^(true|false)$/i.test(text)) return resume === true || text.toLowerCase() === 'true'
  const asked = await realOf(text)
  const newest = await newestOf(output)
  const ends = newest === undefined ? [] : await Promise.all([output, newest].map(realOf))
  if (ends.includes(asked)) return true
  const expected =
    newest === undefined ? `a run with a checkpoint in ${output}` : `the newest checkpoint of ${output}, ${newest}`
  throw new WhetstoneError(
    'E_CONFIG',
    '--resumeFromCheckpoint',
    `expected true or ${expected}, got ${text}: to go on from there, start a new run with it as --model and another --output`,
  )
}
