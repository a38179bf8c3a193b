// GPUs without a GPU: the addon over a CUDA driver on host memory (test/native/fake_cuda.cpp), built here when there is a
// compiler. What is chosen and why, transfers, memory, faults, drivers that crash, hang or are not there. Every case runs
// in a process of its own, since a process opens one driver. Kernels' numbers are other tests' business.

import { execFileSync, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { packageRoot } from '../ts/src/native/addon.js'

const folder = t.testdir({ 'kernels.bin': 'FAKE', 'none.bin': '' })
const kernels = join(folder, 'kernels.bin')
const sources = join(packageRoot(), 'test/native/fake_cuda.cpp')

/** Compiles the fake driver; undefined without a compiler. */
function buildDriver(): string | undefined {
  const file = join(folder, 'libcuda.so.1')
  for (const compiler of ['c++', 'g++', 'clang++']) {
    const made = spawnSync(compiler, ['-std=c++20', '-shared', '-fPIC', '-o', file, sources, '-ldl'], { stdio: 'pipe' })
    if (made.status === 0) return file
    if (made.error === undefined) throw new Error(String(made.stderr))
  }
  return undefined
}

const driver = process.platform === 'linux' ? buildDriver() : undefined
const skip = driver === undefined ? 'needs a C++ compiler' : false

/** A device file may be here for real: these tests are about the driver that is named, or about one that is not there. */
const variables = {
  WHETSTONE_CUDA_KERNELS: kernels,
  WHETSTONE_CUDA_LIBRARY: driver ?? '',
  WHETSTONE_CUDA_PROBE_SECONDS: '10',
}

const prelude = `
  import { openDevice, getDevice } from '${new URL('../ts/src/native/device.js', import.meta.url)}'
  import { doctor, formatDoctor } from '${new URL('../ts/src/native/doctor.js', import.meta.url)}'
  import { zeros, scale } from '${new URL('../ts/src/ops/index.js', import.meta.url)}'
  import { empty, tensor } from '${new URL('../ts/src/tensor/tensor.js', import.meta.url)}'
  const codeOf = (work) => { try { work(); return 'none' } catch (error) { return error.code + ' ' + error.message } }
  const codeIn = async (work) => { try { await work(); return 'none' } catch (error) { return error.code + ' ' + error.message } }
  const tell = (value) => process.stdout.write(JSON.stringify(value))
`

/** Runs a program of a process of its own and gives what it told. */
function inProcess<R>(settings: string, program: string, env: Record<string, string> = {}): R {
  const file = join(folder, `program-${Math.random().toString(36).slice(2)}.mjs`)
  writeFileSync(file, prelude + program)
  const text = execFileSync(process.execPath, [file], {
    env: { ...process.env, ...variables, FAKE_CUDA: settings, ...env },
    encoding: 'utf8',
  })
  return JSON.parse(text) as R
}

t.test('a machine without a driver', async (t) => {
  const env = { WHETSTONE_CUDA_LIBRARY: join(folder, 'nowhere.so') }
  const told = inProcess<Record<string, string>>(
    '',
    `const device = openDevice()
     tell({ kind: device.kind, reason: device.reason, named: codeOf(() => openDevice({ device: 'cuda' })),
       text: formatDoctor(doctor()), problems: doctor().problems.join() })`,
    env,
  )
  t.equal(told.kind, 'cpu')
  t.match(told.reason, /no CUDA driver: .*nowhere|ops have no CUDA kernel/)
  t.match(told.named, /^E_DEVICE \[cuda\] no CUDA driver: .*nowhere.*whetstone doctor/s)
  t.match(told.text, /^cuda +not usable \(no CUDA driver: .*nowhere/m)
  t.equal(told.problems, '', 'no GPU is no problem')
})

t.test('a build without kernels', { skip }, async (t) => {
  const told = inProcess<Record<string, string>>(
    '',
    `tell({ reason: openDevice().reason, named: codeOf(() => openDevice({ device: 'cuda' })), text: formatDoctor(doctor()) })`,
    { WHETSTONE_CUDA_KERNELS: join(folder, 'none.bin') },
  )
  t.equal(told.reason, 'this build has no CUDA kernels')
  t.match(told.named, /^E_DEVICE \[cuda\] this build has no CUDA kernels/)
  t.match(told.text, /^cuda +not usable \(this build has no CUDA kernels\)$/m, 'said once')
  t.match(told.text, /^cuda:0 +Fake GPU 0, compute capability 9.0, 1.0 GiB/m, 'the GPU is told all the same')
})

t.test('a GPU that works', { skip }, async (t) => {
  const told = inProcess<Record<string, unknown>>(
    'gpus=2',
    `const device = openDevice({ device: 'cuda:1' })
     const values = Float32Array.from({ length: 2_500_000 }, (_, i) => i)
     const x = tensor(device, values), small = tensor(device, Int32Array.of(4, 5, 6))
     const back = await x.data()
     const live = device.memory().liveBytes
     const view = Array.from(await small.view([2], 1).data())
     x.dispose()
     await device.sync()
     tell({ kind: device.kind, name: device.name, level: device.level, description: device.description, view,
       same: back.every((value, i) => value === i), live, after: device.memory().liveBytes,
       limit: device.memory().limitBytes, wrong: codeOf(() => openDevice({ device: 'cuda:7' })),
       odd: codeOf(() => openDevice({ device: 'cuda:x' })) })
     device.close()`,
  )
  t.match(told, { kind: 'cuda', name: 'cuda:1', level: 'sm_90 Fake GPU 1', view: [5, 6], same: true, limit: 2 ** 30 })
  t.equal(told.description, 'cuda:1 sm_90 Fake GPU 1 (asked for)')
  t.equal(told.live, Math.ceil(1e7 / 512) * 512 + 512)
  t.equal(told.after, 512)
  t.match(told.wrong, /^E_DEVICE \[cuda:7\] there is no GPU 7; the driver shows 2/)
  t.match(told.odd, /^E_DEVICE .*expected auto, cpu, cuda or cuda:N, got 'cuda:x'/)
})

t.test('what auto takes, and what a shared device allows', { skip }, async (t) => {
  const program = `
    const device = getDevice()
    tell({ name: device.name, reason: device.reason, cuda: codeOf(() => getDevice({ device: 'cuda' })),
      cpu: codeOf(() => getDevice({ device: 'cpu' })), second: codeOf(() => getDevice({ device: 'cuda:1' })) })`
  const named = inProcess<Record<string, string>>('', program, { WHETSTONE_DEVICE: 'cuda' })
  t.match(named, { name: 'cuda:0', reason: 'WHETSTONE_DEVICE', cuda: 'none' })
  t.match(named.cpu, /^E_DEVICE .*already uses 'cuda:0', got 'cpu'/)
  t.match(named.second, /^E_DEVICE .*already uses 'cuda:0', got 'cuda:1'/)
  const level = inProcess<Record<string, string>>('', program, { WHETSTONE_ISA: 'v2' })
  t.match(level, { name: 'cpu', reason: 'a level of the CPU was asked for' })
  const free = inProcess<Record<string, string>>('', program)
  if (free.name === 'cpu') t.match(free.reason, /^\d+ of \d+ ops have no CUDA kernel$/, 'only whole backends are taken')
  else t.match(free, { name: 'cuda:0', reason: 'the fastest device here' })
})

t.test('out of memory is an error, not an end', { skip }, async (t) => {
  const told = inProcess<Record<string, unknown>>(
    'memory=4194304',
    `const device = openDevice({ device: 'cuda', memoryLimitBytes: Number(process.env.LIMIT ?? 0) })
     const large = empty(device, [2_000_000], 'f32')
     const refused = await codeIn(() => large.data())
     const fits = tensor(device, Float32Array.of(3))
     tell({ refused, fits: Array.from(await fits.data()), live: device.memory().liveBytes })`,
  )
  t.match(told.refused, /^E_OOM \[allocate\] 8000000 bytes asked, 0 in use, limit 4194304; use a smaller batch/)
  t.same([told.fits, told.live], [[3], 512])
})

t.test('an op without a CUDA kernel is refused by name', { skip }, async (t) => {
  const told = inProcess<{ has: boolean; refused: string }>(
    '',
    `const device = openDevice({ device: 'cuda' })
     const x = tensor(device, Float32Array.of(1, 2))
     const has = device.hasKernel('scale')
     tell({ has, refused: has ? '' : await codeIn(() => scale(x, 2).data()) })`,
  )
  if (told.has) t.equal(told.refused, '')
  else t.match(told.refused, /^E_NO_KERNEL \[scale\] .*sm_90 Fake GPU 0/)
})

t.test('a lost GPU is said, stays lost, and the CPU goes on', { skip }, async (t) => {
  const told = inProcess<Record<string, string>>(
    'fail=cuMemcpyDtoHAsync:700@3',
    `const device = openDevice({ device: 'cuda' })
     const x = tensor(device, Float32Array.of(1, 2))
     await x.data()
     const first = await codeIn(() => x.data())
     const write = await codeIn(() => tensor(device, Float32Array.of(1)).data())
     const sync = await codeIn(() => device.sync())
     device.close()
     const again = codeOf(() => openDevice({ device: 'cuda' }))
     const cpu = openDevice({ device: 'cpu' })
     tell({ first, write, sync, again, cpu: String(await scale(tensor(cpu, Float32Array.of(2)), 3).data()) })`,
  )
  t.match(
    told.first,
    /^E_DEVICE_LOST \[read\] Fake GPU 0 failed for good: copying from the device gives CUDA_ERROR_ILLEGAL_ADDRESS /,
  )
  t.match(told.write, /^E_DEVICE_LOST .*ILLEGAL_ADDRESS/)
  t.match(told.sync, /^E_DEVICE_LOST .*ILLEGAL_ADDRESS/)
  t.match(told.again, /^E_DEVICE_LOST .*failed for good in this process: restart it/)
  t.equal(told.cpu, '6')
})

t.test('drivers that end or stop the process that tries them', { skip }, async (t) => {
  const program = `tell({ reason: openDevice().reason, named: codeOf(() => openDevice({ device: 'cuda' })),
    gpus: doctor().cuda.gpus.length, text: formatDoctor(doctor()) })`
  const partial = /ops have no CUDA kernel/
  const crash = inProcess<Record<string, string>>('crash=cuInit', program)
  t.match(crash.named, /^E_DEVICE \[cuda\] the CUDA driver ended the process that tried it by SIGABRT/)
  t.ok(partial.test(crash.reason) || /SIGABRT/.test(crash.reason), crash.reason)
  const hang = inProcess<Record<string, string>>('hang=cuInit', program, { WHETSTONE_CUDA_PROBE_SECONDS: '1' })
  t.match(hang.named, /^E_DEVICE \[cuda\] the CUDA driver did not answer within 1 s/)
  const late = inProcess<Record<string, string>>('crash=cuMemcpyDtoHAsync', program)
  t.match(late.named, /SIGABRT/)
  t.equal(late.gpus, 1, 'what it told before is kept')
  t.match(late.text, /^cuda +not usable \(the CUDA driver ended.*SIGABRT.*\)\n.*\n?driver +CUDA 13\.0/m)
})

t.test('the doctor tells kernels, driver and GPUs', { skip }, async (t) => {
  const { text, report } = inProcess<{ text: string; report: { cuda: { usable: boolean; level: string } } }>(
    'gpus=2 capability=86',
    `tell({ text: formatDoctor(doctor()), report: doctor() })`,
  )
  t.equal(report.cuda.usable, true)
  t.match(text, /^cuda +usable$/m)
  t.match(text, /^kernels +\d+ of \d+ ops, 1 KB for file$/m)
  t.match(text, /^driver +CUDA 13\.0 \(.*libcuda\.so\.1\)$/m)
  t.match(text, /^cuda:0 +Fake GPU 0, compute capability 8\.6, 1\.0 GiB, 1\.0 GiB free; runs file$/m)
  t.match(text, /^cuda:1 +Fake GPU 1, compute capability 8\.6, 1\.0 GiB; runs file$/m)
})

t.test('a GPU that fails a copy or gives wrong numbers is not taken', { skip }, async (t) => {
  const named = inProcess<string>('fail=cuMemcpyHtoDAsync:1@1+', `tell(codeOf(() => openDevice({ device: 'cuda' })))`)
  t.match(named, /^E_DEVICE \[cuda\] copying to the device gives/)
  const numb = inProcess<string>('numb=1', `tell(codeOf(() => openDevice({ device: 'cuda' })))`)
  t.match(numb, /^E_DEVICE \[cuda\] a kernel gives wrong numbers: NaN at 0/)
})

t.test('worker threads have devices of their own, and may be ended', { skip }, async (t) => {
  const told = inProcess<{ value: string; exits: number[] }>(
    '',
    `import { Worker } from 'node:worker_threads'
     const device = openDevice({ device: 'cuda' })
     const x = tensor(device, Float32Array.of(8))
     const source = \`import { openDevice } from '\${'${new URL('../ts/src/native/device.js', import.meta.url)}'}'
       import { parentPort } from 'node:worker_threads'
       const device = openDevice({ device: 'cuda' })
       const id = device.create(0, [1000000])
       parentPort.postMessage('open')
       setInterval(() => device.write(id, new Float32Array(1000000)), 1)\`
     const exits = []
     for (let i = 0; i < 8; i++) {
       const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(source)))
       await new Promise((open) => worker.on('message', open))
       exits.push(await worker.terminate())
     }
     tell({ value: String(await x.data()), exits })`,
  )
  t.equal(told.value, '8')
  t.same(told.exits, Array(8).fill(1))
})
