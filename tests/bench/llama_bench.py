#!/usr/bin/env python3
"""Full prefill and decode beside llama.cpp: the same model, ids and number of threads, in turns.

usage: llama_bench.py [--model NAME] [--tokens 512,2000] [--decode 64] [--rounds 5] [--threads 0]

llama.cpp (PyPI's llama-cpp-python, built here from source on the first run: some ten minutes) reads the GGUF file that
deploy/models/fetch.sh downloaded, in Q4_1: 4-bit weights. The worker reads what the importer made of it, in bf16, and
multiplies in bf16 where the processor can and in f32 otherwise. So neither is the other's best case: decode reads all
weights for every token, and Q4_1 has a third of the bytes; prefill is arithmetic, to which 4-bit weights add work.
llama.cpp's threads wait for each other by spinning: on a machine that runs anything else it loses far more than its
share, and the ratios mean nothing. The output says when that was so.

Prefill is the time from ids to the first token (the worker's own clock; llama.cpp's eval call). Decode is greedy in the
worker; llama.cpp is given ids, which spares it sampling. Medians; ratios above 1 say that the worker is faster. The last
line is one line of JSON. Build first: bazel build //:tessera_worker
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "eval"), str(HERE.parent / "integration")]
import eval_venv  # noqa: E402  (needs the path above)

eval_venv.enter("llama_venv", HERE / "llama_requirements.txt")

import llama_cpp  # noqa: E402
from cluster import DEFAULT_MODEL, Cluster  # noqa: E402
from machine_load import MachineLoad, warn  # noqa: E402
from serving_bench import processor  # noqa: E402
from worker import Worker, messages  # noqa: E402

BEHIND = 128  # tokens of the prompt that is decoded behind


def say(text):
    print(f"llama_bench: {text}", file=sys.stderr, flush=True)


def made_up(seed, count, vocab):
    """Ids without those of markers, which models have at either end of their vocabulary."""
    draw = random.Random(seed)
    return [draw.randrange(1000, vocab - 2000) for _ in range(count)]


class Ours:
    name = "tessera"

    def __init__(self, worker):
        self.worker = worker
        self.blend = messages.BlendOptions(mode=messages.OFF)

    def generate(self, ids, tokens):
        request = messages.GenerateRequest(
            segments=[messages.Segment(token_ids=ids)],
            blend=self.blend,
            max_tokens=tokens,
            ignore_eos=True,
        )
        times, started = [], None
        for event in self.worker.stub.Generate(request, timeout=600):
            if event.HasField("started"):
                started = event.started
            if event.HasField("token"):
                times.append(time.perf_counter())
        return started, times

    def prefill(self, ids):
        return self.generate(ids, 1)[0].prefill_us / 1e6

    def decode(self, ids, tokens):
        times = self.generate(ids, tokens + 1)[1]
        return (times[-1] - times[0]) / tokens


class Theirs:
    name = "llama.cpp"

    def __init__(self, path, longest, threads):
        self.llama = llama_cpp.Llama(
            str(path),
            n_ctx=longest,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def prefill(self, ids):
        self.llama.reset()
        start = time.perf_counter()
        self.llama.eval(ids)
        return time.perf_counter() - start

    def decode(self, ids, tokens):
        self.prefill(ids)
        start = time.perf_counter()
        for i in range(tokens):
            self.llama.eval([ids[i % len(ids)]])
        return (time.perf_counter() - start) / tokens


def measure(sides, arguments, vocab):
    """{side: {"prefill": {tokens: [seconds]}, "decode": [seconds a token]}}"""
    found = {s.name: {"prefill": {n: [] for n in arguments.tokens}, "decode": []} for s in sides}
    for round_number in range(-1, arguments.rounds):
        for n in arguments.tokens:
            ids = made_up(f"{round_number}/{n}", n, vocab)
            for side in sides:
                found[side.name]["prefill"][n].append(side.prefill(ids))
        ids = made_up(f"{round_number}/decode", BEHIND, vocab)
        for side in sides:
            found[side.name]["decode"].append(side.decode(ids, arguments.decode))
        if round_number < 0:  # weights come from disk, memory is taken
            for figures in found.values():
                figures["decode"].clear()
                for seconds in figures["prefill"].values():
                    seconds.clear()
            continue
        say(
            f"round {round_number + 1} of {arguments.rounds}: "
            + ", ".join(
                f"{name} {n / figures['prefill'][n][-1]:.0f} tokens/s at {n}"
                for name, figures in found.items()
                for n in arguments.tokens
            )
            + ", decode "
            + ", ".join(f"{name} {1 / f['decode'][-1]:.1f}" for name, f in found.items())
        )
    return found


def run(arguments):
    cluster = Cluster(arguments.model)
    try:
        gguf = pathlib.Path(cluster.folder).parents[1] / "downloads" / f"{arguments.model}.gguf"
        if not gguf.exists():
            sys.exit(
                f"llama_bench: {gguf} is not there: fetch the model with deploy/models/fetch.sh {arguments.model}"
            )
        threads = arguments.threads or os.cpu_count()
        longest = max(*arguments.tokens, BEHIND + arguments.decode) + 64
        worker = Worker(cluster.worker("", threads=threads, max_len=longest).address)
        model = worker.model()
        sides = [Ours(worker), Theirs(gguf, longest, threads)]
        machine = MachineLoad([p.child.pid for p in cluster.processes])
        found = measure(sides, arguments, model.vocab_size)
        quiet = machine.report()
        warn(quiet, say)
        ours, theirs = found[Ours.name], found[Theirs.name]
        prefill = {}
        for n in arguments.tokens:
            rates = [n / statistics.median(side["prefill"][n]) for side in (ours, theirs)]
            prefill[n] = {
                "tessera_tokens_per_s": round(rates[0], 1),
                "llama_tokens_per_s": round(rates[1], 1),
                "ratio": round(rates[0] / rates[1], 2),
            }
        rates = [1 / statistics.median(side["decode"]) for side in (ours, theirs)]
        decode = {
            "tessera_tokens_per_s": round(rates[0], 1),
            "llama_tokens_per_s": round(rates[1], 1),
            "ratio": round(rates[0] / rates[1], 2),
        }
        return {
            "bench": "llama",
            "date": time.strftime("%Y-%m-%d"),
            "model": arguments.model,
            "threads": threads,
            "device": model.device,
            "llama_weights": "Q4_1",
            "llama_cpp_python": llama_cpp.__version__,
            "prefill": prefill,
            "decode": decode,
            "rounds": arguments.rounds,
            **quiet,
            **processor(),
        }
    finally:
        cluster.close()


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default=DEFAULT_MODEL)
    p.add_argument("--tokens", type=lambda t: [int(n) for n in t.split(",")], default=[512, 2000])
    p.add_argument("--decode", type=int, default=64)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=0)
    result = run(p.parse_args())
    say(f"llama.cpp's weights are Q4_1, the worker's bf16 ({result['device']})")
    for n, figures in result["prefill"].items():
        say(
            f"prefill of {n} tokens: {figures['tessera_tokens_per_s']} against {figures['llama_tokens_per_s']} tokens/s: "
            f"{figures['ratio']}x"
        )
    figures = result["decode"]
    say(
        f"decode: {figures['tessera_tokens_per_s']} against {figures['llama_tokens_per_s']} tokens/s: {figures['ratio']}x"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
