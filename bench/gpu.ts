// `npm run bench:gpu [-- --json FILE] [-- --device cpu]`: the suites on a GPU, beside PyTorch when Python has it with CUDA
// (WHETSTONE_PYTHON, else python3), within eight minutes. The table's `share` is that of the fastest product or of a copy,
// measured in the same rounds. Without a GPU that can be used it says why and ends with code 77.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { writeAtomic } from '../ts/src/io/files.js'
import { packageRoot } from '../ts/src/native/addon.js'
import { doctor, formatDoctor } from '../ts/src/native/doctor.js'
import type { BenchRow } from './harness.js'
import { runLimited } from './limited.js'

const noGpu = 77
const totalSeconds = 460
const root = packageRoot()

const print = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

/** Ops that are timed by a program of their own: one that hangs, or loses the GPU, takes no other's rows with it. */
const opGroups = ['^linear', '^attention', '^head', '^(?!linear|attention|head)']

/** Has this machine's Python a PyTorch that sees the device? */
function hasTorch(device: string): boolean {
  const program = device === 'cpu' ? 'import torch' : 'import torch; assert torch.cuda.is_available()'
  const options = { stdio: 'ignore', timeout: 90_000 } as const
  return spawnSync(process.env.WHETSTONE_PYTHON ?? 'python3', ['-c', program], options).status === 0
}

/** Runs the bench with its table shown; the rows that it wrote, complete or not. */
async function bench(args: readonly string[], seconds: number): Promise<{ rows: BenchRow[]; code: number | null }> {
  const file = join(root, 'build', `bench-gpu-${process.pid}.json`)
  const command = [process.execPath, join(root, 'dist/bench/main.js'), ...args, '--json', file]
  const { code } = await runLimited(command, seconds, { cwd: root, show: true })
  try {
    return { rows: JSON.parse(readFileSync(file, 'utf8')) as BenchRow[], code }
  } catch {
    return { rows: [], code: code || 1 }
  } finally {
    await rm(file, { force: true })
  }
}

async function main(): Promise<number> {
  const options = {
    device: { type: 'string', default: 'cuda' },
    json: { type: 'string', default: join(root, 'build', 'bench-gpu.json') },
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', default: '' },
  } as const
  const { values } = parseArgs({ options })
  const { device, json, rounds, only } = values
  const report = doctor()
  print(formatDoctor(report))
  if (device !== 'cpu' && !report.cuda.usable) {
    print(`\nno GPU benchmark: ${report.cuda.reasons.join('; ')}`)
    return noGpu
  }
  await mkdir(dirname(json), { recursive: true })
  const start = performance.now()
  const left = (): number => Math.max(1, totalSeconds - (performance.now() - start) / 1000)
  const peer = hasTorch(device) ? ['--peer', 'torch'] : []
  if (peer.length === 0) print('\nno peer: WHETSTONE_PYTHON (or python3) has no torch for this device')
  const common = ['--device', device, '--threads', '1', '--rounds', rounds]
  const rows: BenchRow[] = []
  const results = []
  const groups = only === '' ? opGroups : [only]
  const parts = [
    ...groups.map((ops) => ({ args: ['kernels', ...peer, '--only', ops], seconds: 90 })),
    { args: ['step', ...peer, '--only', only], seconds: 150 },
    { args: ['generate', '--only', only], seconds: 60 },
  ]
  for (const { args, seconds } of parts) {
    print('')
    results.push(await bench([...args, ...common], Math.min(seconds, left())))
    rows.push(...results[results.length - 1].rows)
    await writeAtomic(json, `${JSON.stringify({ date: new Date().toISOString(), device, report, rows }, null, 2)}\n`)
  }
  print(`\n${rows.length} rows in ${((performance.now() - start) / 1000).toFixed(0)} s: ${json}`)
  return rows.length > 0 && results.every(({ code }) => code === 0) ? 0 : 1
}

process.exitCode = await main()
