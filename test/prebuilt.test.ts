// The prebuilt addon of an installed package: loaded when its digest is that of prebuilds/SHA256SUMS, refused before it is
// loaded when a byte of it or its digest has changed. And the check before packing: stale binaries are not packed.

import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { findAddon } from '../ts/src/native/addon.js'
import { root } from './layers-scan.js'
import { temporaryFolder } from './support.js'

const folder = await temporaryFolder(t)
const libc = existsSync('/etc/alpine-release') ? 'musl' : 'glibc'
const name = `${process.platform}-${process.arch}/whetstone.${libc}.node`
const binary = join(folder, 'prebuilds', name)
const sums = join(folder, 'prebuilds', 'SHA256SUMS')

/** An installed package in small: the program, its dependencies, and a binary with its digest. */
function install(): void {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(join(binary, '..'), { recursive: true })
  for (const part of ['dist/bundle', 'package.json']) cpSync(join(root, part), join(folder, part), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  cpSync(findAddon().path, binary)
  const digest = createHash('sha256').update(readFileSync(binary)).digest('hex')
  writeFileSync(sums, `${'0'.repeat(64)}  other/whetstone.node\n${digest}  ${name}\n`)
}

interface Doctor {
  readonly addon: { readonly loaded: boolean; readonly kind: string; readonly error: string | null }
  readonly problems: readonly string[]
}

const { WHETSTONE_ADDON: _, ...environment } = process.env
const program = join(folder, 'dist/bundle/cli.js')
const doctor = (): Doctor =>
  JSON.parse(execFileSync(process.execPath, [program, 'doctor', '--json'], { env: environment, encoding: 'utf8' }))

t.test('the binary that was packed', async (t) => {
  install()
  t.match(doctor(), { addon: { loaded: true, kind: 'prebuilt', error: null } })
})

const changes: Readonly<Record<string, () => void>> = {
  'a changed byte': () => {
    const bytes = readFileSync(binary)
    bytes[bytes.length >> 1] ^= 1
    writeFileSync(binary, bytes)
  },
  'a cut binary': () => writeFileSync(binary, readFileSync(binary).subarray(0, 100_000)),
  'a changed digest': () => writeFileSync(sums, readFileSync(sums, 'utf8').replaceAll('a', 'b')),
  'no digest': () => writeFileSync(sums, ''),
  'no digests': () => rmSync(sums),
}

for (const [what, change] of Object.entries(changes))
  t.test(what, async (t) => {
    install()
    change()
    const { addon, problems } = doctor()
    t.match(addon, { loaded: false, kind: 'prebuilt', error: /expected the digest .* reinstall/ })
    t.match(problems, [/expected the digest/])
    const model = join(root, 'test/golden/models/llama')
    const run = spawnSync(process.execPath, [program, 'generate', '--model', model, '--prompt', 'a'], {
      env: environment,
      encoding: 'utf8',
    })
    t.same([run.status, run.stdout], [1, ''])
    t.match(run.stderr, /^E_MISMATCH \[.*whetstone.*\.node\] expected the digest/)
  })

/** A checkout in small: the scripts, two source files, and a binary that was built from them. */
function checkOut(): void {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(join(binary, '..'), { recursive: true })
  for (const part of ['scripts', 'package.json', 'CMakeLists.txt'])
    cpSync(join(root, part), join(folder, part), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  mkdirSync(join(folder, 'native'))
  writeFileSync(join(folder, 'native/ops.def'), 'ops')
  writeFileSync(binary, 'addon')
  const hash = createHash('sha256').update('native/ops.def\n').update('ops').update('\nCMakeLists.txt\n')
  const sources = hash
    .update(readFileSync(join(folder, 'CMakeLists.txt')))
    .update('\n')
    .digest('hex')
  writeFileSync(join(binary, '../sources.sha256'), `${sources}\n`)
  writeFileSync(sums, `${createHash('sha256').update('addon').digest('hex')}  ${name}\n`)
}

const checkPrebuilds = () =>
  spawnSync(process.execPath, [join(folder, 'scripts/prebuild.mjs'), '--check'], { encoding: 'utf8' })

t.test('binaries of these sources may be packed', async (t) => {
  checkOut()
  t.match(checkPrebuilds(), { status: 0, stderr: '' })
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  t.equal(scripts.prepack, 'node scripts/prebuild.mjs --check', 'npm pack looks at them first')
})

const stale: Readonly<Record<string, { readonly change: () => void; readonly says: RegExp }>> = {
  'changed sources': {
    change: () => writeFileSync(join(folder, 'native/ops.def'), 'other ops'),
    says: /\.node: expected to be built from the sources [0-9a-f]{12}, was from [0-9a-f]{12}$/m,
  },
  'no record of sources': { change: () => rmSync(join(binary, '../sources.sha256')), says: /was from nothing$/m },
  'another binary': { change: () => writeFileSync(binary, 'other'), says: /SHA256SUMS: expected the digests/ },
  'no digests beside the binary': { change: () => rmSync(sums), says: /SHA256SUMS: expected the digests/ },
  'no binary': { change: () => rmSync(binary), says: /prebuilds\/ holds no addon/ },
}

for (const [what, { change, says }] of Object.entries(stale))
  t.test(`not packed: ${what}`, async (t) => {
    checkOut()
    change()
    const { status, stderr } = checkPrebuilds()
    t.equal(status, 1)
    t.match(stderr, says)
    t.match(stderr, /Run `npm run prebuild`/)
  })
