#!/usr/bin/env python3
"""Configurations of the three real programs: what stops a start and how, what is printed, where values come from."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tests" / "integration"), str(REPO / "tests" / "cache_server")]
import cluster  # noqa: E402  (needs the path above)
from programs import Lines  # noqa: E402

PROGRAMS = {
    "gateway": REPO / "bazel-bin/gateway/tessera_gateway",
    "cache": REPO / "bazel-bin/cache_server/tessera_cache_server",
    "worker": REPO / "bazel-bin/gpu_worker/tessera_worker",
}
REQUIRED = {"gateway": "model_dir", "worker": "model"}
PREFIX = {"gateway": "TESSERA_GATEWAY_", "cache": "TESSERA_CACHE_", "worker": "TESSERA_WORKER_"}


def plain_environment():
    return {k: v for k, v in os.environ.items() if not re.match("LMCACHE_|TESSERA_", k)}


def run(program, *flags, **variables):
    return subprocess.run(
        [str(PROGRAMS[program]), *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env={**plain_environment(), **variables},
    )


def values_of(printed):
    """The options of a printed configuration, as they stand there."""
    lines = [line for line in printed.splitlines() if line and not line.startswith("#")]
    return dict(line.split(": ", 1) for line in lines)


def origin_of(printed, option):
    return re.search(rf"^# from: (.*)\n(?:# )?{option}: ", printed, re.MULTILINE)[1]


class ConfigTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, text, name="config.yaml"):
        path = self.folder / name
        path.write_text(text)
        return path

    def printed(self, program, *flags, **variables):
        done = run(program, "--print-config", *flags, **variables)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def values(self, program, *flags, **variables):
        return values_of(self.printed(program, *flags, **variables))

    def check_refused(self, done, *lines):
        """Ends with 1 and says just these lines."""
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr, "".join(f"{line}\n" for line in lines))

    def test_an_unknown_field_stops_and_names_itself_and_the_closest(self):
        for program, wrong, closest in (
            ("gateway", "worker", "workers"),
            ("cache", "disc_folder", "disk_folder"),
            ("worker", "recompute", "recompute_ratio"),
        ):
            path = self.write(f"# mine\nlisten: 127.0.0.1:0\n{wrong}: sk-secret\n")
            name = PROGRAMS[program].name
            flags = [f"--{REQUIRED[program]}=/m"] if program in REQUIRED else []
            with self.subTest(program):
                self.check_refused(
                    run(program, f"--config={path}", *flags),
                    f"{name}: {path}:3: no option '{wrong}'; the closest is '{closest}'",
                )
                self.check_refused(
                    run(program, f"--{wrong}=sk-secret", *flags),
                    f"{name}: no option '--{wrong}'; the closest is --{closest}",
                )
                variable = PREFIX[program] + wrong.upper()
                self.check_refused(
                    run(program, *flags, **{variable: "sk-secret"}),
                    f"{name}: no option '{variable}' in the environment; the closest is "
                    f"{PREFIX[program]}{closest.upper()}",
                )

    def test_all_wrong_values_are_said_with_their_lines(self):
        path = self.write(
            "threads: '4'\nmodel_dir: 7\nidle_timeout: 75\nthreads_: 1\nmax_body_bytes: 99GiB\n"
        )
        self.check_refused(
            run("gateway", f"--config={path}", "--max_queued=many"),
            f"tessera_gateway: {path}:1: threads: '4' is text: take the quotes away",
            f"tessera_gateway: {path}:2: model_dir: '7' is no text in YAML: put it in quotes, as \"7\"",
            f"tessera_gateway: {path}:3: idle_timeout: '75' is not a time with its unit, such as "
            "500ms, 15s or 1m30s: give one",
            f"tessera_gateway: {path}:4: no option 'threads_'; the closest is 'threads'",
            f"tessera_gateway: {path}:5: max_body_bytes: '99GiB' is out of range: give 1KiB to 1GiB",
            "tessera_gateway: --max_queued: 'many' is not a whole number, 0 or more: give one",
        )

    def test_files_that_are_no_configuration(self):
        for text, words in (
            ("listen: a:1\nlisten: b:2\n", ":2: 'listen' is there twice, first on line 1"),
            ("a: &x 1\n", ":1: '&' makes an anchor"),
            ("listen: 'a\n", ":1: the quote has no end"),
            ("listen: a:1\n---\nlisten: b:1\n", "second document"),
            ("", "is empty"),
            ("#" * (1 << 20) + "\n", "larger than 1 MiB"),
        ):
            done = run("cache", f"--config={self.write(text)}")
            with self.subTest(text[:40]):
                self.assertEqual(done.returncode, 1)
                self.assertIn(words, done.stderr)
        done = run("cache", "--config=/does/not/exist")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--config: configuration file /does/not/exist", done.stderr)

    def test_what_is_required_is_missed(self):
        for program, option in REQUIRED.items():
            done = run(program)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"{PROGRAMS[program].name}: --{option} is required: ", done.stderr)
            self.assertIn(f"(required)\n# {option}: ", self.printed(program))

    def test_what_is_printed_gives_the_same_configuration(self):
        odd = "\x01\n\t\"'\\é\u2028🙂 # : "
        for program, flags in (
            ("gateway", [f"--blend_join={odd}", "--workers=a:1,b:2", "--idle_timeout=1m30s", "--model_dir=/m",
                         "--cors_origins=", "--max_body_bytes=1000001", "--noguard_metrics"]),
            ("cache", ["--ram_bytes=1.5GiB", "--evict_from=0.30000000000000004", f"--disk_folder={odd}",
                       "--lease=1500ms", "--admission=all"]),
            ("worker", ["--model=true", "--model_name=", "--correction=true", "--recompute_ratio=1e-7", "--sink=none"]),
        ):  # fmt: skip
            with self.subTest(program):
                first = self.printed(program, *flags)
                path = self.write(first, "printed.yaml")
                again = self.printed(program, f"--config={path}")
                self.assertEqual(values_of(first), values_of(again))
                self.assertNotEqual(values_of(first), self.values(program))
                changed = [f[2:].removeprefix("no").split("=")[0] for f in flags]
                for option in values_of(first):
                    want = f"flag --{option}" if option in changed else "default"
                    self.assertEqual(origin_of(first, option), want)
                    self.assertRegex(origin_of(again, option), f"file {re.escape(str(path))}:[0-9]+")

    def test_every_option_is_documented(self):
        for program in PROGRAMS:
            done = run(program, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            for option in [*self.values(program), *filter(None, [REQUIRED.get(program)])]:
                self.assertRegex(done.stdout, rf"\n  --{option}=.*\n      \S.*")
                self.assertIn(f"{PREFIX[program]}{option.upper()}", done.stdout)

    def test_each_source_goes_over_the_ones_before(self):
        path = self.write("model: /m\nqueue: 1\nmax_len: 1000\nthreads: 1\nchunk_size: 16\n")
        lmcache = self.write("chunk_size: 32\nuse_layerwise: false\n", "lmcache.yaml")
        printed = self.printed(
            "worker",
            "--queue=3",
            TESSERA_WORKER_CONFIG=str(path),
            LMCACHE_CONFIG_FILE=str(lmcache),
            LMCACHE_CHUNK_SIZE="64",
            LMCACHE_BLEND_CHECK_LAYERS="2",
            TESSERA_WORKER_CHECK_LAYER="5",
            TESSERA_WORKER_QUEUE="2",
            TESSERA_WORKER_MAX_LEN="2000",
        )
        values = values_of(printed)
        for option, value, origin in (
            ("policy", '"query_v"', "default"),
            ("threads", "1", f"file {path}:4"),
            ("layerwise", "false", f"file {lmcache}:2: use_layerwise"),
            ("chunk_size", "64", "environment LMCACHE_CHUNK_SIZE"),
            ("check_layer", "5", "environment TESSERA_WORKER_CHECK_LAYER"),
            ("max_len", "2000", "environment TESSERA_WORKER_MAX_LEN"),
            ("queue", "3", "flag --queue"),
        ):
            self.assertEqual((values[option], origin_of(printed, option)), (value, origin), option)

    def test_lmcache_names(self):
        every = dict(
            LMCACHE_CHUNK_SIZE="128",
            LMCACHE_LOCAL_CPU="True",
            LMCACHE_MAX_LOCAL_CPU_SIZE="2.5",
            LMCACHE_LOCAL_DISK="file:///kv",
            LMCACHE_MAX_LOCAL_DISK_SIZE="20",
            LMCACHE_REMOTE_URL="lm://cache:7600",
            LMCACHE_ENABLE_BLENDING="False",
            LMCACHE_BLEND_RECOMPUTE_RATIOS="0.3",
            LMCACHE_BLEND_SPECIAL_STR=" ## ",
            LMCACHE_BLEND_CHECK_LAYERS="3",
            LMCACHE_USE_LAYERWISE="False",
        )
        wanted = {
            "gateway": {"cache": '"cache:7600"', "blend_separator": '" ## "'},
            "cache": {"ram_bytes": "2500MB", "disk_folder": '"/kv"', "disk_bytes": "20GB"},
            "worker": {"cache": '"cache:7600"', "chunk_size": "128", "blend": "false", "recompute_ratio": "0.3",
                       "check_layer": "3", "layerwise": "false"},
        }  # fmt: skip
        for program, options in wanted.items():
            self.assertEqual(self.values(program, **every), {**self.values(program), **options})
        without_ram = self.values("cache", **{**every, "LMCACHE_LOCAL_CPU": "false"})
        self.assertEqual((without_ram["ram_bytes"], without_ram["admission"]), ("0", '"all"'))
        self.check_refused(
            run("cache", LMCACHE_MAX_LOCAL_CPU_SIZE="5GB"),
            "tessera_cache_server: LMCACHE_MAX_LOCAL_CPU_SIZE: '5GB' is not a number of GB: give one, "
            "such as 5 or 0.5",
        )

    def test_kubernetes_may_put_its_variables_there(self):
        kubernetes = dict(
            TESSERA_GATEWAY_SERVICE_HOST="10.0.0.1",
            TESSERA_GATEWAY_SERVICE_PORT_HTTP="8000",
            TESSERA_GATEWAY_PORT="tcp://10.0.0.1:8000",
            TESSERA_GATEWAY_PORT_8000_TCP_ADDR="10.0.0.1",
        )
        self.assertEqual(self.values("gateway", **kubernetes), self.values("gateway"))

    def test_the_cache_server_serves_from_a_file_and_says_what_it_ignores(self):
        path = self.write(
            f"listen: unix:{self.folder}/s\nram_bytes: 16MiB\nshm_socket: none\nstop_grace: 1s\n"
        )
        server = Lines(
            [str(PROGRAMS["cache"]), f"--config={path}", "--ram_bytes=32MiB"],
            env={**plain_environment(), "LMCACHE_REMOTE_SERDE": "cachegen", "LMCACHE_CHUNK_SIZE": "64"},
        )
        server.await_match(rf"event=ready listen=unix:{self.folder}/s .*ram_bytes=33554432 .*shm_socket=none")
        self.assertEqual(server.stop(), 0)
        ignored = [line for line in server.lines if "event=ignored_setting" in line]
        self.assertEqual(len(ignored), 1)
        self.assertIn('setting="LMCACHE_REMOTE_SERDE: Tessera has no equivalent"', ignored[0])

    def test_all_three_serve_from_files(self):
        try:
            programs = cluster.Cluster()
        except SystemExit:
            self.skipTest("no model")
        self.addCleanup(programs.close)
        ports = {program: cluster.free_port() for program in PROGRAMS}
        listen = {program: f"listen: 127.0.0.1:{port}\n" for program, port in ports.items()}
        files = {
            "cache": "ram_bytes: 256MiB\nshm_socket: none\n",
            "worker": f"model: {programs.folder}\nmodel_name: from-a-file\nmax_len: 512\n"
            f"cache: 127.0.0.1:{ports['cache']}\n",
            "gateway": f"model_dir: {programs.folder}\nworkers: [127.0.0.1:{ports['worker']}]\n"
            f"cache: 127.0.0.1:{ports['cache']}\nmax_prompts: 1\n",
        }
        for program, text in files.items():
            path = self.write(listen[program] + text, f"{program}.yaml")
            process = programs.run(program, [f"--config={path}"], ports[program])
        client = programs.client(process)
        self.assertEqual(client.model(), "from-a-file")
        answer = client.whole("/v1/completions", {"prompt": "Paris is", "max_tokens": 2})
        self.assertTrue(answer.text)
        status, reply = client.call("POST", "/v1/completions", {"prompt": ["a", "b"]})
        self.assertEqual(status, 400, reply)


if __name__ == "__main__":
    for program in PROGRAMS.values():
        if not program.exists():
            print(f"SKIP: {program} is not built; bazel build //:{program.name}")
            sys.exit(77)
    unittest.main(verbosity=2)
