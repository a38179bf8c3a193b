// The refusals that every op entry gets from its cases: wrong types, shapes, parameters and absent operands end in an
// error with a code and the op's name, in TypeScript or in native code, and never in a crash. Knows no op by name.

import type { Test } from 'tap'
import { WhetstoneError } from '../ts/src/base/errors.js'
import type { Device } from '../ts/src/native/device.js'
import { opTable } from '../ts/src/native/ops.gen.js'
import { call, type OpEntry, operandsOf } from '../ts/src/ops/define.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { type Shape, sizeOf } from '../ts/src/tensor/shape.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { dtypeOf, type Example, exampleOf, passed, resultsOf, upload, type Value, value } from './ops-cases.js'

type T = Pick<Test, 'ok' | 'fail' | 'match'>

/** Runs work that must throw a WhetstoneError with this code, naming the op. */
function refuses(t: T, entry: OpEntry, code: string, text: string, work: () => unknown): void {
  try {
    work()
    t.fail(`${entry.name} ${text}: expected ${code}, nothing was thrown`)
  } catch (error) {
    t.ok(WhetstoneError.isInstance(error), `${entry.name} ${text}: ${error}`)
    t.match(error, { code, message: `[${entry.name}]` }, `${entry.name} ${text}`)
  }
}

/** The first case that must work and has something in it. */
const goodExample = (entry: OpEntry): Example =>
  exampleOf(
    entry,
    entry.cases.findIndex((c) => !c.bench && c.fails === undefined && c.dtype === undefined),
    'f32',
  )

/** Declared failures; and wrong types, absent and disposed operands, missing parameters, for every operand. */
export async function checkRefusals(t: T, device: Device, entry: OpEntry): Promise<void> {
  const scope = new Scope()
  scope.run(() => {
    entry.cases.forEach((c, index) => {
      if (c.fails === undefined) return
      const example = exampleOf(entry, index, c.dtype ?? 'f32')
      const tensors = upload(device, entry, example.values)
      refuses(t, entry, c.fails, example.text, () => call(entry, tensors, c.p))
    })
    refuseOperands(t, device, entry)
    refuseParameters(t, device, entry)
  })
  scope.dispose()
  await device.sync()
}

function refuseOperands(t: T, device: Device, entry: OpEntry): void {
  const { values, case: c } = goodExample(entry)
  passed(entry).forEach(({ name, type, optional }, i) => {
    if (values[name] === undefined) return
    const { shape } = values[name].host
    const swap = (other: Tensor | undefined) => () => {
      call(entry, upload(device, entry, values).with(i, other), c.p)
    }
    const wrong = tensor(device, new (type === 'u8' ? Int32Array : Uint8Array)(sizeOf(shape)), shape)
    refuses(t, entry, 'E_DTYPE', `${name} of ${wrong.dtype}`, swap(wrong))
    if (!optional) refuses(t, entry, 'E_SHAPE', `${name} absent`, swap(undefined))
    wrong.dispose()
    refuses(t, entry, 'E_DISPOSED', `${name} disposed`, swap(wrong))
  })
}

function refuseParameters(t: T, device: Device, entry: OpEntry): void {
  const { values, case: c } = goodExample(entry)
  for (const name of Object.keys(c.p ?? {})) {
    const { [name]: _, ...rest } = c.p ?? {}
    refuses(t, entry, 'E_CONFIG', `without ${name}`, () => call(entry, upload(device, entry, values), rest))
  }
}

const strangeNumbers = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -1, 0, 0.5, 1e-300, 1e300]

/** Any number as a parameter is refused before the queue, or works. */
export async function checkStrangeParameters(t: T, device: Device, entry: OpEntry): Promise<void> {
  const example = goodExample(entry)
  for (const name of Object.keys(example.case.p ?? {}))
    for (const number of strangeNumbers) {
      const p = { ...example.case.p, [name]: number }
      await runsOrRefuses(t, device, { ...example, case: { ...example.case, p } }, `${name} ${number}`)
    }
}

// Shapes that do not fit ----------------------------------------------------------------------------------------------

/** Each dimension one longer and one shorter, one dimension more, one less. */
function neighbours(shape: Shape): Shape[] {
  const changed = shape.flatMap((length, i) => [shape.with(i, length + 1), shape.with(i, Math.max(0, length - 1))])
  return [...changed, [...shape, 1], shape.slice(1)].filter((s) => s.length <= 4)
}

/** What native code may still refuse after TypeScript has passed the shapes: contents. */
const contents = /(ids|table|positions|lengths|slots|targets|keys|from|to)\[\d+\]|visibility of token|pair \d+/

/** The value under another shape: cut, or continued with zeros. */
function reshaped(v: Value, shape: Shape): Value {
  const numbers = Float64Array.from({ length: sizeOf(shape) }, (_, i) => v.host.data[i] ?? 0)
  return value(shape, v.dtype, numbers)
}

/** Wrong shapes are refused before the queue; what is not refused, runs. */
export async function checkShapeRules(t: T, device: Device, entry: OpEntry): Promise<void> {
  const example = goodExample(entry)
  for (const [name, v] of Object.entries(example.values)) {
    for (const shape of neighbours(v.host.shape)) {
      const changed = { ...example, values: { ...example.values, [name]: reshaped(v, shape) } }
      await runsOrRefuses(t, device, changed, `${name} [${shape.join(', ')}]`)
    }
  }
}

async function runsOrRefuses(t: T, device: Device, { entry, values, case: c }: Example, text: string): Promise<void> {
  const scope = new Scope()
  try {
    const reads = scope.run(() => {
      const tensors = upload(device, entry, values)
      return resultsOf(entry, tensors, call(entry, tensors, c.p)).map((result) => result.t.bits())
    })
    await Promise.all(reads)
  } catch (error) {
    const { code, message, cause } = error as WhetstoneError
    const refused = code === 'E_SHAPE' || code === 'E_CONFIG'
    const fair = message.includes(`[${entry.name}]`) && refused && (cause === undefined || contents.test(message))
    t.ok(fair, `${entry.name} with ${text}: ${code} ${message}`)
  } finally {
    scope.dispose()
  }
}

/** Native code refuses wrong shapes by itself: it gets operands that TypeScript would never pass. */
export async function checkNativeShapes(t: T, device: Device, entry: OpEntry): Promise<void> {
  const example = goodExample(entry)
  const outputs = operandsOf(entry.name).filter((operand) => operand.role === 'output')
  const shapes = entry.shapes(example.case.in, example.case.p ?? {})
  const made = outputs.map((o, i) =>
    value(shapes[i], dtypeOf(o, example.case, 'f32'), new Float64Array(sizeOf(shapes[i]))),
  )
  const operands = [...passed(entry).map((o) => example.values[o.name] as Value | undefined), ...made]
  const p = opTable[entry.name].parameters.map((name) => example.case.p?.[name] ?? 0)
  for (const [at, operand] of operands.entries()) {
    if (operand === undefined) continue
    for (const shape of neighbours(operand.host.shape)) {
      const scope = new Scope()
      const reads = scope.run(() => {
        const tensors = operands
          .with(at, reshaped(operand, shape))
          .map((v) => v && tensor(device, v.bits, v.host.shape))
        device.run(
          entry.name,
          tensors.map((x) => x?.id ?? -1),
          p,
        )
        return tensors.map(async (x) => x?.bits())
      })
      scope.dispose()
      for (const outcome of await Promise.allSettled(reads))
        if (outcome.status === 'rejected') t.match(outcome.reason, { code: /^E_(SHAPE|CONFIG)$/, where: entry.name })
    }
  }
}
