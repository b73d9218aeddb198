#!/usr/bin/env python3
"""The figures of an evaluation, against their definitions."""

import math
import random
import unittest

import fidelity


def softmax(logits):
    top = max(logits)
    total = sum(math.exp(x - top) for x in logits)
    return [x - top - math.log(total) for x in logits]


def top(logprobs, count):
    order = sorted(range(len(logprobs)), key=lambda i: -logprobs[i])[:count]
    return {i: logprobs[i] for i in order}


class FidelityTest(unittest.TestCase):
    def setUp(self):
        draw = random.Random(1)
        self.p = softmax([draw.gauss(0, 3) for _ in range(4000)])
        self.q = softmax([x + draw.gauss(0, 0.5) for x in self.p])
        self.exact = sum(math.exp(p) * (p - q) for p, q in zip(self.p, self.q))

    def test_kl_of_all_tokens_is_exact_and_fewer_never_give_more(self):
        before = 0.0
        for count in (1, 10, 100, 1024, 4000):
            now = fidelity.kl(top(self.p, count), top(self.q, count))
            self.assertGreaterEqual(now, before - 1e-9)
            self.assertLessEqual(now, self.exact + 1e-9)
            before = now
        self.assertAlmostEqual(before, self.exact, 9)
        self.assertGreater(fidelity.kl(top(self.p, 1024), top(self.q, 1024)), 0.97 * self.exact)

    def test_kl_of_equals_is_zero_and_of_strangers_is_large(self):
        self.assertEqual(fidelity.kl(top(self.p, 50), top(self.p, 50)), 0)
        self.assertGreater(fidelity.kl({1: math.log(0.999)}, {2: math.log(0.999999)}), -0.01)
        self.assertGreater(fidelity.kl({1: math.log(0.9), 2: math.log(0.09)}, {2: math.log(0.99), 1: -12}), 8)

    def test_token_f1_is_squads(self):
        self.assertEqual(fidelity.token_f1("The Town of Bergen.", "town of bergen"), 1)
        self.assertEqual(fidelity.token_f1("", "the"), 1)
        self.assertEqual(fidelity.token_f1("x", ""), 0)
        self.assertAlmostEqual(fidelity.token_f1("in Bergen", "Bergen, Norway"), 0.5)

    def test_the_frontier_is_what_nothing_beats(self):
        rows = [{"ttft_ms": t, "kl16_mean": k} for t, k in ((5, 1), (4, 2), (6, 1), (3, 3), (3, 2.5), (9, 0))]
        self.assertEqual(
            [(r["ttft_ms"], r["kl16_mean"]) for r in fidelity.frontier(rows)],
            [(3, 2.5), (4, 2), (5, 1), (9, 0)],
        )

    def test_a_summary_counts_cases_in_means_and_tokens_in_medians(self):
        rest = {"top1": 1, "same": 0, "f1_full": 1, "f1_gold": 1, "rows": 0.5, "ttft_ms": 4}
        summary = fidelity.summarize([{"kl": [1, 0, 0, 3], **rest}, {"kl": [3], **rest, "same": 1}])
        self.assertEqual(summary["kl16_mean"], 2)
        self.assertEqual(summary["kl16_median"], 1)
        self.assertEqual(summary["kl16_worst"], 3)
        self.assertEqual(summary["kl1_mean"], 2)
        self.assertEqual(summary["same"], 0.5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
