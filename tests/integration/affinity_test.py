#!/usr/bin/env python3
"""Workers tell which chunks they have in memory: a gateway that never routed them sends requests there."""
import re
import urllib.request

from cluster import ClusterTest, main
from serving_client import make_document

DOCUMENTS = [make_document(f"affinity/{i}", 100) for i in range(4)]
PATH = "/v1/completions"


def body(*documents):
    prompt = " # # ".join(["Read these documents.", *documents, "They are about"])
    return {"prompt": prompt, "max_tokens": 2, "temperature": 0}


def routed(gateway):
    """Requests by why they went where they went."""
    with urllib.request.urlopen(f"http://{gateway.address}/metrics") as response:
        text = response.read().decode()
    found = re.findall(r'routed_total\{[^}]*by="(\w+)"[^}]*\} (\d+)', text)
    return {by: int(count) for by, count in found}


class AffinityTest(ClusterTest):
    @classmethod
    def start(cls):
        store = cls.cluster.cache()
        cls.workers = [cls.cluster.worker(store.address) for _ in range(2)]

    def started(self, *workers):
        """A gateway that these workers have told of their chunks."""
        gateway = self.cluster.gateway(*workers)
        for worker in workers:
            gateway.await_line(f"event=worker_tells_chunks worker={worker.address}")
        return gateway, self.cluster.client(gateway)

    def test_1_a_new_gateway_knows_what_each_worker_has(self):
        # Each worker gets chunks of its own, through a gateway that knows no other worker.
        halves = (DOCUMENTS[:2], DOCUMENTS[2:])
        for worker, half in zip(self.workers, halves):
            _, client = self.started(worker)
            client.whole(PATH, body(*half))
        gateway, client = self.started(*self.workers)
        for half in halves:
            answer = client.whole(PATH, body(*half))
            tiers = [s["tier"] for s in answer.tessera["segments"][1:-1]]
            self.assertEqual(tiers, ["worker"] * 2, "it went where they are")
        self.assertEqual(routed(gateway).get("affinity"), 2, routed(gateway))

    def test_2_changes_reach_a_gateway_that_is_up(self):
        _, up = self.started(*self.workers)
        new = [make_document(f"affinity/new/{i}", 60) for i in range(6)]
        _, client = self.started(self.workers[1])
        for document in [*new, "Another one."]:  # the last gives the word of the others time to come
            client.whole(PATH, body(document))
        # By their hashes alone, about half of them would go to the other worker, which must fetch.
        for document in new:
            self.assertEqual(up.whole(PATH, body(document)).tessera["segments"][1]["tier"], "worker")


if __name__ == "__main__":
    main()
