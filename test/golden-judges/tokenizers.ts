// Judges folders of golden/tokenizers and golden/templates: ids, decoded text, renderings and masks, all exact.

import { join } from 'node:path'
import { WhetstoneError } from '../../ts/src/base/errors.js'
import { readBytes } from '../../ts/src/io/files.js'
import { decodeUtf8, readJson } from '../../ts/src/io/json.js'
import { type ChatMessage, encodeChat, renderChat } from '../../ts/src/tokenizer/template.js'
import { loadTokenizer, type Tokenizer } from '../../ts/src/tokenizer/tokenizer.js'
import type { Finding } from './finding.js'

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

const shown = (value: unknown): string => JSON.stringify(value).slice(0, 160)

function equal(entry: string, got: unknown, expected: unknown): Finding {
  const ok = same(got, expected)
  return { entry, ok, detail: ok ? 'equal' : `got ${shown(got)}, expected ${shown(expected)}` }
}

interface EncodeCase {
  text: string
  ids: number[]
  ids_special: number[]
  ids_plain: number[]
  decoded: string
  decoded_skip: string
}

/** One tokenizer folder with its cases.json. */
export async function judgeTokenizer(directory: string, name: string): Promise<Finding[]> {
  const tokenizer = await loadTokenizer(directory)
  const cases = (await readJson(join(directory, 'cases.json'))) as {
    vocab_size: number
    encode: EncodeCase[]
    decode: Pick<EncodeCase, 'ids' | 'decoded' | 'decoded_skip'>[]
  }
  const decoding = (
    { ids, decoded, decoded_skip }: Pick<EncodeCase, 'ids' | 'decoded' | 'decoded_skip'>,
    entry: string,
  ) => [
    equal(`${entry} decoded`, tokenizer.decode(ids), decoded),
    equal(`${entry} decoded_skip`, tokenizer.decode(ids, { skipSpecialTokens: true }), decoded_skip),
  ]
  return [
    equal(`${name} vocab_size`, tokenizer.vocabSize, cases.vocab_size),
    ...cases.encode.flatMap((one, i) => [
      equal(
        `${name} encode ${i} ids`,
        tokenizer.encode(one.text, { addSpecialTokens: false, specialTokens: 'parse' }),
        one.ids,
      ),
      equal(`${name} encode ${i} ids_special`, tokenizer.encode(one.text, { specialTokens: 'parse' }), one.ids_special),
      equal(`${name} encode ${i} ids_plain`, tokenizer.encode(one.text, { addSpecialTokens: false }), one.ids_plain),
      ...decoding(one, `${name} encode ${i}`),
    ]),
    ...cases.decode.flatMap((one, i) => decoding(one, `${name} decode ${i}`)),
  ]
}

interface Rendering {
  text?: string
  ids?: number[]
  assistant_mask?: number[]
  error?: string
}

function judgeRendering(
  tokenizer: Tokenizer,
  messages: ChatMessage[],
  prompt: boolean,
  expected: Rendering,
  entry: string,
): Finding[] {
  const returnAssistantTokensMask = expected.assistant_mask !== undefined
  const options = { addGenerationPrompt: prompt, contentSpecials: 'parse', returnAssistantTokensMask } as const
  try {
    const chat = encodeChat(tokenizer, messages, options)
    return [
      equal(`${entry} text`, renderChat(tokenizer, messages, options), expected.text ?? { error: expected.error }),
      equal(`${entry} encoded text`, chat.text, expected.text),
      equal(`${entry} ids`, chat.ids, expected.ids),
      equal(`${entry} mask`, chat.assistantMask && Array.from(chat.assistantMask), expected.assistant_mask),
    ]
  } catch (error) {
    if (!WhetstoneError.isInstance(error)) throw error
    return [equal(`${entry} error`, error.message, `[chat_template] ${expected.error}`)]
  }
}

/** One template folder; its tokenizer lies under the golden root. */
export async function judgeTemplate(root: string, name: string): Promise<Finding[]> {
  const directory = join(root, 'templates', name)
  const cases = (await readJson(join(directory, 'cases.json'))) as {
    tokenizer: string
    cases: { messages: ChatMessage[]; full: Rendering; prompt: Rendering }[]
  }
  const path = join(directory, 'template.jinja')
  const chatTemplate = decodeUtf8(await readBytes(path), path)
  const tokenizer = { ...(await loadTokenizer(join(root, cases.tokenizer))), chatTemplate }
  return cases.cases.flatMap(({ messages, full, prompt }, i) => [
    ...judgeRendering(tokenizer, messages, false, full, `templates/${name} ${i} full`),
    ...judgeRendering(tokenizer, messages, true, prompt, `templates/${name} ${i} prompt`),
  ])
}
