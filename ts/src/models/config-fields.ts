// Reading one key of a parsed config.json: its kind and range are checked, and a fault names the key, what was expected
// and what came. Which keys mean what is config.ts's.

import { WhetstoneError } from '../base/errors.js'

/** config.json, parsed. */
export type Json = Readonly<Record<string, unknown>>

export function refuse(key: string, expected: string, got: unknown): never {
  throw new WhetstoneError('E_CONFIG', `config.json: ${key}`, `expected ${expected}, got ${JSON.stringify(got)}`)
}

/** Sizes that no real model passes: what a file claims must not decide what is allocated. */
export const mostLayers = 4096
export const mostLabels = 65536
const largestSize = 2 ** 31 - 1

/** A whole number from 1 up to `most`. */
export function count(raw: Json, key: string, fallback?: unknown, most = largestSize): number {
  const value = raw[key] ?? fallback
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= most) return value
  return refuse(key, `a whole number from 1 to ${most}`, value)
}

export function positive(raw: Json, key: string, fallback?: number): number {
  const value = raw[key] ?? fallback
  return typeof value === 'number' && Number.isFinite(value) && value > 0
    ? value
    : refuse(key, 'a number above 0', value)
}

export function real(raw: Json, key: string, fallback?: number): number {
  const value = raw[key] ?? fallback
  if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value
  return refuse(key, 'a number of at least 0', value)
}

export function flag(raw: Json, key: string, fallback: boolean): boolean {
  const value = raw[key] ?? fallback
  return typeof value === 'boolean' ? value : refuse(key, 'true or false', value)
}

export function objectOf(value: unknown, key: string): Json {
  if (value === undefined || value === null) return {}
  return typeof value === 'object' && !Array.isArray(value) ? (value as Json) : refuse(key, 'an object', value)
}

export function tokenIds(value: unknown, key: string): number[] {
  if (value === undefined || value === null) return []
  const list = Array.isArray(value) ? value : [value]
  return list.every((id) => Number.isInteger(id) && id >= 0) ? list : refuse(key, 'a token id or a list of them', value)
}
