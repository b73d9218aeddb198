#!/usr/bin/env python3
"""The evaluation from end to end, on a made-up data set and the default model; and what it says of a bad one."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))
from cluster import Cluster, main, model_folder  # noqa: E402  (needs the path above)
from made_up_cases import write_cases  # noqa: E402

def evaluate(*arguments):
    return subprocess.run(
        [sys.executable, str(HERE / "evaluate.py"), *arguments], capture_output=True, text=True
    )


class EvaluateTest(unittest.TestCase):
    def test_ranks_candidates_as_they_must_be(self):
        model_folder()  # ends as skipped without it
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder) / "cases.json"
            write_cases(data, 3, 4)
            done = evaluate(
                str(data),
                "--policies=full,none,query_v",
                "--ratios=0.5",
                "--new=16",
                f"--out={folder}",
            )
            self.assertEqual(done.returncode, 0, done.stderr[-2000:])
            report = json.loads((pathlib.Path(folder) / "evaluation.json").read_text())
            picture = (pathlib.Path(folder) / "evaluation.png").read_bytes()
        rows = {(r["policy"], r["correction"]): r for r in report["rows"]}
        full, none = rows["full", False], rows["none", False]
        half, corrected = rows["query_v", False], rows["query_v", True]
        self.assertEqual(report["cases"], 3)
        self.assertTrue(all(x["resident"] for r in report["rows"] for x in r["records"]))
        # Every row recomputed: what is left is the lead's rounding to bf16.
        self.assertLess(full["kl16_worst"], 1e-2)
        self.assertLess(full["kl16_mean"], 1e-3)
        self.assertEqual(full["top1"], 1)
        self.assertEqual(none["rows"], 0)
        self.assertGreater(none["kl16_mean"], 2 * half["kl16_mean"])
        self.assertGreater(none["kl16_mean"], 2 * corrected["kl16_mean"])
        self.assertGreater(half["kl16_mean"], 10 * full["kl16_mean"])
        self.assertTrue(0.3 < half["rows"] < 0.5, half["rows"])
        self.assertTrue(full["on_frontier"])
        self.assertIn("query_v", done.stdout)
        self.assertTrue(picture.startswith(b"\x89PNG"))

    def test_evaluates_a_running_worker(self):
        cluster = Cluster()
        self.addCleanup(cluster.close)
        worker = cluster.worker(cluster.cache().address)
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder) / "cases.json"
            write_cases(data, 1, 3)
            given = (str(data), "--policies=none", "--new=4", f"--out={folder}")
            done = evaluate(*given, f"--worker={worker.address}", f"--folder={cluster.folder}")
            self.assertEqual(done.returncode, 0, done.stderr[-2000:])
            report = json.loads((pathlib.Path(folder) / "evaluation.json").read_text())
            self.assertEqual([r["sink"] for r in report["rows"]], ["-"])
            self.assertGreater(report["rows"][0]["kl16_mean"], 0)
            worker.stop()
            done = evaluate(*given, f"--worker={worker.address}", f"--folder={cluster.folder}")
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"no worker at {worker.address}", done.stderr)

    def test_says_what_is_wrong_with_a_data_set(self):
        model_folder()
        with tempfile.TemporaryDirectory() as folder:
            for text, words in (
                (None, "No such file"),
                ("{", "not JSON"),
                ("[]", "no list of cases"),
                ('[{"ctxs": [], "question": "", "answers": []}]', "ctxs of case 0"),
                ('[{"ctxs": [{"text": "a"}], "question": "b"}]', "case 0 has no answers"),
                ('[{"ctxs": [{"title": "a"}], "question": "b", "answers": ["c"]}]', "passage 0 of case 0"),
            ):
                data = pathlib.Path(folder) / "cases.json"
                if text is not None:
                    data.write_text(text)
                done = evaluate(str(data))
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(words, done.stderr)
                self.assertIn('"question"', done.stderr)
                self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    main()
