// What the README and the pages of docs/ show is so: their ```ts blocks compile in a strict project and run, one after
// another, in a folder with the rows that pages show (```jsonl NAME) and tiny models under the names that pages use. A
// block that cannot run here is ```ts no-run. Links lead to files that the package holds.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { filesBelow, readSource, root } from './layers-scan.js'
import { temporaryFolder } from './support.js'

t.setTimeout(400_000)

/** A fenced block of a page. */
interface Block {
  readonly language: string
  /** What stands behind the language. */
  readonly info: string
  readonly text: string
  /** Of its first line in the page. */
  readonly line: number
}

const pages = ['README.md', ...filesBelow('docs', '.md')]

const lineAt = (text: string, at: number): number => text.slice(0, at).split('\n').length

const blocksOf = (page: string): Block[] => {
  const source = readSource(page)
  return [...source.matchAll(/^```(\w+)([^\n]*)\n(.*?)^```$/gms)].map(({ 1: language, 2: info, 3: text, index }) => ({
    language,
    info: info.trim(),
    text,
    line: lineAt(source, index) + 1,
  }))
}

/** Golden models under the names that pages use. */
const models: Readonly<Record<string, string>> = {
  'SmolLM2-135M-Instruct': 'smollm',
  'SmolLM2-360M-Instruct': 'smollm',
}

// Outside of the project, as a user's is; no link in its path, or a program does not know itself by its name.
const folder = realpathSync(await temporaryFolder(t))
mkdirSync(join(folder, 'node_modules'))
symlinkSync(root, join(folder, 'node_modules/whetstone'))
writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')

const rows = pages.flatMap((page) => blocksOf(page).filter(({ language, info }) => language === 'jsonl' && info !== ''))

/** The folder of a page: its programs, and everything that they read. */
function preparePage(page: string): string[] {
  const own = join(folder, page.replace(/\W/g, '-'))
  mkdirSync(own)
  for (const [name, model] of Object.entries(models))
    symlinkSync(join(root, 'test/golden/models', model), join(own, name))
  for (const { info, text } of rows) writeFileSync(join(own, info), text)
  return blocksOf(page).flatMap(({ language, info, text, line }) => {
    if (language !== 'ts') return []
    const file = join(own, `line-${line}${info === 'no-run' ? '.no-run' : ''}.ts`)
    // Errors then have the lines of the page.
    writeFileSync(file, '\n'.repeat(line - 1) + text)
    return [file]
  })
}

const programs = new Map(pages.map((page) => [page, preparePage(page)]))

/** What `tsc --init` and a user of Node choose. */
const settings: ts.CompilerOptions = {
  strict: true,
  module: ts.ModuleKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts'],
  types: ['node'],
  typeRoots: [join(root, 'node_modules/@types')],
  skipLibCheck: true,
  noEmitOnError: false,
}
const program = ts.createProgram([...programs.values()].flat(), settings)

t.test('there are snippets', async (t) => {
  t.ok([...programs.values()].flat().length > 20)
  t.same(
    pages.flatMap((page) => blocksOf(page).filter(({ language }) => /^(js|javascript|typescript)$/.test(language))),
    [],
    'snippets are ```ts',
  )
  const known = ['', 'no-run']
  const infos = pages.flatMap((page) =>
    blocksOf(page).flatMap(({ language, info }) => (language === 'ts' ? [info] : [])),
  )
  t.same(
    infos.filter((info) => !known.includes(info)),
    [],
  )
})

const shown = (diagnostic: ts.Diagnostic): string => {
  const { file, start = 0, messageText } = diagnostic
  const place = file === undefined ? '' : `${file.fileName.replace(folder, '')}:${lineAt(file.text, start)}: `
  return place + ts.flattenDiagnosticMessageText(messageText, '\n')
}

t.test('snippets compile', async (t) => {
  t.same(ts.getPreEmitDiagnostics(program).map(shown), [])
  program.emit()
})

for (const [page, files] of programs) {
  const runnable = files.filter((file) => !file.endsWith('.no-run.ts'))
  if (runnable.length === 0) continue
  t.test(`snippets run: ${page}`, async (t) => {
    const own = dirname(runnable[0])
    const names = runnable.map((file) => file.slice(own.length + 1).replace(/ts$/, 'js'))
    writeFileSync(
      join(own, 'all.js'),
      names.map((name) => `console.log('\\n== ${name}')\nawait import('./${name}')\n`).join(''),
    )
    const { status, stdout, stderr } = spawnSync(process.execPath, ['all.js'], { cwd: own, encoding: 'utf8' })
    t.equal(status, 0, { stdout: stdout.split('\n').slice(-20), stderr: stderr.split('\n').slice(-30) })
    t.equal(stdout.match(/^== /gm)?.length, names.length, 'each of them')
    const promised = readSource(page).match(/^console\.log\(.*\/\/ true:/gm)?.length ?? 0
    t.equal(stdout.match(/^true$/gm)?.length ?? 0, promised, 'what is said to be true is')
    t.comment(stdout)
  })
}

t.test('settings have documentation where an editor asks for it', async (t) => {
  const file = join(folder, 'hover.ts')
  writeFileSync(
    file,
    "import type { GrpoOptions, TrainOptions } from 'whetstone'\nexport type Both = [GrpoOptions, TrainOptions]",
  )
  const own = ts.createProgram([file], settings)
  const checker = own.getTypeChecker()
  const source = own.getSourceFile(file)
  const alias = source?.statements.find(ts.isTypeAliasDeclaration)
  if (alias === undefined || !ts.isTupleTypeNode(alias.type)) throw new Error('the types are not found')
  const documented = (node: ts.TypeNode, name: string): string => {
    const property = checker.getTypeFromTypeNode(node).getProperty(name)
    return ts.displayPartsToString(property?.getDocumentationComment(checker))
  }
  const [grpo, train] = alias.type.elements
  t.equal(documented(train, 'learningRate'), 'Peak learning rate. From 0, default `2e-5`.')
  t.equal(
    documented(train, 'maxLength'),
    'Tokens per sequence; longer ones are cut, and counted. From 2, default `1024`.',
  )
  t.equal(documented(grpo, 'numGenerations'), 'Samples per prompt. From 2, default `8`.')
  t.match(documented(grpo, 'rewardFuncs'), /Judges of samples/)
})

/** Everything that the package holds besides programs and binaries. */
const isPacked = (path: string): boolean => /^(docs\/[\w-]+\.(md|svg)|README\.md|CHANGELOG\.md|LICENSE)$/.test(path)

t.test('links lead to what the package holds', async (t) => {
  const links = pages.flatMap((page) =>
    [...readSource(page).matchAll(/\]\(([^)#\s]+)(#[\w-]+)?\)/g)]
      .filter(([, target]) => !/^https?:/.test(target))
      .map(([, target]) => join(dirname(page), target)),
  )
  t.ok(links.length > 10)
  t.same(
    links.filter((path) => !isPacked(path) || !existsSync(join(root, path))),
    [],
  )
  const packed = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).files
  t.ok(packed.includes('docs') && packed.includes('README.md'))
})
