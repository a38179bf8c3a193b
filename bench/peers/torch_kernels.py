# The ops of native/ops.def in PyTorch, as its users would write them, on inputs of the same shapes and types. A
# gradient op is autograd's backward over a graph that is kept, so what the forward pass saved is not computed again:
# for the head that means logits in memory, where Whetstone computes them twice. With the argument `compile` every op
# goes through torch.compile, which writes C++ for a CPU and Triton for a GPU.

import sys

from serve import load_torch, serve

torch = load_torch()
F = torch.nn.functional
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
COMPILED = sys.argv[1:] == ["compile"]
if COMPILED:
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # backward runs again and again over one graph


def compiled(run):
    return torch.compile(run) if COMPILED else run


class Operands(dict):
    """Tensors by operand name; `t.x` is `t["x"]` where a dict has no method of that name."""

    def __getattr__(self, name):
        return self[name]


def backward(make, wanted, given):
    """A run of autograd's backward from `make()` to the tensors `wanted` with the gradients `given` of its results."""
    for t in wanted:
        t.requires_grad_()
    results = compiled(make)()
    return lambda: torch.autograd.grad(results, wanted, given, retain_graph=True)


def rms_norm(t, p):
    return lambda: F.rms_norm(t.x, t.w.shape, t.w, p.get("eps", 1e-6))


def layer_norm(t, p):
    return lambda: F.layer_norm(t.x, t.w.shape, t.w, t.get("b"), p.get("eps", 1e-6))


def weight_gradient(norm):
    def prepare(t, p):
        t["w"] = torch.ones_like(t.x[0])
        return backward(norm(t, p), (t.w,), t.dy)

    return prepare


def glu(t, p):
    if p["activation"] == 0:
        return lambda: F.silu(t.gate) * t.up
    return lambda: F.gelu(t.gate, approximate="tanh") * t.up


def rope(t, p):
    at = t.positions.long()
    cos, sin = t.cos[at][:, None].to(t.x.dtype), t.sin[at][:, None].to(t.x.dtype)

    def run():
        a, b = t.x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    return run


def attention(t, p):
    """Packed causal sequences of one length as a batch; other layouts are not compared."""
    starts = t.visibility[:, 0].unique()
    tokens = len(t.visibility)
    length = tokens // len(starts)
    expected = torch.arange(0, tokens, length, dtype=starts.dtype)
    if p["window"] or p["softcap"] or len(starts) * length != tokens or not torch.equal(starts, expected):
        return None

    def batched(x):
        return x.view(len(starts), length, *x.shape[1:]).transpose(1, 2)

    def run():
        q, k, v = batched(t.q), batched(t.k), batched(t.v)
        grouped = t.q.shape[1] != t.k.shape[1]
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=p["scale"], enable_gqa=grouped)
        return o.transpose(1, 2).reshape(t.q.shape)

    return run


def attention_backward(t, p):
    run = attention(t, p)
    return None if run is None else backward(run, (t.q, t.k, t.v), t["do"])


def logits(h, w, p):
    z = (h @ w.t()).float()
    if p["softcap"]:
        z = p["softcap"] * torch.tanh(z / p["softcap"])
    return z / p["temperature"]


def head_logprobs(t, p):
    targets = t.targets.long()
    return lambda: -F.cross_entropy(logits(t.h, t.w, p), targets, reduction="none")


def head_terms(t, p):
    targets = t.targets.long()[:, None]

    def run():
        policy = torch.log_softmax(logits(t.h, t.w, p), -1)
        entropy = -(policy.exp() * policy).sum(-1)
        return policy.gather(1, targets)[:, 0], entropy, policy.mean(-1)

    return run


def head_kl(t, p):
    targets = t.targets.long()[:, None]

    def run():
        policy = torch.log_softmax(logits(t.h, t.w, p), -1)
        prior = torch.log_softmax(logits(t.qh, t.qw, p), -1)
        first, second = (prior, policy) if p["direction"] == 0 else (policy, prior)
        return policy.gather(1, targets)[:, 0], F.kl_div(second, first, log_target=True, reduction="none").sum(-1)

    return run


def head_wanted(t):
    return (t.h, t.w) if "dw" in t else (t.h,)


def head_sample(t, p):
    if p["minP"] or not p["temperature"]:
        return None

    def run():
        z = logits(t.h, t.w, p)
        if p["topK"]:
            z, kept = z.topk(p["topK"], -1)
        probabilities = torch.softmax(z, -1)
        ordered, ids = probabilities.sort(-1, descending=True)
        if p["topK"]:
            ids = kept.gather(1, ids)
        ordered[ordered.cumsum(-1) - ordered >= p["topP"]] = 0
        return ids.gather(1, torch.multinomial(ordered, 1))

    return run


def head_sample_mixture(t, p):
    if p["topK"] or p["topP"] < 1 or p["minP"] or not p["temperature"]:
        return None

    def run():
        own, other = logits(t.h, t.w, {**p, "temperature": 1}), logits(t.qh, t.qw, {**p, "temperature": 1})
        mixed = ((1 - p["mixture"]) * own + p["mixture"] * other) / p["temperature"]
        return torch.multinomial(torch.softmax(mixed, -1), 1)

    return run


def adamw(t, p):
    weight = torch.nn.Parameter(t.w)
    weight.grad = t.g
    betas = (p["beta1"], p["beta2"])
    optimizer = torch.optim.AdamW(
        [weight], lr=p["learningRate"], betas=betas, eps=p["eps"], weight_decay=p["weightDecay"], fused=True
    )

    def run():
        optimizer.step()
        if "copy" in t:
            t["copy"].copy_(weight.detach())

    return run


OPS = {
    "fill": lambda t, p: lambda: t.x.fill_(p["value"]),
    "copy": lambda t, p: lambda: t.to.copy_(t["from"]),
    "cast_f32": lambda t, p: lambda: t.x.float(),
    "cast_bf16": lambda t, p: lambda: t.x.bfloat16(),
    "gather_rows": lambda t, p: lambda: F.embedding(t.ids, t.x),
    "scatter_add_rows": lambda t, p: lambda: t.dx.index_add_(0, t.ids, t.dy.float()),
    "add": lambda t, p: lambda: t.a + t.b,
    "add_bias": lambda t, p: lambda: t.x + t.b,
    "scale": lambda t, p: lambda: t.x * p["factor"],
    "glu": glu,
    "glu_backward": lambda t, p: backward(glu(t, p), (t.gate, t.up), t.dy),
    "gelu": lambda t, p: lambda: F.gelu(t.x, approximate="tanh"),
    "gelu_backward": lambda t, p: backward(lambda: F.gelu(t.x, approximate="tanh"), (t.x,), t.dy),
    "column_sum": lambda t, p: lambda: t.db.add_(t.dy.sum(0)),
    "add_norm": lambda t, p: lambda: torch.hypot(t.acc, torch.linalg.vector_norm(t.x), out=t.acc),
    "all_finite": lambda t, p: lambda: t.ok.mul_(torch.isfinite(t.x).all()),
    "linear": lambda t, p: lambda: F.linear(t.x, t.w),
    "linear_dx": lambda t, p: lambda: t.dy @ t.w,
    "linear_dw": lambda t, p: lambda: t.dw.add_(t.dy.t() @ t.x),
    "rms_norm": rms_norm,
    "rms_norm_dx": lambda t, p: backward(rms_norm(t, p), (t.x,), t.dy),
    "rms_norm_dw": weight_gradient(rms_norm),
    "layer_norm": layer_norm,
    "layer_norm_dx": lambda t, p: backward(layer_norm(t, p), (t.x,), t.dy),
    "layer_norm_dw": weight_gradient(layer_norm),
    "rope": rope,
    "attention": attention,
    "attention_backward": attention_backward,
    "head_logprobs": head_logprobs,
    "head_logprobs_backward": lambda t, p: backward(head_logprobs(t, p), head_wanted(t), t.dlogps),
    "head_terms": head_terms,
    "head_terms_backward": lambda t, p: backward(
        head_terms(t, p), head_wanted(t), (t.dlogps, t.dentropy, t.dmeanlogps)
    ),
    "head_kl": head_kl,
    "head_kl_backward": lambda t, p: backward(head_kl(t, p), head_wanted(t), (t.dlogps, t.dkl)),
    "head_sample": head_sample,
    "head_sample_mixture": head_sample_mixture,
    "adamw": adamw,
}


def operands(job):
    t = Operands()
    for name, shape in job["shapes"].items():
        if name in job["integers"]:
            t[name] = torch.tensor(job["integers"][name], dtype=torch.int32).view(shape)
        else:
            t[name] = torch.randn(shape).to(DTYPES[job["dtypes"][name]])
    return t


def prepare(job):
    torch.manual_seed(1)
    make = OPS.get(job["op"])
    run = make and make(operands(job), job["parameters"])
    forward = run and not job["op"].endswith(("_backward", "_dx", "_dw"))
    return run and (compiled(run) if forward else run, {})


serve(torch, prepare)
