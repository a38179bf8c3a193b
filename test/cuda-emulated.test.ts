// The CUDA kernels on the emulated GPU: the same bits in every order of threads and of asynchronous copies, and a barrier
// or wait that is taken out is noticed. What the kernels compute is tested by the op suite, which runs on this device too.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { temporaryFolder } from './support.js'

const library = join(process.cwd(), 'build/Release/libcuda_emulated.so')
const run = promisify(execFile)

/** The hash that the program prints, or what ended it. */
async function hashWith(env: Readonly<Record<string, string>>): Promise<string> {
  const variables = { WHETSTONE_DEVICE: 'cuda:0', WHETSTONE_CUDA_LIBRARY: library, WHETSTONE_CUDA_KERNELS: library }
  const options = { env: { ...process.env, ...variables, ...env }, timeout: 60_000 }
  return run(process.execPath, ['dist/test/gpu-mutant.js'], options).then(
    ({ stdout }) => stdout,
    (error: Error & { stderr?: string }) => `failed: ${error.stderr?.slice(0, 400)}`,
  )
}

/** Orders of threads: upwards, downwards, shuffled with copies that arrive early. */
const seeds = ['0', '1', '7', '8']

/** Waits that only order what hardware may reorder and the emulator does not: a stage is read before it is filled again. */
async function unnoticed(site: string, right: string): Promise<boolean> {
  for (const WHETSTONE_EMULATED_SEED of seeds)
    if ((await hashWith({ WHETSTONE_EMULATED_SEED, WHETSTONE_EMULATED_SKIP: site })) !== right) return false
  return true
}

t.test('kernels on the emulated GPU', { skip: existsSync(library) ? false : 'it was not built' }, async (t) => {
  const sites = join(await temporaryFolder(t), 'sites.txt')
  const right = await hashWith({ WHETSTONE_EMULATED_SITES: sites })
  t.match(right, /^[0-9a-f]{64}$/)
  for (const WHETSTONE_EMULATED_SEED of seeds)
    t.equal(await hashWith({ WHETSTONE_EMULATED_SEED }), right, `order ${WHETSTONE_EMULATED_SEED}`)
  const known = [...new Set((await readFile(sites, 'utf8')).trim().split('\n'))]
  t.ok(known.length >= 10, `${known.length} waits were reached`)
  for (const site of known) t.notOk(await unnoticed(site, right), `without the wait at ${site}`)
})
