// The shape of the sources: who may import whom, how long files and functions may be, what is public, and what may
// happen in one place only. A rule that must be broken somewhere has that place in a list here, with the reason.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { errorCodes } from '../ts/src/base/errors.js'
import {
  countLines,
  exportsOf,
  filesBelow,
  includesOf,
  nativeFunctions,
  readSource,
  root,
  type SourceFacts,
  scan,
} from './layers-scan.js'

const exists = (file: string): boolean => existsSync(join(root, file))
const product = filesBelow('ts', '.ts').map(scan)
const tools = [...filesBelow('bench', '.ts'), ...filesBelow('scripts', '.mjs')].map(scan)
const tests = filesBelow('test', '.ts').map(scan)
const native = filesBelow('native', '.cpp', '.h', '.cu', '.cuh')
const nativeTests = filesBelow('test/native', '.cpp', '.h')

// Rooms ----------------------------------------------------------------------------------------------------------------

const below = {
  base: [],
  native: ['base'],
  io: ['base'],
  tensor: ['native', 'base'],
  autograd: ['tensor', 'base'],
  ops: ['autograd', 'tensor', 'native', 'base'],
  nn: ['ops', 'autograd', 'tensor', 'native', 'base'],
  tokenizer: ['io', 'base'],
  models: ['nn', 'tokenizer', 'ops', 'autograd', 'tensor', 'native', 'io', 'base'],
  generate: ['models', 'nn', 'tokenizer', 'ops', 'autograd', 'tensor', 'native', 'io', 'base'],
  loss: ['ops', 'tensor', 'base'],
  train: ['loss', 'generate', 'models', 'nn', 'tokenizer', 'ops', 'autograd', 'tensor', 'native', 'io', 'base'],
} as const satisfies Record<string, readonly string[]>
type Room = keyof typeof below

/** The public list, which may import anything to re-export it. */
const index = 'ts/src/index.ts'

const roomOf = (file: string): Room | undefined => {
  const name = file.match(/^ts\/src\/(\w+)\//)?.[1] ?? file.match(/^ts\/(loss|train)\//)?.[1]
  return name !== undefined && name in below ? (name as Room) : undefined
}

const importFaults = ({ file, imports }: SourceFacts): string[] => {
  if (file === index) return []
  const room = roomOf(file)
  if (room === undefined) return [`${file} is in no room`]
  const allowed: readonly string[] = [room, ...below[room]]
  return imports
    .filter(({ local, target }) => local && !allowed.includes(roomOf(target) ?? ''))
    .map(({ target }) => `${file} (${room}) imports ${target}`)
}

t.test('imports go one way', async (t) => {
  t.ok(product.length > 40, 'there are sources')
  t.same(product.flatMap(importFaults), [], 'no file imports from a room above or beside its own')
  const missing = product.flatMap(({ file, imports }) =>
    imports.filter(({ local, target }) => local && !exists(target)).map(({ target }) => `${file} imports ${target}`),
  )
  t.same(missing, [], 'every imported file exists')
})

t.test('recipes are wiring: no recipe imports another', async (t) => {
  const isRecipe = (file: string): boolean => /^ts\/train\/recipes\/(?!index\.ts)/.test(file)
  const faults = product
    .filter(({ file }) => isRecipe(file))
    .flatMap(({ file, imports }) =>
      imports.filter(({ target }) => isRecipe(target)).map(({ target }) => [file, target]),
    )
  t.same(faults, [])
})

t.test('no circle of imports', async (t) => {
  const edges = new Map(product.map(({ file, imports }) => [file, imports.filter((i) => i.local).map((i) => i.target)]))
  const done = new Set<string>()
  const circles: string[] = []
  const walk = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' -> '))
    if (done.has(file) || path.includes(file)) return
    for (const target of edges.get(file) ?? []) walk(target, [...path, file])
    done.add(file)
  }
  for (const file of edges.keys()) walk(file, [])
  t.same(circles, [])
})

t.test('packages that users do not get are not imported', async (t) => {
  const manifest = JSON.parse(readSource('package.json')) as Record<string, Record<string, string> | undefined>
  const shipped = { ...manifest.dependencies, ...manifest.optionalDependencies }
  const faults = product.flatMap(({ file, imports }) =>
    imports
      .filter(({ local, target }) => !local && !target.startsWith('node:'))
      .filter(({ target }) => !((target.match(/^(@[^/]+\/)?[^/]+/)?.[0] ?? target) in shipped))
      .map(({ target }) => `${file} imports ${target}`),
  )
  t.same(faults, [])
})

const nativeRooms: Readonly<Record<string, readonly string[]>> = {
  core: ['native/core/', 'native/ops.def'],
  cpu: ['native/cpu/', 'native/core/', 'native/ops.def'],
  cuda: ['native/cuda/', 'native/core/', 'native/ops.def'],
  binding: ['native/binding/', 'native/core/'],
}
const foreignHeaders: Readonly<Record<string, RegExp>> = {
  core: /napi|node_api|cuda|pthread|unistd|sched/,
  cpu: /napi|node_api|cuda/,
  cuda: /napi|node_api/,
  binding: /cuda|immintrin/,
}

t.test('native rooms include only what is below them', async (t) => {
  const faults = native.flatMap((file) => {
    const room = file.split('/')[1]
    return includesOf(file)
      .filter((name) =>
        name.startsWith('<')
          ? foreignHeaders[room].test(name)
          : !nativeRooms[room].some((part) => name.startsWith(part)),
      )
      .map((name) => `${file} includes ${name}`)
  })
  t.same(faults, [])
})

// Sizes ----------------------------------------------------------------------------------------------------------------

/** Files and functions (`file name`) that may be longer, and why. */
const longer: Readonly<Record<string, { readonly lines: number; readonly why: string }>> = {
  'ts/src/native/ops.gen.ts': { lines: 1000, why: 'generated table' },
  'ts/train/config/recipes.gen.ts': { lines: 1000, why: 'generated types' },
}

const caps = { file: 400, nativeFile: 600, recipe: 120, function: 60, kernel: 120, parameters: 6 }

const tooLong = (name: string, lines: number, cap: number): string[] =>
  lines > (longer[name]?.lines ?? cap) ? [`${name} has ${lines} lines, more than ${longer[name]?.lines ?? cap}`] : []

t.test('files are short', async (t) => {
  const capOf = (file: string): number => (/recipes\/(?!index\.ts)/.test(file) ? caps.recipe : caps.file)
  const typescript = [...product, ...tools, ...tests].flatMap(({ file, lines }) => tooLong(file, lines, capOf(file)))
  const cpp = [...native, ...nativeTests].flatMap((file) =>
    tooLong(file, countLines(readSource(file)), caps.nativeFile),
  )
  t.same([...typescript, ...cpp], [])
})

t.test('functions are short and take few parameters', async (t) => {
  const functions = [...product, ...tools].flatMap(({ file, functions }) => functions.map((f) => ({ file, ...f })))
  t.ok(functions.length > 300, 'functions are found')
  t.same(
    functions.flatMap(({ file, name, lines }) => tooLong(`${file} ${name}`, lines, caps.function)),
    [],
  )
  t.same(
    functions
      .filter(({ parameters }) => parameters > caps.parameters)
      .map(({ file, name, parameters }) => `${file} ${name} takes ${parameters} parameters`),
    [],
  )
  const lengths = product.flatMap((facts) => facts.functions.map(({ lines }) => lines)).sort((a, b) => a - b)
  const at = (share: number): number => lengths[Math.floor(share * (lengths.length - 1))]
  t.comment(`functions of ts/: ${lengths.length}, median ${at(0.5)} lines, 90th percentile ${at(0.9)}`)
  t.ok(at(0.5) < 13, 'median under 13 lines')
  t.ok(at(0.9) < 45, '90th percentile under 45 lines')
})

t.test('native functions are short', async (t) => {
  const found = native.flatMap((file) => nativeFunctions(file).map((f) => ({ file, ...f })))
  t.ok(found.length > 150, 'functions are found')
  const faults = found.flatMap(({ file, name, lines }) =>
    tooLong(`${file} ${name}`, lines, /^native\/(cpu|cuda)\//.test(file) ? caps.kernel : caps.function),
  )
  t.same(faults, [])
})

t.test('source lines', async (t) => {
  const sum = (lines: number[]): number => lines.reduce((total, n) => total + n, 0)
  const typescript = sum(product.map(({ lines }) => lines))
  const cpp = sum(native.map((file) => countLines(readSource(file))))
  const tested = sum([...tests.map(({ lines }) => lines), ...nativeTests.map((file) => countLines(readSource(file)))])
  t.comment(`source lines: ${typescript + cpp} (ts ${typescript}, native ${cpp}); tests ${tested}`)
  t.ok(typescript > 0 && cpp > 0 && tested > 0)
})

// Public names ---------------------------------------------------------------------------------------------------------

t.test('the public list is the committed one', async (t) => {
  const snapshot = 'test/snapshots/exports.txt'
  if (!t.ok(exists(index), `${index} exists`)) return
  const found = exportsOf(index)
  if (process.env.WHETSTONE_UPDATE_SNAPSHOTS) {
    mkdirSync(dirname(join(root, snapshot)), { recursive: true })
    writeFileSync(join(root, snapshot), `${found.join('\n')}\n`)
  }
  const committed = readSource(snapshot).trim().split('\n')
  t.same(found, committed, `an intended change: WHETSTONE_UPDATE_SNAPSHOTS=1 node dist/test/layers.test.js`)
  const indexFacts = product.filter(({ file }) => file === index)
  t.same(
    indexFacts.flatMap(({ functions }) => functions.map(({ name }) => name)),
    [],
    'the index holds no logic',
  )
})

// Tables ---------------------------------------------------------------------------------------------------------------

t.test('generated files fit their sources', async (t) => {
  t.doesNotThrow(() => execFileSync(process.execPath, ['scripts/gen-ops.mjs', '--check'], { cwd: root }))
})

t.test('native/sources.json lists every native file once', async (t) => {
  const groups = JSON.parse(readSource('native/sources.json')) as Record<string, string[]>
  const listed = Object.values(groups).flat().sort()
  t.same(
    listed,
    native.filter((file) => /\.(cpp|cu)$/.test(file)),
  )
})

/** Codes that nothing raises yet. */
const reservedCodes: Readonly<Record<string, string>> = {}

t.test('every error code is raised somewhere', async (t) => {
  const nativeText = native
    .filter((file) => file !== 'native/core/check.h')
    .map(readSource)
    .join('\n')
  const raised = (code: string): boolean =>
    product.some(({ file, strings }) => file !== 'ts/src/base/errors.ts' && strings.includes(code)) ||
    new RegExp(`\\bCode::${code.slice(2).toLowerCase()}\\b|, ${code.slice(2).toLowerCase()},`).test(nativeText)
  const idle = Object.keys(errorCodes).filter((code) => !raised(code))
  t.same(idle.sort(), Object.keys(reservedCodes).sort())
})

// One place only -------------------------------------------------------------------------------------------------------

const using = (name: string): string[] => product.filter(({ names }) => names.has(name)).map(({ file }) => file)
const importing = (module: RegExp): string[] =>
  product.filter(({ imports }) => imports.some(({ target }) => module.test(target))).map(({ file }) => file)

t.test('native code is loaded in one place', async (t) => {
  t.same(using('process.dlopen'), [])
  const finders = product.filter(({ strings }) => strings.includes('node-gyp-build')).map(({ file }) => file)
  t.same(finders, ['ts/src/native/addon.ts'])
  t.same(
    using('loadAddon').filter((file) => roomOf(file) !== 'native'),
    [],
    'the addon is known to its room alone',
  )
})

t.test('who names the symbols of `using` makes sure first that they are there', async (t) => {
  const symbols = 'ts/src/base/dispose.ts'
  const naming = product.filter(({ file, names }) => file !== symbols && names.has('Symbol.dispose'))
  t.ok(naming.length > 3, 'files are found')
  t.same(
    naming.filter(({ imports }) => imports[0]?.target !== symbols).map(({ file }) => file),
    [],
    'first of all imports',
  )
})

t.test('file content is parsed as JSON in one place', async (t) => {
  /** json-scan.ts decodes single keys of a text that json.ts has parsed. */
  t.same(using('JSON.parse'), ['ts/src/io/json-scan.ts', 'ts/src/io/json.ts'].filter(exists))
})

t.test('processes are started where that is allowed; text is never code; no network', async (t) => {
  /** Sandboxed checkers of samples, when they exist; the trial of the CUDA driver. */
  const allowed = ['ts/train/loop/sandbox.ts', 'ts/src/native/cuda.ts']
  t.same(
    importing(/^(node:)?child_process$/).filter((file) => !allowed.includes(file)),
    [],
  )
  t.same(importing(/^(node:)?(vm|cluster|inspector|net|tls|dgram|dns|https?|http2)(\/|$)/), [])
  t.same([...using('eval()'), ...using('Function()')], [])
})

// Text -----------------------------------------------------------------------------------------------------------------

const everySource = (): string[] => [
  ...[...product, ...tools, ...tests].map(({ file }) => file),
  ...native,
  ...nativeTests,
]

t.test('every file says first what it holds; nothing is left to do in silence', async (t) => {
  /** A shebang may come first; what belongs to a header is said there. */
  const speaks = (file: string): boolean =>
    /^(#!.*\n)?\/\//.test(readSource(file)) || exists(file.replace(/\.cpp$/, '.h'))
  const silent = everySource().filter((file) => !speaks(file))
  t.same(silent, [])
  const marks = /\b(T[O]DO|F[I]XME|X[X]X)\b/
  t.same(
    everySource().filter((file) => marks.test(readSource(file))),
    [],
  )
})

/** Tracked files; where there is no git, the sources. */
function trackedFiles(): string[] {
  try {
    const list = execFileSync('git', ['ls-files', '-z'], { cwd: root, stdio: ['ignore', 'pipe', 'ignore'] }).toString()
    const files = list.split('\0').filter(Boolean)
    return files.length > 0 ? files.filter(exists) : everySource()
  } catch {
    return everySource()
  }
}

t.test('no file speaks of the machine that it was written on', async (t) => {
  const folders = ['home', 'root', 'Users', 'work', 'workspace', 'tmp'].join('|')
  const absolute = new RegExp(`(^|[\\s"'\`(=:,\\[])/(${folders})/\\w`, 'm')
  const own = [root, homedir()].filter((folder) => folder.split('/').length > 2)
  const faults = trackedFiles().filter((file) => {
    if (/^test\/golden\/|\.(png|safetensors|node)$/.test(file)) return false
    const text = readSource(file)
    return absolute.test(text) || own.some((folder) => text.includes(`${folder}/`))
  })
  t.same(faults, [])
})
