"""The real three programs on free ports, for tests: started, waited for by their log lines, stopped.

A test file makes one Cluster, starts what it needs and closes it; everything dies with the test process.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests"))
from serving_client import Client  # noqa: E402  (needs the path above)

BINARIES = {
    "cache": "cache_server/tessera_cache_server",
    "worker": "gpu_worker/tessera_worker",
    "gateway": "gateway/tessera_gateway",
}
DEFAULT_MODEL = "smollm2-135m-instruct"
SKIPPED = 77
START_SECONDS = 120


def skip(reason):
    print(f"SKIP: {reason}", flush=True)
    sys.exit(SKIPPED)


def model_folder(name=DEFAULT_MODEL):
    """From TESSERA_MODELS (folders joined by colons), or the cache folder; ends the test as skipped without it."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folders = [f for f in os.environ.get("TESSERA_MODELS", "").split(":") if f]
    for folder in [*folders, str(cache / "tessera" / "models" / name)]:
        if os.path.basename(folder) == name and os.path.exists(os.path.join(folder, "config.json")):
            return folder
    skip(f"model {name} is not there; deploy/models/fetch.sh {name} brings it")


def free_port():
    return free_ports(1)[0]


def free_ports(count):
    """Different ones: each is held until all are known."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Process:
    """One program; ready when its log says event=ready."""

    def __init__(self, kind, flags, log_path, port):
        binary = REPO / "bazel-bin" / BINARIES[kind]
        if not binary.exists():
            sys.exit(
                f"{binary} is not built: bazel build //:tessera_{kind if kind != 'cache' else 'cache_server'}"
            )
        self.kind, self.port, self.address = kind, port, f"127.0.0.1:{port}"
        self.log_path, self.lines, self.ended, self.news = (
            log_path,
            [],
            False,
            threading.Condition(),
        )
        # The kernel ends it when the test dies, however the test dies.
        self.child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", str(binary), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    def read_log(self):
        with open(self.log_path, "w") as log:
            for line in self.child.stderr:
                log.write(line)
                log.flush()
                with self.news:
                    self.lines.append(line)
                    self.news.notify_all()
        self.child.stderr.close()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def await_line(self, words):
        with self.news:
            self.news.wait_for(
                lambda: self.ended or any(words in line for line in self.lines), START_SECONDS
            )
        if not any(words in line for line in self.lines):
            raise RuntimeError(f"{self.kind} did not say {words}: {''.join(self.lines[-10:])}")
        return self

    def alive(self):
        return self.child.poll() is None

    def peak_bytes(self):
        with open(f"/proc/{self.child.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))

    def stop(self, how=signal.SIGTERM):
        """Idempotent; a program that does not stop within ten seconds fails the test."""
        if self.alive():
            self.child.send_signal(how)
        try:
            return self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise RuntimeError(
                f"{self.kind} did not stop on {how.name}: {''.join(self.lines[-5:])}"
            ) from None


class Cluster:
    """Starts programs of one model. Their logs are kept only when a test failed."""

    def __init__(self, model=DEFAULT_MODEL):
        self.model, self.folder = model, model_folder(model)
        self.logs, self.processes = tempfile.mkdtemp(prefix="tessera_test_"), []

    def run(self, kind, flags, port):
        process = Process(
            kind, flags, os.path.join(self.logs, f"{len(self.processes)}_{kind}.log"), port
        )
        self.processes.append(process)
        return process.await_line("event=ready")

    def cache(self, ram_bytes=1 << 30, port=None, **flags):
        port = port or free_port()
        flags = {"listen": f"127.0.0.1:{port}", "ram_bytes": ram_bytes, **flags}
        return self.run("cache", [f"--{k}={v}" for k, v in flags.items()], port)

    def worker(self, cache_address, **flags):
        port = free_port()
        flags = {
            "max_len": 8192,
            "chunk_size": 256,
            "blend": "true",
            "layerwise": "true",
            "threads": 0,
            "choose_by_cost": "false",  # what a test asks for does not depend on how fast this machine is
            **flags,
        }
        return self.run(
            "worker",
            [
                f"--listen=127.0.0.1:{port}",
                f"--cache={cache_address}",
                f"--model={self.folder}",
                f"--model_name={self.model}",
                *(f"--{k}={v}" for k, v in flags.items()),
            ],
            port,
        )

    def gateway(self, *workers, separator=" # # ", port=None, **flags):
        port = port or free_port()
        return self.run(
            "gateway",
            [
                f"--listen=127.0.0.1:{port}",
                f"--model_dir={self.folder}",
                f"--workers={','.join(w.address for w in workers)}",
                f"--blend_separator={separator}",
                *(f"--{k}={v}" for k, v in flags.items()),
            ],
            port,
        )

    def serve(self, **worker_flags):
        """Cache server, one worker and a gateway -> a Client; the processes are .processes[-3:]."""
        cache = self.cache()
        return self.client(self.gateway(self.worker(cache.address, **worker_flags)))

    def client(self, gateway):
        gateway.await_line("event=worker_ready")
        client = Client(f"http://{gateway.address}")
        client.model()
        return client

    def close(self, keep_logs=False):
        for process in reversed(self.processes):
            if process.alive():
                process.child.kill()
            process.child.wait()
            process.reader.join()
        if keep_logs:
            print(f"logs of the programs are in {self.logs}", file=sys.stderr)
        else:
            shutil.rmtree(self.logs, ignore_errors=True)


class ClusterTest(unittest.TestCase):
    """One cluster for the tests of a class; a subclass starts it in start()."""

    model = DEFAULT_MODEL

    @classmethod
    def setUpClass(cls):
        cls.cluster, cls.failed = Cluster(cls.model), False
        try:
            cls.start()
        except BaseException:
            cls.cluster.close(keep_logs=True)
            raise

    @classmethod
    def start(cls):
        cls.client = cls.cluster.serve()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close(keep_logs=cls.failed)

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        type(self).failed |= len(result.failures) + len(result.errors) > before


def chunks_stored(client, body, tries=50):
    """Chunks are stored after the first token: asks with one token until nothing but the suffix is computed."""
    for _ in range(tries):
        answer = client.whole("/v1/completions", {**body, "max_tokens": 1})
        if all(s != "computed" for s in answer.sources()[:-1]):
            return answer
    raise AssertionError(f"still not stored: {answer.tessera}")


def main():
    unittest.main(verbosity=2)
