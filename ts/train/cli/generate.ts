// `whetstone generate`: prints completions, as they come when there is one.

import type { Readable } from 'node:stream'
import { WhetstoneError } from '../../src/base/errors.js'
import { type GenerateOptions, loadModel } from '../../src/generate/language-model.js'
import { readBytes } from '../../src/io/files.js'
import { decodeUtf8 } from '../../src/io/json.js'
import { type AddCommand, dtypeOf, isStop, numberOf, print, required, textOf, textsOf, untilSignal } from './common.js'
import { addDeviceFlags } from './device.js'
import { signalCodes } from './failure.js'
import { gathered, type Options } from './flags.js'

/** Adds the command. */
export const generateCommand: AddCommand = (program) => {
  const command = program
    .command('generate')
    .description('continue a prompt')
    .requiredOption('--model <folder>', 'Hugging Face folder, or a run (its newest checkpoint)')
    .option('--adapter <folder>', 'PEFT folder of an adapter for the model')
    .option('--prompt <text>', 'what to continue; - reads it from standard input')
    .option('--promptFile <file>', 'file of what to continue, without the newline at its end; - is standard input')
    .option('--chat', 'the prompt is a user turn: apply the chat template')
    .option('--chatTemplatePath <path>', "Jinja file, or folder of a tokenizer, in place of the model's own template")
    .option('--system <text>', 'system message before the user turn of --chat')
    .option('--numGenerations <n>', 'samples [1]')
    .option('--maxNewTokens <n>', 'longest completion in tokens [256]')
    .option('--stop <text>', 'end where this text appears, and leave it out; may be given several times', gathered)
    .option('--temperature <t>', '0 takes the most probable token [1]')
    .option('--topK <k>', 'keep the k most probable tokens')
    .option('--topP <p>', 'keep the smallest set with this mass')
    .option('--minP <p>', 'drop tokens below this share of the largest probability')
    .option('--repetitionPenalty <p>', 'above 1: against tokens of the prompt and of the text so far [1]')
    .option('--seed <n>', 'key of the random choices [0]')
    .option('--dtype <dtype>', 'f32 or bf16 [what the weights are]')
    .option('--loadIn4bit', 'hold the matrices of the layers in four bits (NF4)')
    .option('--bnb4bitUseDoubleQuant', 'and the absmax of their blocks in eight')
    .option('--stream [true|false]', 'print text as it comes [on a terminal, for one sample]')
    .option('--json', 'print ids and log-probs as JSON')
    .action((options: Options) => runGenerate(options))
  addDeviceFlags(command)
}

const limitBytes = 2 ** 24

async function readAll(input: Readable): Promise<Uint8Array> {
  const pieces: Uint8Array[] = []
  let size = 0
  for await (const piece of input as AsyncIterable<Uint8Array>) {
    pieces.push(piece)
    size += piece.length
    if (size > limitBytes)
      throw new WhetstoneError(
        'E_LIMIT',
        'standard input',
        `expected a prompt of at most ${limitBytes} bytes, got more`,
      )
  }
  return Buffer.concat(pieces)
}

/** The prompt as it was typed, or of a file without the newline at its end. */
async function promptOf(options: Options): Promise<string> {
  const typed = textOf(options, 'prompt')
  if (typed !== undefined && typed !== '-') return typed
  const file = typed ?? required(options, 'promptFile')
  const where = file === '-' ? 'standard input' : file
  const text = decodeUtf8(file === '-' ? await readAll(process.stdin) : await readBytes(file, limitBytes), where)
  return text.replace(/\r?\n$/, '')
}

/** Is text printed as it comes? When it was asked for, else on a terminal. */
function streams(options: Options, numGenerations: number): boolean {
  const asked = options.stream
  if (asked !== undefined && asked !== true && asked !== 'true' && asked !== 'false')
    throw new WhetstoneError('E_CONFIG', '--stream', `expected true or false, got '${asked}'`)
  return asked === undefined
    ? numGenerations === 1 && options.json !== true && process.stdout.isTTY === true
    : asked !== 'false'
}

/** What cannot be meant: which option, when, and why. */
function refuseNonsense(options: Options, numGenerations: number): void {
  const { prompt, promptFile, chat, system, json } = options
  const streaming = streams(options, numGenerations)
  const nonsense: readonly (readonly [option: string, isNonsense: boolean, text: string])[] = [
    [
      'prompt',
      prompt === undefined && promptFile === undefined,
      'expected --prompt TEXT or --promptFile FILE, got none',
    ],
    ['promptFile', prompt !== undefined && promptFile !== undefined, 'expected it without --prompt, got both'],
    ['chatTemplatePath', options.chatTemplatePath !== undefined && chat !== true, 'expected --chat beside it'],
    ['system', system !== undefined && chat !== true, 'expected --chat beside it: plain text has no system message'],
    ['stream', streaming && json === true, 'expected it without --json, whose object is printed at the end'],
    ['stream', streaming && numGenerations > 1, `expected one sample, got ${numGenerations}: their texts would mix`],
    [
      'numGenerations',
      numGenerations > 1 && numberOf(options, 'temperature') === 0,
      `expected a temperature above 0 for ${numGenerations} samples, which would all be the same`,
    ],
    ['stop', textsOf(options, 'stop').includes(''), 'expected text with at least one character, got none'],
  ]
  const found = nonsense.find(([, isNonsense]) => isNonsense)
  if (found !== undefined) throw new WhetstoneError('E_CONFIG', `--${found[0]}`, found[2])
}

const settingsOf = (options: Options, signal: AbortSignal): GenerateOptions => ({
  maxNewTokens: numberOf(options, 'maxNewTokens'),
  stopStrings: textsOf(options, 'stop'),
  temperature: numberOf(options, 'temperature'),
  topK: numberOf(options, 'topK'),
  topP: numberOf(options, 'topP'),
  minP: numberOf(options, 'minP'),
  repetitionPenalty: numberOf(options, 'repetitionPenalty'),
  seed: numberOf(options, 'seed'),
  signal,
})

async function runGenerate(options: Options): Promise<void> {
  const numGenerations = numberOf(options, 'numGenerations') ?? 1
  refuseNonsense(options, numGenerations)
  const streaming = streams(options, numGenerations)
  const text = await promptOf(options)
  const system = textOf(options, 'system')
  const turns = [
    ...(system === undefined ? [] : [{ role: 'system', content: system }]),
    { role: 'user', content: text },
  ]
  using model = await loadModel(required(options, 'model'), {
    dtype: dtypeOf(options),
    loadIn4bit: options.loadIn4bit === true,
    bnb4bitUseDoubleQuant: options.bnb4bitUseDoubleQuant === true,
    adapter: textOf(options, 'adapter'),
    chatTemplatePath: textOf(options, 'chatTemplatePath'),
  })
  const signal = untilSignal()
  try {
    const completions = await model.generate(options.chat === true ? turns : text, {
      ...settingsOf(options, signal),
      numGenerations,
      onText: streaming ? (_prompt, _sample, piece) => process.stdout.write(piece) : undefined,
    })
    if (streaming) return print('')
    if (options.json === true) return print(JSON.stringify(completions))
    if (numGenerations === 1) return print(completions[0].text)
    completions.forEach((completion, i) => {
      print(`[${i + 1}] ${completion.text}`)
    })
  } catch (error) {
    if (!isStop(error, signal)) throw error
    // What was asked for is not there: other than a run, whose state is saved.
    process.exitCode = signalCodes[(signal.reason as Error).message as keyof typeof signalCodes]
    if (streaming) print('')
  }
}
