// Models of the sentencepiece library: Llama 2, Mistral, Gemma, Phi-3.
#ifndef TESSERA_GATEWAY_TEXT_SENTENCEPIECE_TOKENIZER_H_
#define TESSERA_GATEWAY_TEXT_SENTENCEPIECE_TOKENIZER_H_

#include <boost/json.hpp>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "gateway/text/added_tokens.h"
#include "gateway/text/sentencepiece_model.h"
#include "gateway/text/tokenizer.h"

namespace tessera {

class SentencepieceTokenizer : public Tokenizer {
 public:
  // `model` is the bytes of a tokenizer.model, `config` the object of tokenizer_config.json (its
  // added_tokens_decoder and legacy are read) or an empty one.
  // Errors: INVALID_ARGUMENT when the library refuses the model or the config is damaged.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const std::string& model,
                                                           const boost::json::object& config);

  absl::StatusOr<std::vector<uint32_t>> EncodeRuns(std::span<const TextRun> runs) const override;
  std::string TokenBytes(uint32_t id) const override;
  std::optional<uint32_t> TokenId(std::string_view text) const override;
  bool IsSpecial(uint32_t id) const override;
  size_t vocab_size() const override { return vocab_size_; }
  // Leaves out the space that the library puts before every text, as its own decoder does.
  std::string Decode(std::span<const uint32_t> ids, bool skip_special) const override;

 private:
  SentencepieceTokenizer() = default;
  absl::Status Load(const std::string& model);
  absl::Status AddTokens(const boost::json::object& config);
  void FindNative();
  absl::Status EncodePlain(const SentencepieceModel& model, std::string_view text,
                           std::vector<uint32_t>* ids) const;

  std::unique_ptr<const SentencepieceModel>
      with_prefix_;  // adds a space before a text, if the model says so
  std::unique_ptr<const SentencepieceModel> bare_;  // never does
  bool adds_prefix_ = false;
  bool prefix_after_special_ = true;  // what Hugging Face calls legacy
  std::unique_ptr<const AddedTokens> added_;
  // Special tokens that the library finds in any text by itself: a user's text is cut inside them.
  std::unique_ptr<const AddedTokens> native_;
  absl::flat_hash_map<uint32_t, AddedToken> added_by_id_;
  absl::flat_hash_map<std::string, uint32_t> added_by_text_;
  size_t vocab_size_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_SENTENCEPIECE_TOKENIZER_H_
