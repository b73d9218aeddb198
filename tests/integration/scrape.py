"""Prometheus' text form, as the programs answer it."""

import re
import time
import urllib.request

# Labels' values may hold anything but an unescaped quote.
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? (\S+)$")


class Scrape:
    """What one GET /metrics said: `types` and `labels` by name, `samples` by name and labels."""

    def __init__(self, text):
        self.types, self.labels, self.samples = {}, {}, {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                self.types[name] = kind
                self.labels[name] = set()
            elif line and not line.startswith("#"):
                self.add(*SAMPLE.match(line).groups())

    def add(self, name, labels, value):
        pairs = dict(LABEL.findall(labels or ""))
        self.samples[name, tuple(sorted(pairs.items()))] = float(value)
        self.labels[self.family(name)] |= set(pairs) - {"le", "quantile"}

    def family(self, name):
        for suffix in ("_bucket", "_sum", "_count"):
            if name.endswith(suffix) and self.types.get(name.removesuffix(suffix)) in ("histogram", "summary"):
                return name.removesuffix(suffix)
        return name

    def value(self, name, **labels):
        """Of all series of this name that have these labels together; 0 without one."""
        wanted = set(labels.items())
        return sum(v for (n, pairs), v in self.samples.items() if n == name and wanted <= set(pairs))


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return Scrape(answer.read().decode())


def scrape_until(address, ready, tries=200):
    """What is counted at a request's end may come a moment after its answer."""
    for _ in range(tries):
        values = scrape(address)
        if ready(values):
            return values
        time.sleep(0.05)
    raise AssertionError(f"{address} never said what was waited for")
