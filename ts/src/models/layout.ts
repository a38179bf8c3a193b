// What a family's Hugging Face files call its modules. What a layout does not name, the family does not have; the forward
// pass (decoder.ts) asks by that too. Which parameters a configuration makes of it is specs.ts.

/** Names of a family's modules; those of a layer stand behind `layers` and its number. */
export interface Layout {
  /** Begins every name but the heads'. Files of models saved without a head lack it. */
  readonly root: string
  readonly embedding: string
  /** Learned positions, added to the embedding; families without turn q and k by rotary angles. */
  readonly positions?: string
  readonly layers: string
  readonly norms: {
    readonly beforeAttention?: string
    readonly afterAttention?: string
    readonly beforeMlp?: string
    readonly afterMlp?: string
  }
  /** Three projections, or one that gives q, k and v side by side. */
  readonly qkv: readonly [q: string, k: string, v: string] | readonly [fused: string]
  readonly output: string
  /** act(up); gated, act(gate) * up, by two projections or by one that gives gate and up side by side. */
  readonly up: readonly [up: string] | readonly [gate: string, up: string]
  readonly gated: boolean
  readonly down: string
  readonly finalNorm: string
  /** Projections lie in files as [inputs, outputs] (GPT-2's Conv1D). */
  readonly transposed?: boolean
}

const llama: Layout = {
  root: 'model.',
  embedding: 'model.embed_tokens',
  layers: 'model.layers',
  norms: { beforeAttention: 'input_layernorm', beforeMlp: 'post_attention_layernorm' },
  qkv: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  output: 'self_attn.o_proj',
  up: ['mlp.gate_proj', 'mlp.up_proj'],
  gated: true,
  down: 'mlp.down_proj',
  finalNorm: 'model.norm',
}

const gemma: Layout = {
  ...llama,
  norms: {
    beforeAttention: 'input_layernorm',
    afterAttention: 'post_attention_layernorm',
    beforeMlp: 'pre_feedforward_layernorm',
    afterMlp: 'post_feedforward_layernorm',
  },
}

const olmo2: Layout = {
  ...llama,
  norms: { afterAttention: 'post_attention_layernorm', afterMlp: 'post_feedforward_layernorm' },
}

const phi3: Layout = { ...llama, qkv: ['self_attn.qkv_proj'], up: ['mlp.gate_up_proj'] }

const gpt2: Layout = {
  root: 'transformer.',
  embedding: 'transformer.wte',
  positions: 'transformer.wpe',
  layers: 'transformer.h',
  norms: { beforeAttention: 'ln_1', beforeMlp: 'ln_2' },
  qkv: ['attn.c_attn'],
  output: 'attn.c_proj',
  up: ['mlp.c_fc'],
  gated: false,
  down: 'mlp.c_proj',
  finalNorm: 'transformer.ln_f',
  transposed: true,
}

/** Layouts by the family that made the names. */
export const layouts = { llama, gemma, olmo2, phi3, gpt2 } as const
