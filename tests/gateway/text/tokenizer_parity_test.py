#!/usr/bin/env python3
"""Compares tessera_tokenize with Hugging Face's tokenizers and with the sentencepiece package.

usage: tokenizer_parity_test.py [TESSERA_TOKENIZE [MODEL_DIR ...]]

Skips a model folder that is not there. Exits with 1 on the first difference, which it prints.
"""

import json
import os
import subprocess
import sys
import tempfile
import unicodedata

from sample_text import english, fuzz_strings, mixed_documents

REPO = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pack(texts):
    return b"".join(b"%d\n%s" % (len(t), t) for t in (text.encode() for text in texts))


def unpack(data):
    texts, at = [], 0
    while at < len(data):
        line = data.index(b"\n", at)
        end = line + 1 + int(data[at:line])
        texts.append(data[line + 1 : end].decode())
        at = end
    return texts


def ours(binary, model_dir, texts, *flags):
    done = subprocess.run([binary, *flags, model_dir], input=pack(texts), stdout=subprocess.PIPE, check=True)
    if "--decode" in flags:
        return unpack(done.stdout)
    return [[int(word) for word in line.split()] for line in done.stdout.decode().split("\n")[:-1]]


def compare(name, texts, expected, got):
    if len(expected) != len(got):
        sys.exit(f"{name}: {len(got)} answers for {len(expected)} texts")
    wrong = [i for i in range(len(texts)) if expected[i] != got[i]]
    for i in wrong[:3]:
        at = next((k for k, (a, b) in enumerate(zip(expected[i], got[i])) if a != b), -1)
        print(f"{name}: text {i} {texts[i][:300]!r}: at {at}: expected {expected[i][at:at + 8]}, got {got[i][at:at + 8]}")
    if wrong:
        sys.exit(f"{name}: {len(wrong)} of {len(texts)} texts differ")
    print(f"{name}: {len(texts)} texts, {sum(len(t.encode()) for t in texts)} bytes: equal")


def known(text):
    """Whether every code point was assigned when the oldest of the Unicode tables in use was made."""
    return all(unicodedata.category(c) != "Cn" for c in text)


def samples():
    # Python's tables are Unicode 14: what is younger is left out, since every library has its own age.
    return mixed_documents(1_500_000) + [t for t in fuzz_strings(6000) if known(t)]


def check_hugging_face(binary, model_dir):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
    texts = samples()
    for special in (True, False):
        tokenizer.encode_special_tokens = not special  # "encode" here means: as plain text
        expected = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        got = ours(binary, model_dir, texts, *(["--special"] if special else []))
        compare(f"{model_dir} special={special}", texts, expected, got)
    decoded = tokenizer.decode_batch(expected, skip_special_tokens=False)
    compare(f"{model_dir} decode", texts, decoded, ours(binary, model_dir, texts, "--decode"))
    long_word = ["abcdefgh" * 30000 + "e" * 100000]
    expected = [e.ids for e in tokenizer.encode_batch(long_word, add_special_tokens=False)]
    compare(f"{model_dir} long word", long_word, expected, ours(binary, model_dir, long_word))


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def variants(size):
    """For a vocabulary of `size` tokens other pre-tokenizers, normalizers and added tokens than the model's own, by name."""
    def byte_level(use_regex, prefix=False):
        return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}

    def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
        return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}

    def sequence(*steps):
        return {"type": "Sequence", "pretokenizers": list(steps)}

    def token(i, content, **flags):
        return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": False, **flags}

    # None of them is in a vocabulary already: the library would give it that id.
    tokens = [token(size, "[[SEP]]", special=True), token(size + 1, "[[/S]]", special=True, rstrip=True),
              token(size + 2, "Streptococcus", normalized=True, single_word=True), token(size + 3, "[[INST]]", lstrip=True),
              token(size + 4, "nai\u0308ve", normalized=True), token(size + 5, "[[S]]", special=True, normalized=True)]
    nfc = {"type": "NFC"}
    return {
        "llama 3": {"pre_tokenizer": sequence(split(LLAMA3), byte_level(False))},
        "gpt-4o": {"pre_tokenizer": sequence(split(GPT4O), byte_level(False))},
        "prefix space": {"pre_tokenizer": byte_level(True, prefix=True)},
        "no regex": {"pre_tokenizer": byte_level(False)},
        "digits together": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level(True))},
        "removed": {"pre_tokenizer": sequence(split("\\s+", "Removed"), byte_level(False))},
        "removed inverted": {"pre_tokenizer": sequence(split("\\w+|[^\\s\\w]", "Removed", invert=True), byte_level(False))},
        "literal": {"pre_tokenizer": sequence(split("e", kind="String"), byte_level(True))},
        "added tokens": {"added_tokens": tokens, "normalizer": nfc},
    }


def check_variants(binary, model_dir):
    """The model's vocabulary behind every variant."""
    from tokenizers import Tokenizer

    with open(os.path.join(model_dir, "tokenizer.json")) as file:
        original = json.load(file)
    size = max(original["model"]["vocab"].values()) + 1
    texts = mixed_documents(300_000, seed=6) + [t for t in fuzz_strings(3000, seed=7) if known(t)]
    texts += ["a [[S]] b[[/S]]  \n c  [[INST]] d[[SEP]][[SEP]]", "[[INST]]", " [[/S]]\u3000[[S]] ", "[[S[[S]]"]
    for name, changes in variants(size).items():
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "tokenizer.json"), "w") as file:
                json.dump({**original, "added_tokens": [], **changes}, file)
            tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
            expected = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
            compare(f"{model_dir} {name}", texts, expected, ours(binary, folder, texts, "--special"))


def resolve_tie(processor, expected, got):
    """`expected`, when `got` spells the same text with the same probability.

    Versions of the library differ in which of two equally likely cuts they take.
    """
    def score(ids):
        return sum(processor.get_score(i) for i in ids)

    same_text = processor.decode(expected) == processor.decode(got)
    return expected if same_text and abs(score(expected) - score(got)) < 1e-2 else got


def check_sentencepiece(binary, folder, model_type):
    import random

    import sentencepiece

    corpus = os.path.join(folder, "corpus.txt")
    with open(corpus, "w") as file:
        for text in mixed_documents(200_000, seed=3) + [english(random.Random(4), 100_000)]:
            file.write(text.replace("\x00", "") + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=corpus, model_prefix=os.path.join(folder, "tokenizer"), vocab_size=1500, model_type=model_type,
        byte_fallback=True, character_coverage=0.99, user_defined_symbols=["<mask>"], minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, max_sentence_length=100000)
    processor = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
    texts = [t for t in samples()[:2000] + fuzz_strings(500, seed=5) if "\x00" not in t]
    expected = [processor.encode(t) for t in texts]
    got = ours(binary, folder, texts)
    if model_type == "unigram":
        got = [resolve_tie(processor, *pair) for pair in zip(expected, got)]
    compare(f"sentencepiece {model_type}", texts, expected, got)
    plain = [t for t in texts if known(t)]
    expected = [processor.decode(processor.encode(t)) for t in plain]
    compare(f"sentencepiece {model_type} decode", plain, expected, ours(binary, folder, plain, "--decode"))


def main():
    # Arguments are for a run by hand; tests/run.sh gives the models' folders in TESSERA_MODELS.
    binary = sys.argv[1] if len(sys.argv) > 1 else os.path.join(REPO, "bazel-bin/gateway/text/tessera_tokenize")
    model_dirs = sys.argv[2:] or [m for m in os.environ.get("TESSERA_MODELS", "").split(":") if m]
    for model_dir in model_dirs:
        if os.path.exists(os.path.join(model_dir, "tokenizer.json")):
            check_hugging_face(binary, model_dir)
            check_variants(binary, model_dir)
        else:
            print(f"skipped: {model_dir} has no tokenizer.json")
    for model_type in ("bpe", "unigram"):
        with tempfile.TemporaryDirectory() as folder:
            check_sentencepiece(binary, folder, model_type)
    if not model_dirs:
        print("SKIP: only sentencepiece was compared; TESSERA_MODELS names no model folder")
        sys.exit(77)


if __name__ == "__main__":
    main()
