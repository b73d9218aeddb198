"""Speed of tessera_tokenize against Hugging Face's tokenizers, both on one thread.

usage: tokenizer_bench.py TESSERA_TOKENIZE MODEL_DIR [MODEL_DIR ...]

Both encode the same documents (sample_corpora.py), in turns. In every turn both start anew, with
their caches of words empty. "cold" is the first pass over a corpus, of which no document comes
twice (but for a few short ones of "odd"); "warm" are later passes, when the caches hold what they
could keep of the pass before (the library's has 10,000 words, ours 4,096). Medians of ROUNDS turns.
Speeds are by processor time, so that other programs on the machine count for neither. Ids must be
equal, else the run fails.

The last line is JSON: for every model and corpus bytes a second of both and their ratios, and the
worst and the median of the ratios of cold passes.
"""

import json
import os
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from sample_corpora import corpora  # noqa: E402

ROUNDS = 3
WARM_SECONDS = 0.5


def pack(texts):
    return b"".join(b"%d\n%s" % (len(t), t) for t in (text.encode() for text in texts))


def theirs(path, texts):
    """Bytes a second of a cold pass and of warm ones."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    size = sum(len(text.encode()) for text in texts)

    def one_pass():
        start = time.process_time()
        tokenizer.encode_batch_fast(texts, add_special_tokens=False)  # its fastest call: no offsets
        return time.process_time() - start

    cold, warm, passes = one_pass(), 0.0, 0
    while warm < WARM_SECONDS:
        warm += one_pass()
        passes += 1
    return size / cold, size * passes / warm


def ours(binary, model_dir, packed):
    command = [binary, f"--seconds={WARM_SECONDS}", "--special", model_dir]
    done = subprocess.run(command, input=packed, stdout=subprocess.PIPE, check=True)
    cold, warm = done.stdout.split()
    return float(cold), float(warm)


def check_equal(binary, model_dir, texts, packed):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
    done = subprocess.run([binary, "--special", model_dir], input=packed, stdout=subprocess.PIPE, check=True)
    lines = done.stdout.decode().split("\n")[:-1]
    expected = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    if len(lines) != len(texts):
        sys.exit(f"{len(lines)} answers for {len(texts)} texts")
    for text, line, encoding in zip(texts, lines, expected):
        if [int(word) for word in line.split()] != encoding.ids:
            sys.exit(f"{model_dir}: other ids for {text!r}")


def measure(binary, model_dir, texts):
    packed = pack(texts)
    check_equal(binary, model_dir, texts, packed)
    path = os.path.join(model_dir, "tokenizer.json")
    rounds = [(*ours(binary, model_dir, packed), *theirs(path, texts)) for _ in range(ROUNDS)]
    entry = {"bytes": sum(len(text.encode()) for text in texts), "documents": len(texts)}
    for i, state in enumerate(("cold", "warm")):
        entry[f"{state}_bytes_per_s"] = round(statistics.median(r[i] for r in rounds))
        entry[f"{state}_hf_bytes_per_s"] = round(statistics.median(r[i + 2] for r in rounds))
        entry[f"{state}_ratio"] = round(statistics.median(r[i] / r[i + 2] for r in rounds), 2)
    return entry


def main():
    import tokenizers

    binary, runs = sys.argv[1], {}
    texts_of = corpora()
    for model_dir in sys.argv[2:]:
        name = os.path.basename(os.path.normpath(model_dir))
        for corpus, texts in texts_of.items():
            entry = runs[f"{name}/{corpus}"] = measure(binary, model_dir, texts)
            print(f"{name} {corpus} ({entry['bytes'] / 1e6:.1f} MB, ids equal): " + ", ".join(
                f"{state} {entry[f'{state}_bytes_per_s'] / 1e6:.1f} MB/s, tokenizers"
                f" {entry[f'{state}_hf_bytes_per_s'] / 1e6:.2f} MB/s, {entry[f'{state}_ratio']:.1f}x"
                for state in ("cold", "warm")), flush=True)
    ratios = [entry["cold_ratio"] for entry in runs.values()]
    print(json.dumps({"metric": "tokenizer_speed_ratio_to_hf", "tokenizers": tokenizers.__version__, "threads": 1,
                      "worst": min(ratios), "median": statistics.median(ratios), "runs": runs}))


if __name__ == "__main__":
    main()
