// A program with a time limit. It is the head of a process group, so that what it starts (a sanitizer's target, a peer's
// Python) ends with it. One that a driver holds beyond its end is left behind.

import { spawn } from 'node:child_process'

export interface LimitedEnd {
  readonly code: number | null
  /** It was ended by the limit. */
  readonly late: boolean
  /** Both streams, unless they are shown. */
  readonly output: string
}

export interface LimitedOptions {
  readonly cwd: string
  readonly env?: NodeJS.ProcessEnv
  /** Output goes to this process's own. */
  readonly show?: boolean
}

/** What the system may take to end a killed program. */
const secondsToEnd = 15

/** Runs it for at most so many seconds. Ctrl-C ends it too. */
export async function runLimited(
  [program, ...args]: readonly string[],
  seconds: number,
  { cwd, env = process.env, show = false }: LimitedOptions,
): Promise<LimitedEnd> {
  const stdio = show ? 'inherit' : 'pipe'
  const child = spawn(program, args, { cwd, env, detached: true, stdio: ['ignore', stdio, stdio] })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (chunk) => {
      output += chunk
    })
  let late = false
  const endAll = () => {
    if (child.pid === undefined) return
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch {} // they have ended
  }
  const interrupt = () => {
    endAll()
    process.exit(130)
  }
  process.once('SIGINT', interrupt)
  let timer: NodeJS.Timeout | undefined
  const code = await new Promise<number | null>((resolve) => {
    timer = setTimeout(() => {
      late = true
      endAll()
      timer = setTimeout(() => {
        child.unref()
        resolve(null)
      }, secondsToEnd * 1000)
    }, seconds * 1000)
    child.on('error', (error) => {
      output += error.message
      resolve(null)
    })
    child.on('close', (code) => resolve(code))
  })
  clearTimeout(timer)
  process.off('SIGINT', interrupt)
  return { code, late, output }
}
