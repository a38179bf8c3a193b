// The program of the child process that tries the CUDA driver (cuda.ts starts it): a driver that crashes or hangs must
// not take its caller with it. Tells what the driver says, then what became of a copy and a kernel on one GPU, each as
// a length and v8's serialization on descriptor 3.

import { writeSync } from 'node:fs'
import { serialize } from 'node:v8'
import { messageOf } from '../base/errors.js'
import { commands, loadAddon, type NativeDevice } from './addon.js'
import { opTable } from './ops.gen.js'

const resultDescriptor = 3
const size = 1000

function tell(value: object): void {
  const body = serialize(value)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(body.length)
  writeSync(resultDescriptor, Buffer.concat([length, body]))
}

function submit(device: NativeDevice, record: readonly number[]): void {
  device.record.set(record)
  device.submit(record.length)
}

/** Copies numbers to the GPU, doubles them there when the addon can, and copies them back: 'what came' or ''. */
async function tryCopies(device: NativeDevice): Promise<string> {
  const values = Float32Array.from({ length: size }, (_, i) => i - 0.5)
  const scale = opTable.scale.id
  const doubles = device.hasKernel(scale)
  const f32 = 0
  submit(device, [commands.create, 0, f32, 1, size])
  device.write(0, values)
  if (doubles) submit(device, [commands.create, 1, f32, 1, size, commands.run, scale, 2, 0, 1, 1, 2])
  const got = new Float32Array(size)
  const [failure] = await device.read([doubles ? 1 : 0], [got])
  if (failure !== undefined) throw failure
  const wrong = got.findIndex((x, i) => x !== (doubles ? 2 : 1) * values[i])
  return wrong < 0 ? '' : `a ${doubles ? 'kernel' : 'copy'} gives wrong numbers: ${got[wrong]} at ${wrong}`
}

async function main(ordinal: number): Promise<void> {
  const addon = loadAddon()
  const driver = addon.cudaDriver(-1)
  tell(driver)
  const gpu = driver.gpus[ordinal]
  if (gpu === undefined || gpu.problem !== '') return
  try {
    const device = new addon.Device(`cuda:${ordinal}`, 0, 0)
    const problem = await tryCopies(device)
    tell({ problem, freeBytes: addon.cudaDriver(ordinal).gpus[ordinal].freeBytes })
    device.close()
  } catch (error) {
    tell({ problem: messageOf(error), freeBytes: null })
  }
}

await main(Number(process.argv[2]))
