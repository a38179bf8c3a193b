// The process that suite `start` times: the package by its public entry, a small model, one training step. Prints the
// milliseconds from when Node was ready to import it to the end of the step.

import { getDevice, sft } from '../ts/src/index.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import { createTrainer, disposeTrainer, trainStep } from '../ts/train/trainer.js'
import type { Float } from './harness.js'
import { benchBatch, benchDecoder, benchOptimizer, benchShapes } from './models.js'

const [shape] = benchShapes
const policy = benchDecoder(getDevice(), shape, process.argv[2] as Float)
const trainer = createTrainer({ policy, objective: sft(), optimizer: benchOptimizer })
const { loss } = await trainStep(trainer, [benchBatch(shape)], 1e-4)
console.log(performance.now() - performance.nodeTiming.bootstrapComplete)
disposeTrainer(trainer)
disposeDecoder(policy, disposeFlat)
getDevice().close()
process.exitCode = Number.isFinite(loss) ? 0 : 1
