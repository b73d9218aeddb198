#!/usr/bin/env python3
"""Independent statement of blending in float32 PyTorch: the worker must agree with it (make_golden.py).

It is slow, short and meant to be read, and shares nothing with the C++ code. Needs torch; a Hugging Face model folder
(Llama, Mistral, Qwen2, Qwen3; no RoPE scaling) needs safetensors. Run without arguments it tests itself on a random
model.

Terms. A prompt is a list of segments (lists of token ids). The last segment is the suffix (the question).
A chunk is the KV of one segment computed ALONE behind the sink tokens, K kept BEFORE RoPE. To blend is to
place chunks at their positions, to recompute some rows with the whole prompt in view, and to go on.
"""
import json, math, os, sys
import torch
import torch.nn.functional as F

class Decoder:
    """RMSNorm, GQA, half-split RoPE, SwiGLU; QKV bias and QK norm where the weights have them."""
    def __init__(self, cfg, w, device="cpu"):
        self.c, self.w, self.device = cfg, {k: v.to(device) for k, v in w.items()}, device
        d = cfg["head_dim"]
        self.inv = 1.0 / (cfg["rope_theta"] ** (torch.arange(0, d, 2, device=device).float() / d))

    def rope(self, x, pos):
        """x [n, heads, d], pos [n] -> x rotated to pos (pairs are (i, i + d/2))."""
        a = pos.float()[:, None] * self.inv[None]
        cos, sin = a.cos()[:, None], a.sin()[:, None]
        x1, x2 = x.chunk(2, -1)
        return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)

    def norm(self, x, g):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["rms_eps"]) * g

    def qkv(self, l, h):
        """h [n, D] -> q [n, H, d], k and v [n, Hkv, d]; no RoPE yet."""
        c, w = self.c, self.w
        x = self.norm(h, w[f"l{l}.ln1"])
        q, k, v = (F.linear(x, w[f"l{l}.{n}"], w.get(f"l{l}.{n}_bias")).view(len(x), -1, c["head_dim"]) for n in "qkv")
        if f"l{l}.q_norm" in w: q, k = self.norm(q, w[f"l{l}.q_norm"]), self.norm(k, w[f"l{l}.k_norm"])
        return q, k, v

    def attend(self, q, qpos, k, v, kpos, probs=False):
        """A query row sees exactly the keys whose position is <= its own position."""
        g = self.c["heads"] // self.c["kv_heads"]
        q, k = self.rope(q, qpos), self.rope(k, kpos)
        k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
        seen = kpos[None, :] <= qpos[:, None]
        if not probs:
            o = F.scaled_dot_product_attention(*(t.transpose(0, 1)[None] for t in (q, k, v)), attn_mask=seen[None, None])
            return o[0].transpose(0, 1).reshape(len(q), -1)
        s = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.c["head_dim"])
        p = s.masked_fill(~seen[None], float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", p, v).reshape(len(q), -1), p

    def finish_layer(self, l, h, o):
        """Output projection, residual and MLP of layer l for rows h with attention output o."""
        w = self.w
        h = h + o @ w[f"l{l}.o"].T
        x = self.norm(h, w[f"l{l}.ln2"])
        return h + (F.silu(x @ w[f"l{l}.gate"].T) * (x @ w[f"l{l}.up"].T)) @ w[f"l{l}.down"].T

    def logits(self, h):
        return self.norm(h, self.w["norm"]) @ self.w["head"].T

    def embed(self, ids):
        return self.w["embed"][torch.as_tensor(ids, device=self.device)]

    def positions(self, n, start=0):
        return torch.arange(start, start + n, device=self.device)

    def prefill(self, ids, all_logits=False):
        """Ordinary full prefill. -> (logits of the last row or of all, [(K before RoPE, V)] per layer)."""
        return self.extend([], ids, all_logits)

    def extend(self, kv, ids, all_logits=True):
        """Runs ids behind kv (rows 0..N-1). -> (logits of the last of ids or of all, kv with them)."""
        n = kv[0][0].shape[0] if kv else 0
        h, pos, kpos, out = self.embed(ids), self.positions(len(ids), n), self.positions(n + len(ids)), []
        for l in range(self.c["layers"]):
            q, k, v = self.qkv(l, h)
            if kv: k, v = torch.cat([kv[l][0], k]), torch.cat([kv[l][1], v])
            out.append((k, v))
            h = self.finish_layer(l, h, self.attend(q, pos, k, v, kpos))
        return self.logits(h if all_logits else h[-1:]), out

    def decode(self, kv, first_logits, n, eos=None):
        """Greedy continuation over kv (rows are positions 0..N-1)."""
        out, lg = [], first_logits
        for _ in range(n):
            t = int(lg[-1].argmax())
            if t == eos: break
            out.append(t)
            lg, kv = self.extend(kv, [t])
        return out

def make_chunk(m, ids, sink=()):
    """KV of one segment computed alone behind the sink tokens; the sink's own rows are dropped."""
    _, kv = m.prefill(list(sink) + list(ids))
    return [(k[len(sink):], v[len(sink):]) for k, v in kv]

def blend(m, segments, sink=(), policy="hkvd_v", ratio=0.15, check_layer=1, first_k=16, missing=(), chunks=None, exact=(0,), pick=None,
          correct=False):
    """Blends all segments but the last from their chunks.

    exact: indices of segments whose chunk was computed with just the context that it has here (the lead, and
    with the lead as sink also segment 1); their rows are never selected. missing: indices without a chunk: all
    their rows are recomputed. chunks: {index: chunk}, made here when not given. pick: bool [N], the rows to select,
    instead of a policy. correct: move the rows that stay cached by what the recomputed ones show (see correction).
    Returns (logits of the last row, kv, facts).
    """
    ids = [t for s in segments for t in s]
    N, L, dev = len(ids), m.c["layers"], m.device
    pos, no = m.positions(N), torch.zeros(N, dtype=torch.bool, device=m.device)
    placed_at, start, cached, is_exact, first_rows = [], 0, no.clone(), no.clone(), no.clone()
    for i, s in enumerate(segments[:-1]):
        if i not in missing:
            chunk = chunks[i] if chunks else make_chunk(m, s, () if i == 0 else sink)
            placed_at.append((start, chunk, i not in exact))
            cached[start:start + len(s)] = True
            if i in exact: is_exact[start:start + len(s)] = True
            else: first_rows[start:start + min(first_k, len(s))] = True
        start += len(s)
    must, candidates = ~cached, cached & ~is_exact        # suffix and misses are always recomputed
    budget = math.ceil(ratio * int(candidates.sum()))

    def placed(l):
        K = torch.zeros(N, m.c["kv_heads"], m.c["head_dim"], device=dev); V = torch.zeros_like(K)
        for st, chunk, _ in placed_at:
            n = chunk[l][0].shape[0]
            K[st:st + n], V[st:st + n] = chunk[l]
        return K, V

    def top(score):
        pick = no.clone()
        if budget: pick[score.masked_fill(~candidates, float("-inf")).topk(budget).indices] = True
        return pick

    name, _, plus = policy.partition("+")
    if pick is not None: pick = pick & candidates
    elif name == "none": pick = no
    elif name == "full": pick = candidates
    elif name == "first_k": pick = first_rows
    elif name == "random": pick = top(torch.rand(N, generator=torch.Generator().manual_seed(0)).to(dev))
    elif name.startswith("query"): pick = top(query_scores(m, segments, placed, name))
    else: assert name in ("hkvd_v", "hkvd_k", "hkvd_kv"), policy
    if pick is not None and plus == "first": pick = pick | first_rows
    rows = must | pick if pick is not None else ~no       # None: chosen at the check layer
    h_all, kv = m.embed(ids), []
    for l in range(L):
        K, V = placed(l)
        if pick is None and l == check_layer:             # fresh K and V of every row exist here
            q, k, v = m.qkv(l, h_all)
            dv, dk = (v - V).pow(2).sum((1, 2)), (k - K).pow(2).sum((1, 2))
            pick = top({"hkvd_v": dv, "hkvd_k": dk, "hkvd_kv": dv / dv.mean() + dk / dk.mean()}[name])
            if plus == "first": pick = pick | first_rows
            rows = must | pick
            K, V = k.clone(), v.clone()                   # all fresh rows are at hand: use every one of them
        idx = rows.nonzero()[:, 0]
        h = h_all[idx]
        q, k, v = m.qkv(l, h)
        if correct and pick is not None and l > 0 and not rows.all():    # layer 0 sees no context
            for st, chunk, stale in placed_at:
                if stale: correction(K, V, k, v, idx, pick, st, chunk[l][0].shape[0])
        K[idx], V[idx] = k, v
        kv.append((K, V))
        h_all = h_all.clone()
        h_all[idx] = m.finish_layer(l, h, m.attend(q, pos[idx], K, V, pos))
    return m.logits(h_all[-1:]), kv, {"tokens": N, "cached": int(cached.sum()), "exact": int(is_exact.sum()),
                                      "recomputed": int(rows.sum()), "selected": int(pick.sum()), "picked": pick}

def correction(K, V, k, v, idx, pick, start, n, length=64.0, nearness=2.0, noise=3.0, bound=2.0, fewest=4):
    """Corrects in place the n cached rows of one chunk at `start`, in one layer (K before RoPE, V: [N, Hkv, d]).

    The chunk's recomputed rows show how its K and V move when they see the rest of the prompt: their deviation,
    fresh minus cached, is a sample. Kernel ridge regression (the mean of a Gaussian process) carries it to the rows
    that stay cached:
        kernel(a, b) = <f_a, f_b> / s + nearness exp(-|a - b| / length) + 1
        row += kernel(row, picked) (kernel(picked, picked) + noise I)^-1 deviation(picked)
    f_a: cached K and V of row a, each over the mean norm of all rows, joined, minus the mean of the picked rows; s:
    mean |f|^2 of the picked rows. The kernel needs cached values only, so its solution is known before the layer runs.
    A deviation longer than `bound` times the picked rows' (lower) median is shortened to that, K and V measured in the
    units of f: single rows move far, because alone they drew all attention, and say nothing about the others.
    Chunks with fewer than `fewest` picked rows stay as they are. k, v: fresh rows, those of positions idx.
    """
    rows = torch.arange(start, start + n, device=K.device)
    picked = rows[pick[rows]]
    if len(picked) < fewest: return
    units = [T[rows].flatten(1).norm(dim=1).mean() for T in (K, V)]
    f = torch.cat([T[rows].flatten(1) / unit for T, unit in zip((K, V), units)], 1)
    f = f - f[picked - start].mean(0)
    fp = f[picked - start]
    s = fp.pow(2).sum(1).mean()
    kernel = lambda x, at: x @ fp.T / s + nearness * torch.exp(-(at[:, None] - picked[None]).abs() / length) + 1
    hat = torch.linalg.solve(kernel(fp, picked) + noise * torch.eye(len(picked), device=K.device), kernel(f, rows).T).T
    fresh = torch.searchsorted(idx, picked)
    dk, dv = (k[fresh] - K[picked]).flatten(1), (v[fresh] - V[picked]).flatten(1)
    norms = torch.cat([dk / units[0], dv / units[1]], 1).norm(dim=1)
    shorter = (bound * norms.median() / norms.clamp(min=1e-20)).clamp(max=1)[:, None]  # none moved: all zero
    K[rows] += (hat @ (shorter * dk)).view(n, *K.shape[1:])
    V[rows] += (hat @ (shorter * dv)).view(n, *V.shape[1:])

def query_scores(m, segments, placed, name="query"):
    """What the suffix attends to when it runs over the placed chunks alone: [N], summed over layers.

    query: the mean over the suffix's rows and over heads of their probability. query_v: in each head the root mean
    square over the suffix's rows of their probability times the norm of that head's V, summed over heads.
    """
    N, n, g = sum(map(len, segments)), len(segments[-1]), m.c["heads"] // m.c["kv_heads"]
    pos, h, score = m.positions(N), m.embed(segments[-1]), torch.zeros(N, device=m.device)
    for l in range(m.c["layers"]):
        K, V = placed(l)
        q, K[N - n:], V[N - n:] = m.qkv(l, h)
        o, p = m.attend(q, pos[N - n:], K, V, pos, probs=True)
        norms = V.norm(dim=2).repeat_interleave(g, 1).T                # [H, N]
        score += (p.pow(2).mean(1).sqrt() * norms).sum(0) if name == "query_v" else p.mean((0, 1))
        h = m.finish_layer(l, h, o)
    return score

def load_hf(path, device="cpu"):
    """A Hugging Face folder (config.json, *.safetensors) -> Decoder."""
    from safetensors.torch import load_file
    import glob
    c = json.load(open(os.path.join(path, "config.json")))
    assert not c.get("rope_scaling"), "RoPE scaling is not in this reference"
    t = {}
    for f in sorted(glob.glob(os.path.join(path, "*.safetensors"))): t.update(load_file(f))
    cfg = dict(layers=c["num_hidden_layers"], heads=c["num_attention_heads"],
               kv_heads=c.get("num_key_value_heads", c["num_attention_heads"]),
               head_dim=c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
               rope_theta=c.get("rope_theta", 10000.0), rms_eps=c["rms_norm_eps"])
    w = {"embed": t["model.embed_tokens.weight"], "norm": t["model.norm.weight"]}
    w["head"] = w["embed"] if c.get("tie_word_embeddings") else t["lm_head.weight"]
    names = {"q": "self_attn.q_proj.weight", "k": "self_attn.k_proj.weight", "v": "self_attn.v_proj.weight",
             "q_bias": "self_attn.q_proj.bias", "k_bias": "self_attn.k_proj.bias", "v_bias": "self_attn.v_proj.bias",
             "q_norm": "self_attn.q_norm.weight", "k_norm": "self_attn.k_norm.weight", "o": "self_attn.o_proj.weight",
             "gate": "mlp.gate_proj.weight", "up": "mlp.up_proj.weight", "down": "mlp.down_proj.weight",
             "ln1": "input_layernorm.weight", "ln2": "post_attention_layernorm.weight"}
    for l in range(cfg["layers"]):
        w.update({f"l{l}.{a}": t[f"model.layers.{l}.{b}"] for a, b in names.items() if f"model.layers.{l}.{b}" in t})
    return Decoder(cfg, {k: v.float() for k, v in w.items()}, device)

def random_model(layers=4, d=64, heads=4, kv=2, vocab=300, ffn=128, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g) / math.sqrt(s[-1])
    hd, w = d // heads, {"embed": torch.randn(vocab, d, generator=g), "norm": torch.ones(d), "head": r(vocab, d)}
    for l in range(layers):
        w.update({f"l{l}.q": r(heads * hd, d), f"l{l}.k": r(kv * hd, d), f"l{l}.v": r(kv * hd, d),
                  f"l{l}.q_bias": r(heads * hd), f"l{l}.k_bias": r(kv * hd), f"l{l}.v_bias": r(kv * hd),
                  f"l{l}.o": r(d, heads * hd), f"l{l}.gate": r(ffn, d), f"l{l}.up": r(ffn, d),
                  f"l{l}.down": r(d, ffn), f"l{l}.ln1": torch.ones(d), f"l{l}.ln2": torch.ones(d)})
    return Decoder(dict(layers=layers, heads=heads, kv_heads=kv, head_dim=hd, rope_theta=1e4, rms_eps=1e-5), w)

def kl(p_logits, q_logits):
    """KL(p || q) per row, in nats."""
    p, q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)

def self_test():
    m, g = random_model(), torch.Generator().manual_seed(1)
    seg = [torch.randint(0, 300, (n,), generator=g).tolist() for n in (7, 20, 13, 5)]
    full, kv = m.prefill(sum(seg, []))
    for policy in ("full", "hkvd_v", "hkvd_k", "hkvd_kv", "query", "query_v"):
        lg, kb, _ = blend(m, seg, policy=policy, ratio=1.0)
        assert torch.allclose(full, lg, atol=1e-4), policy       # recomputing every row is full prefill
        for a, b in zip(kv, kb): assert torch.allclose(a[0], b[0], atol=1e-4) and torch.allclose(a[1], b[1], atol=1e-4)
    lg, _, facts = blend(m, seg, missing=(1, 2), policy="none")    # nothing cached beyond the lead: exact
    assert torch.allclose(full, lg, atol=1e-4) and facts["exact"] == 7
    lg, _, _ = blend(m, seg, policy="query_v", ratio=1.0, correct=True)
    assert torch.allclose(full, lg, atol=1e-4)
    two = [seg[0], seg[1], seg[3]]                               # with the lead as sink segment 1 is exact
    lg, _, _ = blend(m, two, sink=seg[0], policy="none", exact=(0, 1))
    assert torch.allclose(m.prefill(sum(two, []))[0], lg, atol=1e-4)
    ks = [float(kl(full, blend(m, seg, policy="hkvd_v", ratio=r)[0])) for r in (0, .2, .5, 1)]
    assert ks[-1] < 1e-6 < ks[0]
    print("self test passed; KL at ratio 0, .2, .5, 1:", " ".join("%.2e" % k for k in ks))

if __name__ == "__main__":
    if len(sys.argv) > 1: sys.exit(__doc__)
    self_test()
