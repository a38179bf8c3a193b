// Examples at multiples of the tokens that a device sums at once: the layout, that fillers change nothing, and that a step in
// bf16 has the same bits however it is cut, on every level of this processor and on the emulated GPU.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import type { SequenceTerms } from '../ts/loss/define.js'
import { dpo, sft } from '../ts/loss/index.js'
import { placeOf } from '../ts/src/models/pack.js'
import { loadAddon } from '../ts/src/native/addon.js'
import { openDevice } from '../ts/src/native/device.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { alignExamples } from '../ts/train/data/align.js'
import type { EncodedExample } from '../ts/train/data/example.js'
import { type MicroBatch, microBatchOf } from '../ts/train/data/micro-batch.js'
import { sequencesOf, termsOf } from '../ts/train/terms.js'
import { gradientsOf, trainStep } from '../ts/train/trainer.js'
import { randomOf, sameBytes } from './support.js'
import { cutInEveryWay } from './support-cuts.js'
import { disposeToy, toyTrainer } from './support-train.js'

/** Pairs behind a prompt that they share, with a weight for each token. */
const examples = [20, 33, 9].map((promptLength, i): EncodedExample => {
  const random = randomOf(`example ${i}`)
  const ids = (length: number) => Array.from({ length }, () => random.integer(61))
  const prompt = ids(promptLength)
  return (['chosen', 'rejected'] as const).map((role) => {
    const all = [...prompt, ...ids(3 + 7 * i)]
    const trained = Uint8Array.from(all, (_, t) => Number(t >= promptLength))
    return { ids: all, trained, role, weights: all.map((_, t) => 1 + t / 8), inputs: { reference: all.map(() => -2) } }
  })
})

/** The same with nothing trained in the second one. */
const gap = examples.map((example, i) =>
  i === 1 ? example.map((own) => ({ ...own, trained: new Uint8Array(own.ids.length) })) : example,
)

/** What each token sees, by the places of the tokens. */
function seenBy({ packed }: MicroBatch, place: number): number[] {
  const [own, begin, end] = packed.visibility.subarray(3 * place, 3 * place + 3)
  const places = Array.from({ length: packed.ids.length }, (_, i) => i)
  return places.filter((i) => (i >= begin && i < end) || (i >= own && i <= place))
}

t.test('the layout', (t) => {
  for (const share of ['example', 'none', 'batch'] as const)
    for (const alignment of [1, 16, 32]) {
      const plain = microBatchOf(gap, { share })
      const aligned = alignExamples(plain, alignment)
      const places = examples.flat().map(({ ids }, s) => ids.map((_, i) => placeOf(aligned.packed, s, i)))
      const before = examples.flat().map(({ ids }, s) => ids.map((_, i) => placeOf(plain.packed, s, i)))
      const text = `${share}, ${alignment}`
      t.same(
        places.map((own) => own.map((i) => aligned.packed.ids[i])),
        examples.flat().map(({ ids }) => ids),
        `${text}: tokens`,
      )
      t.same(
        places.map((own) => own.map((i) => seenBy(aligned, i).map((seen) => aligned.packed.ids[seen]))),
        before.map((own) => own.map((i) => seenBy(plain, i).map((seen) => plain.packed.ids[seen]))),
        `${text}: what they see`,
      )
      const real = new Set(places.flat())
      const fillers = Array.from(aligned.packed.ids.keys()).filter((i) => !real.has(i))
      t.ok(
        fillers.every((i) => seenBy(aligned, i).every((seen) => !real.has(seen))),
        `${text}: fillers see fillers`,
      )
      t.ok(
        examples.every((_, e) => aligned.packed.starts[2 * e] % alignment === 0),
        `${text}: where examples begin`,
      )
      t.equal(aligned.packed.ids.length % alignment, 0)
      const kept = Array.from(aligned.rowOf.keys()).filter((i) => aligned.rowOf[i] >= 0)
      t.same(
        kept.map((i) => aligned.targets[i]),
        [...plain.targets],
        `${text}: targets`,
      )
      t.same(
        kept.map((i) => aligned.weights[i]),
        [...plain.weights],
        `${text}: weights`,
      )
      t.same(
        kept.map((i) => aligned.inputs.reference?.[i]),
        [...(plain.inputs.reference ?? [])],
        `${text}: inputs`,
      )
      t.equal((kept.find((i) => aligned.rowOf[i] === 4) ?? 1) % alignment, 0, `${text}: where targets begin`)
    }
  t.end()
})

t.test('fillers change nothing', async (t) => {
  for (const [objective, rows] of [
    [sft(), gap],
    [dpo(), examples],
  ] as const) {
    const trainer = toyTrainer({ objective })
    const noise = { seed: 3, update: 2, firstSequence: 1, neftuneNoiseAlpha: 5, dropout: true }
    const termsAt = async (alignment: number): Promise<SequenceTerms[]> => {
      using scope = new Scope()
      const batch = alignExamples(microBatchOf(rows), alignment)
      return sequencesOf(
        batch,
        scope.run(() => termsOf(trainer, batch, noise)),
        0,
      )
    }
    const plain = await termsAt(1)
    t.ok(plain[0].logps.some((x) => x < 0))
    for (const alignment of [16, 32]) t.same(await termsAt(alignment), plain, `${alignment}: terms, with noise`)
    const batch = microBatchOf(rows)
    const want = await gradientsOf(trainer, [batch])
    const got = await gradientsOf(trainer, [alignExamples(batch, 32)])
    t.equal(got.loss, want.loss)
    // + 0: a sum that met zeros of both signs may end in another zero.
    const unlike = [...want.gradients].filter(
      ([name, g]) =>
        !sameBytes(
          g.map((x) => x + 0),
          (got.gradients.get(name) ?? g.subarray(1)).map((x) => x + 0),
        ),
    )
    t.same(
      unlike.map(([name]) => name),
      [],
      'gradients in f32',
    )
    disposeToy(trainer)
  }
})

t.test('a step cut in another way, on every level of the processor', async (t) => {
  for (const isa of loadAddon().cpu().levels.split(' ')) {
    const device = openDevice({ device: 'cpu', isa, threads: 2 })
    t.equal(device.tokenAlignment, isa === 'amx' ? 32 : 1)
    const { failures, passed } = await cutInEveryWay(device)
    t.same(failures, [], isa)
    t.ok(passed >= 8)
    const trainer = toyTrainer({ dtype: 'bf16', device })
    const batch = microBatchOf(examples)
    const { tokens, trainedTokens } = await trainStep(trainer, [batch], 1e-2)
    t.same([tokens, trainedTokens], [batch.packed.ids.length, batch.targets.length], `${isa}: fillers do not count`)
    disposeToy(trainer)
    device.close()
  }
})

const library = join(process.cwd(), 'build/Release/libcuda_emulated.so')
const skip = existsSync(library) ? false : 'it was not built'

for (const level of ['80', '90'])
  t.test(`a step cut in another way, emulated GPU ${level}`, { skip }, async (t) => {
    const gpu = { WHETSTONE_DEVICE: 'cuda:0', WHETSTONE_CUDA_LIBRARY: library, WHETSTONE_CUDA_KERNELS: library }
    const env = { ...process.env, ...gpu, WHETSTONE_EMULATED_LEVEL: level }
    const { stdout } = await promisify(execFile)(process.execPath, ['dist/test/gpu/section.js', 'cuts'], { env })
    const { passed, failures, facts } = JSON.parse(stdout)
    t.same(failures, [])
    t.ok(passed >= 8, `${passed} checks`)
    t.equal(facts.tokenAlignment, 16)
  })
