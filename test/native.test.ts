// The addon and its devices: memory limits, closed devices, bad options and arguments, worker threads. Nothing here may
// end the process.
// What tensors do on a device that is open is in tensor.test.ts.

import { execFileSync } from 'node:child_process'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { commands, findAddon, loadAddon } from '../ts/src/native/addon.js'
import { type Device, openDevice } from '../ts/src/native/device.js'
import { add, copy, fill, scale, zeros } from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { empty, tensor } from '../ts/src/tensor/tensor.js'

const device = openDevice({ device: 'cpu', threads: 2 })
t.teardown(() => device.close())

const settled = async (d: Device): Promise<number> => {
  await d.sync()
  return d.memory().liveBytes
}

t.test('out of memory is an error, not an end', async (t) => {
  const small = openDevice({ device: 'cpu', threads: 1, memoryLimitBytes: 1 << 20 })
  const before = await settled(small)
  const scope = new Scope()
  const large = scope.run(() => zeros(small, [1 << 20]))
  const after = scope.run(() => scale(large, 2))
  await t.rejects(large.data(), { code: 'E_OOM', message: /limit 1048576/ })
  await t.rejects(after.data(), { code: 'E_OOM' }, 'what depends on it fails with it')
  const fits = scope.run(() => scale(tensor(small, Float32Array.of(3)), 2))
  t.same(Array.from(await fits.data()), [6], 'smaller work goes on')
  scope.dispose()
  t.equal(await settled(small), before, 'nothing is held')
  const again = zeros(small, [200_000])
  t.equal((await again.data()).length, 200_000)
  again.dispose()
  small.close()
})

t.test('fragments of other sizes do not count against the limit for good', async (t) => {
  const small = openDevice({ device: 'cpu', threads: 1, memoryLimitBytes: 1 << 20 })
  for (let size = 1; size < 200_000; size = Math.ceil(size * 1.4)) zeros(small, [size]).dispose()
  const x = zeros(small, [230_000])
  t.equal((await x.data())[0], 0)
  small.close()
})

t.test('threads that the system does not give', { skip: process.platform !== 'linux' }, (t) => {
  const program = `
    const { openDevice } = await import('${new URL('../ts/src/native/device.js', import.meta.url)}')
    const { tensor } = await import('${new URL('../ts/src/tensor/tensor.js', import.meta.url)}')
    const { scale } = await import('${new URL('../ts/src/ops/index.js', import.meta.url)}')
    const device = openDevice({ device: 'cpu', threads: 4096 })
    const y = await scale(tensor(device, new Float32Array(1 << 18).fill(2)), 3).data()
    process.stdout.write(device.threads + ' ' + y.every((x) => x === 6))`
  // Each thread takes 8 MB of address space.
  const shell = ['-c', 'ulimit -v 14000000 && exec "$0" --input-type=module -e "$1"', process.execPath, program]
  const [threads, right] = execFileSync('sh', shell, { encoding: 'utf8' }).split(' ')
  t.ok(Number(threads) > 1 && Number(threads) < 4096, `${threads} threads`)
  t.equal(right, 'true')
  t.end()
})

t.test('the addon stays when the last worker that used it ends', { skip: process.platform !== 'linux' }, (t) => {
  // A CUDA driver keeps pointers into it.
  const program = `
    const { Worker } = require('node:worker_threads')
    const worker = new Worker('require(process.env.ADDON).cpu()', { eval: true })
    worker.on('exit', (code) => {
      const mapped = require('node:fs').readFileSync('/proc/self/maps', 'utf8').includes(process.env.ADDON)
      process.stdout.write(code + ' ' + mapped)
    })`
  const env = { ...process.env, ADDON: findAddon().path }
  t.equal(execFileSync(process.execPath, ['-e', program], { env, encoding: 'utf8' }), '0 true')
  t.end()
})

t.test('a closed device', async (t) => {
  const other = openDevice({ device: 'cpu', threads: 1 })
  const x = zeros(other, [1 << 20])
  for (let i = 0; i < 50; i++) scale(x, 2).dispose()
  const waiting = x.data()
  const handled = waiting.then(
    () => 'E_NONE',
    (error) => error.code,
  )
  other.close()
  t.match(await handled, /E_DEVICE|E_NONE/, 'a read in flight ends')
  t.throws(() => scale(x, 2), { code: /^E_/ })
  t.throws(() => tensor(other, new Float32Array(1)), { code: /^E_/ })
  await t.rejects(x.data(), { code: /^E_/ })
  other.close()
})

t.test('two devices do not mix', async (t) => {
  const other = openDevice({ device: 'cpu', threads: 1 })
  const [a, b] = [device, other].map((d) => tensor(d, Float32Array.of(1)))
  t.throws(() => add(a, b), { code: 'E_DEVICE', message: '[add]' })
  t.throws(() => copy(a, b), { code: 'E_DEVICE', message: '[copy]' })
  a.dispose()
  b.dispose()
  other.close()
})

t.test('bad options are refused', async (t) => {
  t.throws(() => openDevice({ device: 'tpu' as 'cpu' }), { code: 'E_DEVICE', message: /tpu/ })
  t.throws(() => openDevice({ isa: 'avx1024' }), { code: 'E_DEVICE', message: /avx1024/ })
  t.throws(() => openDevice({ threads: -1 }), { code: 'E_CONFIG' })
  t.throws(() => openDevice({ threads: 1.5 }), { code: 'E_CONFIG' })
  t.throws(
    () => {
      device.threads = 0
    },
    { code: 'E_CONFIG' },
  )
  t.throws(() => openDevice({ memoryLimitBytes: -5 }), { code: /^E_/ })
  t.throws(() => openDevice({ memoryLimitBytes: Number.NaN }), { code: /^E_/ })
})

t.test('no argument of the addon ends the process', async (t) => {
  const addon = loadAddon()
  const native = new addon.Device('', 1, 0)
  const junk: unknown[] = [
    undefined,
    null,
    -1,
    1.5,
    Number.NaN,
    1e300,
    'x',
    {},
    [],
    new Float32Array(2),
    Symbol.iterator,
  ]
  const methods = ['submit', 'write', 'setThreads', 'hasKernel', 'read', 'profile'] as const
  let refused = 0
  for (const method of methods) {
    const f = native[method].bind(native) as (...args: unknown[]) => unknown
    for (const a of junk)
      for (const b of junk) {
        try {
          await f(a, b, b, a)
        } catch {
          refused++
        }
      }
  }
  t.ok(refused > 100, `${refused} calls refused`)
  for (const value of [Number.NaN, 1e9, -1, 0.5]) {
    native.record.fill(value)
    t.throws(() => native.submit(native.record.length))
  }
  for (const length of [-1, native.record.length + 1, 3]) {
    native.record.set([commands.run, 0, 2, 0])
    t.throws(() => native.submit(length))
  }
  native.record.set([commands.create, 0, 0, 4, 1e12, 1e12, 1e12, 1e12])
  t.throws(() => native.submit(8))
  native.record.set([commands.run, 0, 0, 0])
  native.submit(4)
  t.throws(() => (addon.Device as unknown as () => void)())
  t.throws(() => native.submit.call({} as typeof native, 0))
  await native.read([-1], [null])
  native.close()
})

const workerSource = `
  const { parentPort, workerData } = require('node:worker_threads')
  const open = async () => {
    const { openDevice } = await import(workerData.device)
    const { tensor } = await import(workerData.tensor)
    const { linear, scale } = await import(workerData.ops)
    const device = openDevice({ device: 'cpu', threads: 2 })
    const x = tensor(device, Float32Array.of(1, 2, 3))
    parentPort.postMessage(Array.from(await scale(x, 2).data()))
    if (!workerData.busy) return device.close()
    const a = tensor(device, new Float32Array(1 << 20), [1024, 1024])
    parentPort.postMessage('busy')
    for (;;) {
      const y = linear(a, a)
      await y.data()
      y.dispose()
    }
  }
  open()
`

const startWorker = (busy: boolean): Worker =>
  new Worker(workerSource, {
    eval: true,
    workerData: {
      busy,
      device: new URL('../ts/src/native/device.js', import.meta.url).href,
      tensor: new URL('../ts/src/tensor/tensor.js', import.meta.url).href,
      ops: new URL('../ts/src/ops/index.js', import.meta.url).href,
    },
  })

t.test('worker threads load the addon, and may be ended at any time', async (t) => {
  const worker = startWorker(false)
  const said = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  t.same(said, [2, 4, 6])
  t.equal(await new Promise((resolve) => worker.once('exit', resolve)), 0)

  for (let round = 0; round < 3; round++) {
    const busy = startWorker(true)
    await new Promise<void>((resolve, reject) => {
      busy.on('message', (text) => text === 'busy' && resolve()).once('error', reject)
    })
    await new Promise((resolve) => setTimeout(resolve, 10 * round))
    t.equal(await busy.terminate(), 1)
  }
  const x = empty(device, [1], 'f32')
  fill(x, 7)
  t.same(Array.from(await x.data()), [7], 'this thread goes on')
  x.dispose()
})
