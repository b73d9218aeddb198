#!/usr/bin/env python3
"""RAG traffic on this machine, with its own three programs: how many requests a second blending carries, and how many
a full recompute does, at the same bound on the time to the first token.

usage: load_bench.py [--model NAME] [--passages 200] [--tokens 100] [--per-prompt 6] [--zipf 1.0] [--answer 8]
       [--bound SECONDS] [--trial 30] [--requests 30] [--search 200] [--overload 45] [--queue 16] [--threads 0] [--seed 1]

Passages are computed ahead through /v1/chunks. Requests arrive as a Poisson process, whether or not earlier ones are
answered; each has PER_PROMPT different passages, drawn by Zipf's law, in random order, and a question of its own. Both
modes see the same passages, order and gaps between arrivals (stretched to the rate), on the same processes: "blend" is
a request without any wish, "full" has tessera.mode off. TTFT counts from the planned arrival.

A trial offers one rate until REQUESTS came and TRIAL seconds passed, and holds when at least 95 % of its requests had
their first token within BOUND (default: four times the lone full recompute's TTFT) and none was refused. The highest
rate that holds is found by halving the interval, for SEARCH seconds at most; it must hold once more, over other
requests, and is lowered until it does. Both are reported (searched, highest), and the ratio of each: far apart, they
say that the machine was unsteady. At last, blend gets twice its rate for OVERLOAD seconds: requests are answered, or
refused with 429 and Retry-After; anything else is lost, and lost requests make the exit code 1.

Trials are short: a p95 of 30 requests is the second largest value, and rates are found to about a tenth. Every trial
is on standard error and in the JSON, which is the last line. On two quiet cores with the default model it all takes
about ten minutes.
Build first: bazel build //:tessera_cache_server //:tessera_worker //:tessera_gateway
"""

import argparse
import http.client
import json
import math
import pathlib
import random
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from cluster import DEFAULT_MODEL, Cluster  # noqa: E402  (needs the path above)
from machine_load import MachineLoad, warn  # noqa: E402
from serving_bench import processor  # noqa: E402
from serving_client import ServerError, make_document, words_per_token  # noqa: E402

SEPARATOR = " # # "
PATH = "/v1/chat/completions"
MODES = {"full": {"mode": "off"}, "blend": {}}
QUANTILE = 0.95
INGEST = 20  # texts a call
# The search ends when the interval's ends are this near.
NEAR = 1.12
LONE = 5  # requests that measure the lone TTFT


def say(text):
    print(f"load_bench: {text}", file=sys.stderr, flush=True)


class Traffic:
    """The same requests and gaps each time it is asked with the same seed."""

    def __init__(self, arguments, model, words):
        self.arguments, self.model = arguments, model
        self.passages = [
            make_document(f"load/{arguments.seed}/{i}", words) for i in range(arguments.passages)
        ]
        self.weights = [1 / (rank + 1) ** arguments.zipf for rank in range(arguments.passages)]

    def draw(self, seed, count):
        """-> [(seconds after the one before at one request a second, body without a mode)]"""
        random_ = random.Random(f"{self.arguments.seed}/{seed}")
        return [(random_.expovariate(1), self.body(random_, seed, i)) for i in range(count)]

    def body(self, random_, seed, number):
        # Weighted, without putting back: the largest of u^(1/w) (Efraimidis and Spirakis, 2006).
        keys = [random_.random() ** (1 / w) for w in self.weights]
        chosen = sorted(range(len(keys)), key=lambda i: -keys[i])[: self.arguments.per_prompt]
        random_.shuffle(chosen)
        question = f"Which city is named in passage {number + 1} of list {seed}?"
        text = SEPARATOR.join([*(self.passages[i] for i in chosen), question])
        return {
            "model": self.model,
            "max_tokens": self.arguments.answer,
            "temperature": 0,
            "ignore_eos": True,
            "messages": [
                {"role": "system", "content": "You answer questions about passages."},
                {"role": "user", "content": text},
            ],
        }


class Outcome:
    def __init__(self):
        self.kind, self.ttft, self.answer, self.fault = "lost", math.inf, None, ""


def ask(client, body, planned, outcome):
    """Sends now what was planned for then; planned: time.perf_counter()."""
    try:
        connection, response = client.open_stream(PATH, body)
        if response.status == 429 and response.getheader("Retry-After"):
            outcome.kind = "refused"
        elif response.status == 200:
            outcome.answer = client.read_stream(response, planned)
            outcome.ttft, outcome.kind = outcome.answer.ttft, "answered"
        else:
            outcome.fault = f"{response.status} {response.read(200)!r}"
        connection.close()
    except (OSError, http.client.HTTPException, ServerError, IndexError, ValueError) as e:
        outcome.fault = f"{type(e).__name__}: {e}"


def offer(client, traffic, mode, rate, seed, least, seconds, hopeless=lambda outcomes: False):
    """One stretch of traffic -> ([Outcome], seconds from the first arrival to the last answer).

    Ends early once it is hopeless; what was sent is awaited all the same.
    """
    # More than enough: arrivals stop when both the number and the time are reached.
    trace = traffic.draw(seed, least + 10 + int(2 * rate * seconds))
    start = at = time.perf_counter()
    outcomes, threads = [], []
    for gap, body in trace:
        at += gap / rate
        if len(outcomes) >= least and at - start > seconds:
            break
        if hopeless(outcomes):
            break
        time.sleep(max(0.0, at - time.perf_counter()))
        outcome = Outcome()
        thread = threading.Thread(
            target=ask, args=(client, {**body, "tessera": MODES[mode]}, at, outcome)
        )
        thread.start()
        outcomes.append(outcome)
        threads.append(thread)
    for thread in threads:
        thread.join()
    return outcomes, time.perf_counter() - start


def quantile(values, q):
    """The smallest value that a share q of all does not exceed."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


class Trials:
    def __init__(self, client, traffic, arguments, bound):
        self.client, self.traffic, self.arguments, self.bound = client, traffic, arguments, bound
        self.rows, self.searched = [], {}

    def hold(self, mode, rate, seed="trial"):
        least = self.arguments.requests
        allowed = (1 - QUANTILE) * least

        def hopeless(outcomes):
            return sum(o.kind == "refused" or math.inf > o.ttft > self.bound for o in outcomes) > max(
                allowed, (1 - QUANTILE) * rate * self.arguments.trial
            )

        outcomes, elapsed = offer(
            self.client, self.traffic, mode, rate, seed, least, self.arguments.trial, hopeless
        )
        lost = [o for o in outcomes if o.kind == "lost"]
        if lost:
            raise ServerError(f"{mode} at {rate:.2f} requests/s lost {len(lost)}: {lost[0].fault}")
        p95 = quantile([o.ttft for o in outcomes], QUANTILE)
        refused = sum(o.kind == "refused" for o in outcomes)
        held = p95 <= self.bound and not refused
        row = {
            "mode": mode,
            "rate": round(rate, 3),
            "requests": len(outcomes),
            "refused": refused,
            "p50_s": round(quantile([o.ttft for o in outcomes], 0.5), 3),
            "p95_s": round(p95, 3),
            "throughput": round((len(outcomes) - refused) / elapsed, 3),
            "seconds": round(elapsed, 1),
            "held": held,
            "seed": seed,
        }
        self.rows.append(row)
        say(
            f"{mode:5} {rate:6.2f}/s: {len(outcomes):3} requests in {elapsed:5.1f} s, {refused} refused, TTFT p50 "
            f"{row['p50_s']:.2f} s, p95 {row['p95_s']:.2f} s: {'held' if held else 'not held'}"
        )
        return row

    def highest(self, mode, first):
        """The row of the highest rate that held over two lists of requests."""
        rate = self.searched[mode] = self.search(mode, first)["rate"]
        while rate > first / 20:
            row = self.hold(mode, rate, "again")
            if row["held"]:
                return row
            rate /= NEAR
        raise ServerError(f"{mode} holds no rate twice within {self.bound:.2f} s: raise --bound")

    def search(self, mode, first):
        """The last row that held: from `first` up or down by steps, then between, for as long as there is time."""
        low = high = None
        rate, end = first, time.monotonic() + self.arguments.search
        while low is None or high is None or high / low["rate"] > NEAR:
            if low is not None and time.monotonic() > end:
                say(f"{mode}: no time to look closer; perhaps more than {low['rate']:.2f}/s holds")
                break
            row = self.hold(mode, rate)
            if row["held"]:
                low = row
            else:
                high = rate
            if low is None and rate < first / 20:
                raise ServerError(f"{mode} holds no rate within {self.bound:.2f} s: raise --bound")
            rate = (
                rate / 1.6
                if low is None
                else rate * 1.6
                if high is None
                else math.sqrt(low["rate"] * high)
            )
        return low


def ingest(client, traffic):
    start, texts = time.perf_counter(), traffic.passages
    for i in range(0, len(texts), INGEST):
        status, reply = client.call("POST", "/v1/chunks", {"texts": texts[i : i + INGEST]})
        faults = [c for c in reply.get("data", [{"error": reply}]) if c.get("error")]
        if status != 200 or faults:
            raise ServerError(f"POST /v1/chunks: {status} {faults[:1]}")
        say(f"{min(i + INGEST, len(texts))} of {len(texts)} passages ingested")
    return time.perf_counter() - start


def lone(client, traffic):
    """{mode: [Answer]} of requests that have the machine to themselves."""
    answers = {mode: [] for mode in MODES}
    for number, (_, body) in enumerate(traffic.draw("lone", LONE + 1)):
        if number == 0:  # leaves in the cache what the template puts in front
            client.stream(PATH, {**body, "tessera": {"mode": "blend"}})
            continue
        for mode, wish in MODES.items():
            answers[mode].append(client.stream(PATH, {**body, "tessera": wish}))
    body = traffic.draw("check", 1)[0][1]
    check = client.stream(PATH, {**body, "tessera": {"mode": "blend"}})
    if set(check.sources()[1:-1]) != {"cache"}:
        raise ServerError(f"passages are not in the cache: {check.tessera}")
    say(f"blend chose {sorted({a.tessera['policy'] for a in answers['blend']})}")
    return answers


def overload(client, traffic, rate, seconds):
    outcomes, elapsed = offer(client, traffic, "blend", rate, "overload", 1, seconds)
    count = {k: sum(o.kind == k for o in outcomes) for k in ("answered", "refused", "lost")}
    for outcome in [o for o in outcomes if o.kind == "lost"][:5]:
        say(f"lost: {outcome.fault}")
    ttfts = [o.ttft for o in outcomes if o.kind == "answered"]
    after = client.stream(PATH, {**traffic.draw("after", 1)[0][1], "tessera": {}})
    say(f"overload at {rate:.2f}/s for {seconds} s: {count}")
    return {
        "rate": round(rate, 3),
        "requests": len(outcomes),
        **count,
        "throughput": round(count["answered"] / elapsed, 3),
        "answered_p95_s": round(quantile(ttfts, QUANTILE), 3) if ttfts else None,
        "ttft_after_s": round(after.ttft, 3),
    }


def run(arguments):
    begin = time.perf_counter()
    cluster = Cluster(arguments.model)
    try:
        cache = cluster.cache(ram_bytes=arguments.ram_bytes)
        worker = cluster.worker(cache.address, threads=arguments.threads, queue=arguments.queue)
        client = cluster.client(cluster.gateway(worker, separator=SEPARATOR, cache=cache.address))
        machine = MachineLoad([p.child.pid for p in cluster.processes])
        words = int(arguments.tokens * words_per_token(client, arguments.model))
        traffic = Traffic(arguments, arguments.model, words)
        ingested = ingest(client, traffic)
        alone = lone(client, traffic)
        ttft = {m: statistics.median(a.ttft for a in answers) for m, answers in alone.items()}
        whole = {m: statistics.median(a.done for a in answers) for m, answers in alone.items()}
        bound = arguments.bound or 4 * ttft["full"]
        say(
            f"alone: full {ttft['full']:.2f} s, blend {ttft['blend']:.2f} s to the first token; bound {bound:.2f} s"
        )
        trials = Trials(client, traffic, arguments, bound)
        best = {mode: trials.highest(mode, 0.7 / whole[mode]) for mode in MODES}
        overloaded = overload(client, traffic, 2 * best["blend"]["rate"], arguments.overload)
        quiet = machine.report()
        warn(quiet, say)
        return {
            "bench": "load",
            "date": time.strftime("%Y-%m-%d"),
            "model": arguments.model,
            "prompt_tokens": alone["blend"][0].usage["prompt_tokens"],
            **{k: getattr(arguments, k) for k in ("passages", "per_prompt", "zipf", "answer", "queue")},
            "ingest_s": round(ingested, 1),
            "bound_p95_s": round(bound, 3),
            **{f"alone_ttft_{m}_s": round(ttft[m], 3) for m in MODES},
            **{f"highest_{m}_per_s": best[m]["rate"] for m in MODES},
            **{f"searched_{m}_per_s": trials.searched[m] for m in MODES},
            "searched_ratio": round(trials.searched["blend"] / trials.searched["full"], 2),
            "ratio": round(best["blend"]["rate"] / best["full"]["rate"], 2),
            "overload": overloaded,
            "trials": trials.rows,
            **quiet,
            "seconds": round(time.perf_counter() - begin),
            **processor(),
        }
    finally:
        cluster.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100, help="of each passage, about")
    parser.add_argument("--per-prompt", type=int, default=6, help="passages of a prompt")
    parser.add_argument("--zipf", type=float, default=1.0, help="exponent")
    parser.add_argument("--answer", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--bound", type=float, default=0, help="seconds; 0: 4 x the full TTFT")
    parser.add_argument("--trial", type=float, default=30, help="seconds of a trial, at least")
    parser.add_argument("--requests", type=int, default=30, help="of a trial, at least")
    parser.add_argument(
        "--search", type=float, default=200, help="seconds after which a mode's search ends with what it has"
    )
    parser.add_argument("--overload", type=float, default=45, help="seconds")
    parser.add_argument("--queue", type=int, default=16, help="requests that wait in the worker")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ram-bytes", type=int, default=2 << 30, help="of the cache server")
    arguments = parser.parse_args()
    if arguments.passages < arguments.per_prompt:
        parser.error("--passages must be at least --per-prompt")
    try:
        result = run(arguments)
    except ServerError as e:
        sys.exit(f"load_bench: {e}")
    print(json.dumps(result))
    if result["overload"]["lost"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
