"""A GGUF file -> the parts of a Hugging Face folder: config, generation config, tensors in bf16."""

import math

import gguf
import numpy as np
from gguf.quants import dequantize

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
GLOBAL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# End tokens by their text: chat models end a turn with one of these, whatever the file's single eos says.
END_TOKENS = {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "</s>"}
CONTROL = 3
ROWS_AT_ONCE = 4096


class Unsupported(Exception):
    """The file is fine, but not of a kind that Tessera runs."""


def short(x):
    """A float32 from the file as people write it: 9.999999747378752e-06 -> 1e-05."""
    return float(str(np.float32(x)))


class GgufModel:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.arch = self.field("general.architecture")
        if self.arch not in CLASSES:
            raise Unsupported(
                f"architecture '{self.arch}' is not supported; supported: {', '.join(CLASSES)}"
            )
        if self.fact("expert_count", 0):
            raise Unsupported(f"'{self.arch}' with experts (MoE) is not supported")
        self.tensors = {t.name: t for t in self.reader.tensors}

    def field(self, key, default=None):
        f = self.reader.fields.get(key)
        return default if f is None else f.contents()

    def fact(self, key, default=None):
        return self.field(f"{self.arch}.{key}", default)

    def config(self):
        heads, hidden = self.fact("attention.head_count"), self.fact("embedding_length")
        head_dim = self.fact("attention.key_length", hidden // heads)
        if self.fact("rope.dimension_count", head_dim) != head_dim:
            raise Unsupported("rotary embedding of a part of the head is not supported")
        config = {
            "architectures": [CLASSES[self.arch]],
            "model_type": self.arch,
            "torch_dtype": "bfloat16",
            "hidden_size": hidden,
            "intermediate_size": self.fact("feed_forward_length"),
            "hidden_act": "silu",
            "num_hidden_layers": self.fact("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.fact("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "max_position_embeddings": self.fact("context_length"),
            "rms_norm_eps": short(self.fact("attention.layer_norm_rms_epsilon")),
            "rope_theta": short(self.fact("rope.freq_base", 10000.0)),
            "rope_scaling": self.rope_scaling(head_dim),
            "vocab_size": int(self.tensors["token_embd.weight"].shape[1]),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "attention_bias": "blk.0.attn_q.bias" in self.tensors,
            "bos_token_id": self.field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.field("tokenizer.ggml.eos_token_id"),
        }
        if (pad := self.field("tokenizer.ggml.padding_token_id")) is not None:
            config["pad_token_id"] = pad
        return config

    def rope_scaling(self, head_dim):
        if "rope_freqs.weight" in self.tensors:
            return self.llama3_scaling(head_dim)
        kind = self.fact("rope.scaling.type", "none")
        if kind == "none":
            return None
        if kind not in ("linear", "yarn"):
            raise Unsupported(
                f"RoPE scaling '{kind}' is not supported; supported: linear, yarn, llama3"
            )
        scaling = {"rope_type": kind, "factor": short(self.fact("rope.scaling.factor"))}
        if kind == "yarn":
            scaling["original_max_position_embeddings"] = self.fact(
                "rope.scaling.original_context_length"
            )
        return scaling

    def llama3_scaling(self, head_dim):
        """The file holds a factor per frequency; a config holds the parameters they were made from."""
        theta = short(self.fact("rope.freq_base", 10000.0))
        found = dequantize(
            self.tensors["rope_freqs.weight"].data, self.tensors["rope_freqs.weight"].tensor_type
        )
        wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
        for factor in (8.0, 32.0):
            smooth = np.clip((8192 / wavelength - 1.0) / (4.0 - 1.0), 0, 1)
            if np.allclose(found, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }
        raise Unsupported("its RoPE frequency factors are not those of Llama 3.1 or 3.2")

    def generation_config(self):
        tokens, kinds = self.field("tokenizer.ggml.tokens"), self.field("tokenizer.ggml.token_type")
        ends = [self.field("tokenizer.ggml.eos_token_id")]
        ends += [
            i
            for i, (text, kind) in enumerate(zip(tokens, kinds))
            if kind == CONTROL and text in END_TOKENS
        ]
        return {
            "bos_token_id": self.field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": list(dict.fromkeys(e for e in ends if e is not None)),
        }

    def bf16_tensors(self, to_bf16):
        """[(Hugging Face name, shape, function that yields blocks of rows)]; every tensor must have a place."""
        return [
            (
                self.place(name),
                [int(n) for n in reversed(t.shape)],
                lambda t=t: self.blocks(t, to_bf16),
            )
            for name, t in self.tensors.items()
            if name != "rope_freqs.weight"
        ]

    def place(self, name):
        if name in GLOBAL_TENSORS:
            return GLOBAL_TENSORS[name]
        _, layer, kind, end = (name.split(".") + [""] * 4)[:4]
        if kind not in LAYER_TENSORS or end not in ("weight", "bias"):
            raise Unsupported(f"tensor '{name}' has no place in a {self.arch} model")
        return f"model.layers.{layer}.{LAYER_TENSORS[kind]}.{end}"

    def blocks(self, tensor, to_bf16):
        heads = self.permuted_heads(tensor.name)
        if heads:
            values = dequantize(tensor.data, tensor.tensor_type)
            yield to_bf16(values[unpermuted_rows(len(values), heads)])
            return
        rows = tensor.data if tensor.data.ndim > 1 else tensor.data[None]
        for i in range(0, len(rows), ROWS_AT_ONCE):
            yield to_bf16(dequantize(rows[i : i + ROWS_AT_ONCE], tensor.tensor_type))

    def permuted_heads(self, name):
        """How many heads' rows the writer of this tensor reordered; 0: none were."""
        if self.arch != "llama" or not name.startswith("blk."):
            return 0
        kind = name.split(".")[2]
        heads = self.fact("attention.head_count")
        return {"attn_q": heads, "attn_k": self.fact("attention.head_count_kv", heads)}.get(kind, 0)


def unpermuted_rows(rows, heads):
    """Row order that undoes the interleaving of RoPE pairs: files of architecture llama hold row 2i+j of a head
    where Hugging Face (and our half-split RoPE) has row i + j * head_dim / 2."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
