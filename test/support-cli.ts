// What the suites of the command line share: the built program as a child process in a folder of its own, and what its
// runs leave there.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { Test } from 'tap'
import { makeTiny, putRows, rowsOf, tinyFolder } from './support-kinds.js'

/** How a child ended, and what it wrote. */
export interface Outcome {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

const program = resolve('dist', 'bundle', 'cli.js')

/** A folder with the tiny model `base`, the larger `teacher`, rows of each kind, `run.yaml`, and the program in it. */
export async function commandLine(t: Pick<Test, 'teardown'>) {
  const { folder } = await tinyFolder(t)
  await makeTiny(join(folder, 'teacher'), 48)
  for (const [kind, rows] of Object.entries(rowsOf)) await putRows(folder, `${kind}.jsonl`, rows)
  const put = (name: string, text: string): Promise<void> => writeFile(join(folder, name), text)
  const settings = ['model_name_or_path: base', 'learning_rate: 3e-3', 'max_steps: 4', 'per_device_train_batch_size: 4']
  await put('run.yaml', `${settings.join('\n')}\nsave_steps: 2\n`)
  const start = (args: readonly string[], env = process.env): ChildProcess =>
    spawn(process.execPath, [program, ...args], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
  return {
    folder,
    put,
    start,
    run: async (...args: string[]): Promise<Outcome> => {
      const child = start(args)
      let [out, err] = ['', '']
      child.stdout?.on('data', (piece) => (out += piece))
      child.stderr?.on('data', (piece) => (err += piece))
      const [code] = (await once(child, 'close')) as [number | null]
      return { code, out, err }
    },
    /** Settings that a run folder keeps. */
    settingsOf: async (name: string): Promise<Record<string, { value: unknown; origin: string }>> =>
      JSON.parse(await readFile(join(folder, name, 'config.json'), 'utf8')),
    /** Events that a run folder keeps. */
    eventsOf: async (name: string): Promise<Record<string, unknown>[]> => {
      const text = await readFile(join(folder, name, 'metrics.jsonl'), 'utf8')
      return text.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line)]))
    },
  }
}

/** The words of a command. */
export const words = (command: string): string[] => command.split(' ')

/** Works through a list, two at a time. */
export async function inPairs<T>(list: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...list]
  const worker = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await work(item)
  }
  await Promise.all([worker(), worker()])
}
