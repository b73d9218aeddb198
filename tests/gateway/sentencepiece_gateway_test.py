#!/usr/bin/env python3
"""The gateway with a folder that has only a sentencepiece model, beside gRPC in one program.

Trains a small model, starts the gateway on it and a worker-less port, and asks. Ends with 1 on a failure.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import sentencepiece

REPO = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))


def train(folder):
    text = os.path.join(folder, "text")
    with open(text, "w") as file:
        file.writelines(f"Sentence number {i} of a text about caches, workers and gateways.\n" for i in range(400))
    sentencepiece.SentencePieceTrainer.train(input=text, model_prefix=os.path.join(folder, "tokenizer"), vocab_size=120,
                                             model_type="bpe", byte_fallback=False, minloglevel=2)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        json.dump({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}, file)


def ready_address(gateway):
    for line in gateway.stderr:
        found = re.search(r"event=ready listen=(\S+)", line)
        if found:
            return found[1]
    sys.exit(f"the gateway ended with {gateway.wait()} before it was ready")


def main():
    with tempfile.TemporaryDirectory() as folder:
        train(folder)
        gateway = subprocess.Popen([os.path.join(REPO, "bazel-bin/gateway/tessera_gateway"), "--listen=127.0.0.1:0",
                                    "--workers=127.0.0.1:9", f"--model_dir={folder}"], stderr=subprocess.PIPE, text=True)
        try:
            address = ready_address(gateway)
            try:
                urllib.request.urlopen(f"http://{address}/health", timeout=20)
                sys.exit("/health says 200 though no worker is up")
            except urllib.error.HTTPError as answer:
                assert answer.code == 503, answer.code
            with urllib.request.urlopen(f"http://{address}/ping", timeout=20) as answer:
                assert answer.status == 200
        finally:
            gateway.send_signal(signal.SIGTERM)
            code = gateway.wait(timeout=30)
        assert code == 0, f"the gateway ended with {code}"
    print("a sentencepiece model is served beside gRPC")


if __name__ == "__main__":
    main()
