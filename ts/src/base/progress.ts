// One live line on a terminal; off a terminal one plain line every few seconds. Writes to stderr, so that stdout stays
// free for results. A closed pipe ends the output, not the run. The texts are made by pure functions below; colours
// follow NO_COLOR, and a dumb terminal gets plain lines.

/** Shows progress. */
export interface Progress {
  /** Replaces the live line; off a terminal prints it at most every few seconds. */
  update(line: string): void
  /** Prints a line that stays. */
  note(line: string): void
  /** Ends the live line; off a terminal prints the newest line if it was held back. */
  end(): void
}

const plainEveryMs = 5000
const eraseLine = '\r\u001b[2K'

/** What progress is written to: process.stderr in practice. */
export interface ProgressStream {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
  on?(event: 'error', listener: (error: Error) => void): unknown
}

/** What surrounds the stream; tests put their own here. */
export interface ProgressOptions {
  /** Milliseconds of a clock. */
  readonly now?: () => number
  /** Environment variables: NO_COLOR and TERM are looked at. */
  readonly env?: Readonly<Record<string, string | undefined>>
}

/** Streams whose errors are taken care of, and whether one has failed. */
const guarded = new WeakMap<ProgressStream, { failed: boolean }>()

/** A writer that stops for good at the stream's first error: the reader has gone, or the disk is full. */
function guardedWrite(stream: ProgressStream): (text: string) => void {
  const state = guarded.get(stream) ?? { failed: false }
  if (!guarded.has(stream)) {
    guarded.set(stream, state)
    stream.on?.('error', () => {
      state.failed = true
    })
  }
  return (text) => {
    if (state.failed) return
    try {
      stream.write(text)
    } catch {
      state.failed = true
    }
  }
}

/** Progress on a stream; `quiet` writes nothing. */
export function createProgress(stream: ProgressStream, quiet = false, options: ProgressOptions = {}): Progress {
  const { now = Date.now, env = process.env } = options
  const live = stream.isTTY === true && env.TERM !== 'dumb'
  const write = quiet ? () => undefined : guardedWrite(stream)
  let shown = false
  let held: string | undefined
  let lastPlain = Number.NEGATIVE_INFINITY
  const clear = () => {
    if (shown) write(eraseLine)
    shown = false
  }
  return {
    update: (line) => {
      if (live) {
        write(eraseLine + emphasized(fitted(withoutControls(line), stream.columns || 100), hasColor(stream, env)))
        shown = true
      } else if (now() - lastPlain >= plainEveryMs) {
        lastPlain = now()
        held = undefined
        write(`${withoutControls(line)}\n`)
      } else held = line
    },
    note: (line) => {
      clear()
      write(`${withoutControls(line)}\n`)
    },
    end: () => {
      clear()
      if (held !== undefined) write(`${withoutControls(held)}\n`)
      held = undefined
    },
  }
}

/** May colours be used? On a terminal, unless NO_COLOR is set to anything (no-color.org) or the terminal is dumb. */
export const hasColor = (
  stream: Pick<ProgressStream, 'isTTY'>,
  env: Readonly<Record<string, string | undefined>>,
): boolean => stream.isTTY === true && env.TERM !== 'dumb' && (env.NO_COLOR ?? '') === ''

/** Text whose control characters, newlines apart, are shown as `?`: what is printed cannot steer the terminal. */
export const withoutControls = (text: string): string => text.replace(/(?!\n)\p{Cc}/gu, '?')

/** The line cut so that it stays on one row of the terminal. */
export const fitted = (line: string, columns: number): string => {
  const room = Math.max(1, columns - 1)
  return line.length <= room ? line : `${line.slice(0, room - 1)}…`
}

/** The line with its first word in bold. */
export const emphasized = (line: string, color: boolean): string =>
  color ? line.replace(/^\S+/, (word) => `\u001b[1m${word}\u001b[22m`) : line

/** What a live line tells of a step. */
export interface StepFacts {
  readonly phase: string
  readonly step: number
  readonly totalSteps: number
  readonly loss: number
  /** Mean reward of the newest samples, 0..1. */
  readonly reward?: number
  /** Nats per token. */
  readonly kl?: number
  readonly tokensPerSecond: number
  readonly memoryBytes?: number
  readonly secondsLeft: number
}

/** `round 12/400  loss 0.0412  reward 0.713  kl 0.021  17900 tokens/s  74.6 MiB  3 min 5 s left` */
export function stepLine(facts: StepFacts): string {
  const { phase, step, totalSteps, loss, reward, kl, tokensPerSecond, memoryBytes, secondsLeft } = facts
  const parts = [
    `${phase} ${step}/${totalSteps}`,
    `loss ${loss.toFixed(4)}`,
    reward === undefined ? '' : `reward ${reward.toFixed(3)}`,
    kl === undefined ? '' : `kl ${kl.toFixed(3)}`,
    `${Number.isFinite(tokensPerSecond) ? Math.round(tokensPerSecond) : '?'} tokens/s`,
    memoryBytes === undefined ? '' : bytesText(memoryBytes),
    `${duration(secondsLeft)} left`,
  ]
  return parts.filter((part) => part !== '').join('  ')
}

/** Seconds as `42 s`, `3 min 5 s` or `2 h 4 min`; `?` for what is not known. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** Bytes with a binary unit: `12.3 MiB`. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10))
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`
}
