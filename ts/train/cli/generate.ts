// `whetstone generate`: prints completions, streaming when there is one.

import { loadModel } from '../../src/generate/language-model.js'
import { type AddCommand, dtypeOf, numberOf, print, required, textOf, untilSignal } from './common.js'
import type { Options } from './flags.js'

/** Adds the command. */
export const generateCommand: AddCommand = (program) => {
  program
    .command('generate')
    .description('continue a prompt')
    .requiredOption('--model <folder>', 'Hugging Face folder, or a run (its newest checkpoint)')
    .option('--adapter <folder>', 'PEFT folder of an adapter for the model')
    .requiredOption('--prompt <text>', 'what to continue')
    .option('--chat', 'the prompt is a user turn: apply the chat template')
    .option('--numGenerations <n>', 'samples [1]')
    .option('--maxNewTokens <n>', 'longest completion in tokens [256]')
    .option('--temperature <t>', '0 takes the most probable token [1]')
    .option('--topK <k>', 'keep the k most probable tokens')
    .option('--topP <p>', 'keep the smallest set with this mass')
    .option('--minP <p>', 'drop tokens below this share of the largest probability')
    .option('--seed <n>', 'key of the random choices [0]')
    .option('--dtype <dtype>', 'f32 or bf16 [what the weights are]')
    .option('--json', 'print ids and log-probs as JSON')
    .action((options: Options) => runGenerate(options))
}

async function runGenerate(options: Options): Promise<void> {
  using model = await loadModel(required(options, 'model'), {
    dtype: dtypeOf(options),
    adapter: textOf(options, 'adapter'),
  })
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
