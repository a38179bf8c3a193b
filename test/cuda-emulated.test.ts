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

/** The hash that the program prints, or what ended it. */
async function hashWith(file: string, env: Readonly<Record<string, string>>): Promise<string> {
  const variables = { WHETSTONE_DEVICE: 'cuda:0', WHETSTONE_CUDA_LIBRARY: file, WHETSTONE_CUDA_KERNELS: file }
  const options = { env: { ...process.env, ...variables, ...env }, timeout: 60_000 }
  return run(process.execPath, ['dist/test/gpu-mutant.js'], options).then(
    ({ stdout }) => stdout,
    (error: Error & { stderr?: string }) => `failed: ${error.stderr?.slice(0, 600)}`,
  )
}

/** Orders of threads beside the upward one: downwards, shuffled with copies that arrive early. */
const seeds = ['1', '7', '8']

/** The waits that kernels of a level come to. */
async function sitesOf(file: string): Promise<string[]> {
  return [...new Set((await readFile(file, 'utf8')).trim().split('\n'))]
}

const skip = [library, watching].every((file) => existsSync(file)) ? false : 'it was not built'

t.test('kernels on the emulated GPU', { skip }, async (t) => {
  const folder = await temporaryFolder(t)
  const sites = new Map<string, string>()
  const hashes = new Map<string, string>() // of the levels, which take sums of attention in another order
  for (const WHETSTONE_EMULATED_LEVEL of ['90', '80']) {
    const level = { WHETSTONE_EMULATED_LEVEL }
    const WHETSTONE_EMULATED_SITES = join(folder, WHETSTONE_EMULATED_LEVEL)
    const watched = hashWith(watching, { ...level, WHETSTONE_EMULATED_SITES })
    const right = await hashWith(library, level)
    t.match(right, /^[0-9a-f]{64}$/)
    hashes.set(WHETSTONE_EMULATED_LEVEL, right)
    for (const WHETSTONE_EMULATED_SEED of seeds)
      t.equal(await hashWith(library, { ...level, WHETSTONE_EMULATED_SEED }), right, `order ${WHETSTONE_EMULATED_SEED}`)
    t.equal(await watched, right, 'no races')
    for (const site of await sitesOf(WHETSTONE_EMULATED_SITES)) sites.set(site, WHETSTONE_EMULATED_LEVEL)
  }
  t.ok(sites.size >= 40, `${sites.size} waits were reached`)
  const left = [...sites]
  const worker = async () => {
    for (let next = left.pop(); next !== undefined; next = left.pop()) {
      const [WHETSTONE_EMULATED_SKIP, WHETSTONE_EMULATED_LEVEL] = next
      const got = await hashWith(watching, { WHETSTONE_EMULATED_LEVEL, WHETSTONE_EMULATED_SKIP })
      t.not(got, hashes.get(WHETSTONE_EMULATED_LEVEL), `without the wait at ${WHETSTONE_EMULATED_SKIP}`)
    }
  }
  await Promise.all([worker(), worker()])
})
