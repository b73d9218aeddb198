// A small decoder with made-up weights, written as a Hugging Face folder.
// tests/golden/make_families.py makes the same weights in Python.
#ifndef TESSERA_TESTS_GPU_WORKER_TINY_MODEL_H_
#define TESSERA_TESTS_GPU_WORKER_TINY_MODEL_H_

#include <string>

namespace tessera {

// A config.json for a Llama of 3 layers, hidden 64, 4 heads, 2 KV heads, vocabulary 96, 512
// positions; bos 1, eos 2.
std::string TinyLlamaConfig();

// Writes config.json and model.safetensors into `folder` (made when missing): every tensor that a
// config of this kind asks for. Untied heads, QKV bias (family qwen2) and QK norm (family qwen3)
// follow the config.
void WriteTinyModel(const std::string& config_json, const std::string& folder);

// A fresh folder of this test's own.
std::string TestFolder(const std::string& name);

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_TINY_MODEL_H_
