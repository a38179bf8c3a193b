// Who frees tensors: every tensor made while a scope is open belongs to it and is let go when the scope ends,
// unless kept. Scopes nest and are synchronous: a scope is entered by `run`, which refuses a promise, so that
// no await can leave another piece of code inside it.

import '../base/dispose.js'
import { WhetstoneError } from '../base/errors.js'

interface Held {
  dispose(): void
}

let current: Scope | undefined

/** A set of tensors with one lifetime. May be entered many times before it is disposed. */
export class Scope {
  readonly #held = new Set<Held>()

  /** Runs `work` with this scope open and returns its result. */
  run<R>(work: () => R): R {
    const outer = current
    current = this
    try {
      const result = work()
      if (result instanceof Promise)
        throw new WhetstoneError(
          'E_INTERNAL',
          'scope',
          'expected synchronous work, got a promise: await outside the scope',
        )
      return result
    } finally {
      current = outer
    }
  }

  add(held: Held): void {
    this.#held.add(held)
  }

  /** Hands a tensor to the scope outside (or to the caller when there is none). */
  release<T extends Held>(held: T, to: Scope | undefined): T {
    if (this.#held.delete(held)) to?.add(held)
    return held
  }

  /** Lets go of everything that still belongs to the scope. */
  dispose(): void {
    for (const held of this.#held) held.dispose()
    this.#held.clear()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** Puts a new tensor into the open scope, if any. */
export function adopt(held: Held): void {
  current?.add(held)
}

/** Takes a tensor out of every open scope: it lives until `dispose()`. */
export function keep<T extends Held>(held: T): T {
  return current === undefined ? held : current.release(held, undefined)
}

function heldOf(value: unknown): Held[] {
  if (typeof value !== 'object' || value === null) return []
  if (typeof (value as Partial<Held>).dispose === 'function') return [value as Held]
  return Object.values(value).flatMap(heldOf)
}

/** Runs `work` and frees every tensor that it made, except those in its result, which pass to the scope outside. */
export function tidy<R>(work: () => R): R {
  const outer = current
  const scope = new Scope()
  try {
    const result = scope.run(work)
    for (const held of heldOf(result)) scope.release(held, outer)
    return result
  } finally {
    scope.dispose()
  }
}
