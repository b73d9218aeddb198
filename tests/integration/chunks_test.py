#!/usr/bin/env python3
"""The chunk API over the real programs: passages computed ahead, named by id, and an ingest that is broken off."""
import json
import signal

from cluster import ClusterTest, main
from serving_client import make_document

PASSAGES = [make_document(f"chunks/{i}", 40 + 60 * i) for i in range(3)]
LONG = make_document("chunks/long", 500)  # of several pieces
QUESTION = "The text is mostly about"
INGEST = 1000


def sse(response):
    """The events of a stream; the last, [DONE], is left out."""
    for line in response:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[6:])


class ChunksTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.store = cls.cluster.cache()
        cls.worker = cls.cluster.worker(cls.store.address)
        cls.gateway = cls.cluster.gateway(cls.worker, cache=cls.store.address)
        cls.client = cls.cluster.client(cls.gateway)

    def ok(self, method, path, body=None, status=200):
        got, reply = self.client.call(method, path, body)
        self.assertEqual(got, status, reply)
        return reply

    def ingest(self, texts, **more):
        return self.ok("POST", "/v1/chunks", {"texts": texts, **more})["data"]

    def sources(self, **body):
        return self.client.whole("/v1/completions", {"max_tokens": 4, "temperature": 0, **body})

    def test_stored_chunks_are_hits_in_any_order(self):
        chunks = self.ingest([*PASSAGES, LONG])
        self.assertTrue(all(c["tokens"] > 0 and c["bytes"] > 0 for c in chunks))
        self.assertGreater(chunks[3]["tokens"], 512)
        prompt = " # # ".join(["Read.", LONG, *reversed(PASSAGES), QUESTION])
        answer = self.sources(prompt=prompt)
        self.assertEqual(answer.sources()[1:-1], ["cache"] * 4)
        again = self.ingest([*PASSAGES, LONG])
        self.assertEqual([c["id"] for c in again], [c["id"] for c in chunks])
        self.assertEqual([c["cached_tokens"] for c in again], [c["tokens"] for c in chunks])

    def test_named_by_id_is_the_same_prompt(self):
        ids = [c["id"] for c in self.ingest(PASSAGES)]
        text = self.sources(prompt=" # # ".join(["Read.", *PASSAGES, QUESTION]))
        parts = [{"type": "text", "text": "Read."}, *({"type": "chunk", "id": i} for i in ids),
                 {"type": "text", "text": QUESTION}]
        named = self.sources(prompt=parts)
        self.assertEqual((named.text, named.usage["prompt_tokens"]), (text.text, text.usage["prompt_tokens"]))
        self.assertEqual(named.sources()[1:-1], ["cache"] * 3)

    def test_named_by_id_in_a_chat(self):
        ids = [c["id"] for c in self.ingest(PASSAGES)]

        def ask(documents):
            return self.client.whole("/v1/chat/completions", {
                "messages": [{"role": "user", "content": QUESTION}], "documents": documents,
                "max_tokens": 4, "temperature": 0})

        ask(PASSAGES)  # what else the template puts into the prompt is stored too from here on
        named, written = ask([{"chunk_id": i} for i in ids]), ask(PASSAGES)
        self.assertEqual((named.text, named.usage["prompt_tokens"]),
                         (written.text, written.usage["prompt_tokens"]))
        self.assertEqual(named.sources().count("cache"), written.sources().count("cache"))
        self.assertGreaterEqual(named.sources().count("cache"), 3)

    def test_list_read_pin_delete(self):
        salt = "list"
        chunks = self.ingest([*PASSAGES, LONG], cache_salt=salt)
        ids = {c["id"] for c in chunks}
        listed, after = set(), ""
        while True:
            page = self.ok("GET", f"/v1/chunks?limit=2&cache_salt={salt}{after}")
            self.assertLessEqual(len(page["data"]), 2)
            listed |= {c["id"] for c in page["data"]}
            if not page.get("has_more"):
                break
            after = f"&after={page['last_id']}"
        self.assertEqual(listed, ids)
        self.assertEqual(self.ok("GET", "/v1/chunks?cache_salt=nobody")["data"], [])
        one = chunks[3]["id"]
        self.assertEqual(self.ok("GET", f"/v1/chunks/{one}?cache_salt={salt}")["tokens"], chunks[3]["tokens"])
        self.ok("GET", f"/v1/chunks/{one}", status=404)  # of another salt
        pinned = self.ok("POST", f"/v1/chunks/{one}/pin?cache_salt={salt}", {"ttl_seconds": 60})
        self.assertTrue(pinned["pinned_until"])
        self.ok("DELETE", f"/v1/chunks/{one}?cache_salt={salt}")
        self.ok("GET", f"/v1/chunks/{one}?cache_salt={salt}", status=404)
        prompt = " # # ".join(["Read.", LONG, QUESTION])
        self.assertEqual(self.sources(prompt=prompt, cache_salt=salt).sources()[1], "computed")
        reply = self.ok("POST", "/v1/completions", {"prompt": [{"type": "chunk", "id": one}, {"type": "text", "text": "x"}],
                                                   "cache_salt": salt}, status=404)
        self.assertEqual(reply["error"]["code"], "chunk_not_found")

    def test_bad_requests(self):
        for body in ({}, {"texts": []}, {"texts": [""]}, {"texts": [5]}, {"texts": "x", "ttl_seconds": -1}):
            with self.subTest(body=body):
                self.ok("POST", "/v1/chunks", body, status=400)
        self.ok("GET", "/v1/chunks/no-id", status=400)
        self.ok("GET", "/v1/chunks/chunk-" + "0" * 64, status=404)

    def ingest_stream(self, passages):
        connection, response = self.client.send("POST", "/v1/chunks", {"texts": passages, "stream": True})
        self.assertEqual(response.status, 200)
        return connection, sse(response)

    def test_zz_ingest_of_a_thousand_passages_goes_on_after_a_restart(self):
        passages = [make_document(f"ingest/{i}", 9) for i in range(INGEST)]
        connection, events = self.ingest_stream(passages)
        done = 0
        for event in events:
            self.assertNotIn("error", event)
            self.assertGreaterEqual(event["done"], done)
            self.assertEqual(event["total"], INGEST)
            done = event["done"]
            if done >= INGEST // 2:
                break
        # Gateway and worker die in the middle of it.
        for process in (self.gateway, self.worker):
            process.stop(signal.SIGKILL)
        connection.close()
        cls = type(self)
        cls.worker = self.cluster.worker(self.store.address)
        cls.gateway = self.cluster.gateway(self.worker, cache=self.store.address)
        cls.client = self.cluster.client(self.gateway)
        connection, events = self.ingest_stream(passages)
        last = list(events)[-1]
        connection.close()
        chunks = last["data"]
        self.assertEqual(len(chunks), INGEST)
        self.assertGreaterEqual(sum(c["cached_tokens"] == c["tokens"] for c in chunks), done)
        self.assertEqual(len({c["id"] for c in chunks}), INGEST)


if __name__ == "__main__":
    main()
