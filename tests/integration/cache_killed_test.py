#!/usr/bin/env python3
"""The cache is only a cache: without it, or when it dies in mid-request, requests complete with the same text."""
import signal
import threading
import unittest

from cluster import Cluster, ClusterTest, chunks_stored, free_port, main
from serving_client import make_document

DOCUMENTS = [make_document(f"killed/{i}", 90) for i in range(4)]
BODY = {
    "prompt": " # # ".join(["Read these documents.", *DOCUMENTS, "The first document says that"]),
    "max_tokens": 24,
    "temperature": 0,
}
PATH = "/v1/completions"


class CacheKilledTest(ClusterTest):
    @classmethod
    def start(cls):
        cls.store = cls.cluster.cache()
        # Nothing stays in the worker: every request fetches.
        cls.worker = cls.cluster.worker(cls.store.address, chunk_pool="false")
        cls.client = cls.cluster.client(cls.cluster.gateway(cls.worker))
        cls.want = cls.client.whole(PATH, BODY).text

    def setUp(self):
        if not self.store.alive():
            type(self).store = self.cluster.cache(port=self.store.port)
        chunks_stored(self.client, BODY)

    def kill(self):
        self.store.stop(signal.SIGKILL)

    def test_killed_while_tokens_come(self):
        answer = self.client.stream(
            PATH, BODY, on_text=lambda a: len(a.token_times) == 4 and self.kill()
        )
        self.assertFalse(self.store.alive())
        self.assertEqual(answer.text, self.want)

    def test_killed_while_chunks_are_fetched(self):
        """Killed at several moments around the fetch; whatever of it had arrived, the text is the same."""
        for delay in (0, 0.005, 0.03, 0.1):
            with self.subTest(delay=delay):
                self.setUp()
                timer = threading.Timer(delay, self.kill)
                timer.start()
                answer = self.client.whole(PATH, BODY)
                timer.join()
                self.assertEqual(answer.text, self.want)

    def test_killed_while_chunks_are_stored(self):
        """The store that was cut off leaves nothing half: the restarted server starts empty, the text is the same."""
        fresh = {**BODY, "cache_salt": "fresh"}
        self.client.stream(PATH, fresh, on_text=lambda a: len(a.token_times) == 1 and self.kill())
        self.assertEqual(self.client.whole(PATH, fresh).text, self.want)
        self.assertTrue(self.worker.alive())

    def test_stopped_but_not_dead(self):
        """A server that hangs (SIGSTOP) is as good as none: its deadline passes and the request completes."""
        self.store.child.send_signal(signal.SIGSTOP)
        try:
            self.assertEqual(self.client.whole(PATH, BODY).text, self.want)
        finally:
            self.store.child.send_signal(signal.SIGCONT)


class NoCacheTest(unittest.TestCase):
    def test_worker_serves_without_a_cache_server(self):
        cluster = Cluster()
        try:
            worker = cluster.worker(f"127.0.0.1:{free_port()}")
            answer = cluster.client(cluster.gateway(worker)).whole(PATH, BODY)
            self.assertEqual(set(answer.sources()), {"computed"})
            self.assertTrue(answer.text)
        finally:
            cluster.close()


if __name__ == "__main__":
    main()
