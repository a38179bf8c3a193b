// safetensors files that try something, with the code that each must give. The bytes are built here, so that a reader of
// the table sees what is wrong with a file.

import type { ErrorCode } from '../../ts/src/base/errors.js'

/** A file and what opening it must give: an error code, or `legal`. */
export interface HostileFile {
  readonly name: string
  readonly bytes: Uint8Array
  readonly expected: ErrorCode | 'legal'
}

/** A file with this header text, this data, and (unless it is right) another number in its length field. */
export function fileOf(header: string | Uint8Array, dataBytes = 0, length?: bigint): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header
  const bytes = new Uint8Array(8 + text.byteLength + dataBytes)
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(text.byteLength), true)
  bytes.set(text, 8)
  return bytes
}

const tensor = (shape: string, offsets: string, dtype = '"F32"') =>
  `{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}`

const one = (shape: string, offsets: string, dtype?: string) => `{"w":${tensor(shape, offsets, dtype)}}`

const two = (a: string, b: string) => `{"a":${tensor('[1]', a)},"b":${tensor('[1]', b)}}`

const named = (name: string) => `{${JSON.stringify(name)}:${tensor('[1]', '[0,4]')}}`

const many = (count: number): string =>
  `{${Array.from({ length: count }, (_, i) => `"t${i}":${tensor('[0]', '[0,0]')}`).join(',')}}`

const file = (name: string, bytes: Uint8Array, expected: HostileFile['expected']): HostileFile => ({
  name,
  bytes,
  expected,
})

const good = one('[1]', '[0,4]')

/** Every case. */
export const hostileFiles: readonly HostileFile[] = [
  file('a good file', fileOf(good, 4), 'legal'),
  file('empty', new Uint8Array(0), 'E_TORN'),
  file('seven bytes', new Uint8Array(7), 'E_TORN'),
  file('header length 0', fileOf('', 0), 'E_FORMAT'),
  file('header length 2^31', fileOf(good, 4, 2n ** 31n), 'E_LIMIT'),
  file('header length 2^53', fileOf(good, 4, 2n ** 53n), 'E_LIMIT'),
  file('header length 2^63', fileOf(good, 4, 2n ** 63n), 'E_LIMIT'),
  file('header length -1', fileOf(good, 4, 2n ** 64n - 1n), 'E_LIMIT'),
  file('header just above the limit', fileOf(good, 4, 100_000_001n), 'E_LIMIT'),
  file('header beyond the file', fileOf(good, 4, 1000n), 'E_TORN'),
  file('header not UTF-8', fileOf(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), 'E_FORMAT'),
  file('header not JSON', fileOf('{"w":'), 'E_FORMAT'),
  file('header with bytes behind the JSON', fileOf(`${good}x`, 4), 'E_FORMAT'),
  file('header padded with spaces', fileOf(`${good}   `, 4), 'legal'),
  file('header that begins with a space', fileOf(` ${good}`, 4), 'E_FORMAT'),
  file('header is a list', fileOf('[]'), 'E_FORMAT'),
  file('header is null', fileOf('null'), 'E_FORMAT'),
  file('empty object', fileOf('{}'), 'legal'),
  file('nested too deep', fileOf(`{"w":${'['.repeat(100)}${']'.repeat(100)}}`), 'E_LIMIT'),
  file('duplicate tensor', fileOf(`{"w":${tensor('[1]', '[0,4]')},"w":${tensor('[1]', '[0,4]')}}`, 4), 'E_FORMAT'),
  file('duplicate tensor by an escape', fileOf(`{"w":${tensor('[1]', '[0,4]')},"\\u0077":{}}`, 4), 'E_FORMAT'),
  file('empty name', fileOf(named(''), 4), 'E_FORMAT'),
  file('name of 1,024 bytes', fileOf(named('é'.repeat(512)), 4), 'legal'),
  file('name above 1,024 bytes', fileOf(named('é'.repeat(513)), 4), 'E_FORMAT'),
  file('name __proto__', fileOf(named('__proto__'), 4), 'E_FORMAT'),
  file('name constructor is a name', fileOf(named('constructor'), 4), 'legal'),
  file('a name is never a path', fileOf(named('../../etc/passwd'), 4), 'legal'),
  file('tensor is null', fileOf('{"w":null}'), 'E_FORMAT'),
  file('tensor is a list', fileOf('{"w":[]}'), 'E_FORMAT'),
  file('no dtype', fileOf('{"w":{"shape":[1],"data_offsets":[0,4]}}', 4), 'E_FORMAT'),
  file('unknown dtype', fileOf(one('[1]', '[0,4]', '"F8"'), 4), 'E_FORMAT'),
  file('dtype of another case', fileOf(one('[1]', '[0,4]', '"f32"'), 4), 'E_FORMAT'),
  file('dtype constructor', fileOf(one('[1]', '[0,4]', '"constructor"'), 4), 'E_FORMAT'),
  file('dtype a number', fileOf(one('[1]', '[0,4]', '32'), 4), 'E_FORMAT'),
  file('no shape', fileOf('{"w":{"dtype":"F32","data_offsets":[0,4]}}', 4), 'E_FORMAT'),
  file('rank 0', fileOf(one('[]', '[0,4]'), 4), 'legal'),
  file('rank 8', fileOf(one('[1,1,1,1,1,1,1,1]', '[0,4]'), 4), 'legal'),
  file('rank 9', fileOf(one('[1,1,1,1,1,1,1,1,1]', '[0,4]'), 4), 'E_FORMAT'),
  file('negative dimension', fileOf(one('[-1]', '[0,4]'), 4), 'E_FORMAT'),
  file('two negative dimensions', fileOf(one('[-1,-1]', '[0,4]'), 4), 'E_FORMAT'),
  file('fractional dimension', fileOf(one('[0.5]', '[0,4]'), 4), 'E_FORMAT'),
  file('dimension 1e400', fileOf(one('[1e400]', '[0,4]'), 4), 'E_FORMAT'),
  file('dimension above 2^53', fileOf(one('[9007199254740993]', '[0,4]'), 4), 'E_FORMAT'),
  file('dimension a string', fileOf(one('["1"]', '[0,4]'), 4), 'E_FORMAT'),
  file('product above 2^63', fileOf(one('[4294967296,4294967296]', '[0,4]'), 4), 'E_FORMAT'),
  file('product 2^64 that wraps to 0', fileOf(one('[4294967296,1073741824]', '[0,0]')), 'E_FORMAT'),
  file('zero elements', fileOf(one('[0]', '[0,0]')), 'legal'),
  file('zero by huge', fileOf(one('[0,9007199254740991]', '[0,0]')), 'legal'),
  file('zero elements with bytes', fileOf(one('[0]', '[0,4]'), 4), 'E_FORMAT'),
  file('offsets missing', fileOf('{"w":{"dtype":"F32","shape":[1]}}', 4), 'E_FORMAT'),
  file('one offset', fileOf(one('[1]', '[0]'), 4), 'E_FORMAT'),
  file('three offsets', fileOf(one('[1]', '[0,4,8]'), 4), 'E_FORMAT'),
  file('offsets reversed', fileOf(one('[1]', '[4,0]'), 4), 'E_FORMAT'),
  file('negative offset', fileOf(one('[1]', '[-4,0]'), 4), 'E_FORMAT'),
  file('not from 0', fileOf(one('[1]', '[4,8]'), 8), 'E_FORMAT'),
  file('beyond the end', fileOf(one('[2]', '[0,8]'), 4), 'E_TORN'),
  file('far beyond the end', fileOf(one('[1125899906842624]', '[0,4503599627370496]'), 4), 'E_TORN'),
  file('bytes behind the end', fileOf(good, 8), 'E_FORMAT'),
  file('overlap', fileOf(two('[0,4]', '[2,6]'), 6), 'E_FORMAT'),
  file('shared', fileOf(two('[0,4]', '[0,4]'), 4), 'E_FORMAT'),
  file('hole', fileOf(two('[0,4]', '[8,12]'), 12), 'E_FORMAT'),
  file('second before the first', fileOf(two('[4,8]', '[0,4]'), 8), 'legal'),
  file('size not that of the shape', fileOf(one('[2]', '[0,4]'), 4), 'E_FORMAT'),
  file('100,001 tensors', fileOf(many(100_001)), 'E_LIMIT'),
  file('metadata of strings', fileOf('{"__metadata__":{"a":"b"}}'), 'legal'),
  file('metadata with a number', fileOf('{"__metadata__":{"a":1}}'), 'E_FORMAT'),
  file('metadata is a list', fileOf('{"__metadata__":[]}'), 'E_FORMAT'),
  file('metadata is null', fileOf('{"__metadata__":null}'), 'E_FORMAT'),
]
