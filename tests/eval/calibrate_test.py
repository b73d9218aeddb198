#!/usr/bin/env python3
"""A calibration from texts to the worker that starts with it, over the default model."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))
from cluster import BINARIES, REPO, Cluster, main, model_folder  # noqa: E402  (needs the path above)
from made_up_cases import write_cases  # noqa: E402

WORKER = str(REPO / "bazel-bin" / BINARIES["worker"])


class CalibrateTest(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        # The model's files in a folder that may be written to.
        self.folder = pathlib.Path(self.scratch.name) / "model"
        self.folder.mkdir()
        for name in os.listdir(model_folder()):
            if name != "tessera_calibration.json":
                (self.folder / name).symlink_to(pathlib.Path(model_folder()) / name)
        self.file = self.folder / "tessera_calibration.json"
        self.texts = pathlib.Path(self.scratch.name) / "texts.json"
        write_cases(self.texts, 2, 4)

    def worker(self, *flags):
        return subprocess.run(
            [WORKER, f"--model={self.folder}", "--max_len=2048", "--cache=", "--listen=127.0.0.1:0", *flags],
            capture_output=True,
            text=True,
            timeout=300,
        )

    def tokenized(self):
        path = pathlib.Path(self.scratch.name) / "cases.jsonl"
        command = [sys.executable, str(HERE / "tokenize_cases.py"), str(self.texts), f"--folder={self.folder}"]
        path.write_text(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        return path

    def ready_line(self, **flags):
        cluster = Cluster()
        self.addCleanup(cluster.close)
        cluster.folder = str(self.folder)
        process = cluster.worker("", max_len=2048, **flags)
        return next(line for line in process.lines if "event=ready" in line)

    def test_a_worker_starts_with_what_was_found(self):
        cases = self.tokenized()
        lines = cases.read_text().splitlines()
        self.assertEqual([len(json.loads(line)["segments"]) for line in lines], [6, 6])
        done = self.worker(
            f"--calibrate={cases}",
            "--budget=ttft=100x",
            "--calibrate_policies=none,query_v",
            "--calibrate_ratios=0.5",
        )
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertIn("<- chosen", done.stdout)
        self.assertIn("8 of 8", done.stderr)
        found = json.loads(self.file.read_text())
        # Time is no object: the closest wins.
        self.assertEqual((found["policy"], found["recompute_ratio"]), ("query_v", 0.5))
        self.assertEqual((found["sink"], found["cases"], found["budget"]), ("bos", 2, "ttft=100x"))
        self.assertGreater(found["kl16"], 0)
        line = self.ready_line()
        self.assertIn("policy=query_v recompute_ratio=0.5", line)
        self.assertIn(f'calibration="ttft=100x,{found["date"]}"', line)
        line = self.ready_line(policy="first_k", recompute_ratio=0.3)
        self.assertIn("policy=first_k recompute_ratio=0.3", line)

        found["fingerprint"] = "0" * 64
        for text, words in (
            (json.dumps(found), "made for another model"),
            ('{"format": 1', "it is no JSON object"),
        ):
            self.file.write_text(text)
            done = self.worker()
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(words, done.stderr)
            self.assertIn("delete the file, or calibrate again", done.stderr)

    def test_says_what_it_cannot_do(self):
        done = self.worker(f"--calibrate={self.texts}", "--budget=KL=0.2")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"python3 tests/eval/tokenize_cases.py {self.texts} --folder {self.folder} >", done.stderr)
        done = self.worker(
            f"--calibrate={self.tokenized()}", "--budget=KL=1e-9", "--calibrate_policies=none"
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("Nearest: none", done.stderr)
        self.assertFalse(self.file.exists())


if __name__ == "__main__":
    main()
