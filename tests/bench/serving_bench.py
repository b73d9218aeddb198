#!/usr/bin/env python3
"""Serving on this machine, with its own three programs: TTFT exact, cold and reordered, prefill and decode rates, of
one stream and of several at a time.

usage: serving_bench.py [--model NAME] [--chunks 8] [--tokens 2000] [--repeats 5] [--threads 0]

The last line is one line of JSON. Build first: bazel build //:tessera_cache_server //:tessera_worker //:tessera_gateway
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from cluster import DEFAULT_MODEL, Cluster  # noqa: E402  (needs the path above)
from serving_client import Prompts, measure, summary, words_per_token  # noqa: E402

DECODE_TOKENS = 128
STREAMS_AT_A_TIME = (1, 4, 16)


def say(text):
    print(f"serving_bench: {text}", file=sys.stderr, flush=True)


def processor():
    """The CPU's model, how many, and whether it multiplies bf16 itself: that decides the prefill rate."""
    with open("/proc/cpuinfo") as f:
        facts = dict(map(str.strip, line.split(":", 1)) for line in f if ":" in line)
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "cpu": facts.get("model name", "unknown"),
        "cores": os.cpu_count(),
        "bf16": any(f in flags for f in ("avx512_bf16", "amx_bf16", "avx_bf16", "bf16")),
        "flags": [
            f
            for f in flags
            if f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx_bf16", "bf16")
        ],
    }


def decode_rate(client, model, repeats):
    """Tokens a second between the first and the last one of an answer."""
    body = {
        "model": model,
        "prompt": "Once upon a time, in a small village,",
        "max_tokens": DECODE_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    rates = []
    for _ in range(repeats):
        answer = client.stream("/v1/completions", body)
        span = answer.token_times[-1] - answer.token_times[0]
        rates.append((answer.usage["completion_tokens"] - 1) / span)
    return statistics.median(rates)


def decode_rates(client, model):
    """{streams at a time: tokens a second of all together}, from the last first token to the first last one."""

    def stream(index, answers):
        answers[index] = client.stream("/v1/completions", {
            "model": model, "prompt": f"Once upon a time, in village {index},", "max_tokens": DECODE_TOKENS,
            "temperature": 0, "ignore_eos": True})

    rates = {}
    for count in STREAMS_AT_A_TIME:
        answers = [None] * count
        threads = [threading.Thread(target=stream, args=(i, answers)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Started within milliseconds of each other, so one clock is near enough.
        begin = max(a.token_times[0] for a in answers)
        end = min(a.token_times[-1] for a in answers)
        tokens = sum(sum(begin < t <= end for t in a.token_times) for a in answers)
        rates[count] = round(tokens / (end - begin), 1)
    return rates


def prefill_rate(answers):
    """Tokens a second of the full recompute, by the worker's own clock."""
    return statistics.median(
        a.usage["prompt_tokens"] / a.tessera["prefill_ms"] * 1e3 for a in answers
    )


def run(arguments):
    cluster = Cluster(arguments.model)
    try:
        say(f"starting the three programs with {arguments.model}")
        client = cluster.serve(threads=arguments.threads)
        words = int(arguments.tokens / arguments.chunks * words_per_token(client, arguments.model))
        prompts = Prompts(arguments.model, " # # ", arguments.chunks, words, os.urandom(8).hex())
        # Chunks are stored after the first token is out, and an answer here is a few tokens long.
        answers = measure(client, prompts, arguments.repeats, lambda: time.sleep(1), say)
        worker = next(p for p in cluster.processes if p.kind == "worker")
        return {
            "bench": "serving",
            "model": arguments.model,
            **summary(answers),
            "prefill_tokens_per_s": round(prefill_rate(answers["exact"])),
            "decode_tokens_per_s": round(decode_rate(client, arguments.model, 3), 1),
            "decode_tokens_per_s_by_streams": decode_rates(client, arguments.model),
            "worker_peak_mb": round(worker.peak_bytes() / 1e6),
            **processor(),
        }
    finally:
        cluster.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
