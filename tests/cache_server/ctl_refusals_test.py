#!/usr/bin/env python3
"""tessera_ctl: what it refuses, servers that are gone, hang or want credentials, and its help.

Prints one line per check. Ends with 1 when one failed, with 77 when it cannot run here.
  tests/cache_server/ctl_refusals_test.py [PATH OF tessera_cache_server [PATH OF tessera_ctl]]
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from ctl_bed import MISSING, Ctl, main, refused
from programs import Lines, Server, find_server, key_hex, piece


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


CHECKS = (check_bad_command_lines, check_shortened_keys, check_unreachable, check_hanging_server, check_help,
          check_output_that_cannot_be_written, check_unix_socket_and_token, check_tls)

if __name__ == "__main__":
    sys.exit(main(CHECKS))
