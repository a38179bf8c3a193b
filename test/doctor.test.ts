// The doctor: a complete report of a working installation, and a report of what is wrong instead of an exception.

import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { findAddon } from '../ts/src/native/addon.js'
import { type DoctorReport, doctor, formatDoctor } from '../ts/src/native/doctor.js'
import { parseCpuList } from '../ts/src/native/machine.js'
import { opTable } from '../ts/src/native/ops.gen.js'
import { temporaryFolder } from './support.js'

/** The report of a process of its own with these variables. */
function doctorWith(env: Record<string, string>): DoctorReport {
  const program = `import { doctor } from '${new URL('../ts/src/native/doctor.js', import.meta.url)}'
    process.stdout.write(JSON.stringify(doctor()))`
  const options = { env: { ...process.env, ...env }, encoding: 'utf8' } as const
  return JSON.parse(execFileSync(process.execPath, ['--input-type=module', '-e', program], options))
}

t.test('a working installation', async (t) => {
  const report = doctor()
  t.same(report.problems, [])
  t.equal(report.addon.loaded, true)
  t.equal(report.node, process.version)
  t.match(report.whetstone, /^\d+\.\d+\.\d+/)
  t.ok(report.cpu.level !== null && report.cpu.levels.includes(report.cpu.level))
  t.ok(report.threads.count >= 1 && report.threads.reason !== '')
  t.ok(report.threads.physicalCores >= 1 && report.threads.physicalCores <= report.threads.allowedCpus)
  t.ok(report.memory.totalBytes >= report.memory.freeBytes)
  t.equal(report.cpu.amx === '', report.cpu.levels.includes('amx'), 'a level that is missing has a reason')
  t.equal(report.cuda.usable, report.cuda.reasons.length === 0)
  t.ok(report.cuda.usable || report.cuda.reasons[0] !== '', 'a reason')
  t.same(JSON.parse(JSON.stringify(report)), report, 'plain data')
  const text = formatDoctor(report)
  for (const word of ['whetstone', 'addon', 'level', 'threads', 'cuda', 'memory'])
    t.match(text, new RegExp(`^${word} `, 'm'))
  t.notMatch(text, /PROBLEM/)
})

t.test('variables decide, and are told', async (t) => {
  const report = doctorWith({ WHETSTONE_ISA: 'v2', WHETSTONE_THREADS: '3' })
  t.same([report.cpu.level, report.cpu.reason], ['v2', 'WHETSTONE_ISA'])
  t.same([report.threads.count, report.threads.reason], [3, 'WHETSTONE_THREADS'])
  t.match(report.environment, { WHETSTONE_ISA: 'v2', WHETSTONE_THREADS: '3' })
})

t.test('an addon that cannot be loaded is a finding', async (t) => {
  const report = doctorWith({ WHETSTONE_ADDON: 'no-such-file.node' })
  t.same([report.addon.loaded, report.addon.kind, report.cpu.level], [false, 'WHETSTONE_ADDON', null])
  t.match(report.problems[0], /no native addon for .*no-such-file/s)
  t.ok(report.threads.count >= 1, 'the rest is told all the same')
  t.match(formatDoctor(report), /^PROBLEM /m)
})

const lastOp = Object.keys(opTable).at(-1)

/** The addon of this build with another list of ops, by an expression of `ops`. */
const otherOps: Readonly<Record<string, { readonly ops: string; readonly says: RegExp }>> = {
  'an op with other operands': {
    ops: "ops.map((op) => (op.name === 'scale' ? { ...op, signature: 'x:T z:T > y:T' } : op))",
    says: /expected scale\(x:T > y:T; factor\) as op 8, got scale\(x:T z:T > y:T; factor\)/,
  },
  'other parameters': {
    ops: "ops.map((op) => (op.name === 'fill' ? { ...op, parameters: '' } : op))",
    says: /expected fill\(=x:f32; value\) as op 0, got fill\(=x:f32\)/,
  },
  'another order': { ops: '[...ops].reverse()', says: new RegExp(`expected fill\\(.* as op 0, got ${lastOp}\\(`) },
  'an op less': { ops: 'ops.slice(0, -1)', says: new RegExp(`expected ${lastOp}\\(.*, got no further op`) },
  'an op more': { ops: 'ops.concat(ops[0])', says: /expected no further op as op \d+, got fill\(/ },
  'no list of ops': { ops: 'undefined', says: /expected fill\(.* as op 0, got no further op/ },
}

t.test('an addon with other ops is a finding, and is not used', async (t) => {
  const folder = await temporaryFolder(t)
  for (const [what, { ops, says }] of Object.entries(otherOps)) {
    const path = join(folder, `${what}.cjs`)
    const own = ops === 'undefined' ? '{ ops: undefined }' : `{ ops: () => { const ops = addon.ops(); return ${ops} } }`
    writeFileSync(
      path,
      `const addon = require(${JSON.stringify(findAddon().path)}); module.exports = { ...addon, ...${own} }`,
    )
    const { addon, cpu, problems } = doctorWith({ WHETSTONE_ADDON: path })
    t.same([addon.loaded, cpu.level, problems.length], [false, null, 1], what)
    t.match(problems[0], says, what)
    t.match(problems[0], /reinstall the package, or build it from a clone with `npm run build`/)
  }
  const unchanged = join(folder, 'unchanged.cjs')
  writeFileSync(unchanged, `module.exports = require(${JSON.stringify(findAddon().path)})`)
  t.same(doctorWith({ WHETSTONE_ADDON: unchanged }).problems, [], 'the same ops are fine')
})

t.test('impossible settings are findings', async (t) => {
  const report = doctorWith({ WHETSTONE_ISA: 'abacus', WHETSTONE_THREADS: 'many', WHETSTONE_MEMORY_LIMIT: '-1' })
  t.equal(report.cpu.level, null)
  t.equal(report.problems.length, 3)
  t.match(report.problems.join(), /abacus.*WHETSTONE_THREADS.*'many'.*WHETSTONE_MEMORY_LIMIT.*'-1'/)
})

t.test('lists of processors', async (t) => {
  t.same(parseCpuList('0-3,8'), [0, 1, 2, 3, 8])
  t.same(parseCpuList('5'), [5])
  t.same(parseCpuList(''), [])
})
