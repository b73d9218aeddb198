#!/usr/bin/env python3
"""Reads what `bazel test` printed and the test.xml files it left: one line `verdict name seconds` a test case.

usage: bazel_report.py OUTPUT_OF_BAZEL TESTLOGS_FOLDER
"""
import os
import re
import sys
import xml.etree.ElementTree as ElementTree

SUMMARY = re.compile(
    r"^(//\S+)\s+(?:\(cached\) )?"
    r"(PASSED|FLAKY|FAILED TO BUILD|FAILED|TIMEOUT|NO STATUS|INCOMPLETE|REMOTE FAILURE)"
    r"(?:.* in ([0-9.]+)s)?"
)


def cases_of(path):
    """-> [(verdict, name, seconds)] of a GoogleTest report; empty when there is none."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return []
    cases = []
    for case in root.iter("testcase"):
        if case.get("status") == "notrun":
            continue
        failed = any(child.tag in ("failure", "error") for child in case)
        skipped = case.get("result") == "skipped" or any(child.tag == "skipped" for child in case)
        verdict = "failed" if failed else "skipped" if skipped else "passed"
        cases.append(
            (verdict, f"{case.get('classname')}.{case.get('name')}", float(case.get("time") or 0))
        )
    return cases


def report(target, verdict, seconds, testlogs):
    """A target's cases; a target that failed beyond its cases (a crash, a time-out) is a failure of its own."""
    folder = target[2:].replace(":", "/")
    passed = verdict in ("PASSED", "FLAKY")
    built = verdict not in ("FAILED TO BUILD", "NO STATUS")
    cases = cases_of(os.path.join(testlogs, folder, "test.xml")) if built else []
    if not passed and not any(v == "failed" for v, _, _ in cases):
        cases.append(("failed", verdict.lower().replace(" ", "_"), seconds))
    return [(v, f"{target}:{name}", s) for v, name, s in cases or [("passed", "all", seconds)]]


def main(output, testlogs):
    targets = {}
    with open(output, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if found := SUMMARY.match(line):
                targets[found[1]] = (found[2], float(found[3] or 0))
    if not targets:
        sys.exit("bazel reported no test")
    for target, (verdict, seconds) in sorted(targets.items()):
        for case in report(target, verdict, seconds, testlogs):
            print(*(str(part).replace(" ", "_") for part in case))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
