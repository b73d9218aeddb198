#include "tests/gateway/text/tiny_tokenizer.h"

#include <glog/logging.h>

#include <filesystem>
#include <fstream>

#include "gateway/text/utf8.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

// GPT-2's letter for a byte.
std::string Letter(int byte) {
  const bool prints =
      (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  int shift = 0;
  for (int other = 0; other < byte && !prints; ++other) {
    shift += !((other >= '!' && other <= '~') || (other >= 0xa1 && other <= 0xac) || other >= 0xae);
  }
  std::string letter;
  AppendUtf8(static_cast<char32_t>(prints ? byte : 256 + shift), &letter);
  return letter;
}

}  // namespace

boost::json::object TinyTokenizerJson() {
  boost::json::object vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary[Letter(byte)] = byte;
  const std::string space = Letter(' '), line = Letter('\n');
  vocabulary["he"] = kHe;
  vocabulary["ll"] = kLl;
  vocabulary["hell"] = kHell;
  vocabulary["hello"] = kHello;
  vocabulary[space + "w"] = kSpaceW;
  vocabulary[line + line] = kTwoLines;
  const auto added = [](uint32_t id, const char* text, bool special) {
    return boost::json::object{{"id", id},          {"content", text}, {"single_word", false},
                               {"lstrip", false},   {"rstrip", false}, {"normalized", false},
                               {"special", special}};
  };
  return {
      {"added_tokens",
       {added(kStart, "<|start|>", true), added(kEnd, "<|end|>", true),
        added(kThink, "<think>", false)}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"vocab", vocabulary},
        {"merges", {"h e", "l l", "he ll", "hell o", space + " w", line + " " + line}}}}};
}

std::string MakeModelFolder(const std::vector<std::pair<std::string, std::string>>& files) {
  static int count = 0;
  const std::string folder = testing::TempDir() + "/model" + std::to_string(count++);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const auto& [name, bytes] : files) {
    std::ofstream(folder + "/" + name, std::ios::binary) << bytes;
  }
  return folder;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJson(const boost::json::object& json) {
  return LoadTokenizer(MakeModelFolder({{"tokenizer.json", boost::json::serialize(json)}}));
}

std::unique_ptr<Tokenizer> TinyTokenizer() {
  auto tokenizer = LoadJson(TinyTokenizerJson());
  CHECK(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

}  // namespace tessera
