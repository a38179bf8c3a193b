// What each trainer on rows is and how its defaults differ from `trainingOptions`: rates of TRL 1.x's configs (DPOConfig, KTOConfig,
// RewardConfig, ...) where TRL has the trainer, else of the paper. With LoRA, TRL's advice of ten times the rate and more
// ("LoRA without regret"). Trainers on the model's own samples are in online-settings.ts.

import type { TrainingInput } from './options.js'

/** A trainer as the command line shows it. */
export interface TrainerDefaults {
  /** One line for the help. */
  readonly description: string
  readonly defaults: TrainingInput
  /** On top of them when an adapter is trained. */
  readonly loraDefaults?: TrainingInput
}

const preference = (description: string, learningRate = 1e-6, loraRate = 1e-5): TrainerDefaults => ({
  description,
  defaults: { learningRate },
  loraDefaults: { learningRate: loraRate },
})

/** One epoch, where TRL has three: they overfit in the second (InstructGPT). PRMConfig: 1e-5. */
const rewardModel = (description: string, learningRate = 1e-4, loraRate = 1e-3): TrainerDefaults => ({
  description,
  defaults: { learningRate, numTrainEpochs: 1 },
  loraDefaults: { learningRate: loraRate },
})

/** Trainers on rows, by objective. */
export const trainerDefaults: Readonly<Record<string, TrainerDefaults>> = {
  sft: {
    description: 'supervised fine-tuning on texts, conversations, or completions of prompts',
    defaults: { learningRate: 2e-5 },
    loraDefaults: { learningRate: 1e-4 },
  },
  superhf: {
    description: 'fine-tuning with a KL penalty to the prior, over the whole vocabulary (2310.16763)',
    defaults: { learningRate: 2e-5, lrSchedulerType: 'cosine' },
    loraDefaults: { learningRate: 1e-4 },
  },
  distill: {
    description: 'distillation: the KL between a teacher (the reference) and the policy at each token',
    defaults: { learningRate: 2e-5 },
    loraDefaults: { learningRate: 1e-4 },
  },
  gkd: {
    description: 'distillation by a mixture of both KLs (2306.13649)',
    defaults: { learningRate: 2e-5 },
    loraDefaults: { learningRate: 1e-4 },
  },
  reward: rewardModel('reward model on preferences: a score head (Bradley-Terry)'),
  pointwiseReward: rewardModel('reward model on answers with a label each'),
  listwiseReward: rewardModel('reward model on all answers to a prompt, ranked by a number each'),
  pairReward: rewardModel('reward model that compares two answers in one prompt'),
  gapReward: rewardModel('reward model of what one answer gains over another (2310.00898)'),
  processReward: rewardModel('process reward model: labels of steps (2312.08935)', 1e-5, 1e-4),
  dpo: preference('direct preference optimisation and its relatives (2305.18290)'),
  simpo: preference('preferences without a reference, by mean log-probs (2405.14734)'),
  cpo: preference('contrastive preference optimisation, without a reference (2401.08417)'),
  slic: preference('sequence likelihood calibration: a hinge on pairs (2305.10425)'),
  orpo: preference('odds ratio on top of fine-tuning, without a reference (2403.07691)'),
  logRatio: preference('weighted log-ratios through a link, as its settings say'),
  srpo: preference('self-improving robust preference optimisation (2406.01660)'),
  kto: preference('good or bad answers without pairs (2402.01306)'),
  bco: preference('binary classifier of good and bad answers (2404.04656)', 5e-7, 5e-6),
  xpo: preference('DPO with an exploration bonus (2405.21046)', 5e-7, 5e-6),
  copg: preference('contrastive policy gradient on scored pairs (2406.19185)'),
  nashMd: preference('Nash learning from preferences (2312.00886)', 5e-7, 5e-6),
}
