#!/usr/bin/env python3
"""The worker's peak memory stays within 1.5 times the weights plus the KV of max_len tokens and its pool, whatever it is asked."""
import subprocess
import sys

from cluster import REPO, ClusterTest, main
from serving_client import make_document

MAX_LEN = 4096
POOL_BYTES = 16 << 20  # less than the chunks of the prompt here


class MemoryTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.cache = cls.cluster.cache()
        cls.worker = cls.cluster.worker(cls.cache.address, max_len=MAX_LEN, chunk_pool_bytes=POOL_BYTES)
        cls.client = cls.cluster.client(cls.cluster.gateway(cls.worker))
        facts = subprocess.check_output(
            [sys.executable, str(REPO / "deploy/models/facts.py"), cls.cluster.folder], text=True
        )
        weights, kv_per_token, _ = map(int, facts.split())
        cls.budget = weights * 3 // 2 + kv_per_token * MAX_LEN + POOL_BYTES

    def test_long_prompts_blended_and_exact(self):
        documents = [make_document(f"memory/{i}", 150) for i in range(8)]
        prompt = " # # ".join(["Read these documents.", *documents, "They are about"])
        for mode in ("auto", "auto", "exact"):
            body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "tessera": {"mode": mode}}
            answer = self.client.whole("/v1/completions", body)
            self.assertGreater(answer.usage["prompt_tokens"], 1200)
        peak = self.worker.peak_bytes()
        print(f"peak {peak / 1e6:.0f} MB of {self.budget / 1e6:.0f} MB")
        self.assertLessEqual(peak, self.budget)


if __name__ == "__main__":
    main()
