// A strict scan of JSON text without building values: the grammar, and what JSON.parse lets pass although it loses
// something: duplicate keys, numbers beyond the range of a double, half of a surrogate pair, bottomless nesting.
// No recursion, so depth is a number and not a stack overflow. json.ts turns a fault into an error with its place.

/** What is wrong and where (UTF-16 index). */
export interface JsonFault {
  readonly at: number
  readonly message: string
  readonly kind: 'format' | 'limit'
}

/** Keys of the object that is open, or undefined for a list. */
type Level = Set<string> | undefined

const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
const word = /true|false|null/y
const simpleEscapes = new Set(['"', '\\', '/', 'b', 'f', 'n', 'r', 't'])

const refuse = (at: number, message: string, kind: JsonFault['kind'] = 'format'): never => {
  throw { at, message, kind } satisfies JsonFault
}

function skipSpace(text: string, from: number): number {
  let at = from
  for (;;) {
    const c = text.charCodeAt(at)
    if (c !== 0x20 && c !== 0x0a && c !== 0x0d && c !== 0x09) return at
    at++
  }
}

const describe = (text: string, at: number): string =>
  at >= text.length ? 'the end of the text' : JSON.stringify(text[at])

/** The code of \uXXXX whose `u` is at `at`. */
function hexCode(text: string, at: number): number {
  const digits = text.slice(at + 1, at + 5)
  return /^[0-9a-fA-F]{4}$/.test(digits)
    ? Number.parseInt(digits, 16)
    : refuse(at, 'expected four hex digits after \\u')
}

/** Steps over an escape whose backslash is at `at`. */
function skipEscape(text: string, at: number): number {
  const kind = text[at + 1]
  if (simpleEscapes.has(kind)) return at + 2
  if (kind !== 'u') return refuse(at, `unknown escape ${describe(text, at + 1)}`)
  const code = hexCode(text, at + 1)
  if (code < 0xd800 || code > 0xdfff) return at + 6
  const paired =
    code < 0xdc00 && text.startsWith('\\u', at + 6) && (hexCode(text, at + 7) & 0xfc00) === 0xdc00 ? at + 12 : -1
  return paired > 0 ? paired : refuse(at, 'half of a surrogate pair: no character can be made of it')
}

/** Steps over a string whose opening quote is at `at`. */
function skipString(text: string, at: number): number {
  if (text[at] !== '"') return refuse(at, `expected a string in double quotes, got ${describe(text, at)}`)
  let i = at + 1
  for (;;) {
    const c = text.charCodeAt(i)
    if (c === 0x22) return i + 1
    if (c === 0x5c) i = skipEscape(text, i)
    else if (c >= 0x20) i++
    else if (i >= text.length) return refuse(i, 'the text ends inside a string: the file may be cut off')
    else return refuse(i, `control character ${JSON.stringify(text[i])} in a string must be escaped`)
  }
}

function skipNumber(text: string, at: number): number {
  number.lastIndex = at
  const match = number.exec(text)
  if (match === null) return refuse(at, `expected a number, got ${describe(text, at)}`)
  if (!Number.isFinite(Number(match[0]))) return refuse(at, `the number ${match[0].slice(0, 40)} is too large`)
  return at + match[0].length
}

/** Steps over a value that has no parts. */
function skipScalar(text: string, at: number): number {
  const c = text[at]
  if (c === '"') return skipString(text, at)
  if (c === '-' || (c >= '0' && c <= '9')) return skipNumber(text, at)
  word.lastIndex = at
  const match = word.exec(text)
  return match === null ? refuse(at, `expected a value, got ${describe(text, at)}`) : at + match[0].length
}

/** Steps over a key and its colon. */
function skipKey(text: string, at: number, keys: Set<string>): number {
  const end = skipString(text, at)
  const quoted = text.slice(at, end)
  const key = quoted.includes('\\') ? String(JSON.parse(quoted)) : quoted.slice(1, -1)
  if (keys.has(key)) refuse(at, `the key ${quoted.slice(0, 80)} stands in the same object twice`)
  keys.add(key)
  const colon = skipSpace(text, end)
  if (text[colon] !== ':') refuse(colon, `expected ':' after a key, got ${describe(text, colon)}`)
  return skipSpace(text, colon + 1)
}

/** After a value: closes what ends here; the place of the next value, or -1 when the outermost has ended. */
function toNextValue(text: string, from: number, levels: Level[]): number {
  let at = skipSpace(text, from)
  while (levels.length > 0) {
    const keys = levels[levels.length - 1]
    const close = keys === undefined ? ']' : '}'
    if (text[at] === ',') {
      at = skipSpace(text, at + 1)
      return keys === undefined ? at : skipKey(text, at, keys)
    }
    if (text[at] !== close) refuse(at, `expected ',' or '${close}', got ${describe(text, at)}`)
    levels.pop()
    at = skipSpace(text, at + 1)
  }
  if (at < text.length) refuse(at, `expected the end after the value, got ${describe(text, at)}`)
  return -1
}

/** Opens an object or list at `at`; the place of its first value, or -1 when it is empty. */
function open(text: string, at: number, levels: Level[]): number {
  const keys = text[at] === '{' ? new Set<string>() : undefined
  const inner = skipSpace(text, at + 1)
  if (text[inner] === (keys === undefined ? ']' : '}')) return -1
  levels.push(keys)
  return keys === undefined ? inner : skipKey(text, inner, keys)
}

function scan(text: string, depthLimit: number): void {
  const levels: Level[] = []
  let at = skipSpace(text, 0)
  while (at >= 0) {
    const c = text[at]
    if (c !== '{' && c !== '[') {
      at = toNextValue(text, skipScalar(text, at), levels)
      continue
    }
    if (levels.length >= depthLimit) refuse(at, `expected at most ${depthLimit} levels of nesting`, 'limit')
    const first = open(text, at, levels)
    at = first >= 0 ? first : toNextValue(text, skipSpace(text, at + 1) + 1, levels)
  }
}

/** The first fault of a text, or undefined when it is strict JSON. */
export function findJsonFault(text: string, depthLimit: number): JsonFault | undefined {
  try {
    scan(text, depthLimit)
    return undefined
  } catch (fault) {
    if (typeof fault === 'object' && fault !== null && 'at' in fault) return fault as JsonFault
    throw fault
  }
}
