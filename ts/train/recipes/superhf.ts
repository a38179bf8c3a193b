// SuperHF (Mukobi et al. 2023, arXiv 2310.16763): sample n completions of each prompt from the policy, keep the best by
// score, train on them with a KL term to the frozen prior, repeat.
// Ours differs: the score is the task's exact checker where the paper has a reward model; only samples with full reward
// are kept; the prior is a frozen copy where the paper switches LoRA adapters off; one round samples all of its tasks
// before its steps (the paper's A = tasks per round). The monitor of reward hacking has exact matches alone (similarity.ts).

import { superhf as superhfObjective } from '../../loss/index.js'
import { checkArgument, checkMembers, checkOptions, kinds, optional } from '../../src/base/arguments.js'
import { type SampleGroupOptions, sampleGroup, samplingKinds } from '../loop/explore.js'
import { type IterateOptions, iterate, type UpdateOptions } from '../loop/iterate.js'
import { roundStatistics } from '../loop/metrics.js'
import { verify } from '../loop/score.js'
import { pick } from '../loop/select.js'
import { similarityStatistics } from '../loop/similarity.js'
import type { PhaseResult } from '../loop.js'
import { sourceKind, type TaskSource } from '../tasks/task.js'

/** Settings of SuperHF; names as in TRL, kappa as in the paper. */
export interface SuperHfOptions extends Omit<SampleGroupOptions, 'logps' | 'mixtureCoef'> {
  readonly temperature: number
  readonly topP: number
  /** Best samples to keep per task. */
  readonly perTask: number
  /** Weight of KL(prior || policy). */
  readonly kappa: number
}

const superhfKinds = {
  ...samplingKinds,
  numGenerations: kinds.number,
  temperature: kinds.number,
  topP: kinds.number,
  perTask: kinds.whole,
  kappa: kinds.number,
}

/** Runs SuperHF over a task source; everything else as in {@link iterate}. */
export async function superhf(
  source: TaskSource,
  options: SuperHfOptions,
  loop: Omit<IterateOptions, 'explore' | 'score' | 'select' | 'update'> & {
    readonly update: Omit<UpdateOptions, 'objective'>
  },
): Promise<PhaseResult> {
  checkArgument('superhf.source', source, sourceKind)
  checkOptions('superhf', options, superhfKinds)
  checkMembers('superhf.loop', loop, { update: kinds.object, statistics: optional(kinds.call) })
  const { perTask, kappa, ...sampling } = options
  const { statistics = roundStatistics, seed } = loop
  return iterate({
    ...loop,
    explore: sampleGroup(sampling),
    score: verify((task, completion) => source.check(task, completion)),
    statistics: (traces, kept) => ({ ...statistics(traces, kept), ...similarityStatistics(kept, seed) }),
    select: pick({ by: 'reward', threshold: 1, perTask }),
    update: { ...loop.update, objective: superhfObjective({ kappa }) },
    fingerprint: { ...loop.fingerprint, ...options, task: source.name },
  })
}
