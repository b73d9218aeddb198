#!/usr/bin/env python3
"""The cache server's program with disks that are missing, damaged or left by an earlier run, bad flags, and metrics.

Prints one line per check. Ends with 1 when one failed, with 77 when it cannot run here.
  tests/cache_server/server_program_test.py [PATH OF tessera_cache_server]
"""

import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request

from programs import Grpcurl, Server, find_checksum, find_grpcurl, find_server, key, piece, run_checks

PAYLOADS = [bytes([layer + 1]) * 20000 for layer in range(3)]
DISK = ("--disk_bytes=1073741824", "--disk_write_buffer_bytes=1048576", "--admission=all",
        "--disk_free_floor_bytes=1048576")


class Programs:
    def __init__(self):
        self.server, self.grpcurl, self.checksum = find_server(), find_grpcurl(), find_checksum()

    def start(self, *flags):
        server = Server(self.server, *flags)
        return server, Grpcurl(self.grpcurl, server.address)

    def store(self, call, number):
        stored = call.messages("Store", piece(key(number), PAYLOADS, self.checksum))[0]
        assert stored["stored"] == 1, stored


def fetch(call, number):
    """Whether the last header says found, and the slices that came."""
    headers, slices = [], []
    for message in call.messages("Fetch", {"keys": [key(number)]}):
        (headers if "header" in message else slices).append(message)
    return headers[-1]["header"]["keys"][0]["found"], len(slices)


def check_bad_flags(programs):
    for flag, word in (("--admission=some", "second_sighting"), ("--promotion=x", "second_read"),
                       ("--eviction=fifo", "s3fifo"), ("--evict_from=0", "--evict_from"),
                       ("--max_keys_per_call=3", "--max_keys_per_call"), ("--load_threads=0", "--load_threads"),
                       ("--token_file=/does/not/exist", "/does/not/exist"),
                       ("--tls_cert_file=/does/not/exist", "key file"), ("--listen=nowhere", "nowhere"),
                       ("--metrics_listen=nowhere:port", "nowhere:port")):
        ended = subprocess.run([programs.server, "--listen=127.0.0.1:0", "--shm_socket=none", flag],
                               capture_output=True, text=True, timeout=30)
        lines = [line for line in ended.stderr.splitlines() if line.startswith("tessera_cache_server: ")]
        assert ended.returncode == 1 and len(lines) == 1 and word in lines[0], (flag, ended)


def check_a_disk_that_cannot_be_used(programs):
    server, call = programs.start("--disk_folder=/proc/no/such/folder", *DISK)
    server.await_match("event=no_disk folder=/proc/no/such/folder error=")
    programs.store(call, 1)
    assert fetch(call, 1) == (True, 3)
    code, _, err = call("Flush", {})
    assert code != 0 and "no disk tier" in err, err
    assert server.stop() == 0


def check_pieces_over_a_kill_and_a_stop(programs):
    with tempfile.TemporaryDirectory() as folder:
        for how, number in ((signal.SIGKILL, 1), (signal.SIGTERM, 2)):
            server, call = programs.start(f"--disk_folder={folder}/disk", *DISK)
            programs.store(call, number)
            if how == signal.SIGKILL:
                assert call.one("Flush", {"keys": [key(number)]})["not_durable_keys"] == []
            server.stop(how)
        server, call = programs.start(f"--disk_folder={folder}/disk", *DISK)
        found = call.messages("Fetch", {"keys": [key(1), key(2)]})
        assert [k["tier"] for k in found[0]["header"]["keys"]] == ["rocksdb", "rocksdb"], found[0]
        assert len(found) == 7, len(found)
        assert server.stop() == 0


def check_damage_on_the_disk(programs):
    with tempfile.TemporaryDirectory() as folder:
        server, call = programs.start(f"--disk_folder={folder}/disk", *DISK)
        programs.store(call, 1)
        assert server.stop() == 0
        for blob in pathlib.Path(folder, "disk").rglob("*.blob"):
            data = bytearray(blob.read_bytes())
            at = data.find(PAYLOADS[1][:100])
            if at >= 0:
                data[at + 50] ^= 4
                blob.write_bytes(data)
        server, call = programs.start(f"--disk_folder={folder}/disk", *DISK)
        found, _ = fetch(call, 1)
        assert not found
        server.await_match("event=damaged_piece tier=rocksdb key=01010101")
        assert call.one("FindMissing", {"keys": [key(1)]})["missing_keys"] == [key(1)]
        programs.store(call, 1)
        assert fetch(call, 1) == (True, 3)
        assert server.stop() == 0


def check_a_folder_that_another_server_uses(programs):
    with tempfile.TemporaryDirectory() as folder:
        first, _ = programs.start(f"--disk_folder={folder}/disk", *DISK)
        second, call = programs.start(f"--disk_folder={folder}/disk", *DISK)
        second.await_match("event=no_disk .*in use")
        programs.store(call, 1)
        assert second.stop() == 0 and first.stop() == 0


def check_metrics(programs):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server, call = programs.start(f"--metrics_listen=127.0.0.1:{port}", f"--disk_folder={folder}/disk", *DISK)
        programs.store(call, 1)
        assert fetch(call, 1) == (True, 3)
        fetch(call, 2)
        call.one("Flush", {})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        for wanted in ('tier_hits_total{tier="ram"} 1', 'tier_entries{tier="rocksdb"} 1',
                       'sent_bytes_total{transport="grpc"} 60000', 'received_bytes_total{transport="grpc"} 60000',
                       'missing_pieces_total{transport="grpc"} 1', 'written_pieces_total 1', "write_queue_bytes 0",
                       'tier_medium{tier="rocksdb",what="stall_stopped"} 0', 'leases{transport="shm"} 0',
                       'lookup_pieces_total{tier="ram"} 1', "dropped_writes_total 0",
                       'checksum_failures_total{transport="grpc"} 0', 'expired_leases_total{transport="shm"} 0'):
            assert re.search(f"^tessera_cache_{re.escape(wanted)}$", text, re.MULTILINE), wanted
        assert 'tessera_cache_tier_seconds_count{call="commit",tier="rocksdb"} 1' in text
        assert server.stop() == 0


CHECKS = (check_bad_flags, check_a_disk_that_cannot_be_used, check_pieces_over_a_kill_and_a_stop,
          check_damage_on_the_disk, check_a_folder_that_another_server_uses, check_metrics)

if __name__ == "__main__":
    sys.exit(1 if run_checks(CHECKS, Programs()) else 0)
