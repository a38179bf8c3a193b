// Rewrites the syntax tree of a template so that it runs on the functions of jinja-functions.ts: `x.strip()` becomes a
// call of #strip on x, `x | tojson` one of #tojson, and an expression that writes its value one of #print.

import { filters, methods } from './jinja-functions.js'

/** A node of the library's tree. */
interface Node {
  type: string
  [key: string]: unknown
}

const isNode = (value: unknown): value is Node =>
  typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string'

/** A node of another kind that the library still takes for one of its own. */
const remade = (like: Node, fields: Node): Node => Object.assign(Object.create(Object.getPrototypeOf(like)), fields)

const nameOf = (node: unknown): string | undefined =>
  isNode(node) && node.type === 'Identifier' ? String(node.value) : undefined

const call = (like: Node, name: string, args: readonly unknown[]): Node =>
  remade(like, { type: 'CallExpression', callee: remade(like, { type: 'Identifier', value: name }), args: [...args] })

const entryOf = (table: Readonly<Record<string, string>>, name: string | undefined): string | undefined =>
  name !== undefined && Object.hasOwn(table, name) ? table[name] : undefined

function rewriteCall(node: Node): Node {
  const callee = node.callee as Node
  const target = callee.type === 'MemberExpression' && callee.computed !== true ? callee : undefined
  const name = entryOf(methods, nameOf(target?.property))
  if (target !== undefined && name !== undefined) return call(node, name, [target.object, ...(node.args as unknown[])])
  return nameOf(callee) === '__generation' ? call(node, '#generation', []) : node
}

function rewriteFilter(node: Node): Node {
  const filter = node.filter as Node
  const isCall = filter.type === 'CallExpression'
  const name = entryOf(filters, nameOf(isCall ? filter.callee : filter))
  return name === undefined ? node : call(node, name, [node.operand, ...(isCall ? (filter.args as unknown[]) : [])])
}

const rewriteBinary = (node: Node): Node =>
  (node.operator as { value?: unknown }).value === '~' ? call(node, '#concat', [node.left, node.right]) : node

/** A filter over a block: those that may grow a text or are written anew here are not supported. */
function checkFilterBlock(node: Node): Node {
  const filter = node.filter as Node
  const name = nameOf(filter.type === 'CallExpression' ? filter.callee : filter)
  if (entryOf(filters, name) !== undefined && name !== 'trim')
    throw new Error(`the filter ${name} is not supported on a block`)
  return node
}

const rules: Readonly<Record<string, (node: Node) => Node>> = {
  CallExpression: rewriteCall,
  FilterExpression: rewriteFilter,
  BinaryExpression: rewriteBinary,
  FilterStatement: checkFilterBlock,
}

/** Statements that write nothing themselves, or whose text the library writes right. */
const statements: ReadonlySet<string> = new Set([
  'Set',
  'If',
  'For',
  'Macro',
  'CallStatement',
  'FilterStatement',
  'Break',
  'Continue',
  'Comment',
  'StringLiteral',
])

/** Fields of a node that hold statements; everywhere else stand expressions. */
const blocks: ReadonlySet<string> = new Set(['body', 'alternate', 'defaultBlock'])

const writes = (node: unknown): unknown =>
  isNode(node) && !statements.has(node.type) ? call(node, '#print', [node]) : node

function rewritten(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(rewritten)
  if (value instanceof Map) return new Map([...value].map(([key, inner]) => [rewritten(key), rewritten(inner)]))
  return isNode(value) ? rewrite(value) : value
}

/** Rewrites a tree from its leaves up, in place. */
export function rewrite<N extends { type: string }>(root: N): N {
  const node = root as unknown as Node
  for (const [key, value] of Object.entries(node)) {
    const inner = rewritten(value)
    node[key] = blocks.has(key) && Array.isArray(inner) ? inner.map(writes) : inner
  }
  const rule = Object.hasOwn(rules, node.type) ? rules[node.type] : undefined
  return (rule === undefined ? node : rule(node)) as unknown as N
}

/** Does a tree hold a generation block? To be asked before rewriting. */
export function hasGeneration(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(hasGeneration)
  if (value instanceof Map) return [...value].some(hasGeneration)
  if (!isNode(value)) return false
  return nameOf(value) === '__generation' || Object.values(value).some(hasGeneration)
}

/** The nodes that give loops what they go over; a loop with a condition holds the list inside. */
export function iterablesOf(value: unknown): { type: string }[] {
  if (Array.isArray(value)) return value.flatMap(iterablesOf)
  if (value instanceof Map) return [...value].flatMap(iterablesOf)
  if (!isNode(value)) return []
  const iterable = value.type === 'For' ? (value.iterable as Node) : undefined
  const list = iterable?.type === 'SelectExpression' ? (iterable.lhs as Node) : iterable
  return [...(list === undefined ? [] : [list]), ...Object.values(value).flatMap(iterablesOf)]
}
