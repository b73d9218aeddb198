#!/usr/bin/env python3
"""Answers questions from the text files of a folder, and says what each way took: the example of rag_in_10_minutes.md.

usage: rag.py FOLDER QUESTION... [--url http://127.0.0.1:8000] [--cases FILE]

The folder's *.md and *.txt are cut into passages, which are stored ahead. Then every question is asked three times: with
a full prefill, as a blend, and as a blend with its passages in the opposite order. --cases writes the questions with
their passages for tests/eval/evaluate.py instead, and needs no server.
"""
import argparse
import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.request

WORDS = 200  # of a passage, about
SEPARATOR = " # # "  # the gateway's blend_separator; a text with it in it would be refused


def post(url, body):
    headers = {"Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))


def passages(folder):
    """Paragraphs, joined until they have some 200 words. The same file gives the same passages, and so the same chunks."""
    for path in sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix in (".md", ".txt")):
        text = ""
        for paragraph in path.read_text(errors="replace").replace(SEPARATOR, " ").split("\n\n"):
            if text and len((text + paragraph).split()) > WORDS:
                yield {"title": path.name, "text": text}
                text = ""
            text = f"{text}\n\n{paragraph}".strip()
        if text:
            yield {"title": path.name, "text": text}


def best(documents, question, count=6):
    """Your retriever goes here. This one counts the question's words."""
    words = set(re.findall(r"\w{4,}", question.lower()))
    return sorted(documents, key=lambda d: -sum(word in d["text"].lower() for word in words))[:count]


def ask(url, question, documents, **controls):
    """-> (answer, seconds to its first token, the tessera object)"""
    body = {"messages": [{"role": "user", "content": question}], "documents": documents, "max_tokens": 48,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "tessera": controls}
    start, first, text, report = time.perf_counter(), None, "", {}
    for line in post(f"{url}/v1/chat/completions", body):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            report = event.get("tessera") or report
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    first = first or time.perf_counter() - start
                    text += choice["delta"]["content"]
    return text, first or 0.0, report


def serve(url, documents, questions):
    start = time.perf_counter()
    stored = json.load(post(f"{url}/v1/chunks", {"documents": documents}))
    usage = stored["usage"]
    print(f"{stored['done']} passages, {usage['total_tokens']} tokens, "
          f"{usage['prompt_tokens_details']['cached_tokens']} of them cached before: {time.perf_counter() - start:.1f} s")
    for question in questions:
        picked = best(documents, question)
        print(f"\n{question}")
        for name, order, mode in (("full", picked, "off"), ("blend", picked, "blend"), ("reversed", picked[::-1], "blend")):
            text, first, report = ask(url, question, order, mode=mode)
            tokens = ", ".join(f"{report[k + '_tokens']} {k}" for k in ("exact", "blended", "recomputed", "computed"))
            print(f"{name:<9}{first * 1000:6.0f} ms   {tokens}\n         {text.strip()[:100]!r}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--cases")
    arguments = parser.parse_args()
    documents = list(passages(arguments.folder))
    if not documents:
        sys.exit(f"rag: no *.md or *.txt with text in {arguments.folder}")
    if arguments.cases:
        cases = [{"ctxs": best(documents, q), "question": q, "answers": ["unknown"]} for q in arguments.questions]
        pathlib.Path(arguments.cases).write_text(json.dumps(cases, indent=1))
        return
    try:
        serve(arguments.url, documents, arguments.questions)
    except urllib.error.HTTPError as e:
        sys.exit(f"rag: {e.url} says {e.code}: {e.read(1000).decode(errors='replace')}")
    except OSError as e:
        sys.exit(f"rag: no gateway at {arguments.url} ({e}): start one with deploy/start_serving.sh, or give --url")


if __name__ == "__main__":
    main()
