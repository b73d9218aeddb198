#!/usr/bin/env python3
"""deploy/models: small GGUF files and Hugging Face folders made here are imported right, or refused by name."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import gguf
    import numpy as np
    from safetensors.numpy import save_file
except ImportError as e:
    print(f"SKIP: {e}; tests/run.sh brings the packages of tests/requirements.txt")
    sys.exit(77)

MODELS = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "models"
sys.path.insert(0, str(MODELS))
import bf16_file  # noqa: E402  (needs the path above)
import gguf_model  # noqa: E402

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, FFN, LAYERS = 4, 2, 8, 32, 64, 2


def byte_tokens():
    """The 256 byte tokens of byte-level BPE, one merge, one control token, two rows that only pad."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {b: chr(b) for b in visible}, 256
    for b in range(256):
        if b not in letters:
            letters[b], extra = chr(extra), extra + 1
    return [*(letters[b] for b in range(256)), "ab", "<|im_end|>", "[PAD258]", "[PAD259]"], [
        1
    ] * 257 + [3, 5, 5]


def tensors(seed=0):
    draw = np.random.default_rng(seed)
    shapes = {
        "attn_q": (HEADS * HEAD_DIM, HIDDEN),
        "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD_DIM),
        "ffn_gate": (FFN, HIDDEN),
        "ffn_up": (FFN, HIDDEN),
        "ffn_down": (HIDDEN, FFN),
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
    }
    made = {"token_embd.weight": (260, HIDDEN), "output_norm.weight": (HIDDEN,)}
    made |= {
        f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in shapes.items()
    }
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in made.items()}


def write_gguf(
    path,
    arch="llama",
    pre="smollm",
    tokenizer="gpt2",
    extra_tensors=None,
    facts=lambda writer: None,
):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500000.0)
    writer.add_tokenizer_model(tokenizer)
    if tokenizer == "gpt2":
        tokens, kinds = byte_tokens()
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(257)
    else:
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581"]
        kinds = [2, 3, 3] + [6] * 256 + [1]
        writer.add_token_scores([0.0] * 260)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_chat_template("{{ messages }}")
    facts(writer)
    for name, values in {**tensors(), **(extra_tensors or {})}.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_folder(folder):
    """-> {tensor name: float32 array}."""
    path = os.path.join(folder, "model.safetensors")
    header, offset = bf16_file.read_header(path)
    return {
        name: from_bf16(np.concatenate(list(bf16_file.read_blocks(path, offset, t)))).reshape(t[1])
        for name, t in header.items()
    }


class ImportTest(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.place.name, "Small.gguf")

    def tearDown(self):
        self.place.cleanup()

    def fetch(self, source, status=0):
        """-> the folder, or with a status that is not 0 what was said."""
        done = subprocess.run(
            [sys.executable, str(MODELS / "fetch.py"), str(source)],
            capture_output=True,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": self.place.name},
        )
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr if status else done.stdout.splitlines()[-1]

    def config(self, folder, name="config.json"):
        with open(os.path.join(folder, name)) as f:
            return json.load(f)

    def test_llama(self):
        write_gguf(self.path)
        folder = self.fetch(self.path)
        got, made = read_folder(folder), tensors()
        want = made["blk.1.attn_v.weight"]
        np.testing.assert_allclose(
            got["model.layers.1.self_attn.v_proj.weight"], want, rtol=1 / 256
        )
        # Row 2i+j of a head in the file is row i + j * head_dim / 2 in the folder.
        q = made["blk.0.attn_q.weight"].reshape(HEADS, HEAD_DIM, HIDDEN)
        got_q = got["model.layers.0.self_attn.q_proj.weight"].reshape(HEADS, HEAD_DIM, HIDDEN)
        for row in range(HEAD_DIM):
            np.testing.assert_allclose(
                got_q[:, row // 2 + row % 2 * (HEAD_DIM // 2)], q[:, row], rtol=1 / 256
            )
        config = self.config(folder)
        self.assertEqual(config["rope_theta"], 500000.0)
        self.assertEqual(config["rms_norm_eps"], 1e-6)
        self.assertEqual((config["head_dim"], config["num_key_value_heads"]), (HEAD_DIM, KV_HEADS))
        self.assertTrue(config["tie_word_embeddings"])
        self.assertIsNone(config["bos_token_id"])
        self.assertEqual(self.config(folder, "generation_config.json")["eos_token_id"], [257])
        self.assertEqual(
            self.config(folder, "tokenizer_config.json")["chat_template"], "{{ messages }}"
        )

    def test_the_tokenizer_has_no_padding_rows(self):
        write_gguf(self.path)
        tokenizer = self.config(self.fetch(self.path), "tokenizer.json")
        self.assertNotIn("[PAD258]", tokenizer["model"]["vocab"])
        self.assertEqual([t["content"] for t in tokenizer["added_tokens"]], ["<|im_end|>"])

    def test_qwen2_rows_are_not_permuted_and_keep_their_bias(self):
        bias = np.arange(HEADS * HEAD_DIM, dtype=np.float32)
        extra = {f"blk.{i}.attn_q.bias": bias for i in range(LAYERS)}
        extra["output.weight"] = np.ones((260, HIDDEN), np.float32)
        write_gguf(self.path, arch="qwen2", pre="qwen2", extra_tensors=extra)
        folder = self.fetch(self.path)
        got = read_folder(folder)
        np.testing.assert_allclose(
            got["model.layers.0.self_attn.q_proj.weight"],
            tensors()["blk.0.attn_q.weight"],
            rtol=1 / 256,
        )
        np.testing.assert_array_equal(got["model.layers.1.self_attn.q_proj.bias"], bias)
        self.assertFalse(self.config(folder)["tie_word_embeddings"])
        self.assertIn("lm_head.weight", got)

    def test_qwen3_keeps_its_norms_and_head_dim(self):
        extra = {
            f"blk.{i}.attn_{n}_norm.weight": np.ones(HEAD_DIM, np.float32)
            for i in range(LAYERS)
            for n in "qk"
        }
        write_gguf(
            self.path,
            arch="qwen3",
            pre="qwen2",
            extra_tensors=extra,
            facts=lambda w: w.add_key_length(HEAD_DIM),
        )
        folder = self.fetch(self.path)
        self.assertIn("model.layers.1.self_attn.k_norm.weight", read_folder(folder))
        self.assertEqual(self.config(folder)["architectures"], ["Qwen3ForCausalLM"])

    def test_rope_scaling(self):
        wavelength = 2 * np.pi * 500000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        smooth = np.clip((8192 / wavelength - 1) / 3, 0, 1)
        factors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
        write_gguf(self.path, extra_tensors={"rope_freqs.weight": factors})
        scaling = self.config(self.fetch(self.path))["rope_scaling"]
        self.assertEqual((scaling["rope_type"], scaling["factor"]), ("llama3", 32.0))
        write_gguf(
            self.path,
            facts=lambda w: (
                w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
                w.add_rope_scaling_factor(4.0),
                w.add_rope_scaling_orig_ctx_len(128),
            ),
        )
        self.assertEqual(
            self.config(self.fetch(self.path))["rope_scaling"],
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        )

    def test_sentencepiece(self):
        import sentencepiece

        write_gguf(self.path, tokenizer="llama")
        folder = self.fetch(self.path)
        with open(os.path.join(folder, "tokenizer.model"), "rb") as f:
            tokenizer = sentencepiece.SentencePieceProcessor(model_proto=f.read())
        self.assertEqual(
            (tokenizer.vocab_size(), tokenizer.bos_id(), tokenizer.eos_id()), (260, 1, 2)
        )
        self.assertEqual(tokenizer.decode(tokenizer.encode("a  é\n")), "a  é\n")

    def test_refused_by_name(self):
        for arguments, words in (
            ({"arch": "gemma"}, "architecture 'gemma'"),
            ({"pre": "tekken"}, "'tekken'"),
            ({"tokenizer": "bert"}, "tokenizer 'bert'"),
            ({"extra_tensors": {"blk.0.odd.weight": np.ones(4, np.float32)}}, "blk.0.odd.weight"),
            ({"facts": lambda w: w.add_expert_count(8)}, "MoE"),
        ):
            with self.subTest(words):
                write_gguf(self.path, **arguments)
                self.assertIn(words, self.fetch(self.path, status=1))

    def test_cut_short(self):
        write_gguf(self.path)
        with open(self.path, "r+b") as f:
            f.truncate(os.path.getsize(self.path) - 4096)
        self.assertIn("cannot be read", self.fetch(self.path, status=1))

    def test_done_once_and_again_when_the_source_changed_or_it_was_interrupted(self):
        write_gguf(self.path)
        folder = self.fetch(self.path)
        weights = os.path.join(folder, "model.safetensors")
        first = os.stat(weights).st_mtime_ns
        self.assertEqual(self.fetch(self.path), folder)
        self.assertEqual(os.stat(weights).st_mtime_ns, first)
        os.remove(os.path.join(folder, "tessera_import.json"))
        os.makedirs(
            os.path.join(
                os.path.dirname(folder), f".{os.path.basename(folder)}.part", "left_behind"
            )
        )
        self.fetch(self.path)
        second = os.stat(weights).st_mtime_ns
        self.assertGreater(second, first)
        os.utime(self.path)
        self.fetch(self.path)
        self.assertGreater(os.stat(weights).st_mtime_ns, second)

    def hugging_face_folder(self, dtype):
        folder = os.path.join(self.place.name, "folder")
        os.makedirs(folder, exist_ok=True)
        for name, content in (
            ("config.json", {"architectures": ["LlamaForCausalLM"]}),
            ("tokenizer.json", {}),
        ):
            with open(os.path.join(folder, name), "w") as f:
                json.dump(content, f)
        values = np.linspace(-3, 3, 64).reshape(8, 8)
        if dtype == "bf16":
            bits = bf16_file.to_bf16(values)
            bf16_file.write(
                os.path.join(folder, "model.safetensors"),
                [("w", (8, 8), lambda: [bits])],
                lambda *_: None,
            )
        else:
            save_file({"w": values.astype(dtype)}, os.path.join(folder, "model.safetensors"))
        return folder, values

    def test_folder_in_bf16_is_used_where_it_is(self):
        folder, _ = self.hugging_face_folder("bf16")
        self.assertEqual(self.fetch(folder), os.path.realpath(folder))

    def test_folder_in_other_types_is_converted(self):
        for dtype in ("float32", "float16"):
            folder, values = self.hugging_face_folder(dtype)
            made = self.fetch(folder)
            self.assertNotEqual(made, os.path.realpath(folder))
            np.testing.assert_allclose(read_folder(made)["w"], values, rtol=1 / 128)
            self.assertTrue(os.path.exists(os.path.join(made, "tokenizer.json")))

    def test_folder_that_lacks_something(self):
        folder, _ = self.hugging_face_folder("bf16")
        for name, words in (
            ("model.safetensors", "no .safetensors"),
            ("tokenizer.json", "tokenizer"),
            ("config.json", "config.json"),
        ):
            os.remove(os.path.join(folder, name))
            self.assertIn(words, self.fetch(folder, status=1))


class Bf16Test(unittest.TestCase):
    def test_rounds_to_nearest_even(self):
        values = np.array(
            [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5, 0.0], np.float32
        )
        want = [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -2.5, 0.0]
        np.testing.assert_array_equal(
            from_bf16(bf16_file.to_bf16(values)), np.array(want, np.float32)
        )

    def test_permutation_is_undone(self):
        rows = gguf_model.unpermuted_rows(16, 2)
        self.assertEqual(rows.tolist(), [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15])


if __name__ == "__main__":
    unittest.main(verbosity=2)
