// Rows as text: one line each, in columns of fixed width, so that a long run can be read while it goes on.

import { cpus } from 'node:os'
import { readPackageVersion } from '../ts/src/native/addon.js'
import type { Device } from '../ts/src/native/device.js'
import type { BenchRow, Spread } from './harness.js'

/** Four digits or fewer, without an exponent. */
const figure = (value: number): string => {
  if (value >= 100) return value.toFixed(0)
  return value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

const spreadText = ({ median, min, max }: Spread): string => `${figure(median)} (${figure(min)}..${figure(max)})`

const mebibytes = (bytes: number): string => `${figure(bytes / 2 ** 20)} MiB`

function memoryText({ peakBytes, peer }: BenchRow): string {
  if (peakBytes === undefined) return ''
  return mebibytes(peakBytes) + (peer?.peakBytes === undefined ? '' : ` / ${mebibytes(peer.peakBytes)}`)
}

interface Column {
  readonly title: string
  readonly width: number
  readonly text: (row: BenchRow) => string
}

const columns: readonly Column[] = [
  { title: 'name', width: 23, text: (row) => row.name },
  { title: 'type', width: 5, text: (row) => row.dtype },
  { title: 'threads', width: 7, text: (row) => String(row.threads) },
  { title: 'ms', width: 8, text: (row) => figure(row.milliseconds) },
  { title: 'ours, median (min..max)', width: 24, text: (row) => spreadText(row.ours) },
  { title: 'unit', width: 9, text: (row) => row.unit },
  { title: 'share', width: 6, text: ({ share }) => (share === undefined ? '' : `${(100 * share).toFixed(0)}%`) },
  { title: 'peer', width: 24, text: ({ peer }) => (peer === undefined ? '' : spreadText(peer)) },
  { title: 'ratio', width: 6, text: ({ ratio }) => (ratio === undefined ? '' : `${ratio.toFixed(2)}x`) },
  { title: 'peak, ours / peer', width: 22, text: memoryText },
  { title: 'shape', width: 0, text: (row) => row.shape },
]

const line = (cells: readonly string[]): string =>
  cells
    .map((cell, i) => cell.padEnd(columns[i].width))
    .join('  ')
    .trimEnd()

/** The line above the rows. */
export const tableHead = (): string => line(columns.map(({ title }) => title))

/** A row as a line of the table. */
export const tableLine = (row: BenchRow): string => line(columns.map(({ text }) => text(row)))

/** When and on what the rows were measured. */
export const machineLine = (device: Device): string =>
  [
    new Date().toISOString().slice(0, 10),
    `whetstone ${readPackageVersion()}`,
    `node ${process.version}`,
    cpus()[0]?.model.trim() ?? process.arch,
    `${cpus().length} hardware threads`,
    `device ${device.name}, level ${device.level}`,
  ].join(', ')
