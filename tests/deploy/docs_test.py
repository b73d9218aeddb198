#!/usr/bin/env python3
"""The documentation is true where that can be checked: links, paths, options and metrics exist, examples run.

What runs, on the real programs: blocks behind <!-- run -->, deploy/guides/rag.py, the file of from_lmcache.md and the
session of grpcurl.md.
"""
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "integration"))
import cluster  # noqa: E402  (needs the path above)

GUIDES = REPO / "deploy" / "guides"
# A name in the text may leave out what a C++ file is called behind its stem.
ENDINGS = ("", ".h", ".cc", ".cu", ".cuh", ".py", ".sh", ".proto", "_test.py", "_test.cc")
PORTS = {"7600": "cache", "7601": "worker", "8000": "gateway"}
# Options of other programs: bazel and glog; all on a line that names one of TOOLS; LMCache's own server.
FOREIGN = set("config define".split())
TOOLS = re.compile(r"^.*\b(?:docker|docker-compose|kubectl|kustomize|promtool|prometheus|apt-get|pip|chromium)\b.*$", re.MULTILINE)
LMCACHE = set(
    "host port chunk-size l1-size-gb eviction-policy eviction-trigger-watermark eviction-ratio l2-adapter engine-type "
    "coordinator-url p2p- max-workers hash-algorithm".split()
)


@functools.lru_cache(None)
def tracked():
    """The repository's files, but for what a build makes."""
    tops = [p for p in REPO.iterdir() if not p.name.startswith((".", "bazel-"))]
    return [*(p for p in tops if p.is_file()), *(p for top in tops if top.is_dir() for p in top.rglob("*.*") if p.is_file())]


@functools.lru_cache(None)
def documents():
    return {path: path.read_text() for path in tracked() if path.suffix == ".md"}


def shown(path):
    return str(path.relative_to(REPO))


def prose(text):
    return re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(text):
    """-> [(what stands in the line before, language, code)]"""
    found = re.finditer(r"^(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<code>.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(m["before"].strip(), m["language"], m["code"]) for m in found]


def anchors(text):
    """As GitHub makes them: lower case, no punctuation, a hyphen for a space, -1 and so on for repeated ones."""
    seen, names = {}, set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        names.add(name if name not in seen else f"{name}-{seen[name]}")
        seen[name] = seen.get(name, 0) + 1
    return names


class LinksTest(unittest.TestCase):
    def test_links_and_anchors(self):
        wrong = []
        for path, text in documents().items():
            for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
                if re.match(r"[a-z]+:", target):
                    continue
                name, _, anchor = target.partition("#")
                file = (path.parent / name).resolve() if name else path
                if not file.exists():
                    wrong.append(f"{shown(path)}: no {target}")
                elif anchor and anchor not in anchors(file.read_text()):
                    wrong.append(f"{shown(path)}: no heading {target}")
        self.assertEqual(wrong, [])

    def test_a_wrong_anchor_is_seen(self):
        self.assertEqual(anchors("# A b: `c`!\n## A b c\n"), {"a-b-c", "a-b-c-1"})


class PathsTest(unittest.TestCase):
    """Backticked words with a slash, whose first part is a folder of the repository or of the document."""

    def exists(self, root, name):
        if any(c in name for c in "*{"):
            for braces in re.findall(r"\{([^}]*)\}", name)[:1]:
                return all(self.exists(root, name.replace("{%s}" % braces, one, 1)) for one in braces.split(","))
            return any(True for _ in root.glob(name))
        return any((root / f"{name}{ending}").exists() for ending in ENDINGS)

    def test_paths_exist(self):
        wrong = []
        for path, text in documents().items():
            for name in re.findall(r"`([\w.\-{},*]+/[\w.\-/{},*]*)`", prose(text)):
                roots = [r for r in (REPO, path.parent) if (r / name.split("/")[0]).is_dir()]
                built = name.startswith("bazel-")  # links that a build makes
                if roots and not built and not any(self.exists(r, name.rstrip("/")) for r in roots):
                    wrong.append(f"{shown(path)}: {name}")
        self.assertEqual(wrong, [])


def options():
    """-> {message: names} of proto/config.proto."""
    text = (REPO / "proto" / "config.proto").read_text()
    bodies = re.findall(r"^message (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return {name: set(re.findall(r"^  (?:repeated )?\w+ (\w+) = \d+ \[", body, re.MULTILINE)) for name, body in bodies}


def script_options():
    sources = [p for p in tracked() if p.suffix in (".py", ".sh") and p.parts[len(REPO.parts)] in ("deploy", "tests")]
    text = "".join(p.read_text() for p in sources)
    flags = "".join(p.read_text() for p in tracked() if p.suffix == ".cc" and ("ctl" in p.parts or "bench" in p.parts))
    return set(re.findall(r'"--([\w-]+)', text)) | set(re.findall(r"ABSL_FLAG\([^,]+, (\w+)", flags))


class OptionsTest(unittest.TestCase):
    def test_options_exist(self):
        known = set().union(*options().values()) | script_options() | FOREIGN | {"help", "print-config", "print_config", "v"}
        wrong = []
        for path, text in documents().items():
            foreign = LMCACHE if path.name in ("from_lmcache.md", "README.md") else set()
            for name in set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", TOOLS.sub("", text))) - foreign:
                if not {name, name.replace("-", "_"), name[2:] if name.startswith("no") else name} & known:
                    wrong.append(f"{shown(path)}: --{name}")
        self.assertEqual(wrong, [])

    def test_options_by_letter(self):
        """tuning.md says W, C and G for the three programs."""
        names = {"W": "WorkerConfig", "C": "CacheServerConfig", "G": "GatewayConfig"}
        found = re.findall(r"(?<!\w)([WCG]) ((?:`\w+`(?:, | or | and )?)+)", (GUIDES / "tuning.md").read_text())
        self.assertGreater(len(found), 20)
        for letter, several in found:
            for name in re.findall(r"`(\w+)`", several):
                self.assertIn(name, options()[names[letter]], f"tuning.md: {letter} `{name}`")

    def test_yaml_in_the_readme(self):
        code = next(c for _, _, c in blocks(documents()[REPO / "README.md"]) if c.startswith("# gateway.yaml"))
        for name in re.findall(r"^(\w+):", code, re.MULTILINE):
            self.assertIn(name, options()["GatewayConfig"])

    def test_metrics_exist(self):
        sources = "".join(p.read_text() for p in tracked() if p.suffix in (".cc", ".h") and "tests" not in p.parts)
        literals = set(re.findall(r'"([a-z0-9_]+)"', sources))
        for path in GUIDES.glob("*.md"):
            for name in set(re.findall(r"`(tessera_[a-z_]+)(?:\{|`)", path.read_text())):
                short = re.sub(r"^tessera_(worker_|cache_)?", "", name)
                known = {name, short, short.removesuffix("_total")} & literals
                program = re.match(r"tessera_(ctl|worker|gateway|cache_server)$", name)
                self.assertTrue(known or program, f"{path.name}: {name}")


class ExamplesTest(cluster.ClusterTest):
    @classmethod
    def start(cls):
        cls.servers = {"cache": cls.cluster.cache()}
        cls.servers["worker"] = cls.cluster.worker(cls.servers["cache"].address)
        cls.servers["gateway"] = cls.cluster.gateway(cls.servers["worker"], cache=cls.servers["cache"].address)
        cls.client = cls.cluster.client(cls.servers["gateway"])

    def here(self, text):
        """With this cluster's ports in place of those that start_serving.sh uses."""
        for port, name in PORTS.items():
            text = text.replace(f"127.0.0.1:{port}", self.servers[name].address)
        return text

    def run_in_shell(self, code):
        paths = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ["PATH"]))
        return subprocess.run(
            ["bash", "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": paths}
        )

    def test_marked_blocks(self):
        ran = 0
        for path, text in documents().items():
            for before, language, code in blocks(text):
                if before != "<!-- run -->":
                    continue
                ran += 1
                with self.subTest(path=shown(path), code=code[:80]):
                    program = sys.executable if language == "python" else "bash"
                    done = subprocess.run(
                        [program, "-c", self.here(code)], cwd=REPO, capture_output=True, text=True, timeout=120
                    )
                    self.assertEqual(done.returncode, 0, done.stderr)
                    if language != "python":
                        reply = json.loads(done.stdout)
                        self.assertTrue(reply.get("choices") or reply.get("data"), reply)
        self.assertGreaterEqual(ran, 4)

    def test_rag(self):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "a.md").write_text("\n\n".join(f"Paragraph {i} says that {i} is odd or even." for i in range(200)))
            pathlib.Path(folder, "cases.json").touch()
            rag = f"{sys.executable} deploy/guides/rag.py {folder} 'Is 7 odd?'"
            done = self.run_in_shell(f"{rag} --url http://{self.servers['gateway'].address}")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, r"(?s)passages.*full.* 0 recomputed.*blend.*[1-9]\d* recomputed.*reversed")
            done = self.run_in_shell(f"{rag} --cases {folder}/cases.json")
            self.assertEqual(done.returncode, 0, done.stderr)
            cases = json.loads(pathlib.Path(folder, "cases.json").read_text())
            self.assertEqual([set(c) for c in cases], [{"ctxs", "question", "answers"}])

    def test_lmcache_file(self):
        """The file in from_lmcache.md starts a cache server, which says of the same settings that it ignores them."""
        text = (GUIDES / "from_lmcache.md").read_text()
        code = textwrap.dedent(re.search(r"^   ```\n(   chunk_size: .*?)^   ```", text, re.MULTILINE | re.DOTALL)[1])
        ignored = r'event=ignored_setting setting="lmcache\.yaml:([^"]*)"'
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "lmcache.yaml")
            path.write_text(code.replace("/tmp/kv", f"{folder}/kv"))
            os.environ["LMCACHE_CONFIG_FILE"] = str(path)
            try:
                lines = "".join(self.cluster.run("cache", ["--listen=127.0.0.1:0"], 0).lines)
            finally:
                del os.environ["LMCACHE_CONFIG_FILE"]
        self.assertEqual(sorted(re.findall(ignored.replace('"lmcache', '"\\S*lmcache'), lines)), sorted(re.findall(ignored, text)))

    def test_grpcurl_session(self):
        """Every command of grpcurl.md, in order; what it printed then is held against now where it cannot differ."""
        key, ran = "", 0
        changes = re.compile(r"GetCapabilities|/List|/Stats|GetModel|/Generate|PrefillChunk")
        for command, output in session((GUIDES / "grpcurl.md").read_text()):
            if command.startswith("key="):
                key = command
                continue
            with self.subTest(command=command[:90]):
                ran += 1
                done = self.run_in_shell(f"{key}\n{self.here(command)}")
                self.assertEqual(done.returncode == 0, not output.startswith("ERROR"), done.stdout + done.stderr)
                if "..." not in output and not changes.search(command):
                    self.assertEqual(done.stdout.strip() or done.stderr.strip(), output.strip())
        self.assertGreater(ran, 15)


def session(text):
    """-> [(command, what it printed)] of the blocks with `$ ` in them; a command goes on while a quote or \\ is open."""
    steps = []
    for _, _, code in blocks(text):
        command = None
        for line in code.splitlines():
            if line.startswith("$ "):
                command = line[2:]
                steps.append([command, ""])
            elif command is not None and (command.count("'") % 2 or command.endswith("\\")):
                command = steps[-1][0] = f"{command}\n{line}"
            elif steps and command is not None:
                steps[-1][1] += f"{line}\n"
    return [tuple(step) for step in steps]


if __name__ == "__main__":
    cluster.main()
