// A decoder of the benchmarks as a GGUF file, for peers that read no other: matrices in the decoder's type, norms in f32,
// the vocabulary as made-up words. The order of rotary channels inside a head is not changed, so the numbers that a reader
// computes are not ours; the work is the same.

import { open } from 'node:fs/promises'
import { type Decoder, headWeight } from '../ts/src/models/decoder.js'
import type { Tensor } from '../ts/src/tensor/tensor.js'
import type { BenchShape } from './models.js'

/** GGUF's numbers for types of values and of elements. */
const valueTypes = { u32: 4, i32: 5, f32: 6, text: 8, list: 9 } as const
const elementTypes: Readonly<Record<string, number>> = { f32: 0, bf16: 30 }
const alignment = 32

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}
const f32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])

type Field = readonly [key: string, ...value: Buffer[]]
const number = (key: string, value: number): Field => [key, u32(valueTypes.u32), u32(value)]
const real = (key: string, value: number): Field => [key, u32(valueTypes.f32), f32(value)]
const words = (key: string, value: string): Field => [key, u32(valueTypes.text), text(value)]
const list = (key: string, type: keyof typeof valueTypes, values: readonly Buffer[]): Field => [
  key,
  u32(valueTypes.list),
  u32(valueTypes[type]),
  u64(values.length),
  ...values,
]

/** What every vocabulary of this kind has: unknown, begin and end, then the bytes; ordinary words follow. */
function vocabulary(size: number): Field[] {
  const special = ['<unk>', '<s>', '</s>']
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const names = [...special, ...bytes]
  for (let i = names.length; i < size; i++) names.push(`w${i}`)
  const kinds = names.map((_, i) => u32(i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1))
  return [
    words('tokenizer.ggml.model', 'llama'),
    list('tokenizer.ggml.tokens', 'text', names.map(text)),
    list(
      'tokenizer.ggml.scores',
      'f32',
      names.map((_, i) => f32(-i)),
    ),
    list('tokenizer.ggml.token_type', 'i32', kinds),
    number('tokenizer.ggml.bos_token_id', 1),
    number('tokenizer.ggml.eos_token_id', 2),
    number('tokenizer.ggml.unknown_token_id', 0),
  ]
}

const fieldsOf = ({ hiddenSize, layers, heads, kvHeads = heads, intermediateSize, vocabSize }: BenchShape): Field[] => [
  words('general.architecture', 'llama'),
  words('general.name', 'bench'),
  number('llama.context_length', 1024),
  number('llama.embedding_length', hiddenSize),
  number('llama.block_count', layers),
  number('llama.feed_forward_length', intermediateSize),
  number('llama.attention.head_count', heads),
  number('llama.attention.head_count_kv', kvHeads),
  number('llama.rope.dimension_count', hiddenSize / heads),
  number('llama.vocab_size', vocabSize),
  real('llama.attention.layer_norm_rms_epsilon', 1e-5),
  ...vocabulary(vocabSize),
]

/** GGUF's names for the weights of a layer, by ours. */
const layerNames: Readonly<Record<string, string>> = {
  'input_layernorm.weight': 'attn_norm',
  'self_attn.q_proj.weight': 'attn_q',
  'self_attn.k_proj.weight': 'attn_k',
  'self_attn.v_proj.weight': 'attn_v',
  'self_attn.o_proj.weight': 'attn_output',
  'post_attention_layernorm.weight': 'ffn_norm',
  'mlp.gate_proj.weight': 'ffn_gate',
  'mlp.up_proj.weight': 'ffn_up',
  'mlp.down_proj.weight': 'ffn_down',
}

function ggufName(name: string): string {
  const [, layer, rest] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? []
  if (layer !== undefined) return `blk.${layer}.${layerNames[rest]}.weight`
  return name === 'model.norm.weight' ? 'output_norm.weight' : 'token_embd.weight'
}

interface Entry {
  readonly name: string
  readonly tensor: Tensor
  readonly type: string
}

const padded = (bytes: number): number => Math.ceil(bytes / alignment) * alignment

const bytesOf = ({ tensor, type }: Entry): number => tensor.size * (type === 'f32' ? 4 : 2)

async function elementsOf({ tensor, type }: Entry): Promise<Buffer> {
  const values = await tensor.data()
  const same = tensor.dtype === type ? values : Float32Array.from(values)
  return Buffer.from(same.buffer, same.byteOffset, same.byteLength)
}

/** Writes a tied Llama of the benchmarks. */
export async function writeGguf(path: string, model: Decoder, shape: BenchShape): Promise<void> {
  if (!model.config.tied || headWeight(model).shape[0] !== shape.vocabSize) throw new Error('expected a tied decoder')
  const entries = [...model.parameters.byName].map(([name, tensor]) => ({
    name: ggufName(name),
    tensor,
    type: tensor.shape.length === 1 ? 'f32' : tensor.dtype,
  }))
  const fields = fieldsOf(shape)
  const head = [Buffer.from('GGUF'), u32(3), u64(entries.length), u64(fields.length)]
  for (const [key, ...value] of fields) head.push(text(key), ...value)
  let offset = 0
  for (const entry of entries) {
    const { name, tensor, type } = entry
    const lengths = [...tensor.shape].reverse()
    head.push(text(name), u32(lengths.length), ...lengths.map(u64), u32(elementTypes[type]), u64(offset))
    offset += padded(bytesOf(entry))
  }
  const start = Buffer.concat(head)
  const file = await open(path, 'w')
  try {
    await file.write(Buffer.concat([start, Buffer.alloc(padded(start.length) - start.length)]))
    for (const entry of entries) {
      const elements = await elementsOf(entry)
      await file.write(Buffer.concat([elements, Buffer.alloc(padded(elements.length) - elements.length)]))
    }
  } finally {
    await file.close()
  }
}
