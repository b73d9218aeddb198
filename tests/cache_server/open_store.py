"""A Store that has begun and waits, by grpcurl."""

import json
import subprocess

from programs import Grpcurl, Lines, piece


class OpenStore:
    """A Store of a piece of one layer that has sent its header and the first of two parts, and waits."""

    def __init__(self, bed, name, with_others=0):
        header, whole = piece(name, (b"abc",), bed.checksum)
        parts = [{"slice": {**whole["slice"], "payload": "YWI="}},
                 {"slice": {**whole["slice"], "offset": "2", "payload": "Yw=="}}]
        self.first, self.rest = [header, parts[0]], parts[1]
        self.bed, self.with_others = bed, with_others

    def __enter__(self):
        await_open_stores(self.bed, self.with_others)
        used = used_bytes(self.bed)
        self.call = Lines(self.bed.grpcurl.arguments("Store", "-max-time", "60"), "stdout",
                          stdin=subprocess.PIPE)
        self.call.process.stdin.write("".join(map(json.dumps, self.first)))
        self.call.process.stdin.flush()
        await_open_stores(self.bed, self.with_others + 1)
        await_that(lambda: used_bytes(self.bed) > used, "its piece has room")
        return self

    def finish(self):
        self.call.process.stdin.write(json.dumps(self.rest))
        self.call.process.stdin.close()
        self.call.process.wait(20)
        self.call.reader.join()
        return json.loads("".join(self.call.lines))

    def __exit__(self, *_):
        self.call.process.kill()
        self.call.process.wait()


def drain(bed, seconds):
    command = Grpcurl(bed.program, bed.server.address, "-plaintext", "-max-time", str(seconds))
    return command("Drain", {})


def await_that(condition, what):
    """Asks again and again; each try is a call, which takes its time."""
    for _ in range(100):
        if condition():
            return
    raise AssertionError(f"not in time: {what}")


def await_open_stores(bed, count):
    """A call that has ended is counted a moment longer."""
    await_that(lambda: bed.grpcurl.one("Stats")["open_stores"] == str(count), f"{count} open stores")


def used_bytes(bed):
    return int(bed.grpcurl.one("Stats")["tiers"][0]["used_bytes"])
