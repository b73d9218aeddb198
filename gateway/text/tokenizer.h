// Text to token ids and back, for one model.
#ifndef TESSERA_GATEWAY_TEXT_TOKENIZER_H_
#define TESSERA_GATEWAY_TEXT_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

// What Encode does with text that spells a special token, such as "<|im_start|>".
enum class SpecialTokens {
  kPlainText,   // encodes its letters like any other text: for whatever a user wrote
  kRecognised,  // makes it the special token: only for the text of a chat template
};

// A stretch of text and who wrote it. The text is borrowed.
struct TextRun {
  std::string_view text;
  SpecialTokens special = SpecialTokens::kPlainText;
};

// One model's vocabulary. Immutable: every call may come from any thread at any time.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of the runs' joined text. Ordinary words may cross from run to run, so that cutting a text
  // into runs changes no id; a special token is found only where all of its letters are in runs of
  // kRecognised. Nothing is added at the front (no BOS) or at the end.
  // Errors: INVALID_ARGUMENT when the joined text is not UTF-8 (names the byte offset),
  // RESOURCE_EXHAUSTED when a pattern of the model's own file ran out of stack.
  virtual absl::StatusOr<std::vector<uint32_t>> EncodeRuns(std::span<const TextRun> runs) const = 0;

  // Ids of one text.
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text, SpecialTokens special) const;

  // The bytes that `id` stands for, which need not be whole UTF-8 code points; a special token
  // gives its text. Empty for an id that the vocabulary does not have.
  virtual std::string TokenBytes(uint32_t id) const = 0;

  // The id of a token by its text: a special token, or a token whose bytes are just these.
  virtual std::optional<uint32_t> TokenId(std::string_view text) const = 0;

  virtual bool IsSpecial(uint32_t id) const = 0;

  // One more than the largest id.
  virtual size_t vocab_size() const = 0;

  // The text of `ids`; bytes that are not UTF-8 become U+FFFD.
  virtual std::string Decode(std::span<const uint32_t> ids, bool skip_special) const;
};

// Reads tokenizer.json (byte-level BPE) of a model folder, or tokenizer.model (sentencepiece) where
// there is no tokenizer.json or it is not byte-level BPE. gateway/text/README.md lists what is
// supported.
// Errors: NOT_FOUND when the folder has neither, INVALID_ARGUMENT when a file is damaged,
// UNIMPLEMENTED when it asks for something else (names it).
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_TOKENIZER_H_
