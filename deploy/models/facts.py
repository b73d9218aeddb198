#!/usr/bin/env python3
"""Prints what a start script must know of a model folder: `weight_bytes kv_bytes_per_token max_positions`."""
import json
import os
import sys


def main(folder):
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    weights = sum(
        os.path.getsize(os.path.join(folder, n))
        for n in os.listdir(folder)
        if n.endswith(".safetensors")
    )
    heads = c["num_attention_heads"]
    kv_row = c.get("num_key_value_heads", heads) * (c.get("head_dim") or c["hidden_size"] // heads)
    # K and V in f32, as the CPU worker holds them.
    print(weights, c["num_hidden_layers"] * 2 * kv_row * 4, c.get("max_position_embeddings", 2048))


if __name__ == "__main__":
    main(sys.argv[1])
