#!/usr/bin/env python3
"""deploy/docker: the images are built and the stack runs for real, with Debian's engine and no registry; answers go on
while workers and the cache server die, and workers that come are used.

The parts of the test stand in the order of their names: each goes on with the stack as the last one left it.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

import docker_daemon

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests"))
sys.path.insert(0, str(REPO / "tests" / "integration"))
from cluster import BINARIES, chunks_stored, model_folder  # noqa: E402  (needs the paths above)
from serving_client import Client, make_document  # noqa: E402

BUILD = REPO / "deploy" / "docker" / "build_images.sh"
COMPOSE = REPO / "deploy" / "docker" / "docker-compose.yml"
IMAGES = ("gateway", "cache_server", "worker")
TAG = "test"
PORT = 8000
WAIT_SECONDS = 120


def run(*command, **options):
    """-> what it printed; its errors are shown when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def compose(*words):
    return run("docker-compose", "--project-name=tessera", f"--file={COMPOSE}", *words)


def inspect(name, form):
    return json.loads(run("docker", "inspect", "--format", "{{json " + form + "}}", name))


def await_true(what, predicate):
    """Containers tell nobody what becomes of them: asks, for WAIT_SECONDS at most."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {WAIT_SECONDS} s still not: {what}\n{compose('ps')}")
        time.sleep(0.25)


class Container:
    """One of a service, by its full id."""

    def __init__(self, container):
        self.id = container

    def address(self):
        networks = inspect(self.id, ".NetworkSettings.Networks")
        return networks["tessera_inside"]["IPAddress"]

    def metric(self, port, name):
        """The sum over all labels that `name` leaves open; absent is 0."""
        with urllib.request.urlopen(f"http://{self.address()}:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def health(self):
        return inspect(self.id, ".State.Health.Status")

    def crash(self):
        """As a program that ends by itself: the engine takes `docker kill` for the owner's wish and does not restart."""
        os.kill(inspect(self.id, ".State.Pid"), signal.SIGKILL)

    def run(self, *command):
        return subprocess.run(["docker", "exec", self.id, *command], capture_output=True, text=True)


def containers(service):
    return [Container(container) for container in compose("ps", "-q", service).split()]


def documents(seed):
    return [make_document(f"compose/{seed}/{i}", 60) for i in range(3)]


def prompt(texts, **tessera):
    return {
        "prompt": " # # ".join(["Read these documents.", *texts, "Which city is named first?"]),
        "max_tokens": 4,
        "temperature": 0,
        "tessera": tessera or {"mode": "blend"},
    }


class ComposeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = docker_daemon.Daemon()
        os.environ.update(
            TAG=TAG,
            MODEL_FOLDER=model_folder(),
            MAX_LEN="2048",
            CACHE_RAM_BYTES="512MiB",
            CACHE_DISK_BYTES="4GiB",
            WORKER_KV_BYTES="256MiB",
            WORKER_POOL_BYTES="1MiB",  # so that chunks come from the cache server
            WORKER_THREADS="1",
            GATEWAY_PORT=str(PORT),
        )
        started = time.monotonic()
        run(BUILD, f"--tag={TAG}")
        print(f"images: {time.monotonic() - started:.0f} s", flush=True)
        try:
            compose("up", "-d")
        except AssertionError:
            cls.tearDownClass()
            raise
        print(f"stack: {time.monotonic() - started:.0f} s", flush=True)
        cls.client = Client(f"http://127.0.0.1:{PORT}", timeout=120)
        await_true("the gateway is healthy", lambda: containers("gateway")[0].health() == "healthy")

    @classmethod
    def tearDownClass(cls):
        if cls.failed:
            print(compose("logs", "--no-color", "--tail=30"), file=sys.stderr)
        compose("down", "--volumes", "--timeout", "5")
        cls.daemon.stop()

    failed = False

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        type(self).failed |= len(result.failures) + len(result.errors) > before

    def ready_workers(self):
        return containers("gateway")[0].metric(PORT, "tessera_worker_ready")

    def ask(self, texts, **tessera):
        return self.client.whole("/v1/completions", prompt(texts, **tessera))

    def test_1_images_hold_no_more_than_they_need(self):
        for image in IMAGES:
            with self.subTest(image=image):
                config = inspect(f"tessera/{image}:{TAG}", ".Config")
                self.assertEqual(config["User"], "10001:10001")
                self.assertIn("Healthcheck", config)
                self.assertIn("org.opencontainers.image.revision", config["Labels"])
                self.assertLess(inspect(f"tessera/{image}:{TAG}", ".Size"), 250e6)

    def test_1_what_the_monitoring_mounts_is_there(self):
        for line in compose("--profile", "monitoring", "config").splitlines():
            source = line.strip(" -").split(":")[0]
            if source.startswith(str(REPO)):
                self.assertTrue(pathlib.Path(source).exists(), source)

    def test_2_containers_are_confined(self):
        for service in ("gateway", "cache", "worker"):
            with self.subTest(service=service):
                container = containers(service)[0]
                status = container.run("cat", "/proc/1/status").stdout
                self.assertIn("\nUid:\t10001\t10001\t10001\t10001\n", status)
                self.assertIn("\nCapEff:\t0000000000000000\n", status)
                self.assertIn("\nNoNewPrivs:\t1\n", status)
                self.assertIn("Read-only", container.run("touch", "/opt/tessera/x").stderr)
                limits = inspect(container.id, ".HostConfig")
                self.assertGreater(limits["Memory"], 0)
                self.assertGreater(limits["PidsLimit"], 0)

    def test_3_health_checks_can_fail(self):
        gateway = containers("gateway")[0]
        self.assertEqual(gateway.run("/opt/tessera/bin/health.sh", str(PORT), "/health").returncode, 0)
        for port, path in ((str(PORT), "/nothing"), ("1", "/health")):
            failed = gateway.run("/opt/tessera/bin/health.sh", port, path)
            self.assertEqual(failed.returncode, 1, failed.stderr)

    def test_4_passages_are_reused_through_shared_memory(self):
        texts = documents("reuse")
        first = self.ask(texts)
        self.assertEqual(first.tessera["computed_tokens"], first.usage["prompt_tokens"])
        chunks_stored(self.client, prompt(texts))
        turned = self.ask(texts[::-1])
        self.assertEqual(turned.sources()[:-1], ["cache"] * 4)
        self.assertGreater(turned.tessera["blended_tokens"], 0)
        cache = containers("cache")[0]
        self.assertGreater(cache.metric(7602, 'tessera_cache_sent_bytes_total{transport="shm"}'), 0)

    def test_5_workers_that_come_are_used(self):
        self.assertEqual(self.ready_workers(), 1)
        compose("up", "-d", "--no-recreate", "--scale", "worker=2")
        await_true("two workers are ready", lambda: self.ready_workers() == 2)
        self.await_used(containers("worker"))

    def test_6_answers_go_on_while_a_worker_dies(self):
        killed, _ = containers("worker")
        killed.crash()
        for i in range(5):
            self.ask(documents(f"crash/{i}"))
        await_true("it is restarted", lambda: inspect(killed.id, ".RestartCount") == 1)
        await_true("it is healthy", lambda: killed.health() == "healthy")
        await_true("two workers are ready", lambda: self.ready_workers() == 2)
        self.await_used([killed])

    def test_7_answers_go_on_without_the_cache_server(self):
        cache = containers("cache")[0]
        run("docker", "kill", cache.id)
        answer = self.ask(documents("no cache"))
        self.assertEqual(answer.sources()[1:], ["computed"] * 4)  # the lead is in every worker's memory
        run("docker", "start", cache.id)
        await_true("the cache server is healthy", lambda: cache.health() == "healthy")

        texts = documents("cache again")
        await_true(
            "passages are reused again",
            lambda: self.ask(texts).sources()[:-1] == ["cache"] * 4,
        )

    def await_used(self, workers):
        """Every one of them has ended a request since it started."""
        asked = iter(range(1000))

        def all_used():
            self.ask(documents(f"used/{time.monotonic()}/{next(asked)}"))
            return all(w.metric(7603, "tessera_worker_requests_total") > 0 for w in workers)

        await_true("requests reach every worker", all_used)


def main():
    docker_daemon.check_this_machine()
    missing = [path for path in BINARIES.values() if not (REPO / "bazel-bin" / path).exists()]
    if missing:
        docker_daemon.skip(f"not built: {', '.join(missing)}")
    if not os.environ.get(docker_daemon.INSIDE):
        model_folder()
        # Outside, where the network is; cached.
        subprocess.run([BUILD, "--base-only"], check=True)
    status = docker_daemon.run_inside()
    if status is not None:
        sys.exit(status)
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
