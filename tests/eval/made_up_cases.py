"""Small data sets for tests."""

import json
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from serving_client import make_document  # noqa: E402  (needs the path above)

NAMES = ("Arlen", "Bersa", "Corvin", "Delmar", "Esten", "Farrow", "Gilder", "Hobart")
TOWNS = ("Ostrava", "Lisbon", "Tampere", "Bergen", "Cusco", "Nantes", "Galway", "Split")


def write_cases(path, cases, passages):
    """Each question is about one of the passages, which must be told apart."""
    draw, made = random.Random(5), []
    for number in range(cases):
        names, towns = draw.sample(NAMES, passages), draw.sample(TOWNS, passages)
        ctxs = [
            {
                "title": name,
                "text": f"{make_document(f'{number}/{name}', 35)} {name} was born in {town} and moved away at ten.",
            }
            for name, town in zip(names, towns)
        ]
        made.append(
            {"ctxs": ctxs, "question": f"Where was {names[1]} born?", "answers": [towns[1]]}
        )
    path.write_text(json.dumps(made))
