#!/usr/bin/env python3
"""The cache server's program, asked by grpcurl: a client that knows only what the server says of itself.

Prints one line per check. Ends with 1 when one failed, with 77 when it cannot run here.
  tests/cache_server/grpcurl_test.py [PATH OF tessera_cache_server]
"""

import json
import re
import subprocess
import sys
import tempfile
import threading

from open_store import OpenStore, await_open_stores, drain, used_bytes
from programs import (SERVICE, Grpcurl, Lines, Server, find_checksum, find_grpcurl, find_server, key, piece,
                      report_stop, run_checks)

TENANT = bytes(range(16))


class Bed:
    """What the checks share: a server with memory and disk, and grpcurl on it."""

    def __init__(self, folder):
        self.program, self.checksum = find_grpcurl(), find_checksum()
        self.server = Server(find_server(), f"--disk_folder={folder}", "--disk_bytes=1000000000",
                             "--admission=pinned", "--disk_direct_reads=false")
        self.grpcurl = Grpcurl(self.program, self.server.address)

    def store(self, name, payloads=(b"abc",), tenant=b""):
        return self.grpcurl.one("Store", piece(name, payloads, self.checksum, tenant))

    def fetch(self, name):
        """The payloads of a piece that is there, or nothing."""
        header, *parts = self.grpcurl.messages("Fetch", {"keys": [name]})
        return [p["slice"]["payload"] for p in parts] if header["header"]["keys"][0]["found"] else None

    def is_missing(self, name):
        return self.grpcurl.one("FindMissing", {"keys": [name]})["missing_keys"] == [name]

    def refuses(self, method, request, status, words):
        code, _, err = self.grpcurl(method, request)
        assert code != 0 and status in err and words in err, (code, err)


def check_reflection(bed):
    services = bed.grpcurl("list")[1].split()
    assert SERVICE in services and "grpc.health.v1.Health" in services, services


def check_health(bed):
    for service in ("", SERVICE):
        answer = bed.grpcurl.one("grpc.health.v1.Health/Check", {"service": service})
        assert answer == {"status": "SERVING"}, answer


def check_capabilities(bed):
    answer = bed.grpcurl.one("GetCapabilities")
    assert answer["protocol_version"] == 1, answer
    assert re.fullmatch("[0-9a-f]{16}", answer["instance_id"]), answer
    assert answer["max_keys_per_call"] == 1024 and answer["shm_socket"] == "", answer
    assert [t["name"] for t in answer["tiers"]] == ["ram", "rocksdb"], answer
    assert answer["tiers"][0]["capacity_bytes"] == "16777216", answer


def check_store_and_fetch(bed):
    assert bed.grpcurl.one("FindMissing", {"keys": [key(1), key(2)]})["missing_keys"] == [key(1), key(2)]
    assert bed.store(key(1)) == {"stored": 1, "already_present": 0, "rejected": 0}
    assert bed.store(key(1)) == {"stored": 0, "already_present": 1, "rejected": 0}
    assert bed.grpcurl.one("FindMissing", {"keys": [key(1), key(2)]})["missing_keys"] == [key(2)]
    header, part = bed.grpcurl.messages("Fetch", {"keys": [key(2), key(1)]})
    assert [k["found"] for k in header["header"]["keys"]] == [False, True], header
    assert header["header"]["keys"][1]["tier"] == "ram", header
    assert part["slice"]["key_index"] == 1 and part["slice"]["payload"] == "YWJj", part


def check_slices_come_layer_by_layer(bed):
    for number, letters in ((3, (b"aa", b"bb", b"cc")), (4, (b"dd", b"ee"))):
        bed.store(key(number), letters)
    parts = bed.grpcurl.messages("Fetch", {"keys": [key(3), key(4)]})[1:]
    order = [(p["slice"]["layer"], p["slice"]["key_index"]) for p in parts]
    assert order == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], order


def check_stop_at_first_miss(bed):
    request = {"keys": [key(1), key(99), key(3)], "stop_at_first_miss": True}
    header = bed.grpcurl.messages("Fetch", request)[0]["header"]
    assert [k["found"] for k in header["keys"]] == [True, False, False], header


def check_list_in_pages(bed):
    for number in range(10, 15):
        bed.store(key(number), (b"x" * number,), TENANT)
    request = {"page_size": 2, "tenant": "AAECAwQFBgcICQoLDA0ODw==", "order": "LARGEST"}
    keys, pages = [], 0
    while True:
        page = bed.grpcurl.one("List", request)
        keys += [e["key"] for e in page["entries"]]
        pages += 1
        if not page["next_page_token"]:
            break
        request["page_token"] = page["next_page_token"]
    assert pages == 3 and keys == [key(n) for n in (14, 13, 12, 11, 10)], (pages, keys)
    entry = bed.grpcurl.one("List", {"page_size": 1, "tenant": request["tenant"]})["entries"][0]
    assert entry["tiers"] == ["ram"] and entry["layers"] == 1 and entry["pinned_ms"] == "0", entry
    bed.refuses("List", {**request, "order": "OLDEST"}, "InvalidArgument", "page token")
    bed.refuses("List", {"page_size": 1001}, "InvalidArgument", "at most 1000")
    bed.refuses("List", {"tenant": "AAAA"}, "InvalidArgument", "0 or 16 bytes")


def check_pin_and_unpin(bed):
    bed.store(key(20))
    answer = bed.grpcurl.one("Pin", {"keys": [key(20), key(21)], "ttl_ms": 60000})
    assert answer == {"pinned": 1, "missing": 1, "refused": 0}, answer
    stats = bed.grpcurl.one("Stats")
    assert stats["pinned_pieces"] == "1" and stats["pinned_bytes"] == "3", stats
    entries = bed.grpcurl.one("List", {"page_size": 1000})["entries"]
    pinned = [e for e in entries if e["pinned_ms"] != "0"]
    assert [e["key"] for e in pinned] == [key(20)] and int(pinned[0]["pinned_ms"]) <= 60000, pinned
    assert bed.grpcurl.one("Unpin", {"keys": [key(20), key(21)]}) == {"unpinned": 1}
    assert bed.grpcurl.one("Stats")["pinned_pieces"] == "0"
    bed.refuses("Pin", {"keys": [key(20)]}, "InvalidArgument", "a pin lasts")
    bed.refuses("Pin", {"keys": [key(20)], "ttl_ms": 2**40}, "InvalidArgument", "a pin lasts")
    bed.refuses("Pin", {"keys": [key(20)], "ttl_ms": 2**64 - 1}, "InvalidArgument", "a pin lasts")


def check_flush_and_prefetch(bed):
    bed.store(key(22), (b"disk",))
    answer = bed.grpcurl.one("Flush", {"keys": [key(22), key(23)]})
    assert answer["not_durable_keys"] == [key(23)], answer
    tiers = [e["tiers"] for e in bed.grpcurl.one("List", {"page_size": 1000})["entries"] if e["key"] == key(22)]
    assert tiers == [["ram", "rocksdb"]], tiers
    assert bed.grpcurl.one("Flush") == {"not_durable_keys": []}
    answer = bed.grpcurl.one("Prefetch", {"keys": [key(22), key(23)]})
    assert answer == {"loaded": 0, "present": 1, "missing": 1}, answer


def check_prefetch_from_disk(bed):
    """What is only on the disk after a restart is loaded, once."""
    with tempfile.TemporaryDirectory() as folder:
        flags = (f"--disk_folder={folder}", "--disk_bytes=1000000000", "--disk_direct_reads=false")
        server = Server(find_server(), *flags)
        grpcurl = Grpcurl(bed.program, server.address)
        grpcurl.one("Store", piece(key(1), (b"kept",), bed.checksum))
        assert grpcurl.one("Flush", {"keys": [key(1)]}) == {"not_durable_keys": []}
        assert server.stop() == 0
        server = Server(find_server(), *flags)
        grpcurl = Grpcurl(bed.program, server.address)
        assert grpcurl.one("List")["entries"][0]["tiers"] == ["rocksdb"]
        assert grpcurl.one("Prefetch", {"keys": [key(1)]}) == {"loaded": 1, "present": 0, "missing": 0}
        assert grpcurl.one("Prefetch", {"keys": [key(1)]}) == {"loaded": 0, "present": 1, "missing": 0}
        parts = grpcurl.messages("Fetch", {"keys": [key(1)]})
        assert parts[0]["header"]["keys"][0]["tier"] == "ram" and parts[1]["slice"]["payload"] == "a2VwdA==", parts
        assert server.stop() == 0


def check_no_disk_to_flush_to(bed):
    server = Server(find_server())
    code, _, err = Grpcurl(bed.program, server.address)("Flush", {})
    assert code != 0 and "FailedPrecondition" in err and "no disk tier" in err, err
    assert server.stop() == 0


def check_delete(bed):
    for number in (30, 31):
        bed.store(key(number))
    bed.grpcurl.one("Pin", {"keys": [key(30)], "ttl_ms": 60000})
    bed.grpcurl.one("Flush", {"keys": [key(30)]})
    assert bed.grpcurl.one("Delete", {"keys": [key(30), key(32)]}) == {"deleted": 1}
    assert bed.is_missing(key(30)) and not bed.is_missing(key(31))
    assert bed.grpcurl.one("Stats")["pinned_pieces"] == "0"


def check_clear(bed):
    bed.store(key(40))
    bed.store(key(41), (b"mine",), TENANT)
    tenant = "AAECAwQFBgcICQoLDA0ODw=="
    assert int(bed.grpcurl.one("Clear", {"tenant": tenant})["deleted"]) >= 1
    assert bed.is_missing(key(41)) and not bed.is_missing(key(40))
    bed.refuses("Clear", {"tenant": "AAAA"}, "InvalidArgument", "0 or 16 bytes")
    assert int(bed.grpcurl.one("Clear")["deleted"]) >= 1
    assert bed.grpcurl.one("List") == {"entries": [], "next_page_token": ""}


def check_stats(bed):
    stats = bed.grpcurl.one("Stats")
    assert [t["name"] for t in stats["tiers"]] == ["ram", "rocksdb"], stats
    assert int(stats["tiers"][0]["evictions_by_reason"]["erased"]) > 0, stats
    assert stats["open_fetches"] == "0" and stats["open_stores"] == "0" and not stats["draining"], stats
    assert int(stats["counters"]["tessera_cache_stores_total"]) > 0, stats


def check_watch(bed):
    watch = Lines(bed.grpcurl.arguments("Watch", "-v", "-max-time", "60"), "stdout", stdin=subprocess.DEVNULL)
    watch.await_match("Response headers received")
    bed.store(key(50))
    bed.grpcurl.one("Delete", {"keys": [key(50)]})
    for words in ('"kind": "ADDED"', '"kind": "EVICTED"', '"reason": "erased"'):
        watch.await_match(words, 20)
    assert sum(key(50) in line for line in watch.lines) >= 2, watch.lines
    assert bed.grpcurl.one("Stats")["watchers"] == "1"
    watch.stop()


def check_drain_and_resume(bed):
    assert bed.grpcurl.one("Drain") == {"open_fetches": "0", "open_stores": "0", "shm_leases": "0"}
    assert bed.grpcurl.one("grpc.health.v1.Health/Check")["status"] == "NOT_SERVING"
    bed.refuses("Fetch", {"keys": [key(1)]}, "Unavailable", "draining")
    bed.refuses("Store", piece(key(60), (b"abc",), bed.checksum), "Unavailable", "draining")
    assert bed.grpcurl.one("Stats")["draining"]
    bed.grpcurl.one("Drain", {"resume": True})
    assert bed.grpcurl.one("grpc.health.v1.Health/Check")["status"] == "SERVING"
    assert bed.store(key(60))["stored"] == 1


def check_drain_tells_what_is_open(bed):
    """A store that has begun and does not go on is still open at the drain's deadline."""
    with OpenStore(bed, key(61)) as store:
        code, out, _ = drain(bed, seconds=2)
        assert code == 0 and json.loads(out)["open_stores"] == "1", (code, out)
        assert bed.grpcurl.one("Drain", {"resume": True})["open_stores"] == "1"
        store.finish()
    assert bed.fetch(key(61)) == ["YWJj"]


def check_wrong_keys(bed):
    for method in ("FindMissing", "Fetch", "Unpin", "Prefetch", "Delete", "Flush"):
        bed.refuses(method, {"keys": ["AAAA"]}, "InvalidArgument", "32 bytes, not 3")
        bed.refuses(method, {"keys": [""]}, "InvalidArgument", "32 bytes, not 0")
    bed.refuses("Pin", {"keys": ["AAAA"], "ttl_ms": 1000}, "InvalidArgument", "32 bytes, not 3")


def check_many_keys(bed):
    """A hundred thousand keys in one call: refused, with the number to stay below."""
    request = {"keys": [key(1)] * 100000}
    for method in ("FindMissing", "Fetch", "Unpin", "Prefetch", "Delete", "Flush"):
        bed.refuses(method, request, "InvalidArgument", "at most 1024")
    bed.refuses("Pin", {**request, "ttl_ms": 1000}, "InvalidArgument", "at most 1024")
    assert bed.grpcurl.one("Stats")["pinned_pieces"] == "0"


def check_bad_stores(bed):
    header, first, second = piece(key(70), (b"abc", b"def"), bed.checksum)
    wrong = {"slice": {**first["slice"], "checksum": "1"}}
    long = {"slice": {**first["slice"], "payload": "YWJjZA=="}}
    later = {"slice": {**first["slice"], "offset": "2"}}
    for requests, status, words in (
            ([header, second, first], "InvalidArgument", "of layer 1 at 0, not of 0 at 0"),
            ([header, first, first], "InvalidArgument", "of layer 0 at 0, not of 1 at 0"),
            ([header, later], "InvalidArgument", "of layer 0 at 2"),
            ([header, long], "InvalidArgument", "a part of 4 bytes"),
            ([header, {"slice": {**first["slice"], "payload": ""}}], "InvalidArgument", "a part of 0 bytes"),
            ([first], "InvalidArgument", "a slice without a header"),
            ([header, header], "InvalidArgument", "before the piece ahead of it is finished"),
            ([header, first], "InvalidArgument", "ends within a piece"),
            ([{"header": {**header["header"], "key": "AAAA"}}], "InvalidArgument", "32 bytes, not 3"),
            ([{"header": {**header["header"], "tenant": "AAAA"}}], "InvalidArgument", "0 or 16 bytes"),
            ([{"header": {**header["header"], "layers": 0}}], "InvalidArgument", "impossible sizes"),
            ([{"header": {**header["header"], "slice_bytes": str(2**63)}}], "InvalidArgument", "impossible sizes"),
            ([header, wrong], "DataLoss", "wrong checksum: layer 0"),
    ):
        bed.refuses("Store", requests, status, words)
        assert bed.is_missing(key(70)), words
    too_large = {"header": {**header["header"], "layers": 1, "slice_bytes": str(65 << 20)}}
    bed.refuses("Store", [too_large, first], "InvalidArgument", "ends within a piece")
    assert bed.is_missing(key(70))
    await_open_stores(bed, 0)


def check_stream_cut_in_the_middle(bed):
    used = used_bytes(bed)
    with OpenStore(bed, key(71)) as store:
        store.call.process.kill()
        await_open_stores(bed, 0)
    assert used_bytes(bed) == used, "its room is free again"
    assert bed.is_missing(key(71)) and bed.fetch(key(71)) is None
    assert bed.store(key(71))["stored"] == 1 and bed.fetch(key(71)) == ["YWJj"]


def check_two_writers_of_one_key(bed):
    """The first to finish wins; until then the key is a miss, and afterwards its bytes are whole."""
    with OpenStore(bed, key(72)) as slow, OpenStore(bed, key(72), 1) as slower:
        assert bed.is_missing(key(72))
        assert bed.store(key(72))["stored"] == 1
        assert bed.fetch(key(72)) == ["YWJj"]
        for store in (slow, slower):
            answer = store.finish()
            assert answer == {"stored": 0, "already_present": 1, "rejected": 0}, answer
    assert bed.fetch(key(72)) == ["YWJj"]


def check_writers_at_the_same_time(bed):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(bed.store(key(73), (b"same",) * 8))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a["stored"] for a in answers) == [0] * 5 + [1], answers
    assert sum(a["already_present"] for a in answers) == 5, answers
    assert bed.fetch(key(73)) == ["c2FtZQ=="] * 8


def check_fuzzy_messages(bed):
    """Bytes that are no keys, and numbers at their ends, are refused one by one; the server lives."""
    bed.refuses("Store", [{"header": {"key": key(74), "layers": 2**32 - 1, "slice_bytes": str(2**64 - 1)}}],
                "InvalidArgument", "impossible sizes")
    header = {"header": {"key": key(74), "layers": 1, "slice_bytes": "3"}}
    bed.refuses("Store", [header, {"slice": {"layer": 2**32 - 1, "offset": str(2**64 - 1), "payload": "YWJj"}}],
                "InvalidArgument", "a part of layer")
    bed.refuses("List", {"page_token": "0:0:00"}, "InvalidArgument", "page token")
    check_health(bed)


def check_token(bed):
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("let me in\n")
        file.flush()
        server = Server(find_server(), f"--token_file={file.name}")
        without = Grpcurl(bed.program, server.address)
        wrong = Grpcurl(bed.program, server.address, "-plaintext", "-H", "authorization: Bearer let me out")
        right = Grpcurl(bed.program, server.address, "-plaintext", "-H", "authorization: Bearer let me in")
        for method in ("GetCapabilities", "FindMissing", "Fetch", "Store", "Pin", "Unpin", "Prefetch", "List",
                       "Delete", "Clear", "Flush", "Stats", "Watch", "Drain"):
            for grpcurl in (without, wrong):
                code, _, err = grpcurl(method, {})
                assert code != 0 and "Unauthenticated" in err and "Bearer TOKEN" in err, (method, err)
        assert right.one("FindMissing", {"keys": [key(1)]})["missing_keys"] == [key(1)]
        assert without.one("grpc.health.v1.Health/Check")["status"] == "SERVING"
        assert server.stop() == 0


CHECKS = (check_reflection, check_health, check_capabilities, check_store_and_fetch,
          check_slices_come_layer_by_layer, check_stop_at_first_miss, check_list_in_pages, check_pin_and_unpin,
          check_flush_and_prefetch, check_prefetch_from_disk, check_no_disk_to_flush_to, check_delete, check_clear,
          check_stats, check_watch, check_drain_and_resume, check_drain_tells_what_is_open, check_wrong_keys,
          check_many_keys, check_bad_stores, check_stream_cut_in_the_middle, check_two_writers_of_one_key,
          check_writers_at_the_same_time, check_fuzzy_messages, check_token)


def main():
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(folder)
        failures = run_checks(CHECKS, bed)
        return 1 if failures + report_stop(bed.server) else 0


if __name__ == "__main__":
    sys.exit(main())
