#!/usr/bin/env python3
"""The real Prometheus scrapes the real programs; every rule and every query of the dashboard and of the runbook finds
something there."""
import concurrent.futures
import json
import math
import pathlib
import re
import shutil
import tempfile
import types

import yaml
from cluster import REPO, ClusterTest, free_port, main, skip
from prometheus import Prometheus, answered, metric_names, selectors
from serving_client import Client, ServerError, make_document

RULES = REPO / "deploy/prometheus"
DASHBOARD = REPO / "deploy/grafana/dashboards/tessera.json"
PATH = "/v1/completions"
SOURCES = ("exact", "blended", "recomputed", "computed")
# Of Prometheus itself: which alerts fire.
NOT_SCRAPED = {"ALERTS"}
# What Grafana puts in the place of its variables, when all models and instances are chosen.
ALL = {"$__rate_interval": "10m", "$model": ".*", "$gateway": ".*", "$worker": ".*", "$cache": ".*"}
MOST_AT_ONCE = 6


def rules():
    """-> [(name, rule)] of deploy/prometheus."""
    groups = [g for path in sorted(RULES.glob("*.rules.yml")) for g in yaml.safe_load(path.read_text())["groups"]]
    return [(rule.get("record") or rule["alert"], rule) for group in groups for rule in group["rules"]]


def panel_queries(variables):
    """-> [(panel, legend, query)] as Grafana sends them."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in variables.items():
                query = query.replace(name, value)
            yield panel["title"], target["legendFormat"], query


def runbook_queries():
    """-> [(alert, query)] of deploy/README.md: what is between backticks, names a metric and is no command."""
    for section in re.split(r"^### (?=Tessera)", (REPO / "deploy/README.md").read_text(), flags=re.M)[1:]:
        alert, text = section.split("\n", 1)
        for quoted in re.findall(r"`([^`]+)`", text):
            if selectors(quoted) and not re.match(r"tessera_(ctl|worker|gateway|cache_server) ", quoted):
                yield alert, quoted


class PrometheusTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.folder = tempfile.mkdtemp(prefix="tessera_prometheus_")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.answers = []
        cls.start_programs()
        cls.prometheus = Prometheus(cls.config(), cls.folder)
        cls.addClassCleanup(cls.prometheus.stop)
        # Counters that begin with the first event only grow for Prometheus with the second one.
        for part in range(2):
            cls.prometheus.caught_up()
            cls.send_traffic(part)
        cls.prometheus.until("drift is measured", lambda: cls.value("tessera_worker_drift_kl_count") >= 2)
        cls.prometheus.caught_up()

    @classmethod
    def start_programs(cls):
        """Small tiers, so that chunks leave each; two gateways of which little can be expected."""
        cls.ports = {"cache": free_port(), "worker": free_port()}
        port, folder = free_port(), pathlib.Path(cls.folder)
        cache = cls.cluster.run(
            "cache",
            [f"--listen=127.0.0.1:{port}", "--ram_bytes=12MiB", f"--disk_folder={folder / 'disk'}", "--admission=all",
             "--disk_bytes=1GB", "--disk_write_buffer_bytes=1MiB", f"--metrics_listen=127.0.0.1:{cls.ports['cache']}"],
            port)
        worker = cls.cluster.worker(
            cache.address, metrics_listen=f"127.0.0.1:{cls.ports['worker']}", drift_sample=1, choose_by_cost="true",
            chunk_pool_bytes="4MiB", queue=1, max_running=1)
        (folder / "keys").write_text("watcher sk-watcher\nhasty sk-hasty 1\n")
        (folder / "key").write_text("sk-watcher")
        cls.gateway = cls.cluster.gateway(worker, cache=cache.address)
        cls.hasty = cls.cluster.gateway(worker, api_keys_file=folder / "keys", request_timeout="20ms")
        cls.lonely = cls.cluster.gateway(types.SimpleNamespace(address=f"127.0.0.1:{free_port()}"))
        cls.client = cls.cluster.client(cls.gateway)
        cls.hasty.await_line("event=worker_ready")

    @classmethod
    def config(cls):
        """deploy/prometheus/prometheus.yml with the ports of this test, and twice a second."""
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        targets = {"tessera-gateway": [cls.gateway.address, cls.lonely.address],
                   "tessera-worker": [f"127.0.0.1:{cls.ports['worker']}"],
                   "tessera-cache": [f"127.0.0.1:{cls.ports['cache']}"]}
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
        config["scrape_configs"].append({
            "job_name": "tessera-guarded", "static_configs": [{"targets": [cls.hasty.address]}],
            "authorization": {"credentials_file": f"{cls.folder}/key"}})
        return config

    @classmethod
    def send_traffic(cls, part):
        """Everything that a metric is about, as far as it costs no more than seconds."""
        documents = [make_document(f"prometheus/{part}/{i}", 60) for i in range(6)]
        for mode, chosen in (("blend", documents[:3]), ("blend", documents[:3]), ("blend", documents[3:]),
                             ("blend", documents[2::-1]), ("auto", documents[:3]), ("exact", documents[:3]),
                             ("off", documents[:2])):
            cls.ask(chosen, mode)
            # Stored after the answer, and a drift is measured while nothing else is there to do.
            cls.prometheus.caught_up()
        status, _ = cls.client.call("POST", "/v1/chunks", {"texts": [make_document(f"prometheus/ahead/{part}", 40)]})
        cls.expect(status, 200)
        cls.expect(cls.client.call("POST", PATH, {"prompt": 1})[0], 400)
        cls.expect(Client(f"http://{cls.lonely.address}").call("POST", PATH, {"prompt": "x"})[0], 503)
        # The first one is too slow for its gateway, the next ones are too many for their key.
        cls.expect(cls.send_in_haste(), 504, 429 if part else 504)
        cls.expect(cls.send_in_haste(), 429)
        cls.crowd_the_queue(part)

    @classmethod
    def ask(cls, documents, mode, tokens=3):
        prompt = " # # ".join(["Read.", *documents, "Which is the first?"])
        answer = cls.client.whole(PATH, {"prompt": prompt, "max_tokens": tokens, "temperature": 0,
                                         "tessera": {"mode": mode}})
        cls.answers.append(answer)
        return answer

    @classmethod
    def send_in_haste(cls):
        body = {"prompt": make_document("prometheus/haste", 400), "max_tokens": 8}
        connection, response = Client(f"http://{cls.hasty.address}").send(
            "POST", PATH, body, {"Authorization": "Bearer sk-hasty"})
        response.read()
        connection.close()
        return response.status

    @classmethod
    def crowd_the_queue(cls, part):
        """One runs, one waits, and the others are refused."""
        def one(i):
            try:
                cls.ask([make_document(f"prometheus/crowd/{part}/{i}", 150)], "off", tokens=24)
            except ServerError as e:
                return "429" in str(e)
            return False
        with concurrent.futures.ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            refused = sum(pool.map(one, range(MOST_AT_ONCE)))
        if not refused:
            raise AssertionError(f"{MOST_AT_ONCE} requests at once, and none was refused")

    @staticmethod
    def expect(status, *right):
        if status not in right:
            raise AssertionError(f"HTTP status {status}, not {right}")

    @classmethod
    def value(cls, query):
        return sum(value for _, value in cls.prometheus.query(query))

    def check(self, name, query):
        """-> its samples, of which one at least is a number; every metric and filter in it matches something."""
        for metric in metric_names(query) - NOT_SCRAPED:
            self.assertTrue(metric in self.names, f"{name}: no server and no rule has {metric}")
        for selector in selectors(query):
            self.assertTrue(self.prometheus.get("series", **{"match[]": selector}), f"{name}: {selector} is empty")
        samples = self.prometheus.query(query)
        self.assertTrue([v for _, v in samples if not math.isnan(v)], f"{name}: {query} says nothing: {samples}")
        return samples

    def setUp(self):
        self.names = set(self.prometheus.get("label/__name__/values"))

    def test_every_rule_is_evaluated(self):
        for group in self.prometheus.get("rules")["groups"]:
            for rule in group["rules"]:
                self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])
        for name, rule in rules():
            with self.subTest(rule=name):
                self.check(name, answered(rule["expr"]))
                if "record" in rule:
                    self.check(name, name)

    def test_every_query_of_the_runbook_finds_something(self):
        queries = list(runbook_queries())
        self.assertGreater(len(queries), 30)
        for alert, query in queries:
            with self.subTest(alert=alert, query=query):
                self.check(alert, query)

    def test_every_query_of_the_dashboard_finds_something(self):
        for panel, legend, query in panel_queries(ALL):
            with self.subTest(panel=panel, legend=legend):
                self.assertNotIn("$", query)
                samples = self.check(panel, query)
                for label in re.findall(r"\{\{(\w+)\}\}", legend):
                    for labels, _ in samples:
                        self.assertIn(label, labels, f"{panel}: the legend '{legend}' names a label that is not there")

    def test_one_of_each_program_can_be_chosen(self):
        """A query with the variable of another program would say nothing here."""
        chosen = {**ALL, "$model": self.cluster.model, "$gateway": self.gateway.address,
                  **{f"${program}": f"127.0.0.1:{port}" for program, port in self.ports.items()}}
        for panel, legend, query in panel_queries(chosen):
            with self.subTest(panel=panel, legend=legend):
                values = [value for _, value in self.prometheus.query(query)]
                self.assertTrue([v for v in values if not math.isnan(v)], f"{panel}: {query} says nothing: {values}")

    def test_the_variables_of_the_dashboard_have_values(self):
        for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
            if variable["type"] != "query":
                continue
            with self.subTest(variable=variable["name"]):
                selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
                values = self.prometheus.get(f"label/{label}/values", **{"match[]": selector})
                self.assertTrue([v for v in values if v], selector)

    def test_tokens_are_those_that_the_answers_tell(self):
        for source in SOURCES:
            told = sum(answer.tessera[f"{source}_tokens"] for answer in self.answers)
            self.assertGreater(told, 0, source)
            query = f'tessera_prompt_kv_tokens_total{{source="{source}",instance="{self.gateway.address}"}}'
            self.assertEqual(self.value(query), told, source)

    def test_a_gateway_without_workers_is_an_alert(self):
        """With its labels and texts as somebody will read them."""
        alerts = self.prometheus.until("an alert is there", lambda: [
            alert for alert in self.prometheus.get("alerts")["alerts"]
            if alert["labels"]["alertname"] == "TesseraNoWorkerReady"])
        self.assertEqual([alert["labels"]["instance"] for alert in alerts], [self.lonely.address])
        self.assertIn(f"gateway {self.lonely.address} has no worker", alerts[0]["annotations"]["summary"])


if __name__ == "__main__":
    if not shutil.which("prometheus"):
        skip("prometheus is not installed; deploy/install.sh tests brings it")
    main()
