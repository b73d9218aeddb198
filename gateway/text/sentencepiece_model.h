// The sentencepiece library behind our own types: its header redefines absl::string_view, so no
// file may include it beside Abseil.
#ifndef TESSERA_GATEWAY_TEXT_SENTENCEPIECE_MODEL_H_
#define TESSERA_GATEWAY_TEXT_SENTENCEPIECE_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// Immutable after Load: any thread at any time.
class SentencepieceModel {
 public:
  enum class Kind { kText, kControl, kUnknown, kByte };

  ~SentencepieceModel();

  // `bytes` is a serialized ModelProto. Null, and *error says why, when the library refuses it.
  static std::unique_ptr<SentencepieceModel> Load(std::string_view bytes, std::string* error);

  // Appends the ids of `text`. False, and *error says why, when the library fails.
  bool Encode(std::string_view text, std::vector<uint32_t>* ids, std::string* error) const;

  uint32_t size() const;

  // `id` must be below size().
  const std::string& Piece(uint32_t id) const;
  Kind KindOf(uint32_t id) const;

  std::optional<uint32_t> Find(std::string_view piece) const;

 private:
  struct Library;
  explicit SentencepieceModel(std::unique_ptr<Library> library);

  std::unique_ptr<Library> library_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_SENTENCEPIECE_MODEL_H_
