// `npm run test:native`: the programs of test/native under the address and undefined-behaviour sanitizers, and those
// that use threads under the thread sanitizer; all native files compiled by clang where it is installed (warnings are
// errors there too); and a look at the symbols of the kernel files. The last line is `N passed, N failed`.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import {
  cores,
  dropForeignBuild,
  findAddon,
  generator,
  inParallel,
  missingTools,
  parseCounts,
  probeAddon,
  reportCounts,
  require,
  root,
  run,
  secondsSince,
  which,
  withoutPaths,
} from './common.mjs'

const levels = ['v2', 'avx2', 'avx512', 'avx512bf16', 'amx']

/**
 * `skips(level, present)`: that no test runs a level, of those that the processor has. `args`: `threads` makes a long test leave
 * out what runs on one.
 */
const sanitizers = [
  { name: 'address, undefined', folder: 'build-asan', flags: 'address,undefined', skips: () => false, args: [] },
  {
    name: 'thread',
    folder: 'build-tsan',
    flags: 'thread',
    // As has_v2() and its like in test/native/check.h: the best level of vectors, and tiles.
    skips: (level, present) => level !== 'amx' && level !== present.filter((name) => name !== 'amx').at(-1),
    args: ['threads'],
  },
]

/** Programs that take a minute begin first, so that none runs alone at the end. */
const long = (name) => Number(/^(attention|gemm|head|sample)_test/.test(name))

const sanitizerOptions = {
  ASAN_OPTIONS: 'detect_stack_use_after_return=1:strict_string_checks=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
  TSAN_OPTIONS: 'halt_on_error=1',
}

const passed = { passed: 1, failed: 0 }
const failed = { passed: 0, failed: 1 }

/** All errors at once, not the first alone. */
const keepGoing = () => (generator() === 'Ninja' ? ['-k', '0'] : ['-k'])

/** What a failed build says, without the lines that tell its progress. */
const complaints = (output) => withoutPaths(output.replaceAll(/^\[.*\] (Building|Linking|Generating) .*\n/gm, ''))

/** Configures and builds a folder. True when it went well; prints the compiler's words otherwise. */
async function build(folder, settings) {
  const start = performance.now()
  dropForeignBuild(join(root, folder), generator())
  const definitions = Object.entries(settings).map(([key, value]) => `-D${key}=${value}`)
  const steps = [
    ['-S', '.', '-B', folder, '-G', generator(), ...definitions],
    ['--build', folder, '--parallel', String(cores), '--', ...keepGoing()],
  ]
  for (const step of steps) {
    const { code, output } = await run('cmake', step)
    if (code === 0) continue
    console.log(complaints(output))
    return false
  }
  console.log(`${folder}: built in ${secondsSince(start)}`)
  return true
}

/** Runs a program; again without address randomisation where the thread sanitizer cannot live with the system's. */
async function runProgram(file, args) {
  const first = await run(file, args, { env: sanitizerOptions })
  if (!/ThreadSanitizer: unexpected memory mapping/.test(first.output) || !which('setarch')) return first
  return run('setarch', ['--addr-no-randomize', file, ...args], { env: sanitizerOptions })
}

/** One test program. One that ends without its count line, or badly although it counted no failure, has failed. */
async function runTest(suite, name) {
  const start = performance.now()
  const { code, signal, output } = await runProgram(join(root, suite.folder, 'tests', name), suite.args)
  const counts = parseCounts(output) ?? failed
  const result = code !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts
  const text = `${name} (${suite.name})`.padEnd(44)
  console.log(`${text} ${result.passed} passed, ${result.failed} failed (${secondsSince(start)})`)
  if (result.failed > 0)
    console.log(withoutPaths(output.trimEnd()), `\n${name} ended with ${signal ?? `exit code ${code}`}`)
  return result
}

/** The levels that tests run on this machine, on the model of tiles; undefined when there is no addon to ask. */
async function presentLevels() {
  const addon = findAddon()
  const { levels: present } = addon === undefined ? {} : await probeAddon(addon)
  return present && levels.filter((level) => present.includes(level === 'amx' ? 'avx512bf16' : level))
}

async function runSanitized(suite) {
  const present = await presentLevels()
  const idle = present ? levels.filter((level) => !present.includes(level) || suite.skips(level, present)) : []
  const settings = {
    WS_TESTS: 'ON',
    WS_CUDA: 'OFF',
    WS_EMULATOR: 'OFF',
    WS_SANITIZE: suite.flags,
    WS_IDLE_LEVELS: idle.join(';'),
  }
  const listed = () =>
    readFileSync(join(root, suite.folder, 'tests.txt'), 'utf8')
      .trim()
      .split('\n')
      .sort((a, b) => long(b) - long(a))
  if (!(await build(suite.folder, settings))) return [failed]
  return inParallel(
    listed().map((name) => () => runTest(suite, name)),
    cores,
  )
}

/** Every native file through clang, without optimisation: for its warnings. */
async function compileWithClang() {
  if (!which('clang++')) {
    console.log('clang: not installed, so nothing is compiled with it (Debian: apt-get install clang)')
    return []
  }
  const folderOf = (name) => dirname(require.resolve(`${name}/package.json`))
  const settings = {
    CMAKE_CXX_COMPILER: 'clang++',
    CMAKE_BUILD_TYPE: 'Debug',
    CMAKE_CXX_FLAGS_DEBUG: '',
    WS_TESTS: 'ON',
    WS_CUDA: 'OFF',
    WS_EMULATOR: 'OFF',
    WS_IDLE_LEVELS: 'avx512', // it has no line that avx512bf16 or amx lack
    CMAKE_JS_INC: `${folderOf('node-api-headers')}/include;${folderOf('node-addon-api')}`,
  }
  return [(await build('build-clang', settings)) ? passed : failed]
}

/**
 * Kernel files are compiled once per instruction set. A symbol that two of them share (an inline function of a header
 * that was not inlined) would be taken from any of them by the linker, and could end a program on an older processor.
 * So each may define only symbols of its own namespace. Looks at the objects of the addon's build.
 */
async function checkSymbols() {
  const folder = (level) => `build/CMakeFiles/kernels_${level}.dir/native/cpu`
  if (!which('nm') || !levels.every((level) => existsSync(join(root, folder(level))))) {
    console.log('symbols: not checked (no addon was built here)')
    return []
  }
  const results = levels.map(async (level) => {
    const objects = readdirSync(join(root, folder(level))).filter((name) => name.endsWith('.o'))
    const files = objects.map((name) => `${folder(level)}/${name}`)
    const { code, output } = await run('nm', ['-C', '--defined-only', '--extern-only', ...files])
    const shared = output.split('\n').filter((line) => / [A-Za-z] /.test(line) && !line.includes(`ws::${level}::`))
    for (const line of shared) console.log(`symbols (${level}): shared between instruction sets: ${line}`)
    return code === 0 && objects.length > 0 && shared.length === 0 ? passed : failed
  })
  return Promise.all(results)
}

async function main() {
  const missing = missingTools()
  if (missing.length > 0) {
    console.error(`native tests need ${missing.join(', ')}; on Debian: apt-get install build-essential cmake`)
    return reportCounts(failed)
  }
  const results = await checkSymbols()
  for (const suite of sanitizers) results.push(...(await runSanitized(suite)))
  results.push(...(await compileWithClang()))
  const sum = (key) => results.reduce((total, result) => total + result[key], 0)
  reportCounts({ passed: sum('passed'), failed: sum('failed') })
}

await main()
