// tokenizer.json files that try something, as changes of a good file, with the code that loading must give.

import type { ErrorCode } from '../../ts/src/base/errors.js'

type Contents = Record<string, unknown>

/** A change of a good file's contents, and the expected code or `legal`. */
export type HostileTokenizer = readonly [
  name: string,
  change: (good: Contents) => unknown,
  expected: ErrorCode | 'legal',
]

/** A good file of four tokens. */
export const goodTokenizer = (): Contents => ({
  version: '1.0',
  added_tokens: [{ id: 3, content: '<s>', special: true, normalized: false }],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: { type: 'Fuse' },
  model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: [['a', 'b']] },
})

const model = (fields: Contents) => (good: Contents) => ({ ...good, model: { ...(good.model as Contents), ...fields } })
const part = (key: string, value: unknown) => (good: Contents) => ({ ...good, [key]: value })
const added = (...tokens: Contents[]) => part('added_tokens', tokens)
const token = (fields: Contents): Contents => ({ id: 3, content: '<s>', special: true, normalized: false, ...fields })
const split = (pattern: unknown, behavior = 'Isolated') =>
  part('pre_tokenizer', { type: 'Split', pattern, behavior, invert: false })
const template = (fields: Contents) => part('post_processor', { type: 'TemplateProcessing', ...fields })
const nested = (depth: number): unknown => (depth === 0 ? 1 : [nested(depth - 1)])
const vocabulary = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`t${i}`, i]))

/** Every case. */
export const hostileTokenizers: readonly HostileTokenizer[] = [
  ['a good file', (good) => good, 'legal'],
  ['a list', () => [], 'E_FORMAT'],
  ['null', () => null, 'E_FORMAT'],
  ['no model', part('model', undefined), 'E_FORMAT'],
  ['model a list', part('model', []), 'E_FORMAT'],
  ['no type, with merges', model({ type: undefined }), 'legal'],
  ['no type, no merges', model({ type: undefined, merges: undefined }), 'E_FORMAT'],
  ['Unigram', model({ type: 'Unigram' }), 'E_FORMAT'],
  ['WordPiece', model({ type: 'WordPiece' }), 'E_FORMAT'],
  ['dropout', model({ dropout: 0.1 }), 'E_FORMAT'],
  ['dropout 0', model({ dropout: 0 }), 'legal'],
  ['prefix of subwords', model({ continuing_subword_prefix: '##' }), 'E_FORMAT'],
  ['empty suffix of words', model({ end_of_word_suffix: '' }), 'legal'],
  ['suffix of words', model({ end_of_word_suffix: '</w>' }), 'E_FORMAT'],
  ['vocabulary a list', model({ vocab: ['a', 'b'] }), 'E_FORMAT'],
  ['negative id', model({ vocab: { a: -1, b: 1, ab: 2 } }), 'E_FORMAT'],
  ['fractional id', model({ vocab: { a: 0.5, b: 1, ab: 2 } }), 'E_FORMAT'],
  ['id a string', model({ vocab: { a: '0', b: 1, ab: 2 } }), 'E_FORMAT'],
  ['id above 2^53', model({ vocab: { a: 2 ** 60, b: 1, ab: 2 } }), 'E_FORMAT'],
  ['id twice', model({ vocab: { a: 0, b: 0, ab: 2 } }), 'E_FORMAT'],
  ['a hole', model({ vocab: { a: 0, b: 1, ab: 4 } }), 'E_FORMAT'],
  ['an id far away', model({ vocab: { a: 0, b: 1, ab: 1e15 } }), 'E_FORMAT'],
  ['empty piece', model({ vocab: { a: 0, b: 1, ab: 2, '': 4 } }), 'E_FORMAT'],
  ['1,000,001 entries', model({ vocab: vocabulary(1_000_001), merges: [] }), 'E_LIMIT'],
  ['merges missing', model({ merges: undefined }), 'E_FORMAT'],
  ['merge of an absent piece', model({ merges: [['a', 'c']] }), 'E_FORMAT'],
  ['merge with an absent result', model({ merges: [['b', 'a']] }), 'E_FORMAT'],
  ['merge of one piece', model({ merges: [['a']] }), 'E_FORMAT'],
  ['merge of three pieces', model({ merges: ['a b c'] }), 'E_FORMAT'],
  ['merge as a number', model({ merges: [7] }), 'E_FORMAT'],
  ['merge with an empty piece', model({ merges: [['', 'a']] }), 'E_FORMAT'],
  ['merge as text', model({ merges: ['a b'] }), 'legal'],
  ['merge twice', model({ merges: ['a b', 'a b'] }), 'legal'],
  ['merge of constructor', model({ merges: [['constructor', 'a']] }), 'E_FORMAT'],
  ['unknown token not in the vocabulary', model({ unk_token: 'x' }), 'E_FORMAT'],
  ['flag not a flag', model({ byte_fallback: 'yes' }), 'E_FORMAT'],
  ['added tokens not a list', part('added_tokens', {}), 'E_FORMAT'],
  ['no added tokens', part('added_tokens', undefined), 'legal'],
  ['added token null', part('added_tokens', [null]), 'E_FORMAT'],
  ['added token without text', added(token({ content: undefined })), 'E_FORMAT'],
  ['added token of no text', added(token({ content: '' })), 'E_FORMAT'],
  ['added token of 1,025 characters', added(token({ content: 'x'.repeat(1025) })), 'E_FORMAT'],
  ['added token with the id of another', added(token({ id: 0 })), 'E_FORMAT'],
  ['added token with another id than its own', added(token({ content: 'a' })), 'E_FORMAT'],
  ['added token of the vocabulary', added(token({ id: 0, content: 'a' })), 'legal'],
  ['added tokens with one id', added(token({}), token({ content: '<t>' })), 'E_FORMAT'],
  ['added token far away', added(token({ id: 5 })), 'E_FORMAT'],
  ['one is the beginning of another', added(token({}), token({ id: 4, content: '<s><s>' })), 'legal'],
  ['unknown normaliser', part('normalizer', { type: 'Precompiled', precompiled_charsmap: '' }), 'E_FORMAT'],
  ['normaliser named constructor', part('normalizer', { type: 'constructor' }), 'E_FORMAT'],
  ['normaliser without type', part('normalizer', {}), 'E_FORMAT'],
  ['normaliser a list', part('normalizer', []), 'E_FORMAT'],
  [
    'replacement of nothing',
    part('normalizer', { type: 'Replace', pattern: { String: '' }, content: 'x' }),
    'E_FORMAT',
  ],
  [
    'replacement pattern',
    part('normalizer', { type: 'Replace', pattern: { Regex: '(a+)+$' }, content: '' }),
    'E_FORMAT',
  ],
  ['unknown splitter', part('pre_tokenizer', { type: 'UnicodeScripts' }), 'E_FORMAT'],
  ['nested repetition', split({ Regex: '(a+)+$' }), 'E_FORMAT'],
  ['a known pattern with a space more', split({ Regex: '\\p{N} ' }), 'E_FORMAT'],
  ['a known pattern', split({ Regex: '\\p{N}' }), 'legal'],
  ['split by nothing', split({ String: '' }), 'E_FORMAT'],
  ['unknown behaviour', split({ String: 'a' }, 'Sideways'), 'E_FORMAT'],
  ['splitters without a list', part('pre_tokenizer', { type: 'Sequence' }), 'E_FORMAT'],
  [
    'bytes split further',
    part('pre_tokenizer', { type: 'Sequence', pretokenizers: [{ type: 'ByteLevel' }, { type: 'Digits' }] }),
    'E_FORMAT',
  ],
  ['long mark', part('pre_tokenizer', { type: 'Metaspace', replacement: 'ab' }), 'E_FORMAT'],
  ['unknown scheme', part('pre_tokenizer', { type: 'Metaspace', prepend_scheme: 'sometimes' }), 'E_FORMAT'],
  ['unknown decoder', part('decoder', { type: 'CTC' }), 'E_FORMAT'],
  ['decoder with a pattern', part('decoder', { type: 'Replace', pattern: { Regex: 'a' }, content: '' }), 'E_FORMAT'],
  [
    'tokens wanted behind their fusion',
    part('decoder', { type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'ByteFallback' }] }),
    'E_FORMAT',
  ],
  ['strip by a negative count', part('decoder', { type: 'Strip', content: ' ', start: -1, stop: 0 }), 'E_FORMAT'],
  ['unknown post-processor', part('post_processor', { type: 'X' }), 'E_FORMAT'],
  ['template without the text', template({ single: [], special_tokens: {} }), 'E_FORMAT'],
  [
    'template with an unknown token',
    template({ single: [{ SpecialToken: { id: 'x' } }, { Sequence: { id: 'A' } }], special_tokens: {} }),
    'E_FORMAT',
  ],
  [
    'template with odd ids',
    template({
      single: [{ SpecialToken: { id: 'x' } }, { Sequence: { id: 'A' } }],
      special_tokens: { x: { ids: [-1] } },
    }),
    'E_FORMAT',
  ],
  ['nested above 64', part('truncation', nested(70)), 'E_LIMIT'],
]
