"""A worker's gRPC service, as the evaluation uses it."""

import sys
import time

import grpc

from eval_venv import REPO

sys.path.insert(0, str(REPO))  # where grpc finds proto/worker.proto
messages, services = grpc.protos_and_services("proto/worker.proto")

# The most that a worker reports beside a token.
TOP = 16384
STORE_TRIES = 200


class WorkerError(Exception):
    """The worker did not answer as it should; the text says how."""


class Generated:
    """ids; tops: {id: logprob} of each token's likeliest; ttft in seconds; usage and source of the prompt's segments."""

    def __init__(self):
        self.ids, self.tops, self.ttft, self.started = [], [], 0.0, None

    @property
    def tokens(self):
        return sum(s.tokens for s in self.started.segments)

    @property
    def chosen(self):
        return self.started.usage.recomputed_tokens

    def resident(self):
        """Whether all but the question came from the cache."""
        cached = messages.SegmentReport.CACHE
        return all(s.source == cached for s in self.started.segments[:-1])


class Worker:
    def __init__(self, address, timeout=600):
        # A token with its 16,384 likeliest ones is 200 KB.
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", 16 << 20)]
        )
        self.stub, self.address, self.timeout = (
            services.WorkerStub(self.channel),
            address,
            timeout,
        )

    def model(self):
        try:
            return self.stub.GetModel(
                messages.GetModelRequest(), timeout=self.timeout, wait_for_ready=False
            )
        except grpc.RpcError as e:
            raise WorkerError(
                f"no worker at {self.address}: {e.code().name} {e.details()}"
            ) from e

    def generate(self, segments, blend, max_tokens, forced=(), top=TOP):
        request = messages.GenerateRequest(
            segments=[messages.Segment(token_ids=ids) for ids in segments],
            blend=blend,
            max_tokens=max_tokens,
            forced_token_ids=forced,
            top_logprobs=top,
        )
        generated, start = Generated(), time.perf_counter()
        try:
            for event in self.stub.Generate(request, timeout=self.timeout):
                if event.HasField("started"):
                    generated.started = event.started
                if event.HasField("token"):
                    if not generated.ids:
                        generated.ttft = time.perf_counter() - start
                    generated.ids.append(event.token.id)
                    generated.tops.append({t.id: t.logprob for t in event.token.top})
        except grpc.RpcError as e:
            raise WorkerError(f"{self.address}: {e.code().name} {e.details()}") from e
        return generated

    def full(self, segments, max_tokens):
        """The full recompute, nothing of it from a cache."""
        return self.generate(segments, messages.BlendOptions(mode=messages.OFF), max_tokens)

    def make_resident(self, segments):
        """Chunks are stored after the first token: asks until all of them come from the cache."""
        blend = messages.BlendOptions(mode=messages.BLEND, policy="none")
        for _ in range(STORE_TRIES):
            if self.generate(segments, blend, max_tokens=1, top=0).resident():
                return
        raise WorkerError(
            f"{self.address}: the chunks do not stay in the cache: is a cache server behind the worker, and has it "
            f"room for {sum(map(len, segments))} tokens?"
        )

    def close(self):
        self.channel.close()


def blend_options(policy, ratio, correction):
    return messages.BlendOptions(
        mode=messages.BLEND,
        policy=policy,
        recompute_ratio=ratio,
        correction=correction,
        store=False,
    )
