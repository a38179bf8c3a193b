// Builds the package in a checkout: TypeScript into dist/, what users load joined into a few files in dist/bundle/, and the
// native addon into build/ unless a binary that fits the sources is already there (a local build or a prebuilt one). npm
// runs it after `npm install` and `npm ci`.
// With --force the addon is always built. A published package is complete: nothing runs when it is installed.

import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build } from 'esbuild'
import {
  cores,
  digestFile,
  dropForeignBuild,
  findAddon,
  generator,
  missingTools,
  probeAddon,
  require,
  root,
  runNode,
  secondsSince,
  sourcesDigest,
  which,
  withoutPaths,
} from './common.mjs'

const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** Removes what an earlier compilation left of sources that are gone, so that no stale test or module lives on. */
function pruneDist() {
  const outputs = readdirSync(join(root, 'dist'), { recursive: true }).filter((name) =>
    /^(?!bundle(-own)?\/).*\.(js|js\.map|d\.ts)$/.test(name),
  )
  for (const name of outputs) {
    const source = join(root, name.replace(/\.(js|js\.map|d\.ts)$/, '.ts'))
    if (!existsSync(source)) rmSync(join(root, 'dist', name))
  }
}

/**
 * Joins programs in dist/, by name, into dist/`folder`, with what they use of zod: its hundred modules would take a third
 * of the time in which the package loads. (It stays a dependency for the types; its licence goes along.)
 */
async function joinPrograms(folder, programs) {
  const outdir = join(root, 'dist', folder)
  rmSync(outdir, { recursive: true, force: true })
  await build({
    entryPoints: Object.fromEntries(
      Object.entries(programs).map(([name, path]) => [name, join(root, `dist/${path}.js`)]),
    ),
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: Object.keys({ ...dependencies, ...optionalDependencies }).filter((name) => name !== 'zod'),
    sourcemap: true,
    legalComments: 'none',
    logLevel: 'warning',
  })
  copyFileSync(join(dirname(require.resolve('zod')), 'LICENSE'), join(outdir, 'zod-LICENSE.txt'))
}

/**
 * The programs of the package, each with all of our modules that it needs, shared ones once: Node takes a millisecond per
 * module, which is half of what `whetstone --help` would take.
 */
async function bundle() {
  const child = { 'cuda-child': 'ts/src/native/cuda-child' }
  await joinPrograms('bundle', { index: 'ts/src/index', cli: 'ts/train/cli/main', ...child })
  // Programs of our own that are started often, as a user's would be.
  await joinPrograms('bundle-own', { 'first-step': 'bench/first-step', 'gpu-mutant': 'test/gpu-mutant', ...child })
}

/** TypeScript to dist/, incrementally. True when it compiled. */
export async function compileTypeScript() {
  const start = performance.now()
  const { code, output } = await runNode([require.resolve('typescript/lib/tsc.js'), '-p', 'tsconfig.json'])
  if (existsSync(join(root, 'dist'))) pruneDist()
  if (code !== 0) {
    console.error(withoutPaths(output))
    return false
  }
  await bundle()
  console.log(`typescript: dist/ is up to date (${secondsSince(start)})`)
  return true
}

/** Where CMakeLists.txt looks for it. */
const hasNvcc = () => which('nvcc') || existsSync('/usr/local/cuda/bin/nvcc')

/** Does this binary fit: built from these sources, with CUDA kernels where nvcc is, and does it load here? Says so when it does. */
async function fits(file, digest) {
  const recorded = join(dirname(file), digestFile)
  if (!existsSync(recorded) || readFileSync(recorded, 'utf8').trim() !== digest) return false
  const { levels, cuda } = await probeAddon(file)
  // nvcc came after the build.
  if (levels && cuda.bytes === 0 && hasNvcc()) return false
  if (levels) console.log(`native: ${withoutPaths(file)} fits (${levels.join(', ')})`)
  return levels !== undefined
}

function explainMissing(missing) {
  console.error(
    `native: no prebuilt addon fits ${process.platform}-${process.arch}, and to build it here this is missing:\n` +
      `${missing.map((tool) => `  - ${tool}`).join('\n')}\n` +
      '  On Debian or Ubuntu: apt-get install build-essential cmake\n' +
      '  Then: npm run build',
  )
}

/**
 * Builds the addon by cmake-js into `out` and records what it was built from.
 *
 * @returns the file, or undefined after saying what went wrong
 */
export async function buildAddon(out) {
  const missing = missingTools()
  if (missing.length > 0) return explainMissing(missing)
  const start = performance.now()
  const digest = sourcesDigest()
  dropForeignBuild(join(root, out), generator())
  console.log(`native: building with cmake and ${generator() === 'Ninja' ? 'ninja' : 'make'} into ${out}/ ...`)
  const { code, output } = await runNode(
    [
      require.resolve('cmake-js/bin/cmake-js'),
      'build',
      '--out',
      out,
      '--parallel',
      String(cores),
      '--log-level',
      'error',
    ],
    { env: { npm_config_loglevel: 'error' } },
  )
  const file = join(root, out, 'Release', 'whetstone.node')
  if (code !== 0 || !existsSync(file)) {
    console.error(withoutPaths(output))
    console.error('native: the build failed; what the compiler said is above')
    return undefined
  }
  const probe = await probeAddon(file)
  if (probe.error) {
    console.error(`native: the addon was built but does not load: ${withoutPaths(probe.error)}`)
    return undefined
  }
  writeFileSync(join(dirname(file), digestFile), `${digest}\n`)
  console.log(`native: built in ${secondsSince(start)} (${probe.levels.join(', ')})`)
  return file
}

/** Says whether the CUDA kernels are in the addon: without nvcc it is built with CPU kernels only. */
async function reportCuda(file) {
  const { bytes, ops, targets, toolkit } = (await probeAddon(file)).cuda
  if (bytes > 0) console.log(`cuda: kernels of ${ops} ops for ${targets}, by nvcc ${toolkit}`)
  else console.log(`cuda: left out; ${hasNvcc() ? 'WS_CUDA is off' : 'there is no nvcc'}`)
}

/** The addon: taken as it is when it fits, else built. True when there is one. */
export async function ensureAddon(force = false) {
  const found = findAddon()
  if (!force && found !== undefined && (await fits(found, sourcesDigest()))) return true
  const built = await buildAddon('build')
  if (built !== undefined) await reportCuda(built)
  return built !== undefined
}

if (process.argv[1] === import.meta.filename) {
  const compiled = await compileTypeScript()
  const native = await ensureAddon(process.argv.includes('--force'))
  process.exitCode = compiled && native ? 0 : 1
}
