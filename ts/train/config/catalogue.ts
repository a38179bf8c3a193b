// The settings of a command, gathered from several zod schemas: training, the objective's own, `lora.*`. A setting has
// one path (`learningRate`, `dpo.beta`, `lora.r`) and many spellings: any case and separators, TRL's snake_case among
// them, and its last part alone where that is not another setting's. Flags, help and config files are made from here.

import * as z from 'zod'
import { plainName } from '../../src/base/spelling.js'
import { isJsonObject } from '../../src/io/json.js'

/** Settings that share a schema and a prefix. */
export interface Group {
  /** Stands before the names of its settings, and over them in a config file; '' for the top level. */
  readonly name: string
  /** Heading in the help. */
  readonly title: string
  readonly schema: z.ZodObject
  /** The help spells its settings with the group's name. */
  readonly prefixed?: boolean
}

/** What a setting may hold, as far as text must be told apart. */
export interface Field {
  readonly kinds: ReadonlySet<string>
  /** Words that it may be. */
  readonly choices: readonly string[]
  /** What its list holds. */
  readonly items: Field | undefined
  /** Names in its object. */
  readonly keys: readonly string[]
  readonly fallback: unknown
  readonly description: string
}

/** One setting of a command. */
export interface Setting {
  readonly path: string
  readonly group: Group
  /** Its name in the group's schema. */
  readonly key: string
  /** How the help spells it. */
  readonly shortest: string
  /** Does its key alone mean it? */
  readonly alone: boolean
  readonly field: Field
}

/** All settings of a command. */
export interface Catalogue {
  readonly groups: readonly Group[]
  readonly settings: readonly Setting[]
  /** Settings that the command leaves no choice about: a file may repeat them. */
  readonly fixed?: Readonly<Record<string, unknown>>
  /** The setting that a name means, however it is spelled. */
  find(name: string): Setting | undefined
  /** The group that a name means. */
  findGroup(name: string): Group | undefined
}

/** TRL's names, plain, of what has another name here. */
const aliases: Readonly<Record<string, string>> = {
  modelnameorpath: 'model',
  outputdir: 'output',
  teachermodelnameorpath: 'reference',
  simpogamma: 'gamma',
  cpoalpha: 'sftweight',
  maxnewtokens: 'maxcompletionlength',
  rewardfuncs: 'rewards',
  rewardmodelpath: 'rewards',
  usepeft: 'lora',
  usebnbnestedquant: 'bnb4bitusedoublequant',
}

interface JsonField {
  readonly type?: string | readonly string[]
  readonly enum?: readonly unknown[]
  readonly const?: unknown
  readonly anyOf?: readonly JsonField[]
  readonly items?: JsonField
  readonly properties?: Readonly<Record<string, JsonField>>
  readonly default?: unknown
  readonly description?: string
}

function fieldOf(json: JsonField): Field {
  const variants = (json.anyOf ?? []).map(fieldOf)
  const types = [json.type ?? []].flat()
  const words = json.enum ?? (json.const === undefined ? [] : [json.const])
  return {
    kinds: new Set([...types, ...variants.flatMap(({ kinds }) => [...kinds])]),
    choices: [...words.filter((word) => typeof word === 'string'), ...variants.flatMap(({ choices }) => choices)],
    items: json.items === undefined ? variants.find(({ items }) => items !== undefined)?.items : fieldOf(json.items),
    keys: [...Object.keys(json.properties ?? {}), ...variants.flatMap(({ keys }) => keys)],
    fallback: json.default,
    description: json.description ?? '',
  }
}

function fieldsOf(schema: z.ZodObject): [key: string, field: Field][] {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
  return Object.entries((json.properties ?? {}) as Record<string, JsonField>).map(([key, field]) => [
    key,
    fieldOf(field),
  ])
}

/** Lays out the settings of some groups. */
export function catalogueOf(groups: readonly Group[]): Catalogue {
  const found = groups.flatMap((group) => fieldsOf(group.schema).map(([key, field]) => ({ group, key, field })))
  const owners = new Map<string, number>()
  for (const { key } of found) owners.set(plainName(key), (owners.get(plainName(key)) ?? 0) + 1)
  const settings = found.map(({ group, key, field }): Setting => {
    const path = group.name === '' ? key : `${group.name}.${key}`
    const alone = group.name === '' || owners.get(plainName(key)) === 1
    return { path, group, key, field, shortest: alone && group.prefixed !== true ? key : path, alone }
  })
  const bySpelling = new Map(settings.map((setting) => [plainName(setting.path), setting]))
  for (const setting of settings) if (setting.alone) bySpelling.set(plainName(setting.key), setting)
  return {
    groups,
    settings,
    find: (name) => {
      const plain = plainName(name)
      return bySpelling.get(plain) ?? bySpelling.get(aliases[plain] ?? '')
    },
    findGroup: (name) => groups.find((group) => group.name !== '' && plainName(group.name) === plainName(name)),
  }
}

/** The words and names of a field however they are spelled: TRL's `exo_pair` is `exoPair`. Other values stay as they are. */
export function spellWords(field: Field, value: unknown): unknown {
  if (Array.isArray(value) && field.items !== undefined) return value.map((item) => spellWords(field.items!, item))
  if (isJsonObject(value)) return spellKeys(field, value)
  if (typeof value !== 'string' || field.choices.includes(value)) return value
  return field.choices.find((word) => plainName(word) === plainName(value)) ?? value
}

/** An object with the names of its field; one that is there twice stays as it is, to be refused. */
function spellKeys({ keys }: Field, value: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const nameOf = (key: string): string => {
    const name = keys.find((known) => plainName(known) === plainName(key)) ?? key
    return Object.hasOwn(value, name) ? key : name
  }
  return Object.fromEntries(Object.entries(value).map(([key, own]) => [nameOf(key), own]))
}
