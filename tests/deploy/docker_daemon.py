"""Debian's container engine for one test: in name spaces of its own, so that nothing of it is seen outside or stays.

The test runs itself again inside (run_inside): with a network that only it and its containers have, where every port
is free, with its own mounts, and with its own processes, which end with it however it ends. Needs root.
"""

import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
INSIDE = "TESSERA_INSIDE_NAME_SPACES"
START_SECONDS = 60
END_SECONDS = 20
# Debian's, whatever else is on PATH.
PROGRAMS = {
    "/usr/sbin/dockerd": "docker.io",
    "/usr/bin/docker": "docker.io",
    "/usr/bin/docker-compose": "docker-compose",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/sbin/iptables": "iptables",
    "/usr/bin/ip": "iproute2",
    "/usr/bin/unshare": "util-linux",
}


def skip(reason):
    print(f"SKIP: {reason}", flush=True)
    sys.exit(SKIPPED)


def check_this_machine():
    if os.geteuid() != 0:
        skip("a container engine of its own needs root")
    missing = sorted({package for path, package in PROGRAMS.items() if not os.path.exists(path)})
    if missing:
        skip(f"{', '.join(missing)} not installed; deploy/install.sh tests brings them")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True
    )
    if tried.returncode:
        skip(f"no container engine can start: this machine gives no name spaces ({tried.stderr.strip()})")


def remove_groups(name):
    """The control groups of containers -> whether they are gone; they can go once all in them has ended."""
    for root in pathlib.Path("/sys/fs/cgroup").glob("**/" + name):
        for folder, _, _ in os.walk(root, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                return False
    return True


def make_folder():
    """Where the engine keeps its layers: not in /tmp, which may be a tmpfs or an overlay. -> (folder, its lock)"""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tessera"
    cache.mkdir(parents=True, exist_ok=True)
    # What a test left that was killed: nobody holds its lock any more.
    for left in cache.glob("docker_test_*/lock"):
        with open(left) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove(left.parent)
    folder = tempfile.mkdtemp(prefix="docker_test_", dir=cache)
    lock = open(os.path.join(folder, "lock"), "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def remove(folder):
    """What was killed takes a moment to end; nobody else sees it who could tell when."""
    deadline = time.monotonic() + END_SECONDS
    while not remove_groups(os.path.basename(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def run_inside():
    """Runs this test file again inside -> its exit status. Returns None when it is inside already."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return None
    folder, lock = make_folder()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = "unshare --net --mount --pid --fork --kill-child --mount-proc".split()
    child = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command, sys.executable, *sys.argv],
        env={**os.environ, INSIDE: folder, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    try:
        return child.wait()
    finally:
        child.kill()
        child.wait()
        remove(folder)
        lock.close()


class Daemon:
    """dockerd; only inside. Without a way to start one the test ends as skipped, with its own words."""

    def __init__(self):
        self.folder = os.environ[INSIDE]
        self.log = os.path.join(self.folder, "dockerd.log")
        os.environ["DOCKER_HOST"] = f"unix://{self.folder}/docker.sock"
        # A client's settings of this machine (registries, proxies, contexts) are none of the test's.
        os.environ["DOCKER_CONFIG"] = os.path.join(self.folder, "client")
        config = pathlib.Path(self.folder) / "daemon.json"
        config.write_text("{}")
        with open(self.log, "w") as log:
            self.child = subprocess.Popen(
                [
                    "dockerd",
                    f"--host={os.environ['DOCKER_HOST']}",
                    f"--data-root={self.folder}/data",
                    f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/pid",
                    f"--cgroup-parent=/{os.path.basename(self.folder)}",
                    "--exec-opt=native.cgroupdriver=cgroupfs",
                    f"--config-file={config}",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.child.poll() is not None or time.monotonic() > deadline:
                skip(f"no container engine can start: {self.last_words()}")
            time.sleep(0.2)

    def answers(self):
        return subprocess.run(["docker", "info"], capture_output=True).returncode == 0

    def last_words(self):
        lines = pathlib.Path(self.log).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "dockerd said nothing"

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
