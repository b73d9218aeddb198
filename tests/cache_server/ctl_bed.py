"""tessera_ctl beside a running server, for its tests."""

import hashlib
import json
import subprocess
import tempfile

from programs import (Grpcurl, Server, find_checksum, find_grpcurl, find_program, find_server, key, piece,
                      report_stop, run_checks)

MISSING = "f" * 64


def find_ctl():
    return find_program(2, "cache_server/ctl/tessera_ctl", "//:tessera_ctl")


def tenant_of(salt):
    """As cache_server/chunk/key.h makes it: parts with their lengths in front."""
    parts = b"".join(len(p).to_bytes(8, "little") + p for p in (b"tessera tenant", salt.encode()))
    return hashlib.sha256(parts).digest()[:16]


class Ctl:
    def __init__(self, address, *flags):
        self.command = [find_ctl(), f"--server={address}", *flags]

    def __call__(self, *words, stdin=""):
        """Its exit code, standard output and standard error."""
        ended = subprocess.run([*self.command, *words], capture_output=True, text=True, input=stdin, timeout=60)
        return ended.returncode, ended.stdout, ended.stderr

    def out(self, *words, code=0, stdin=""):
        ended, out, err = self(*words, stdin=stdin)
        assert code in (None, ended), (words, ended, out, err)
        return out

    def json(self, *words, code=0, stdin=""):
        return json.loads(self.out("--json", *words, code=code, stdin=stdin))

    def rows(self, *words):
        """The lines below the titles, as lists of their words."""
        return [line.split() for line in self.out(*words).splitlines()[1:]]


class Bed:
    def __init__(self, folder):
        self.grpcurl_program, self.checksum = find_grpcurl(), find_checksum()
        self.flags = [f"--disk_folder={folder}", "--disk_bytes=1000000000", "--admission=all",
                      "--disk_direct_reads=false"]
        self.start()

    def start(self):
        self.server = Server(find_server(), *self.flags)
        self.ctl = Ctl(self.server.address)
        self.grpcurl = Grpcurl(self.grpcurl_program, self.server.address)

    def restart(self):
        assert self.server.stop() == 0
        self.start()

    def fill(self, numbers, size=1000, salt=""):
        """Stores a piece of two layers for each number, each with its own bytes; nothing else is there."""
        self.ctl.out("clear", "--yes")
        self.add(numbers, size, salt)

    def add(self, numbers, size=1000, salt=""):
        for number in numbers:
            payloads = [bytes([number]) * (size + number), bytes([number ^ 255]) * (size + number)]
            messages = piece(key(number), payloads, self.checksum, tenant_of(salt) if salt else b"")
            assert self.grpcurl.one("Store", messages)["stored"] == 1

    def keys(self):
        return sorted(self.ctl.out("ls", "--keys").split())


def refused(ended, code, *words):
    """One line on standard error with these words, and nothing on standard output."""
    exit_code, out, err = ended
    assert exit_code == code and out == "" and err.count("\n") == 1, ended
    assert err.startswith("tessera_ctl: "), err
    for word in words:
        assert word in err, (word, err)


def main(checks):
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(folder)
        failures = run_checks(checks, bed)
        return 1 if failures + report_stop(bed.server) else 0
