// Rooms with a wall, a door and a key: `a00k12d|21g33t10:` is a room of which row and column of each thing are told: the agent, the
// key, the door in a wall that runs up and down (`|`) or across (`-`), the goal, and a trap. An episode is a line of
// steps, each an action and what is seen behind it, the agent's place with a `k` while it has the key: `r=01,d=11,r=12k,`.
//   u d l r   a step up, down, left, right; into a wall, or the door without the key, it leads nowhere
//   x         takes back the last step that is not yet taken back
//   !         does nothing; undoing passes over it
// The key is taken by stepping on it. The trap leads back to where the agent began: who does not know better goes round for ever.
// The episode ends at the goal, with the reward (fewest steps) / (steps taken). Any line of right observations that
// ends there is right; the worked solution has the fewest steps. Characters that are none of these are for verdicts on steps.

import * as z from 'zod'
import { checkArgument, having, kinds } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import type { Random } from '../../src/base/rng.js'
import { resolveConfig } from '../config/resolve.js'
import {
  checkAttempt,
  type Env,
  type EnvStep,
  splitLists,
  type Task,
  type TaskSource,
  taskKind,
  type Verdict,
} from './task.js'

/** Settings of the rooms. */
export const gridOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(4).max(9).default(4).describe('side of the room'),
})

type Cell = readonly [row: number, column: number]

/** A room, and how large it is. */
interface Room {
  readonly side: number
  readonly agent: Cell
  readonly key: Cell
  readonly door: Cell
  /** The wall runs up and down. */
  readonly upright: boolean
  readonly goal: Cell
  readonly trap: Cell
}

/** Where the agent is. */
interface Place {
  readonly cell: Cell
  readonly hasKey: boolean
}

/** Where an episode is: all places that undoing leads back to, the last one being where the agent is. */
interface State {
  readonly room: Room
  readonly trail: readonly Place[]
  readonly steps: number
  readonly fewest: number
  readonly done: boolean
}

const moves: Readonly<Record<string, Cell>> = { u: [-1, 0], d: [1, 0], l: [0, -1], r: [0, 1] }
const [undo, pause, actionEnd] = ['x', '!', '=']

const isAt = ([row, column]: Cell, other: Cell): boolean => row === other[0] && column === other[1]

const isWall = ({ door, upright }: Room, [row, column]: Cell): boolean =>
  upright ? column === door[1] : row === door[0]

/** Where a move leads. */
function moved(room: Room, { cell, hasKey }: Place, [down, right]: Cell): Place {
  const next: Cell = [cell[0] + down, cell[1] + right]
  const isOutside = next.some((at) => at < 0 || at >= room.side)
  const isClosed = isWall(room, next) && !(hasKey && isAt(next, room.door))
  if (isOutside || isClosed) return { cell, hasKey }
  return { cell: isAt(next, room.trap) ? room.agent : next, hasKey: hasKey || isAt(next, room.key) }
}

const seen = ({ cell: [row, column], hasKey }: Place): string => `${row}${column}${hasKey ? 'k' : ''}`

/** The fewest moves from a place to the goal; of equals those that come first in the order u, d, l, r. undefined: none. */
function wayFrom(room: Room, from: Place): string[] | undefined {
  const known = new Set([seen(from)])
  let edge: { place: Place; way: string[] }[] = [{ place: from, way: [] }]
  while (edge.length > 0) {
    const there = edge.find(({ place }) => isAt(place.cell, room.goal))
    if (there !== undefined) return there.way
    edge = edge.flatMap(({ place, way }) =>
      Object.entries(moves).flatMap(([move, by]) => {
        const next = moved(room, place, by)
        if (known.has(seen(next))) return []
        known.add(seen(next))
        return [{ place: next, way: [...way, move] }]
      }),
    )
  }
  return undefined
}

const textOf = ({ agent, key, door, upright, goal, trap }: Room): string =>
  `a${agent.join('')}k${key.join('')}d${upright ? '|' : '-'}${door.join('')}g${goal.join('')}t${trap.join('')}:`

const form = /^a(\d)(\d)k(\d)(\d)d([|-])(\d)(\d)g(\d)(\d)t(\d)(\d):$/

/**
 * The room of a prompt.
 *
 * @throws WhetstoneError E_FORMAT
 */
function roomOf(prompt: string, side: number): Room {
  const found = form.exec(prompt)
  const digits = (found ?? []).slice(1).filter((part) => part !== '|' && part !== '-')
  const [ar, ac, kr, kc, dr, dc, gr, gc, tr, tc] = digits.map(Number)
  const room: Room = {
    ...{ side, agent: [ar, ac], key: [kr, kc], door: [dr, dc] },
    ...{ upright: found?.[5] === '|', goal: [gr, gc], trap: [tr, tc] },
  }
  if (found === null || digits.some((digit) => Number(digit) >= side) || wayFrom(room, startOf(room)) === undefined)
    throw new WhetstoneError(
      'E_FORMAT',
      'grid',
      `expected a room of side ${side} with a way to its goal, got '${prompt}'`,
    )
  return room
}

const startOf = ({ agent, key }: Room): Place => ({ cell: agent, hasKey: isAt(agent, key) })

function begin(room: Room): State {
  const start = startOf(room)
  return { room, trail: [start], steps: 0, fewest: wayFrom(room, start)?.length ?? 0, done: false }
}

/** What an action makes of a state, and what is seen. */
function act(state: State, action: string): { state: State; step: EnvStep } {
  const { room, trail, fewest } = state
  const place = trail[trail.length - 1]
  const name = action.endsWith(actionEnd) ? action.slice(0, -actionEnd.length) : ''
  const move = Object.hasOwn(moves, name) ? moves[name] : undefined
  const known = move !== undefined || name === undo || name === pause
  const went = move === undefined ? place : moved(room, place, move)
  const undone = trail.slice(0, Math.max(1, trail.length - 1))
  const next = name === pause ? trail : name === undo ? undone : [...trail, went]
  const steps = state.steps + 1
  const done = isAt(went.cell, room.goal)
  const observation = known ? `${seen(next[next.length - 1])},` : '?,'
  return {
    state: { ...state, trail: next, steps, done },
    step: { observation, reward: done ? fewest / steps : 0, done },
  }
}

const stateKind = having('a snapshot of a grid', 'room', 'trail')

function gridEnv(side: number): Env {
  let state: State | undefined
  const current = (): State => {
    if (state !== undefined) return state
    throw new WhetstoneError('E_CONFIG', 'grid', 'expected an episode that has begun: call reset() before')
  }
  return {
    actionEnd,
    actions: Object.keys(moves).map((move) => `${move}${actionEnd}`),
    undo: `${undo}${actionEnd}`,
    reset: (task) => {
      checkArgument('reset.task', task, taskKind)
      state = begin(roomOf(task.prompt, side))
      return task.prompt
    },
    step: (action) => {
      checkArgument('step.action', action, kinds.text)
      if (current().done) throw new WhetstoneError('E_CONFIG', 'grid', 'expected an episode that goes on, it is over')
      const next = act(current(), action)
      state = next.state
      return next.step
    },
    snapshot: current,
    restore: (snapshot) => {
      checkArgument('restore.snapshot', snapshot, stateKind)
      state = snapshot as State
    },
    stepsLeft: () => {
      const { room, trail } = current()
      return wayFrom(room, trail[trail.length - 1])?.length ?? Number.POSITIVE_INFINITY
    },
  }
}

/** What is seen on a way, step by step. */
function transcript(room: Room, way: readonly string[]): string {
  let state = begin(room)
  return way
    .map((move) => {
      const next = act(state, `${move}${actionEnd}`)
      state = next.state
      return `${move}${actionEnd}${next.step.observation}`
    })
    .join('')
}

/** Follows a line of steps as far as what is seen is right. The score is how far the goal has come nearer, below 1 unless all is right. */
function judge(room: Room, completion: string): Verdict {
  let state = begin(room)
  const failed = (reason: string, firstError?: number): Verdict => {
    const left = wayFrom(room, state.trail[state.trail.length - 1])?.length ?? state.fewest
    const score = Math.min(Math.max(0, state.fewest - left), state.fewest - 1) / state.fewest
    return { correct: false, reason, score, ...(firstError !== undefined && { firstError }) }
  }
  for (let at = 0; at < completion.length; ) {
    const end = completion.indexOf(actionEnd, at) + 1
    if (state.done) return failed('steps behind the goal', state.steps)
    if (end === 0) return failed('malformed', state.steps)
    const next = act(state, completion.slice(at, end))
    const { observation } = next.step
    if (!completion.startsWith(observation, end)) return failed(`expected ${observation} to be seen`, state.steps)
    state = next.state
    at = end + observation.length
  }
  return state.done ? { correct: true, score: 1 } : failed('not at the goal')
}

/** A room that has a way to its goal, on the other side of the wall. */
function drawRoom(random: Random, side: number): Room {
  for (;;) {
    const upright = random.integer(2) === 0
    const [line, gap] = [1 + random.integer(side - 2), random.integer(side)]
    const door: Cell = upright ? [gap, line] : [line, gap]
    const cells = Array.from({ length: side * side }, (_, i): Cell => [Math.floor(i / side), i % side])
    const across = Number(upright)
    const [before, behind] = [-1, 1].map((sign) => cells.filter((cell) => Math.sign(cell[across] - line) === sign))
    const [own, other] = random.integer(2) === 0 ? [before, behind] : [behind, before]
    const [agent, key, trap] = random.shuffle(own)
    const room = { side, agent, key, door, upright, goal: other[random.integer(other.length)], trap }
    if (wayFrom(room, startOf(room)) !== undefined) return room
  }
}

/**
 * The tasks, and their world.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function grid(options: z.input<typeof gridOptions>): TaskSource {
  const { difficulty: side, seed } = resolveConfig(gridOptions, [{ origin: 'task', values: options }]).values
  const lists = splitLists({ name: 'grid', variant: `${side}`, seed }, (random) => {
    const room = drawRoom(random, side)
    const prompt = textOf(room)
    return { canonical: `${side} ${prompt}`, prompt, answer: transcript(room, wayFrom(room, startOf(room)) ?? []) }
  })
  return {
    ...lists,
    name: 'grid',
    description: `a room of side ${side} with a wall, a door, a key and a trap`,
    characters: '0123456789akdgt|-:ulrx!=,?+~',
    maxPromptTokens: 17,
    maxNewTokens: 36 * side + 2,
    env: () => gridEnv(side),
    check: (task: Task, completion: string) => {
      checkAttempt(task, completion)
      return judge(roomOf(task.prompt, side), completion)
    },
  }
}
