#include "tests/gateway/test_model.h"

#include <fstream>

#include "boost/json/array.hpp"
#include "boost/json/object.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/text/utf8.h"
#include "glog/logging.h"

namespace tessera {
namespace {

namespace json = boost::json;

constexpr char kChatTemplate[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' }}{% endif %}";

// GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and up.
json::object ByteVocabulary() {
  json::object vocabulary;
  uint32_t id = 0;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    std::string letter;
    AppendUtf8(printable ? static_cast<char32_t>(byte) : next++, &letter);
    vocabulary[letter] = id++;
  }
  return vocabulary;
}

json::object SpecialToken(uint32_t id, const char* content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

void Write(const std::string& path, const json::object& object) {
  std::ofstream file(path);
  file << json::serialize(object);
  CHECK(file.good()) << path;
}

}  // namespace

void WriteTestModel(const std::string& folder) {
  json::object model;
  model["type"] = "BPE";
  model["dropout"] = nullptr;
  model["unk_token"] = nullptr;
  model["byte_fallback"] = false;
  model["vocab"] = ByteVocabulary();
  model["merges"] = json::array();
  const json::object byte_level = {{"type", "ByteLevel"},
                                   {"add_prefix_space", false},
                                   {"trim_offsets", true},
                                   {"use_regex", true}};
  json::array added;
  added.push_back(SpecialToken(kTestImStart, "<|im_start|>"));
  added.push_back(SpecialToken(kTestImEnd, "<|im_end|>"));
  json::object tokenizer;
  tokenizer["version"] = "1.0";
  tokenizer["truncation"] = nullptr;
  tokenizer["padding"] = nullptr;
  tokenizer["added_tokens"] = added;
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = byte_level;
  tokenizer["post_processor"] = nullptr;
  tokenizer["decoder"] = byte_level;
  tokenizer["model"] = model;
  Write(folder + "/tokenizer.json", tokenizer);

  json::object config;
  config["eos_token"] = "<|im_end|>";
  config["add_bos_token"] = false;
  config["chat_template"] = kChatTemplate;
  Write(folder + "/tokenizer_config.json", config);
}

}  // namespace tessera
