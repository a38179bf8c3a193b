// Whole runs on the emulated GPU, at both levels of kernels: the sampler's log-probs are the trainer's, a resumed run ends
// with the bits of one that was not stopped, losses follow the CPU's. The programs are those of `npm run test:gpu`.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import type { Findings } from './gpu/section.js'

const library = join(process.cwd(), 'build/Release/libcuda_emulated.so')
const run = promisify(execFile)

const gpu = (level: string) => ({
  WHETSTONE_DEVICE: 'cuda:0',
  WHETSTONE_CUDA_LIBRARY: library,
  WHETSTONE_CUDA_KERNELS: library,
  WHETSTONE_EMULATED_LEVEL: level,
})

async function section(variables: Readonly<Record<string, string>>, ...words: readonly string[]): Promise<Findings> {
  const options = { env: { ...process.env, ...variables }, timeout: 240_000 }
  const { stdout } = await run(process.execPath, ['dist/test/gpu/section.js', ...words], options)
  return JSON.parse(stdout) as Findings
}

const skip = existsSync(library) ? false : 'it was not built'

/** Sections with what is asked of them here, and how many checks that makes. */
const runs = [
  { words: ['sampler', '12'], level: '80', checks: 264 },
  { words: ['sampler', '12'], level: '90', checks: 264 },
  { words: ['tiles', '272,72,456'], level: '90', checks: 11 },
  { words: ['resume', '5'], level: '90', checks: 3 },
  { words: ['memory'], level: '90', checks: 14, more: { WHETSTONE_EMULATED_MIB: '512' } },
]

for (const { words, level, checks, more } of runs)
  t.test(`${words[0]}, level ${level}`, { skip }, async (t) => {
    const { passed, failures } = await section({ ...gpu(level), ...more }, ...words)
    t.same(failures, [])
    t.ok(passed >= checks, `${passed} checks`)
  })

t.test('losses follow those of the CPU', { skip }, async (t) => {
  const steps = 15
  const [cpu, ...gpus] = await Promise.all(
    [{ WHETSTONE_DEVICE: 'cpu' }, gpu('80'), gpu('90')].map(async (variables) =>
      section(variables, 'trace', `${steps}`),
    ),
  )
  t.equal((cpu.facts.f32 as number[]).length, steps)
  for (const [dtype, most] of [
    ['f32', 1e-4],
    ['bf16', 1e-2],
  ] as const)
    for (const { facts } of gpus)
      for (const [step, loss] of (facts[dtype] as number[]).entries()) {
        const want = (cpu.facts[dtype] as number[])[step]
        t.ok(Math.abs(loss / want - 1) <= most, `${dtype} step ${step}: ${loss}, CPU ${want}`)
      }
})
