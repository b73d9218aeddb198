#!/usr/bin/env python3
"""How much memory, disk and how many workers a load needs: prints every number with its formula and inputs.

usage: capacity.py --model FOLDER | --layers N --kv-heads N --head-dim N   [options]

What is known goes in, what follows from it comes out; a part whose inputs are missing is left out:
  sizes                 from the model and --documents, --document-tokens
  a prompt, its KV      from --passages, --question-tokens, --answer-tokens too
  pull, blend, prefill  from --prefill-tokens-per-s too
  workers               from --rate and --decode-tokens-per-s too
GB and MB are powers of ten, GiB and MiB powers of two. deploy/guides/capacity.md explains the formulas and holds them
against measurements.
"""
import argparse
import json
import math
import os
import sys

BYTES = {"bf16": 2, "f16": 2, "f32": 4, "fp8": 1}
PAGE = 4096  # a piece takes whole pages of the cache server's memory: its slices, then a checksum a layer
CHECKSUM = 8
BLOCK = 64  # positions in a block of a worker's KV memory
EVICT_FROM = 0.9  # the cache server's default: entries fill at most this share of --ram_bytes
DISK_SHARE = 0.72  # and this one of --disk_bytes; the rest is RocksDB's, until blob files are rewritten
# Measured on the H100 of gpu_worker/README.md: from the host's memory, and gRPC over one connection.
LINKS = {"shared memory": 50.0, "gRPC, one connection": 2.8}


class BadInput(Exception):
    """What is wrong with the command line, and what to give."""


def positive(kind):
    def parse(text):
        value = kind(text)
        if not value > 0 or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def link(text):
    name, _, speed = text.rpartition("=")
    try:
        return name, positive(float)(speed)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=GB_PER_SECOND, such as ethernet=3") from None


def parse_arguments(words):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    whole, real = positive(int), positive(float)
    parser.add_argument("--model", help="model folder with config.json; its *.safetensors are the weights")
    parser.add_argument("--layers", type=whole)
    parser.add_argument("--kv-heads", type=whole)
    parser.add_argument("--head-dim", type=whole)
    parser.add_argument("--dtype", choices=sorted(BYTES), default="bf16", help="of cached KV; workers store bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="a worker's own KV: f32 or bf16")
    parser.add_argument("--piece", type=whole, default=256, help="tokens of a piece: chunk_size of the workers (256)")
    parser.add_argument("--documents", type=whole, default=1000, help="different passages (1000)")
    parser.add_argument("--document-tokens", type=whole, default=512, help="tokens of one (512)")
    parser.add_argument("--hot-share", type=share, default=1.0, help="of them that shall be in memory (1)")
    parser.add_argument("--passages", type=whole, default=8, help="in a prompt (8)")
    parser.add_argument("--question-tokens", type=whole, default=64, help="template, system prompt, question (64)")
    parser.add_argument("--answer-tokens", type=whole, default=128)
    parser.add_argument("--running", type=whole, default=32, help="requests at a time on a worker (max_running, 32)")
    parser.add_argument("--card-bytes", type=real, help="memory of the card, bytes: what is left for KV and chunks")
    parser.add_argument("--prefill-tokens-per-s", type=real, help="of one worker, full prefill, measured")
    parser.add_argument("--ratio", type=share, default=0.15, help="recompute_ratio (0.15)")
    parser.add_argument("--overhead", type=real, default=1.4, help="a blend's time over that of its rows (1.4)")
    parser.add_argument("--link", type=link, action="append", default=[], metavar="NAME=GB_PER_S",
                        help="one more way to the cache server; may be given again")
    parser.add_argument("--rate", type=real, help="requests a second, all workers together")
    parser.add_argument("--decode-tokens-per-s", type=real, help="of one worker, all its requests together, measured")
    parser.add_argument("--hit-share", type=share, default=0.9, help="of passage tokens that are in the cache (0.9)")
    parser.add_argument("--utilization", type=share, default=0.6, help="of a worker's time that is planned for (0.6)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser.parse_args(words)


def read_config(folder):
    """-> (layers, kv heads, head dim, bytes of the weights)"""
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        shape = config["num_hidden_layers"], config.get("num_key_value_heads") or heads, head_dim
        weights = sum(os.path.getsize(os.path.join(folder, n)) for n in os.listdir(folder) if n.endswith(".safetensors"))
    except OSError as e:
        raise BadInput(f"{path}: {e.strerror}: give a model folder, or --layers, --kv-heads and --head-dim") from e
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise BadInput(f"{path} is no model's configuration ({e!r}): give --layers, --kv-heads and --head-dim") from e
    if not all(isinstance(n, int) and n > 0 for n in shape):
        raise BadInput(f"{path}: layers, kv heads and head dim are {shape}: give --layers, --kv-heads and --head-dim")
    return (*shape, weights)


def shape_of(a):
    layers = kv_heads = head_dim = weights = 0
    if a.model:
        layers, kv_heads, head_dim, weights = read_config(a.model)
    shape = a.layers or layers, a.kv_heads or kv_heads, a.head_dim or head_dim
    if not all(shape):
        raise BadInput("the model is not known: give --model FOLDER, or --layers, --kv-heads and --head-dim")
    return (*shape, weights)


class Report:
    """Rows of (key, value, unit, formula), in sections; every number that was computed, in order."""

    def __init__(self):
        self.sections, self.values = [], {}

    def section(self, title):
        self.sections.append((title, []))

    def add(self, key, value, unit, formula):
        self.sections[-1][1].append((key, value, unit, formula))
        self.values[key] = value
        return value


def chunk_bytes(tokens, bytes_per_token):
    """KV of a chunk, as the cache server lists it: the slices of all its pieces."""
    return tokens * bytes_per_token


def chunk_memory(tokens, piece, layers, bytes_per_token):
    """What a chunk takes of the cache server's memory: whole pages for each piece, checksums included."""
    whole, rest = divmod(tokens, piece)
    pages = [-(-(n * bytes_per_token + layers * CHECKSUM) // PAGE) for n in (piece, rest)]
    return PAGE * (whole * pages[0] + (pages[1] if rest else 0))


def add_sizes(a, shape, report):
    layers, kv_heads, head_dim, _ = shape
    report.section("The cache server")
    token = report.add("kv_bytes_per_token", 2 * layers * kv_heads * head_dim * BYTES[a.dtype], "bytes",
                       f"2 (K, V) x {layers} layers x {kv_heads} kv heads x {head_dim} x {BYTES[a.dtype]} ({a.dtype})")
    report.add("layer_slice_bytes", token // layers * a.piece, "bytes", f"one layer of a piece of {a.piece} tokens")
    report.add("chunk_bytes", chunk_bytes(a.document_tokens, token), "bytes",
               f"{a.document_tokens} tokens x {token}: what /v1/chunks and tessera_ctl ls say")
    memory = report.add("chunk_memory_bytes", chunk_memory(a.document_tokens, a.piece, layers, token), "bytes",
                        "the same in whole pages, piece by piece, with a checksum a layer")
    report.add("library_bytes", a.documents * memory, "bytes", f"{a.documents} documents x chunk_memory_bytes")
    report.add("ram_bytes", math.ceil(a.hot_share * a.documents * memory / EVICT_FROM), "bytes",
               f"{a.hot_share:g} of the library / {EVICT_FROM} (evict_from): --ram_bytes")
    report.add("disk_bytes", math.ceil(a.documents * memory / DISK_SHARE), "bytes",
               f"all of the library / {DISK_SHARE}: --disk_bytes, if it shall survive restarts")


def add_worker_memory(a, shape, report):
    layers, kv_heads, head_dim, weights = shape
    size = BYTES["f32" if a.device == "cpu" else "bf16"]
    report.section("A worker's memory")
    tokens = report.add("prompt_tokens", a.passages * a.document_tokens + a.question_tokens, "tokens",
                        f"{a.passages} passages x {a.document_tokens} + {a.question_tokens}")
    slots = -(-(tokens + a.answer_tokens) // BLOCK) * BLOCK
    request = report.add("request_kv_bytes", slots * 2 * layers * kv_heads * head_dim * size, "bytes",
                         f"{slots} positions (blocks of {BLOCK}) x KV of a token at {size} bytes a value ({a.device})")
    report.add("kv_bytes", a.running * request, "bytes", f"{a.running} requests at a time: --kv_bytes at most")
    if weights:
        report.add("weight_bytes", weights, "bytes", "*.safetensors in the folder")
    if a.card_bytes:
        left = max(0, a.card_bytes - weights)
        report.add("card_kv_bytes", int(left / 2), "bytes", "a half of what the weights leave: --kv_bytes by default")
        report.add("card_requests", int(left / 2 // request), "requests", "card_kv_bytes / request_kv_bytes, at a time")
        report.add("card_pool_bytes", int(left / 8), "bytes", "an eighth of it: --chunk_pool_bytes by default")
        report.add("card_pool_documents", int(left / 8 // report.values["chunk_bytes"]), "documents",
                   "card_pool_bytes / chunk_bytes: passages that need no pull")


def add_times(a, report):
    v = report.values
    cached = a.passages * a.document_tokens
    report.section("A prompt whose passages are all cached")
    full = report.add("prefill_seconds", v["prompt_tokens"] / a.prefill_tokens_per_s, "seconds",
                      f"{v['prompt_tokens']} tokens / {a.prefill_tokens_per_s:g}")
    rows = report.add("computed_rows", math.ceil(a.ratio * cached) + 2 * a.question_tokens, "rows",
                      f"{a.ratio:g} x {cached} cached + the question twice (it chooses, then it is computed)")
    compute = report.add("blend_seconds", a.overhead * rows / a.prefill_tokens_per_s, "seconds",
                         f"{a.overhead:g} x {rows} / {a.prefill_tokens_per_s:g}, chunks in the worker's memory")
    pulled = report.add("pulled_bytes", cached * v["kv_bytes_per_token"], "bytes", f"{cached} tokens, nothing resident")
    for name, speed in [*LINKS.items(), *a.link]:
        pull = report.add(f"pull_seconds over {name}", pulled / (speed * 1e9), "seconds",
                          f"pulled_bytes / {speed:g} GB/s")
        better = "blend" if pull + compute < full else "full prefill is faster"
        report.add(f"ttft_seconds over {name}", pull + compute, "seconds", f"pull + blend_seconds: {better}")
    if compute < full:
        report.add("break_even_gb_per_s", pulled / (full - compute) / 1e9, "GB/s",
                   "pulled_bytes / (prefill_seconds - blend_seconds): a slower link is not worth it")


def add_workers(a, report):
    v = report.values
    report.section("Workers")
    mixed = report.add("mean_prefill_seconds",
                       a.hit_share * v["blend_seconds"] + (1 - a.hit_share) * v["prefill_seconds"], "seconds",
                       f"{a.hit_share:g} x blend_seconds + the rest x prefill_seconds")
    decode = report.add("mean_decode_seconds", a.answer_tokens / a.decode_tokens_per_s, "seconds",
                        f"{a.answer_tokens} tokens / {a.decode_tokens_per_s:g}: its part of shared decode steps")
    busy = f"{a.rate:g} requests/s x (%s + mean_decode_seconds) / {a.utilization:g} of a worker's time, rounded up"
    report.add("workers", math.ceil(a.rate * (mixed + decode) / a.utilization), "workers",
               busy % "mean_prefill_seconds")
    report.add("workers_without_reuse", math.ceil(a.rate * (v["prefill_seconds"] + decode) / a.utilization), "workers",
               busy % "prefill_seconds")


def compute(a):
    shape, report = shape_of(a), Report()
    add_sizes(a, shape, report)
    add_worker_memory(a, shape, report)
    if a.prefill_tokens_per_s:
        add_times(a, report)
    if a.rate or a.decode_tokens_per_s:
        if not (a.rate and a.decode_tokens_per_s and a.prefill_tokens_per_s):
            raise BadInput("workers follow from --rate, --decode-tokens-per-s and --prefill-tokens-per-s: give all three")
        if a.utilization == 0:
            raise BadInput("--utilization is 0: nothing can be served")
        add_workers(a, report)
    return report


def shown(value, unit):
    if unit == "bytes":
        for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:,} B"
    if unit == "seconds":
        return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.3g} {unit}" if isinstance(value, float) else f"{value} {unit}"


def main(words):
    arguments = parse_arguments(words)
    try:
        report = compute(arguments)
    except BadInput as e:
        print(f"capacity: {e}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps({"inputs": vars(arguments), **report.values}))
        return 0
    for title, rows in report.sections:
        print(title)
        for key, value, unit, formula in rows:
            print(f"  {key:<38} {shown(value, unit):>12}  = {formula}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
