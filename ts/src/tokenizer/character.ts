// A character tokenizer for task models: one token per character of a small alphabet, behind a few special tokens.
// The files are ordinary ones (BPE without merges, neither split nor normalised) that Transformers loads too. A character
// outside the alphabet is an error here; the tokenizers library would drop it without a word.

import { WhetstoneError } from '../base/errors.js'
import { loneSurrogate } from '../io/json.js'

/** What else the files hold. */
export interface CharacterTokenizerOptions {
  /** Further special tokens, such as those of a chat template. Default none. */
  readonly specials?: readonly string[]
  /** Jinja source. Default none. */
  readonly chatTemplate?: string
  /** Default 512. */
  readonly modelMaxLength?: number
}

/** Files of a character tokenizer and the ids that a config needs. */
export interface CharacterTokenizer {
  readonly tokenizerJson: Readonly<Record<string, unknown>>
  readonly tokenizerConfigJson: Readonly<Record<string, unknown>>
  readonly vocabSize: number
  readonly padId: number
  readonly eosId: number
}

const padToken = '<pad>'
const eosToken = '<end>'

const special = (content: string, id: number) => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
})

function checkTokens(tokens: readonly string[]): void {
  const odd = tokens.find((token, i) => token === '' || loneSurrogate(token) >= 0 || tokens.indexOf(token) !== i)
  if (odd !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'alphabet',
      `expected distinct characters and special tokens, got ${JSON.stringify(odd)} twice or no text`,
    )
}

const modelOf = (tokens: readonly string[]) => ({
  type: 'BPE',
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
  vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
  merges: [],
})

/**
 * Makes the files for an alphabet of distinct characters. Ids: `<pad>` 0, `<end>` 1, further special tokens, characters.
 *
 * @throws WhetstoneError E_CONFIG for a repeated character or token
 */
export function characterTokenizer(alphabet: string, options: CharacterTokenizerOptions = {}): CharacterTokenizer {
  const specials = [padToken, eosToken, ...(options.specials ?? [])]
  const tokens = [...specials, ...alphabet]
  checkTokens(tokens)
  return {
    tokenizerJson: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: specials.map(special),
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder: { type: 'Fuse' },
      model: modelOf(tokens),
    },
    tokenizerConfigJson: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      eos_token: eosToken,
      pad_token: padToken,
      ...(options.specials === undefined ? {} : { additional_special_tokens: options.specials }),
      ...(options.chatTemplate === undefined ? {} : { chat_template: options.chatTemplate }),
      clean_up_tokenization_spaces: false,
      model_max_length: options.modelMaxLength ?? 512,
    },
    vocabSize: tokens.length,
    padId: 0,
    eosId: 1,
  }
}
