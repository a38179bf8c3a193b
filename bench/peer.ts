// A peer: another program that does the same work in a process of its own, on request, and tells how long it took by
// its own clock. One line of JSON each way; the programs are in peers/. None is needed for anything but `--peer`.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
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

/** How the program of a peer is started for a suite. */
interface Program {
  readonly suites: readonly string[]
  readonly command: (suite: string) => readonly string[] | Promise<readonly string[]>
  /** What a user can do when it does not start. */
  readonly advice: string
}

const peerFile = (name: string): string => join(packageRoot(), 'bench', 'peers', name)

const python = (program: string, suites: readonly string[], ...flags: string[]): Program => ({
  suites,
  command: (suite) => [process.env.WHETSTONE_PYTHON ?? 'python3', '-B', peerFile(`${program}_${suite}.py`), ...flags],
  advice: 'name a Python that has it in WHETSTONE_PYTHON',
})

/** A library behind bench/peers/gemm.cpp, compiled for the occasion. */
const library = (name: string, flags: readonly string[]): Program => ({
  suites: ['kernels'],
  command: async () => {
    const program = join(await mkdtemp(join(tmpdir(), 'whetstone-peer-')), name)
    const compiler = process.env.CXX ?? 'c++'
    const result = spawnSync(compiler, ['-O2', '-std=c++17', peerFile('gemm.cpp'), '-o', program, ...flags])
    if (result.status === 0) return [program]
    throw new WhetstoneError(
      'E_CONFIG',
      '--peer',
      `${compiler} cannot build against ${name}: ${result.stderr ?? result.error}`,
    )
  },
  advice: `install ${name} with its headers`,
})

/** The peers by name. */
export const peers: Readonly<Record<string, Program>> = {
  torch: python('torch', ['step', 'kernels', 'generate']),
  'torch-compile': python('torch', ['step', 'kernels'], 'compile'),
  onednn: library('onednn', ['-DPEER_ONEDNN', '-fopenmp', '-ldnnl']),
  openblas: library('openblas', ['-DPEER_OPENBLAS', '-lopenblas']),
  'llama.cpp': {
    suites: ['generate'],
    command: () => [process.execPath, peerFile('llama_generate.mjs')],
    advice: 'install it in a folder and name that in WHETSTONE_LLAMA_CPP',
  },
  build: {
    suites: ['step', 'kernels'],
    command: (suite) => [process.execPath, join(packageRoot(), 'dist/bench/peer-build.js'), suite],
    advice: 'name another addon (whetstone.node) in WHETSTONE_PEER_ADDON',
  },
}

async function startProgram([program, ...args]: readonly string[], device: string, advice: string) {
  const env = { ...process.env, WHETSTONE_PEER_DEVICE: device }
  const child = spawn(program, args, { stdio: 'pipe', env })
  try {
    await once(child, 'spawn')
  } catch (error) {
    throw new WhetstoneError('E_CONFIG', '--peer', `cannot start '${program}' (${messageOf(error)}): ${advice}`, {
      cause: error,
    })
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
 * @throws WhetstoneError E_CONFIG when it cannot be started or lacks what it needs
 */
export async function startPeer(name: string, suite: string, device: string): Promise<Peer> {
  const { command, advice } = peers[name]
  const child = await startProgram(await command(suite), device, advice)
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
  if (missing !== undefined) throw new WhetstoneError('E_CONFIG', '--peer', `there is no ${String(missing)}: ${advice}`)
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
