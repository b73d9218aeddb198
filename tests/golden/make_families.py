#!/usr/bin/env python3
"""Makes families.json: logits of small made-up models of every family and RoPE kind, by transformers in float32.

    make_families.py OUT

Needs torch and transformers. Weights are made as tests/gpu_worker/tiny_model.cc makes them: from a tensor's name and an
element's number. Rows are the last POSITIONS of the prompt.
"""
import json, math, sys
import numpy as np
import torch
import transformers

BASE = dict(hidden_act="silu", num_hidden_layers=3, hidden_size=64, intermediate_size=128, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=96, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "llama": dict(model_type="llama"),
    "llama untied, linear": dict(model_type="llama", tie_word_embeddings=False, rope_scaling=LINEAR),
    "llama, llama3 scaling": dict(model_type="llama", rope_scaling=LLAMA3, rope_theta=500000.0),
    "mistral, head_dim 32": dict(model_type="mistral", head_dim=32, sliding_window=None),
    "qwen2, bias": dict(model_type="qwen2", use_sliding_window=False),
    "qwen2, yarn": dict(model_type="qwen2", use_sliding_window=False, rope_scaling=YARN),
    "qwen3, QK norm, head_dim 24": dict(model_type="qwen3", head_dim=24, use_sliding_window=False),
}
PROMPT, POSITIONS = 200, 3


def made_up(name, shape):
    seed = 0xCBF29CE484222325
    for c in name.encode():
        seed = ((seed ^ c) * 0x100000001B3) & (2**64 - 1)
    with np.errstate(over="ignore"):
        z = (np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
    x = z.astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)
    scale = np.float32(4) / np.sqrt(np.float32(shape[1])) if len(shape) == 2 else np.float32(0.5)
    x = x * scale
    if "norm" in name:
        x = np.float32(1) + x
    return torch.from_numpy(x).reshape(shape).bfloat16().float()


def main():
    torch.set_grad_enabled(False)
    ids = [(7 * i * i + 13 * i + 5) % 96 for i in range(PROMPT)]
    cases = []
    for name, changes in CASES.items():
        config = {**BASE, **changes}
        kwargs = {k: v for k, v in config.items() if k != "model_type"}
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(config["model_type"], **kwargs), attn_implementation="eager").float().eval()
        for tensor, parameter in model.named_parameters():
            parameter.copy_(made_up(tensor, tuple(parameter.shape)))
        logits = model(torch.tensor([ids])).logits[0, -POSITIONS:]
        cases.append({"name": name, "config": config, "ids": ids,
                      "logits": [[round(float(x), 5) for x in row] for row in logits]})
        print(name, [round(float(x), 3) for x in logits[-1, :4]])
    json.dump(cases, open(sys.argv[1], "w"), separators=(",", ":"))


if __name__ == "__main__":
    main()
