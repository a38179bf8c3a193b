// `npm test`: makes sure that the addon and dist/ fit the sources, runs every dist/test/*.test.js under tap, then the op
// suite once more for each lower instruction-set level of this processor, and the ops (under the race check) and the golden
// models on the emulated GPU, at both levels of kernels. `golden` runs dist/test/golden.test.js alone, on the folder in
// WHETSTONE_GOLDEN. The last line is `N passed, N failed`, summed over assertions. tap's own count misses files that a
// signal ended (its closing line counts only what they finished), so counting is done here.

import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Parser } from 'tap-parser'
import { compileTypeScript, ensureAddon } from './build.mjs'
import {
  cores,
  findAddon,
  probeAddon,
  reportCounts,
  require,
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

/**
 * Counts leaf assertions of a tap run, file by file. A file that fails although its assertions passed (ended by a
 * signal, a bad exit code, a timeout) and a file without assertions count as one failure each.
 */
function countAssertions(label) {
  const parser = new Parser()
  const total = { passed: 0, failed: 0, skipped: 0 }
  let file = { passed: 0, failed: 0, skipped: 0 }
  let failures = []
  // tap may report a file that ran out of time twice: as the file, ended by a signal, and as a timeout
  const seen = new Set()
  const fail = (result) => {
    file.failed++
    failures.push(describe(result))
  }
  parser.on('result', (result) => {
    if (result.closingTestPoint || result.name === 'timeout!') return
    if (result.skip || result.todo) file.skipped++
    else if (result.ok) file.passed++
    else fail(result)
  })
  parser.on('assert', (result) => {
    const name = result.diag?.expired ?? result.name
    if (seen.has(name)) return
    seen.add(name)
    const empty = file.passed + file.failed + file.skipped === 0
    if ((!result.ok && file.failed === 0) || empty) fail(result)
    const skipped = file.skipped > 0 ? `, ${file.skipped} skipped` : ''
    const seconds = result.time === null ? '' : ` (${(result.time / 1000).toFixed(1)} s)`
    console.log(`${(name + label).padEnd(44)} ${file.passed} passed, ${file.failed} failed${skipped}${seconds}`)
    for (const failure of failures) console.log(withoutPaths(failure))
    for (const key of Object.keys(total)) total[key] += file[key]
    file = { passed: 0, failed: 0, skipped: 0 }
    failures = []
  })
  return { parser, total, seen }
}

/** Runs test files under tap with extra environment variables. */
async function runFiles(files, env = {}, label = '') {
  const { parser, total, seen } = countAssertions(label)
  const program = join(dirname(require.resolve('tap/package.json')), 'dist/esm/run.mjs')
  const jobs = Math.min(2, cores)
  const options = ['--reporter=tap', '--disable-coverage', `--jobs=${jobs}`, `--timeout=${secondsPerFile}`]
  const onOutput = (text) => parser.write(text)
  const { code, signal, output } = await runNode([program, ...options, ...files], { env, onOutput })
  parser.end()
  for (const file of files.filter((name) => !seen.has(name))) {
    total.failed++
    console.log(`${file}${label}: no result`)
  }
  if (code !== 0 && total.failed === 0) {
    total.failed++
    console.log(withoutPaths(output.split('\n').slice(-linesPerFailure).join('\n')))
    console.log(`tap ended with ${signal ?? `exit code ${code}`}`)
  }
  return total
}

/** The levels below the best one, which the first pass has run. None when the caller forces a level. */
async function lowerLevels() {
  if (process.env.WHETSTONE_ISA) return []
  const { levels = [] } = await probeAddon(process.env.WHETSTONE_ADDON ?? findAddon())
  return levels.slice(0, -1)
}

/**
 * GPUs that are a library of ours (native/cuda/emulator), one per level of kernels; none when it was not built. `races`
 * looks for races too, which takes twice to four times as long.
 */
function emulatedGpus(name) {
  const library = join(root, `build/Release/libcuda_${name}.so`)
  if (!existsSync(library)) return []
  // Kernels come by name, so any file serves as their image.
  const gpu = { WHETSTONE_DEVICE: 'cuda:0', WHETSTONE_CUDA_LIBRARY: library, WHETSTONE_CUDA_KERNELS: library }
  return ['80', '90'].map((level) => ({ ...gpu, WHETSTONE_EMULATED_LEVEL: level }))
}

/** One file on all of them at once: on each it keeps one core busy. */
const runOnGpus = (file, gpus) =>
  Promise.all(gpus.map((gpu) => runFiles([file], gpu, ` (GPU ${gpu.WHETSTONE_EMULATED_LEVEL})`)))

async function runSuite() {
  const folder = 'dist/test'
  const files = readdirSync(join(root, folder)).filter((name) => name.endsWith('.test.js'))
  const passes = [await runFiles(files.map((name) => `${folder}/${name}`))]
  if (!files.includes('ops.test.js')) return passes
  const ops = [`${folder}/ops.test.js`]
  for (const level of await lowerLevels()) passes.push(await runFiles(ops, { WHETSTONE_ISA: level }, ` (${level})`))
  passes.push(...(await runOnGpus(ops[0], emulatedGpus('races'))))
  passes.push(...(await runOnGpus(`${folder}/golden.test.js`, emulatedGpus('emulated'))))
  return passes
}

async function runGolden() {
  const file = 'dist/test/golden.test.js'
  if (existsSync(join(root, file))) return [await runFiles([file])]
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
