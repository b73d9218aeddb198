// Hugging Face's byte-level BPE: GPT-2's family, Llama 3, Qwen, SmolLM.
#ifndef TESSERA_GATEWAY_TEXT_BYTE_LEVEL_TOKENIZER_H_
#define TESSERA_GATEWAY_TEXT_BYTE_LEVEL_TOKENIZER_H_

#include <boost/json.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "gateway/text/added_tokens.h"
#include "gateway/text/bpe_model.h"
#include "gateway/text/pre_tokenizer.h"
#include "gateway/text/run_text.h"
#include "gateway/text/tokenizer.h"

namespace tessera {

// What tokenizer.json says, checked.
struct ByteLevelSpec {
  BpeSpec bpe;
  std::vector<AddedToken> added;
  bool nfc = false;
  boost::json::value pre_tokenizer;
};

// Reads the object of a tokenizer.json.
// Errors: UNIMPLEMENTED naming what is not byte-level BPE, INVALID_ARGUMENT for what is damaged.
absl::StatusOr<ByteLevelSpec> ParseTokenizerJson(const boost::json::object& json);

class ByteLevelTokenizer : public Tokenizer {
 public:
  // Errors: those of BpeModel::Create and PreTokenizer::FromJson.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const ByteLevelSpec& spec);

  absl::StatusOr<std::vector<uint32_t>> EncodeRuns(std::span<const TextRun> runs) const override;
  std::string TokenBytes(uint32_t id) const override;
  std::optional<uint32_t> TokenId(std::string_view text) const override;
  bool IsSpecial(uint32_t id) const override;
  size_t vocab_size() const override { return vocab_size_; }

 private:
  ByteLevelTokenizer(const ByteLevelSpec& spec, BpeModel bpe, PreTokenizer pre_tokenizer);

  // Encodes `range` of `text`, which holds no token of raw_added_.
  absl::Status EncodeRange(const RunText& text, ByteRange range, std::vector<uint32_t>* ids) const;
  // Encodes text that holds no added token at all.
  absl::Status EncodePlain(std::string_view text, std::vector<uint32_t>* ids) const;

  BpeModel bpe_;
  PreTokenizer pre_tokenizer_;
  bool nfc_;
  AddedTokens raw_added_;         // looked for in the text as it is
  AddedTokens normalized_added_;  // looked for after normalization
  absl::flat_hash_map<uint32_t, AddedToken> added_by_id_;
  absl::flat_hash_map<std::string, uint32_t> added_by_text_;
  size_t vocab_size_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_BYTE_LEVEL_TOKENIZER_H_
