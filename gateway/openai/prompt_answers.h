// One prompt of a request: what its worker's call says, sorted by answers.
#ifndef TESSERA_GATEWAY_OPENAI_PROMPT_ANSWERS_H_
#define TESSERA_GATEWAY_OPENAI_PROMPT_ANSWERS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/openai/answer.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

struct PromptPlan {
  uint32_t answers = 1;
  // All its segments' ids, one after the other.
  std::vector<uint32_t> token_ids;
  // What stands before every answer; nothing: no echo.
  std::optional<std::string> echo;
  // The worker was asked for the prompt's logprobs, which go with the echo.
  bool scored = false;
  // The client wants no answer: what the worker generates is thrown away.
  bool only_echo = false;
};

// Checks that the worker keeps to the protocol. Not thread-safe.
class PromptAnswers {
 public:
  // What one answer grew by.
  struct Piece {
    uint32_t answer = 0;
    // The answer begins: its echo, or nothing yet.
    bool first = false;
    AnswerDelta delta;
  };

  // `options` must outlive it.
  PromptAnswers(const AnswerOptions* options, PromptPlan plan);

  // Takes the call's next event. Every answer gives one first piece, then those with new text, and
  // one when it ends. Errors: INTERNAL for an event that the protocol does not allow there.
  absl::StatusOr<std::vector<Piece>> Take(const worker::v1::GenerateResponse& event);

  // All answers have ended: nothing of the call matters any more.
  bool ended() const { return open_ == 0; }

  // So they have, but for the worker, which knows nothing of stop strings, some go on.
  bool wasteful() const { return ended() && finished_ < answers_.size(); }

  const PromptPlan& plan() const { return plan_; }
  // Absent until the prefill has ended.
  const std::optional<worker::v1::Started>& started() const { return started_; }
  const std::vector<Answer>& answers() const { return answers_; }
  // Of all answers.
  uint32_t token_count() const;

 private:
  absl::Status TakePromptLogprobs(const worker::v1::PromptLogprobs& logprobs);
  absl::StatusOr<std::vector<Piece>> Begin(const worker::v1::Started& started);
  absl::StatusOr<std::vector<Piece>> TakeToken(const worker::v1::Token& token);
  absl::StatusOr<std::vector<Piece>> End(const worker::v1::Finished& finished);
  // The piece that `delta` is, if it is one.
  std::vector<Piece> Grown(uint32_t answer, AnswerDelta delta);

  const AnswerOptions* const options_;
  PromptPlan plan_;
  std::optional<worker::v1::Started> started_;
  std::vector<ScoredToken> prompt_scores_;
  std::vector<Answer> answers_;
  size_t open_;          // answers that have not ended
  size_t finished_ = 0;  // answers that the worker has ended
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_PROMPT_ANSWERS_H_
