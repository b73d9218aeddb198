#!/usr/bin/env python3
"""A separator is found whatever stands beside it, and a chunk's ids never depend on its neighbours."""
from cluster import ClusterTest, chunks_stored, main
from serving_client import make_document

# Each starts and ends with something that a tokenizer likes to merge over a border.
EDGES = [
    "word",
    "word ",
    " word",
    "\nline\n",
    "\n\n",
    "3.14",
    "!?",
    "...",
    "\tx\t",
    "naïve é",
    "你好。",
    "日本語",
    "😀",
    "👩‍👩‍👧",
    "e\u0301",
    "\u200b",
    "(",
    ")",
    "'s",
    "<|im_end|>",
    "a#",
    "#!",
    "\r\n",
    "''",
    "Ünï",
    "٣",
]


def document(edge, i):
    return (
        f"{edge} {make_document(f'separator/{i}', 12)} {edge}"
        if edge.strip()
        else f"{edge}{make_document(f'separator/{i}', 12)}{edge}"
    )


class SeparatorTest(ClusterTest):
    separator = " # # "

    @classmethod
    def start(cls):
        cache = cls.cluster.cache()
        cls.client = cls.cluster.client(
            cls.cluster.gateway(cls.cluster.worker(cache.address), separator=cls.separator)
        )

    def completion(self, documents):
        return {
            "prompt": self.separator.join(["Lead.", *documents, "Question?"]),
            "max_tokens": 1,
            "temperature": 0,
        }

    def test_every_edge_is_cut_and_found_again(self):
        documents = [document(edge, i) for i, edge in enumerate(EDGES)]
        first = self.client.whole("/v1/completions", self.completion(documents))
        self.assertEqual(len(first.sources()), len(documents) + 2)
        chunks_stored(self.client, self.completion(documents))
        turned = documents[::-1]
        again = self.client.whole("/v1/completions", self.completion(turned))
        self.assertEqual(again.sources(), ["cache"] * (len(documents) + 1) + ["computed"])
        sizes = [s["tokens"] for s in first.tessera["segments"]]
        self.assertEqual(
            [s["tokens"] for s in again.tessera["segments"]], [sizes[0], *sizes[-2:0:-1], sizes[-1]]
        )

    def test_chat_separator_parts_and_documents_make_the_same_chunks(self):
        documents = [make_document(f"forms/{i}", 30) for i in range(3)]
        separated = self.separator.join([*documents, "Question?"])
        parts = [{"type": "text", "text": t} for t in [*documents, "Question?"]]
        forms = [
            {"messages": [{"role": "user", "content": separated}]},
            {"messages": [{"role": "user", "content": parts}]},
            {
                "messages": [{"role": "user", "content": "Question?"}],
                "documents": [{"text": t} for t in documents],
            },
        ]
        texts = []
        for i, form in enumerate(forms):
            answer = self.client.whole(
                "/v1/chat/completions", {**form, "max_tokens": 8, "temperature": 0}
            )
            self.assertEqual(len(answer.sources()), 5)
            texts.append(answer.text)
            if i == 0:
                self.stored_by_chat(form)
            else:
                self.assertEqual(answer.sources(), ["cache"] * 4 + ["computed"])
        self.assertEqual(len(set(texts)), 1)

    def stored_by_chat(self, form):
        for _ in range(50):
            answer = self.client.whole("/v1/chat/completions", {**form, "max_tokens": 1})
            if answer.sources()[:-1] == ["cache"] * 4:
                return
        self.fail(f"still not stored: {answer.tessera}")


class OtherSeparatorTest(SeparatorTest):
    separator = "[BLEND_SEP]"


if __name__ == "__main__":
    main()
