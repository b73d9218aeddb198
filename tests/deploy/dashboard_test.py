#!/usr/bin/env python3
"""Prometheus' own tool accepts the rules and tests the alerts; Grafana's own types read the dashboard and lose
nothing."""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import yaml
from docs_test import anchors
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

REPO = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = REPO / "deploy/prometheus", REPO / "deploy/grafana"
WIDTH = 24
FIRST_ROW = "Is it healthy, and is the cache paying off?"


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def lost(before, after, path=""):
    """What of `before` is not in `after`; `after` may have more."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after[key], f"{path}/{key}") if key in after else [f"{path}/{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, value in enumerate(before):
            yield from lost(value, after[i], f"{path}/{i}")
    elif before != after:
        yield f"{path}: {before} became {after}"


class RulesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.alerts = [rule for path in sorted(PROMETHEUS.glob("*.rules.yml"))
                      for group in yaml.safe_load(path.read_text())["groups"]
                      for rule in group["rules"] if "alert" in rule]
        cls.cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]

    def test_promtool_accepts_configurations_and_rules(self):
        for path in PROMETHEUS.glob("prometheus*.yml"):
            done = promtool("check", "config", path)
            self.assertEqual(done.returncode, 0, f"{path}: {done.stdout}{done.stderr}")
        for path in PROMETHEUS.glob("*.rules.yml"):
            done = promtool("check", "rules", "--lint-fatal", path)
            self.assertEqual(done.returncode, 0, f"{path}: {done.stdout}{done.stderr}")

    def test_the_ports_are_those_of_the_start_script(self):
        script = (REPO / "deploy/start_serving.sh").read_text()
        names = ("[={]PORT", "WORKER_METRICS_PORT", "CACHE_METRICS_PORT")
        ports = [re.search(rf"{name}:-(\d+)", script)[1] for name in names]
        jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
        self.assertEqual([job["static_configs"][0]["targets"] for job in jobs], [[f"127.0.0.1:{p}"] for p in ports])

    def test_alerts_fire_and_stay_quiet(self):
        done = promtool("test", "rules", PROMETHEUS / "alerts_test.yml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_alert_has_a_case_of_each_kind(self):
        said = {case["name"]: self.expectations(case) for case in self.cases}
        self.assertEqual(sorted(said), sorted(rule["alert"] for rule in self.alerts))
        for name, expectations in said.items():
            self.assertEqual(expectations, {True, False}, f"{name} must fire once and be quiet once")

    @staticmethod
    def expectations(case):
        """-> whether the case's own alert fires, of each time that it is looked at."""
        looks = [(bool(look.get("exp_alerts")), look["alertname"]) for look in case.get("alert_rule_test", [])]
        looks += [(bool(look.get("exp_samples")), look["expr"]) for look in case.get("promql_expr_test", [])
                  if look["expr"].startswith("ALERTS{")]
        return {fires for fires, of in looks if case["name"] in of}

    def test_every_alert_says_what_to_do(self):
        readme = (REPO / "deploy/README.md").read_text()
        headings = anchors(readme)
        sections = dict(re.findall(r"^### (Tessera\w+)\n(.*?)(?=^#|\Z)", readme, re.M | re.S))
        self.assertEqual(sorted(sections), sorted(rule["alert"] for rule in self.alerts))
        for rule in self.alerts:
            with self.subTest(alert=rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
                self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook_url"})
                page, anchor = rule["annotations"]["runbook_url"].split("#")
                self.assertEqual(page, "deploy/README.md")
                self.assertEqual(anchor, rule["alert"].lower())
                self.assertIn(anchor, headings)
                self.assertEqual(re.findall(r"^- (\w+):", sections[rule["alert"]], re.M), ["Means", "Look", "Do"])


class DashboardTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        register_default_plugins()
        cls.path = GRAFANA / "dashboards/tessera.json"
        cls.dashboard = json.loads(cls.path.read_text())
        cls.panels = cls.dashboard["panels"]
        cls.graphs = [panel for panel in cls.panels if panel["type"] != "row"]

    def test_it_is_what_its_source_says(self):
        made = subprocess.run([sys.executable, GRAFANA / "make_dashboard.py", "--print"], capture_output=True,
                              text=True, timeout=60, check=True)
        self.assertTrue(made.stdout == self.path.read_text(), "run deploy/grafana/make_dashboard.py")

    def test_grafana_knows_everything_in_it(self):
        read = Dashboard.from_json(self.dashboard)
        again = json.loads(JSONEncoder(sort_keys=True, indent=1).encode(read))
        self.assertEqual(list(lost(self.dashboard, again)), [])

    def test_the_first_row_is_the_answer(self):
        self.assertEqual(self.panels[0]["title"], FIRST_ROW)
        self.assertEqual(self.panels[1]["title"], "Workers ready")

    def test_panels_do_not_overlap(self):
        self.assertEqual(len({panel["id"] for panel in self.panels}), len(self.panels))
        self.assertEqual(len({panel["title"] for panel in self.panels}), len(self.panels))
        taken = {}
        for panel in self.panels:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], WIDTH, panel["title"])
            for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"])
                         for y in range(place["y"], place["y"] + place["h"])):
                self.assertNotIn(cell, taken, f"{panel['title']} lies over {taken.get(cell)}")
                taken[cell] = panel["title"]

    def test_panels_say_what_they_show(self):
        known = {value for name, value in vars(units).items() if isinstance(value, str) and name[0] != "_"}
        for panel in self.graphs:
            with self.subTest(panel=panel["title"]):
                self.assertGreater(len(panel["description"]), 10)
                self.assertIn(panel["fieldConfig"]["defaults"]["unit"], known)
                self.assertTrue(panel["targets"])
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                for target in panel["targets"]:
                    self.assertTrue(target["expr"].strip() and target["legendFormat"].strip())
                legends = [target["legendFormat"] for target in panel["targets"]]
                self.assertEqual(len(set(legends)), len(legends))

    def test_every_selector_is_filtered_by_the_variables(self):
        for panel in self.graphs:
            for target in panel["targets"]:
                for selector in re.findall(r"\b(?:tessera|process)_\w+(?:\{[^}]*\})?", target["expr"]):
                    self.assertRegex(selector, r'instance=~"\$(gateway|worker|cache)', panel["title"])

    def test_provisioning_points_at_it(self):
        sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
        self.assertEqual([(s["type"], s["url"]) for s in sources], [("prometheus", "${PROMETHEUS_URL}")])
        providers = yaml.safe_load((GRAFANA / "provisioning/dashboards/tessera.yml").read_text())["providers"]
        self.assertEqual(providers[0]["options"]["path"], "/etc/grafana/dashboards")


if __name__ == "__main__":
    if not shutil.which("promtool"):
        print("SKIP: promtool is not installed; deploy/install.sh tests brings it (package prometheus)")
        sys.exit(77)
    unittest.main(verbosity=2)
