// One answer: the tokens of a worker's call that belong to it, as text.
#ifndef TESSERA_GATEWAY_OPENAI_ANSWER_H_
#define TESSERA_GATEWAY_OPENAI_ANSWER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/text/stream_decoder.h"
#include "gateway/text/tokenizer.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

struct TokenScore {
  uint32_t id = 0;
  float logprob = 0;
};

// A token of an answer or of a prompt.
struct ScoredToken {
  uint32_t id = 0;
  // Absent for the first token of a prompt.
  std::optional<float> logprob;
  // The likeliest in its place, likeliest first; as many as were asked for.
  std::vector<TokenScore> top;
  // Code points of the choice's text before the token's own.
  size_t offset = 0;
};

// `token` with `top` beside it.
ScoredToken Scored(uint32_t id, std::optional<float> logprob,
                   const google::protobuf::RepeatedPtrField<worker::v1::TokenLogprob>& top,
                   size_t offset);

// What an answer grew by.
struct AnswerDelta {
  std::string text;
  // Only where they are kept: the tokens whose text this is, and those without text before them.
  std::vector<ScoredToken> tokens;

  bool empty() const { return text.empty() && tokens.empty(); }
};

// What all answers of a request have in common.
struct AnswerOptions {
  const Tokenizer* tokenizer = nullptr;
  // The text ends before the first of these strings, or (include_stop) behind it.
  std::vector<std::string> stop;
  bool include_stop = false;
  bool skip_special = true;
  // A stop string that ends within so many first tokens does not count.
  uint32_t min_tokens = 0;
  // Tokens that end the answer and give no text (but with include_stop): the client's, which are
  // reported, and the model's own (none with ignore_eos).
  std::vector<uint32_t> stop_token_ids;
  std::vector<uint32_t> eos_token_ids;
  // Whether somebody wants to see the tokens.
  bool keep_tokens = false;
};

// Text is handed out when it is final: never half a code point, never what may become a stop
// string. Tokens follow their text, so text and tokens of all deltas together do not depend on how
// the answer was cut. Every token is handed out, the last ones at the end. Not thread-safe.
class Answer {
 public:
  // `options` must outlive it. `letters_before` code points of text stand before the answer.
  Answer(const AnswerOptions* options, size_t letters_before);

  // Takes the next token and returns what became final. Does nothing once the answer has ended,
  // which may be in this call, by a stop string.
  AnswerDelta Feed(const worker::v1::Token& token);

  // The worker's last word; returns what was held back. Does nothing once the answer has ended.
  AnswerDelta Finish(worker::v1::Finished::Reason reason);

  bool ended() const { return !finish_reason_.empty(); }

  // "stop" or "length"; empty until it has ended.
  std::string_view finish_reason() const { return finish_reason_; }
  // What ended it, where that was a stop string or one of the client's stop tokens.
  const std::optional<std::string>& stop_string() const { return decoder_.matched_stop(); }
  std::optional<uint32_t> stop_token() const { return stop_token_; }

  // Tokens until it ended, the ending one with them.
  uint32_t token_count() const { return token_count_; }

 private:
  struct Pending {
    ScoredToken token;
    size_t end;  // bytes of decoded text with its own
  };

  // Tokens whose text is out, or all of them.
  void Release(bool all, AnswerDelta* delta);
  void EndAtStop(AnswerDelta* delta);

  const AnswerOptions* const options_;
  const size_t letters_before_;
  StreamDecoder decoder_;
  std::deque<Pending> pending_;
  size_t given_bytes_ = 0;  // of text, to the caller
  uint32_t token_count_ = 0;
  uint32_t last_token_ = 0;
  std::string_view finish_reason_;
  std::optional<uint32_t> stop_token_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_ANSWER_H_
