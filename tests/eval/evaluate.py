#!/usr/bin/env python3
"""How faithful a blend is to a full recompute, and what it costs: a table by sink, policy, ratio and correction.

usage: evaluate.py CASES.json [--limit 20] [--passages 10] [--passage-tokens 0] [--model NAME | --worker HOST:PORT
       --folder MODEL_FOLDER] [--policies ...] [--ratios ...] [--correction on,off] [--sinks bos] [--out FOLDER]

CASES.json is a list of {"ctxs": [{"title", "text"}], "question", "answers"}. A cache server and one worker for each
sink are started on free ports; --worker uses a running one, with the sink that it was started with. For every case the
worker recomputes the whole prompt and answers greedily; then it blends the prompt from chunks that the cache server
holds, once with the same answer forced upon it (teacher forcing) and once free.

Columns, over the first token or the first 16 of the full recompute's own answer:
  KL1, KL16    KL(full || blend) in nats: mean over cases; median and worst over tokens. From the 16,384 likeliest
               tokens of both and one outcome for all others: a lower bound, .3 % below the exact KL on SmolLM2 (from
               1,024 it would be 5 % below); tessera_worker --calibrate has the exact one
  top1         share of those tokens that the blend would have chosen too
  same         share of greedy answers that are identical
  F1full, F1gold   token F1 of the greedy answer against the full recompute's and against the data set's
  rows         share of the prompt's rows that are recomputed, the question apart; the hkvd policies compute every row
               of the layers up to the check layer, which is counted
  TTFT         from the request to the first token at the worker's gRPC, chunks resident, median, and as a share of the
               full recompute's
FOLDER (default: ~/.cache/tessera/eval) gets evaluation.json, with every case's figures, and evaluation.png. Build
first: bazel build //:tessera_cache_server //:tessera_worker
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

import eval_venv

eval_venv.enter()

from cases import BadCases, prompts  # noqa: E402
from fidelity import compare, frontier, summarize, token_f1  # noqa: E402
from worker import Worker, WorkerError, blend_options  # noqa: E402

sys.path.insert(0, str(eval_venv.REPO / "tests" / "integration"))
from cluster import DEFAULT_MODEL, Cluster  # noqa: E402

FORCED = 16
SINKS = ("bos", "lead", "none")
# Policies that take no ratio, and those after which there is nothing to correct.
WITHOUT_RATIO = ("none", "full", "first_k")
WITHOUT_CORRECTION = ("none", "full")


def say(text):
    print(f"evaluate: {text}", file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, steps):
        self.steps, self.done, self.start, self.said = steps, 0, time.monotonic(), 0.0

    def step(self, what):
        self.done += 1
        now = time.monotonic()
        left = (now - self.start) / self.done * (self.steps - self.done)
        filled = 30 * self.done // self.steps
        line = f"[{'#' * filled}{'.' * (30 - filled)}] {self.done} of {self.steps}, {left:.0f} s left: {what}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="" if self.done < self.steps else "\n", file=sys.stderr, flush=True)
        elif now - self.said > 15 or self.done == self.steps:
            self.said = now
            say(line)


def candidates(arguments):
    """-> [(policy, ratio, correction)]"""
    for policy in arguments.policies:
        for ratio in [1.0 if policy == "full" else 0.0] if policy in WITHOUT_RATIO else arguments.ratios:
            for correction in arguments.correction:
                if not correction or policy not in WITHOUT_CORRECTION:
                    yield policy, ratio, correction


def row_share(policy, generated, layers, check_layer=1):
    share = generated.chosen / generated.tokens
    if policy.startswith("hkvd"):
        share += (1 - share) * (check_layer + 1) / layers
    return share


class Evaluation:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.prompts, self.text = prompts(
            arguments.cases, arguments.limit, folder, arguments.passages, arguments.passage_tokens
        )
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.layers = json.load(f)["num_hidden_layers"]
        self.candidates = list(candidates(arguments))
        sinks = 1 if arguments.worker else len(arguments.sinks)
        self.progress = Progress(sinks * len(self.prompts) * (1 + len(self.candidates)))
        self.full = {}  # by case: the same whatever the sink
        self.records = {}  # by (sink, policy, ratio, correction), a list by case
        self.model = None

    def run(self, sink, worker):
        self.model = worker.model()
        for number, (case, segments) in enumerate(self.prompts):
            tokens = sum(map(len, segments))
            if tokens + self.arguments.new > self.model.max_len:
                raise WorkerError(
                    f"case {number} has {tokens} tokens, but prompt and answer may have {self.model.max_len}: "
                    f"lower --passages or --passage-tokens"
                )
            if number not in self.full:
                self.full[number] = worker.full(segments, self.arguments.new)
            worker.make_resident(segments)
            self.progress.step(f"case {number + 1}, {tokens} tokens, resident")
            for candidate in self.candidates:
                record = self.one(worker, case, segments, self.full[number], candidate)
                self.records.setdefault((sink, *candidate), []).append(record)
                self.progress.step(f"case {number + 1}, {candidate[0]}")

    def one(self, worker, case, segments, full, candidate):
        blend = blend_options(*candidate)
        greedy = worker.generate(segments, blend, self.arguments.new)
        tops, wanted = greedy.tops[:FORCED], full.ids[:FORCED]
        if greedy.ids[: len(wanted)] != wanted:
            forced = worker.generate(segments, blend, len(wanted), forced=wanted)
            tops, ttft = forced.tops, (greedy.ttft + forced.ttft) / 2
        else:
            ttft = greedy.ttft  # its own answer was the forced one
        text = self.text.decode(self.without_end(greedy.ids))
        return {
            **compare(full.tops[:FORCED], tops, greedy.ids == full.ids),
            "f1_full": token_f1(text, self.text.decode(self.without_end(full.ids))),
            "f1_gold": max(token_f1(text, gold) for gold in case.answers),
            "rows": row_share(candidate[0], greedy, self.layers),
            "ttft_ms": 1e3 * ttft,
            "resident": greedy.resident(),
        }

    def without_end(self, ids):
        return ids[:-1] if ids and ids[-1] in self.model.eos_token_ids else ids

    def report(self):
        full_ms = 1e3 * statistics.median(f.ttft for f in self.full.values())
        rows = []
        for (sink, policy, ratio, correction), records in self.records.items():
            row = {"sink": sink, "policy": policy, "ratio": ratio, "correction": correction}
            rows.append({**row, **summarize(records), "records": records})
            rows[-1]["ttft_share"] = rows[-1]["ttft_ms"] / full_ms
        best = {id(row) for row in frontier(rows)}
        for row in rows:
            row["on_frontier"] = id(row) in best
        gold = [
            max(token_f1(self.text.decode(self.without_end(self.full[n].ids)), g) for g in case.answers)
            for n, (case, _) in enumerate(self.prompts)
        ]
        return {
            "bench": "evaluate",
            "date": time.strftime("%Y-%m-%d"),
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "device": self.model.device,
            "cores": os.cpu_count(),
            "data": os.path.basename(self.arguments.cases),
            "cases": len(self.prompts),
            "tokens": round(statistics.fmean(sum(map(len, s)) for _, s in self.prompts)),
            "full": {"ttft_ms": full_ms, "f1_gold": statistics.fmean(gold)},
            "rows": rows,
        }


def print_table(report):
    full = report["full"]
    print(
        f"{report['model']} on {report['device']}, {report['cores']} cores, {report['date']}: {report['cases']} cases of "
        f"{report['data']}, {report['tokens']} tokens each on average"
    )
    print(
        f"{'sink':5} {'policy':14} {'ratio':>5} {'corr':>4} {'KL1':>8} {'KL16':>8} {'median':>8} {'worst':>8} {'top1':>5} "
        f"{'same':>5} {'F1full':>6} {'F1gold':>6} {'rows':>5} {'TTFT ms':>8} {'share':>5}"
    )
    print(
        f"{'-':5} {'full recompute':14} {'':5} {'':4} {0:8.4f} {0:8.4f} {0:8.4f} {0:8.4f} {1:5.3f} {1:5.3f} {1:6.3f} "
        f"{full['f1_gold']:6.3f} {1:5.3f} {full['ttft_ms']:8.0f} {1:5.2f}"
    )
    for r in report["rows"]:
        ratio = "" if r["policy"] in WITHOUT_RATIO else f"{r['ratio']:.2f}"
        print(
            f"{r['sink']:5} {r['policy']:14} {ratio:>5} {'yes' if r['correction'] else 'no':>4} {r['kl1_mean']:8.4f} "
            f"{r['kl16_mean']:8.4f} {r['kl16_median']:8.4f} {r['kl16_worst']:8.3f} {r['top1']:5.3f} {r['same']:5.3f} "
            f"{r['f1_full']:6.3f} {r['f1_gold']:6.3f} {r['rows']:5.3f} {r['ttft_ms']:8.0f} {r['ttft_share']:5.2f}"
            f"{' *' if r['on_frontier'] else ''}"
        )
    print("* on the efficient frontier of KL16 over TTFT: nothing here is both faster and closer")


def evaluate(arguments):
    if arguments.worker:
        evaluation = Evaluation(arguments, arguments.folder)
        worker = Worker(arguments.worker)
        evaluation.run("-", worker)
        worker.close()
        return evaluation.report()
    cluster = Cluster(arguments.model)
    try:
        evaluation = Evaluation(arguments, cluster.folder)
        cache = cluster.cache(ram_bytes=arguments.ram_bytes)
        for sink in arguments.sinks:
            process = cluster.worker(
                cache.address, sink=sink, threads=arguments.threads, max_len=arguments.max_len
            )
            worker = Worker(process.address)
            evaluation.run(sink, worker)
            worker.close()
            process.stop()
        return evaluation.report()
    finally:
        cluster.close()


def names(text):
    return [name for name in text.split(",") if name]


def switches(text):
    states = {"on": True, "off": False}
    return [states[name] for name in names(text)]


def parse():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("cases")
    p.add_argument("--limit", type=int, default=20, help="cases; 0: all")
    p.add_argument("--passages", type=int, default=10, help="passages of each case")
    p.add_argument("--passage-tokens", type=int, default=0, help="cut each passage; 0: whole")
    p.add_argument("--new", type=int, default=24, help="tokens of an answer")
    p.add_argument("--policies", type=names, default=names("full,none,first_k,hkvd_v,query_v"))
    p.add_argument("--ratios", type=lambda t: [float(x) for x in names(t)], default=[0.05, 0.15, 0.3, 0.5])
    p.add_argument("--correction", type=switches, default=[False, True], help="on, off, or both")
    p.add_argument("--sinks", type=names, default=["bos"], help="of " + ",".join(SINKS))
    p.add_argument("--model", default=DEFAULT_MODEL)
    p.add_argument("--worker", help="address of a running worker with a cache server behind it")
    p.add_argument("--folder", help="the folder of its model")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--max-len", type=int, default=8192)
    p.add_argument("--ram-bytes", type=int, default=2 << 30, help="of the cache server")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    p.add_argument("--out", type=pathlib.Path, default=cache / "tessera" / "eval")
    arguments = p.parse_args()
    if arguments.worker and not arguments.folder:
        p.error("--worker needs --folder, the folder of the model that it serves")
    unknown = [s for s in arguments.sinks if s not in SINKS]
    if unknown:
        p.error(f"--sinks: {unknown[0]} is none of {', '.join(SINKS)}")
    if not list(candidates(arguments)):
        p.error("nothing to evaluate: give at least one policy, ratio and state of correction")
    return arguments


def main():
    arguments = parse()
    try:
        report = evaluate(arguments)
    except (BadCases, WorkerError) as e:
        sys.exit(f"evaluate: {e}")
    from plot import plot

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "evaluation.json").write_text(json.dumps(report))
    plot(report, arguments.out / "evaluation.png")
    print_table(report)
    say(f"{arguments.out}/evaluation.json and evaluation.png")


if __name__ == "__main__":
    main()
