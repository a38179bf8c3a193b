// `whetstone merge`: an adapter becomes part of its model's weights.

import { type Command, Option } from 'commander'
import type { DeviceOptions } from '../../src/native/device.js'
import { type MergeOptions, merge } from '../merge.js'
import { addDeviceFlags } from './device.js'

type Options = Omit<MergeOptions, keyof DeviceOptions> & { readonly json?: boolean }

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
    .option('--loadIn4bit', 'merge into the numbers that the weights are in four bits (NF4), as a QLoRA run had them')
    .option('--bnb4bitUseDoubleQuant', 'and the absmax of their blocks in eight')
    .option('--json', 'print the result as JSON')
    .action((options: Options) => runMerge(options))
  addDeviceFlags(command)
}

async function runMerge({ json = false, ...options }: Options): Promise<void> {
  const { model, adapter, output, dtype: written, loadIn4bit, bnb4bitUseDoubleQuant } = options
  const result = await merge({ model, adapter, output, dtype: written, loadIn4bit, bnb4bitUseDoubleQuant })
  const { directory, dtype, compared, merged, rounded } = result
  const apart = ({ largest, mean }: typeof merged) =>
    `at most ${largest.toExponential(1)}, ${mean.toExponential(1)} in the mean`
  const rounding = dtype === 'bf16' ? `; rounded to bf16: ${apart(rounded)}` : ''
  const text = `${directory}: ${dtype}. Over ${compared} numbers the merged model is ${apart(merged)} from the adapter${rounding}`
  process.stdout.write(`${json ? JSON.stringify(result) : text}\n`)
}
