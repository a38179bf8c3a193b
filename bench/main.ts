// `npm run bench -- [SUITE] [--threads 1,2] [--dtype f32,bf16] [--json FILE]`: runs suites and prints a table.

import { parseArgs } from 'node:util'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { writeAtomic } from '../ts/src/io/files.js'
import { getDevice } from '../ts/src/native/device.js'
import { benchGenerate } from './generate.js'
import { type BenchOptions, type BenchRow, rowText } from './harness.js'
import { benchStep } from './step.js'

const suites: Readonly<Record<string, (options: BenchOptions) => Promise<void>>> = {
  step: benchStep,
  generate: benchGenerate,
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: String(getDevice().threads) },
    dtype: { type: 'string', default: 'f32,bf16' },
    json: { type: 'string' },
  },
})
const rows: BenchRow[] = []
const options: BenchOptions = {
  threads: values.threads.split(',').map(Number),
  dtypes: values.dtype.split(',').map((dtype) => {
    if (dtype === 'f32' || dtype === 'bf16') return dtype
    throw new WhetstoneError('E_CONFIG', '--dtype', `expected f32 or bf16, got '${dtype}'`)
  }),
  report: (row) => {
    rows.push(row)
    process.stdout.write(`${rowText(row)}\n`)
  },
}
for (const name of positionals.length > 0 ? positionals : Object.keys(suites)) {
  const suite = Object.hasOwn(suites, name) ? suites[name] : undefined
  if (suite === undefined)
    throw new WhetstoneError('E_CONFIG', 'suite', `expected one of ${Object.keys(suites).join(', ')}, got '${name}'`)
  await suite(options)
}
if (values.json !== undefined) await writeAtomic(values.json, `${JSON.stringify(rows, null, 2)}\n`)
getDevice().close()
