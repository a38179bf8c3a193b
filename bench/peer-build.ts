// The peer `build`: another build of the addon, named in WHETSTONE_PEER_ADDON, under the same modules. On a machine that
// others share, medians of runs one after the other move by a fifth; two builds that take turns show a few percent.

import { resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { parseJson } from '../ts/src/io/json.js'
import { type Device, type DeviceOptions, getDevice } from '../ts/src/native/device.js'
import { tidy } from '../ts/src/tensor/scope.js'
import { timed } from './harness.js'
import { callOrdered } from './kernels.js'
import { stepOrdered } from './step.js'

/** Work that was made ready: something to do again and again, and what the other side is told of it. */
interface Ready {
  /** Seconds of one, of `count`. */
  run(count: number): Promise<number>
  readonly facts: object
  dispose(): void
}

type Prepare = (device: Device, order: Readonly<Record<string, unknown>>) => Promise<Ready>

const suites: Readonly<Record<string, Prepare>> = {
  kernels: async (device, order) => {
    const { run, dispose } = callOrdered(device, order)
    const times = async (count: number) => {
      const all = timed(() => {
        for (let i = 0; i < count; i++) tidy(run)
        return device.sync()
      })
      return (await all()) / count
    }
    return { run: times, facts: {}, dispose }
  },
  step: async (device, order) => {
    const { run, facts, dispose } = await stepOrdered(device, order as unknown as Parameters<typeof stepOrdered>[1])
    return { run: timed(run), facts, dispose }
  },
}

const say = (message: object): void => {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

async function serve(prepare: Prepare): Promise<void> {
  const device = getDevice({ device: process.env.WHETSTONE_PEER_DEVICE as DeviceOptions['device'] })
  say({ version: device.level })
  let ready: Ready | undefined
  for await (const line of createInterface({ input: process.stdin })) {
    const message = parseJson(line, 'order') as Readonly<Record<string, unknown>>
    if (ready !== undefined && message.run !== undefined) {
      say({ seconds: await ready.run(Number(message.run)) })
      continue
    }
    ready?.dispose()
    ready = await prepare(device, message)
    say(ready.facts)
  }
}

const addon = process.env.WHETSTONE_PEER_ADDON
if (addon === undefined) say({ missing: 'other build' })
else {
  process.env.WHETSTONE_ADDON = resolve(addon)
  await serve(suites[process.argv[2]])
  getDevice().close()
}
