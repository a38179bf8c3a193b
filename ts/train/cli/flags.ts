// Flags made from a catalogue of settings: `--name value` for each, with description, choices and default in the help.
// A flag may have any spelling of its name; what nobody knows is refused with the nearest. Text becomes a value by the
// kinds of the setting; everything else about values is the schema's business.

import { type Command, Option } from 'commander'
import { WhetstoneError } from '../../src/base/errors.js'
import { didYouMean, plainName } from '../../src/base/spelling.js'
import { parseJson } from '../../src/io/json.js'
import { type Catalogue, type Field, type Setting, spellWords } from '../config/catalogue.js'
import type { Given } from '../config/file.js'
import { commandLine, valueText } from '../config/resolve.js'

/** Parsed options of a command. */
export type Options = Readonly<Record<string, string | boolean | readonly string[] | undefined>>

/** Is `--json` among the arguments? Asked when they cannot be read, too. */
export const asksForJson = (given: readonly string[]): boolean =>
  given.slice(0, given.includes('--') ? given.indexOf('--') : undefined).some((word) => /^--json$/i.test(word))

/** Gathers the values of an option that may be given several times, in their order. */
export const gathered = (value: string, before: readonly string[] = []): readonly string[] => [...before, value]

/** Settings whose flags a command has, for the spellings of their names. */
const catalogues = new WeakMap<Command, Catalogue>()

/** What gives commands their flags when they are the ones that were asked for. */
const preparations = new WeakMap<Command, () => void>()

/** Leaves the making of a command's flags until it is asked for. */
export const prepareLater = (command: Command, prepare: () => void): void => {
  preparations.set(command, prepare)
}

const numeric = ({ kinds }: Field): boolean => kinds.has('number') || kinds.has('integer')

function placeholder(field: Field): string {
  if (field.kinds.has('boolean')) return '[true|false]'
  if (field.kinds.has('array')) return '<list>'
  if (numeric(field)) return '<n>'
  return field.kinds.has('object') ? '<json>' : '<text>'
}

function helpText({ field }: Setting, fallback: unknown): string {
  const words = [...new Set([...field.choices, ...(field.items?.choices ?? [])])]
  const choices = words.length === 0 ? '' : ` (${words.join(', ')})`
  const initial = fallback === undefined ? '' : ` [${typeof fallback === 'string' ? fallback : valueText(fallback)}]`
  return `${field.description}${choices}${initial}`
}

/**
 * Adds a flag for every setting.
 *
 * @param defaults by path, where they differ from the schemas'
 */
export function addFlags(
  command: Command,
  catalogue: Catalogue,
  defaults: Readonly<Record<string, unknown>> = {},
): Command {
  catalogues.set(command, catalogue)
  for (const setting of catalogue.settings) {
    const text = helpText(setting, defaults[setting.path] ?? setting.field.fallback)
    const option = new Option(`--${setting.shortest} ${placeholder(setting.field)}`, text)
    command.addOption(option.helpGroup(`${setting.group.title}:`))
  }
  return command
}

const words: Readonly<Record<string, unknown>> = { true: true, false: false }

/** A flag's text as a value; text that is none stays text, for the schema to refuse. */
function parseText(name: string, field: Field, text: string): unknown {
  if (field.choices.includes(text)) return text
  if (field.kinds.has('boolean') && Object.hasOwn(words, text)) return words[text]
  if (/^[[{]/.test(text) && (field.kinds.has('array') || field.kinds.has('object'))) return parseJson(text, `--${name}`)
  if (field.items !== undefined && (text.includes(',') || !field.kinds.has('string'))) {
    const { items } = field
    const parts = text.includes(',') ? text.split(',').map((item) => item.trim()) : [text]
    return parts.map((item) => parseText(name, items, item))
  }
  if (numeric(field) && text.trim() !== '' && !Number.isNaN(Number(text))) return Number(text)
  return text
}

/**
 * The settings that were given as flags.
 *
 * @throws WhetstoneError E_FORMAT for a list or object that is no JSON
 */
export function readFlags({ settings }: Catalogue, options: Options): Given[] {
  return settings.flatMap((setting) => {
    const given = options[setting.shortest]
    if (given === undefined) return []
    const value = typeof given === 'string' ? parseText(setting.shortest, setting.field, given) : given
    return [{ setting, value: spellWords(setting.field, value), origin: commandLine }]
  })
}

function refuse(where: string, message: string): never {
  throw new WhetstoneError('E_CONFIG', where, message)
}

const namesOf = (command: Command): string[] =>
  command.options.flatMap(({ long }) => (long ? [long.slice(2)] : [])).concat('help')

/** `--name`, as the command spells it; `--no-name` is `--name=false` for what is true or false. */
function spellFlag(command: Command, name: string): string {
  const catalogue = catalogues.get(command)
  const known = namesOf(command)
  const same = (wanted: string) => known.find((candidate) => plainName(candidate) === plainName(wanted))
  const found = same(name) ?? catalogue?.find(name)?.shortest
  if (found !== undefined) return `--${found}`
  const negated = /^no[-_]/.test(name) ? (same(name.slice(3)) ?? catalogue?.find(name.slice(3))?.shortest) : undefined
  if (negated !== undefined && optionOf(command, negated)?.optional === true) return `--${negated}=false`
  return refuse(
    `--${name}`,
    `unknown option of '${command.name()}'${didYouMean(name, known, '--') || '; --help lists them'}`,
  )
}

const optionOf = (command: Command, name: string): Option | undefined =>
  command.options.find(({ long }) => long === `--${name}`)

/** The command below that a word names. */
function subcommand(command: Command, word: string): Command {
  const found = command.commands.find(
    (candidate) => candidate.name() === word || plainName(candidate.name()) === plainName(word),
  )
  if (found !== undefined) {
    preparations.get(found)?.()
    return found
  }
  const known = command.commands.map((candidate) => candidate.name())
  return refuse(command.name(), `expected one of ${known.join(', ')}, got '${word}'${didYouMean(word, known)}`)
}

/**
 * Arguments with commands and flags as the program spells them.
 *
 * @throws WhetstoneError E_CONFIG for an unknown command or flag, with the nearest
 */
export function spellArguments(program: Command, given: readonly string[]): string[] {
  const spelled: string[] = []
  let command = program
  for (let i = 0; i < given.length; i++) {
    const [, name, value = ''] = /^--([^=]+)(=.*)?$/s.exec(given[i]) ?? []
    if (given[i] === '--') return [...spelled, ...given.slice(i)]
    if (name !== undefined) {
      const flag = spellFlag(command, name)
      spelled.push(flag + value)
      if (value === '' && optionOf(command, flag.slice(2))?.required === true) spelled.push(...given.slice(++i, i + 1))
    } else if (given[i].startsWith('-') || command.commands.length === 0) spelled.push(given[i])
    else {
      command = given[i] === 'help' ? command : subcommand(command, given[i])
      spelled.push(given[i] === 'help' ? 'help' : command.name())
    }
  }
  return spelled
}
