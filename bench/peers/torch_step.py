# A training step in PyTorch, eager or with the argument `compile`: a Llama of the same shape with tied embeddings,
# scaled_dot_product_attention, its cross entropy over all logits, gradient clipping and the fused AdamW; SFT, or DPO with a
# frozen copy. bf16 is autocast over f32 weights; the frozen base of an adapter is stored in bf16. Rows are equally long, so
# nothing is padded or masked: the easiest case for a batched loop.

import json
import os
import sys
import tempfile

from serve import DEVICE, load_torch, serve

torch = load_torch()
F = torch.nn.functional
COMPILED = sys.argv[1:] == ["compile"]


def matrix(*shape, deviation=0.02):
    return torch.nn.Parameter(torch.randn(*shape) * deviation)


class Linear(torch.nn.Module):
    """A projection; with a rank it is frozen and an f32 adapter beside it is trained, as in PEFT."""

    def __init__(self, job, outputs, inputs, deviation=0.02, bias=False):
        super().__init__()
        self.weight = matrix(outputs, inputs, deviation=deviation)
        self.bias = torch.nn.Parameter(torch.zeros(outputs)) if bias else None
        rank = job.get("loraRank")
        self.a = None if rank is None else torch.nn.Parameter((torch.rand(rank, inputs) * 2 - 1) / inputs**0.5)
        self.b = None if rank is None else torch.nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        return y if self.a is None else y + 2 * F.linear(F.linear(x, self.a), self.b)


class Layer(torch.nn.Module):
    def __init__(self, job):
        super().__init__()
        width, inner, heads = job["hiddenSize"], job["intermediateSize"], job["heads"]
        kv_heads, bias = job.get("kvHeads", heads), job.get("qkvBias", False)
        self.size = width // heads
        residual = 0.02 / (2 * job["layers"]) ** 0.5
        self.norm1 = torch.nn.Parameter(torch.ones(width))
        self.norm2 = torch.nn.Parameter(torch.ones(width))
        self.q = Linear(job, width, width, bias=bias)
        self.k = Linear(job, kv_heads * self.size, width, bias=bias)
        self.v = Linear(job, kv_heads * self.size, width, bias=bias)
        self.o = Linear(job, width, width, residual)
        self.gate, self.up = Linear(job, inner, width), Linear(job, inner, width)
        self.down = Linear(job, width, inner, residual)

    def forward(self, x, cos, sin):
        rows, tokens, width = x.shape

        def split(t):
            return t.view(rows, tokens, -1, self.size).transpose(1, 2)

        def rotate(t):
            a, b = t.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(t.dtype)

        h = F.rms_norm(x, (width,), self.norm1, 1e-6)
        q, k, v = rotate(split(self.q(h))), rotate(split(self.k(h))), split(self.v(h))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] < q.shape[1])
        x = x + self.o(o.transpose(1, 2).reshape(rows, tokens, width))
        h = F.rms_norm(x, (width,), self.norm2, 1e-6)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(torch.nn.Module):
    def __init__(self, job):
        super().__init__()
        width, heads = job["hiddenSize"], job["heads"]
        self.embedding = matrix(job["vocabSize"], width)
        self.layers = torch.nn.ModuleList(Layer(job) for _ in range(job["layers"]))
        self.norm = torch.nn.Parameter(torch.ones(width))
        half = width // heads // 2
        angles = torch.arange(job["tokens"])[:, None] * 10000.0 ** (-torch.arange(half)[None] / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids):
        """Losses of the tokens behind the first: negated log-probs."""
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        hidden = F.rms_norm(x, (x.shape[-1],), self.norm, 1e-6)[:, :-1]
        logits = F.linear(hidden, self.embedding)
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


def build_model(job):
    model = Llama(job)
    if job.get("loraRank") is not None:
        half = torch.bfloat16 if job["dtype"] == "bf16" else torch.float32
        for name, parameter in model.named_parameters():
            if not name.endswith((".a", ".b")):
                parameter.requires_grad_(False)
                parameter.data = parameter.data.to(half)
    return torch.compile(model) if COMPILED else model


def batch_of(job):
    """Random rows; for DPO the second half of them are rejected answers to the prompts of the first."""
    ids = torch.randint(job["vocabSize"], (job["rows"], job["tokens"]))
    if job["objective"] == "dpo":
        chosen, rejected = ids.chunk(2)
        rejected[:, : job["tokens"] // 2] = chosen[:, : job["tokens"] // 2]
    return ids


def sft_loss(job, model, _reference, ids):
    return model(ids).mean()


def dpo_loss(job, model, reference, ids):
    """Both answers in one batch, as TRL's concatenated forward; sigmoid loss."""
    answer = job["tokens"] // 2 - 1
    with torch.no_grad():
        before = -reference(ids)[:, answer:].sum(-1)
    chosen, rejected = (-model(ids)[:, answer:].sum(-1) - before).chunk(2)
    return -F.logsigmoid(job["beta"] * (chosen - rejected)).mean()


def optimizer_for(model, job):
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in trained if p.dim() >= 2]
    plain = [p for p in trained if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": job["weightDecay"]}, {"params": plain, "weight_decay": 0.0}]
    betas = (job["adamBeta1"], job["adamBeta2"])
    return torch.optim.AdamW(groups, lr=job["learningRate"], betas=betas, eps=job["adamEpsilon"], fused=True)


def peak_bytes(work):
    """Largest sum of tensors alive while `work` runs, by PyTorch's own count. Tensors made before are not in it."""
    if DEVICE != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kept = work()
        return torch.cuda.max_memory_allocated() - before, kept
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = work()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profile.export_chrome_trace(path)
        with open(path) as file:
            events = json.load(file)["traceEvents"]
    memory = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in memory]
    before = totals[0] - memory[0]["args"]["Bytes"]
    return max(totals) - before, kept


def prepare(job):
    if job.get("loadIn4bit"):
        return None  # PyTorch itself has no four-bit matrices
    torch.manual_seed(1)
    low_precision = job["dtype"] == "bf16"

    def build():
        model = build_model(job)
        reference = build_model(job).requires_grad_(False) if job["objective"] == "dpo" else None
        loss_of = dpo_loss if job["objective"] == "dpo" else sft_loss
        optimizer = optimizer_for(model, job)
        ids = batch_of(job)

        def step():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(DEVICE.split(":")[0], torch.bfloat16, enabled=low_precision):
                loss = loss_of(job, model, reference, ids)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), job["maxGradNorm"])
            optimizer.step()
            return loss.item()

        step()
        step()
        return model, step

    peak, (model, step) = peak_bytes(build)
    return step, {"parameters": sum(p.numel() for p in model.parameters() if p.requires_grad), "peakBytes": peak}


serve(torch, prepare)
