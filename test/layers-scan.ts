// Reads the project's sources for layers.test.ts: imports, functions, calls and strings of TypeScript files by the
// compiler's own parser, functions and includes of native files by their lines. Judges nothing.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative } from 'node:path'
import ts from 'typescript'

/** The folder of package.json: above this file, or where the tests are run from when they were compiled elsewhere. */
export const root = findRoot(import.meta.dirname)

function findRoot(folder: string): string {
  if (existsSync(join(folder, 'CMakeLists.txt'))) return folder
  return dirname(folder) === folder ? process.cwd() : findRoot(dirname(folder))
}

export const readSource = (file: string): string => readFileSync(join(root, file), 'utf8')

/** Files below a folder with one of these endings, relative to the project's folder, sorted. */
export function filesBelow(folder: string, ...endings: string[]): string[] {
  if (!existsSync(join(root, folder))) return []
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
    .sort()
}

/** Number of lines of a text. */
export const countLines = (text: string): number => text.replace(/\n$/, '').split('\n').length

export interface Import {
  /** A file of the project (`ts/src/base/errors.ts`), or the name as it is written for packages and built-ins. */
  readonly target: string
  readonly local: boolean
}

export interface FunctionSize {
  readonly name: string
  readonly line: number
  readonly lines: number
  readonly parameters: number
}

/** What the rules need to know of one TypeScript file. */
export interface SourceFacts {
  readonly file: string
  readonly text: string
  readonly lines: number
  readonly imports: readonly Import[]
  readonly functions: readonly FunctionSize[]
  /** Every identifier, every `a.b`, and `a()` for what is called or constructed. */
  readonly names: ReadonlySet<string>
  /** Every string literal and template piece. */
  readonly strings: readonly string[]
}

/** The .ts file that an import of a .js file means. */
function resolveImport(file: string, specifier: string): string {
  return posix.normalize(posix.join(posix.dirname(file), specifier)).replace(/\.js$/, '.ts')
}

function importOf(node: ts.Node, file: string): Import | undefined {
  const make = (specifier: string): Import => {
    const local = specifier.startsWith('.')
    return { target: local ? resolveImport(file, specifier) : specifier, local }
  }
  if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier !== undefined)
    return make((node.moduleSpecifier as ts.StringLiteral).text)
  if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    const [first] = node.arguments
    if (first !== undefined && ts.isStringLiteralLike(first)) return make(first.text)
  }
  if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument) && ts.isStringLiteral(node.argument.literal))
    return make(node.argument.literal.text)
  return undefined
}

type WithBody = ts.FunctionLikeDeclaration & { body: ts.Node }

const hasBody = (node: ts.Node): node is WithBody =>
  ts.isFunctionLike(node) && 'body' in node && node.body !== undefined

function functionName(node: WithBody): string {
  if (node.name !== undefined) return node.name.getText()
  const { parent } = node
  if (ts.isVariableDeclaration(parent) || ts.isPropertyAssignment(parent)) return parent.name.getText()
  return ts.isConstructorDeclaration(node) ? 'constructor' : '(anonymous)'
}

/** Reads one TypeScript (or JavaScript) file. */
export function scan(file: string): SourceFacts {
  const text = readSource(file)
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true)
  const imports: Import[] = []
  const functions: FunctionSize[] = []
  const names = new Set<string>()
  const strings: string[] = []
  const lineOf = (position: number): number => source.getLineAndCharacterOfPosition(position).line + 1
  const visit = (node: ts.Node): void => {
    const found = importOf(node, file)
    if (found !== undefined) imports.push(found)
    if (hasBody(node)) {
      const line = lineOf(node.getStart())
      const lines = lineOf(node.end) - line + 1
      functions.push({ name: functionName(node), line, lines, parameters: node.parameters.length })
    }
    if (ts.isIdentifier(node)) names.add(node.text)
    if ((ts.isCallExpression(node) || ts.isNewExpression(node)) && ts.isIdentifier(node.expression))
      names.add(`${node.expression.text}()`)
    if (ts.isPropertyAccessExpression(node)) names.add(`${node.expression.getText()}.${node.name.text}`)
    if (ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node))
      strings.push(node.text)
    ts.forEachChild(node, visit)
  }
  visit(source)
  return { file, text, lines: countLines(text), imports, functions, names, strings }
}

/** `name: type|value` of everything that a module exports, sorted. */
export function exportsOf(file: string): string[] {
  const config = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root)
  const program = ts.createProgram([join(root, file)], { ...options, noEmit: true, incremental: false })
  const checker = program.getTypeChecker()
  const source = program.getSourceFile(join(root, file))
  const module = source && checker.getSymbolAtLocation(source)
  if (module === undefined) return []
  const kind = (symbol: ts.Symbol): string => {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
    return target.flags & ts.SymbolFlags.Value ? 'value' : 'type'
  }
  const lines = checker.getExportsOfModule(module).map((symbol) => `${symbol.name}: ${kind(symbol)}`)
  return lines.sort((a, b) => (a < b ? -1 : 1))
}

/** Included files of a native file: `"../core/op.h"` resolved, `<vector>` as written. */
export function includesOf(file: string): string[] {
  const lines = readSource(file).matchAll(/^\s*#\s*include\s+(?:"([^"]+)"|(<[^>]+>))/gm)
  return [...lines].map(([, local, system]) =>
    local === undefined ? system : posix.normalize(posix.join(posix.dirname(file), local)),
  )
}

/** First line of what cannot be a function, at the level where functions stand. */
const notFunctions =
  /^(namespace|struct|class|enum|union|extern|using|if|for|while|switch|do|else|return|#|\/|\}|\)|\s|$)/

/**
 * Functions of a native file by their lines: a head with a `(` at the level of a namespace (no indent) or of a class
 * (two blanks), whose first line that ends in `{`, `}` or `;` ends in `{`; the body ends with `}` at the same indent.
 */
export function nativeFunctions(file: string): FunctionSize[] {
  const lines = readSource(file).split('\n')
  const found: FunctionSize[] = []
  for (const indent of ['', '  '])
    lines.forEach((line, i) => {
      const head = line.slice(indent.length)
      if (!line.startsWith(indent) || notFunctions.test(head) || !head.includes('(')) return
      const open = lines.findIndex((text, at) => at >= i && /[{};\\]$/.test(text.replace(/\s*\/\/.*$/, '')))
      if (open < 0 || !/\{(\s*\/\/.*)?$/.test(lines[open])) return
      const end = lines.findIndex((text, at) => at > open && text.startsWith(`${indent}}`))
      if (end > 0) found.push({ name: head.replace(/\(.*$/, ''), line: i + 1, lines: end - i + 1, parameters: 0 })
    })
  return found
}
