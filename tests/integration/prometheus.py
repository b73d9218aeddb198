"""The real Prometheus on a free port and a folder of its own, and what tests need to know of PromQL."""
import json
import pathlib
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime

import yaml
from cluster import free_port

START_SECONDS = 60
POLL_SECONDS = 0.2

# PromQL's words that are no metrics; functions are known by their bracket.
WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
LABEL_LISTS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
COMPARISON = re.compile(r" (==|!=|<=|>=|<|>) ")


def metric_names(query):
    """All that a query reads, whatever it is called."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?!\w|\s*\()", LABEL_LISTS.sub("", bare))
    return {name for name in names if name not in WORDS and not re.fullmatch(r"e\d*|Inf|NaN", name)}


def selectors(query):
    """Each metric of ours in a query, with its filters."""
    return re.findall(r"\b(?:tessera|process)[_:][\w:]*(?:\{[^}]*\})?", query)


def answered(query):
    """A condition that says 0 or 1 where it said nothing or something: an alert that is quiet, in numbers."""
    return COMPARISON.sub(r" \1 bool ", query)


class Prometheus:
    """Started in a folder that the caller removes; ready when the constructor returns."""

    def __init__(self, config, folder):
        folder, port = pathlib.Path(folder), free_port()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "log"
        with open(self.log, "w") as log:
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "prometheus", f"--config.file={folder / 'prometheus.yml'}",
                 f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"],
                stdout=log, stderr=subprocess.STDOUT)
        self.until("it is ready", self.ready, START_SECONDS)

    def ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=10):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def until(self, what, condition, seconds=60):
        """Asks until the condition holds, and returns what it said."""
        end = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if self.child.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"Prometheus: waited for {seconds} s until {what}; its log ends with\n"
                                     + "".join(self.log.read_text().splitlines(True)[-10:]))
            time.sleep(POLL_SECONDS)

    def get(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{parameters}: {e.read().decode()}") from None

    def query(self, expression):
        """-> [(labels, value)] of now; a scalar has no labels."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def caught_up(self):
        """Waits until all targets were scraped, and after that all rules evaluated, after this call."""
        now = time.time()
        scraped = self.until("all targets are scraped", lambda: self.scraped_after(now))
        self.until("all rules are evaluated", lambda: self.evaluated_after(scraped))

    def scraped_after(self, moment):
        oldest = self.query('min(timestamp(up{job=~"tessera-.*"} == 1)) and (min(up{job=~"tessera-.*"}) == 1)')
        return time.time() if oldest and oldest[0][1] > moment else None

    def evaluated_after(self, moment):
        # One group reads what another recorded, so a second evaluation of both.
        return all(
            datetime.fromisoformat(group["lastEvaluation"]).timestamp() > moment + 2 * group["interval"]
            for group in self.get("rules")["groups"])

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
