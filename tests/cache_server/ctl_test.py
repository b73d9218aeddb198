#!/usr/bin/env python3
"""tessera_ctl on the cache server's program: every command, as a table and as JSON, and what it refuses.

Prints one line per check. Ends with 1 when one failed, with 77 when it cannot run here.
  tests/cache_server/ctl_test.py [PATH OF tessera_cache_server [PATH OF tessera_ctl]]
"""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from programs import (Grpcurl, Lines, Server, find_checksum, find_grpcurl, find_program, find_server, key, key_hex,
                      piece, report_stop, run_checks)

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


def check_stats(bed):
    bed.fill([1, 2, 3])
    bed.ctl.out("flush")
    bed.ctl.out("pin", key_hex(1))
    out = bed.ctl.out("stats")
    assert f"{bed.server.address}, up " in out and "DRAINING" not in out, out
    tiers = {w[0]: w for w in (line.split() for line in out.splitlines()) if w and w[0] in ("ram", "rocksdb")}
    assert tiers["ram"][3:6] == ["16.0", "MiB", "3"] and tiers["rocksdb"][5] == "3", tiers
    assert "pinned       1 pieces, 2.0 KiB" in out and "written_pieces_total" in out, out
    stats = bed.ctl.json("stats")
    assert [t["name"] for t in stats["tiers"]] == ["ram", "rocksdb"], stats
    assert stats["tiers"][0]["entries"] == 3 and stats["pinned_bytes"] == 2002 and not stats["draining"], stats
    assert stats["counters"]["tessera_cache_stores_total"] >= 3, stats["counters"]


def check_stats_again_and_again(bed):
    watch = Lines([*bed.ctl.command, "--json", "stats", "--watch=100ms"], "stdout")
    watch.await_match("uptime_ms")
    with watch.news:
        assert watch.news.wait_for(lambda: len(watch.lines) >= 3, 20), watch.lines
    assert watch.stop(signal.SIGINT) == 0
    uptimes = [json.loads(line)["uptime_ms"] for line in watch.lines]
    assert uptimes == sorted(uptimes) and uptimes[0] < uptimes[-1], uptimes


def check_list(bed):
    bed.fill([1, 2, 3])
    bed.add([4, 5], size=5000, salt="team")
    bed.ctl.out("flush")
    bed.ctl.out("pin", key_hex(2), "--ttl=2h")
    titles = bed.ctl.out("ls").splitlines()[0].split()
    assert titles == ["KEY", "SIZE", "LAYERS", "TIERS", "TENANT", "AGE", "IDLE", "PINNED"], titles
    rows = bed.ctl.rows("ls")
    assert [r[0] for r in rows] == [key_hex(n)[:16] for n in (1, 2, 3, 4, 5)], rows
    assert rows[0][1:6] == ["2.0", "KiB", "2", "ram,rocksdb", "-"] and rows[0][-1] == "-", rows[0]
    assert rows[1][-2:] == ["1h", "59m"], rows[1]
    assert rows[3][5] == tenant_of("team").hex()[:8], rows[3]
    assert [r[0] for r in bed.ctl.rows("ls", "--order=largest", "--limit=2")] == [
        key_hex(n)[:16] for n in (5, 4)]
    entries = bed.ctl.json("ls")
    assert [e["key"] for e in entries] == [key_hex(n) for n in (1, 2, 3, 4, 5)], entries
    assert entries[1]["slice_bytes"] == 1002 and 0 < entries[1]["pinned_ms"] <= 7200000, entries[1]
    assert entries[4]["tiers"] == ["ram", "rocksdb"] and entries[4]["tenant"] == tenant_of("team").hex()
    assert [e["key"] for e in bed.ctl.json("ls", "--tenant_salt=team")] == [key_hex(n) for n in (4, 5)]
    assert bed.ctl.json("ls", "--tenant_salt=nobody") == []
    assert bed.ctl.out("ls", "--keys").split() == [key_hex(n) for n in (1, 2, 3, 4, 5)]


def check_list_of_many_pages(bed):
    """More entries than a page of the server holds, in one call."""
    server = Server(find_server(), "--ram_bytes=67108864")
    messages = [m for number in range(2500)
                for m in piece(wide_key(number), [b"x"], bed.checksum)]
    assert Grpcurl(bed.grpcurl_program, server.address).one("Store", messages)["stored"] == 2500
    ctl = Ctl(server.address)
    keys = ctl.out("ls", "--keys").split()
    assert len(keys) == 2500 == len(set(keys)), len(keys)
    assert len(ctl.json("ls", "--limit=1500")) == 1500 and len(ctl.rows("ls")) == 2500
    assert ctl.json("rm", "-", stdin="\n".join(keys[:1000])) == {"deleted": 1000}
    assert len(ctl.json("ls")) == 1500
    assert server.stop() == 0


def wide_key(number):
    return base64.b64encode(hashlib.sha256(str(number).encode()).digest()).decode()


def check_pin_and_unpin(bed):
    bed.fill([1, 2, 3])
    assert bed.ctl.out("pin", key_hex(1), key_hex(2)[:10], "--ttl", "90s") == (
        "2 pinned for 1m30s, 0 missing, 0 refused\n")
    assert bed.ctl.json("pin", key_hex(3), MISSING, code=1) == {"pinned": 1, "missing": 1, "refused": 0}
    assert [e["pinned_ms"] > 0 for e in bed.ctl.json("ls")] == [True, True, True]
    assert bed.ctl.out("unpin", key_hex(1), MISSING) == "1 unpinned, 1 were not pinned\n"
    assert bed.ctl.json("unpin", key_hex(2)) == {"unpinned": 1}
    refused(bed.ctl("pin", key_hex(1), "--ttl=1000h"), 2, "at most 168h")
    for ttl in ("0", "-1s", "inf"):
        refused(bed.ctl("pin", key_hex(1), f"--ttl={ttl}"), 2, "--ttl")
    bed.add([6], size=7 << 20)  # two layers: 14 MiB of the 8 that pins may hold
    assert bed.ctl.json("pin", key_hex(6), code=1) == {"pinned": 0, "missing": 0, "refused": 1}


def check_remove(bed):
    bed.fill([1, 2, 3, 4])
    bed.ctl.out("flush")
    assert bed.ctl.out("rm", key_hex(1), MISSING) == "1 deleted, 1 were not there\n"
    assert bed.ctl.json("rm", "-", stdin=f"\n{key_hex(2).upper()}\n  {key_hex(3)[:6]}\n") == {"deleted": 2}
    assert bed.keys() == [key_hex(4)]
    assert bed.ctl.out("rm", "--", key_hex(4)) == "1 deleted, 0 were not there\n"
    assert bed.keys() == [] and bed.ctl.json("ls") == [] and bed.ctl.rows("ls") == []


def check_removed_stays_away(bed):
    """Deleted while it waits to be written to the disk, as what bench puts does, it does not come back from there."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(find_server(), "--ram_bytes=134217728", f"--disk_folder={folder}", "--disk_bytes=2000000000",
                        "--admission=all")
        ctl = Ctl(server.address)
        # What waits for the disk keeps its memory, so that there may be no room for some.
        assert ctl.json("bench", "--seconds=0.5", "--noshared_memory", code=None)["put"]["pieces"] > 0
        ctl.out("flush")
        assert ctl.out("ls", "--keys") == "", ctl.out("ls")
        assert server.stop() == 0


def check_clear(bed):
    bed.fill([1, 2])
    bed.add([3, 4], salt="team")
    refused(bed.ctl("clear"), 2, "add --yes")
    refused(bed.ctl("clear", "--tenant_salt=team"), 2, "of a tenant", "add --yes")
    refused(bed.ctl("clear", "--yes", "--tenant_salt="), 2, "--tenant_salt is empty")
    assert len(bed.keys()) == 4
    assert bed.ctl.out("clear", "--tenant_salt=team", "--yes") == "2 deleted\n"
    assert bed.keys() == [key_hex(1), key_hex(2)]
    assert bed.ctl.json("clear", "--yes") == {"deleted": 2}
    assert bed.keys() == []


def check_warm(bed):
    bed.fill([1, 2, 3])
    bed.ctl.out("flush", *(key_hex(n) for n in (1, 2, 3)))
    bed.restart()
    assert [e["tiers"] for e in bed.ctl.json("ls")] == [["rocksdb"]] * 3
    code, out, err = bed.ctl("warm", key_hex(1))
    assert (code, out) == (0, "1 loaded, 0 were in memory, 0 missing or without room\n"), (code, out, err)
    assert "warm: 1 of 1" in err, err
    assert bed.ctl.json("warm", "--all") == {"loaded": 2, "present": 1, "missing": 0}
    assert [e["tiers"] for e in bed.ctl.json("ls")] == [["ram", "rocksdb"]] * 3
    assert bed.ctl.json("warm", MISSING, code=1) == {"loaded": 0, "present": 0, "missing": 1}
    refused(bed.ctl("warm"), 2, "keys or --all")
    refused(bed.ctl("warm", "--all", key_hex(1)), 2, "keys or --all")


def check_flush(bed):
    bed.fill([1, 2])
    assert bed.ctl.out("flush") == "all that was queued is durable\n"
    assert bed.ctl.out("flush", key_hex(1), key_hex(2)) == "2 durable, 0 not\n"
    code, out, _ = bed.ctl("flush", key_hex(1), MISSING)
    assert (code, out) == (1, f"1 durable, 1 not\nnot durable  {MISSING}\n"), out
    assert bed.ctl.json("flush", MISSING, code=1) == {"not_durable_keys": [MISSING]}
    server = Server(find_server())
    refused(Ctl(server.address)("flush"), 1, "no disk tier")
    assert server.stop() == 0


def check_watch(bed):
    bed.ctl.out("clear", "--yes")
    watch = Lines([*bed.ctl.command, "--json", "watch"], "stdout")
    table = Lines([*bed.ctl.command, "watch"], "stdout")
    await_watchers(bed, 2)
    bed.add([1])
    bed.ctl.out("rm", key_hex(1))
    table.await_match(f"^[0-9:.]+  added    {key_hex(1)}  ram$")
    table.await_match(f"^[0-9:.]+  evicted  {key_hex(1)}  ram  erased$")
    watch.await_match('"kind":"evicted"')
    assert watch.stop(signal.SIGINT) == 0 and table.stop(signal.SIGTERM) == 0
    events = [json.loads(line) for line in watch.lines]
    seen = {(e["kind"], e["key"], e["tier"], e["reason"]) for e in events}
    assert {("added", key_hex(1), "ram", ""), ("evicted", key_hex(1), "ram", "erased")} <= seen, seen
    await_watchers(bed, 0)


def await_watchers(bed, count):
    """Each try is a program that starts and asks, which takes its time."""
    for _ in range(200):
        if bed.ctl.json("stats")["watchers"] == count:
            return
    raise AssertionError(f"not {count} watchers")


def check_watch_ends_with_the_server(bed):
    server = Server(find_server())
    watch = Lines([*Ctl(server.address).command, "watch"])
    watch.await_match("watching")
    assert server.stop() == 0
    watch.await_match("does not serve|ended the watch")
    assert watch.process.wait(20) == 1


def check_drain(bed):
    code, out, err = bed.ctl("drain")
    assert (code, out) == (0, "drained: nothing is open\n") and "waiting" in err, (code, out, err)
    assert "DRAINING" in bed.ctl.out("stats") and bed.ctl.json("stats")["draining"]
    refused(bed.ctl("verify", MISSING), 1, "draining")
    assert bed.ctl.out("drain", "--resume") == "takes work again\n"
    assert bed.ctl.json("drain") == {"open_fetches": 0, "open_stores": 0, "shm_leases": 0}
    bed.ctl.out("drain", "--resume")
    assert not bed.ctl.json("stats")["draining"]


def check_verify(bed):
    bed.fill(range(1, 41), size=3000)
    code, out, err = bed.ctl("verify", "--all")
    assert code == 0 and re.fullmatch(r"40 good \(23\d.\d KiB\), 0 damaged, 0 unreadable, 0 missing\n", out), out
    assert "verify: 40 of 40" in err, err
    found = bed.ctl.json("verify", key_hex(1), MISSING, code=1)
    assert found == {"good": 1, "damaged": 0, "unreadable": 0, "missing": 1, "bytes": 6002, "erased": 0,
                     "bad": [{"key": MISSING, "verdict": "missing", "reason": "not in the cache"}]}, found
    refused(bed.ctl("verify"), 2, "keys or --all")


def check_verify_finds_a_flipped_bit(bed):
    """A bit of the server's memory is flipped under its hands; only that entry is found and erased."""
    bed.fill([1, 2, 3], size=5000)
    bed.ctl.out("flush")
    flip_bit(bed.server.process.pid, bytes([2]) * 5000)
    code, out, _ = bed.ctl("verify", "--all")
    assert code == 1 and f"{key_hex(2)}  damaged  wrong checksum in layer 0\n" in out, out
    assert "2 good" in out and "1 damaged" in out, out
    assert bed.keys() == [key_hex(n) for n in (1, 2, 3)]
    found = bed.ctl.json("verify", "--all", "--erase", code=1)
    assert (found["good"], found["damaged"], found["erased"]) == (2, 1, 1), found
    assert bed.keys() == [key_hex(1), key_hex(3)]
    assert bed.ctl.json("verify", "--all")["good"] == 2


def flip_bit(pid, pattern):
    """In the largest shared mapping that the process may write: its arena."""
    with open(f"/proc/{pid}/maps") as maps:
        ranges = [tuple(int(n, 16) for n in line.split()[0].split("-")) for line in maps
                  if line.split()[1] == "rw-s"]
    start, end = max(ranges, key=lambda r: r[1] - r[0])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        at = memory.read(end - start).find(pattern)
        assert at >= 0, "the bytes are not there"
        memory.seek(start + at)
        memory.write(bytes([pattern[0] ^ 1]))


def check_bench(bed):
    bed.fill([1])
    out = bed.ctl.out("bench", "--bytes=64KiB", "--layers=4", "--seconds=0.3", "--noshared_memory")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["put"][2:4] == ["256.0", "KiB"] and float(rows["get"][4]) > 0, out
    assert "read from shared memory: 0 B of" in out, out
    measured = bed.ctl.json("bench", "--bytes=1KiB", "--layers=2", "--seconds=0.2")
    for way in ("put", "get"):
        run = measured[way]
        assert run["pieces"] > 0 and run["failed"] == 0 and run["piece_bytes"] == 2048, run
        assert run["gb_per_s"] > 0 and 0 < run["p50_ms"] <= run["p99_ms"], run
    assert bed.keys() == [key_hex(1)], "it deletes what it put"
    for flags in (["--bytes=0"], ["--bytes=1GiB", "--layers=2"], ["--seconds=0"], ["--seconds=9999"],
                  ["--layers=0"]):
        refused(bed.ctl("bench", *flags), 2, flags[0].split("=")[0])


def check_bench_cleans_up_when_interrupted(bed):
    bed.fill([1])
    bench = Lines([*bed.ctl.command, "bench", "--seconds=60", "--bytes=64KiB", "--layers=2"], "stdout")
    for _ in range(200):
        if len(bed.keys()) > 1:
            break
    assert bench.stop(signal.SIGINT) == 130
    assert bed.keys() == [key_hex(1)]


def check_bad_command_lines(bed):
    for words, said in (
            ([], "which command?"),
            (["frobnicate"], "no command frobnicate"),
            (["ls", "--typo"], "unknown flag --typo"),
            (["ls", "--ttl=1h"], "--ttl is no flag of this command"),
            (["ls", "extra"], "ls takes no extra"),
            (["ls", "--limit=many"], "--limit=many is not valid"),
            (["ls", "--order=youngest"], "give oldest or largest"),
            (["ls", "--limit"], "--limit=VALUE"),
            (["ls", "--tenant_salt="], "--tenant_salt is empty"),
            (["stats", "--watch=1ms"], "100ms or more"),
            (["stats", "--timeout=0"], "--timeout must be more than 0"),
            (["pin"], "which keys?"),
            (["rm"], "which keys?"),
            (["pin", "xyz"], "'xyz' is no key"),
            (["rm", "abcde"], "first 6 or more"),
            (["rm", "g" * 64], "is no key"),
            (["rm", "a" * 65], "is no key"),
            (["rm", "-", "-"], "give - once"),
            (["help", "frobnicate"], "no command frobnicate"),
            (["bench", "--bytes=1.5MiB"], "such as 1MiB"),
            (["stats", "--ca=/nowhere/ca.pem"], "/nowhere/ca.pem"),
            (["stats", "--token_file=/nowhere/token"], "/nowhere/token"),
            (["stats", "--cert=/nowhere/cert.pem"], "key"),
    ):
        refused(bed.ctl(*words), 2, said)
    refused(bed.ctl("rm", "-", stdin="not a key\n"), 2, "'not a key' is no key")


def check_shortened_keys(bed):
    bed.fill([1])
    bed.grpcurl.one("Store", piece("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", (b"abc",), bed.checksum))
    refused(bed.ctl("rm", "01010101"), 2, "several keys start with 01010101", "give more digits")
    refused(bed.ctl("rm", "abcdef"), 1, "no entry's key starts with abcdef")
    assert bed.ctl.json("rm", "0101010101") == {"deleted": 1}
    assert bed.keys() == [key_hex(1)]


def check_unreachable(bed):
    gone = Server(find_server())
    assert gone.stop() == 0
    for command in (["stats"], ["ls"], ["rm", MISSING], ["watch"], ["bench"], ["verify", "--all"]):
        refused(Ctl(gone.address)(*command), 1, gone.address, "is a cache server there")
    refused(Ctl("unix:/nowhere/cache.sock")("stats"), 1, "unix:/nowhere/cache.sock")


def check_hanging_server(bed):
    bed.server.process.send_signal(signal.SIGSTOP)
    try:
        refused(bed.ctl("stats", "--timeout=300ms"), 1, "took longer than 300ms", "--timeout")
    finally:
        bed.server.process.send_signal(signal.SIGCONT)


def check_help(bed):
    out = bed.ctl.out("help")
    commands = re.findall(r"^  ([a-z]+) +\S", out, re.M)
    assert {"stats", "ls", "pin", "unpin", "rm", "clear", "warm", "flush", "drain", "watch", "bench",
            "verify"} <= set(commands), commands
    assert out == bed.ctl.out("--help")
    for command in set(commands) - {"help"}:
        text = bed.ctl.out("help", command)
        assert text.startswith(f"usage: tessera_ctl {command} ") and text == bed.ctl.out(command, "-h"), text
    assert "--order=oldest" in bed.ctl.out("help", "ls")


def check_output_that_cannot_be_written(bed):
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*bed.ctl.command, "stats"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1 and "could not be written" in ended.stderr, ended


def check_unix_socket_and_token(bed):
    with tempfile.TemporaryDirectory() as folder:
        token = os.path.join(folder, "token")
        with open(token, "w") as file:
            file.write("let me in\n")
        address = f"unix:{folder}/cache.sock"
        server = Lines([find_server(), f"--listen={address}", "--ram_bytes=16777216", f"--token_file={token}"])
        server.await_match("event=ready")
        refused(Ctl(address)("stats"), 1, "wants its token", "--token_file")
        refused(Ctl(address)("watch"), 1, "wants its token", "--token_file")
        ctl = Ctl(address, f"--token_file={token}")
        assert ctl.json("ls") == [] and ctl.json("bench", "--seconds=0.1", "--bytes=1KiB")["get"]["pieces"] > 0
        assert server.stop() == 0


def check_tls(bed):
    if not shutil.which("openssl"):
        raise AssertionError("openssl is missing; deploy/install.sh tests brings it")
    with tempfile.TemporaryDirectory() as folder:
        make_certificates(folder)
        path = {name: f"{folder}/{name}.pem" for name in ("ca", "server", "server_key", "client", "client_key")}
        server = Server(find_server(), f"--tls_cert_file={path['server']}",
                        f"--tls_key_file={path['server_key']}", f"--tls_client_ca_file={path['ca']}")
        trusting = Ctl(server.address, f"--ca={path['ca']}")
        ctl = Ctl(server.address, f"--ca={path['ca']}", f"--cert={path['client']}", f"--key={path['client_key']}")
        assert ctl.json("ls") == [] and ctl.json("bench", "--seconds=0.1", "--bytes=1KiB")["put"]["pieces"] > 0
        refused(trusting("stats", "--timeout=5s"), 1, server.address)
        refused(Ctl(server.address)("stats", "--timeout=5s"), 1, server.address)
        assert server.stop() == 0


def make_certificates(folder):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key_flags = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key_flags, "-keyout", "ca_key.pem", "-out", "ca.pem", "-subj", "/CN=test ca")
    with open(f"{folder}/names", "w") as names:
        names.write("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *key_flags, "-keyout", f"{name}_key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca_key.pem", "-CAcreateserial",
                "-out", f"{name}.pem", "-extfile", "names")


CHECKS = (check_stats, check_stats_again_and_again, check_list, check_list_of_many_pages, check_pin_and_unpin,
          check_remove, check_removed_stays_away, check_clear, check_warm, check_flush, check_watch,
          check_watch_ends_with_the_server, check_drain, check_verify, check_verify_finds_a_flipped_bit, check_bench,
          check_bench_cleans_up_when_interrupted, check_bad_command_lines, check_shortened_keys, check_unreachable,
          check_hanging_server, check_help, check_output_that_cannot_be_written, check_unix_socket_and_token,
          check_tls)


def main():
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(folder)
        failures = run_checks(CHECKS, bed)
        return 1 if failures + report_stop(bed.server) else 0


if __name__ == "__main__":
    sys.exit(main())
