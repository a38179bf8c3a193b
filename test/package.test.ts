// The package as users get it: what is in the tarball, and that it installs into an empty folder and generates text
// where there is no compiler, no script runs, and the prebuilt addon is all there is. Dependencies come from the registry.

import { execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import t from 'tap'
import { root } from './layers-scan.js'

t.setTimeout(280_000)

const megabyte = 2 ** 20
const model = join(root, 'test/golden/models/llama')

// Outside of the project, or Node would find the project's own node_modules from there.
const folder = mkdtempSync(join(tmpdir(), 'whetstone-package-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
const bin = join(folder, 'bin')
const app = join(folder, 'app')
mkdirSync(bin)
mkdirSync(app)
symlinkSync(process.execPath, join(bin, 'node'))

/** npm's own program, to be run by Node: on PATH it would need a shell's help. */
function findNpm(): string {
  const candidates = [
    process.env.npm_execpath ?? '',
    ...(process.env.PATH ?? '').split(delimiter).map((part) => join(part, 'npm')),
  ]
  const found = candidates.find((file) => file !== '' && existsSync(file))
  if (found === undefined) throw new Error('npm is not on PATH')
  return realpathSync(found)
}

/** The environment of a user without a compiler: only node on PATH, nothing of this project's or of a running npm. */
function userEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(npm_(?!config_(registry|cache|userconfig)$)|WHETSTONE_|TAP_|NODE_OPTIONS$|NODE_V8)/i.test(name),
  )
  return { ...Object.fromEntries(kept), PATH: bin, PREBUILDS_ONLY: '1' }
}

const npm = (args: readonly string[], cwd: string, env: NodeJS.ProcessEnv): string =>
  execFileSync(process.execPath, [findNpm(), ...args], {
    cwd,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })

const runInApp = (args: readonly string[]): string =>
  execFileSync(join(bin, 'node'), args, { cwd: app, env: userEnvironment(), encoding: 'utf8' })

interface Packed {
  readonly filename: string
  readonly unpackedSize: number
  readonly files: readonly { readonly path: string }[]
}

function pack(): Packed {
  execFileSync(process.execPath, ['scripts/prebuild.mjs'], { cwd: root, stdio: 'pipe' })
  const args = ['pack', '--ignore-scripts', '--json', '--pack-destination', folder]
  const [packed] = JSON.parse(npm(args, root, userEnvironment())) as Packed[]
  return packed
}

const packed = pack()
const paths = packed.files.map(({ path }) => path)

/** Everything that may be in the tarball. */
const allowed = [
  /^(package\.json|README\.md|CHANGELOG\.md|LICENSE)$/,
  /^docs\/[\w-]+\.(md|svg)$/,
  /^dist\/bundle\/([\w-]+\.js(\.map)?|zod-LICENSE\.txt)$/,
  /^dist\/ts\/(src|loss|train)\/[\w./-]+\.d\.ts$/,
  /^prebuilds\/(README\.md|SHA256SUMS)$/,
  /^prebuilds\/\w+-\w+\/(whetstone\.(glibc|musl)\.node|sources\.sha256)$/,
]

t.test('the tarball holds what it must, and nothing else', async (t) => {
  t.same(
    paths.filter((path) => !allowed.some((pattern) => pattern.test(path))),
    [],
    'nothing beyond the list: no sources, no tests, no binding.gyp',
  )
  const needed = [
    'package.json',
    'README.md',
    'docs/guide.md',
    'LICENSE',
    'dist/bundle/index.js',
    'dist/ts/src/index.d.ts',
  ]
  for (const path of [...needed, 'dist/bundle/cli.js', 'prebuilds/SHA256SUMS']) t.ok(paths.includes(path), path)
  const addon = new RegExp(`^prebuilds/${process.platform}-${process.arch}/whetstone\\.(glibc|musl)\\.node$`)
  t.equal(paths.filter((path) => addon.test(path)).length, 1, 'one addon for this platform')
  t.comment(`${paths.length} files, ${(packed.unpackedSize / megabyte).toFixed(1)} MB unpacked`)
  t.ok(packed.unpackedSize < 40 * megabyte, 'unpacked size below 40 MB')
})

t.test('nothing runs when it is installed', async (t) => {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  for (const script of ['preinstall', 'install', 'postinstall'])
    t.notOk(script in manifest.scripts, `no ${script} script`)
  t.equal(manifest.gypfile, false, 'npm builds nothing')
})

t.test('installs without a compiler and generates text', async (t) => {
  writeFileSync(join(app, 'package.json'), '{ "name": "app", "private": true, "type": "module" }')
  const tarball = join(folder, packed.filename)
  const options = ['--no-audit', '--no-fund', '--prefer-offline']
  npm(['install', '--ignore-scripts', ...options, tarball], app, userEnvironment())
  // From a lockfile and with scripts allowed npm once built packages that hold a binding.gyp whatever they say.
  npm(['ci', ...options], app, userEnvironment())
  writeFileSync(
    join(app, 'main.js'),
    `import { doctor, loadModel, WhetstoneError } from 'whetstone'
     const model = await loadModel(process.argv[2])
     const [sample] = await model.generate('Hello', { maxNewTokens: 8, temperature: 0, stopIds: [] })
     const missing = await loadModel('no-such-folder').catch((error) => error)
     console.log(JSON.stringify({
       text: sample.text, ids: sample.ids.length, addon: doctor().addon,
       refused: WhetstoneError.isInstance(missing) ? missing.code : String(missing),
     }))`,
  )
  const result = JSON.parse(runInApp(['main.js', model]))
  t.equal(typeof result.text, 'string')
  t.equal(result.ids, 8, 'tokens are generated')
  t.equal(result.addon.kind, 'prebuilt')
  t.ok(result.addon.path.startsWith(realpathSync(app)), 'the addon is the one of the package')
  t.match(result.refused, /^E_/, 'errors carry codes')
})

t.test('require() finds it too', async (t) => {
  writeFileSync(join(app, 'main.cjs'), `console.log(typeof require('whetstone').loadModel)`)
  t.match(runInApp(['--no-warnings', 'main.cjs']), /^function/)
})

t.test('the command line works', async (t) => {
  const report = JSON.parse(runInApp(['node_modules/whetstone/dist/bundle/cli.js', 'doctor', '--json']))
  t.equal(report.addon.kind, 'prebuilt')
  t.same(report.problems, [])
  t.ok(existsSync(join(app, 'node_modules/.bin/whetstone')), 'and has a name')
})

t.test('its types serve a strict project', async (t) => {
  writeFileSync(
    join(app, 'use.ts'),
    `import { type Completion, loadModel } from 'whetstone'
     const model = await loadModel('folder', { dtype: 'bf16' })
     export const texts: string[] = (await model.generate('Hello')).map((one: Completion) => one.text)
     export const logps: Float32Array = await model.logProbs([1, 2, 3])`,
  )
  const settings = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', '--skipLibCheck', 'false']
  const lib = ['--lib', 'es2023,esnext.disposable', '--types', 'node', '--typeRoots', join(root, 'node_modules/@types')]
  const compiler = join(root, 'node_modules/typescript/lib/tsc.js')
  try {
    runInApp([compiler, ...settings, ...lib, 'use.ts'])
    t.pass('compiles')
  } catch (error) {
    t.fail('compiles', { output: (error as { stdout?: string }).stdout?.split('\n').slice(0, 20) })
  }
})
