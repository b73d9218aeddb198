#!/usr/bin/env python3
"""Measures a running Tessera: what does it save when known documents come in another order?

Run it in a second terminal while deploy/start_serving.sh serves. It prints the time to the first token (TTFT) of
  exact      a full recompute of the prompt, nothing read from the cache
  cold       the same documents, seen for the first time by the cache
  reordered  the same documents in another order, all of them known
and ends with 1 when the reordered prompt is not at least 1.5 times faster than the full recompute.
"""
import argparse
import json
import os
import sys
import time

from serving_client import Client, Prompts, ServerError, measure, summary, words_per_token

LEAST_SPEEDUP = 1.5


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=f"http://127.0.0.1:{os.environ.get('PORT', '8000')}")
    parser.add_argument("--chunks", type=int, default=8, help="documents in a prompt (8)")
    parser.add_argument(
        "--tokens", type=int, default=2000, help="tokens of all documents together, about (2000)"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds, each with new documents (5)"
    )
    parser.add_argument(
        "--separator",
        default=os.environ.get("LMCACHE_BLEND_SPECIAL_STR", " # # "),
        help="as the server was started with (environment LMCACHE_BLEND_SPECIAL_STR, or ' # # ')",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    arguments = parser.parse_args()
    # The server reads these escapes too.
    arguments.separator = arguments.separator.replace("\\n", "\n").replace("\\t", "\t")
    if arguments.chunks < 2 or arguments.repeats < 1 or arguments.tokens < 16 * arguments.chunks:
        parser.error("give at least 2 chunks, 16 tokens a chunk and 1 repeat")
    return arguments


def run(arguments, say):
    client = Client(arguments.url)
    model = client.model()
    say(f"{arguments.url} serves {model}")
    words = int(arguments.tokens / arguments.chunks * words_per_token(client, model))
    prompts = Prompts(model, arguments.separator, arguments.chunks, words, os.urandom(8).hex())
    # Chunks are stored after the first token is out, and an answer here is a few tokens long.
    return {
        "model": model,
        **summary(measure(client, prompts, arguments.repeats, lambda: time.sleep(1), say)),
    }


def report(found):
    print(
        f"""
prompt: {found['prompt_tokens']} tokens, {found['chunks']} chunks, medians of {found['rounds']} rounds
TTFT full recompute   {found['ttft_exact_ms']:9.1f} ms
TTFT cold             {found['ttft_cold_ms']:9.1f} ms
TTFT reordered        {found['ttft_reordered_ms']:9.1f} ms
reordered vs full recompute  {found['speedup_vs_exact']:.2f}x
reordered vs cold            {found['speedup_vs_cold']:.2f}x
last reordered request: {found['exact_tokens']} exact, {found['blended_tokens']} blended, \
{found['recomputed_tokens']} recomputed, {found['computed_tokens']} computed tokens; policy {found['policy']}, \
correction {'on' if found['correction'] else 'off'}"""
    )


def advice(found):
    if found["chunks"] < 1:
        return "the server saw no chunk: is its separator (LMCACHE_BLEND_SPECIAL_STR) the one given by --separator?"
    if found["blended_tokens"] == 0:
        return (
            "nothing was reused: is LMCACHE_ENABLE_BLENDING on, the cache server alive (its log) and its RAM "
            "(LMCACHE_MAX_LOCAL_CPU_SIZE) large enough?"
        )
    if found["computed_tokens"] > found["prompt_tokens"] / 4:
        return (
            "most of the prompt was computed, not reused: look for failed stores or evictions in the cache "
            "server's log"
        )
    return "everything was reused: is the machine busy with something else (top), or the prompt too short for a gain?"


def main():
    arguments = parse_arguments()
    say = (
        (lambda text: print(text, file=sys.stderr, flush=True))
        if arguments.json
        else (lambda text: print(text, flush=True))
    )
    try:
        found = run(arguments, say)
    except (ServerError, OSError) as e:
        print(f"test_serving: error: {e}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(found))
    else:
        report(found)
    if found["speedup_vs_exact"] < LEAST_SPEEDUP:
        print(f"test_serving: below {LEAST_SPEEDUP}x: {advice(found)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
