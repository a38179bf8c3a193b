// What the scripts share: running commands quietly, finding tools, the state of the native sources, and the count line
// `N passed, N failed` that every test command ends with. Nothing here is part of the published package.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { accessSync, constants, existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { delimiter, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The folder of package.json. */
export const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '')
export const require = createRequire(import.meta.url)
export const cores = availableParallelism()

/** Seconds since `start`, a value of performance.now(), as text. */
export const secondsSince = (start) => `${((performance.now() - start) / 1000).toFixed(1)} s`

/**
 * Runs a command in the project's folder, killed after `seconds` if given. Output is collected, and shown as it comes
 * with `show`; `onOutput` sees stdout in chunks. Never rejects: `{ code, signal, stdout, output }`, where output has
 * stderr too.
 */
export function run(command, args, { env = {}, cwd = root, show = false, seconds, onOutput } = {}) {
  return new Promise((resolve) => {
    const limit = seconds === undefined ? {} : { timeout: 1000 * seconds, killSignal: 'SIGKILL' }
    const options = { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'], ...limit }
    const child = spawn(command, args, options)
    const result = { code: null, signal: null, stdout: '', output: '' }
    const collect = (name) => (chunk) => {
      const text = chunk.toString()
      if (show) process[name].write(text)
      if (name === 'stdout') {
        result.stdout += text
        onOutput?.(text)
      }
      result.output += text
    }
    child.stdout.on('data', collect('stdout'))
    child.stderr.on('data', collect('stderr'))
    child.on('error', (error) => resolve({ ...result, code: 127, output: `${command}: ${error.message}` }))
    child.on('close', (code, signal) => resolve({ ...result, code, signal }))
  })
}

/** Runs a JavaScript file with this Node. */
export const runNode = (args, options) => run(process.execPath, args, options)

/** Runs tasks, at most `width` at a time; results in order. */
export async function inParallel(tasks, width) {
  const results = new Array(tasks.length)
  let next = 0
  const worker = async () => {
    for (let i = next++; i < tasks.length; i = next++) results[i] = await tasks[i]()
  }
  await Promise.all(Array.from({ length: Math.min(width, tasks.length) }, worker))
  return results
}

/** Full path of a program on PATH, or undefined. */
export function which(program) {
  const isProgram = (file) => {
    try {
      accessSync(file, constants.X_OK)
      return statSync(file).isFile()
    } catch {
      return false
    }
  }
  return (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, program))
    .find(isProgram)
}

/** Every file below a folder, relative to the project's folder, sorted. */
export const filesBelow = (folder) =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort()

/** A digest of everything that the addon is built from: says whether a binary fits the sources, whatever their dates. */
export function sourcesDigest() {
  const hash = createHash('sha256')
  for (const file of [...filesBelow('native').filter((name) => !name.endsWith('.md')), 'CMakeLists.txt'])
    hash
      .update(`${file}\n`)
      .update(readFileSync(join(root, file)))
      .update('\n')
  return hash.digest('hex')
}

/** Name of the file beside a binary that holds the digest of the sources that it was built from. */
export const digestFile = 'sources.sha256'

/** The addon that node-gyp-build takes: a local build, else a prebuilt binary. Undefined when there is none. */
export function findAddon() {
  try {
    return require('node-gyp-build').resolve(root)
  } catch {
    return undefined
  }
}

/**
 * Loads an addon in a process of its own, so that a broken binary cannot end this one.
 * `{ levels, cuda }`, levels low to high, or `{ error }`.
 */
export async function probeAddon(file) {
  const program =
    'const a = require(process.argv[1]); process.stdout.write(JSON.stringify([a.cpu().levels.split(" "), a.cudaKernels()]))'
  const { code, signal, stdout, output } = await runNode(['-e', program, file])
  if (code === 0) {
    const [levels, cuda] = JSON.parse(stdout)
    return { levels, cuda }
  }
  return { error: signal ?? (output.match(/^\w*Error: .*$/m)?.[0] || `exit code ${code}`) }
}

/** CMake refuses a build folder that was configured elsewhere or with another generator: such a folder is removed. */
export function dropForeignBuild(folder, generator) {
  const cache = join(folder, 'CMakeCache.txt')
  if (!existsSync(cache)) return
  const text = readFileSync(cache, 'utf8')
  const value = (key) => text.match(new RegExp(`^${key}:INTERNAL=(.*)$`, 'm'))?.[1]
  if (value('CMAKE_HOME_DIRECTORY') !== root || value('CMAKE_GENERATOR') !== generator)
    rmSync(folder, { recursive: true, force: true })
}

/** The generator that cmake-js picks too. */
export const generator = () => (which('ninja') ? 'Ninja' : 'Unix Makefiles')

/** The tools that a native build needs and this machine lacks, in words. */
export function missingTools() {
  const missing = []
  if (!which('cmake')) missing.push('cmake (3.20 or newer)')
  if (!which('g++') && !which('clang++')) missing.push('a C++ compiler (g++ 11 or clang++ 14, or newer)')
  if (!which('ninja') && !which('make')) missing.push('make or ninja')
  return missing
}

/** Full paths of the project and of the home folder do not belong into logs. */
export const withoutPaths = (text) =>
  text
    .replaceAll(`${root}/`, '')
    .replaceAll(root, '.')
    .replaceAll(process.env.HOME ?? '\0', '~')

/** Prints the count line, always last, and sets the exit code: a run without a single test is a failure. */
export function reportCounts({ passed, failed }) {
  const failures = failed + (passed + failed === 0 ? 1 : 0)
  console.log(`${passed} passed, ${failures} failed`)
  process.exitCode = failures === 0 ? 0 : 1
}

/** The last count line of an output, or undefined. */
export function parseCounts(output) {
  const line = output.match(/^(\d+) passed, (\d+) failed$/gm)?.at(-1)
  if (line === undefined) return undefined
  const [passed, failed] = line.match(/\d+/g).map(Number)
  return { passed, failed }
}
