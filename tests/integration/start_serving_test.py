#!/usr/bin/env python3
"""deploy/start_serving.sh: it serves until it is told to stop, what dies comes back, and what goes wrong is said in one
clear line."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

from cluster import REPO, chunks_stored, free_port, free_ports, main, model_folder
from serving_client import Client, ServerError, make_document

SCRIPT = str(REPO / "deploy" / "start_serving.sh")
CTL = str(REPO / "bazel-bin" / "cache_server" / "ctl" / "tessera_ctl")
PORTS = ("PORT", "CACHE_PORT", "WORKER_PORT", "CACHE_METRICS_PORT", "WORKER_METRICS_PORT")
LISTENS = {"gateway": "PORT", "cache server": "CACHE_PORT", "worker": "WORKER_PORT"}
ANSWER_SECONDS = 120
CAPITAL = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}
# In the worker: every request fetches, and "cache" means that the cache server has it.
NOTHING_STAYS = {"TESSERA_WORKER_CHUNK_POOL": "false"}
DOCUMENTS = {
    "prompt": " # # ".join(
        ["Read these documents.", *(make_document(f"start/{i}", 90) for i in range(3)), "The first says"]
    ),
    "max_tokens": 4,
    "temperature": 0,
    "tessera": {"mode": "blend"},
}


def environment(**variables):
    ports = dict(zip(PORTS, free_ports(len(PORTS))))
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
        for variable in PORTS:
            with self.subTest(variable), socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = taken.getsockname()[1]
                self.refused(1, [f"port {port} is taken", variable], **{variable: port})

    def test_same_port_twice(self):
        port = free_port()
        self.refused(1, ["must differ", str(port)], CACHE_PORT=port, WORKER_PORT=port)

    def test_disk_that_cannot_be_written(self):
        with tempfile.NamedTemporaryFile() as file:
            self.refused(1, [file.name, "LMCACHE_LOCAL_DISK"], LMCACHE_LOCAL_DISK=f"{file.name}/disk")

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
            ("LMCACHE_MAX_LOCAL_DISK_SIZE", "big"),
            ("LMCACHE_MAX_LOCAL_DISK_SIZE", 0.5),
            ("LMCACHE_LOCAL_DISK", "maybe"),
            ("LMCACHE_LOCAL_DISK", "file:folder"),
            ("CACHE_METRICS_PORT", 0),
            ("WORKER_METRICS_PORT", 0),
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


class Script:
    """The script, running; in a process group of its own, as in a terminal."""

    def __init__(self, variables):
        self.variables, self.lines, self.news = variables, [], threading.Condition()
        self.child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", SCRIPT],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.child.stdout:
            with self.news:
                self.lines.append(line)
                self.news.notify_all()
        self.child.stdout.close()

    def await_line(self, words, count=1, seconds=600):
        """The count-th line that has these words."""

        def found():
            return [line for line in self.lines if words in line][count - 1 : count]

        with self.news:
            done = self.news.wait_for(lambda: found() or self.child.poll() is not None, seconds)
            if not done or not found():
                raise AssertionError(f"it did not say {words!r}: {''.join(self.lines[-20:])}")
            return found()[0]

    def await_that(self, condition):
        """Or the script's end."""
        end = time.monotonic() + 30
        while not condition() and self.child.poll() is None:
            if time.monotonic() > end:
                raise AssertionError("".join(self.lines[-5:]))
            time.sleep(0.02)

    def port(self, name):
        return int(self.variables[LISTENS.get(name, name)])

    def pid(self, name):
        """Of the program, found by the port it was told to listen on; nothing if it does not run."""
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "/tessera_" in words[0] and any(
                re.fullmatch(rf"--listen=[0-9.]+:{self.port(name)}", w) for w in words
            ):
                return int(folder.name)
        return None

    def flags(self, name):
        return pathlib.Path(f"/proc/{self.pid(name)}/cmdline").read_text().split("\0")

    def kill(self, name, how=signal.SIGKILL):
        pid = self.pid(name)
        os.kill(pid, how)
        return pid

    def wait(self, seconds=30):
        code = self.child.wait(seconds)
        self.reader.join()
        return code

    def said(self):
        with self.news:
            return "".join(self.lines)

    def client(self):
        return Client(f"http://127.0.0.1:{self.port('PORT')}")

    def answer(self, path="/v1/chat/completions", body=CAPITAL):
        """Asks until it is answered: what was killed needs a moment to come back."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return self.client().whole(path, body)
            except (ServerError, OSError, http.client.HTTPException):
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def ctl(self, *words):
        done = subprocess.run(
            [CTL, f"--server=127.0.0.1:{self.port('CACHE_PORT')}", "--json", *words],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise AssertionError(f"tessera_ctl {words}: {done.stderr}{done.stdout}")
        return json.loads(done.stdout)

    def ports_are_free(self):
        for name in PORTS:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port(name))) == 0:
                    return False
        return True


class ServeTest(unittest.TestCase):
    def setUp(self):
        model_folder()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera_test_"))
        self.logs = self.folder / "logs"
        self.script = None

    def start(self, **variables):
        self.script = Script(
            environment(
                TESSERA_LOGS=self.logs,
                LMCACHE_MAX_LOCAL_CPU_SIZE="0.5",
                MAX_LEN=2048,
                **variables,
            )
        )
        self.script.await_line("ready: http")
        return self.script

    def tearDown(self):
        if self.script:
            self.script.child.kill()
            self.script.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def test_serves_and_stops_all_three_in_order(self):
        script = self.start(GPU_MEM=0.8)
        said = script.said()
        self.assertIn("GPU_MEM is for the GPU worker", said)
        self.assertIn(f"logs in {self.logs}", said)
        self.assertNotIn("disk:", said)
        self.assertFalse(any(f.startswith("--disk_folder") for f in script.flags("cache server")))
        self.assertEqual(script.answer().text, "The capital of France is Paris.")
        self.check_shared_memory(script)
        with urllib.request.urlopen(re.search(r"http://\S+/metrics", said)[0]) as metrics:
            self.assertIn("tessera_cache_", metrics.read().decode())
        # As Ctrl-C does: to all processes of the terminal.
        os.killpg(script.child.pid, signal.SIGINT)
        self.assertEqual(script.wait(), 0)
        self.assertTrue(script.ports_are_free())
        stops = [self.log_time(name, "event=stopping") for name in ("gateway", "worker", "cache server")]
        self.assertEqual(stops, sorted(stops))

    def log(self, name):
        return (self.logs / f"{name.replace(' ', '_')}.log").read_text()

    def log_time(self, name, words):
        """The time of the line, which sorts as text."""
        return re.search(rf"^ts=(\S+) .*{words}", self.log(name), re.M)[1]

    def check_shared_memory(self, script):
        run = self.logs / "run"
        self.assertEqual(stat.S_IMODE(run.stat().st_mode), 0o700)
        socket_path = run / f"cache_{script.port('CACHE_PORT')}.sock"
        self.assertTrue(stat.S_ISSOCK(socket_path.stat().st_mode))
        self.assertIn(f"--shm_socket={socket_path}", script.flags("cache server"))

    def test_what_dies_comes_back_until_it_dies_too_often(self):
        disk = self.folder / "disk"
        script = self.start(
            LMCACHE_LOCAL_DISK=f"file://{disk}", LMCACHE_MAX_LOCAL_DISK_SIZE=1, **NOTHING_STAYS
        )
        self.assertIn(f"disk: up to 1000 MB in {disk}", script.said())
        path = "/v1/completions"
        text = chunks_stored(script.client(), DOCUMENTS).text
        self.comes_back(script, "worker", 1)
        self.assertEqual(script.answer(path, {**DOCUMENTS, "max_tokens": 1}).text, text)
        script.ctl("flush", *(e["key"] for e in script.ctl("ls")))
        self.comes_back(script, "cache server", 2)
        stored = script.ctl("ls")
        self.assertTrue(stored and all("rocksdb" in e["tiers"] for e in stored), stored)
        # The worker leaves a server that failed alone for a while.
        for _ in range(ANSWER_SECONDS):
            self.assertEqual(script.answer(path, {**DOCUMENTS, "max_tokens": 1}).text, text)
            if script.ctl("stats")["tiers"][1]["hits"] > 0:
                break
            time.sleep(1)
        self.assertGreater(script.ctl("stats")["tiers"][1]["hits"], 0, "chunks come from the disk")
        self.comes_back(script, "gateway", 3, signal.SIGTERM, "exit code 0")
        self.assertEqual(script.answer().text, "The capital of France is Paris.")
        self.dies_too_often(script)

    def comes_back(self, script, name, end, how=signal.SIGKILL, said="killed by SIGKILL"):
        others = {n: script.pid(n) for n in LISTENS if n != name}
        killed = script.kill(name, how)
        script.await_line(f"the {name} ended ({said}) and is started again, {end} of 5 times")
        script.answer()
        self.assertNotIn(script.pid(name), (killed, None))
        self.assertEqual({n: script.pid(n) for n in others}, others)
        self.assertIn(f"start: ended ({said}), started again at ", self.log(name))
        self.assertGreaterEqual(self.log(name).count("event=ready"), 2, "the log goes on")

    def dies_too_often(self, script):
        """Six times within a minute, whatever died before."""
        for _ in range(6):
            again = script.said().count("is started again")
            killed = script.kill("cache server")
            script.await_that(lambda: script.said().count("is started again") > again)
            if script.child.poll() is not None:
                break
            script.await_that(lambda: script.pid("cache server") not in (killed, None))
        self.assertEqual(script.wait(), 1)
        error = [line for line in script.said().splitlines() if "error:" in line]
        self.assertEqual(len(error), 1, error)
        self.assertIn("the cache server ended (killed by SIGKILL), end 6 within a minute (", error[0])
        self.assertRegex(error[0], r"\(cache server \d")
        self.assertIn("the end of its log " + str(self.logs / "cache_server.log"), error[0])
        self.assertTrue(script.ports_are_free())

    def test_dies_with_the_script_and_keeps_chunks_on_disk_alone(self):
        script = self.start(
            LMCACHE_LOCAL_DISK="true", LMCACHE_LOCAL_CPU="false", LMCACHE_MAX_LOCAL_DISK_SIZE=1, **NOTHING_STAYS
        )
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        disk = cache / "tessera" / "disk" / str(script.port("CACHE_PORT"))
        self.addCleanup(shutil.rmtree, disk)
        flags = script.flags("cache server")
        for flag in (f"--disk_folder={disk}", "--disk_bytes=1000000000", "--ram_bytes=256000000", "--admission=all"):
            self.assertIn(flag, flags)
        chunks_stored(script.client(), DOCUMENTS)
        script.ctl("flush")
        self.assertTrue(all("rocksdb" in e["tiers"] for e in script.ctl("ls")))
        script.child.kill()
        for _ in range(200):
            if not any(script.pid(name) for name in LISTENS):
                break
            time.sleep(0.1)
        self.assertEqual([name for name in LISTENS if script.pid(name)], [])


if __name__ == "__main__":
    main()
