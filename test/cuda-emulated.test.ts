// The CUDA kernels on the emulated GPU, at both levels: the same bits in every order of threads and of asynchronous copies, no races, and a
// barrier or wait that is taken out is a race, or changes bits, or ends the launch. What the kernels compute is tested by
// the op suite, which runs on this device too.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { temporaryFolder } from './support.js'

/** The second one looks for races. */
const [library, watching] = ['emulated', 'races'].map((name) => join(process.cwd(), `build/Release/libcuda_${name}.so`))
const run = promisify(execFile)

/** What the program prints for some of its parts, or for all, or what ended it. */
async function runWith(file: string, env: Readonly<Record<string, string>>, parts: readonly string[] = []) {
  const variables = { WHETSTONE_DEVICE: 'cuda:0', WHETSTONE_CUDA_LIBRARY: file, WHETSTONE_CUDA_KERNELS: file }
  const options = { env: { ...process.env, ...variables, ...env }, timeout: 60_000 }
  return run(process.execPath, ['dist/bundle-own/gpu-mutant.js', ...parts], options).then(
    ({ stdout }) => stdout,
    (error: Error & { stderr?: string }) => `failed: ${error.stderr?.slice(0, 600)}`,
  )
}

/** Orders of threads beside the upward one: downwards, shuffled with copies that arrive early. */
const seeds = ['1', '7', '8']

const skip = [library, watching].every((file) => existsSync(file)) ? false : 'it was not built'

/** Calls work(item) for all, two at a time. */
async function inPairs<T>(list: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const left = [...list]
  const worker = async () => {
    for (let next = left.pop(); next !== undefined; next = left.pop()) await work(next)
  }
  await Promise.all([worker(), worker()])
}

/** A part of the program at a level of kernels, by itself. */
interface Visit {
  readonly level: string
  readonly name: string
  /** What it prints when all waits are there. */
  readonly right: string
  readonly milliseconds: number
}

/** By wait, the parts that come to it at a level, each found by a run of its own. */
async function findVisits(level: string, names: readonly string[], folder: string, visits: Map<string, Visit[]>) {
  await inPairs(names, async (name) => {
    const file = join(folder, `${level} ${name}`)
    const start = performance.now()
    const env = { WHETSTONE_EMULATED_LEVEL: level, WHETSTONE_EMULATED_SITES: file }
    const right = await runWith(library, env, [name])
    const visit = { level, name, right, milliseconds: performance.now() - start }
    const places = new Set((await readFile(file, 'utf8')).split('\n').filter((line) => line !== ''))
    for (const place of places) visits.set(place, [...(visits.get(place) ?? []), visit])
  })
}

t.test('kernels on the emulated GPU', { skip }, async (t) => {
  const folder = await temporaryFolder(t)
  const visits = new Map<string, Visit[]>()
  const whole = new Map<string, string>() // by level, what the program prints
  for (const level of ['90', '80']) {
    const env = { WHETSTONE_EMULATED_LEVEL: level }
    const watched = runWith(watching, env)
    const right = await runWith(library, env)
    t.match(right, /^([a-z]+( \d+)? (f32|bf16): [0-9a-f]{64}\n){20,}$/)
    for (const WHETSTONE_EMULATED_SEED of seeds)
      t.equal(await runWith(library, { ...env, WHETSTONE_EMULATED_SEED }), right, `order ${WHETSTONE_EMULATED_SEED}`)
    t.equal(await watched, right, 'no races')
    whole.set(level, right)
    const names = right.split('\n').flatMap((line) => (line === '' ? [] : [line.split(':')[0]]))
    await findVisits(level, names, folder, visits)
  }
  t.ok(visits.size >= 70, `${visits.size} waits were reached`)
  for (const { level, name, right } of new Set([...visits.values()].flat()))
    t.ok(whole.get(level)?.includes(right), `${name} at level ${level} is by itself what it is among all`)
  await inPairs(visits, async ([place, list]) => {
    list.sort((a, b) => a.milliseconds - b.milliseconds)
    let noticed = false
    for (const { level, name, right } of list) {
      const env = { WHETSTONE_EMULATED_LEVEL: level, WHETSTONE_EMULATED_SKIP: place }
      noticed ||= (await runWith(watching, env, [name])) !== right
    }
    t.ok(noticed, `without the wait at ${place}`)
  })
})
