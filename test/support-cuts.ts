// One step of eight examples cut into micro-batches in every way that tells: each must end with the bits of the whole.

import { dpo, sft } from '../ts/loss/index.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import type { Device } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import type { EncodedExample } from '../ts/train/data/example.js'
import { microBatchOf } from '../ts/train/data/micro-batch.js'
import { toyDecoder } from './support-models.js'
import { toyRows, trainedHash } from './support-train.js'

const single = toyRows('cuts', 8).map((row): EncodedExample => [row])
const pairs = toyRows('cuts of pairs', 8).map(({ ids, trained }, i): EncodedExample => {
  const other = ids.map((id, t) => (t < ids.length / 2 ? id : (id + 1 + i) % 61))
  return [
    { ids, trained, role: 'chosen' },
    { ids: other, trained, role: 'rejected' },
  ]
})

const cut = (examples: readonly EncodedExample[], sizes: readonly number[]) => {
  let at = 0
  return sizes.map((size) => {
    at += size
    return microBatchOf(examples.slice(at - size, at))
  })
}

/** A step in bf16 of SFT and one of DPO, with a head of its own and a tied one. */
export async function cutInEveryWay(device: Device): Promise<{ passed: number; failures: string[] }> {
  const failures: string[] = []
  let passed = 0
  const reference = toyDecoder(device, false, 'bf16')
  for (const tied of [true, false])
    for (const [objective, examples] of [
      [sft(), single],
      [dpo(), pairs],
    ] as const) {
      const options = { tied, dtype: 'bf16', objective, reference, device } as const
      const hash = (sizes: readonly number[]) => trainedHash(options, [cut(examples, sizes)])
      const whole = await hash([8])
      for (const sizes of [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [3, 5],
      ]) {
        if ((await hash(sizes)) === whole) passed++
        else failures.push(`${objective.name} ${tied ? 'tied' : 'untied'}: ${sizes.join(' + ')}`)
      }
    }
  disposeDecoder(reference, disposeFlat)
  return { passed, failures }
}
