"""Texts for timing tokenizers: real ones that lie on a Debian machine, and generated ones."""

import gettext
import glob
import os
import random
import re
import sys
import sysconfig

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "gateway", "text"))

from sample_text import SCRIPTS, mixed_documents  # noqa: E402

SIZE = 1_000_000  # of a corpus in bytes, at most
TRANSLATIONS = ("/usr/share/locale/{}/LC_MESSAGES/*.mo", "/usr/share/vim/vim*/lang/{}/LC_MESSAGES/vim.mo")


def read(paths):
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                yield file.read()
        except (OSError, UnicodeDecodeError):
            continue


def prose():
    """What Python's own manual and the licenses say."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)] + list(read(sorted(glob.glob("/usr/share/common-licenses/*"))))


def code():
    return list(read(sorted(glob.glob(os.path.join(sysconfig.get_path("stdlib"), "*.py")))))


def translations(languages):
    """The translated messages of the programs that are installed, a paragraph of ten messages each."""
    for language in languages:
        for path in sorted(p for pattern in TRANSLATIONS for p in glob.glob(pattern.format(language))):
            try:
                with open(path, "rb") as file:
                    catalog = gettext.GNUTranslations(file)._catalog
            except (OSError, UnicodeDecodeError, ValueError):
                continue
            messages = [text for key, text in catalog.items() if key and text and text != key]
            for at in range(0, len(messages), 10):
                yield "\n".join(messages[at:at + 10]) + "\n"


def documents(texts, rng):
    """Pieces of 300 to 4,000 letters that end with a paragraph or a line; none comes twice."""
    pieces = set()
    for text in texts:
        while text:
            end = rng.randint(300, 4000)
            stop = max(text.rfind("\n", end // 2, end), text.rfind("\u3002", end // 2, end)) + 1
            pieces.add(text[:stop or end])
            text = text[stop or end:]
    return sorted(pieces)


def limited(pieces, rng):
    """So many of `pieces`, in an order of `rng`, that they are SIZE bytes."""
    rng.shuffle(pieces)
    out, size = [], 0
    for piece in pieces:
        size += len(piece.encode())
        if size > SIZE:
            break
        out.append(piece)
    return out


def shuffled_scripts(rng):
    """Stands in for translations on a machine without any: the samples' words in random order."""
    words = [word for script in SCRIPTS for word in re.findall(r"\w+\W*", script)]
    return ["".join(rng.choices(words, k=300)) for _ in range(200)]


def corpora():
    """Name to list of documents. Which texts are there depends on the machine, but not on the run."""
    rng = random.Random(7)
    parts = {
        "prose": prose(),
        "code": code(),
        "cjk": list(translations(["zh_CN", "ja", "ko"])),
        "scripts": list(translations(["ru", "ar", "hi", "el", "th", "vi"])),
    }
    result = {}
    for name, texts in parts.items():
        pieces = documents(texts, rng)
        if sum(len(piece) for piece in pieces) < 100_000:
            name, pieces = f"{name}-generated", shuffled_scripts(rng)
        result[name] = limited(pieces, rng)
    # Retrieved passages as one finds them in prompts: mostly prose, some of everything else.
    passages = [passage for name, texts in result.items() for passage in rng.choices(texts, k=600 if name == "prose" else 150)]
    result["passages"] = limited(sorted(set(passages)), rng)
    result["odd"] = mixed_documents(500_000, seed=9)
    return result
