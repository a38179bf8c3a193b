// What an objective is: the data it needs, its settings, and a pure function from per-token log-probs to a loss and
// its gradients. No tensors, models, files or randomness: numbers come in float64, gradients go out in float64, and
// the trainer feeds them to the head's backward (objectives.md 0.2: dL/dz = g * (onehot - p)).
// Types alone; how an objective is made of a formula is in objective.ts.

/**
 * Row shapes an objective trains on. `stepwise`: an answer in steps with a label each. `group`: n samples of one prompt; each
 * is an example of its own where the objective names its roles (an advantage each), and all of them are one example where
 * it does not (a ranking).
 */
export type RowKind = 'completion' | 'preference' | 'unpaired' | 'stepwise' | 'group'

/** A full-vocabulary divergence from the prior (reference) model, computed by the fused head; see `klMixture`. */
export type KlDirection = 'priorToPolicy' | 'policyToPrior' | 'jensenShannon'

/**
 * Numbers per trained token that gradients flow through: log p(token); the KL of `Needs.kl`; the entropy of the policy;
 * the mean of log p over the vocabulary (label smoothing); the numbers of a score head, in place of log-probs.
 */
export type Term = 'logps' | 'kl' | 'entropy' | 'meanLogps' | 'values'

/**
 * What a sequence is to its example: the answer to a prompt, one side of a pair, the prompt before a chosen answer
 * (ORPO's likelihood covers it), an answer to another prompt (KTO's reference point, no gradient), or one side of a pair
 * in a prompt that shows an answer (SRPO: `chosenGivenRejected` is the chosen answer, behind the rejected one).
 */
export type Role =
  | 'completion'
  | 'chosen'
  | 'rejected'
  | 'prompt'
  | 'mismatch'
  | 'chosenGivenRejected'
  | 'rejectedGivenRejected'
  | 'chosenGivenChosen'
  | 'rejectedGivenChosen'

/** Numbers per trained token that an objective may look at besides the policy's log-probs; no gradient reaches them. */
export type TokenInput = 'reference' | 'old' | 'sampler' | 'logSquares' | 'advantages' | 'klWeights' | 'labels'

/**
 * Numbers per trained token that statistics are made of: the entropy of the policy; log p of its most probable token; the
 * mean of its logits, divided by the temperature, over the vocabulary.
 */
export type Observed = 'entropy' | 'topLogps' | 'meanLogits'

/** The scored tokens of one sequence: masked positions are left out before they come here. */
export interface SequenceTerms {
  /** log p(token) under the policy, one per trained token; zeros for objectives over the numbers of a score head. */
  readonly logps: Float64Array
  /** Numbers of the score head, `Needs.values` for each trained token, end to end. */
  readonly values?: Float64Array
  /** Entropy of the policy at each trained token, in nats. */
  readonly entropy?: Float64Array
  /** Mean over the vocabulary of log p at each trained token. */
  readonly meanLogps?: Float64Array
  /** The same under the reference, when the objective needs one. */
  readonly reference?: Float64Array
  /** The same under the policy that the advantages belong to, before this step's updates; absent: on-policy. */
  readonly old?: Float64Array
  /** The same as the sampler saw it, where sampling ran with other kernels than training. */
  readonly sampler?: Float64Array
  /** log sum_v p_v^2 of the policy at each trained token (WPO). */
  readonly logSquares?: Float64Array
  /** log p of the policy's most probable token at each trained token. */
  readonly topLogps?: Float64Array
  /** Mean over the vocabulary of the policy's logits at each trained token. */
  readonly meanLogits?: Float64Array
  /** Advantage per trained token; absent: `scores.advantage` for all of them. */
  readonly advantages?: Float64Array
  /** Weight of the KL estimate per trained token, next to the setting `beta`; absent: 1. */
  readonly klWeights?: Float64Array
  /** Class of each scored position, or the probability of class 1: process rewards. */
  readonly labels?: Float64Array
  /** Full-vocabulary KL per trained token, when the objective needs it. */
  readonly kl?: Float64Array
  /** Weight per trained token; default 1. */
  readonly weights?: Float64Array
  /** What the sequence is to its example. */
  readonly role: Role
  /** Which example of the step it belongs to; a pair shares its number. */
  readonly example: number
  /** Named numbers of the example: label, margin, reward, advantage, ... */
  readonly scores?: Readonly<Record<string, number>>
}

/** Counts over all micro-batches of an optimizer step: what losses are normalised by. `countStep` makes them. */
export interface StepCounts {
  /** Trained tokens of all micro-batches of the step. */
  readonly tokens: number
  /** Examples (rows or pairs) of all micro-batches of the step. */
  readonly examples: number
  /** Trained tokens by role. Needed by a normaliser over one role unless the batch is the whole step. */
  readonly tokensOf?: Readonly<Partial<Record<Role, number>>>
  /** Sum of the tokens' weights. Needed by a normaliser over weights unless the batch is the whole step. */
  readonly weight?: number
}

/** One micro-batch, with the counts of the whole optimizer step that normalise it. */
export interface ObjectiveBatch {
  readonly sequences: readonly SequenceTerms[]
  readonly step: StepCounts
  /** Totals of the objective's own statistics over all earlier steps, for objectives with a running mean (BCO). */
  readonly history?: Readonly<Record<string, Statistic>>
}

/** A statistic that adds up over micro-batches: its value is sum / count. */
export interface Statistic {
  readonly sum: number
  readonly count: number
}

/** dL/d each term of a sequence that the objective uses; log-probs always. */
export type TermGradients = Readonly<{ logps: Float64Array } & Partial<Record<Term, Float64Array>>>

/** The loss of a micro-batch as its share of the step's loss: shares of one step add up. */
export interface Evaluation {
  readonly loss: number
  /** Per sequence, in order. */
  readonly gradients: readonly TermGradients[]
  readonly stats: Readonly<Record<string, Statistic>>
  /**
   * Numbers per example, in the order in which examples first appear. `loss`, where it exists, is each example's own
   * loss: their sum over the step divided by its examples is the step's loss.
   */
  readonly perExample?: Readonly<Record<string, Float64Array>>
}

/** What an objective asks of its batches. */
export interface Needs {
  readonly rows: RowKind
  /** A reference model: its log-probs per token, or with `kl` its divergence from the policy instead. */
  readonly reference: boolean
  readonly kl?: KlDirection
  /** The reference is a teacher, another model: compared with itself the policy has nothing to learn. */
  readonly teacher?: boolean
  /** jensenShannon: weight of the prior in the mixture, between 0 and 1. */
  readonly klMixture?: number
  /** Further terms besides log-probs and KL. */
  readonly terms?: readonly ('entropy' | 'meanLogps')[]
  /** Numbers per trained token that a score head gives; then there are no log-probs and no reference. */
  readonly values?: number
  /** Roles that every example has, one sequence each; absent: any sequences of any role. */
  readonly roles?: readonly Role[]
  /** Roles that examples may have besides. */
  readonly optionalRoles?: readonly Role[]
  /** Further numbers per token. */
  readonly tokens?: readonly TokenInput[]
  /** What the trainer brings for statistics where the head gives it; no loss depends on it. */
  readonly observes?: readonly Observed[]
  /** Named scores that every example has. */
  readonly scores?: readonly string[]
  /** Named scores that every sequence has: a number for either side of a pair. */
  readonly sequenceScores?: readonly string[]
  /** Statistics whose totals over all earlier steps it looks back on; the trainer keeps them. */
  readonly history?: readonly string[]
  /** The loss is no sum over examples or tokens: one call must see the whole step. */
  readonly wholeStep?: boolean
}

/** An objective with its settings resolved. */
export interface Objective {
  /** Versioned, because it is stored in checkpoints: `sft.v1`. */
  readonly name: string
  readonly needs: Needs
  /** Every setting, for logs and checkpoints. */
  readonly config: Readonly<Record<string, unknown>>
  readonly evaluate: (batch: ObjectiveBatch) => Evaluation
}
