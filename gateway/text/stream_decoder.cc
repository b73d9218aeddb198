#include "gateway/text/stream_decoder.h"

#include <utility>

namespace tessera {

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, std::vector<std::string> stop_strings,
                             bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special), stops_(std::move(stop_strings)) {}

std::string StreamDecoder::Feed(uint32_t id, bool armed) {
  if (stopped() || (skip_special_ && tokenizer_->IsSpecial(id))) return "";
  std::string text;
  repair_.Append(tokenizer_->TokenBytes(id), &text);
  return Advance(text, armed);
}

std::string StreamDecoder::Finish() {
  if (stopped()) return "";
  std::string text;
  repair_.Finish(&text);
  std::string final_text = Advance(text, true);
  if (!stopped()) final_text += stops_.TakeHeld();
  return final_text;
}

std::string StreamDecoder::Advance(std::string_view text, bool armed) {
  decoded_bytes_ += text.size();
  decoded_letters_ += CountCodePoints(text);
  std::string final_text;
  matched_ = stops_.Append(text, &final_text, armed);
  return final_text;
}

}  // namespace tessera
