# Sampling with Transformers' generate: a Llama of the same shape with random weights, temperature 1 over the whole
# vocabulary, a fixed number of new tokens, samples of a prompt by num_return_sequences.

import sys

from serve import load_torch, say, serve

torch = load_torch()
try:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers import __version__ as version
except ImportError:
    say({"missing": "transformers"})
    sys.exit(0)


def prepare(job):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=job["vocabSize"],
        hidden_size=job["hiddenSize"],
        intermediate_size=job["intermediateSize"],
        num_hidden_layers=job["layers"],
        num_attention_heads=job["heads"],
        num_key_value_heads=job.get("kvHeads", job["heads"]),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16 if job["dtype"] == "bf16" else torch.float32).eval()
    ids = torch.randint(1, job["vocabSize"], (job["prompts"], job["promptTokens"]))
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    length = {"min_new_tokens": job["newTokens"], "max_new_tokens": job["newTokens"]}

    def run():
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_return_sequences=job["numGenerations"],
                **settings,
                **length,
            )

    run()
    return run, {"parameters": sum(p.numel() for p in model.parameters())}


serve(torch, prepare, f"transformers {version}, torch {torch.__version__}")
