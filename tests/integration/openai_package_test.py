#!/usr/bin/env python3
"""The real programs, driven by the real `openai` package."""
import json
import os
import subprocess
import tempfile

import openai
from cluster import REPO, ClusterTest, main
from serving_client import make_document

KEY, POOR_KEY = "sk-test-0123456789abcdef", "sk-poor-0123456789abcdef"
USER = [{"role": "user", "content": "Say a few words about rivers."}]
PASSAGES = [make_document(f"openai/{i}", 60) for i in range(3)]
PROMPT = " # # ".join(["Read this.", *PASSAGES, "The text is mostly about"])


class OpenAiPackageTest(ClusterTest):
    @classmethod
    def start(cls):
        with tempfile.NamedTemporaryFile("w", delete=False, dir=cls.cluster.logs) as keys:
            keys.write(f"# name key requests/min tokens/min\nfull {KEY}\npoor {POOR_KEY} 2\n")
        os.chmod(keys.name, 0o600)
        cls.store = cls.cluster.cache()
        cls.workers = [cls.cluster.worker(cls.store.address, threads=1) for _ in range(2)]
        flags = {"api_keys_file": keys.name, "cache": cls.store.address}
        cls.gateway = cls.cluster.gateway(*cls.workers, **flags)
        cls.single = [cls.cluster.gateway(w, **flags) for w in cls.workers]
        for gateway in [cls.gateway, *cls.single]:
            gateway.await_line("event=worker_ready")
        cls.openai = cls.package(cls.gateway)
        cls.model_id = cls.openai.models.list().data[0].id

    @classmethod
    def package(cls, gateway, key=KEY):
        return openai.OpenAI(base_url=f"http://{gateway.address}/v1", api_key=key, max_retries=0)

    def complete(self, **more):
        return self.openai.completions.create(model=self.model_id, **{"prompt": PROMPT, "max_tokens": 12, **more})

    def chat(self, **more):
        return self.openai.chat.completions.create(model=self.model_id, messages=USER, **{"max_tokens": 12, **more})

    def joined_chat(self, **more):
        """Of a stream: text by choice, finish reasons, and all chunks."""
        texts, reasons, chunks = {}, {}, []
        for chunk in self.chat(stream=True, **more):
            chunks.append(chunk)
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        return texts, reasons, chunks

    def test_models(self):
        self.assertEqual(self.openai.models.retrieve(self.model_id).id, self.model_id)
        with self.assertRaises(openai.NotFoundError):
            self.openai.models.retrieve("no-such-model")

    def test_completion(self):
        answer = self.complete(temperature=0)
        self.assertTrue(answer.id.startswith("cmpl-"))
        self.assertEqual(answer.object, "text_completion")
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 12)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + 12)
        self.assertIsNotNone(answer.usage.prompt_tokens_details.cached_tokens)

    def test_chat_stream_equals_whole(self):
        whole = self.chat(temperature=0)
        texts, reasons, chunks = self.joined_chat(temperature=0)
        self.assertEqual(texts, {0: whole.choices[0].message.content})
        self.assertEqual(reasons, {0: whole.choices[0].finish_reason})
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual({c.id for c in chunks}, {chunks[0].id})
        self.assertEqual({(c.created, c.model, c.object) for c in chunks},
                         {(chunks[0].created, self.model_id, "chat.completion.chunk")})

    def test_prompt_forms(self):
        one, two = "The capital of France is", "Two and two make"
        tokens = self.post(f"http://{self.gateway.address}/tokenize", {"prompt": one})["tokens"]
        want = [self.complete(prompt=p, temperature=0).choices[0].text for p in (one, two)]
        both = self.complete(prompt=[one, two], temperature=0)
        self.assertEqual([c.text for c in both.choices], want)
        self.assertEqual([c.index for c in both.choices], [0, 1])
        self.assertEqual(self.complete(prompt=[tokens], temperature=0).choices[0].text, want[0])
        self.assertEqual(self.complete(prompt=tokens, temperature=0).choices[0].text, want[0])

    def post(self, url, body, key=KEY):
        return self.openai.post(url, body=body, cast_to=object, options={"headers": {"Authorization": f"Bearer {key}"}})

    def test_stop_strings(self):
        whole = self.chat(temperature=0, max_tokens=24).choices[0].message.content
        stop = whole[len(whole) // 2:][:3]
        cut = self.chat(temperature=0, max_tokens=24, stop=[stop, "never to be seen"])
        self.assertEqual(cut.choices[0].message.content, whole[:whole.index(stop)])
        self.assertEqual(cut.choices[0].finish_reason, "stop")
        texts, reasons, _ = self.joined_chat(temperature=0, max_tokens=24, stop=stop)
        self.assertEqual((texts, reasons), ({0: whole[:whole.index(stop)]}, {0: "stop"}))

    def test_chat_logprobs(self):
        answer = self.chat(temperature=0, logprobs=True, top_logprobs=4).choices[0]
        entries = answer.logprobs.content
        self.assertEqual(len(entries), 12)
        self.assertEqual(b"".join(bytes(e.bytes) for e in entries).decode(), answer.message.content)
        for entry in entries:
            self.assertEqual(len(entry.top_logprobs), 4)
            self.assertEqual(entry.top_logprobs[0].token, entry.token)  # greedy
            self.assertAlmostEqual(entry.top_logprobs[0].logprob, entry.logprob, places=5)
            self.assertLessEqual(entry.logprob, 0)
        streamed = [e for c in self.joined_chat(temperature=0, logprobs=True, top_logprobs=4)[2]
                    for choice in c.choices if choice.logprobs for e in choice.logprobs.content or []]
        self.assertEqual([(e.token, e.bytes) for e in streamed], [(e.token, e.bytes) for e in entries])

    def test_completion_logprobs_and_echo(self):
        prompt = "The capital of France is"
        answer = self.complete(prompt=prompt, temperature=0, logprobs=2, max_tokens=2, echo=True).choices[0]
        self.assertTrue(answer.text.startswith(prompt))
        self.assertEqual("".join(answer.logprobs.tokens), answer.text)
        self.assertIsNone(answer.logprobs.token_logprobs[0])
        self.assertTrue(all(p <= 0 for p in answer.logprobs.token_logprobs[1:]))
        for token, offset in zip(answer.logprobs.tokens, answer.logprobs.text_offset):
            self.assertEqual(answer.text[offset:offset + len(token)], token)
        # What was sampled has the same logprob when it is read as a prompt; but for rounding, where the products of
        # a prefill are made from bf16.
        rounds = any("device=cpu-bf16" in line for line in self.workers[0].lines)
        again = self.complete(prompt=answer.text, temperature=0, logprobs=0, max_tokens=1, echo=True).choices[0]
        for a, b in zip(answer.logprobs.token_logprobs[1:], again.logprobs.token_logprobs[1:]):
            self.assertAlmostEqual(a, b, delta=0.3 if rounds else 2e-3)

    def test_n_and_seed(self):
        def texts(**more):
            return [c.message.content for c in self.chat(n=3, temperature=1, seed=7, **more).choices]

        first = texts()
        self.assertEqual(len(set(first)), 3)
        self.assertEqual(texts(), first)
        self.assertEqual(self.joined_chat(n=3, temperature=1, seed=7)[0], dict(enumerate(first)))
        one = self.chat(temperature=1, seed=7)
        self.assertEqual(one.choices[0].message.content, first[0])
        greedy = [c.message.content for c in self.chat(n=2, temperature=0).choices]
        self.assertEqual(greedy[0], greedy[1])

    def test_same_text_on_two_workers(self):
        for settings in ({"temperature": 0}, {"temperature": 1, "seed": 11}):
            texts = [self.package(g).completions.create(
                model=self.model_id, prompt=PROMPT, max_tokens=16, **settings).choices[0].text
                for g in self.single]
            self.assertEqual(texts[0], texts[1])

    def test_usage_chunk(self):
        chunks = self.joined_chat(temperature=0, stream_options={"include_usage": True})[2]
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, 12)
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))

    def test_no_delta_splits_a_code_point(self):
        # At this heat the tokens are noise: halves of emoji, lone continuation bytes, flags.
        for seed in range(6):
            settings = {"temperature": 2, "seed": seed, "max_tokens": 40, "logit_bias": self.emoji_bias()}
            whole = self.chat(**settings).choices[0].message.content
            texts, _, chunks = self.joined_chat(**settings)
            self.assertEqual(texts, {0: whole})
            deltas = [c.choices[0].delta.content or "" for c in chunks]
            self.assertEqual(sum(d.count("\ufffd") for d in deltas), whole.count("\ufffd"))
            self.assertTrue(any(len(d) for d in deltas))

    def emoji_bias(self):
        url = f"http://{self.gateway.address}/tokenize"
        ids = self.post(url, {"prompt": "👩‍👩‍👧🇩🇪🇫🇷漢字かな한글"})["tokens"]
        return {str(i): 14 for i in ids}

    def test_penalties_and_bias_change_the_text(self):
        plain = self.chat(temperature=0, max_tokens=24).choices[0].message.content
        ids = self.post(f"http://{self.gateway.address}/tokenize", {"prompt": "banana"})["tokens"]
        biased = self.chat(temperature=0, max_tokens=8, logit_bias={str(ids[0]): 100}).choices[0].message.content
        piece = self.post(f"http://{self.gateway.address}/detokenize", {"tokens": [ids[0]] * 8})["prompt"]
        self.assertEqual(biased, piece)
        other = self.chat(temperature=0, max_tokens=8, logit_bias={str(ids[0]): 20}, presence_penalty=2,
                          frequency_penalty=2, extra_body={"repetition_penalty": 1.9}).choices[0].message.content
        self.assertNotIn(piece, other)
        self.assertNotEqual(plain, biased)

    def test_errors_are_the_packages_own(self):
        for settings, error, param in [
            ({"temperature": 3}, openai.BadRequestError, "temperature"),
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
            ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ]:
            with self.assertRaises(error) as raised:
                self.chat(**settings)
            self.assertEqual(raised.exception.param, param)
            self.assertEqual(raised.exception.type, "invalid_request_error")
        with self.assertRaises(openai.BadRequestError) as raised:
            self.complete(prompt="x " * 20000)
        self.assertEqual(raised.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.NotFoundError) as raised:
            self.openai.chat.completions.create(model="no-such-model", messages=USER)
        self.assertEqual(raised.exception.code, "model_not_found")
        for key in ("sk-wrong", KEY + "x", KEY[:-1]):
            with self.assertRaises(openai.AuthenticationError):
                self.package(self.gateway, key).models.list()

    def test_rate_limit(self):
        poor = self.package(self.gateway, POOR_KEY)
        with self.assertRaises(openai.RateLimitError) as raised:
            for _ in range(4):
                poor.chat.completions.create(model=self.model_id, messages=USER, max_tokens=1)
        self.assertGreaterEqual(int(raised.exception.response.headers["retry-after"]), 1)

    def test_leaving_in_mid_stream_stops_the_worker(self):
        before = [len(w.lines) for w in self.workers]
        stream = self.chat(stream=True, max_tokens=2000, temperature=0, extra_body={"ignore_eos": True})
        for _ in range(3):
            next(stream)
        stream.close()
        answered = self.chat(max_tokens=1)  # served though 2,000 tokens were asked for
        self.assertTrue(answered.choices)
        ended = self.await_generated(before, "CANCELLED")
        tokens = int(ended.split(" decode_tokens=")[1].split()[0])
        self.assertLess(tokens, 1000)
        stats = json.loads(subprocess.run(
            [REPO / "bazel-bin/cache_server/ctl/tessera_ctl", "stats", f"--server={self.store.address}", "--json"],
            check=True, capture_output=True).stdout)
        self.assertEqual(int(stats.get("open_fetches", 0)), 0)
        self.assertEqual(int(stats.get("shm_leases", 0)), 0)

    def await_generated(self, before, status):
        for worker, start in zip(self.workers, before):
            with worker.news:
                worker.news.wait_for(
                    lambda w=worker, s=start: any(f"code={status} " in x for x in w.lines[s:]), 2)
                for line in worker.lines[start:]:
                    if "event=generate_done" in line and f"code={status} " in line:
                        return line
        raise AssertionError(f"no worker said {status}")

    def test_request_controls(self):
        def segments(**more):
            answer = self.complete(temperature=0, max_tokens=4, **more)
            return answer.choices[0].text, answer.model_extra["tessera"]

        salt = {"cache_salt": "controls"}
        off_text, off = segments(extra_body={"tessera": {"mode": "off"}, **salt})
        exact_text, _ = segments(extra_body={"tessera": {"mode": "exact"}, **salt})
        self.assertEqual(off_text, exact_text)
        self.assertEqual({s["source"] for s in off["segments"]}, {"computed"})
        segments(extra_body={"tessera": {"store": False}, **salt})
        _, unstored = segments(extra_body={"tessera": {"mode": "blend"}, **salt})
        self.assertEqual({s["source"] for s in unstored["segments"]}, {"computed"})
        _, headed = segments(extra_headers={"X-Tessera-Mode": "off"}, extra_body=salt)
        self.assertEqual({s["source"] for s in headed["segments"]}, {"computed"})
        _, full = segments(extra_headers={"X-Tessera-Recompute-Ratio": "1"}, extra_body={"cache_salt": "controls"})
        self.assertEqual(full["blended_tokens"], 0)
        with self.assertRaises(openai.BadRequestError):
            segments(extra_headers={"X-Tessera-Mode": "fast"})


if __name__ == "__main__":
    main()
