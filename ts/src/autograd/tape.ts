// The tape: what ran, in order, with what each step's gradient needs. It knows no op by name; an op hands it a
// gradient rule. Backward walks the steps in reverse, frees what it used, and adds weight gradients straight into
// f32 buffers, in token order, so that micro-batches accumulate to the bits of one big batch.

import '../base/dispose.js'
import { WhetstoneError } from '../base/errors.js'
import { adopt, Scope, tidy } from '../tensor/scope.js'
import { sameShape, shapeText } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'

/** Arithmetic that the tape needs and that the ops room supplies (imports go one way). */
export interface TapeArithmetic {
  /** f32 zeros of the tensor's shape. */
  zeros(like: Tensor): Tensor
  add(a: Tensor, b: Tensor): Tensor
  cast(t: Tensor, dtype: Tensor['dtype']): Tensor
}

/** What a gradient rule may ask while backward is at its step. */
export interface GradientContext {
  /** Operands that the op saved, by name. */
  readonly t: Readonly<Record<string, Tensor>>
  /** Gradient of each output, by name; absent when nothing depends on it. */
  readonly d: Readonly<Record<string, Tensor | undefined>>
  readonly p: Readonly<Record<string, number>>
  /** Does anything want the gradient of this input? */
  needs(input: string): boolean
  /** The f32 buffer that the gradient of this input is added to. */
  into(input: string): Tensor
}

/** The gradient of an op: returns values for inputs, or adds to `into(...)` buffers itself. */
export type GradientRule = (g: GradientContext) => Readonly<Record<string, Tensor | undefined>>

/** One step of the tape. */
export interface Step {
  readonly name: string
  readonly inputs: Readonly<Record<string, Tensor>>
  readonly outputs: Readonly<Record<string, Tensor>>
  /** Names of the operands that the rule reads; the tape keeps them alive. */
  readonly saves: readonly string[]
  readonly p: Readonly<Record<string, number>>
  readonly rule: GradientRule
}

let active: Tape | undefined
let arithmetic: TapeArithmetic | undefined

/** Called once by the ops room. */
export function provideArithmetic(functions: TapeArithmetic): void {
  arithmetic = functions
}

const ops = (): TapeArithmetic => {
  if (arithmetic === undefined) throw new WhetstoneError('E_INTERNAL', 'tape', 'the ops room was not loaded')
  return arithmetic
}

/** The tape that records now, if any. */
export const activeTape = (): Tape | undefined => active

/** Records what runs inside `record`, then computes gradients by `backward`. Use each tape for one backward. */
export class Tape {
  readonly #steps: Step[] = []
  /** Leaves: parameters and the f32 buffers that their gradients are added to. */
  readonly #leaves: Map<Tensor, Tensor>
  readonly #tracked = new Set<Tensor>()
  readonly #pending = new Map<Tensor, Tensor>()
  /** Pending gradients that this tape made to be added to. */
  readonly #buffers = new WeakSet<Tensor>()

  /** @param leaves parameters with the f32 buffers (same shape) that receive their gradients */
  constructor(leaves: ReadonlyMap<Tensor, Tensor> = new Map()) {
    this.#leaves = new Map(leaves)
  }

  /** Runs synchronous work with this tape recording. */
  record<R>(work: () => R): R {
    return withTape(this, work)
  }

  /** Makes the gradient of a plain tensor available from {@link gradientOf} after backward. */
  watch(t: Tensor): void {
    this.#tracked.add(t)
  }

  /** Lets a tensor made from a leaf stand in for it: its gradient is added to the leaf's own buffer, as it is. */
  standIn(t: Tensor, leaf: Tensor): void {
    const buffer = this.#leaves.get(leaf)
    if (buffer !== undefined) this.#leaves.set(t, buffer)
  }

  /** Will a gradient flow to this tensor? */
  tracks(t: Tensor): boolean {
    return this.#tracked.has(t) || this.#leaves.has(t)
  }

  /** Called by ops: remembers a step when any of its inputs is tracked. */
  add(step: Step): void {
    if (Object.values(step.inputs).some((input) => this.tracks(input))) this.#record(step)
  }

  /**
   * Walks back from the given outputs with their gradients (same shapes). Frees the tape's tensors as it goes.
   *
   * @throws WhetstoneError E_SHAPE when a gradient does not fit its output
   */
  backward(roots: Iterable<readonly [output: Tensor, gradient: Tensor]>): void {
    withTape(undefined, () => {
      for (const [output, gradient] of roots) {
        if (!sameShape(output.shape, gradient.shape))
          throw new WhetstoneError(
            'E_SHAPE',
            'backward',
            `expected a gradient ${shapeText(output.shape)}, got ${shapeText(gradient.shape)}`,
          )
        this.#receive(output, gradient.retain())
      }
      for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) this.#walk(step)
    })
  }

  /** The gradient that reached a watched tensor; the caller ends the hold with `release()`. Undefined when none did. */
  gradientOf(t: Tensor): Tensor | undefined {
    const gradient = this.#pending.get(t)
    this.#pending.delete(t)
    return gradient
  }

  /** Lets go of everything, for a forward pass whose backward never comes. */
  dispose(): void {
    for (const step of this.#steps.splice(0)) letGo(step)
    for (const gradient of this.#pending.values()) gradient.release()
    this.#pending.clear()
    this.#tracked.clear()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** Records a block as one step that keeps only its input. */
  checkpoint(block: (x: Tensor) => Tensor, x: Tensor): Tensor {
    const y = withTape(undefined, () => tidy(() => block(x)))
    const rule: GradientRule = ({ d }) => ({ x: d.y && this.#again(block, x, d.y) })
    this.#record({ name: 'checkpoint', inputs: { x }, outputs: { y }, saves: ['x'], p: {}, rule })
    return y
  }

  #again(block: (x: Tensor) => Tensor, x: Tensor, dy: Tensor): Tensor | undefined {
    const inner = new Tape(this.#leaves)
    inner.watch(x)
    const y = inner.record(() => block(x))
    inner.backward([[y, dy]])
    const dx = inner.gradientOf(x)
    if (dx !== undefined) adopt({ dispose: () => dx.release() })
    return dx
  }

  #record(step: Step): void {
    for (const output of Object.values(step.outputs)) this.#tracked.add(output)
    for (const name of step.saves) (step.inputs[name] ?? step.outputs[name]).retain()
    this.#steps.push(step)
  }

  #walk(step: Step): void {
    const gradients: Record<string, Tensor | undefined> = {}
    for (const [name, output] of Object.entries(step.outputs)) gradients[name] = this.#take(output)
    const arrived = Object.values(gradients).filter((gradient) => gradient !== undefined)
    if (arrived.length > 0) {
      const scope = new Scope()
      scope.run(() => {
        const values = step.rule(this.#context(step, gradients))
        for (const [name, value] of Object.entries(values))
          if (value !== undefined && this.tracks(step.inputs[name])) this.#receive(step.inputs[name], value.retain())
      })
      scope.dispose()
    }
    for (const gradient of arrived) gradient.release()
    letGo(step)
  }

  #context(step: Step, d: Record<string, Tensor | undefined>): GradientContext {
    return {
      t: { ...step.inputs, ...step.outputs },
      d,
      p: step.p,
      needs: (name) => step.inputs[name] !== undefined && this.tracks(step.inputs[name]),
      into: (name) => this.#buffer(step.inputs[name]),
    }
  }

  /** The f32 buffer that gathers a tensor's gradient: a leaf's own, or one made now. */
  #buffer(t: Tensor): Tensor {
    const leaf = this.#leaves.get(t)
    if (leaf !== undefined) return leaf
    const pending = this.#pending.get(t)
    if (pending !== undefined && this.#buffers.has(pending)) return pending
    // A pending gradient that is no buffer of ours may be shared with another tensor: copy before adding to it.
    const buffer = owned(() => (pending === undefined ? ops().zeros(t) : ops().add(ops().zeros(t), wide(pending))))
    pending?.release()
    this.#buffers.add(buffer)
    this.#pending.set(t, buffer)
    return buffer
  }

  /** Adds a gradient, whose hold passes to the tape, to what has arrived for the tensor. */
  #receive(t: Tensor, gradient: Tensor): void {
    if (this.#leaves.has(t))
      throw new WhetstoneError(
        'E_INTERNAL',
        'backward',
        'a parameter takes its gradient through into(), not as a value',
      )
    const before = this.#pending.get(t)
    if (before === undefined) {
      this.#pending.set(t, gradient)
      return
    }
    const same = before.dtype === gradient.dtype
    const sum = owned(() => (same ? ops().add(before, gradient) : ops().add(wide(before), wide(gradient))))
    this.#pending.set(t, sum)
    before.release()
    gradient.release()
  }

  /** The gradient of a step's output in the output's type; f32 buffers of bf16 tensors are rounded here. */
  #take(output: Tensor): Tensor | undefined {
    const gradient = this.#pending.get(output)
    if (gradient === undefined) return undefined
    this.#pending.delete(output)
    if (gradient.dtype === output.dtype) return gradient
    const cast = owned(() => ops().cast(gradient, output.dtype))
    gradient.release()
    return cast
  }
}

function letGo(step: Step): void {
  for (const name of step.saves) (step.inputs[name] ?? step.outputs[name]).release()
}

const wide = (t: Tensor): Tensor => (t.dtype === 'f32' ? t : ops().cast(t, 'f32'))

/** Runs work in a scope of its own; the caller holds the result alone. */
function owned(work: () => Tensor): Tensor {
  const scope = new Scope()
  const result = scope.run(work).retain()
  scope.dispose()
  return result
}

function withTape<R>(tape: Tape | undefined, work: () => R): R {
  const outer = active
  active = tape
  try {
    return work()
  } finally {
    active = outer
  }
}

/**
 * Runs a block without saving its inner tensors: backward runs it again from its input (activation checkpointing).
 * The same kernels in the same order give the same bits, so gradients do not change.
 *
 * @param block a pure function of `x` (and of parameters)
 * @returns the block's output
 */
export const checkpoint = (block: (x: Tensor) => Tensor, x: Tensor): Tensor =>
  active === undefined ? block(x) : active.checkpoint(block, x)
