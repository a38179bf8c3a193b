// Functions that stand in for methods and filters of the jinja library: those that differ from Python there (strip with
// characters, capitalize, what `None` prints as), and those whose result may be far larger than their arguments.

import {
  callValue,
  elementsOf,
  entriesOf,
  functionValue,
  isInteger,
  isMissing,
  isText,
  jsonText,
  printed,
  stringValue,
  type TemplateFunction,
  type Value,
  valueFrom,
} from './jinja-values.js'

/** Largest text that a template may make, in UTF-16 units. */
export const outputLimit = 16 * 2 ** 20
/** Longest range or list of parts. */
const countLimit = 100_000
const indentLimit = 64

/** Raised by a template itself: the message is the template's own. */
export class TemplateRefusal extends Error {}

/** Characters that Python counts as space and Unicode does not. */
const separators = '\u001c\u001d\u001e\u001f'
/** Space as Python's str.strip and str.split know it. */
const space = new RegExp(`[\\p{White_Space}${separators}]`, 'u')
const word = new RegExp(`[^\\p{White_Space}${separators}]+`, 'gu')
/** What Python's str.splitlines cuts at. */
const lineEnds = new RegExp(`\r\n|[\n\r\v\f${separators.slice(0, 3)}\u0085\u2028\u2029]`)

const textOf = (value: Value | undefined, method: string): string => {
  if (value !== undefined && isText(value)) return value.value
  throw new Error(`${method} works on text, got ${value?.type ?? 'nothing'}`)
}

const bounded = (length: number): void => {
  if (length > outputLimit) throw new Error(`expected at most ${outputLimit} characters of text`)
}

const integerOf = (value: Value | undefined, fallback: number, what: string): number => {
  if (value === undefined || isMissing(value)) return fallback
  if (isInteger(value)) return value.value
  throw new Error(`${what} must be a whole number`)
}

const truth = (value: Value | undefined): boolean => value?.__bool__().value ?? false

/** The character that ends before `to`. */
const characterBefore = (text: string, to: number): string =>
  String.fromCodePoint((to > 1 ? text.codePointAt(to - 2) : 0) ?? 0).length === 2
    ? text.slice(to - 2, to)
    : text[to - 1]

function stripText(text: string, characters: string | undefined, left: boolean, right: boolean): string {
  const set = characters === undefined ? undefined : new Set(characters)
  const drop = (c: string): boolean => (set === undefined ? space.test(c) : set.has(c))
  let [from, to] = [0, text.length]
  for (let c = ''; left && from < to; from += c.length) {
    c = String.fromCodePoint(text.codePointAt(from) ?? 0)
    if (!drop(c)) break
  }
  for (let c = ''; right && to > from; to -= c.length) {
    c = characterBefore(text, to)
    if (!drop(c)) break
  }
  return text.slice(from, to)
}

const strip =
  (left: boolean, right: boolean): TemplateFunction =>
  ([text, characters]) => {
    const set = characters === undefined || isMissing(characters) ? undefined : textOf(characters, 'strip')
    return stringValue(stripText(textOf(text, 'strip'), set, left, right))
  }

/** The filter also takes what is no text. */
const trim: TemplateFunction = ([value, characters]) =>
  strip(true, true)(
    [stringValue(printed(value)), ...(characters === undefined ? [] : [characters])],
    new Map(),
    scopeless,
  )

/** Stands for a scope in calls that look at none. */
const scopeless = undefined as never

const occurrences = (text: string, part: string): number => {
  let count = 0
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count++
  return count
}

const replace: TemplateFunction = ([value, before, after, limit], named) => {
  const [text, old, fresh] = [textOf(value, 'replace'), textOf(before, 'replace'), textOf(after, 'replace')]
  if (old === '') throw new Error('replace() of an empty text is not supported')
  const most = integerOf(limit ?? named.get('count'), -1, 'count')
  const count = Math.min(occurrences(text, old), most < 0 ? Number.POSITIVE_INFINITY : most)
  bounded(text.length + count * (fresh.length - old.length))
  const parts = text.split(old)
  return stringValue([...parts.slice(0, count), parts.slice(count).join(old)].join(fresh))
}

/** Parts between runs of space; behind the last allowed cut the text stays as it is. */
function splitAtSpace(text: string, most: number): string[] {
  const parts: string[] = []
  for (const { 0: part, index } of text.matchAll(word)) {
    if (parts.length === most) return [...parts, text.slice(index)]
    if (parts.length === countLimit) throw new Error(`expected at most ${countLimit} parts`)
    parts.push(part)
  }
  return parts
}

const split: TemplateFunction = ([value, separator, limit], named) => {
  const text = textOf(value, 'split')
  const most = integerOf(limit ?? named.get('maxsplit'), -1, 'maxsplit')
  const by = separator ?? named.get('sep')
  if (by === undefined || isMissing(by)) return valueFrom(splitAtSpace(text, most))
  const sep = textOf(by, 'split')
  if (sep === '') throw new Error('empty separator')
  if (occurrences(text, sep) > countLimit) throw new Error(`expected at most ${countLimit} parts`)
  const parts = text.split(sep)
  return valueFrom(
    most < 0 ? parts : [...parts.slice(0, most), ...(parts.length > most ? [parts.slice(most).join(sep)] : [])],
  )
}

const capitalize: TemplateFunction = ([value]) => {
  const [first = '', ...rest] = printed(value)
  return stringValue(first.toUpperCase() + rest.join('').toLowerCase())
}

/** Jinja's filter: the first line and empty lines are left alone unless asked for. */
const indent: TemplateFunction = ([value, width, first, blank], named) => {
  const by = width ?? named.get('width')
  const margin = by !== undefined && isText(by) ? by.value : ' '.repeat(Math.min(countLimit, integerOf(by, 4, 'width')))
  const lines = printed(value).split(lineEnds)
  bounded(lines.length * margin.length + lines.reduce((sum, line) => sum + line.length, 0))
  const all = truth(blank ?? named.get('blank'))
  const body = lines.map((line, i) => (i > 0 && (all || line !== '') ? margin + line : line)).join('\n')
  return stringValue(truth(first ?? named.get('first')) ? margin + body : body)
}

const join: TemplateFunction = ([value, separator, attribute], named) => {
  const by = separator ?? named.get('d')
  const text = by === undefined || isMissing(by) ? '' : printed(by)
  const key = attribute ?? named.get('attribute')
  const items = elementsOf(value) ?? [...textOf(value, 'join')].map(stringValue)
  const parts = items.map((item) => {
    const inner = key === undefined ? item : entriesOf(item)?.get(printed(key))
    return inner === undefined ? '' : printed(inner)
  })
  bounded(parts.reduce((sum, part) => sum + part.length + text.length, 0))
  return stringValue(parts.join(text))
}

const tojson: TemplateFunction = ([value, ...rest], named) => {
  const [ascii, indentation, separators, sortKeys] = ['ensure_ascii', 'indent', 'separators', 'sort_keys'].map(
    (name, i) => rest[i] ?? named.get(name),
  )
  const by = indentation === undefined || isMissing(indentation) ? undefined : integerOf(indentation, 0, 'indent')
  if (by !== undefined && (by < 0 || by > indentLimit)) throw new Error(`expected an indent of 0 to ${indentLimit}`)
  const marks = separators === undefined ? undefined : elementsOf(separators)
  const text = jsonText(value, {
    indent: by,
    itemSeparator: marks === undefined ? (by === undefined ? ', ' : ',') : textOf(marks[0], 'tojson'),
    keySeparator: marks === undefined ? ': ' : textOf(marks[1], 'tojson'),
    sortKeys: truth(sortKeys),
    ascii: truth(ascii),
  })
  return stringValue(text)
}

const range: TemplateFunction = (args) => {
  const numbers = args.map((value) => integerOf(value, 0, 'range()'))
  const [start, stop] = numbers.length < 2 ? [0, numbers[0] ?? 0] : numbers
  const step = numbers[2] ?? 1
  if (step === 0) throw new Error('range() step must not be zero')
  const count = Math.max(0, Math.ceil((stop - start) / step))
  if (count > countLimit) throw new Error(`expected a range of at most ${countLimit} numbers, got ${count}`)
  return valueFrom(Array.from({ length: count }, (_, i) => start + i * step))
}

const raise: TemplateFunction = ([message]) => {
  throw new TemplateRefusal(message === undefined ? '' : printed(message))
}

/** Runs a `call` block and frames what it wrote by the marks of the run. */
const generation: TemplateFunction = (_args, _named, scope) => {
  const mark = (name: string): string => printed(scope.lookupVariable(name))
  const body = printed(callValue(scope.lookupVariable('caller'), scope))
  return stringValue(mark('#begin') + body + mark('#end'))
}

/** Methods of texts that calls are turned away from, by the function that takes the text as its first argument. */
export const methods: Readonly<Record<string, string>> = {
  strip: '#strip',
  lstrip: '#lstrip',
  rstrip: '#rstrip',
  replace: '#replace',
  split: '#split',
  capitalize: '#capitalize',
}

/** Filters that are turned away from. */
export const filters: Readonly<Record<string, string>> = {
  trim: '#trim',
  replace: '#replace',
  capitalize: '#capitalize',
  indent: '#indent',
  join: '#join',
  tojson: '#tojson',
}

/** Every function of a template's outermost scope. Names with # cannot be written in a template. */
export const templateFunctions: readonly (readonly [name: string, value: Value])[] = Object.entries({
  '#strip': strip(true, true),
  '#lstrip': strip(true, false),
  '#rstrip': strip(false, true),
  '#trim': trim,
  '#replace': replace,
  '#split': split,
  '#capitalize': capitalize,
  '#indent': indent,
  '#join': join,
  '#tojson': tojson,
  '#print': ([value]: readonly Value[]) => stringValue(printed(value)),
  '#concat': ([left, right]: readonly Value[]) => stringValue(printed(left) + printed(right)),
  '#generation': generation,
  range,
  raise_exception: raise,
} satisfies Record<string, TemplateFunction>).map(([name, call]) => [name, functionValue(call)] as const)
