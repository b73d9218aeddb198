#!/usr/bin/env python3
"""Chunks are found in any order, and a new document costs only itself."""
from cluster import ClusterTest, chunks_stored, main
from serving_client import make_document

A, B, C, NEW = (make_document(f"order/{name}", 120) for name in "ABCN")
LEAD, QUESTION = "Read these documents.", "Which of them is the longest?"


def body(*documents, **more):
    return {
        "prompt": " # # ".join([LEAD, *documents, QUESTION]),
        "max_tokens": 8,
        "temperature": 0,
        **more,
    }


class OrderTest(ClusterTest):
    def ask(self, *documents, **more):
        return self.client.whole("/v1/completions", body(*documents, **more))

    def test_1_first_request_computes_everything(self):
        answer = self.ask(A, B, C)
        self.assertEqual(answer.sources(), ["computed"] * 5)
        self.assertEqual(answer.tessera["computed_tokens"], answer.usage["prompt_tokens"])
        self.assertEqual(answer.usage["prompt_tokens_details"]["cached_tokens"], 0)
        chunks_stored(self.client, body(A, B, C))

    def test_2_another_order_hits_all(self):
        answer = self.ask(C, A, B)
        self.assertEqual(answer.sources(), ["cache"] * 4 + ["computed"])
        self.assertEqual(
            answer.tessera["computed_tokens"], answer.tessera["segments"][-1]["tokens"]
        )
        self.assertEqual({s["tier"] for s in answer.tessera["segments"][:-1]}, {"worker"})

    def test_3_a_new_document_costs_only_itself(self):
        answer = self.ask(C, NEW, A, B)
        self.assertEqual(
            answer.sources(), ["cache", "cache", "computed", "cache", "cache", "computed"]
        )
        segments = answer.tessera["segments"]
        self.assertEqual(
            answer.tessera["computed_tokens"], segments[2]["tokens"] + segments[-1]["tokens"]
        )
        chunks_stored(self.client, body(NEW))

    def test_4_counts_add_up(self):
        t = self.ask(B, NEW, C).tessera
        self.assertEqual(t["exact_tokens"], t["segments"][0]["tokens"])  # the lead
        self.assertEqual(t["recomputed_tokens"], sum(s["recomputed_tokens"] for s in t["segments"]))
        candidates = sum(s["tokens"] for s in t["segments"][1:-1])
        self.assertAlmostEqual(t["recomputed_tokens"], 0.15 * candidates, delta=1)
        self.assertEqual(t["blended_tokens"] + t["recomputed_tokens"], candidates)

    def test_4_another_worker_fetches_them(self):
        worker = self.cluster.worker(self.cluster.processes[0].address)
        client = self.cluster.client(self.cluster.gateway(worker))
        for tier in ("ram", "worker"):  # fetched once, then they stay
            answer = client.whole("/v1/completions", body(B, C, A))
            self.assertEqual(answer.sources(), ["cache"] * 4 + ["computed"])
            self.assertEqual({s["tier"] for s in answer.tessera["segments"][:-1]}, {tier})

    def test_5_another_salt_shares_nothing(self):
        self.assertEqual(self.ask(A, B, C, cache_salt="other").sources(), ["computed"] * 5)

    def test_6_off_reads_nothing(self):
        answer = self.ask(A, B, C, tessera={"mode": "off"})
        self.assertEqual(set(answer.sources()), {"computed"})
        self.assertEqual(answer.tessera["computed_tokens"], answer.usage["prompt_tokens"])


if __name__ == "__main__":
    main()
