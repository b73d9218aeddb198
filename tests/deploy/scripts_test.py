#!/usr/bin/env python3
"""The shell scripts are clean by shellcheck, and the Python files compile on the oldest Python that is allowed."""
import ast
import pathlib
import shutil
import subprocess
import sys
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("deploy", "tests", ".ci")


class ScriptsTest(unittest.TestCase):
    def test_shellcheck(self):
        scripts = [str(p) for d in FOLDERS for p in (REPO / d).rglob("*.sh")] + [
            str(REPO / ".ci" / "run")
        ]
        done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_bash_scripts_stop_at_errors(self):
        for path in [p for d in FOLDERS for p in (REPO / d).rglob("*.sh")]:
            self.assertIn("\nset -euo pipefail\n", path.read_text(), path)

    def test_python_syntax(self):
        for path in [p for d in FOLDERS for p in (REPO / d).rglob("*.py")]:
            with self.subTest(path=path):
                ast.parse(path.read_text(), feature_version=(3, 9))


if __name__ == "__main__":
    if not shutil.which("shellcheck"):
        print("SKIP: shellcheck is not installed; deploy/install.sh tests brings it")
        sys.exit(77)
    unittest.main(verbosity=2)
