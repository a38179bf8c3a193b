// What an objective is: the data it needs, its settings, and a pure function from per-token log-probs to a loss and
// its gradients. No tensors, models, files or randomness: numbers come in float64, gradients go out in float64, and
// the trainer feeds them to the head's backward (objectives.md 0.2: dL/dz = g * (onehot - p)).

/** Row shapes an objective trains on. */
export type RowKind = 'completion' | 'preference' | 'unpaired' | 'group'

/** A full-vocabulary divergence from the prior (reference) model, computed by the fused head. */
export type KlDirection = 'priorToPolicy' | 'policyToPrior'

/** The scored tokens of one sequence: masked positions are left out before they come here. */
export interface SequenceTerms {
  /** log p(token) under the policy, one per trained token. */
  readonly logps: Float64Array
  /** The same under the reference, when the objective needs one. */
  readonly reference?: Float64Array
  /** Full-vocabulary KL per trained token, when the objective needs it. */
  readonly kl?: Float64Array
  /** Weight per trained token; default 1. */
  readonly weights?: Float64Array
  /** What the sequence is: a completion, or one side of a pair. */
  readonly role: 'completion' | 'chosen' | 'rejected'
  /** Which example of the step it belongs to; a pair shares its number. */
  readonly example: number
  /** Named numbers of the example: label, margin, reward, advantage, ... */
  readonly scores?: Readonly<Record<string, number>>
}

/** One micro-batch, with the counts of the whole optimizer step that normalise it. */
export interface ObjectiveBatch {
  readonly sequences: readonly SequenceTerms[]
  readonly step: {
    /** Trained tokens of all micro-batches of the step. */
    readonly tokens: number
    /** Examples (rows or pairs) of all micro-batches of the step. */
    readonly examples: number
  }
}

/** A statistic that adds up over micro-batches: its value is sum / count. */
export interface Statistic {
  readonly sum: number
  readonly count: number
}

/** The loss of a micro-batch as its share of the step's loss: shares of one step add up. */
export interface Evaluation {
  readonly loss: number
  /** Per sequence, in order: dL/d logps, and dL/d kl when the objective uses it. */
  readonly gradients: readonly { readonly logps: Float64Array; readonly kl?: Float64Array }[]
  readonly stats: Readonly<Record<string, Statistic>>
}

/** An objective with its settings resolved. */
export interface Objective {
  /** Versioned, because it is stored in checkpoints: `sft.v1`. */
  readonly name: string
  readonly needs: { readonly rows: RowKind; readonly reference: boolean; readonly kl?: KlDirection }
  /** Every setting, for logs and checkpoints. */
  readonly config: Readonly<Record<string, unknown>>
  readonly evaluate: (batch: ObjectiveBatch) => Evaluation
}
