"""Data sets of passages and questions, as prompts of token ids."""

import json
import os

# ChatML, as SmolLM2 and Qwen have it.
LEAD = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nYou will be asked a question after "
    "reading several passages. Answer it from the passages alone, within 5 words.\nPassages:\n\n"
)
QUESTION = (
    "Answer the question from the passages alone, within 5 words.\nQuestion: {}<|im_end|>\n<|im_start|>assistant\n"
)
FORMAT = (
    'a data set is a JSON list of cases {"ctxs": [{"title": text, "text": text}, ...], "question": text, '
    '"answers": [text, ...]}'
)


class BadCases(Exception):
    """The data set cannot be used; the text says why and what to change."""


def text_of(value, where):
    if not isinstance(value, str):
        raise BadCases(f"{where} is not a text; {FORMAT}")
    return value


def flat(answers, where):
    """Answers may be a text, texts, or lists of texts that mean the same."""
    if isinstance(answers, str):
        return [answers]
    if not isinstance(answers, list) or not answers:
        raise BadCases(f"{where} is not a list of texts; {FORMAT}")
    return [text for each in answers for text in flat(each, where)]


class Case:
    def __init__(self, raw, number):
        where = f"case {number}"
        if not isinstance(raw, dict):
            raise BadCases(f"{where} is not an object; {FORMAT}")
        missing = [name for name in ("ctxs", "question", "answers") if name not in raw]
        if missing:
            raise BadCases(f"{where} has no {' and no '.join(missing)}; {FORMAT}")
        if not isinstance(raw["ctxs"], list) or not raw["ctxs"]:
            raise BadCases(f"ctxs of {where} is not a list of passages; {FORMAT}")
        self.passages = []
        for i, passage in enumerate(raw["ctxs"]):
            if not isinstance(passage, dict) or "text" not in passage:
                raise BadCases(f"passage {i} of {where} has no text; {FORMAT}")
            title = text_of(passage.get("title") or "", f"title of passage {i} of {where}")
            text = text_of(passage["text"], f"text of passage {i} of {where}").strip()
            self.passages.append(title + "\n" + text if title else text)
        self.question = text_of(raw["question"], f"question of {where}")
        self.answers = flat(raw["answers"], f"answers of {where}")

    def segments(self, encode, passages, passage_tokens):
        """Lead, passages and question as lists of ids. passage_tokens: where each passage is cut (0: whole)."""
        documents = [encode(text) for text in self.passages[:passages]]
        if passage_tokens:
            documents = [ids[:passage_tokens] for ids in documents]
        join = encode("\n\n")
        return [
            encode(LEAD),
            *(ids + join for ids in documents),
            encode(QUESTION.format(self.question)),
        ]


def read_cases(path, limit):
    """The first `limit` cases (0: all) of the file."""
    try:
        with open(path, encoding="utf-8") as f:
            raw = json.load(f)
    except OSError as e:
        raise BadCases(f"cannot read {path}: {e.strerror}; {FORMAT}") from e
    except ValueError as e:
        raise BadCases(f"{path} is not JSON ({e}); {FORMAT}") from e
    if not isinstance(raw, list) or not raw:
        raise BadCases(f"{path} holds no list of cases; {FORMAT}")
    return [Case(case, number) for number, case in enumerate(raw[: limit or None])]


class Text:
    """The model's tokenizer, as its folder's tokenizer.json has it."""

    def __init__(self, folder):
        from tokenizers import Tokenizer

        path = os.path.join(folder, "tokenizer.json")
        if not os.path.exists(path):
            raise BadCases(
                f"{path} is not there: name a model folder as deploy/models/fetch.sh makes it"
            )
        self.tokenizer = Tokenizer.from_file(path)

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids)


def prompts(path, limit, folder, passages, passage_tokens):
    """-> [(Case, its segments)], Text."""
    text = Text(folder)
    cases = read_cases(path, limit)
    return [(c, c.segments(text.encode, passages, passage_tokens)) for c in cases], text
