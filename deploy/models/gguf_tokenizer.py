"""The tokenizer of a GGUF file -> tokenizer.json (byte-level BPE) or tokenizer.model (sentencepiece)."""

import json
import os
import struct

from gguf_model import Unsupported

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(use_regex):
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def split_by(pattern):
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level(False)]}


# By the name that GGUF gives a pre-tokenizer: (pre-tokenizer, normalizer, whole words before merges?).
PRE_TOKENIZERS = {
    "smollm": (
        {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)],
        },
        None,
        False,
    ),
    "qwen2": (split_by(f"{CONTRACTIONS}|{WORDS}|\\p{{N}}|{REST}"), {"type": "NFC"}, False),
    "llama-bpe": (split_by(f"{CONTRACTIONS}|{WORDS}|\\p{{N}}{{1,3}}|{REST}"), None, True),
    "gpt-2": (byte_level(True), None, False),
}


def write_tokenizer(model, folder):
    """Writes the tokenizer and tokenizer_config.json (which carries the chat template) into the folder."""
    kind = model.field("tokenizer.ggml.model")
    if kind == "gpt2":
        write_json(folder, "tokenizer.json", byte_level_bpe(model))
        check_byte_level_bpe(os.path.join(folder, "tokenizer.json"))
    elif kind == "llama":
        with open(os.path.join(folder, "tokenizer.model"), "wb") as out:
            out.write(sentencepiece_model(model))
    else:
        raise Unsupported(
            f"tokenizer '{kind}' is not supported; supported: gpt2 (byte-level BPE), llama"
        )
    write_json(folder, "tokenizer_config.json", tokenizer_config(model, kind))


def write_json(folder, name, content):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
        json.dump(content, out, ensure_ascii=False, indent=1)
        out.write("\n")


def byte_level_bpe(model):
    pre = model.field("tokenizer.ggml.pre", "gpt-2")
    if pre not in PRE_TOKENIZERS:
        raise Unsupported(
            f"pre-tokenizer '{pre}' is not supported; supported: {', '.join(PRE_TOKENIZERS)}"
        )
    pre_tokenizer, normalizer, ignore_merges = PRE_TOKENIZERS[pre]
    tokens, kinds = model.field("tokenizer.ggml.tokens"), model.field("tokenizer.ggml.token_type")
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for i, (text, kind) in enumerate(zip(tokens, kinds))
        if kind in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            # Rows that only pad the embedding are no tokens.
            "vocab": {text: i for i, text in enumerate(tokens) if kinds[i] != UNUSED},
            "merges": [m.split(" ") for m in model.field("tokenizer.ggml.merges")],
        },
    }


def check_byte_level_bpe(path):
    from tokenizers import Tokenizer

    text = "  It's 1234 caf\u00e9s,\n\n\u4f60\u597d \U0001f600!\t"
    tokenizer = Tokenizer.from_file(path)
    if tokenizer.decode(tokenizer.encode(text).ids) != text:
        raise Unsupported("its tokenizer does not give back the text that it was given")


def tokenizer_config(model, kind):
    tokens = model.field("tokenizer.ggml.tokens")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast" if kind == "gpt2" else "LlamaTokenizer",
        "model_max_length": model.fact("context_length"),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(model.field("tokenizer.ggml.add_bos_token", kind == "llama")),
        "add_eos_token": bool(model.field("tokenizer.ggml.add_eos_token", False)),
    }
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = model.field(f"tokenizer.ggml.{theirs}_token_id")
        config[f"{ours}_token"] = None if token is None else tokens[token]
    if template := model.field("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def sentencepiece_model(model):
    """A sentencepiece ModelProto, written by hand: GGUF keeps its pieces, scores and types as they were."""
    tokens, kinds = model.field("tokenizer.ggml.tokens"), model.field("tokenizer.ggml.token_type")
    scores = model.field("tokenizer.ggml.scores")
    if scores is None:
        raise Unsupported("its sentencepiece tokenizer has no scores")
    pieces = (
        length_delimited(
            1,
            length_delimited(1, text.encode())
            + b"\x15"
            + struct.pack("<f", score)
            + number(3, kind),
        )
        for text, score, kind in zip(tokens, scores, kinds)
    )
    ids = {40: "unknown", 41: "bos", 42: "eos", 43: "padding"}
    trainer = number(3, 2) + number(4, len(tokens)) + number(35, 1)  # BPE, size, byte fallback
    for tag, name in ids.items():
        token = model.field(f"tokenizer.ggml.{name}_token_id")
        trainer += number(tag, -1 if token is None else token)
    prefix = int(bool(model.field("tokenizer.ggml.add_space_prefix", True)))
    normalizer = length_delimited(1, b"identity") + number(3, prefix) + number(4, 0) + number(5, 1)
    return b"".join(pieces) + length_delimited(2, trainer) + length_delimited(3, normalizer)


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def number(tag, n):
    return varint(tag << 3) + varint(n)


def length_delimited(tag, payload):
    return varint(tag << 3 | 2) + varint(len(payload)) + payload
