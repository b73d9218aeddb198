#!/usr/bin/env python3
"""deploy/start_serving.sh: it serves until it is told to stop, and what goes wrong is said in one clear line."""
import os
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from cluster import REPO, free_port, main, model_folder
from serving_client import Client

SCRIPT = str(REPO / "deploy" / "start_serving.sh")


def environment(**variables):
    ports = {"PORT": free_port(), "CACHE_PORT": free_port(), "WORKER_PORT": free_port()}
    return {**os.environ, **{k: str(v) for k, v in {**ports, **variables}.items()}}


class RefusalTest(unittest.TestCase):
    def refused(self, status, words, **variables):
        done = subprocess.run(
            [SCRIPT], env=environment(**variables), capture_output=True, text=True, timeout=300
        )
        self.assertEqual(done.returncode, status, done.stderr[-500:])
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        self.assertEqual(len(errors), 1, done.stderr[-500:])
        for word in words:
            self.assertIn(word, errors[0])

    def test_taken_port(self):
        for variable in ("PORT", "CACHE_PORT", "WORKER_PORT"):
            with self.subTest(variable), socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = taken.getsockname()[1]
                self.refused(1, [f"port {port} is taken", variable], **{variable: port})

    def test_bad_values(self):
        for variable, value in (
            ("PORT", "x"),
            ("PORT", 70000),
            ("MAX_LEN", "long"),
            ("LMCACHE_CHUNK_SIZE", 0),
            ("LMCACHE_BLEND_RECOMPUTE_RATIOS", 1.5),
            ("LMCACHE_BLEND_RECOMPUTE_RATIOS", "0.1,0.2"),
            ("LMCACHE_BLEND_CHECK_LAYERS", -1),
            ("LMCACHE_ENABLE_BLENDING", "maybe"),
            ("LMCACHE_BLEND_SPECIAL_STR", ""),
            ("LMCACHE_MAX_LOCAL_CPU_SIZE", "big"),
        ):
            with self.subTest(variable, value=value):
                self.refused(2, [variable, "not valid"], **{variable: value})

    def test_model_that_cannot_be_read(self):
        self.refused(1, ["is not there", "smollm2-135m-instruct"], MODEL="/nowhere/model")
        with tempfile.TemporaryDirectory() as folder:
            self.refused(1, ["config.json"], MODEL=folder)
            path = os.path.join(folder, "broken.gguf")
            with open(path, "wb") as f:
                f.write(b"GGUF and then nothing of use")
            self.refused(1, ["cannot be read as GGUF"], MODEL=path)

    def test_short_memory(self):
        model_folder()
        self.refused(
            1, ["memory is short", "LMCACHE_MAX_LOCAL_CPU_SIZE"], LMCACHE_MAX_LOCAL_CPU_SIZE=50000
        )


class ServeTest(unittest.TestCase):
    def setUp(self):
        model_folder()
        self.logs = tempfile.TemporaryDirectory()
        self.variables = environment(
            TESSERA_LOGS=self.logs.name,
            LMCACHE_MAX_LOCAL_CPU_SIZE="0.5",
            MAX_LEN=2048,
            GPU_MEM=0.8,
            LMCACHE_LOCAL_DISK="true",
        )
        self.script = subprocess.Popen(
            [SCRIPT],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        for line in self.script.stdout:
            self.lines.append(line)
            if line.startswith("ready: "):
                return
        self.fail("it did not get ready:\n" + "".join(self.lines[-20:]))

    def tearDown(self):
        self.script.kill()
        self.script.wait()
        self.script.stdout.close()
        self.logs.cleanup()

    def ports_are_free(self):
        for name in ("PORT", "CACHE_PORT", "WORKER_PORT"):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", int(self.variables[name]))) == 0:
                    return False
        return True

    def test_serves_and_stops_all_three(self):
        said = "".join(self.lines)
        for words in (
            "GPU_MEM is for the GPU worker",
            "there is no disk tier yet",
            "logs in " + self.logs.name,
        ):
            self.assertIn(words, said)
        url = re.match(r"ready: (http://\S+)", self.lines[-1])[1]
        answer = Client(url).whole(
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
                "temperature": 0,
            },
        )
        self.assertEqual(answer.text, "The capital of France is Paris.")
        self.script.send_signal(signal.SIGINT)
        self.assertEqual(self.script.wait(30), 0)
        self.assertTrue(self.ports_are_free())

    def test_one_that_dies_takes_the_others_along(self):
        children = subprocess.run(
            ["pgrep", "-P", str(self.script.pid), "-f", "tessera_worker"],
            capture_output=True,
            text=True,
        ).stdout.split()
        os.kill(int(children[0]), signal.SIGKILL)
        rest = self.script.stdout.read()
        self.assertEqual(self.script.wait(30), 1)
        self.assertIn("the worker ended", rest)
        self.assertTrue(self.ports_are_free())


if __name__ == "__main__":
    main()
