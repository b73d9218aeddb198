"""Speed of tessera_tokenize against Hugging Face's tokenizers, both on one thread.

usage: tokenizer_bench.py TESSERA_TOKENIZE MODEL_DIR [MODEL_DIR ...]

Both encode the same documents over and over, turn by turn; the best of three turns counts. Speeds
are by processor time, so that other programs on the machine count for neither. The last
line is JSON: for every model and kind of text bytes a second of both, and their ratio.
"""

import json
import os
import random
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "gateway", "text"))

from sample_text import CODE, SCRIPTS, english, mixed_documents  # noqa: E402

SECONDS = 1.0


def kinds():
    rng = random.Random(7)
    return {
        "english": [english(rng, 4000) for _ in range(100)],
        "code": [CODE * 5 for _ in range(40)],
        "scripts": ["".join(rng.sample(SCRIPTS, len(SCRIPTS))) * 3 for _ in range(100)],
        "mixed": mixed_documents(500_000, seed=9),
    }


def theirs(tokenizer, texts):
    size = sum(len(t.encode()) for t in texts)
    start, rounds = time.process_time(), 0
    while time.process_time() - start < SECONDS:
        tokenizer.encode_batch_fast(texts, add_special_tokens=False)  # its fastest call: no offsets
        rounds += 1
    return rounds * size / (time.process_time() - start)


def ours(binary, model_dir, texts):
    packed = b"".join(b"%d\n%s" % (len(t), t) for t in (text.encode() for text in texts))
    command = [binary, f"--seconds={SECONDS}", "--special", model_dir]
    return float(subprocess.run(command, input=packed, stdout=subprocess.PIPE, check=True).stdout)


def main():
    from tokenizers import Tokenizer

    binary, result = sys.argv[1], {}
    for model_dir in sys.argv[2:]:
        name = os.path.basename(os.path.normpath(model_dir))
        tokenizer = Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
        for kind, texts in kinds().items():
            pairs = [(ours(binary, model_dir, texts), theirs(tokenizer, texts)) for _ in range(3)]
            fast, slow = max(a for a, _ in pairs), max(b for _, b in pairs)
            print(f"{name} {kind}: {fast / 1e6:.1f} MB/s, tokenizers {slow / 1e6:.1f} MB/s, {fast / slow:.1f}x", flush=True)
            result[f"{name}/{kind}"] = {"bytes_per_s": round(fast), "hf_bytes_per_s": round(slow), "ratio": round(fast / slow, 2)}
    ratios = sorted(entry["ratio"] for entry in result.values())
    print(json.dumps({"metric": "tokenizer_speed_ratio_to_hf", "worst": ratios[0], "median": ratios[len(ratios) // 2], "runs": result}))


if __name__ == "__main__":
    main()
