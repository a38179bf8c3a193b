// Config files: YAML, or JSON by its ending. Keys have any spelling; settings of a group stand at the top level or under
// the group's name. Every value remembers its line. A run folder's config.json, whose values stand beside their origins, is
// one too. What a value may be is the schemas' business.

import { WhetstoneError } from '../../src/base/errors.js'
import { didYouMean, plainName } from '../../src/base/spelling.js'
import { readBytes } from '../../src/io/files.js'
import { decodeUtf8, isJsonObject, parseJson } from '../../src/io/json.js'
import { type Catalogue, type Group, type Setting, spellWords } from './catalogue.js'
import type { Entry } from './yaml.js'

/** A setting that somebody gave, and where. */
export interface Given {
  readonly setting: Setting
  readonly value: unknown
  readonly origin: string
}

const limitBytes = 2 ** 20

const jsonEntries = (value: Readonly<Record<string, unknown>>, where: string): Entry[] =>
  Object.entries(value).map(([key, own]) => ({
    key,
    value: own,
    where,
    inside: isJsonObject(own) ? jsonEntries(own, where) : undefined,
  }))

/** A setting as a run folder keeps it; one that nobody gave and that has no default is an origin alone. */
const isKept = (entry: unknown): entry is { readonly value?: unknown; readonly origin: string } =>
  isJsonObject(entry) &&
  typeof entry.origin === 'string' &&
  Object.keys(entry).every((key) => key === 'value' || key === 'origin')

/** The settings that a run folder keeps. */
const keptEntries = (kept: Readonly<Record<string, unknown>>, where: string): Entry[] =>
  Object.entries(kept).flatMap(([key, entry]) =>
    isKept(entry) && entry.value !== undefined ? [{ key, value: entry.value, where, inside: undefined }] : [],
  )

const isKeptRun = (value: Readonly<Record<string, unknown>>): boolean =>
  Object.keys(value).length > 0 && Object.values(value).every(isKept)

async function readEntries(path: string): Promise<Entry[]> {
  const text = decodeUtf8(await readBytes(path, limitBytes), path)
  if (!path.endsWith('.json')) return (await import('./yaml.js')).readYaml(text, path)
  const value = parseJson(text, path)
  if (isJsonObject(value)) return isKeptRun(value) ? keptEntries(value, path) : jsonEntries(value, path)
  throw new WhetstoneError('E_FORMAT', path, 'expected an object of settings')
}

function inGroup({ settings }: Catalogue, group: Group, entries: readonly Entry[]): Given[] {
  const own = settings.filter((setting) => setting.group === group)
  return entries.map((entry) => {
    const setting = own.find(({ key }) => plainName(key) === plainName(entry.key))
    if (setting !== undefined) return givenOf(setting, entry)
    const known = own.map(({ key }) => key)
    return refuse(entry, `${group.name}.${entry.key}`, known)
  })
}

const givenOf = (setting: Setting, { value, where }: Entry): Given => ({
  setting,
  value: spellWords(setting.field, value),
  origin: where,
})

function refuse({ where, key }: Entry, name: string, known: readonly string[]): never {
  throw new WhetstoneError('E_CONFIG', where, `unknown setting '${name}'${didYouMean(key, known)}`)
}

/**
 * Does the entry say again what the command leaves no choice about?
 *
 * @throws WhetstoneError E_CONFIG when it says something else
 */
function repeatsFixed({ fixed = {} }: Catalogue, { key, value, where }: Entry): boolean {
  if (!Object.hasOwn(fixed, key)) return false
  if (value === fixed[key]) return true
  const text = `expected '${key}' to be ${JSON.stringify(fixed[key])}, as the command says, got ${JSON.stringify(value)}`
  throw new WhetstoneError('E_CONFIG', where, text)
}

/**
 * The settings of a config file, in its order.
 *
 * @throws WhetstoneError E_IO, E_LIMIT, E_FORMAT with the line, E_CONFIG for unknown keys and for a setting given twice
 */
export async function readConfigFile(path: string, catalogue: Catalogue): Promise<Given[]> {
  const given = (await readEntries(path)).flatMap((entry) => {
    const group = entry.inside === undefined ? undefined : catalogue.findGroup(entry.key)
    if (group !== undefined && entry.inside !== undefined) return inGroup(catalogue, group, entry.inside)
    const setting = catalogue.find(entry.key)
    if (setting !== undefined) return [givenOf(setting, entry)]
    if (repeatsFixed(catalogue, entry)) return []
    const groups = catalogue.groups.flatMap(({ name }) => (name === '' ? [] : [name]))
    return refuse(entry, entry.key, [...catalogue.settings.map(({ shortest }) => shortest), ...groups])
  })
  const seen = new Map<Setting, string>()
  for (const { setting, origin } of given) {
    const before = seen.get(setting)
    if (before !== undefined)
      throw new WhetstoneError('E_CONFIG', origin, `'${setting.path}' was given before, at ${before}: keep one of them`)
    seen.set(setting, origin)
  }
  return given
}
