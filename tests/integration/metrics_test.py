#!/usr/bin/env python3
"""The metrics of all three programs: deploy/METRICS.md lists them, and they say what requests did."""

import http.client
import json
import os
import pathlib
import re
import tempfile
import time

from cluster import REPO, ClusterTest, free_port, main
from scrape import scrape, scrape_until
from serving_client import ServerError, make_document

PAGE = REPO / "deploy" / "METRICS.md"
PROGRAMS = ("gateway", "worker", "cache server")
DOCUMENTS = [make_document(f"metrics/{i}", 70) for i in range(3)]
KEY = "key-with-a-limit"
FOUND = ("exact", "blended", "recomputed")


def listed(program):
    """-> {name: (type, labels)} of the page's tables that are about the program."""
    names, section = {}, None
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:].lower()
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not re.match(r"\| `[a-z_:]+`", line) or len(cells) < 4:
            continue
        if section == "vllm's names":
            wanted = cells[3] == "both" and program != "cache server" or cells[3] == program
        else:
            wanted = section in ("all programs", program)
        for name in re.findall(r"`([\w:]+)`", cells[0]) if wanted else ():
            assert name not in names, f"{name} is listed twice"
            names[name] = (cells[1], set(cells[2].split(", ")) - {""})
    return names


class MetricsTest(ClusterTest):
    @classmethod
    def start(cls):
        cluster, ports = cls.cluster, [free_port() for _ in range(2)]
        cls.folder = tempfile.TemporaryDirectory()
        cache = cluster.cache(
            metrics_listen=f"127.0.0.1:{ports[0]}", disk_folder=f"{cls.folder.name}/disk", admission="all"
        )
        worker = cluster.worker(
            cache.address,
            metrics_listen=f"127.0.0.1:{ports[1]}",
            vllm_metric_names="true",
            chunk_pool="false",
            drift_sample=1,
        )
        gateway = cluster.gateway(worker, cache=cache.address, vllm_metric_names="true")
        cls.processes = {"gateway": gateway, "worker": worker, "cache server": cache}
        cls.addresses = {
            "gateway": gateway.address,
            "worker": f"127.0.0.1:{ports[1]}",
            "cache server": f"127.0.0.1:{ports[0]}",
        }
        cls.client = cluster.client(gateway)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.folder.cleanup()

    def ask(self, documents, mode, tokens=4):
        prompt = " # # ".join(["Read.", *documents, "Which is the first?"])
        return self.client.whole(
            "/v1/completions",
            {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "tessera": {"mode": mode}},
        )

    def scrapes(self):
        return {program: scrape(address) for program, address in self.addresses.items()}

    def limited_gateway(self):
        """Another one, where a client was refused for asking too often, and no metric has vLLM's name."""
        keys = pathlib.Path(self.folder.name) / "keys"
        keys.write_text(f"limited {KEY} 1\n")
        os.chmod(keys, 0o600)
        gateway = self.cluster.gateway(
            self.processes["worker"], api_keys_file=keys, guard_metrics="false"
        )
        gateway.await_line("event=worker_ready")
        statuses = []
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
            body = json.dumps({"prompt": "Hello", "max_tokens": 1})
            connection.request(
                "POST",
                "/v1/completions",
                body,
                {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
            )
            statuses.append(connection.getresponse().status)
            connection.close()
        self.assertEqual(statuses, [200, 429])
        return scrape(gateway.address)

    def test_the_page_lists_what_the_programs_show(self):
        self.ask(DOCUMENTS, "blend", 2)
        scrapes, limited = self.scrapes(), self.limited_gateway()
        self.assertFalse([name for name in limited.types if name.startswith("vllm:")])
        for program in PROGRAMS:
            shown = scrapes[program]
            if program == "gateway":
                shown.types = limited.types | shown.types
                shown.labels = limited.labels | shown.labels
            page = listed(program)
            names = {name for name in shown.types if not name.startswith("exposer_")}
            self.assertEqual(names - set(page), set(), f"{program} shows what the page does not list")
            self.assertEqual(set(page) - names, set(), f"the page lists what {program} does not show")
            for name in names:
                self.assertEqual(
                    (shown.types[name], shown.labels[name]), page[name], f"{program}: type and labels of {name}"
                )

    def test_requests_are_counted_where_they_happen(self):
        before = self.scrapes()
        documents = [make_document(f"counted/{i}", 70) for i in range(3)]
        answers = [self.ask(documents, "blend")]
        # What is stored comes after the answer, and is asked for next.
        cache = self.addresses["cache server"]
        received = before["cache server"].value("tessera_cache_received_bytes_total")
        worker_stored = "tessera_worker_stored_bytes_total"
        scrape_until(
            cache,
            lambda v: v.value("tessera_cache_received_bytes_total") - received
            == scrape(self.addresses["worker"]).value(worker_stored) - before["worker"].value(worker_stored)
            > 0,
        )
        answers.append(self.ask(documents[::-1], "blend", 5))
        answers.append(self.ask(documents, "off", 1))
        with self.assertRaises(ServerError):
            self.client.whole("/v1/completions", {"prompt": "x", "max_tokens": 10**6})
        scrape_until(
            self.addresses["worker"],
            lambda v: v.value("tessera_worker_requests_total", outcome="ok")
            - before["worker"].value("tessera_worker_requests_total", outcome="ok")
            == 3,
        )
        after = self.scrapes()

        def grown(program, name, **labels):
            return after[program].value(name, **labels) - before[program].value(name, **labels)

        self.check_gateway(grown, answers)
        self.check_worker(grown, answers)
        self.check_cache(grown, answers)

    def check_gateway(self, grown, answers):
        route = {"route": "completions"}
        requests = "tessera_gateway_request_seconds_count"
        self.assertEqual(grown("gateway", requests, outcome="ok", **route), 3)
        self.assertEqual(grown("gateway", requests, outcome="invalid", **route), 1)
        self.assertEqual(grown("gateway", requests), 4)
        self.assertEqual(grown("gateway", "tessera_gateway_queue_seconds_count", outcome="ok"), 3)
        self.assertEqual(grown("gateway", "tessera_gateway_inter_token_seconds_count", **route), 3 + 4 + 0)
        shares = {"0": 0, "0-50": 0, "50-90": 0, "90-100": 0}
        for answer in answers:
            share = answer.usage["prompt_tokens_details"]["cached_tokens"] / answer.usage["prompt_tokens"]
            shares["0" if share == 0 else "0-50" if share < 0.5 else "50-90" if share < 0.9 else "90-100"] += 1
        self.assertGreater(shares["50-90"] + shares["90-100"], 0, "the second prompt was reused")
        for share, count in shares.items():
            name = "tessera_gateway_time_to_first_token_seconds_count"
            self.assertEqual(grown("gateway", name, reuse=share, **route), count, share)
        found = sum(a.tessera[f"{source}_tokens"] for a in answers for source in FOUND)
        self.assertEqual(grown("gateway", "tessera_prefix_cache_hits_total"), found)
        self.assertEqual(grown("gateway", "vllm:prefix_cache_hits_total"), found)

    def check_worker(self, grown, answers):
        prompts = [a.usage["prompt_tokens"] for a in answers]
        found = sum(a.tessera[f"{source}_tokens"] for a in answers for source in FOUND)
        self.assertGreater(found, 0)
        self.assertEqual(grown("worker", "tessera_worker_lookup_tokens_total"), sum(prompts[:2]))
        self.assertEqual(grown("worker", "tessera_worker_hit_tokens_total"), found)
        self.assertEqual(grown("worker", "tessera_worker_hit_tokens_total", tier="ram"), found)
        token_bytes = grown("worker", "tessera_worker_lookup_bytes_total") / sum(prompts[:2])
        self.assertEqual(grown("worker", "tessera_worker_hit_bytes_total", tier="ram"), found * token_bytes)
        self.assertEqual(grown("worker", "tessera_worker_fetched_bytes_total"), found * token_bytes)
        self.assertEqual(grown("worker", "tessera_worker_request_seconds_count", outcome="ok"), 3)
        self.assertEqual(grown("worker", "tessera_worker_request_prompt_tokens_sum"), sum(prompts))
        predicted = grown("worker", "tessera_worker_cost_seconds_total", of="predicted")
        actual = grown("worker", "tessera_worker_cost_seconds_total", of="actual")
        self.assertTrue(predicted > 0 and actual > 0, (predicted, actual))
        # Under vLLM's names the same, and no matter which of the two programs is asked.
        vllms = {
            "prompt_tokens_total": sum(prompts),
            "generation_tokens_total": 4 + 5 + 1,
            "external_prefix_cache_hits_total": found,
            "prefix_cache_hits_total": 0,
            "prefix_cache_queries_total": sum(prompts[:2]),
            "request_success_total": 3,
            "time_to_first_token_seconds_count": 3,
            "inter_token_latency_seconds_count": 3 + 4 + 0,
            "e2e_request_latency_seconds_count": 3,
            "request_generation_tokens_sum": 4 + 5 + 1,
        }
        for name, value in vllms.items():
            self.assertEqual(grown("worker", f"vllm:{name}"), value, name)
        for name in ("prompt_tokens_total", "generation_tokens_total", "request_success_total"):
            self.assertEqual(grown("gateway", f"vllm:{name}"), vllms[name], name)

    def check_cache(self, grown, answers):
        fetched = grown("worker", "tessera_worker_fetched_bytes_total")
        self.assertEqual(grown("cache server", "tessera_cache_sent_bytes_total"), fetched)
        self.assertEqual(grown("cache server", "tessera_cache_lookup_hit_bytes_total", tier="ram"), fetched)
        pieces = grown("cache server", "tessera_cache_lookup_pieces_total", tier="ram")
        self.assertEqual(pieces, 4, "three documents and the lead")
        self.assertEqual(grown("cache server", "tessera_cache_found_pieces_total"), pieces)
        self.assertEqual(
            grown("cache server", "tessera_cache_lookup_pieces_total", tier="none"),
            grown("cache server", "tessera_cache_missing_pieces_total"),
        )

    def test_who_leaves_is_counted_as_cancelled(self):
        before = self.scrapes()
        connection, response = self.client.open_stream(
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 2000,
             "tessera": {"mode": "off"}},
        )
        self.assertEqual(response.status, 200)
        response.readline()
        response.close()
        connection.close()
        name = "tessera_gateway_request_seconds_count"
        labels = {"route": "chat", "outcome": "cancelled"}
        wanted = before["gateway"].value(name, **labels) + 1
        scrape_until(self.addresses["gateway"], lambda v: v.value(name, **labels) == wanted)
        wanted = before["worker"].value("vllm:request_success_total", finished_reason="abort") + 1
        values = scrape_until(
            self.addresses["worker"],
            lambda v: v.value("vllm:request_success_total", finished_reason="abort") == wanted,
        )
        self.assertEqual(
            values.value("tessera_worker_request_seconds_count", outcome="cancelled")
            - before["worker"].value("tessera_worker_request_seconds_count", outcome="cancelled"),
            1,
        )

    def test_processes_are_those_that_run(self):
        for program, values in self.scrapes().items():
            pid = self.processes[program].child.pid
            self.assertEqual(values.value("tessera_build_info", program=program.replace(" ", "_")), 1)
            self.assertLess(abs(time.time() - values.value("process_start_time_seconds")), 600)
            self.assertGreater(values.value("process_cpu_seconds_total"), 0)
            resident = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            self.assertLess(abs(values.value("process_resident_memory_bytes") - resident), 0.2 * resident)
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            self.assertLess(abs(values.value("process_open_fds") - descriptors), 10)


if __name__ == "__main__":
    main()
