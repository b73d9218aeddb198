#!/usr/bin/env python3
"""Every warning, error and start message of the sources has a row in deploy/guides/troubleshooting.md, and no row is left over.

A message is found by its longest literal piece: what stands between values, or behind `event=`.
"""
import pathlib
import re
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
GUIDE = REPO / "deploy" / "guides" / "troubleshooting.md"
PROGRAMS = ("base", "cache_server", "gateway", "gpu_worker")
# Where starts may fail: a status from there is what the program ends with, or what it says of its disk.
STARTS = (
    "base/config", "base/files.cc", "base/metrics.cc", "gateway/main.cc", "gateway/http/server.cc", "gateway/settings.cc", "gateway/access/api_keys.cc",
    "gateway/http/tls.cc", "gateway/text/load_tokenizer.cc", "gateway/text/model_text.cc", "cache_server/main.cc",
    "cache_server/server_settings.cc", "cache_server/service/server.cc", "cache_server/service/shm_server.cc",
    "gpu_worker/main.cc", "gpu_worker/device/make_ops.cc", "gpu_worker/model", "gpu_worker/calibrate",
    "gpu_worker/device/cuda/ops_cuda.cc", "cache_server/tier/rocksdb_folder.cc", "cache_server/tier/rocksdb_open.cc",
    "gpu_worker/serve/worker_service.cc",
)
SHORTEST = 12  # a literal piece that is shorter tells nothing: "one", "out of range"
# Of what scripts say without ending, what needs somebody's attention.
BAD = r"error|cannot|could not|no python|no shared memory|only |unused|ended|did not"
LITERAL = r'"((?:[^"\\\n]|\\.)*)"'


def joined(text):
    """Comments gone, and literals that stand beside each other made one."""
    text = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    return re.sub(r'(?<!\\)"\s*\n\s*"', "", text)


def sources(*roots):
    for root in roots:
        path = REPO / root
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.suffix in (".cc", ".h", ".cu", ".cuh"):
                yield file, joined(file.read_text())


def statements(text, opening):
    """What stands in the parentheses of every match of `opening`, which ends with the first of them."""
    for match in re.finditer(opening, text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield text[match.end() : end - 1]


def bad_events():
    """-> {event: file}, of what is logged as a warning or worse; and of other such messages, their text."""
    events, others = {}, {}
    for file, text in sources(*PROGRAMS):
        events.update({e: file for e in re.findall(r'LOG_EVENT(?:_\w+)?\(k(?:Warning|Error), "(\w+)"', text)})
        for first in re.findall(rf"LOG(?:_\w+)?\((?:WARNING|ERROR|FATAL)[^)]*\)[^;]*?{LITERAL}", text):
            event = re.match(r"event=(\w+)", first)
            (events if event else others)[event[1] if event else first.strip()] = file
    return events, others


def longest(literals):
    pieces = [p for literal in literals for p in re.split(r"%\.?\d*[a-z]|\\n|\\\"", literal)]
    return max((p.strip(" :'") for p in pieces), key=len, default="")


def start_messages():
    for file, text in sources(*STARTS):
        for inside in statements(text, r"\b\w*(?:Error|Wrong|Fail)\("):
            piece = longest(re.findall(LITERAL, inside))
            if len(piece) >= SHORTEST and " " in piece:
                yield file, piece


def shell_string(text, at):
    """The double-quoted string that begins at `at`, a NUL for each expansion in it, and where it ends."""
    out, at = "", at + 1
    while text[at] != '"':
        if text[at] == "\\":
            out, at = out + text[at + 1], at + 2
        elif text[at] == "$":
            at = end_of_expansion(text, at)
            out += "\0"
        else:
            out, at = out + text[at], at + 1
    return out, at + 1


def end_of_expansion(text, at):
    name = re.compile(r"\$(\w+|[#*?@!])").match(text, at)
    if name:
        return name.end()
    close, depth, at = {"(": ")", "{": "}"}[text[at + 1]], 1, at + 2
    opening = text[at - 1]
    while depth:
        depth += (text[at] == opening) - (text[at] == close)
        at += 1
    return at


def script_messages():
    says = re.compile(r'\b(?:die|bad_value \S+ \S+|fail_with_log \S+|say|echo(?=[^\n]*&2)) (?=(?:\\\n\s*)?")')
    for file in sorted((REPO / "deploy").rglob("*.sh")):
        text = file.read_text()
        for match in says.finditer(text):
            message, at = "", match.end()
            more = re.compile(r'\s*(?:\\\n\s*)?(?=")').match(text, at)
            while more:
                piece, at = shell_string(text, more.end())
                message += f" {piece}"
                more = re.compile(r'[ \t]*\\\n\s*(?=")').match(text, at)
            piece = max((p.strip(" '()") for p in message.split("\0")), key=len)
            progress = match[0].startswith(("say", "echo")) and not re.search(BAD, message)
            if len(piece) >= SHORTEST and not progress and "usage" not in message:
                yield file, piece
    for file in sorted((REPO / "deploy" / "models").glob("*.py")):
        for inside in statements(file.read_text(), r"raise (?:Refused|Unsupported)\("):
            pieces = [p for literal in re.findall(LITERAL, joined(inside)) for p in re.split(r"\{[^}]*\}", literal)]
            yield file, max((p.strip(" :';") for p in pieces), key=len)


class TroubleshootingTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.guide = GUIDE.read_text().replace("\\|", "|")
        cls.rows = re.findall(r"^\| `event=(\w+)` \|", cls.guide, re.MULTILINE)

    def missing(self, found):
        return sorted({f"{file.relative_to(REPO)}: {piece}" for file, piece in found if piece not in self.guide})

    def test_every_warning_has_a_row(self):
        events, others = bad_events()
        self.assertGreater(len(events), 30)
        self.assertEqual(sorted(set(events) - set(self.rows)), [])
        self.assertEqual(self.missing((file, text) for text, file in others.items()), [])

    def test_every_row_has_a_warning(self):
        text = "".join(text for _, text in sources(*PROGRAMS))
        self.assertEqual([e for e in self.rows if not re.search(rf'event={e}\b|"{e}"', text)], [])
        self.assertEqual(len(self.rows), len(set(self.rows)))

    def test_rows_are_sorted(self):
        for table in re.findall(r"(?:^\| `event=.*\n)+", self.guide, re.MULTILINE):
            events = re.findall(r"event=(\w+)", re.sub(r"` \|.*", "", table))
            self.assertEqual(events, sorted(events))

    def test_every_start_message_has_a_row(self):
        found = list(start_messages())
        self.assertGreater(len(found), 60)
        self.assertEqual(self.missing(found), [])

    def test_every_script_message_has_a_row(self):
        found = list(script_messages())
        self.assertGreater(len(found), 35)
        self.assertEqual(self.missing(found), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
