// @huggingface/jinja as seen from outside. Its type declarations do not resolve under Node's rules, so what we use of it
// is declared here; it exports its interpreter but not the classes of its values, so those are taken from an
// environment. Also how Python prints values, which templates rely on.

import * as library from '@huggingface/jinja'

/** A value while a template runs; `type` is the name of its class in the library. */
export interface Value {
  readonly type: string
  readonly value: unknown
  __bool__(): { readonly value: boolean }
  toString(): string
}

/** A node of the syntax tree. */
export interface Statement {
  readonly type: string
}

/** Variables of a scope. */
export interface Environment {
  /** Converts a JavaScript value; throws when the name is taken. */
  set(name: string, value: unknown): Value
  setVariable(name: string, value: Value): Value
  lookupVariable(name: string): Value
}

interface InterpreterLike {
  run(program: Statement): Value
  evaluate(statement: Statement | undefined, environment: Environment): Value
}

export const Environment = library.Environment as unknown as new () => Environment
export const Interpreter = library.Interpreter as unknown as new (environment: Environment) => InterpreterLike

/** The syntax tree of a template; blocks are trimmed as Transformers does. */
export const parseTemplate = (source: string): Statement => {
  const tokenize = library.tokenize as unknown as (source: string, options: Record<string, boolean>) => unknown
  const parse = library.parse as unknown as (tokens: unknown) => Statement
  return parse(tokenize(source, { trim_blocks: true, lstrip_blocks: true }))
}

/** A function that templates can call: positional arguments, and those given by name. */
export type TemplateFunction = (args: readonly Value[], named: ReadonlyMap<string, Value>, scope: Environment) => Value

const probe = new Environment()

const StringValue = probe.set('text', '').constructor as new (text: string) => Value
const FunctionValue = probe.lookupVariable('namespace').constructor as new (
  call: (args: Value[], scope: Environment) => Value,
) => Value

/** A text. */
export const stringValue = (text: string): Value => new StringValue(text)

/** A JavaScript value as one of the template's. */
export const valueFrom = (value: unknown): Value => new Environment().set('value', value)

/** A function value. */
export const functionValue = (call: TemplateFunction): Value =>
  new FunctionValue((args, scope) => {
    const last = args[args.length - 1]
    const isNamed = last?.type === 'KeywordArgumentsValue'
    const named = isNamed ? (last.value as ReadonlyMap<string, Value>) : new Map<string, Value>()
    return call(isNamed ? args.slice(0, -1) : args, named, scope)
  })

/** Calls a function value without arguments. */
export const callValue = (value: Value, scope: Environment): Value =>
  (value.value as (args: Value[], scope: Environment) => Value)([], scope)

export const isText = (value: Value): value is Value & { value: string } => value.type === 'StringValue'
export const isInteger = (value: Value): value is Value & { value: number } => value.type === 'IntegerValue'
export const isMissing = (value: Value | undefined): boolean =>
  value === undefined || value.type === 'NullValue' || value.type === 'UndefinedValue'

/** Elements of a list or tuple, or undefined. */
export const elementsOf = (value: Value): readonly Value[] | undefined =>
  Array.isArray(value.value) ? (value.value as Value[]) : undefined

/** Entries of an object or namespace, or undefined. */
export const entriesOf = (value: Value): ReadonlyMap<string, Value> | undefined =>
  value.value instanceof Map ? (value.value as Map<string, Value>) : undefined

/** A float as Python's repr: 1.0, 1e+16, 1e-07. */
function floatText(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf'
  const size = Math.abs(value)
  if (size !== 0 && (size >= 1e16 || size < 1e-4))
    return value.toExponential().replace(/e([+-])(\d)$/, (_, sign: string, digit: string) => `e${sign}0${digit}`)
  return Number.isInteger(value) ? (Object.is(value, -0) ? '-0.0' : value.toFixed(1)) : String(value)
}

const words: Readonly<Record<string, (value: Value) => string>> = {
  StringValue: (value) => value.value as string,
  UndefinedValue: () => '',
  NullValue: () => 'None',
  BooleanValue: (value) => (value.value ? 'True' : 'False'),
  IntegerValue: (value) => String(value.value),
  FloatValue: (value) => floatText(value.value as number),
}

/** What `{{ value }}` writes: None, True and floats as Python writes them; lists and objects as JSON. */
export const printed = (value: Value): string => (words[value.type] ?? ((other: Value) => other.toString()))(value)

/** Layout of JSON text. */
export interface JsonLayout {
  readonly indent: number | undefined
  readonly itemSeparator: string
  readonly keySeparator: string
  readonly sortKeys: boolean
  readonly ascii: boolean
}

const escapedAscii = (text: string): string =>
  text.replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)

const quoted = (text: string, layout: JsonLayout): string =>
  layout.ascii ? escapedAscii(JSON.stringify(text)) : JSON.stringify(text)

const scalars: Readonly<Record<string, (value: Value, layout: JsonLayout) => string>> = {
  StringValue: (value, layout) => quoted(value.value as string, layout),
  NullValue: () => 'null',
  BooleanValue: (value) => String(value.value),
  IntegerValue: (value) => String(value.value),
  FloatValue: (value) => floatText(value.value as number),
}

/** A value as Python's json.dumps writes it. */
export function jsonText(value: Value, layout: JsonLayout, depth = 0): string {
  const list = elementsOf(value)?.map((element) => jsonText(element, layout, depth + 1))
  if (list !== undefined) return bracketed(list, '[]', layout, depth)
  const entries = entriesOf(value)
  if (entries === undefined) {
    const write = scalars[value.type]
    if (write === undefined) throw new Error(`a value of type ${value.type} has no JSON`)
    return write(value, layout)
  }
  const keys = layout.sortKeys ? [...entries.keys()].sort() : [...entries.keys()]
  const fields = keys.map((key) => {
    const inner = jsonText(entries.get(key) as Value, layout, depth + 1)
    return `${quoted(key, layout)}${layout.keySeparator}${inner}`
  })
  return bracketed(fields, '{}', layout, depth)
}

function bracketed(items: readonly string[], [open, close]: string, layout: JsonLayout, depth: number): string {
  if (layout.indent === undefined || items.length === 0) return `${open}${items.join(layout.itemSeparator)}${close}`
  const line = (level: number) => `\n${' '.repeat((layout.indent ?? 0) * level)}`
  return `${open}${line(depth + 1)}${items.join(`${layout.itemSeparator}${line(depth + 1)}`)}${line(depth)}${close}`
}
