#!/usr/bin/env python3
"""The worker's metrics over HTTP say what its answers say."""
import time
import urllib.request

from cluster import ClusterTest, free_port, main
from serving_client import ServerError, make_document

SOURCES = ("exact", "blended", "recomputed", "computed")
DOCUMENTS = [make_document(f"metrics/{i}", 90) for i in range(3)]


class WorkerMetricsTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.port = free_port()
        cls.client = cls.cluster.serve(metrics_listen=f"127.0.0.1:{cls.port}", drift_sample=1,
                                       choose_by_cost="true", chunk_pool="false")

    def scrape(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        values = {name.removeprefix("tessera_worker_"): float(value) for name, value in pairs}
        for name in ("fetched_bytes_total", "stored_bytes_total"):
            values[name] = sum(values[f'{name}{{transport="{way}"}}'] for way in ("grpc", "shm"))
        return values

    def scrape_until(self, ready, tries=100):
        """What is counted at a request's end may come a moment after its answer."""
        for _ in range(tries):
            values = self.scrape()
            if ready(values):
                return values
            time.sleep(0.05)
        raise AssertionError({name: value for name, value in values.items() if "_bucket" not in name})

    def body(self, documents, mode, tokens=4):
        return {"prompt": " # # ".join(["Read.", *documents, "Which is the first?"]), "max_tokens": tokens,
                "temperature": 0, "tessera": {"mode": mode}}

    def ask(self, answers, *arguments):
        answers.append(self.client.whole("/v1/completions", self.body(*arguments)))
        return answers[-1]

    def test_values(self):
        before, answers = self.scrape(), []
        self.assertFalse([name for name in before if name.startswith("vllm:")], "nobody asked for them")
        self.assertEqual(before["self_test_passed"], 1)
        self.assertLess(abs(before["self_test_kl"]), 0.02)
        self.ask(answers, DOCUMENTS, "blend", 4)
        self.scrape_until(lambda v: v["stored_bytes_total"] > before["stored_bytes_total"])
        self.ask(answers, DOCUMENTS, "blend", 1)
        self.ask(answers, list(reversed(DOCUMENTS)), "blend", 7)
        self.ask(answers, DOCUMENTS, "exact", 3)
        self.ask(answers, DOCUMENTS, "off", 1)
        with self.assertRaises(ServerError):
            self.client.whole("/v1/completions", {"prompt": "x", "max_tokens": 10**6})
        after = self.scrape_until(lambda v: v.get('requests_total{outcome="ok"}', 0)
                                  - before.get('requests_total{outcome="ok"}', 0) >= len(answers))
        grown = {name: value - before.get(name, 0) for name, value in after.items()}

        self.assertEqual(grown['requests_total{outcome="ok"}'], 5)
        for source in SOURCES:
            self.assertEqual(grown[f'prompt_tokens_total{{source="{source}"}}'],
                             sum(a.tessera[f"{source}_tokens"] for a in answers), source)
        self.assertGreater(grown['prompt_tokens_total{source="blended"}'], 0)
        self.assertEqual(grown["generated_tokens_total"], 4 + 1 + 7 + 3 + 1)
        self.assertEqual(grown["inter_token_seconds_count"], 3 + 0 + 6 + 2 + 0)
        self.assertEqual(grown['prefill_seconds_count{kind="blend"}'], 3)
        self.assertEqual(grown['prefill_seconds_count{kind="exact"}'], 1)
        self.assertEqual(grown['prefill_seconds_count{kind="off"}'], 1)
        self.assertEqual(grown["time_to_first_token_seconds_count"], 5)
        self.assertGreater(grown["time_to_first_token_seconds_sum"], grown["queue_seconds_sum"])
        self.assertGreaterEqual(grown['segments_total{tier="ram"}'], 8)
        self.assertGreater(grown["stored_bytes_total"], 0)
        # Two blends of the same three chunks and the lead.
        self.assertGreaterEqual(grown["fetched_bytes_total"], grown["stored_bytes_total"])
        self.assertGreater(after["cache_bytes_per_second"], 0)
        self.assertEqual((after["requests_waiting"], after["requests_running"]), (0, 0))
        for name in ("failed_fetches_total", "failed_stores_total", "checksum_failures_total",
                     "dropped_chunks_total"):
            self.assertEqual(after[name], 0, name)

    def test_what_is_faster_is_chosen(self):
        """Cases that are clear on every machine, and modes that are never overruled."""
        decisions = {choice: f'cost_decisions_total{{choice="{choice}"}}' for choice in ("blend", "full")}
        documents = [make_document(f"choice/{i}", 150) for i in range(4)]
        self.ask([], documents, "blend", 1)
        self.scrape_until(lambda v: v["stored_bytes_total"] > 0)
        before = self.scrape()
        self.assertEqual(self.ask([], documents, "auto", 1).tessera["policy"], "query_v")
        brief = {"prompt": "Hi. # # A word. # # " + make_document("choice/question", 120),
                 "max_tokens": 1, "tessera": {"mode": "auto"}}
        self.assertEqual(self.client.whole("/v1/completions", brief).tessera["policy"], "exact")
        brief["tessera"]["mode"] = "blend"
        self.assertEqual(self.client.whole("/v1/completions", brief).tessera["policy"], "query_v")
        after = self.scrape()
        self.assertEqual({c: after[name] - before[name] for c, name in decisions.items()},
                         {"blend": 1, "full": 1})
        errors = {kind: after[f'cost_actual_over_predicted_count{{kind="{kind}"}}']
                  - before[f'cost_actual_over_predicted_count{{kind="{kind}"}}'] for kind in ("query", "full")}
        self.assertEqual(errors, {"query": 2, "full": 1})

    def test_drift(self):
        for _ in range(2):
            before = self.scrape()
            self.ask([], [make_document(f"drift/{i}", 60) for i in range(2)], "blend", 3)
            after = self.scrape_until(lambda v: v['drift_samples_total{outcome="measured"}']
                                      > before['drift_samples_total{outcome="measured"}'])
            self.assertEqual(after["drift_kl_count"], after['drift_samples_total{outcome="measured"}'])
            self.assertGreater(after["drift_kl_sum"], before["drift_kl_sum"])


if __name__ == "__main__":
    main()
