// JSON texts that JavaScript's own parser or a careless reader would take or break on, with the code that each must give.

import type { ErrorCode } from '../../ts/src/base/errors.js'

/** A text or bytes, and the expected code with the line and column of the fault, or the value. */
export type HostileJson = readonly [
  name: string,
  text: string | Uint8Array,
  expected: readonly [code: ErrorCode, line?: number, column?: number] | { readonly value: unknown },
]

const value = (of: unknown) => ({ value: of })
const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`

/** Documents. */
export const hostileJson: readonly HostileJson[] = [
  [
    'an object',
    '{"a": [1, -2.5e3, "x\\n\\u00e9", true, false, null, {}, []]}',
    value({ a: [1, -2500, 'x\né', true, false, null, {}, []] }),
  ],
  ['space around', ' \n\t{}\r\n ', value({})],
  ['a scalar', '"x"', value('x')],
  ['a pair of surrogate escapes', '"\\ud83d\\ude42"', value('🙂')],
  ['DEL and U+2028 in a string', '"\u007f\u2028"', value('\u007f\u2028')],
  ['empty', '', ['E_FORMAT', 1, 1]],
  ['space alone', ' \n ', ['E_FORMAT', 2, 2]],
  ['byte-order mark', '\ufeff{}', ['E_FORMAT', 1, 1]],
  ['two values', '{} {}', ['E_FORMAT', 1, 4]],
  ['duplicate key', '{"a": 1,\n "a": 2}', ['E_FORMAT', 2, 2]],
  ['duplicate key by an escape', '{"a": 1, "\\u0061": 2}', ['E_FORMAT', 1, 10]],
  ['the same key at two levels', '{"a": {"a": 1}}', value({ a: { a: 1 } })],
  ['number too large', '[1e999]', ['E_FORMAT', 1, 2]],
  ['number too large and negative', '[-1e999]', ['E_FORMAT', 1, 2]],
  ['number too small is zero', '[1e-999]', value([0])],
  ['leading zero', '[01]', ['E_FORMAT', 1, 3]],
  ['leading plus', '[+1]', ['E_FORMAT', 1, 2]],
  ['bare point', '[.5]', ['E_FORMAT', 1, 2]],
  ['point without digits', '[5.]', ['E_FORMAT', 1, 3]],
  ['hexadecimal', '[0x10]', ['E_FORMAT', 1, 3]],
  ['NaN', '[NaN]', ['E_FORMAT', 1, 2]],
  ['Infinity', '[Infinity]', ['E_FORMAT', 1, 2]],
  ['None', '[None]', ['E_FORMAT', 1, 2]],
  ['a longer word', '[trueish]', ['E_FORMAT', 1, 6]],
  ['comment', '{} // x', ['E_FORMAT', 1, 4]],
  ['trailing comma in a list', '[1, ]', ['E_FORMAT', 1, 5]],
  ['trailing comma in an object', '{"a": 1, }', ['E_FORMAT', 1, 10]],
  ['missing comma', '[1 2]', ['E_FORMAT', 1, 4]],
  ['missing colon', '{"a" 1}', ['E_FORMAT', 1, 6]],
  ['unquoted key', '{a: 1}', ['E_FORMAT', 1, 2]],
  ['single quotes', "{'a': 1}", ['E_FORMAT', 1, 2]],
  ['wrong bracket', '[1}', ['E_FORMAT', 1, 3]],
  ['cut off in a list', '{"a": [1,\n2', ['E_FORMAT', 2, 2]],
  ['cut off in a string', '{"a": "xy', ['E_FORMAT', 1, 10]],
  ['cut off in an escape', '"\\u12', ['E_FORMAT', 1, 3]],
  ['raw line end in a string', '"a\nb"', ['E_FORMAT', 1, 3]],
  ['raw NUL in a string', '"a\0b"', ['E_FORMAT', 1, 3]],
  ['raw NUL', '\0', ['E_FORMAT', 1, 1]],
  ['unknown escape', '"\\x41"', ['E_FORMAT', 1, 2]],
  ['high surrogate escape alone', '"\\ud83d"', ['E_FORMAT', 1, 2]],
  ['low surrogate escape alone', '"\\ude42"', ['E_FORMAT', 1, 2]],
  ['high surrogate escape before another', '"\\ud83d\\ud83d"', ['E_FORMAT', 1, 2]],
  ['no-break space between', '[1,\u00a02]', ['E_FORMAT', 1, 4]],
  ['64 levels', nested(64), value(JSON.parse(nested(64)))],
  ['65 levels', nested(65), ['E_LIMIT', 1, 65]],
  ['a million levels', '['.repeat(1_000_000), ['E_LIMIT', 1, 65]],
  ['invalid UTF-8', Uint8Array.of(0x22, 0x61, 0xff, 0x22), ['E_FORMAT']],
  ['overlong UTF-8', Uint8Array.of(0x22, 0xc0, 0xaf, 0x22), ['E_FORMAT']],
  ['a surrogate in UTF-8', Uint8Array.of(0x22, 0xed, 0xa0, 0x80, 0x22), ['E_FORMAT']],
  ['UTF-8 cut off', Uint8Array.of(0x22, 0xe4, 0xb8), ['E_FORMAT']],
  ['gzip', Uint8Array.of(0x1f, 0x8b, 8, 0, 0), ['E_FORMAT']],
  ['UTF-16', Uint8Array.of(0xff, 0xfe, 0x7b, 0, 0x7d, 0), ['E_FORMAT']],
]

/** JSON-lines files: the lines of the rows that come before the end or the fault, and the fault with its line. */
export const hostileLines: readonly (readonly [
  name: string,
  text: string | Uint8Array,
  lines: readonly number[],
  fault?: readonly [code: ErrorCode, line: number],
])[] = [
  ['rows', '{"a":1}\n{"a":2}\n', [1, 2]],
  ['no line end at the end', '{"a":1}\n{"a":2}', [1, 2]],
  ['CRLF', '{"a":1}\r\n{"a":2}\r\n', [1, 2]],
  ['blank lines', '\n{"a":1}\n \t\r\n\n{"a":2}\n\n', [2, 5]],
  ['empty file', '', []],
  ['byte-order mark', '\ufeff{"a":1}\n', [], ['E_FORMAT', 1]],
  ['last line cut off', '{"a":1}\n{"a":', [1], ['E_FORMAT', 2]],
  ['two values in a line', '{"a":1}{"a":2}\n', [], ['E_FORMAT', 1]],
  ['a value over two lines', '{"a":\n1}\n', [], ['E_FORMAT', 1]],
  ['lone CR is no line end', '{"a":1}\r{"a":2}\n', [], ['E_FORMAT', 1]],
  ['duplicate key', '{"a":1}\n{"a":1,"a":2}\n', [1], ['E_FORMAT', 2]],
  ['U+2028 is no line end', '{"a":"\u2028"}\n', [1]],
  ['NUL', '{"a":1}\n\0\n', [1], ['E_FORMAT', 2]],
  ['invalid UTF-8', Uint8Array.of(0x31, 0x0a, 0x22, 0xff, 0x22, 0x0a), [1], ['E_FORMAT', 2]],
  ['gzip', Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0x0a), [], ['E_FORMAT', 1]],
  ['a pretty list', '[\n{"a":1}\n]\n', [], ['E_FORMAT', 1]],
]
