"""A small client of the serving API for tests and benches: standard library only."""

import http.client
import json
import random
import statistics
import time
import urllib.parse

WORDS = (
    "the of and to in is was for on that with as by at from his her it an are were which this be has had not "
    "one two new first time people state city world year day house water river school music film book war king "
    "team game player season song album company market price law court party church island road bridge train "
    "station north south east west old small large early late high low red green blue white black long short "
    "found made known called given built written played opened closed moved began became left right under over "
    "between after before during while also only other more most many some such than then later"
).split()


class ServerError(Exception):
    """The server did not answer as it should; the text says how."""


class Answer:
    """What came back of one request: text, usage, the tessera object, and when (seconds after sending)."""

    def __init__(self):
        self.text, self.usage, self.tessera, self.finish_reason = "", {}, {}, None
        self.token_times, self.done = [], 0.0

    @property
    def ttft(self):
        return self.token_times[0]

    def sources(self):
        return [s["source"] for s in self.tessera["segments"]]


class Client:
    def __init__(self, url, timeout=600):
        parts = urllib.parse.urlsplit(url if "//" in url else "//" + url)
        self.host, self.port, self.timeout = parts.hostname, parts.port or 80, timeout

    def send(self, method, path, body=None, headers=None):
        """-> (connection, response); body: bytes, or what json.dumps takes."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(
            method, path, body, {"Content-Type": "application/json", **(headers or {})}
        )
        return connection, connection.getresponse()

    def call(self, method, path, body=None):
        """-> (HTTP status, JSON)."""
        connection, response = self.send(method, path, body)
        raw = response.read()
        connection.close()
        try:
            return response.status, json.loads(raw) if raw else None
        except ValueError as e:
            raise ServerError(f"{method} {path}: not JSON: {raw[:200]!r}") from e

    def model(self):
        """The served model's name; ServerError says what to do when there is none."""
        try:
            status, _ = self.call("GET", "/health")
            if status != 200:
                raise ServerError(
                    f"the server at {self.host}:{self.port} is not ready (/health says {status}); "
                    f"wait for 'ready' and try again"
                )
            _, models = self.call("GET", "/v1/models")
            return models["data"][0]["id"]
        except (OSError, http.client.HTTPException) as e:
            raise ServerError(
                f"no server at {self.host}:{self.port} ({e}); start it with deploy/start_serving.sh "
                f"or give --url"
            ) from e
        except (KeyError, IndexError, TypeError) as e:
            raise ServerError(
                f"{self.host}:{self.port} is not a Tessera gateway: /v1/models is {models}"
            ) from e

    def whole(self, path, body):
        status, reply = self.call("POST", path, body)
        if status != 200:
            raise ServerError(f"POST {path}: {status} {json.dumps(reply)[:500]}")
        answer, choice = Answer(), reply["choices"][0]
        answer.text = choice["text"] if "text" in choice else choice["message"]["content"]
        answer.finish_reason, answer.usage, answer.tessera = (
            choice["finish_reason"],
            reply["usage"],
            reply["tessera"],
        )
        return answer

    def stream(self, path, body, on_text=None):
        """on_text(Answer so far) is called after each piece of text."""
        start = time.perf_counter()
        connection, response = self.open_stream(path, body)
        if response.status != 200:
            raise ServerError(f"POST {path}: {response.status} {response.read(500)!r}")
        answer = self.read_stream(response, start, on_text)
        connection.close()
        return answer

    def open_stream(self, path, body):
        """-> (connection, response), whatever its status."""
        return self.send(
            "POST", path, {**body, "stream": True, "stream_options": {"include_usage": True}}
        )

    def read_stream(self, response, start, on_text=None):
        """Times are seconds after `start` (time.perf_counter)."""
        answer = Answer()
        for line in response:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                answer.done = time.perf_counter() - start
                return answer
            event = json.loads(line[6:])
            if "error" in event:
                raise ServerError(f"in the stream: {event['error']}")
            self.take(event, answer, time.perf_counter() - start, on_text)
        raise ServerError("the stream ended without [DONE]")

    @staticmethod
    def take(event, answer, now, on_text):
        answer.usage = event.get("usage") or answer.usage
        answer.tessera = event.get("tessera") or answer.tessera
        for choice in event["choices"]:
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            text = choice.get("text") or choice.get("delta", {}).get("content")
            if text:
                answer.text += text
                answer.token_times.append(now)
                if on_text:
                    on_text(answer)


def make_document(seed, words):
    """The same seed, the same text; another seed, another text from its first word on."""
    draw, sentences = random.Random(seed), []
    while words > 0:
        n = min(words, draw.randint(8, 16))
        sentences.append(" ".join(draw.choices(WORDS, k=n)).capitalize() + ".")
        words -= n
    return " ".join(sentences)


def words_per_token(client, model):
    """Found by asking the server, so that no tokenizer is needed here."""
    prompt = make_document("calibration", 200)
    answer = client.whole(
        "/v1/completions",
        {
            "model": model,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 0,
            "tessera": {"mode": "off"},
        },
    )
    return 200 / answer.usage["prompt_tokens"]


class Prompts:
    """Chat requests of one lead, the same number of fresh chunks per round, and one question."""

    def __init__(self, model, separator, chunks, words, nonce):
        self.model, self.separator, self.chunks, self.words, self.nonce = (
            model,
            separator,
            chunks,
            words,
            nonce,
        )

    def documents(self, round_number):
        return [
            make_document(f"{self.nonce}/{round_number}/{i}", self.words)
            for i in range(self.chunks)
        ]

    def body(self, documents, **tessera):
        text = self.separator.join([*documents, "Which city is named first in these documents?"])
        return {
            "model": self.model,
            "max_tokens": 8,
            "temperature": 0,
            "tessera": tessera,
            "messages": [
                {
                    "role": "system",
                    "content": "You answer questions about the documents given to you.",
                },
                {"role": "user", "content": text},
            ],
        }


# The routes in the order in which they are measured: a full recompute reads and stores no chunk. The others are
# blended whatever the worker thinks is faster.
ROUTES = ("exact", "cold", "reordered")


def measure(client, prompts, rounds, after_cold, say=lambda text: None):
    """-> {route: [Answer per round]}. after_cold(): waits until chunks are stored."""
    path, answers = "/v1/chat/completions", {route: [] for route in ROUTES}
    for r in range(rounds):
        documents = prompts.documents(r)
        turned = documents[1::2][::-1] + documents[::2]
        answers["exact"].append(client.stream(path, prompts.body(documents, mode="off")))
        answers["cold"].append(client.stream(path, prompts.body(documents, mode="blend")))
        after_cold()
        answers["reordered"].append(client.stream(path, prompts.body(turned, mode="blend")))
        say(
            f"round {r + 1} of {rounds}: "
            + ", ".join(f"{k} {1e3 * v[-1].ttft:.0f} ms" for k, v in answers.items())
        )
    return answers


def summary(answers):
    """Medians of the TTFT in milliseconds, and how much lower the reordered one is."""
    ttft = {route: 1e3 * statistics.median(a.ttft for a in answers[route]) for route in ROUTES}
    last = answers["reordered"][-1]
    return {
        **{f"ttft_{route}_ms": round(ms, 1) for route, ms in ttft.items()},
        "speedup_vs_exact": round(ttft["exact"] / ttft["reordered"], 2),
        "speedup_vs_cold": round(ttft["cold"] / ttft["reordered"], 2),
        "prompt_tokens": last.usage["prompt_tokens"],
        "chunks": len(last.tessera["segments"]) - 2,
        "rounds": len(answers["exact"]),
        **{
            name: last.tessera[name]
            for name in (
                "exact_tokens",
                "blended_tokens",
                "recomputed_tokens",
                "computed_tokens",
                "policy",
                "correction",
            )
        },
    }
