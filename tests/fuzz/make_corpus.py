#!/usr/bin/env python3
"""Writes the seeds of all targets but value_header_fuzz to tests/fuzz/corpus/.

The seeds of value_header_fuzz are what EncodeSliceHeader and EncodePieceRecord gave for a few
headers, with payloads behind some: their checksums are XXH3, which Python does not have.
"""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"

# Steps of store_stream_fuzz.cc.
HEADER, PART, WRONG_PART, RAW, DAMAGED, END, DISTURB = 0, 1, 3, 4, 5, 6, 7


def header(key, layers, slice_bytes, tenant=0, split=0):
    return struct.pack("<BBBBHB", HEADER, key, split, layers - 1, slice_bytes, tenant)


def part(size):
    return struct.pack("<BH", PART, size - 1)


def piece(key, layers=2, slice_bytes=6000, parts=1, **options):
    size = -(-slice_bytes // parts)
    return header(key, layers, slice_bytes, **options) + part(size) * parts * layers


def wrong_part(size, layer=0, offset=0, checksum=0):
    return struct.pack("<BHbbB", WRONG_PART, size, layer, offset, checksum)


def raw(message):
    return bytes([RAW, len(message)]) + message


def damaged(at, change):
    return struct.pack("<BHB", DAMAGED, at, change)


def end(cut=False):
    return bytes([END, int(cut)])


def erase(key):
    return bytes([DISTURB, key])


def hold(key):
    return bytes([DISTURB, 96 + key])


LET_GO = bytes([DISTURB, 255])
LRU, S3_FIFO, TO_THE_END, QUOTA = 0, 1, 2, 4


def store_stream_seeds():
    # A StoreHeader and a Slice as protobuf writes them: key, layers 1, slice_bytes 3; layer 0, payload.
    plain_header = b"\x0a\x26\x0a\x20" + bytes(range(32)) + b"\x10\x01\x18\x03"
    plain_slice = b"\x12\x0e\x21" + bytes(8) + b"\x2a\x03abc"
    many = b"".join(piece(k, layers=3, slice_bytes=9000) for k in range(12))
    return {
        "one": bytes([LRU]) + piece(1) + end(),
        "in_parts": bytes([LRU]) + piece(1, parts=5, split=3) + piece(2, parts=2, split=10) + end(),
        "again": bytes([LRU]) + piece(1) + piece(1) + end() + piece(1, layers=1) + end(),
        "evictions": bytes([LRU]) + many + many + end(),
        "evictions_s3": bytes([S3_FIFO | TO_THE_END]) + many + many + end(),
        "quota": bytes([QUOTA]) + b"".join(piece(k, tenant=1 + k % 2) for k in range(14)) + end(),
        "cut": bytes([LRU]) + header(1, 2, 500) + part(500) + end(cut=True) + piece(1) + end(),
        "unfinished": bytes([LRU]) + header(1, 2, 500) + part(500) + end(),
        "wrong_layer": bytes([LRU]) + header(1, 2, 500) + wrong_part(500, layer=1) + end(),
        "wrong_offset": bytes([LRU]) + header(1, 1, 500) + wrong_part(9, offset=-3) + end(),
        "wrong_checksum": bytes([LRU]) + header(1, 1, 500) + wrong_part(500, checksum=1) + end(),
        "too_long": bytes([LRU]) + header(1, 1, 500) + wrong_part(501) + end(),
        "too_large": bytes([LRU]) + piece(1, layers=1, slice_bytes=60000) + end(),
        "plain": bytes([LRU]) + raw(plain_header) + raw(plain_slice) + end(),
        "damaged": bytes([LRU]) + header(1, 1, 50) + part(50) + damaged(9, 3) + damaged(0, 16),
        "held": bytes([LRU]) + piece(1) + hold(1) + erase(1) + piece(1) + many + LET_GO + end(),
    }


def packet(kind, call, fixed=b"", record=b"", count=0, memory=1 << 20, shift=0):
    return struct.pack("<QBIIQ", memory, shift, kind, count, call) + fixed + record * count


def place(state=1, layers=2, slice_bytes=4096, slices_at=8192, checksums_at=16384):
    return struct.pack("<IIQQQ16s", state, layers, slice_bytes, slices_at, checksums_at, b"ram")


def shm_wire_seeds():
    key = bytes(range(32))
    put = key + bytes(16) + struct.pack("<QQII", 0, 4096, 2, 0)
    return {
        "hello": packet(1, 1, record=b"t", count=9),
        "acquire": packet(2, 7, struct.pack("<II", 1, 0), key, 3),
        "renew": packet(3, 12),
        "find": packet(5, 8, record=key, count=2),
        "put": packet(7, 9, put),
        "erase": packet(8, 0, record=key, count=1),
        "welcome": packet(64, 1, struct.pack("<QQQII32s", 1 << 20, 10000, 1 << 26, 256, 64, b"i")),
        "acquired": packet(65, 7, struct.pack("<QII", 5, 3, 0), place(), 3),
        "acquired_large": packet(65, 7, struct.pack("<QII", 5, 3, 0), place(1, 2**31, 2**40), 1),
        "loaded": packet(66, 5, b"", struct.pack("<II", 1, 0) + place(), 1),
        "loaded_at_end": packet(66, 5, b"", struct.pack("<II", 1, 0) + place(), 1, memory=16400),
        "found": packet(67, 8, record=b"\x01", count=2),
        "put_done": packet(68, 9, struct.pack("<II", 3, 0)),
        "short": packet(65, 7, count=4),
    }


# Steps of shm_session_fuzz.cc; those that take keys take their number, then one byte each.
def keys(*numbers):
    return bytes([len(numbers), *numbers])


def acquire(*numbers, stop_at_miss=0):
    return bytes([1, stop_at_miss]) + keys(*numbers)


def shm_put(key, layers=2, slice_bytes=6000, at=0, wrong=0):
    return struct.pack("<BBBHHB", 7, key, layers - 1, slice_bytes, at, wrong)


def put_below(key, layers=2, slice_bytes=6000):
    return struct.pack("<BBBHB", 11, 1, layers - 1, slice_bytes - 1, key)


def shm_session_seeds():
    hello, staging, renew, release = b"\x01", b"\x06\x04", b"\x03\x00", b"\x04\x00"
    find, erase_keys = b"\x05" + keys(1, 2, 3), b"\x09" + keys(1)
    puts = b"".join(shm_put(k, 3, 9000, at=k) for k in range(12))
    below = b"".join(put_below(k) for k in range(4))
    return {
        "put_get": hello + staging + shm_put(1) + acquire(1, 2) + renew + release + find,
        "again": hello + staging + shm_put(1) * 2 + erase_keys + shm_put(1) + find,
        "evictions": hello + staging + puts + acquire(11, 10) + puts + release + acquire(5, 11),
        "loads": hello + below + acquire(0, 1, 2, 3) + acquire(3) + release + acquire(9, 0),
        "loads_stop": hello + below + acquire(0, 9, 1, stop_at_miss=1) + erase_keys,
        "leases": hello + staging + shm_put(1) + acquire(1) * 6 + release + acquire(1),
        "wrong_checksum": hello + staging + shm_put(1, wrong=1) + find,
        "wrong_layers": hello + staging + shm_put(1, wrong=2) + struct.pack("<I", 2**31),
        "wrong_bytes": hello + staging + shm_put(1, wrong=3) + struct.pack("<Q", 2**40),
        "wrong_place": hello + staging + shm_put(1, wrong=4) + struct.pack("<Q", 2**64 - 1),
        "sparse": hello + b"\x06\x03" + shm_put(1) + acquire(1),
        "stagings": b"".join(hello + bytes([6, kind]) for kind in (0, 1, 2, 241)),
        "wrong_hello": b"\x00\x00\x00\x05token" + b"\x00\x01\x05token",
        "raw": hello + b"\x0a\x05\x00\x01\x09\x20" + bytes(32) + b"\x00" + b"\x0a\x40" + bytes(9),
    }


GATEWAY, CACHE, WORKER = b"\x00", b"\x02", b"\x04"
OF_LMCACHE = 1


def config_yaml_seeds():
    gateway = b"""# All kinds of values.
listen: 127.0.0.1:0
workers: [a:1, "b:2", 'c:3']
cors_origins: https://x, https://y
blend_separator: "\\n # \\x01 \\u2028\\"'"
blend_keep_separator: true
max_body_bytes: 1.5MiB
max_queued: 0
idle_timeout: 1m30s
"""
    lmcache = b"""chunk_size: 512
local_cpu: False
max_local_cpu_size: 2.5
local_disk: "file:///kv"
blend_recompute_ratios: [0.25]
remote_url: "lm://host:9"
cache_policy: LRU
extra_config: {a: [1, {b: ~}]}
"""
    return {
        "gateway": GATEWAY + gateway,
        "cache": CACHE + b"ram_bytes: 512MB\nevict_from: .5\nadmission: all\nlease: 10s\ndisk_folder: >\n  /d\n",
        "worker": WORKER + b"---\nmodel: |-\n  /m\ncorrection: true\nrecompute_ratio: 1e-1\nthreads: 0\n...\n",
        **{f"lmcache_{i}": bytes([2 * i + OF_LMCACHE]) + lmcache for i in range(3)},
        "wrong": GATEWAY + b"worker: 1\nthreads: two\nthreads: 2\nlisten: 80\ncache: ~\n1: {a: b}\n? [x]\n",
        "anchors": GATEWAY + b"cache: &a !!str x\nlisten: *a\n<<: *a\n--- 2\n",
        "deep": GATEWAY + b"workers: " + b"[{a: " * 20 + b"1" + b"}]" * 20,
        "flow": CACHE + b"{listen: 'a:1', lease: 5s, huge_pages: False, eviction: lru}",
        "bom": WORKER + b"\xef\xbb\xbfmodel: x\n",
    }


def api_json_seeds():
    """Bodies behind a byte of headers, one for each large part of the parser."""
    messages = [{"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Gr\u00fc\u00dfe"}]}]
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
    bodies = {
        "prompt": {"model": "m", "prompt": "Hello", "max_tokens": 5},
        "prompts": {"prompt": ["a", "b"], "n": 2, "best_of": 2, "echo": True, "logprobs": 5, "suffix": "x"},
        "ids": {"prompt": [[1, 2, 3], [4]], "stop": ["a", "bc"], "seed": -1, "stream": True,
                "stream_options": {"include_usage": True}},
        "chat": {"messages": messages, "temperature": 0.5, "top_p": 0.9, "logprobs": True, "top_logprobs": 3,
                 "max_completion_tokens": 7, "user": "u"},
        "sampling": {"messages": messages, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1,
                     "presence_penalty": -2, "frequency_penalty": 2, "logit_bias": {"5": -100, "7": 1.5},
                     "stop_token_ids": [1], "ignore_eos": True, "priority": 3},
        "chunks": {"prompt": [{"chunk_id": "chunk-1"}, {"text": "and"}],
                   "tessera": {"mode": "blend", "policy": "x", "recompute_ratio": 0.2, "store": False}},
        "documents": {"messages": messages, "documents": [{"title": "t", "text": "d"}], "cache_salt": "s",
                      "chat_template_kwargs": {"enable_thinking": False}, "continue_final_message": True},
        "tools": {"messages": messages + [{"role": "tool", "tool_call_id": "1", "content": "{}"}],
                  "tools": [{"type": "function", "function": function}], "tool_choice": "auto",
                  "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
    }
    return {name: b"\x00" + json.dumps(body).encode() for name, body in bodies.items()}


def tokenizer_seeds():
    """The tokenizer's number, where runs are cut, and the text."""
    text = ("Hello, they'll don't DON'T '\u017f  12345 \u0663\n\n  x\t\r\n"
            "<|start|> [S] <think>e\u0301t \u4eba\u5de5\u3002 \U0001f916 aaaaaaa \u0995\u09c7\u09be \u00a0\u2003.")
    return {f"text_{i}": bytes([i, 3 * i]) + text.encode() for i in range(6)}


def chat_template_seeds():
    """A template, a zero byte, the conversation."""
    conversation = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
                               "documents": [{"title": "t", "text": "d"}], "tools": None}).encode()
    templates = {
        "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m.content | trim }}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}",
        "loop": "{%- for m in messages[::-1] if m.role != 'x' -%}{{ loop.index0 ~ loop.first ~ loop.previtem }}"
                "{%- if loop.last %}{% break %}{% elif 0 %}{% continue %}{% endif %}{% else %}none{%- endfor -%}",
        "set": "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 2 // 1 % 3 %}{% set x, y = [1, 2] %}"
               "{% set b %}{{ ns.a }}-{{ x }}{% endset %}{{ b | upper | replace('-', '+') }}",
        "filters": "{{ messages | map(attribute='role') | unique | list | join(',') }}{{ messages | tojson(indent=2) }}"
                   "{{ messages | selectattr('role', 'equalto', 'user') | first | items | length }}{{ 3.7 | int | abs }}",
        "methods": "{{ 'a b'.split(' ')[-1].strip().upper() }}{{ 'x'.startswith('x') and not 'y' in 'xyz' }}"
                   "{{ {'a': 1}.get('b', [1, 2][:1]) }}{{ 'a' if tools is none else 'b' }}{{ range(3) | list }}",
        "raise": "{# note #}{{ raise_exception('no ' ~ messages[0].role) }}{% generation %}x{% endgeneration %}",
        "time": "{{ strftime_now('%d %b %Y') }}{{ documents[0]['title'] | default('none') | capitalize }}",
    }
    return {name: template.encode() + b"\x00" + conversation for name, template in templates.items()}


def main():
    for target, seeds in (
        ("api_json_fuzz", api_json_seeds()),
        ("tokenizer_fuzz", tokenizer_seeds()),
        ("chat_template_fuzz", chat_template_seeds()),
        ("store_stream_fuzz", store_stream_seeds()),
        ("shm_session_fuzz", shm_session_seeds()),
        ("shm_wire_fuzz", shm_wire_seeds()),
        ("config_yaml_fuzz", config_yaml_seeds()),
    ):
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, seed in seeds.items():
            (folder / name).write_bytes(seed)


if __name__ == "__main__":
    main()
