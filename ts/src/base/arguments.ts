// What callers may pass. The compiler checks calls of TypeScript; these checks are for plain JavaScript, whose callers
// would else get a TypeError from deep inside, or nothing at all. Kinds are data: what was expected in words, and whether
// a value fits. Ranges and what options mean together are checked where they are used.

import { WhetstoneError } from './errors.js'
import { didYouMean } from './spelling.js'

/** A kind of value. */
export interface Kind {
  /** In words: `a number`. */
  readonly expected: string
  readonly fits: (value: unknown) => boolean
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isNumberArray = (value: unknown): value is ArrayLike<number> =>
  Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))

const ofType = (type: string, expected: string): Kind => ({ expected, fits: (value) => typeof value === type })

/** A list whose entries are of a kind. */
export const listOf = ({ expected, fits }: Kind): Kind => ({
  expected: `a list, each entry ${expected}`,
  fits: (value) => Array.isArray(value) && value.every(fits),
})

/** Of a kind, or left out. null is no way to leave something out. */
export const optional = ({ expected, fits }: Kind): Kind => ({
  expected: `${expected}, or nothing`,
  fits: (value) => value === undefined || fits(value),
})

/** One of some kinds. */
export const either = (...some: readonly Kind[]): Kind => ({
  expected: some.map(({ expected }) => expected).join(', or '),
  fits: (value) => some.some(({ fits }) => fits(value)),
})

/** One of some words. */
export const word = (...words: readonly string[]): Kind => ({
  expected: words.map((one) => `'${one}'`).join(' or '),
  fits: (value) => typeof value === 'string' && words.includes(value),
})

/** An object with some members, such as what a function of this package gives. */
export const having = (expected: string, ...members: readonly string[]): Kind => ({
  expected,
  fits: (value) => isObject(value) && members.every((member) => value[member] !== undefined && value[member] !== null),
})

const text = ofType('string', 'text')
const number: Kind = { expected: 'a number', fits: (value) => typeof value === 'number' && !Number.isNaN(value) }
const isWhole = (value: unknown): value is number => typeof value === 'number' && Number.isSafeInteger(value)

/** Kinds that many functions take. */
export const kinds = {
  text,
  number,
  filled: { expected: 'text with at least one character', fits: (value) => typeof value === 'string' && value !== '' },
  path: { expected: 'a path', fits: (value) => typeof value === 'string' && value !== '' },
  whole: { expected: 'a whole number of at least 0', fits: (value) => isWhole(value) && value >= 0 },
  count: { expected: 'a whole number of at least 1', fits: (value) => isWhole(value) && value >= 1 },
  flag: ofType('boolean', 'true or false'),
  call: ofType('function', 'a function'),
  object: { expected: 'an object', fits: isObject },
  list: { expected: 'a list', fits: Array.isArray },
  iterable: {
    expected: 'a list',
    fits: (value) => typeof value === 'object' && value !== null && Symbol.iterator in value,
  },
  /** A list or a typed array. */
  numbers: {
    expected: 'a list of numbers',
    // What evaluations are made of holds nothing else, and need not be walked through in every step.
    fits: (value) =>
      value instanceof Float64Array ||
      (isNumberArray(value) && Array.prototype.every.call(value, (v: unknown) => typeof v === 'number')),
  },
  float64: { expected: 'a Float64Array', fits: (value) => value instanceof Float64Array },
  signal: { expected: 'an AbortSignal', fits: (value) => value instanceof AbortSignal },
} as const satisfies Record<string, Kind>

const kindOf = (value: unknown): string => (value === null ? 'null' : `a value of type ${typeof value}`)

/** Its class, where it has one that tells more than its members. */
function shownObject(value: object): string {
  const members = Object.keys(value).slice(0, 8).join(', ')
  if (members !== '') return `an object with ${members}`
  const { name } = (Object.getPrototypeOf(value) as { constructor?: { name?: unknown } } | null)?.constructor ?? {}
  return typeof name === 'string' && name !== '' && name !== 'Object'
    ? `an object of class ${name}`
    : 'an object with no members'
}

/** A value in a few words: `the number 7`, `nothing`. */
export function shownArgument(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (Array.isArray(value))
    return value.length === 0 ? 'an empty list' : `a list of ${value.length} that begins with ${kindOf(value[0])}`
  if (typeof value === 'function') return 'a function'
  if (value instanceof Promise) return 'a promise (is `await` missing?)'
  if (typeof value === 'object') return shownObject(value)
  return typeof value === 'string' ? `'${value.slice(0, 80)}'` : `the ${typeof value} ${String(value)}`
}

/** A setting or a field as an error shows it: as JSON, but for what JSON has no word for. */
export function shownValue(value: unknown, most = 200): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'number') return String(value)
  const finite = (_: string, part: unknown) =>
    typeof part === 'number' && !Number.isFinite(part) ? String(part) : part
  try {
    return (JSON.stringify(value, finite) ?? shownArgument(value)).slice(0, most)
  } catch {
    return shownArgument(value)
  }
}

function refuse(where: string, expected: string, value: unknown): never {
  const got = shownArgument(value)
  throw new WhetstoneError('E_CONFIG', where, `expected ${expected}, got ${got}`, { details: { expected, got } })
}

/**
 * Checks one argument.
 *
 * @param where function and argument: `loadModel.directory`
 * @throws WhetstoneError E_CONFIG
 */
export function checkArgument(where: string, value: unknown, { expected, fits }: Kind): void {
  if (!fits(value)) refuse(where, expected, value)
}

/** Known names that are listed beside a hint. */
const mostListed = 20

/**
 * Refuses a name that is not among the known ones. It is refused with the value undefined too: a name is no accident.
 *
 * @param where function and option: `loadModel.dtyp`
 * @throws WhetstoneError E_CONFIG with the known names, and what may have been meant
 */
export function refuseUnknown(where: string, name: string, known: readonly string[], from = ''): never {
  const hint = didYouMean(name, known)
  // A long list would hide the hint.
  const list = hint === '' || known.length <= mostListed ? `; expected one of ${known.join(', ')}` : ''
  const message = `unknown option${from}${list}${hint}`
  throw new WhetstoneError('E_CONFIG', where, message, { details: { known } })
}

/**
 * Checks those members of an object that have a kind here; it may have others, which belong to somebody else.
 *
 * @param name of what takes it, for errors: `countStep: sequence`
 * @throws WhetstoneError E_CONFIG
 */
export function checkMembers(name: string, given: unknown, members: Readonly<Record<string, Kind>>): void {
  if (!isObject(given)) refuse(name, 'an object of options', given)
  for (const [member, kind] of Object.entries(members)) checkArgument(`${name}.${member}`, given[member], kind)
}

/**
 * Checks an object of options: every name is one that is known, every value of its kind.
 *
 * @param name of the function, for errors: `train`
 * @throws WhetstoneError E_CONFIG
 */
export function checkOptions(name: string, options: unknown, members: Readonly<Record<string, Kind>>): void {
  if (!isObject(options)) refuse(name, 'an object of options', options)
  const known = Object.keys(members)
  for (const option of Object.keys(options))
    if (!Object.hasOwn(members, option)) refuseUnknown(`${name}.${option}`, option, known)
  checkMembers(name, options, members)
}

/** Those members of an object that a table of kinds has: what is passed on of options that belong to several. */
export const membersOf = <T extends object, K extends string>(
  given: T,
  members: Readonly<Record<K, unknown>>,
): Pick<T, K & keyof T> =>
  Object.fromEntries(Object.entries(given).filter(([name]) => Object.hasOwn(members, name))) as Pick<T, K & keyof T>
