#!/usr/bin/env python3
"""The capacity calculator against hand-made numbers, against measurements, and against a real cache server."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tests" / "integration"), str(REPO / "deploy")]
import capacity  # noqa: E402  (needs the path above)
import cluster  # noqa: E402
from serving_client import make_document  # noqa: E402

CTL = REPO / "bazel-bin/cache_server/ctl/tessera_ctl"
MISTRAL = ["--layers=32", "--kv-heads=8", "--head-dim=128"]
# gpu_worker/README.md, one H100: 8 passages and a question of 32 tokens, 8,192 together; TTFT full, and blends.
H100 = [*MISTRAL, "--passages=8", "--document-tokens=1020", "--question-tokens=32", f"--prefill-tokens-per-s={8192 / .203}"]


def run(*words):
    return subprocess.run([sys.executable, str(REPO / "deploy/capacity.py"), *words], capture_output=True, text=True)


def values(*words):
    done = run("--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class FormulaTest(unittest.TestCase):
    def test_sizes_of_a_mistral(self):
        found = values(*MISTRAL, "--documents=10", "--document-tokens=300")
        self.assertEqual(found["kv_bytes_per_token"], 131072)
        self.assertEqual(found["layer_slice_bytes"], 1 << 20)
        self.assertEqual(found["chunk_bytes"], 300 * 131072)
        # Two pieces: 256 and 44 tokens, each with 32 checksums of 8 bytes, in pages of 4 KiB.
        self.assertEqual(found["chunk_memory_bytes"], (8192 + 1 + 1408 + 1) * 4096)
        self.assertEqual(found["library_bytes"], 10 * found["chunk_memory_bytes"])
        self.assertAlmostEqual(found["ram_bytes"] * .9, found["library_bytes"], delta=1)
        self.assertAlmostEqual(found["disk_bytes"] * .72, found["library_bytes"], delta=1)

    def test_only_the_hot_share_needs_memory(self):
        found = values(*MISTRAL, "--hot-share=0.25")
        self.assertAlmostEqual(found["ram_bytes"] * .9, found["library_bytes"] / 4, delta=1)

    def test_a_request_takes_whole_blocks(self):
        common = [*MISTRAL, "--passages=1", "--document-tokens=60", "--question-tokens=4", "--answer-tokens=1"]
        self.assertEqual(values(*common, "--device=cuda")["request_kv_bytes"], 128 * 131072)
        self.assertEqual(values(*common, "--device=cpu")["request_kv_bytes"], 128 * 2 * 131072)

    def test_workers_cover_the_load(self):
        load = [*H100, "--decode-tokens-per-s=1778", "--answer-tokens=128"]
        few, many = (values(*load, f"--rate={rate}") for rate in (10, 100))
        busy = few["mean_prefill_seconds"] + few["mean_decode_seconds"]
        self.assertLess(10 * busy, .6 * few["workers"])
        self.assertGreaterEqual(10 * busy, .6 * (few["workers"] - 1))
        self.assertGreater(many["workers"], 8 * few["workers"] - 8)
        self.assertLess(many["workers"], many["workers_without_reuse"])

    def test_text_says_what_json_says(self):
        text = run(*H100).stdout
        for key in values(*H100):
            if key != "inputs":
                self.assertIn(f"  {key} ", text)


class MeasuredTest(unittest.TestCase):
    """What one H100 took, within a fifth: the estimates leave out what is in the README's text."""

    def test_times_of_a_blend(self):
        found = values(*H100)
        for key, measured in (("prefill_seconds", .205), ("blend_seconds", .0440),
                              ("ttft_seconds over shared memory", .0606), ("ttft_seconds over gRPC, one connection", .407)):
            self.assertAlmostEqual(found[key] / measured, 1, delta=.2, msg=key)

    def test_a_slow_link_is_named(self):
        text = run(*H100, "--link=ethernet=1.2").stdout
        lines = {line.split("  = ")[0][2:42].strip(): line for line in text.splitlines() if "ttft_seconds" in line}
        self.assertIn("full prefill is faster", lines["ttft_seconds over ethernet"])
        self.assertNotIn("full prefill is faster", lines["ttft_seconds over shared memory"])


class BadInputTest(unittest.TestCase):
    def refused(self, words, *args):
        done = run(*args)
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn(words, done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_what_is_wrong_is_said(self):
        self.refused("give --model FOLDER, or --layers, --kv-heads and --head-dim")
        self.refused("config.json: No such file", "--model=/nowhere")
        self.refused("0 is not above 0", *MISTRAL, "--documents=0")
        self.refused("invalid int value: 'many'", *MISTRAL, "--documents=many")
        self.refused("1.5 is not between 0 and 1", *MISTRAL, "--ratio=1.5")
        self.refused("is not NAME=GB_PER_SECOND", *MISTRAL, "--link=ethernet")
        self.refused("give all three", *MISTRAL, "--rate=3")
        self.refused("invalid choice: 'int4'", *MISTRAL, "--dtype=int4")

    def test_a_config_that_is_none(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "config.json")
            for text in ("not JSON", "[]", "{}", '{"num_attention_heads": 8, "head_dim": 64, "num_hidden_layers": "a"}'):
                path.write_text(text)
                self.refused("give --layers, --kv-heads and --head-dim", f"--model={folder}")


class RealTest(cluster.ClusterTest):
    @classmethod
    def start(cls):
        cls.store = cls.cluster.cache()
        gateway = cls.cluster.gateway(cls.cluster.worker(cls.store.address), cache=cls.store.address)
        cls.client = cls.cluster.client(gateway)

    def test_a_chunk_has_the_size_that_was_computed(self):
        status, reply = self.client.call("POST", "/v1/chunks", {"texts": [make_document("capacity", 500)]})
        self.assertEqual(status, 200, reply)
        chunk = reply["data"][0]
        self.assertGreater(chunk["tokens"], 512)
        found = values(f"--model={self.cluster.folder}", "--documents=1", f"--document-tokens={chunk['tokens']}")
        self.assertEqual(chunk["bytes"], found["chunk_bytes"])

        entries = json.loads(self.ctl("ls", "--json"))
        pieces = [e for e in entries if e["layers"] > 1]  # the other one is the chunk's record
        self.assertEqual(len(pieces), -(-chunk["tokens"] // 256))
        self.assertEqual(sum(e["layers"] * e["slice_bytes"] for e in pieces), found["chunk_bytes"])
        record = next(e for e in entries if e["layers"] == 1)
        used = int(json.loads(self.ctl("stats", "--json"))["tiers"][0]["used_bytes"])
        self.assertEqual(used, found["chunk_memory_bytes"] + capacity.chunk_memory(record["slice_bytes"], 1 << 30, 1, 1))

    def ctl(self, *words):
        done = subprocess.run([str(CTL), f"--server={self.store.address}", *words], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


if __name__ == "__main__":
    cluster.main()
