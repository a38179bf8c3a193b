// BCO (Jung et al. 2024, arXiv 2404.04656; TRL's bco_trainer.py): single answers with a label, as binary classification.
//   desirable: -log s(beta r - delta)      undesirable: -log s(-(beta r - delta))      loss = mean over examples
//   delta = mean of beta r over all examples of the training so far, this step's included, no gradient
// The running mean is not kept here: the batch brings the totals of earlier steps as `history.logRatio`, and the
// statistics return this step's. The score `label` is 1 or 0. Without the paper's weights for shifted prompts.

import * as z from 'zod'
import { leaf, logSigmoid, mul, neg, sub } from './autodiff.js'
import { positive } from './config.js'
import { labelledStatistics, sequenceRatios } from './kto.js'
import { defineObjective, statistic } from './objective.js'
import { ofRole, overExamples, scoresOf } from './view.js'

const settings = z.strictObject({ beta: positive(0.1).describe('strength of the tie to the reference') })

/** Settings of BCO. */
export type BcoConfig = z.input<typeof settings>

/** The BCO objective. */
export const bco = defineObjective('bco.v1', settings, ({ beta }) => ({
  needs: {
    rows: 'unpaired',
    reference: true,
    roles: ['completion'],
    observes: ['meanLogits'],
    scores: ['label'],
    history: ['logRatio'],
    wholeStep: true,
  },
  formula: (view) => {
    const ratios = ofRole(view, 'completion', sequenceRatios(view))
    const logRatio = statistic(ratios.value)
    const before = view.batch.history?.logRatio ?? { sum: 0, count: 0 }
    const delta = (beta * (before.sum + logRatio.sum)) / (before.count + logRatio.count)
    const labels = scoresOf(view, 'label')
    const sign = leaf(labels.map((label) => (label !== 0 ? 1 : -1)))
    const rewards = ratios.value.map((r) => beta * r)
    const losses = neg(logSigmoid(mul(sub(mul(ratios, beta), delta), sign)))
    return {
      loss: overExamples(view, losses),
      stats: { ...labelledStatistics(view, labels, rewards, true), logRatio, delta: { sum: delta, count: 1 } },
      perExample: { loss: losses.value, rewards },
    }
  },
}))
