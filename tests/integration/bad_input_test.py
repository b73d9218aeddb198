#!/usr/bin/env python3
"""Bad input is answered with an OpenAI-form error that says what to change, and service goes on."""
import json

from cluster import ClusterTest, main

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]
SEP = " # # "

# (name, path, body, a word that the message must hold; "" for any)
BAD = [
    ("empty prompt", COMPLETIONS, {"prompt": ""}, "empty"),
    ("no prompt", COMPLETIONS, {"max_tokens": 1}, "prompt"),
    ("empty list of tokens", COMPLETIONS, {"prompt": []}, "empty"),
    ("no messages", CHAT, {}, "messages"),
    ("empty messages", CHAT, {"messages": []}, "messages"),
    ("message without a role", CHAT, {"messages": [{"content": "x"}]}, "role"),
    ("only separators", COMPLETIONS, {"prompt": SEP * 3}, "separator"),
    (
        "only separators in chat",
        CHAT,
        {"messages": [{"role": "user", "content": SEP * 3}]},
        "separator",
    ),
    ("separator in front", COMPLETIONS, {"prompt": f"{SEP}a{SEP}b"}, "separator"),
    ("separator at the end", COMPLETIONS, {"prompt": f"a{SEP}b{SEP}"}, "separator"),
    ("doubled separator", COMPLETIONS, {"prompt": f"a{SEP}{SEP}b"}, "separator"),
    ("broken JSON", COMPLETIONS, b'{"prompt": "x"', "JSON"),
    ("empty body", COMPLETIONS, b"", "empty"),
    ("JSON that is no object", COMPLETIONS, b"[1, 2]", "object"),
    ("not UTF-8", COMPLETIONS, b'{"prompt": "\xff\xfe"}', "UTF-8"),
    ("deep nesting", COMPLETIONS, b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
    ("prompt is a number", COMPLETIONS, {"prompt": 5}, "prompt"),
    ("messages is a string", CHAT, {"messages": "x"}, "messages"),
    ("max_tokens is a string", COMPLETIONS, {"prompt": "x", "max_tokens": "many"}, "max_tokens"),
    ("max_tokens is negative", COMPLETIONS, {"prompt": "x", "max_tokens": -1}, "max_tokens"),
    ("temperature is a string", COMPLETIONS, {"prompt": "x", "temperature": "hot"}, "temperature"),
    ("temperature below 0", COMPLETIONS, {"prompt": "x", "temperature": -1}, "temperature"),
    ("stream is a string", COMPLETIONS, {"prompt": "x", "stream": "yes"}, "stream"),
    ("tessera is a list", COMPLETIONS, {"prompt": "x", "tessera": [1]}, "tessera"),
    (
        "ratio above 1",
        COMPLETIONS,
        {"prompt": "x", "tessera": {"recompute_ratio": 1.5}},
        "recompute_ratio",
    ),
    (
        "ratio below 0",
        COMPLETIONS,
        {"prompt": "x", "tessera": {"recompute_ratio": -0.1}},
        "recompute_ratio",
    ),
    (
        "ratio is a string",
        COMPLETIONS,
        {"prompt": "x", "tessera": {"recompute_ratio": "half"}},
        "recompute_ratio",
    ),
    ("unknown mode", COMPLETIONS, {"prompt": "x", "tessera": {"mode": "fast"}}, "mode"),
    ("unknown policy", COMPLETIONS, {"prompt": "x", "tessera": {"policy": "best"}}, "policy"),
    (
        "correction is a string",
        COMPLETIONS,
        {"prompt": "x", "tessera": {"correction": "on"}},
        "correction",
    ),
    ("token outside the vocabulary", COMPLETIONS, {"prompt": [1, 10_000_000]}, ""),
    ("10 MB prompt", COMPLETIONS, {"prompt": "word " * 2_000_000}, ""),
    (
        "10 MB prompt in chat",
        CHAT,
        {"messages": [{"role": "user", "content": "word " * 2_000_000}]},
        "",
    ),
    ("10 MB prompt of chunks", COMPLETIONS, {"prompt": SEP.join(["word " * 400] * 5_000)}, ""),
]


class BadInputTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.client = cls.cluster.serve(max_len=512)
        cls.want = cls.good_text()

    @classmethod
    def good_text(cls):
        return cls.client.whole(CHAT, {"messages": USER, "max_tokens": 8, "temperature": 0}).text

    def tearDown(self):
        self.assertTrue(all(p.alive() for p in self.cluster.processes))
        self.assertEqual(self.good_text(), self.want)

    def check(self, path, body, word, want_status=400):
        status, reply = self.client.call("POST", path, body)
        self.assertEqual(status, want_status, json.dumps(reply)[:300])
        error = reply["error"]
        self.assertLessEqual({"message", "type", "param", "code"}, set(error))
        self.assertEqual(error["type"], "invalid_request_error")
        self.assertIn(word.lower(), error["message"].lower())
        self.assertLess(len(error["message"]), 1000)  # it does not quote the prompt
        return error

    def test_bad_bodies(self):
        for name, path, body, word in BAD:
            with self.subTest(name):
                self.check(path, body, word)

    def test_over_max_len(self):
        error = self.check(COMPLETIONS, {"prompt": "word " * 600, "max_tokens": 1}, "512")
        self.assertEqual(error["code"], "context_length_exceeded")
        error = self.check(COMPLETIONS, {"prompt": "word", "max_tokens": 600}, "512")
        self.assertEqual(error["code"], "context_length_exceeded")

    def test_unknown_model(self):
        error = self.check(CHAT, {"model": "nobody", "messages": USER}, "nobody", want_status=404)
        self.assertEqual(error["code"], "model_not_found")

    def test_unknown_route_and_method(self):
        self.assertEqual(self.client.call("GET", "/v1/nothing")[0], 404)
        self.assertEqual(self.client.call("GET", CHAT)[0], 405)

    def test_bad_bodies_that_ask_for_a_stream(self):
        """An error before the first event is a plain response, not a stream."""
        self.check(COMPLETIONS, {"prompt": "", "stream": True}, "empty")
        self.check(COMPLETIONS, {"prompt": "word " * 600, "stream": True}, "512")

    def test_client_that_leaves(self):
        """A stream that is dropped stops its work and harms nobody."""
        for _ in range(4):
            connection, response = self.client.send(
                "POST",
                COMPLETIONS,
                {
                    "prompt": "Once upon a time",
                    "max_tokens": 400,
                    "stream": True,
                    "ignore_eos": True,
                },
            )
            self.assertTrue(response.readline().startswith(b"data: "))
            connection.close()

    def test_nothing_is_stored_half(self):
        """A request that is refused leaves no chunk behind."""
        document = "Nobody has ever seen this document before. " * 8
        self.check(
            COMPLETIONS, {"prompt": f"Lead.{SEP}{document}{SEP}", "max_tokens": 1}, "separator"
        )
        self.check(COMPLETIONS, {"prompt": f"Lead.{SEP}{document}{SEP}x", "max_tokens": 600}, "512")
        answer = self.client.whole(
            COMPLETIONS, {"prompt": f"Lead.{SEP}{document}{SEP}x", "max_tokens": 1}
        )
        self.assertEqual(set(answer.sources()), {"computed"})


if __name__ == "__main__":
    main()
