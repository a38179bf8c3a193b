// `npm test`: makes sure that the addon and dist/ fit the sources, runs every dist/test/*.test.js, then the op suite once
// more for each lower instruction-set level of this processor, and the ops (calls of every kind under the race check) and the
// golden models on the emulated GPU, at both levels of kernels. `golden` runs dist/test/golden.test.js alone, on the folder in
// WHETSTONE_GOLDEN. The last line is `N passed, N failed`, summed over assertions. A test file is a program of its own
// that prints TAP; tap's runner is not used: it loads compilers and hooks into every process that a test starts, which
// makes `whetstone --help` take 3 s instead of half a second, and its count misses files that a signal ended.

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Parser } from 'tap-parser'
import { compileTypeScript, ensureAddon } from './build.mjs'
import {
  cores,
  findAddon,
  inParallel,
  probeAddon,
  reportCounts,
  root,
  runNode,
  secondsSince,
  withoutPaths,
} from './common.mjs'

const secondsPerFile = 600
const linesPerFailure = 30

/** The diagnostics that help: what differed and where, not how the file was started. */
function describe(result) {
  const { diag, fullname } = result
  const hidden = new Set(['cwd', 'command', 'args', 'stdio', 'externalID', 'jobId', 'at', 'tapCaught'])
  const shown = Object.entries(diag ?? {}).filter(([key]) => !hidden.has(key))
  const text = shown.map(([key, value]) => `${key}: ${typeof value === 'string' ? value : JSON.stringify(value)}`)
  const lines = text.join('\n').split('\n').slice(0, linesPerFailure)
  return `  not ok ${[fullname, ...lines].join('\n      ')}`
}

/** Counts the leaf assertions in a file's TAP; `failures` describes those that failed. */
function countAssertions() {
  const parser = new Parser()
  const counts = { passed: 0, failed: 0, skipped: 0, failures: [] }
  parser.on('result', (result) => {
    if (result.closingTestPoint) return
    if (result.skip || result.todo) counts.skipped++
    else if (result.ok) counts.passed++
    else {
      counts.failed++
      counts.failures.push(describe(result))
    }
  })
  return { parser, counts }
}

/**
 * Runs one file and prints its line. A file that ends badly although its assertions passed (a signal, an exit code, out of
 * time, a plan not kept) and a file without assertions count as one failure.
 */
async function runFile(file, env, label) {
  const start = performance.now()
  const { parser, counts } = countAssertions()
  const complete = new Promise((resolve) => parser.on('complete', resolve))
  // tap ends a test that takes too long, and says which; a process that does not even do that is killed a little later
  const limits = { env: { ...env, TAP_TIMEOUT: String(secondsPerFile) }, seconds: secondsPerFile + 30 }
  const { code, signal, output } = await runNode(['--enable-source-maps', file], {
    ...limits,
    onOutput: (text) => parser.write(text),
  })
  parser.end()
  const { ok } = await complete
  const empty = counts.passed + counts.failed + counts.skipped === 0
  if (counts.failed === 0 && (code !== 0 || !ok || empty)) {
    counts.failed++
    counts.failures.push(
      `  ended with ${signal ?? `exit code ${code}`}`,
      output.split('\n').slice(-linesPerFailure).join('\n'),
    )
  }
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : ''
  console.log(
    `${(file + label).padEnd(44)} ${counts.passed} passed, ${counts.failed} failed${skipped} (${secondsSince(start)})`,
  )
  for (const failure of counts.failures) console.log(withoutPaths(failure))
  return counts
}

/** The levels below the best one, which the first pass has run. None when the caller forces a level. */
async function lowerLevels() {
  if (process.env.WHETSTONE_ISA) return []
  const { levels = [] } = await probeAddon(process.env.WHETSTONE_ADDON ?? findAddon())
  return levels.slice(0, -1)
}

/**
 * A file on GPUs that are a library of ours (native/cuda/emulator), one per level of kernels; on none when it was not built.
 * `races` looks for races too, which takes twice to four times as long.
 */
function onGpus(file, name, more = {}) {
  const library = join(root, `build/Release/libcuda_${name}.so`)
  if (!existsSync(library)) return []
  // Kernels come by name, so any file serves as their image.
  const gpu = { WHETSTONE_DEVICE: 'cuda:0', WHETSTONE_CUDA_LIBRARY: library, WHETSTONE_CUDA_KERNELS: library, ...more }
  const note = name === 'races' ? ', races' : ''
  return ['80', '90'].map((level) => ({
    file,
    env: { ...gpu, WHETSTONE_EMULATED_LEVEL: level },
    label: ` (GPU ${level}${note})`,
  }))
}

/** What takes a minute begins first, so that nothing runs alone at the end. */
const slowest = [
  'races',
  'cuda-emulated',
  'cuda-runs',
  'golden.test.js (GPU',
  'save-faults',
  'train-kinds',
  '(GPU',
  'ops',
]
function rank({ file, label }) {
  const at = slowest.findIndex((name) => `${file}${label}`.includes(name))
  return at < 0 ? slowest.length : at
}

async function runSuite() {
  const folder = 'dist/test'
  const [ops, golden] = ['ops', 'golden'].map((name) => `${folder}/${name}.test.js`)
  const files = readdirSync(join(root, folder)).filter((name) => name.endsWith('.test.js'))
  const runs = [
    ...files.map((name) => ({ file: `${folder}/${name}`, env: {}, label: '' })),
    ...(await lowerLevels()).map((level) => ({ file: ops, env: { WHETSTONE_ISA: level }, label: ` (${level})` })),
    ...onGpus(ops, 'races', { WHETSTONE_OPS: 'calls' }),
    // a block of memory of its own for each tensor: an access beyond an end is one beyond a page
    ...onGpus(ops, 'emulated', { WHETSTONE_OPS: 'comparisons', WHETSTONE_CUDA_EXACT: '1' }),
    ...onGpus(golden, 'emulated'),
  ]
  const inOrder = runs.toSorted((a, b) => rank(a) - rank(b))
  const tasks = inOrder.map((run) => () => runFile(run.file, run.env, run.label))
  return inParallel(tasks, Math.min(2, cores))
}

async function runGolden() {
  const file = 'dist/test/golden.test.js'
  if (existsSync(join(root, file))) return [await runFile(file, {}, '')]
  console.error(`${file} does not exist`)
  return []
}

async function main() {
  const start = performance.now()
  const ready = (await ensureAddon()) && (await compileTypeScript())
  if (!ready) return reportCounts({ passed: 0, failed: 1 })
  const passes = process.argv[2] === 'golden' ? await runGolden() : await runSuite()
  const sum = (key) => passes.reduce((total, pass) => total + pass[key], 0)
  console.log(`${sum('skipped')} skipped, ${secondsSince(start)}`)
  reportCounts({ passed: sum('passed'), failed: sum('failed') })
}

await main()
