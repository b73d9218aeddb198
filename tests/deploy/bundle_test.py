#!/usr/bin/env python3
"""deploy/bundle.sh: programs that run from a folder that was moved, with the libraries in it and none of ours outside."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
BUNDLE = REPO / "deploy" / "bundle.sh"
PROGRAMS = [
    REPO / "bazel-bin" / path
    for path in ("gpu_worker/tessera_worker", "cache_server/tessera_cache_server", "gateway/tessera_gateway")
]
C_LIBRARY = re.compile(r"(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil)\.so")


def bundle(*arguments):
    return subprocess.run([BUNDLE, *map(str, arguments)], capture_output=True, text=True)


class BundleTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.here = pathlib.Path(temporary.name)

    def test_runs_after_a_move_with_its_own_libraries(self):
        done = bundle(self.here / "made", *PROGRAMS)
        self.assertEqual(done.returncode, 0, done.stderr)
        moved = self.here / "elsewhere" / "moved"
        moved.parent.mkdir()
        shutil.move(self.here / "made", moved)
        for program in PROGRAMS:
            path = moved / "bin" / program.name
            listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
            for line in listed.splitlines():
                name = line.split()[0]
                if not C_LIBRARY.match(os.path.basename(name)):
                    self.assertIn(f"=> {moved}/", line, f"{program.name} takes it from elsewhere")
            ran = subprocess.run([path, "--help"], capture_output=True, text=True, env={})
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertIn(program.name, ran.stdout + ran.stderr)

    def test_refuses_what_it_cannot_do(self):
        (self.here / "there").mkdir()
        for arguments, word in (
            ((), "usage"),
            ((self.here / "there", PROGRAMS[0]), "exists"),
            ((self.here / "new", self.here / "nothing"), "no program"),
        ):
            with self.subTest(word=word):
                done = bundle(*arguments)
                self.assertEqual(done.returncode, 1)
                self.assertIn(word, done.stderr)
                self.assertFalse((self.here / "new").exists())


if __name__ == "__main__":
    if not all(program.exists() for program in PROGRAMS) or not shutil.which("patchelf"):
        print("SKIP: the programs are not built, or patchelf is missing (deploy/install.sh tests)")
        sys.exit(77)
    unittest.main(verbosity=2)
