// Flags of the device, for every command that opens one. They go before the environment variables of the same meaning.

import { type Command, Option } from 'commander'
import { WhetstoneError } from '../../src/base/errors.js'
import { type DeviceOptions, getDevice } from '../../src/native/device.js'
import { numberOf, textOf } from './common.js'
import type { Options } from './flags.js'

const flags: readonly (readonly [flag: string, text: string])[] = [
  ['--device <name>', 'auto, cpu, cuda or cuda:N [WHETSTONE_DEVICE, else auto]'],
  ['--threads <n>', 'threads of the CPU [WHETSTONE_THREADS, else its physical cores]'],
  ['--memoryLimit <size>', 'most memory for tensors, in bytes or as 8GiB; 0: all [WHETSTONE_MEMORY_LIMIT, else 0]'],
]

const addSome = (command: Command, some: typeof flags): Command =>
  some.reduce((own, [flag, text]) => own.addOption(new Option(flag, text).helpGroup('Device:')), command)

/** Adds `--device`, `--threads` and `--memoryLimit`. */
export const addDeviceFlags = (command: Command): Command => addSome(command, flags)

/** Adds `--device` alone, where the device is asked what it is like and does nothing. */
export const addDeviceFlag = (command: Command): Command => addSome(command, flags.slice(0, 1))

function refuse(name: string, expected: string, text: string | number): never {
  throw new WhetstoneError('E_CONFIG', `--${name}`, `expected ${expected}, got '${text}'`)
}

function deviceOf(options: Options): DeviceOptions['device'] {
  const name = textOf(options, 'device')
  if (name === undefined || /^(auto|cpu|cuda(:\d{1,3})?)$/.test(name)) return name as DeviceOptions['device']
  return refuse('device', 'auto, cpu, cuda or cuda:N', name)
}

function threadsOf(options: Options): number | undefined {
  const threads = numberOf(options, 'threads')
  if (threads === undefined || (Number.isInteger(threads) && threads >= 1 && threads <= 4096)) return threads
  return refuse('threads', 'a whole number from 1 to 4096', threads)
}

const units = ['', 'k', 'm', 'g', 't']

/** Bytes of `1073741824`, `1024MiB` or `1.5GiB`. */
function memoryOf(options: Options): number | undefined {
  const text = textOf(options, 'memoryLimit')
  if (text === undefined) return undefined
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?) ?(?:([kmgt])ib)?$/i.exec(text) ?? []
  const bytes = Number(number) * 1024 ** units.indexOf(unit.toLowerCase())
  if (Number.isSafeInteger(bytes)) return bytes
  return refuse('memoryLimit', 'whole bytes, or a size as 512MiB or 8GiB', text)
}

/**
 * Opens the device that flags ask for, as the one that the process shares. Without flags the first model opens it.
 *
 * @throws WhetstoneError E_CONFIG naming the flag, E_DEVICE when it is not there
 */
export function openDeviceOf(options: Options): void {
  const device = deviceOf(options)
  const [threads, memoryLimitBytes] = [threadsOf(options), memoryOf(options)]
  if (device === undefined && threads === undefined && memoryLimitBytes === undefined) return
  // `auto` would ask it.
  if (device !== undefined) delete process.env.WHETSTONE_DEVICE
  getDevice({ device, threads, memoryLimitBytes })
}
