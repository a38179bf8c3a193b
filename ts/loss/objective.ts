// From a formula to an objective: settings are read, the batch is checked and laid out, the formula is written down once
// in the vectors of autodiff.ts, and its gradients per token are cut back into sequences.

import type * as z from 'zod'
import { having } from '../src/base/arguments.js'
import { gradientsOf, type Vector } from './autodiff.js'
import { readConfig } from './config.js'
import type { Evaluation, Needs, Objective, ObjectiveBatch, Statistic, TermGradients } from './define.js'
import { observedStatistics } from './observed.js'
import { termWidth, usedTerms, type View, viewOf } from './view.js'

/** A loss as a formula of a batch. */
export interface Formula {
  /** This batch's share of the step's loss, length 1. */
  readonly loss: Vector
  readonly stats: Readonly<Record<string, Statistic>>
  /** See {@link Evaluation}. */
  readonly perExample?: Readonly<Record<string, Float64Array>>
}

/** What an objective does with its settings. */
export interface Method {
  readonly needs: Needs
  readonly formula: (view: View) => Formula
}

/** Sum and count of some numbers. */
export const statistic = (values: Float64Array): Statistic => ({
  sum: values.reduce((sum, value) => sum + value, 0),
  count: values.length,
})

/** An {@link Objective} among arguments. */
export const objectiveKind = having('an objective, such as sft()', 'name', 'needs', 'config', 'evaluate')

/** Loss, gradients and statistics of a batch by a formula. */
function evaluate(name: string, { needs, formula }: Method, batch: ObjectiveBatch): Evaluation {
  const view = viewOf(name, needs, batch)
  const { loss, stats, perExample } = formula(view)
  const used = usedTerms(needs)
  const wholes = gradientsOf(
    loss,
    used.map((term) => view[term]),
  )
  const parts = used.map((term, k) => cut(wholes[k], view.lengths, termWidth(needs, term)))
  const gradients = batch.sequences.map(
    (_, i) => Object.fromEntries(used.map((term, k) => [term, parts[k][i]])) as TermGradients,
  )
  const all = { ...stats, ...observedStatistics(needs, batch.sequences) }
  return { loss: loss.value[0], gradients, stats: all, perExample }
}

/** Numbers end to end, `width` for each token, back to sequences. */
function cut(whole: Float64Array, lengths: Float64Array, width: number): Float64Array[] {
  let at = 0
  return Array.from(lengths, (length) => {
    const from = at
    at += width * length
    return whole.slice(from, at)
  })
}

/** Settings -> objective; throws WhetstoneError E_CONFIG naming the option. */
export interface ObjectiveMaker<S extends z.ZodRawShape = z.ZodRawShape> {
  (input?: z.input<z.ZodObject<S>>): Objective
  /** The settings with descriptions and defaults: what flags and documentation are made of. */
  readonly settings: z.ZodObject<S>
}

/**
 * Makes the maker of an objective.
 *
 * @param name versioned, `dpo.v1`: it is stored in checkpoints; errors of settings name what stands before the dot
 * @param make what the objective does with checked settings
 */
export function defineObjective<S extends z.ZodRawShape>(
  name: string,
  settings: z.ZodObject<S>,
  make: (config: z.output<z.ZodObject<S>>) => Method,
): ObjectiveMaker<S> {
  const maker = (input = {} as z.input<z.ZodObject<S>>): Objective => {
    const config = readConfig(name.split('.')[0], settings, input)
    const method = make(config)
    return {
      name,
      needs: method.needs,
      config: config as Readonly<Record<string, unknown>>,
      evaluate: (batch) => evaluate(name, method, batch),
    }
  }
  return Object.assign(maker, { settings })
}
