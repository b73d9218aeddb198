#!/usr/bin/env python3
"""A data set of texts as token ids, for tessera_worker --calibrate, which has no tokenizer.

usage: tokenize_cases.py CASES.json --folder MODEL_FOLDER [--limit 20] [--passages 10] [--passage-tokens 0] > cases.jsonl

Prints a line {"segments": [[ids of the lead], [ids of a passage], ..., [ids of the question]]} for every case: the
prompts that evaluate.py makes.
"""

import argparse
import json
import sys

import eval_venv

eval_venv.enter()

from cases import BadCases, prompts  # noqa: E402


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("cases")
    p.add_argument("--folder", required=True, help="the model's, with tokenizer.json")
    p.add_argument("--limit", type=int, default=20, help="cases; 0: all")
    p.add_argument("--passages", type=int, default=10, help="passages of each case")
    p.add_argument("--passage-tokens", type=int, default=0, help="cut each passage; 0: whole")
    a = p.parse_args()
    try:
        made, _ = prompts(a.cases, a.limit, a.folder, a.passages, a.passage_tokens)
    except BadCases as e:
        sys.exit(f"tokenize_cases: {e}")
    for _, segments in made:
        print(json.dumps({"segments": segments}, separators=(",", ":")))


if __name__ == "__main__":
    main()
