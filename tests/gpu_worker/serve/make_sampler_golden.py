#!/usr/bin/env python3
"""Golden numbers for sampler_test.cc: probabilities and greedy tokens by the definitions, slowly.

    python3 make_sampler_golden.py > sampler_golden.h

Everything is sorted whole and computed over dictionaries of the whole vocabulary, in double.
"""
import math
import struct

VOCAB = 40
# Made-up logits with ties: ids 7 and 8 are equal, and so are 20 and 21.
BASE = [3.0 * math.sin(1.7 * i + 0.3) + 0.05 * i for i in range(VOCAB)]
BASE[8] = BASE[7]
BASE[21] = BASE[20]


def float32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


BASE = [float32(x) for x in BASE]


def adjusted(case, prompt, answer):
    """Bias, penalties, mask."""
    logits = dict(enumerate(BASE))
    for token, bias in case.get("logit_bias", {}).items():
        logits[token] += bias
    for token in set(prompt) | set(answer):
        penalty = case.get("repetition_penalty", 1.0)
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    for token in answer:  # once for every time
        logits[token] -= case.get("frequency_penalty", 0.0)
    for token in set(answer):
        logits[token] -= case.get("presence_penalty", 0.0)
    if len(answer) < case.get("min_tokens", 0):
        for token in case["masked_tokens"]:
            logits[token] = -math.inf
    return logits


def normalized(p):
    mass = sum(p.values())
    return {token: x / mass for token, x in p.items()}


def probabilities(case, prompt, answer):
    """Temperature, top_k, top_p, min_p."""
    logits = adjusted(case, prompt, answer)
    order = sorted(logits, key=lambda token: (-logits[token], token))
    top = logits[order[0]]
    p = {t: math.exp((logits[t] - top) / case["temperature"]) for t in order}
    if case.get("top_k"):
        p = {t: p[t] for t in order[: case["top_k"]]}
    p = normalized(p)
    if case.get("top_p", 1.0) < 1.0:
        kept, reached = {}, 0.0
        for t in sorted(p, key=lambda token: (-p[token], token)):
            kept[t] = p[t]
            reached += p[t]
            if reached >= case["top_p"]:
                break
        p = normalized(kept)
    least = case.get("min_p", 0.0) * max(p.values())
    return normalized({t: x for t, x in p.items() if x >= least and x > 0})


def greedy(case, prompt, steps):
    answer = []
    for _ in range(steps):
        logits = adjusted(case, prompt, answer)
        answer.append(min(logits, key=lambda token: (-logits[token], token)))
    return answer


PROMPT = [3, 7, 11, 7, 30]
ANSWER = []
DRAWS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.7},
    {"temperature": 2.0, "top_k": 20, "top_p": 0.9, "min_p": 0.3},
    {"temperature": 2.0, "top_p": 0.6, "min_p": 0.5},
    {"temperature": 1.0, "repetition_penalty": 1.8, "top_p": 0.95},
    {"temperature": 0.9, "repetition_penalty": 0.6, "logit_bias": {5: 4.0, 12: -100.0, 0: 2.5}},
    {"temperature": 1.0, "top_k": 6, "min_tokens": 1, "masked_tokens": [34, 38, 12]},
]
GREEDY = [
    {},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.4},
    {"presence_penalty": -0.5, "frequency_penalty": 0.3},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.9},
    {"presence_penalty": 0.7, "frequency_penalty": 0.2, "repetition_penalty": 1.1,
     "logit_bias": {2: 3.25, 15: -0.5}},
    {"min_tokens": 7, "masked_tokens": [34, 38], "frequency_penalty": 0.4},
]
STEPS = 24


def params(case):
    names = ["temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
             "repetition_penalty", "logit_bias", "min_tokens", "masked_tokens"]
    fields = []
    for name in names:
        if name not in case:
            continue
        value = case[name]
        if isinstance(value, float):
            text = f"{value}f"
        elif isinstance(value, dict):
            text = "{" + ", ".join(f"{{{t}, {b}f}}" for t, b in value.items()) + "}"
        elif isinstance(value, list):
            text = "{" + ", ".join(map(str, value)) + "}"
        else:
            text = str(value)
        fields.append(f".{name} = {text}")
    return "{" + ", ".join(fields) + "}"


def wrapped(items):
    lines, line = [], "     "
    for item in items:
        if len(line) + len(item) + 2 > 98:
            lines.append(line)
            line = "     "
        line += " " + item + ","
    return "\n".join(lines + [line])


def main():
    print("// Made by make_sampler_golden.py: what the sampler's steps give, by their definitions.")
    print("#ifndef TESSERA_TESTS_GPU_WORKER_SERVE_SAMPLER_GOLDEN_H_")
    print("#define TESSERA_TESTS_GPU_WORKER_SERVE_SAMPLER_GOLDEN_H_\n")
    print("#include <cstdint>\n#include <map>\n#include <vector>\n")
    print('#include "gpu_worker/serve/sampler.h"\n\nnamespace tessera {\n')
    print("// Every token that may be drawn first, with its probability.")
    print("struct GoldenDraw {\n  SamplingParams params;\n  std::map<uint32_t, double> shares;\n};\n")
    print("// The greedy tokens of one answer over rows that are all the same.")
    print("struct GoldenGreedy {\n  SamplingParams params;\n  std::vector<uint32_t> ids;\n};\n")
    print("// clang-format off")
    print("inline const std::vector<float> kBaseLogits = {")
    print(wrapped([f"{x:.9g}f" for x in BASE]) + "};")
    print("inline const std::vector<std::vector<uint32_t>> kPrompt = {{3, 7, 11}, {7, 30}};")
    print("inline const std::vector<GoldenDraw> kDraws = {")
    for case in DRAWS:
        p = probabilities(case, PROMPT, ANSWER)
        print(f"    {{{params(case)},\n     {{")
        print(wrapped([f"{{{t}, {p[t]:.9f}}}" for t in sorted(p)]) + "}},")
    print("};")
    print("inline const std::vector<GoldenGreedy> kGreedy = {")
    for case in GREEDY:
        print(f"    {{{params(case)},\n     {{")
        print(wrapped([str(t) for t in greedy(case, PROMPT, STEPS)]) + "}},")
    print("};\n// clang-format on\n\n}  // namespace tessera\n")
    print("#endif  // TESSERA_TESTS_GPU_WORKER_SERVE_SAMPLER_GOLDEN_H_")


if __name__ == "__main__":
    main()
