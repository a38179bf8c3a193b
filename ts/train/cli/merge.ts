// `whetstone merge`: an adapter becomes part of its model's weights.

import { type Command, Option } from 'commander'
import { type MergeOptions, merge } from '../merge.js'
import { addDeviceFlags } from './device.js'

type Options = Pick<MergeOptions, 'model' | 'adapter' | 'output' | 'dtype'> & { readonly json?: boolean }

/** Adds the command. */
export const mergeCommand = (program: Command): void => {
  const command = program
    .command('merge')
    .description('add an adapter to the weights of its model, checked, and write a Hugging Face folder')
    .requiredOption('--model <folder>', "an adapter's folder, or a model's beside --adapter")
    .requiredOption('--output <folder>', 'folder to make')
    .option('--adapter <folder>', "an adapter's folder")
    .addOption(
      new Option('--dtype <dtype>', "type of the weights that are written [the base model's]").choices(['f32', 'bf16']),
    )
    .option('--json', 'print the result as JSON')
    .action((options: Options) => runMerge(options))
  addDeviceFlags(command)
}

async function runMerge({ json = false, model, adapter, output, dtype: written }: Options): Promise<void> {
  const result = await merge({ model, adapter, output, dtype: written })
  const { directory, dtype, compared, merged, rounded } = result
  const apart = ({ largest, mean }: typeof merged) =>
    `at most ${largest.toExponential(1)}, ${mean.toExponential(1)} in the mean`
  const rounding = dtype === 'bf16' ? `; rounded to bf16: ${apart(rounded)}` : ''
  const text = `${directory}: ${dtype}. Over ${compared} numbers the merged model is ${apart(merged)} from the adapter${rounding}`
  process.stdout.write(`${json ? JSON.stringify(result) : text}\n`)
}
