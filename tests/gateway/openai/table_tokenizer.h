// A tokenizer whose tokens are just these byte strings, for answers cut in every way.
#ifndef TESSERA_TESTS_GATEWAY_OPENAI_TABLE_TOKENIZER_H_
#define TESSERA_TESTS_GATEWAY_OPENAI_TABLE_TOKENIZER_H_

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gateway/text/tokenizer.h"

namespace tessera::openai {

// Decodes only. Id i is the i-th string.
class TableTokenizer final : public Tokenizer {
 public:
  explicit TableTokenizer(std::vector<std::string> tokens, std::set<uint32_t> special = {})
      : tokens_(std::move(tokens)), special_(std::move(special)) {}

  absl::StatusOr<std::vector<uint32_t>> EncodeRuns(std::span<const TextRun>) const override {
    return absl::UnimplementedError("a table only decodes");
  }
  std::string TokenBytes(uint32_t id) const override {
    return id < tokens_.size() ? tokens_[id] : "";
  }
  std::optional<uint32_t> TokenId(std::string_view) const override { return std::nullopt; }
  bool IsSpecial(uint32_t id) const override { return special_.contains(id); }
  size_t vocab_size() const override { return tokens_.size(); }

 private:
  const std::vector<std::string> tokens_;
  const std::set<uint32_t> special_;
};

}  // namespace tessera::openai

#endif  // TESSERA_TESTS_GATEWAY_OPENAI_TABLE_TOKENIZER_H_
