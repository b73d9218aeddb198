#!/usr/bin/env python3
"""tessera_ctl on the cache server's program: every command, as a table and as JSON.

Prints one line per check. Ends with 1 when one failed, with 77 when it cannot run here.
  tests/cache_server/ctl_test.py [PATH OF tessera_cache_server [PATH OF tessera_ctl]]
"""

import base64
import hashlib
import json
import re
import signal
import sys
import tempfile

from ctl_bed import MISSING, Ctl, main, refused, tenant_of
from programs import Grpcurl, Lines, Server, find_server, key_hex, piece


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


CHECKS = (check_stats, check_stats_again_and_again, check_list, check_list_of_many_pages, check_pin_and_unpin,
          check_remove, check_removed_stays_away, check_clear, check_warm, check_flush, check_watch,
          check_watch_ends_with_the_server, check_drain, check_verify, check_verify_finds_a_flipped_bit, check_bench,
          check_bench_cleans_up_when_interrupted)

if __name__ == "__main__":
    sys.exit(main(CHECKS))
