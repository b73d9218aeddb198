#!/usr/bin/env python3
"""What load_bench makes of requests and trials, without servers."""

import argparse
import collections
import math
import os
import subprocess
import sys
import unittest

import load_bench
import machine_load


def traffic(**changes):
    values = {"seed": 1, "passages": 50, "zipf": 1.0, "per_prompt": 6, "answer": 8, **changes}
    return load_bench.Traffic(argparse.Namespace(**values), "model", words=5)


def passages_of(body, of):
    parts = body["messages"][1]["content"].split(load_bench.SEPARATOR)
    return [of.passages.index(text) for text in parts[:-1]], parts[-1]


class Capacity(load_bench.Trials):
    """Trials of a server that holds what is below a rate; `unsteady` trials of that rate itself do not hold."""

    def __init__(self, most, unsteady=0, search=60):
        super().__init__(None, None, argparse.Namespace(search=search), 1.0)
        self.most, self.unsteady, self.tried = most, unsteady, []

    def hold(self, mode, rate, seed="trial"):
        self.tried.append((seed, rate))
        held = rate <= self.most
        if seed == "again" and self.unsteady:
            self.unsteady -= 1
            held = False
        return {"rate": rate, "held": held}


class TrafficTest(unittest.TestCase):
    def test_the_same_seed_is_the_same_traffic(self):
        self.assertEqual(traffic().draw("a", 20), traffic().draw("a", 20))
        self.assertNotEqual(traffic().draw("a", 20), traffic().draw("b", 20))
        self.assertEqual(traffic().draw("a", 20)[:5], traffic().draw("a", 5))

    def test_passages_differ_within_a_prompt_and_follow_zipf(self):
        of, counts, questions = traffic(), collections.Counter(), set()
        first = 0
        for _, body in of.draw("a", 1000):
            chosen, question = passages_of(body, of)
            self.assertEqual(len(set(chosen)), 6)
            counts.update(chosen)
            questions.add(question)
            first += chosen[0] == min(chosen)
        self.assertEqual(len(questions), 1000)
        # The likeliest is in most prompts, the last in few; and any order is as likely.
        self.assertGreater(counts[0], 0.6 * 1000)
        self.assertGreater(counts[1], counts[5])
        self.assertGreater(counts[5], 1.5 * counts[49])
        self.assertAlmostEqual(first / 1000, 1 / 6, delta=0.05)

    def test_gaps_are_those_of_a_poisson_process(self):
        gaps = [gap for gap, _ in traffic().draw("a", 2000)]
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
        self.assertAlmostEqual(mean, 1, delta=0.1)
        self.assertAlmostEqual(deviation, 1, delta=0.15)


class TrialsTest(unittest.TestCase):
    def test_finds_the_highest_rate_from_either_side(self):
        for most in (0.11, 0.9, 1.0, 7.3):
            trials = Capacity(most)
            found = trials.highest("blend", 1.0)["rate"]
            self.assertLessEqual(found, most)
            self.assertGreater(found * load_bench.NEAR, most)
            self.assertEqual(trials.tried[-1], ("again", found))

    def test_a_rate_must_hold_twice(self):
        trials = Capacity(7.3, unsteady=2)
        found = trials.highest("blend", 1.0)["rate"]
        self.assertGreater(trials.searched["blend"], found)
        self.assertAlmostEqual(found * load_bench.NEAR**2, Capacity(7.3).highest("blend", 1.0)["rate"])

    def test_without_time_the_first_rate_that_holds_is_taken(self):
        trials = Capacity(7.3, search=-1)
        self.assertEqual(trials.highest("blend", 1.0)["rate"], 1.0)
        self.assertEqual(len(trials.tried), 2)

    def test_gives_up_on_a_server_that_holds_nothing(self):
        with self.assertRaisesRegex(load_bench.ServerError, "raise --bound"):
            Capacity(0).highest("blend", 1.0)

    def test_a_quantile_is_a_value_that_so_many_do_not_exceed(self):
        self.assertEqual(load_bench.quantile(range(1, 41), 0.95), 38)
        self.assertEqual(load_bench.quantile([3, 1, 2], 0.5), 2)
        self.assertEqual(load_bench.quantile([5], 0.95), 5)
        self.assertEqual(load_bench.quantile([1, math.inf], 0.95), math.inf)


class MachineLoadTest(unittest.TestCase):
    def test_a_program_of_others_is_seen_and_ones_own_is_not(self):
        burn = "import sys, time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\nsys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", "print(flush=True)\n" + burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            child.stdout.readline()
            strange, own = machine_load.MachineLoad([]), machine_load.MachineLoad([child.pid])
            while machine_load.ticks_of(child.pid) < 0.9 * os.sysconf("SC_CLK_TCK"):
                pass
            strange, own = strange.report(), own.report()
            child.stdin.close()
        self.assertGreater(strange["others_share"], own["others_share"])
        self.assertEqual(own["busy_machine"], own["others_share"] > machine_load.BUSY)


if __name__ == "__main__":
    unittest.main(verbosity=2)
