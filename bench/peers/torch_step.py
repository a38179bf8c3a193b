# The SFT step in PyTorch, eager: a Llama of the same shape with tied embeddings, scaled_dot_product_attention, its
# cross entropy over all logits, gradient clipping and the fused AdamW. bf16 is autocast over f32 weights. Rows are
# equally long, so nothing is padded or masked: the easiest case for a batched loop.

import json
import os
import tempfile

from serve import DEVICE, load_torch, serve

torch = load_torch()
F = torch.nn.functional


def matrix(*shape, deviation=0.02):
    return torch.nn.Parameter(torch.randn(*shape) * deviation)


class Layer(torch.nn.Module):
    def __init__(self, width, heads, inner, layers):
        super().__init__()
        self.heads = heads
        residual = 0.02 / (2 * layers) ** 0.5
        self.norm1 = torch.nn.Parameter(torch.ones(width))
        self.norm2 = torch.nn.Parameter(torch.ones(width))
        self.q, self.k, self.v = matrix(width, width), matrix(width, width), matrix(width, width)
        self.o = matrix(width, width, deviation=residual)
        self.gate, self.up = matrix(inner, width), matrix(inner, width)
        self.down = matrix(width, inner, deviation=residual)

    def forward(self, x, cos, sin):
        rows, tokens, width = x.shape

        def split(t):
            return t.view(rows, tokens, self.heads, -1).transpose(1, 2)

        def rotate(t):
            a, b = t.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(t.dtype)

        h = F.rms_norm(x, (width,), self.norm1, 1e-6)
        q, k, v = rotate(split(F.linear(h, self.q))), rotate(split(F.linear(h, self.k))), split(F.linear(h, self.v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(o.transpose(1, 2).reshape(rows, tokens, width), self.o)
        h = F.rms_norm(x, (width,), self.norm2, 1e-6)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)


class Llama(torch.nn.Module):
    def __init__(self, job):
        super().__init__()
        width, heads, layers = job["hiddenSize"], job["heads"], job["layers"]
        self.embedding = matrix(job["vocabSize"], width)
        self.layers = torch.nn.ModuleList(Layer(width, heads, job["intermediateSize"], layers) for _ in range(layers))
        self.norm = torch.nn.Parameter(torch.ones(width))
        half = width // heads // 2
        angles = torch.arange(job["tokens"])[:, None] * 10000.0 ** (-torch.arange(half)[None] / half)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids):
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        hidden = F.rms_norm(x, (x.shape[-1],), self.norm, 1e-6)[:, :-1]
        logits = F.linear(hidden, self.embedding)
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def optimizer_for(model, job):
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
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
    totals = [event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"]
    return max(totals), kept


def prepare(job):
    torch.manual_seed(1)
    low_precision = job["dtype"] == "bf16"

    def build():
        model = Llama(job)
        optimizer = optimizer_for(model, job)
        ids = torch.randint(job["vocabSize"], (job["rows"], job["tokens"]))

        def step():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(DEVICE.split(":")[0], torch.bfloat16, enabled=low_precision):
                loss = model(ids)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), job["maxGradNorm"])
            optimizer.step()
            return loss.item()

        step()
        step()
        return model, step

    peak, (model, step) = peak_bytes(build)
    return step, {"parameters": sum(p.numel() for p in model.parameters()), "peakBytes": peak}


serve(torch, prepare)
