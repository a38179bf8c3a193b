// A character tokenizer for task models: one token per character of a small alphabet, with an end and a padding token.
// The file is an ordinary tokenizer.json (BPE without merges) that Transformers loads too.

import { WhetstoneError } from '../base/errors.js'

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

/**
 * Makes the files for an alphabet of printable ASCII (0x21 to 0x7e), whose bytes stand for themselves in byte-level BPE.
 *
 * @throws WhetstoneError E_CONFIG for another character or a repeated one
 */
export function characterTokenizer(alphabet: string): CharacterTokenizer {
  const characters = [...alphabet]
  const odd = characters.find((c, i) => c < '!' || c > '~' || characters.indexOf(c) !== i)
  if (odd !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'alphabet',
      `expected distinct printable ASCII characters, got ${JSON.stringify(odd)}`,
    )
  const vocab = Object.fromEntries([padToken, eosToken, ...characters].map((token, id) => [token, id]))
  const special = (id: number, content: string) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })
  return {
    tokenizerJson: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: [special(0, padToken), special(1, eosToken)],
      normalizer: null,
      pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      post_processor: null,
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab,
        merges: [],
      },
    },
    tokenizerConfigJson: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      eos_token: eosToken,
      pad_token: padToken,
      clean_up_tokenization_spaces: false,
      model_max_length: 512,
    },
    vocabSize: characters.length + 2,
    padId: 0,
    eosId: 1,
  }
}
