// A peer: another program that does the same work in a process of its own, on request, and tells how long it took by
// its own clock. One line of JSON each way; the programs are in peers/. None is needed for anything but `--peer`.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { messageOf, WhetstoneError } from '../ts/src/base/errors.js'
import { isJsonObject, parseJson } from '../ts/src/io/json.js'
import { packageRoot } from '../ts/src/native/addon.js'

/** A running peer. */
export interface Peer {
  /** With its version: `torch 2.13.0`. */
  readonly name: string
  /** Makes the work ready and returns what the peer says of it; undefined when it has no such work. */
  prepare(job: object): Promise<Readonly<Record<string, unknown>> | undefined>
  /** Does the prepared work `count` times; resolves with the seconds of one. */
  run(count: number): Promise<number>
  close(): Promise<void>
}

/** Names of peers, and the suites that they have a program for. */
export const peers: Readonly<Record<string, readonly string[]>> = {
  torch: ['step', 'kernels', 'generate'],
  'torch-compile': ['step'],
}

const fail = (message: string, cause?: unknown): WhetstoneError =>
  new WhetstoneError('E_CONFIG', '--peer', `${message}: name a Python that has it in WHETSTONE_PYTHON`, { cause })

async function startPython(args: readonly string[], device: string) {
  const python = process.env.WHETSTONE_PYTHON ?? 'python3'
  const env = { ...process.env, WHETSTONE_PEER_DEVICE: device }
  const child = spawn(python, ['-B', ...args], { stdio: 'pipe', env })
  try {
    await once(child, 'spawn')
  } catch (error) {
    throw fail(`cannot start '${python}' (${messageOf(error)})`, error)
  }
  // A peer that ends too early is reported by the answer that does not come.
  child.stdin.on('error', () => {})
  return child
}

/** Gives the end of what a stream has said so far. */
function tailOf(stream: Readable): () => string {
  let tail = ''
  stream.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-2000)
  })
  return () => tail
}

/**
 * Starts a peer's program for a suite, on a device by its name (`cpu`, `cuda:0`).
 *
 * @throws WhetstoneError E_CONFIG when there is no Python or it lacks what the program needs
 */
export async function startPeer(name: string, suite: string, device: string): Promise<Peer> {
  const [program, ...flags] = name.split('-')
  const script = join(packageRoot(), 'bench', 'peers', `${program}_${suite}.py`)
  if (!existsSync(script)) throw new WhetstoneError('E_INTERNAL', '--peer', `there is no peers/${program}_${suite}.py`)
  const child = await startPython([script, ...flags], device)
  const complaints = tailOf(child.stderr)
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const answer = async () => {
    const { value, done } = await lines.next()
    const reply = done === true ? undefined : parseJson(value, name)
    if (isJsonObject(reply)) return reply
    throw new WhetstoneError('E_INTERNAL', '--peer', `${name} ended in the middle of suite ${suite}\n${complaints()}`)
  }
  const ask = (message: object) => {
    child.stdin.write(`${JSON.stringify(message)}\n`)
    return answer()
  }
  const { version, missing } = await answer()
  if (missing !== undefined) throw fail(`this Python has no ${String(missing)}`)
  return {
    name: `${name} ${String(version)}`,
    prepare: async (job) => {
      const reply = await ask(job)
      return reply.unsupported === true ? undefined : reply
    },
    run: async (count) => Number((await ask({ run: count })).seconds),
    close: async () => {
      child.stdin.end()
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    },
  }
}
