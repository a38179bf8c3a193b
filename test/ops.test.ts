// Generated from the registry: every op against its reference, its gradient, its bits and its refusals, on the CPU at the
// level that WHETSTONE_ISA names, or on the device that WHETSTONE_DEVICE names. Checks that need to know an op by name are
// in ops-attention.ts, ops-head.ts, ops-rounding.ts and ops-public.ts. An emulated GPU that looks for races is slow: WHETSTONE_OPS=calls
// leaves out what compares results of calls like those that it has seen, WHETSTONE_OPS=comparisons runs that alone.

import { execFileSync } from 'node:child_process'
import t, { type Test } from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import { loadAddon } from '../ts/src/native/addon.js'
import { type DeviceOptions, openDevice } from '../ts/src/native/device.js'
import { opTable } from '../ts/src/native/ops.gen.js'
import type { OpEntry } from '../ts/src/ops/define.js'
import { castTo, gelu, glu, opEntries } from '../ts/src/ops/index.js'
import { tensor } from '../ts/src/tensor/tensor.js'
import { attentionChecks } from './ops-attention.js'
import { longAttentionChecks } from './ops-attention-long.js'
import { emulated } from './ops-cases.js'
import {
  checkBehind,
  checkForward,
  checkGradients,
  checkOffsets,
  checkSplits,
  checkSpoiltRows,
  checkThreads,
} from './ops-checks.js'
import { drawChecks, headChecks, held, read } from './ops-head.js'
import { headTermsChecks } from './ops-head-terms.js'
import { headTileChecks } from './ops-head-tiles.js'
import { publicChecks } from './ops-public.js'
import { checkNativeShapes, checkRefusals, checkShapeRules, checkStrangeParameters } from './ops-refusals.js'
import { finiteChecks, roundingChecks } from './ops-rounding.js'

const device = openDevice({ device: (process.env.WHETSTONE_DEVICE ?? 'cpu') as DeviceOptions['device'], threads: 2 })
t.teardown(() => device.close())
t.comment(`level ${device.level}`)

/** Ops that the device has no kernels for: on a GPU, until they are written. */
const missing = opEntries.filter(({ name }) => !device.hasKernel(name)).map(({ name }) => name)
t.comment(`without kernels: ${missing.join(', ') || 'none'}`)
const entries = opEntries.filter(({ name }) => !missing.includes(name))
/** Those whose gradient runs too. */
const unfinished = new Set(missing.map((name) => opTable[name].family))
const trainable = entries.filter(({ name }) => !unfinished.has(opTable[name].family))

t.test('one table of ops', async (t) => {
  const names = Object.keys(opTable)
  t.same(
    opEntries.map((entry) => entry.name),
    names,
    'the registry lists the ops of ops.def in order',
  )
  t.same(
    loadAddon()
      .ops()
      .map((op) => op.name),
    names,
    'the addon was built with the same ops.def',
  )
  for (const op of loadAddon().ops()) {
    const { family, operands, parameters } = opTable[op.name as keyof typeof opTable]
    const words = op.signature.split(' ').filter((word) => word !== '>')
    t.same(
      words.map((word) => word.replace(/^[&=~]/, '').replace(/\?/, '')),
      operands.map((operand) => `${operand.name}:${operand.type}`),
      `${op.name}: operands`,
    )
    t.equal(op.family, family, `${op.name}: family`)
    t.same(op.parameters.split(' ').filter(Boolean), parameters, `${op.name}: parameters`)
  }
  t.doesNotThrow(() => execFileSync(process.execPath, ['scripts/gen-ops.mjs', '--check']), 'ops.gen.ts fits ops.def')
})

t.test('NaN goes through the slopes of activations', async (t) => {
  for (const float of ['f32', 'bf16'] as const)
    for (const activation of ['silu', 'geluTanh'] as const) {
      const { dgate, dx } = await read(() => {
        const x = castTo(tensor(device, Float32Array.of(Number.NaN, 1, Number.NaN)), float)
        const ones = castTo(tensor(device, Float32Array.of(1, 1, 1)), float)
        const tape = new Tape()
        tape.watch(x)
        const y = tape.record(() => glu(x, ones, activation))
        tape.backward([[y, ones]])
        const dgate = held(tape.gradientOf(x))
        const second = new Tape()
        second.watch(x)
        const z = second.record(() => gelu(x))
        second.backward([[z, ones]])
        return { dgate, dx: held(second.gradientOf(x)) }
      })
      for (const gradient of [dgate, dx])
        t.same(Array.from(gradient, Number.isNaN), [true, false, true], `${float}, ${activation}`)
    }
})

t.test('every op has a kernel, cases that work and a case for the bench', async (t) => {
  for (const { name, cases } of opEntries) {
    t.ok(device.hasKernel(name) || device.kind !== 'cpu', `${name}: a kernel`)
    t.ok(
      cases.some((c) => !c.bench && c.fails === undefined),
      `${name}: a case that works`,
    )
    t.ok(
      cases.some((c) => c.bench),
      `${name}: a case for the bench`,
    )
    t.ok(
      cases.some((c) => Object.values(c.in).some((shape) => shape.includes(0))),
      `${name}: an empty case`,
    )
  }
})

/** One subtest per op. */
const forEachOp = (title: string, check: (t: Test, entry: OpEntry) => Promise<unknown>, of = entries): void => {
  t.test(title, async (t) => {
    for (const entry of of) await t.test(entry.name, (t) => check(t, entry).then(() => undefined))
  })
}

function compareCalls(): void {
  forEachOp('the same bits again and on every number of threads', (t, entry) => checkThreads(t, device, entry))
  forEachOp('the same bits however tokens are split', (t, entry) => checkSplits(t, device, entry))
  forEachOp('NaN in one token stays with it', (t, entry) => checkSpoiltRows(t, device, entry))
  drawChecks(t, device)
}

function checkCalls(): void {
  forEachOp('forward equals the float64 reference', (t, entry) => checkForward(t, device, entry))
  forEachOp('operands may begin anywhere in memory', (t, entry) => checkOffsets(t, device, entry))
  // on the emulator its driver looks, where every block has its own memory (scripts/test.mjs)
  if (device.kind === 'cuda' && !emulated)
    forEachOp('nothing is written behind outputs', (t, entry) => checkBehind(t, device, entry))
  const gradients = async (t: Test, entry: OpEntry): Promise<void> => {
    const checked = await checkGradients(t, device, entry)
    t.ok(checked > 0 || entry.gradient === undefined, 'an op with a gradient has a small case')
  }
  forEachOp('gradients equal central differences', gradients, trainable)
  forEachOp('refusals carry a code and the name of the op', (t, entry) => checkRefusals(t, device, entry))
  forEachOp('any number as a parameter', (t, entry) => checkStrangeParameters(t, device, entry))
  forEachOp('what the shape rules pass, runs', (t, entry) => checkShapeRules(t, device, entry))
  forEachOp('native code refuses by itself', (t, entry) => checkNativeShapes(t, device, entry))

  if (!unfinished.has('attention')) attentionChecks(t, device)
  if (!unfinished.has('attention')) longAttentionChecks(t, device)
  headChecks(t, device)
  headTermsChecks(t, device)
  headTileChecks(t, device)
  publicChecks(t, device)
  roundingChecks(t, device)
  finiteChecks(t, device)
}

if (process.env.WHETSTONE_OPS !== 'comparisons') checkCalls()
if (process.env.WHETSTONE_OPS !== 'calls') compareCalls()
