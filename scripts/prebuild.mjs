// `npm run prebuild`: puts the addon, built from the present sources and stripped, where node-gyp-build looks for it in
// an installed package: prebuilds/<platform>-<arch>/whetstone.<libc>.node, with its digest in prebuilds/SHA256SUMS. Says
// which system libraries it needs at least: published binaries are built on the oldest system that they shall run on.
// With --check (`prepack`) it only looks: a package with stale binaries, or with none, is not packed.

import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ensureAddon } from './build.mjs'
import {
  digestFile,
  filesBelow,
  findAddon,
  probeAddon,
  root,
  run,
  sourcesDigest,
  which,
  withoutPaths,
} from './common.mjs'

/** As node-gyp-build tells them apart. */
const libc = existsSync('/etc/alpine-release') ? 'musl' : 'glibc'
const folder = `prebuilds/${process.platform}-${process.arch}`
const file = `${folder}/whetstone.${libc}.node`

/** Compares 2.9 and 2.34 as versions. */
const compareVersions = (a, b) => a.localeCompare(b, 'en', { numeric: true })

/** The highest version of each system library's symbols that the binary asks for. */
async function neededVersions() {
  const { code, stdout } = await run('readelf', ['--version-info', '--wide', file])
  if (code !== 0) return 'unknown (no readelf)'
  const highest = new Map()
  for (const [, library, version] of stdout.matchAll(/Name: (GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)/g))
    if (compareVersions(version, highest.get(library) ?? '0') > 0) highest.set(library, version)
  return [...highest].map(([library, version]) => `${library}_${version}`).join(', ')
}

async function strip(source) {
  mkdirSync(join(root, folder), { recursive: true })
  copyFileSync(source, join(root, file))
  chmodSync(join(root, file), 0o755)
  if (!which('strip')) throw new Error('strip is missing; on Debian: apt-get install binutils')
  const { code, output } = await run('strip', ['--strip-unneeded', file])
  if (code !== 0) throw new Error(withoutPaths(output))
  const { error } = await probeAddon(join(root, file))
  if (error) throw new Error(`the stripped addon does not load: ${withoutPaths(error)}`)
}

const sums = 'prebuilds/SHA256SUMS'

const binaries = () => filesBelow('prebuilds').filter((name) => name.endsWith('.node'))

const textOf = (name) => (existsSync(join(root, name)) ? readFileSync(join(root, name), 'utf8') : '')

/** What SHA256SUMS must hold. */
function currentSums() {
  const digest = (name) =>
    createHash('sha256')
      .update(readFileSync(join(root, name)))
      .digest('hex')
  return binaries()
    .map((name) => `${digest(name)}  ${name.replace('prebuilds/', '')}\n`)
    .join('')
}

/** Why these binaries must not be packed; empty when they may. */
function findFaults() {
  const files = binaries()
  if (files.length === 0) return ['prebuilds/ holds no addon, and installing a package builds none']
  const digest = sourcesDigest()
  const stale = files.flatMap((name) => {
    const recorded = textOf(join(dirname(name), digestFile)).trim() || 'nothing'
    if (recorded === digest) return []
    return [`${name}: expected to be built from the sources ${digest.slice(0, 12)}, was from ${recorded.slice(0, 12)}`]
  })
  return textOf(sums) === currentSums() ? stale : [...stale, `${sums}: expected the digests of the binaries beside it`]
}

/** The exit code of --check. */
function check() {
  const faults = findFaults()
  for (const fault of faults) console.error(fault)
  if (faults.length > 0) console.error('Run `npm run prebuild` on each platform to make them anew, or remove them')
  return faults.length === 0 ? 0 : 1
}

async function main() {
  if (process.argv.includes('--check')) return check()
  if (!(await ensureAddon())) return 1
  const source = findAddon()
  if (source !== join(root, file)) {
    await strip(source)
    copyFileSync(join(dirname(source), digestFile), join(root, folder, digestFile))
  }
  writeFileSync(join(root, sums), currentSums())
  const kilobytes = Math.round(statSync(join(root, file)).size / 1024)
  console.log(
    `${file}: ${kilobytes} KB, needs at least ${await neededVersions()}; sources ${sourcesDigest().slice(0, 12)}`,
  )
  return 0
}

process.exitCode = await main()
