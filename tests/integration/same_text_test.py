#!/usr/bin/env python3
"""The same request gives the same greedy text cold, warm, after a cache restart, on another worker, with another
piece size, and streamed or not."""
from cluster import ClusterTest, chunks_stored, main
from serving_client import make_document

DOCUMENTS = [
    make_document(f"same/{i}", words) for i, words in enumerate((60, 130, 330, 90))
]  # one is of several pieces


def body(documents, **more):
    prompt = " # # ".join(["Read these documents.", *documents, "The documents are mostly about"])
    return {"prompt": prompt, "max_tokens": 24, "temperature": 0, **more}


class SameTextTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.store = cls.cluster.cache()
        cls.one = cls.serve_with(cls.store)
        cls.want = cls.one.whole("/v1/completions", body(DOCUMENTS))

    @classmethod
    def serve_with(cls, store, chunk_pool="false", **flags):
        """Without a pool, so that what is cached comes from the cache server."""
        flags["chunk_pool"] = chunk_pool
        return cls.cluster.client(cls.cluster.gateway(cls.cluster.worker(store.address, **flags)))

    def check(self, client, source, **more):
        answer = client.whole("/v1/completions", body(DOCUMENTS, **more))
        self.assertEqual(answer.sources()[:-1], [source] * (len(DOCUMENTS) + 1))
        self.assertEqual(answer.text, self.want.text)
        return answer

    def test_1_cold_text_is_a_text(self):
        self.assertEqual(set(self.want.sources()), {"computed"})
        self.assertGreater(len(self.want.text.split()), 5)

    def test_2_warm(self):
        chunks_stored(self.one, body(DOCUMENTS))
        self.check(self.one, "cache")

    def test_3_streamed(self):
        answer = self.one.stream("/v1/completions", body(DOCUMENTS))
        self.assertEqual(answer.text, self.want.text)
        self.assertEqual(answer.finish_reason, self.want.finish_reason)
        self.assertEqual(answer.usage["completion_tokens"], self.want.usage["completion_tokens"])
        self.assertEqual(answer.sources()[:-1], ["cache"] * (len(DOCUMENTS) + 1))

    def test_4_on_another_worker(self):
        self.check(self.serve_with(self.store), "cache")

    def test_5_on_another_worker_with_one_thread(self):
        self.check(self.serve_with(self.store, threads=1), "cache")

    def test_6_layer_by_layer_or_not(self):
        self.check(self.serve_with(self.store, layerwise="false"), "cache")

    def test_7_another_piece_size(self):
        client = self.serve_with(self.cluster.cache(), chunk_size=64)
        self.check(client, "computed")
        chunks_stored(client, body(DOCUMENTS))
        self.check(client, "cache")

    def test_8_after_a_cache_restart(self):
        self.store.stop()
        type(self).store = self.cluster.cache(port=self.store.port)
        self.check(self.one, "computed")
        chunks_stored(self.one, body(DOCUMENTS))
        self.check(self.one, "cache")

    def test_8_chunks_that_stay_in_the_worker(self):
        client = self.serve_with(self.store, chunk_pool="true")
        for tier in ("ram", "worker"):
            answer = self.check(client, "cache")
            self.assertEqual({s["tier"] for s in answer.tessera["segments"][:-1]}, {tier})

    def test_9_other_policies_cold_and_warm(self):
        for policy in ("query", "hkvd_v", "first_k", "query_v+first", "none", "full"):
            with self.subTest(policy=policy):
                cold, warm = (
                    self.one.whole(
                        "/v1/completions",
                        body(DOCUMENTS, cache_salt=salt, tessera={"policy": policy}),
                    )
                    for salt in (policy, "")
                )
                self.assertEqual(set(cold.sources()), {"computed"})
                self.assertIn("cache", warm.sources())
                self.assertEqual(cold.text, warm.text)


if __name__ == "__main__":
    main()
