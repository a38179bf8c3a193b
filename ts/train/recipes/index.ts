// The registry of recipes: published methods as wiring of shared parts. A new recipe is a file and a line here.

import { agentR, agentROptions } from './agent-r.js'
import { alphaLlm, alphaLlmOptions } from './alpha-llm.js'
import { autoCei, autoCeiOptions } from './auto-cei.js'
import { bestOfN, bestOfNOptions } from './best-of-n.js'
import { bstar, bstarOptions } from './bstar.js'
import { cct, cctOptions } from './cct.js'
import { critiqueInLoop, critiqueInLoopOptions } from './critique-in-loop.js'
import { grpo, grpoOptions } from './grpo.js'
import { ilf, ilfOptions } from './ilf.js'
import { ledex, ledexOptions } from './ledex.js'
import { mctsDpo, mctsDpoOptions } from './mcts-dpo.js'
import { onlineDpo, onlineDpoOptions } from './online-dpo.js'
import { onlineGkd, onlineGkdOptions } from './online-gkd.js'
import { onlineNashMd, onlineNashMdOptions } from './online-nash-md.js'
import { onlineSimpo, onlineSimpoOptions } from './online-simpo.js'
import { onlineXpo, onlineXpoOptions } from './online-xpo.js'
import { pit, pitOptions } from './pit.js'
import { qwenMath, qwenMathOptions } from './qwen-math.js'
import { restMcts, restMctsOptions } from './rest-mcts.js'
import { rise, riseOptions } from './rise.js'
import { scl, sclOptions } from './scl.js'
import { score, scoreOptions } from './score.js'
import { selfRationalization, selfRationalizationOptions } from './self-rationalization.js'
import { sharpening, sharpeningOptions } from './sharpening.js'
import { smart, smartOptions } from './smart.js'
import { still, stillOptions } from './still.js'
import { superhf } from './superhf.js'
import { upo, upoOptions } from './upo.js'

export type { AgentROptions } from './agent-r.js'
export type { AlphaLlmOptions } from './alpha-llm.js'
export type { AutoCeiOptions } from './auto-cei.js'
export type { BestOfNOptions } from './best-of-n.js'
export type { BstarOptions } from './bstar.js'
export type { CctOptions } from './cct.js'
export type { CritiqueInLoopOptions } from './critique-in-loop.js'
export type { GrpoOptions } from './grpo.js'
export type { IlfOptions } from './ilf.js'
export type { LedexOptions } from './ledex.js'
export type { MctsDpoOptions } from './mcts-dpo.js'
export type { OnlineDpoOptions } from './online-dpo.js'
export type { OnlineGkdOptions } from './online-gkd.js'
export type { OnlineNashMdOptions } from './online-nash-md.js'
export type { OnlineSimpoOptions } from './online-simpo.js'
export type { OnlineXpoOptions } from './online-xpo.js'
export type { PitOptions } from './pit.js'
export type { QwenMathOptions } from './qwen-math.js'
export type { RestMctsOptions } from './rest-mcts.js'
export type { RiseOptions } from './rise.js'
export type { SclOptions } from './scl.js'
export type { ScoreOptions } from './score.js'
export type { SelfRationalizationOptions } from './self-rationalization.js'
export type { SharpeningOptions } from './sharpening.js'
export type { SmartOptions } from './smart.js'
export type { StillOptions } from './still.js'
export type { UpoOptions } from './upo.js'

/** Recipes by name. */
export const recipes = {
  superhf,
  grpo,
  onlineDpo,
  onlineSimpo,
  onlineXpo,
  onlineNashMd,
  onlineGkd,
  bestOfN,
  bstar,
  still,
  mctsDpo,
  restMcts,
  alphaLlm,
  agentR,
  qwenMath,
  sharpening,
  rise,
  scl,
  cct,
  pit,
  ledex,
  selfRationalization,
  ilf,
  critiqueInLoop,
  smart,
  autoCei,
  score,
  upo,
} as const

/** Settings of the recipes that train a policy on its own samples; `recipes[name]` takes them. */
export const onlineOptions = {
  grpo: grpoOptions,
  onlineDpo: onlineDpoOptions,
  onlineSimpo: onlineSimpoOptions,
  onlineXpo: onlineXpoOptions,
  onlineNashMd: onlineNashMdOptions,
  onlineGkd: onlineGkdOptions,
  bestOfN: bestOfNOptions,
  bstar: bstarOptions,
  still: stillOptions,
  mctsDpo: mctsDpoOptions,
  restMcts: restMctsOptions,
  alphaLlm: alphaLlmOptions,
  agentR: agentROptions,
  qwenMath: qwenMathOptions,
  sharpening: sharpeningOptions,
  rise: riseOptions,
  scl: sclOptions,
  cct: cctOptions,
  pit: pitOptions,
  ledex: ledexOptions,
  selfRationalization: selfRationalizationOptions,
  ilf: ilfOptions,
  critiqueInLoop: critiqueInLoopOptions,
  smart: smartOptions,
  autoCei: autoCeiOptions,
  score: scoreOptions,
  upo: upoOptions,
} as const

/** A recipe that trains a policy on its own samples. */
export type OnlineRecipe = keyof typeof onlineOptions
