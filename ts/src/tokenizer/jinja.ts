// Runs chat templates, which are programs in data files, by the interpreter of @huggingface/jinja under limits: steps,
// depth, size of source, texts and lists. Templates see plain values only. Blocks are trimmed as Transformers does.
// Limits that this cannot give: memory is bounded by the limits of values, not counted, and a step is a node of the
// tree plus a share of the text and lists it touches, not a unit of time (all of them take about a second).

import { messageOf, WhetstoneError } from '../base/errors.js'
import { outputLimit, TemplateRefusal, templateFunctions } from './jinja-functions.js'
import { hasGeneration, iterablesOf, rewrite } from './jinja-rewrite.js'
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
  /** The nodes whose lists loops go over. */
  readonly iterables: ReadonlySet<Statement>
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
/** Templates of current models take less than a tenth of it for long conversations. */
const stepLimit = 2_000_000
/** A pass of a loop costs the library a scope and a dozen values. */
const stepsPerPass = 16
const depthLimit = 500
const weightLimit = 2 * outputLimit
const keptTemplates = 16

const where = 'chat_template'

const refuse = (message: string, cause?: unknown): never => {
  throw new WhetstoneError('E_TEMPLATE', where, message, { cause })
}

/** What went wrong; the library goes down the tree by recursion, so what is too deep exhausts the stack. */
const reasonOf = (cause: unknown): string =>
  cause instanceof RangeError ? 'it goes too deep or too far' : messageOf(cause)

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
    const marksGeneration = hasGeneration(program)
    const rewritten = rewrite(program)
    const template = { marksGeneration, program: rewritten, iterables: new Set(iterablesOf(rewritten)) }
    if (compiled.size >= keptTemplates) compiled.clear()
    compiled.set(source, template)
    return template
  } catch (cause) {
    return refuse(`cannot parse it: ${reasonOf(cause)}`, cause)
  }
}

/** Steps that a value costs by its size. */
interface Price {
  readonly character: number
  readonly element: number
}

const foundPrice: Price = { character: 1 / 256, element: 1 / 64 }
const madePrice: Price = { character: 1 / 32, element: 1 }

/** Is the value found, or made anew? What is found may still be searched or copied by the node above. */
function priceOf(statement: Statement | undefined): Price {
  if (statement?.type === 'Identifier') return foundPrice
  if (statement?.type !== 'MemberExpression') return madePrice
  const { property } = statement as Statement & { property: Statement }
  return property.type === 'SliceExpression' ? madePrice : foundPrice
}

/** Elements of a list or entries of an object. */
const lengthOf = (value: Value): number => elementsOf(value)?.length ?? entriesOf(value)?.size ?? 0

/** The library's interpreter with a budget. */
class BoundedInterpreter extends Interpreter {
  private steps = 0
  private depth = 0
  /** Characters and elements that a list or object would take when written. */
  private readonly weights = new WeakMap<Value, number>()

  constructor(
    environment: Environment,
    private readonly iterables: ReadonlySet<Statement>,
  ) {
    super(environment)
  }

  override evaluate(statement: Statement | undefined, environment: Environment): Value {
    if (++this.depth > depthLimit) throw new Error(`expected at most ${depthLimit} levels of nesting`)
    try {
      const value = super.evaluate(statement, environment)
      this.charge(value, priceOf(statement))
      if (statement !== undefined && this.iterables.has(statement)) this.spend(stepsPerPass * lengthOf(value))
      return value
    } finally {
      this.depth--
    }
  }

  private spend(steps: number): void {
    this.steps += steps
    if (this.steps > stepLimit) throw new Error(`expected at most ${stepLimit} steps`)
  }

  private charge(value: Value, price: Price): void {
    if (isText(value)) {
      if (value.value.length > outputLimit) throw new Error(`expected at most ${outputLimit} characters of text`)
      this.spend(1 + Math.floor(value.value.length * price.character))
      return
    }
    const isPlain = elementsOf(value) !== undefined || value.type === 'ObjectValue'
    if (isPlain && this.weigh(value) > weightLimit) throw new Error('a list or object became too large')
    this.spend(1 + Math.floor(lengthOf(value) * price.element))
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
    const result = new BoundedInterpreter(environment, template.iterables).run(template.program)
    return String(result.value)
  } catch (cause) {
    if (cause instanceof TemplateRefusal) return refuse(cause.message, cause)
    return refuse(`cannot render it: ${reasonOf(cause)}`, cause)
  }
}
