#!/usr/bin/env python3
"""A chat's next turn computes only what is new, and says what it would say without a cache."""
from cluster import ClusterTest, main
from serving_client import make_document

BLOCK = 256
SYSTEM = "You know these pages by heart.\n" + "\n".join(make_document(f"prefix/{i}", 120) for i in range(4))


class PrefixTest(ClusterTest):
    def chat(self, messages, **more):
        return self.client.whole("/v1/chat/completions", {
            "messages": messages, "max_tokens": 12, "temperature": 0, **more})

    def cached(self, answer):
        return answer.usage["prompt_tokens_details"]["cached_tokens"]

    def await_stored(self, messages, tries=50):
        """Blocks are stored after the first token: asks until all but the last one come from the cache."""
        for _ in range(tries):
            answer = self.chat(messages)
            # The last token is always computed, so a block is one only with a token behind it.
            blocks = (answer.usage["prompt_tokens"] - 1) // BLOCK
            if self.cached(answer) == blocks * BLOCK:
                return blocks
        raise AssertionError("the blocks of this turn were not stored")

    def test_turns(self):
        messages, blocks = [{"role": "system", "content": SYSTEM}], 0
        for question in ("What are they about?", "Say more.", "Why?"):
            messages.append({"role": "user", "content": question})
            answer = self.chat(messages)
            self.assertEqual(self.cached(answer), blocks * BLOCK)
            self.assertEqual(answer.tessera["exact_tokens"], blocks * BLOCK)
            self.assertEqual(answer.tessera["blended_tokens"], 0)
            cold = self.chat(messages, cache_salt=question)
            self.assertEqual(self.cached(cold), 0)
            self.assertEqual(answer.text, cold.text)
            blocks = self.await_stored(messages)
            self.assertEqual(answer.text, self.chat(messages, tessera={"mode": "exact"}).text)
            messages.append({"role": "assistant", "content": answer.text})
        self.assertGreaterEqual(blocks, 2)

    def test_off_reads_nothing(self):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello."}]
        for _ in range(2):
            answer = self.chat(messages, tessera={"mode": "off"}, cache_salt="off")
            self.assertEqual(answer.usage["prompt_tokens_details"]["cached_tokens"], 0)


if __name__ == "__main__":
    main()
