#!/usr/bin/env python3
"""Makes the golden values that the worker's tests compare with.

    make_golden.py MODEL CASES.json OUT

They come from blend_reference.py, which states blending in PyTorch and shares nothing with the C++ code.
MODEL: a Hugging Face folder. CASES: a list of {ctxs: [{title, text}], question}. OUT: folder for
prefill.json and blend.json. Needs torch, safetensors, tokenizers. Everything is float32 but what the cache
stores: K (before RoPE) and V of a chunk are rounded to bf16, as they are made, as in the worker.
"""
import argparse, json, os
import torch
import blend_reference

LEAD = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Answer the question from the passages.\n\n")
QUESTION = "Question: {}<|im_end|>\n<|im_start|>assistant\n"
POLICIES = ["none", "full", "first_k", "random", "query", "query_v", "query_v+first", "hkvd_v", "hkvd_k"]
RATIO, NEW, TOP = 0.15, 32, 10


def splitmix(row):
    """Score of a row under the policy `random`."""
    mask = (1 << 64) - 1
    z = ((row + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 40) * 2.0**-24


def bf16_chunk(model, ids, sink):
    """A chunk whose K and V are rounded before they are attended to; the sink's rows are not."""
    kv = model.extend([], list(sink), False)[1] if sink else []
    exact_qkv = model.qkv

    def rounded(layer, h):
        q, k, v = exact_qkv(layer, h)
        return q, k.bfloat16().float(), v.bfloat16().float()

    model.qkv = rounded
    try:
        _, kv = model.extend(kv, list(ids), False)
    finally:
        model.qkv = exact_qkv
    return [(k[len(sink):], v[len(sink):]) for k, v in kv]


def top(logits):
    values, ids = logits[-1].topk(TOP)
    return [[int(t), round(float(x), 4)] for t, x in zip(ids, values)]


def prefill_case(model, ids):
    """Per position: the TOP likeliest tokens, their logits, and the logarithm of the sum over all."""
    logits, _ = model.prefill(ids, all_logits=True)
    values, tokens = logits.topk(TOP)
    return {"ids": ids, "top_ids": tokens.tolist(),
            "top_logits": [[round(float(x), 4) for x in row] for row in values],
            "log_sum": [round(float(x), 4) for x in logits.logsumexp(-1)]}


def random_pick(segments, exact):
    ids, start = [], 0
    for i, segment in enumerate(segments[:-1]):
        if i not in exact:
            ids += range(start, start + len(segment))
        start += len(segment)
    budget = -(-len(ids) * 15 // 100)
    pick = torch.zeros(sum(map(len, segments)), dtype=torch.bool)
    pick[sorted(ids, key=lambda r: (-splitmix(r), r))[:budget]] = True
    return pick


def blend_case(model, segments, sink_name, bos, eos):
    sink = {"none": [], "bos": [bos], "lead": segments[0]}[sink_name]
    exact = (0, 1) if sink_name == "lead" else (0,)
    chunks = {i: bf16_chunk(model, s, () if i == 0 else sink) for i, s in enumerate(segments[:-1])}
    logits, kv = model.prefill(sum(segments, []))
    record = {"segments": segments, "sink": sink_name, "blends": [],
              "full": {"greedy": model.decode(kv, logits, NEW, eos), "top": top(logits)}}
    for policy in POLICIES:
        for correct in (False, True):
            if correct and policy in ("none", "full"):
                continue
            pick = random_pick(segments, exact).to(model.device) if policy == "random" else None
            first, blended, facts = blend_reference.blend(model, segments, sink, policy, RATIO, chunks=chunks,
                                                 exact=exact, correct=correct, pick=pick)
            record["blends"].append({"policy": policy, "correction": correct, "ratio": RATIO,
                                     "picked": facts["picked"].nonzero()[:, 0].tolist(), "top": top(first),
                                     "greedy": model.decode(blended, first, NEW, eos)})
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "cases", "out"):
        parser.add_argument(name)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--device", default="cpu", help="of PyTorch, such as cuda")
    a = parser.parse_args()
    from tokenizers import Tokenizer
    torch.set_grad_enabled(False)
    model = blend_reference.load_hf(a.model, a.device)
    tokenizer = Tokenizer.from_file(os.path.join(a.model, "tokenizer.json"))
    config = json.load(open(os.path.join(a.model, "config.json")))
    eos = config["eos_token_id"]
    eos = eos if isinstance(eos, int) else eos[0]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    cases = json.load(open(a.cases))
    paragraphs = [c["ctxs"][0]["text"].strip() for c in cases[:20]]
    json.dump([prefill_case(model, encode(p)[:96]) for p in paragraphs],
              open(os.path.join(a.out, "prefill.json"), "w"), separators=(",", ":"))
    sinks = ["bos"] * 7 + ["lead"] * 2 + ["none"]
    blends = []
    for i, case in enumerate(cases[:a.prompts]):
        docs = [encode(d["title"] + "\n" + d["text"].strip())[:40 + 12 * ((i + j) % 4)] + encode("\n\n")
                for j, d in enumerate(case["ctxs"][:5])]
        segments = [encode(LEAD)] + docs + [encode(QUESTION.format(case["question"]))]
        blends.append(blend_case(model, segments, sinks[i % len(sinks)], config["bos_token_id"], eos))
        print(f"prompt {i + 1}: {sum(map(len, segments))} tokens", flush=True)
    json.dump(blends, open(os.path.join(a.out, "blend.json"), "w"), separators=(",", ":"))


if __name__ == "__main__":
    main()
