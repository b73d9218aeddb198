#!/usr/bin/env python3
"""Full prefill and decode beside llama.cpp: the same model, ids and number of threads, in turns.

usage: llama_bench.py [--model NAME] [--tokens 512,2000] [--decode 64] [--rounds 5] [--threads 0]

llama.cpp (PyPI's llama-cpp-python, built here from source on the first run: some ten minutes) reads the GGUF file that
deploy/models/fetch.sh downloaded, in Q4_1: 4-bit weights. The worker reads what the importer made of it, in bf16, and
multiplies in bf16 where the processor can and in f32 otherwise. So neither is the other's best case: decode reads all
weights for every token, and Q4_1 has a third of the bytes; prefill is arithmetic, to which 4-bit weights add work.
llama.cpp's threads wait for each other by spinning: on a machine that runs anything else it loses far more than its
share, and the ratios mean nothing. The output says when that was so. With --threads 1 the ratios by processor time hold
on a busy machine too, more or less: nobody spins.

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
from machine_load import MachineLoad, ticks_of, warn  # noqa: E402
from serving_bench import processor  # noqa: E402
from worker import Worker, messages  # noqa: E402

BEHIND = 128  # tokens of the prompt that is decoded behind


def say(text):
    print(f"llama_bench: {text}", file=sys.stderr, flush=True)


def made_up(seed, count, vocab):
    """Ids without those of markers, which models have at either end of their vocabulary."""
    draw = random.Random(seed)
    return [draw.randrange(1000, vocab - 2000) for _ in range(count)]


class Clock:
    """Seconds on the wall, and of processor time of the process that computes, since it was made."""

    def __init__(self, processor_seconds):
        self.processor_seconds = processor_seconds
        self.start = time.perf_counter(), processor_seconds()

    def read(self, share=1):
        wall, own = self.start
        return (time.perf_counter() - wall) / share, (self.processor_seconds() - own) / share


class Ours:
    name = "tessera"

    def __init__(self, process):
        self.worker, self.pid = Worker(process.address), process.child.pid
        self.blend = messages.BlendOptions(mode=messages.OFF)

    def processor_seconds(self):
        return ticks_of(self.pid) / os.sysconf("SC_CLK_TCK")

    def generate(self, ids, tokens):
        """-> microseconds of the prefill, Clock from the first token on."""
        request = messages.GenerateRequest(
            segments=[messages.Segment(token_ids=ids)],
            blend=self.blend,
            max_tokens=tokens,
            ignore_eos=True,
        )
        started = clock = None
        for event in self.worker.stub.Generate(request, timeout=600):
            if event.HasField("started"):
                started = event.started
            if event.HasField("token") and clock is None:
                clock = Clock(self.processor_seconds)
        return started.prefill_us, clock

    def prefill(self, ids):
        clock = Clock(self.processor_seconds)
        microseconds = self.generate(ids, 1)[0]
        return microseconds / 1e6, clock.read()[1]

    def decode(self, ids, tokens):
        return self.generate(ids, tokens + 1)[1].read(tokens)


class Theirs:
    name = "llama"

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
        clock = Clock(time.process_time)
        self.llama.eval(ids)
        return clock.read()

    def decode(self, ids, tokens):
        self.prefill(ids)
        clock = Clock(time.process_time)
        for i in range(tokens):
            self.llama.eval([ids[i % len(ids)]])
        return clock.read(tokens)


def measure(sides, arguments, vocab):
    """{(what, tokens): {side: [(seconds, processor seconds)]}}, all in turns; decode's are of one token."""
    work = [("prefill", n, lambda side, ids: side.prefill(ids)) for n in arguments.tokens]
    work.append(("decode", BEHIND, lambda side, ids: side.decode(ids, arguments.decode)))
    found = {(what, n): {side.name: [] for side in sides} for what, n, _ in work}
    for round_number in range(-1, arguments.rounds):
        said = []
        for what, n, run_ in work:
            ids = made_up(f"{round_number}/{what}/{n}", n, vocab)
            for side in sides:
                seconds = run_(side, ids)
                said.append(f"{side.name} {what} {(n if what == 'prefill' else 1) / seconds[0]:.1f}")
                if round_number >= 0:  # before, weights come from disk and memory is taken
                    found[what, n][side.name].append(seconds)
        say(f"round {round_number + 1} of {arguments.rounds}: {', '.join(said)} tokens/s")
    return found


def rates(by_side, tokens):
    """Tokens a second of both, the ratio ours over theirs, and the same by processor time."""
    figures = {}
    for i, suffix in enumerate(("", "_by_processor_time")):
        each = {
            name: tokens / max(statistics.median(s[i] for s in seconds), 1e-9)
            for name, seconds in by_side.items()
        }
        for name, rate in each.items():
            figures[f"{name}_tokens_per_s{suffix}"] = round(rate, 1)
        figures[f"ratio{suffix}"] = round(each[Ours.name] / each[Theirs.name], 2)
    return figures


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
        process = cluster.worker("", threads=threads, max_len=longest)
        sides = [Ours(process), Theirs(gguf, longest, threads)]
        model = sides[0].worker.model()
        machine = MachineLoad([process.child.pid])
        found = measure(sides, arguments, model.vocab_size)
        quiet = machine.report()
        warn(quiet, say)
        return {
            "bench": "llama",
            "date": time.strftime("%Y-%m-%d"),
            "model": arguments.model,
            "threads": threads,
            "device": model.device,
            "llama_weights": "Q4_1",
            "llama_cpp_python": llama_cpp.__version__,
            "prefill": {n: rates(found["prefill", n], n) for n in arguments.tokens},
            "decode": rates(found["decode", BEHIND], 1),
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
    shown = {f"prefill of {n} tokens": f for n, f in result["prefill"].items()}
    for what, f in {**shown, "decode": result["decode"]}.items():
        say(
            f"{what}: {f['tessera_tokens_per_s']} against {f['llama_tokens_per_s']} tokens/s, {f['ratio']}x; "
            f"by processor time {f['ratio_by_processor_time']}x"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
