#!/usr/bin/env python3
"""tests/bazel_report.py counts cases, and a target that died is not lost."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("bazel_report.py")
OUTPUT = """INFO: Build completed
//tests/a:one_test                                              PASSED in 0.3s
//tests/a:cached_test                                  (cached) PASSED in 1.5s
//tests/a:plain_test                                            PASSED in 2.0s
//tests/b:bad_test                                              FAILED in 0.1s
  /some/where/test.log
//tests/b:crash_test                                            FAILED in 0.4s
//tests/b:slow_test                                             TIMEOUT in 900.1s
//tests/b:broken_test                                           FAILED TO BUILD
Executed 5 out of 7 tests: 3 tests pass and 4 fail locally.
"""
PASSED = '<testcase name="Works" status="run" result="completed" time="0.25" classname="One" />'
SKIPPED = '<testcase name="Odd" status="run" result="skipped" time="0" classname="One"><skipped/></testcase>'
OFF = '<testcase name="Off" status="notrun" result="suppressed" time="0" classname="One" />'
FAILED = '<testcase name="Breaks" status="run" time="0.1" classname="Two"><failure message="x"/></testcase>'


class BazelReportTest(unittest.TestCase):
    def report(self, output, cases):
        with tempfile.TemporaryDirectory() as place:
            for target, xml in cases.items():
                folder = pathlib.Path(place, target)
                folder.mkdir(parents=True)
                (folder / "test.xml").write_text(
                    f"<testsuites><testsuite>{xml}</testsuite></testsuites>"
                )
            log = pathlib.Path(place, "log")
            log.write_text(output)
            return subprocess.run(
                [sys.executable, SCRIPT, log, place], capture_output=True, text=True
            )

    def test_counts(self):
        done = self.report(
            OUTPUT,
            {
                "tests/a/one_test": PASSED + SKIPPED + OFF,
                "tests/a/cached_test": PASSED,
                "tests/b/bad_test": PASSED + FAILED,
                "tests/b/crash_test": PASSED,
            },
        )
        self.assertEqual(
            done.stdout.splitlines(),
            [
                "passed //tests/a:cached_test:One.Works 0.25",
                "passed //tests/a:one_test:One.Works 0.25",
                "skipped //tests/a:one_test:One.Odd 0.0",
                "passed //tests/a:plain_test:all 2.0",
                "passed //tests/b:bad_test:One.Works 0.25",
                "failed //tests/b:bad_test:Two.Breaks 0.1",
                "failed //tests/b:broken_test:failed_to_build 0.0",
                "passed //tests/b:crash_test:One.Works 0.25",
                "failed //tests/b:crash_test:failed 0.4",
                "failed //tests/b:slow_test:timeout 900.1",
            ],
        )

    def test_nothing_ran(self):
        self.assertNotEqual(self.report("ERROR: no such package\n", {}).returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
