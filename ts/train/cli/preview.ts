// `whetstone preview`: rows as the model will see them, trained tokens marked, and what is wrong with them. Needs a
// tokenizer and rows, no weights; takes the settings of a training run, and its config file.

import * as z from 'zod'
import { WhetstoneError } from '../../src/base/errors.js'
import { hasColor } from '../../src/base/progress.js'
import { loadTokenizer } from '../../src/tokenizer/tokenizer.js'
import { catalogueOf } from '../config/catalogue.js'
import { rowTrainers, runOptions } from '../config/run-settings.js'
import { rowKindOf } from '../data/encode.js'
import { encodePart, encodeShape } from '../data/encode-options.js'
import { preview } from '../data/preview.js'
import { previewText } from '../data/preview-text.js'
import { readData } from '../data/rows.js'
import { type AddCommand, needed, numberOf, print, textOf } from './common.js'
import { addFlags, type Options } from './flags.js'
import { configOption, settingsOf } from './settings.js'

const { model, data, limit, chatTemplatePath } = runOptions.shape
const catalogue = catalogueOf([
  { name: '', title: 'Model and data', schema: z.strictObject({ model, data, limit, chatTemplatePath }) },
  { name: '', title: 'Rows', schema: z.strictObject(encodeShape) },
])

/** Adds the command. */
export const previewCommand: AddCommand = (program) => {
  const command = program
    .command('preview')
    .description(
      'show rows as the model will see them, with the trained tokens marked; exit code 1 for rows that spoil a run',
    )
    .option('--objective <name>', `whose rows they are (${rowTrainers.join(', ')}) [sft]`)
    .option('--count <n>', 'rows to show [3]')
    .option(...configOption)
    .option('--json', 'print one JSON object')
    .action(runPreview)
  addFlags(command, catalogue)
}

function countOf(options: Options): number {
  const count = numberOf(options, 'count') ?? 3
  if (Number.isInteger(count) && count >= 0) return count
  throw new WhetstoneError('E_CONFIG', '--count', `expected a whole number of at least 0, got ${count}`)
}

async function runPreview(options: Options): Promise<void> {
  const count = countOf(options)
  const { run, training, objective } = await settingsOf(textOf(options, 'objective') ?? 'sft', options)
  const file = needed(run.data, 'data')
  const { rows } = await readData(file, rowKindOf(objective), run.limit)
  const tokenizer = await loadTokenizer(run.model, { chatTemplatePath: run.chatTemplatePath })
  const shown = preview(tokenizer, objective, rows, encodePart(training), count)
  if (shown.errors.length > 0) process.exitCode = 1
  if (options.json === true) return print(JSON.stringify(shown))
  print(previewText(shown, { colours: hasColor(process.stdout, process.env) }).trimEnd())
}
