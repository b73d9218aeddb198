#!/usr/bin/env python3
"""Logs of the three real programs: one logfmt line an event, a request's story by its id, levels at run time, no secrets."""
import json
import re
import signal

from cluster import ClusterTest, main
from serving_client import Client, make_document

PATH = "/v1/completions"
KEY = "sk-tessera-logs-test-5b1f"
# Stands in every prompt, and is nothing that a program could say by itself.
MARK = "zanzibarquux"
EVENT_SECONDS = 20

FIELD = r'[A-Za-z0-9_]+=(?:[!#-<>-\[\]-~]+|"(?:[^"\\\x00-\x1f\x7f]|\\["\\nrt]|\\u[0-9a-f]{4})*")'
LINE = re.compile(rf"{FIELD}(?: {FIELD})*")


def fields_of(line):
    """What any logfmt reader makes of the line; None for one that it could not read."""
    text = line.removesuffix("\n")
    if not LINE.fullmatch(text):
        return None
    pairs = (field.split("=", 1) for field in re.findall(FIELD, text))
    return {k: json.loads(v) if v.startswith('"') else v for k, v in pairs}


class LogsTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.store = cls.cluster.cache()
        keys = f"{cls.cluster.logs}/keys"
        with open(keys, "w", encoding="utf-8") as file:
            file.write(f"tester {KEY}\n")
        cls.shm, cls.grpc = (
            cls.cluster.worker(cls.store.address, cache_shm=shm) for shm in ("true", "false")
        )
        cls.gateways = {
            worker: cls.cluster.gateway(worker, api_keys_file=keys, cache=cls.store.address)
            for worker in (cls.shm, cls.grpc)
        }
        for gateway in cls.gateways.values():
            gateway.await_line("event=worker_ready")

    def ask(self, worker, name, request_id=None, key=KEY, path=PATH, **body):
        """-> (status, id that came back)"""
        prompt = " # # ".join(
            [f"Read {MARK}.", *(make_document(f"{name} {MARK} {i}", 300) for i in range(2)), "So:"]
        )
        headers = {"Authorization": f"Bearer {key}"}
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        if path == PATH:
            body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, **body}
        connection, response = Client(self.gateways[worker].address).send("POST", path, body, headers)
        response.read()
        connection.close()
        return response.status, response.headers["X-Request-Id"]

    def await_event(self, process, event, start=0, **wanted):
        """The fields of the first such event; its lines from `start` on are looked at."""
        found = []

        def is_there():
            for line in process.lines[start:]:
                fields = fields_of(line) if f" event={event} " in line else None
                if fields and wanted.items() <= fields.items():
                    found.append(fields)
                    return True
            return False

        with process.news:
            process.news.wait_for(is_there, EVENT_SECONDS)
        self.assertTrue(found, f"{process.kind}: no {event} {wanted} in {''.join(process.lines[-8:])}")
        return found[0]

    def check_story(self, worker, transport):
        request = f"story/{transport}:1"
        self.assertEqual(self.ask(worker, transport, request), (200, request))
        gateway = self.await_event(self.gateways[worker], "request_done", request=request)
        self.assertEqual((gateway["level"], gateway["status"]), ("info", "200"))
        self.assertEqual((gateway["route"], gateway["worker"]), (PATH, worker.address))
        self.assertEqual((gateway["completion_tokens"], gateway["finish"]), ("4", "length"))
        self.assertEqual(gateway["model"], self.cluster.model)
        self.assertGreater(float(gateway["total_ms"]), float(gateway["ttft_ms"]))
        done = self.await_event(worker, "generate_done", request=request)
        self.assertEqual((done.get("code"), done["decode_tokens"]), (None, "4"))
        for name in ("prompt_tokens", "exact_tokens", "blended_tokens", "recomputed_tokens", "computed_tokens"):
            self.assertEqual(done[name], gateway[name], name)
        self.assertEqual(float(done["queue_ms"]) + float(done["prefill_ms"]) > 0, True)
        fetch = self.await_event(self.store, "fetch_done", request=request)
        self.assertEqual(fetch["transport"], transport)
        self.assertLess(int(fetch["hits"]), int(fetch["keys"]), "only the lead was there before")
        stored = self.await_event(self.store, "store_done", request=request)
        self.assertEqual(stored["transport"], transport)
        self.assertGreater(int(stored["stored"]), 0)
        self.assertGreater(int(stored["bytes"]), 0)

    def test_1_an_id_tells_the_story_in_all_three_logs(self):
        self.ask(self.shm, "first")  # its store asks for the shared memory
        self.await_event(self.shm, "shm_linked")
        self.check_story(self.shm, "shm")
        self.check_story(self.grpc, "grpc")

    def test_2_what_the_other_worker_stored_is_a_hit(self):
        for worker, theirs, transport in ((self.grpc, "shm", "grpc"), (self.shm, "grpc", "shm")):
            request = f"hit-{transport}"
            self.ask(worker, theirs, request)
            fetch = self.await_event(self.store, "fetch_done", request=request)
            self.assertEqual((fetch["transport"], fetch["lost"]), (transport, "0"))
            self.assertGreater(int(fetch["hits"]), 0)
            self.assertEqual(fetch["tiers"], f"ram:{fetch['hits']}")
            self.assertGreater(int(fetch["bytes"]), 0)
            done = self.await_event(worker, "generate_done", request=request)
            self.assertGreater(int(done["blended_tokens"]), 0)

    def test_3_ids_that_could_harm_a_log_are_replaced(self):
        for bad in ("", "two words", 'x" level=error', "é", "x" * 129):
            status, request = self.ask(self.shm, "bad ids", bad.encode("utf-8").decode("latin-1"))
            self.assertEqual(status, 200)
            self.assertRegex(request, "^[0-9a-f]{32}$")
            self.await_event(self.gateways[self.shm], "request_done", request=request)

    def test_4_failures_say_why(self):
        gateway = self.gateways[self.shm]
        _, request = self.ask(self.shm, "wrong", max_tokens="many")
        wrong = self.await_event(gateway, "request_done", request=request)
        self.assertEqual((wrong["level"], wrong["status"], wrong["code"]), ("info", "400", "INVALID_ARGUMENT"))
        self.assertIn("max_tokens", wrong["error"])
        status, request = self.ask(self.shm, "stranger", key=f"{KEY}-no")
        self.assertEqual(status, 401)
        refused = self.await_event(gateway, "request_refused", request=request)
        self.assertEqual((refused["status"], refused["code"]), ("401", "UNAUTHENTICATED"))

    def test_5_levels_change_while_they_run(self):
        gateway = self.gateways[self.shm]
        for process in (self.store, self.shm, gateway):
            process.child.send_signal(signal.SIGUSR1)
            changed = self.await_event(process, "log_level_changed")
            self.assertEqual((changed["from"], changed["to"]), ("info", "debug"))
        _, request = self.ask(self.shm, "debug")
        self.await_event(gateway, "response", request=request, level="debug")
        for to in ("info", "warning"):
            gateway.child.send_signal(signal.SIGUSR2)
            self.await_event(gateway, "log_level_changed", to=to)
        start = len(gateway.lines)
        _, quiet = self.ask(self.shm, "quiet")
        self.await_event(self.shm, "generate_done", request=quiet)
        gateway.child.send_signal(signal.SIGUSR1)
        self.await_event(gateway, "log_level_changed", start, to="info")
        self.assertEqual([line for line in gateway.lines[start:] if "request_done" in line], [])
        _, loud = self.ask(self.shm, "loud")
        self.await_event(gateway, "request_done", request=loud)

    def test_6_what_is_wrong_in_odd_places_is_not_quoted(self):
        chat = "/v1/chat/completions"
        for path, body in (
            (PATH, {"prompt": {MARK: MARK}}),
            (PATH, {"prompt": [MARK, 7]}),
            (PATH, {"prompt": MARK, "stop": {"x": MARK}}),
            (chat, {"messages": MARK}),
            (chat, {"messages": [{"role": "user", "content": {"x": MARK}}]}),
            (chat, {"messages": [{"role": "user", "content": [{"type": "text", "text": [MARK]}]}]}),
            (chat, {"messages": [{"role": "user", "content": MARK}], "documents": [MARK]}),
            ("/v1/chunks", {"texts": [{"text": [MARK]}]}),
            ("/v1/chunks", {"texts": [f"A text of {MARK}."]}),
        ):
            self.ask(self.shm, "odd", path=path, **body)

    def test_7_a_lost_worker_is_a_warning(self):
        gateway = self.gateways[self.grpc]
        self.grpc.stop()
        self.await_event(gateway, "worker_lost", level="warning", worker=self.grpc.address)
        status, request = self.ask(self.grpc, "lost")
        self.assertEqual(status, 503)
        done = self.await_event(gateway, "request_done", request=request)
        self.assertEqual((done["level"], done["code"]), ("warning", "UNAVAILABLE"))

    def test_8_every_line_of_it_all_is_logfmt_without_secrets(self):
        for process in self.cluster.processes[::-1]:
            process.stop()
            process.reader.join()
            self.assertGreater(len(process.lines), 3)
            for line in process.lines:
                fields = fields_of(line)
                self.assertIsNotNone(fields, f"{process.kind}: {line}")
                self.assertEqual(list(fields)[:3], ["ts", "level", "event"], line)
                self.assertRegex(fields["ts"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
                self.assertIn(fields["level"], ("debug", "info", "warning", "error"))
                self.assertRegex(fields["event"], "^[a-z][a-z0-9_]*$")
                self.assertNotIn(KEY, line)
                self.assertNotIn(MARK, line.lower())
            self.assertEqual(fields_of(process.lines[-1])["event"], "stopped")


if __name__ == "__main__":
    main()
