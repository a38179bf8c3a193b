// `npm run bench -- [SUITE ...] [--device NAME] [--peer NAME] [--json FILE] [--svg FILE] [--threads 1,2] [--dtype f32,bf16]
// [--rounds N] [--only PATTERN]`: runs suites on a device, the CPU by default, and prints a table. How to read it: docs/benchmarks.md.

import { parseArgs } from 'node:util'
import { messageOf, WhetstoneError } from '../ts/src/base/errors.js'
import { writeAtomic } from '../ts/src/io/files.js'
import { type Device, type DeviceOptions, getDevice } from '../ts/src/native/device.js'
import { benchCeilings } from './ceilings.js'
import { benchGenerate } from './generate.js'
import type { BenchOptions, BenchRow, Float } from './harness.js'
import { benchIterate } from './iterate.js'
import { benchKernels } from './kernels.js'
import { benchMemory } from './memory.js'
import { type Peer, peers, startPeer } from './peer.js'
import { benchPrompts } from './prompts.js'
import { benchStart } from './start.js'
import { benchStep } from './step.js'
import { benchSvg } from './svg.js'
import { machineLine, tableHead, tableLine } from './table.js'

type Suite = (options: BenchOptions) => Promise<void>

const suites: Readonly<Record<string, Suite>> = {
  kernels: benchKernels,
  step: benchStep,
  generate: benchGenerate,
  iterate: benchIterate,
  start: benchStart,
  memory: benchMemory,
  prompts: benchPrompts,
}

const refuse = (where: string, expected: string, got: string): never => {
  throw new WhetstoneError('E_CONFIG', where, `expected ${expected}, got '${got}'`)
}

/** Does a name match a regular expression? */
function matching(where: string, pattern: string): (name: string) => boolean {
  try {
    const expression = new RegExp(pattern)
    return (name) => expression.test(name)
  } catch {
    return refuse(where, 'a regular expression', pattern)
  }
}

function oneOf<T extends string>(where: string, known: readonly T[], got: string): T {
  return known.find((name) => name === got) ?? refuse(where, `one of ${known.join(', ')}`, got)
}

function wholeNumber(where: string, text: string): number {
  const value = Number(text)
  return Number.isInteger(value) && value >= 1 ? value : refuse(where, 'a whole number of at least 1', text)
}

/** One thread, and all that the device has. */
const defaultThreads = (device: Device): string => [...new Set([1, device.threads])].join(',')

function parseOptions() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        device: { type: 'string', default: 'cpu' },
        peer: { type: 'string' },
        json: { type: 'string' },
        svg: { type: 'string' },
        threads: { type: 'string' },
        dtype: { type: 'string', default: 'f32,bf16' },
        rounds: { type: 'string', default: '9' },
        only: { type: 'string', default: '' },
      },
    })
  } catch (error) {
    throw new WhetstoneError('E_CONFIG', 'bench', messageOf(error), { cause: error })
  }
}

function parseCommand() {
  const { values, positionals } = parseOptions()
  const device = getDevice({ device: values.device as DeviceOptions['device'] })
  const names = positionals.map((name) => oneOf('suite', Object.keys(suites), name))
  const peer = values.peer === undefined ? undefined : oneOf('--peer', Object.keys(peers), values.peer)
  const alone = names.find((name) => peer !== undefined && !peers[peer].suites.includes(name))
  if (peer !== undefined && alone !== undefined) refuse('--peer', `a suite of ${peers[peer].suites.join(', ')}`, alone)
  return {
    names: names.length > 0 ? names : Object.keys(suites),
    peer,
    json: values.json,
    svg: values.svg,
    threads: (values.threads ?? defaultThreads(device)).split(',').map((text) => wholeNumber('--threads', text)),
    dtypes: values.dtype.split(',').map((text) => oneOf<Float>('--dtype', ['f32', 'bf16'], text)),
    rounds: wholeNumber('--rounds', values.rounds),
    only: matching('--only', values.only),
  }
}

const print = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

type Command = ReturnType<typeof parseCommand>

/** Runs the suites with the peers' programs that were started for them. */
async function runSuites(
  { names, json, svg, ...settings }: Command,
  running: ReadonlyMap<string, Peer>,
): Promise<void> {
  const rows: BenchRow[] = []
  let saved: Promise<unknown> = Promise.resolve()
  // Row by row: a run may be ended at any time.
  const report = (row: BenchRow) => {
    rows.push(row)
    print(tableLine(row))
    if (json === undefined) return
    const text = `${JSON.stringify(rows, null, 2)}\n`
    saved = saved.then(() => writeAtomic(json, text))
  }
  print(machineLine(getDevice()))
  print(tableHead())
  await benchCeilings(getDevice(), { ...settings, peer: undefined, report })
  for (const name of names) {
    await suites[name]({ ...settings, peer: running.get(name), report })
    await saved
    if (svg !== undefined) await writeAtomic(svg, benchSvg(rows, machineLine(getDevice())))
  }
}

async function main(): Promise<void> {
  const command = parseCommand()
  const running = new Map<string, Peer>()
  try {
    const { peer, names } = command
    if (peer !== undefined)
      for (const name of names.filter((suite) => peers[peer].suites.includes(suite)))
        running.set(name, await startPeer(peer, name, getDevice().name))
    await runSuites(command, running)
  } finally {
    for (const peer of running.values()) await peer.close()
  }
}

try {
  await main()
} catch (error) {
  if (!WhetstoneError.isInstance(error)) throw error
  process.stderr.write(`${error.code} ${error.message}\n`)
  process.exitCode = 1
} finally {
  getDevice().close()
}
