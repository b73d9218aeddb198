#include "gateway/text/tokenizer.h"

#include "gateway/text/utf8.h"

namespace tessera {

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(std::string_view text,
                                                        SpecialTokens special) const {
  const TextRun run = {text, special};
  return EncodeRuns({&run, 1});
}

std::string Tokenizer::Decode(std::span<const uint32_t> ids, bool skip_special) const {
  std::string text;
  Utf8Repair repair;
  for (const uint32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) repair.Append(TokenBytes(id), &text);
  }
  repair.Finish(&text);
  return text;
}

}  // namespace tessera
