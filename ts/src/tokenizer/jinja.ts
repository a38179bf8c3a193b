// Runs chat templates, which are programs in data files, by the interpreter of @huggingface/jinja under limits: steps,
// depth, size of source, texts and lists. Templates see plain values only. Blocks are trimmed as Transformers does.
// Limits that this cannot give: memory is bounded by the limits of values, not counted, and a step is a node of the
// tree plus a share of the text it touches, not a unit of time (5,000,000 of them take about a second).

import { messageOf, WhetstoneError } from '../base/errors.js'
import { outputLimit, TemplateRefusal, templateFunctions } from './jinja-functions.js'
import { hasGeneration, rewrite } from './jinja-rewrite.js'
import {
  Environment,
  elementsOf,
  entriesOf,
  Interpreter,
  isText,
  parseTemplate,
  type Statement,
  stringValue,
  type Value,
} from './jinja-values.js'

/** A parsed template. */
export interface Template {
  readonly program: Statement
  /** The template marks what the assistant writes by generation blocks. */
  readonly marksGeneration: boolean
}

/** Texts put around what generation blocks write. */
export interface GenerationMarks {
  readonly begin: string
  readonly end: string
}

const sourceLimit = 256 * 1024
/** The library's lexer takes time in the square of a run of space. */
const spaceRun = /\s{500}/
const stepLimit = 5_000_000
const depthLimit = 500
const weightLimit = 2 * outputLimit
const keptTemplates = 16

const where = 'chat_template'

const refuse = (message: string, cause?: unknown): never => {
  throw new WhetstoneError('E_TEMPLATE', where, message, { cause })
}

const compiled = new Map<string, Template>()

/**
 * Line ends as Jinja reads them, and generation blocks as `call` blocks, so that the library trims space around their
 * tags as around any other.
 */
const prepared = (source: string): string =>
  source
    .replace(/\r\n?/g, '\n')
    .replace(/\{%(-?)\s*generation\s*(-?)%\}/g, '{%$1 call __generation() $2%}')
    .replace(/\{%(-?)\s*endgeneration\s*(-?)%\}/g, '{%$1 endcall $2%}')

/**
 * Parses a template, or finds it among those parsed before.
 *
 * @throws WhetstoneError E_TEMPLATE
 */
export function compileTemplate(source: string): Template {
  const known = compiled.get(source)
  if (known !== undefined) return known
  if (source.length > sourceLimit) refuse(`expected at most ${sourceLimit} characters of source, got ${source.length}`)
  if (spaceRun.test(source)) refuse('expected no run of 500 spaces or line ends in the source')
  try {
    const program = parseTemplate(prepared(source))
    const template = { marksGeneration: hasGeneration(program), program: rewrite(program) }
    if (compiled.size >= keptTemplates) compiled.clear()
    compiled.set(source, template)
    return template
  } catch (cause) {
    return refuse(`cannot parse it: ${messageOf(cause)}`, cause)
  }
}

/** The library's interpreter with a budget. */
class BoundedInterpreter extends Interpreter {
  private steps = 0
  private depth = 0
  /** Characters and elements that a list or object would take when written. */
  private readonly weights = new WeakMap<Value, number>()

  override evaluate(statement: Statement | undefined, environment: Environment): Value {
    if (++this.depth > depthLimit) throw new Error(`expected at most ${depthLimit} levels of nesting`)
    try {
      const value = super.evaluate(statement, environment)
      this.charge(value, statement?.type === 'Identifier' || statement?.type === 'MemberExpression')
      return value
    } finally {
      this.depth--
    }
  }

  private charge(value: Value, isLookup: boolean): void {
    this.steps++
    if (isText(value)) {
      if (value.value.length > outputLimit) throw new Error(`expected at most ${outputLimit} characters of text`)
      this.steps += value.value.length >> (isLookup ? 8 : 5)
    } else if (elementsOf(value) !== undefined || value.type === 'ObjectValue') {
      if (this.weigh(value) > weightLimit) throw new Error('a list or object became too large')
      this.steps += (elementsOf(value)?.length ?? 0) >> 6
    }
    if (this.steps > stepLimit) throw new Error(`expected at most ${stepLimit} steps`)
  }

  /** Lists and objects do not change once made, so a weight holds; namespaces do, so they stay outside of lists. */
  private weigh(value: Value): number {
    if (isText(value)) return value.value.length + 1
    const inner = elementsOf(value) ?? entriesOf(value)?.values()
    if (inner === undefined) return 1
    const known = this.weights.get(value)
    if (known !== undefined) return known
    if (value.type === 'NamespaceValue') throw new Error('a namespace cannot be part of a list or object')
    let sum = 1
    for (const part of inner) sum += this.weigh(part)
    this.weights.set(value, sum)
    return sum
  }
}

function environmentOf(variables: Readonly<Record<string, unknown>>, marks: GenerationMarks): Environment {
  const environment = new Environment()
  for (const [name, value] of templateFunctions) environment.setVariable(name, value)
  environment.setVariable('#begin', stringValue(marks.begin))
  environment.setVariable('#end', stringValue(marks.end))
  for (const name of ['true', 'True']) environment.set(name, true)
  for (const name of ['false', 'False']) environment.set(name, false)
  for (const name of ['none', 'None']) environment.set(name, null)
  for (const [name, value] of Object.entries(variables)) environment.set(name, value)
  return environment
}

/**
 * Renders a template.
 *
 * @throws WhetstoneError E_TEMPLATE: the template's own message when it raises one, else what went wrong
 */
export function runTemplate(
  template: Template,
  variables: Readonly<Record<string, unknown>>,
  marks: GenerationMarks = { begin: '', end: '' },
): string {
  try {
    const environment = environmentOf(variables, marks)
    const result = new BoundedInterpreter(environment).run(template.program)
    return String(result.value)
  } catch (cause) {
    if (cause instanceof TemplateRefusal) return refuse(cause.message, cause)
    return refuse(`cannot render it: ${messageOf(cause)}`, cause)
  }
}
