// The registry: every op entry, in the order of native/ops.def, and the public functions. Importing this file also
// gives the tape the arithmetic that it needs.

import { provideArithmetic } from '../autograd/tape.js'
import { attentionOps } from './attention.js'
import { attentionCacheOps } from './attention-cache.js'
import type { OpEntry } from './define.js'
import { add, elementwiseOps } from './elementwise.js'
import { headOps } from './head.js'
import { headKlOps } from './head-kl.js'
import { headTermsOps } from './head-terms.js'
import { castTo, layoutOps, zeros } from './layout.js'
import { matmulOps } from './matmul.js'
import { noiseOps } from './noise.js'
import { normOps } from './norm.js'
import { optimizerOps } from './optimizer.js'
import { quantizeOps } from './quantize.js'
import { reduceOps } from './reduce.js'
import { sampleOps } from './sample.js'

export { type AttentionOptions, attention, rope } from './attention.js'
export { attentionDecode, cacheCopy, cacheWrite, KEY_BLOCK } from './attention-cache.js'
export { add, addBias, type GluActivation, gelu, glu, scale, scaleColumns, scaleColumnsDg } from './elementwise.js'
export { headLogProbs } from './head.js'
export { type HeadKlOptions, headKl, type KlDirection } from './head-kl.js'
export type { HeadOptions } from './head-shape.js'
export { headTerms } from './head-terms.js'
export { castTo, copy, fill, gatherRows, scatterAddRows, zeros } from './layout.js'
export { linear, linearDw, linearDx } from './matmul.js'
export { addNoise, dropout } from './noise.js'
export { inverseRowNorms, layerNorm, rmsNorm } from './norm.js'
export {
  type AdamwOptions,
  type AdamwStochasticTensors,
  type AdamwTensors,
  adamw,
  adamwStochastic,
} from './optimizer.js'
export {
  type BlockwiseTensors,
  blockwiseBlock,
  dequantizeBlockwise,
  dequantizeNf4,
  nf4Block,
  nf4Levels,
  nf4Shapes,
  quantizeNf4,
} from './quantize.js'
export { addNorm, allFinite, columnSum } from './reduce.js'
export { reshape } from './reshape.js'
export { headSample, headSampleMixture, type SampleOptions } from './sample.js'

/** The ops by family, as the files of native/cpu and native/cuda. */
export const opFamilies = {
  layout: layoutOps,
  elementwise: [...elementwiseOps, ...noiseOps],
  reduce: reduceOps,
  matmul: matmulOps,
  norm: normOps,
  attention: [...attentionOps, ...attentionCacheOps],
  head: [...headOps, ...headTermsOps, ...headKlOps],
  sample: sampleOps,
  optimizer: optimizerOps,
  quantize: quantizeOps,
} as const satisfies Readonly<Record<string, readonly OpEntry[]>>

/** Every op: tests, gradient checks and bench rows are made from these. */
export const opEntries: readonly OpEntry[] = Object.values(opFamilies).flat()

provideArithmetic({ zeros: (like) => zeros(like.device, like.shape), add, cast: castTo })
