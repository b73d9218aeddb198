#include "gateway/openai/prompt_answers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gateway/text/utf8.h"

namespace tessera::openai {

namespace v1 = worker::v1;

namespace {

// Where each token's text begins in the echo. The echo may lack what the tokenizer puts before a
// text (a space, in sentencepiece models): then all begins so much earlier.
void SetOffsets(const AnswerOptions& options, const std::string& echo,
                std::vector<ScoredToken>* tokens) {
  StreamDecoder decoder(options.tokenizer, {}, options.skip_special);
  for (ScoredToken& token : *tokens) {
    token.offset = decoder.decoded_letters();
    decoder.Feed(token.id);
  }
  decoder.Finish();
  const size_t letters = CountCodePoints(echo);
  const size_t lacking = decoder.decoded_letters() - std::min(decoder.decoded_letters(), letters);
  for (ScoredToken& token : *tokens) token.offset -= std::min(token.offset, lacking);
}

}  // namespace

PromptAnswers::PromptAnswers(const AnswerOptions* options, PromptPlan plan)
    : options_(options), plan_(std::move(plan)), open_(plan_.answers) {
  const size_t letters_before = plan_.echo ? CountCodePoints(*plan_.echo) : 0;
  answers_.reserve(plan_.answers);
  for (uint32_t i = 0; i < plan_.answers; ++i) answers_.emplace_back(options, letters_before);
}

absl::StatusOr<std::vector<PromptAnswers::Piece>> PromptAnswers::Take(
    const v1::GenerateResponse& event) {
  switch (event.event_case()) {
    case v1::GenerateResponse::kPromptLogprobs:
      RETURN_IF_ERROR(TakePromptLogprobs(event.prompt_logprobs()));
      return std::vector<Piece>();
    case v1::GenerateResponse::kStarted:
      return Begin(event.started());
    case v1::GenerateResponse::kToken:
      return TakeToken(event.token());
    case v1::GenerateResponse::kFinished:
      return End(event.finished());
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
  return std::vector<Piece>();
}

uint32_t PromptAnswers::token_count() const {
  uint32_t count = 0;
  for (const Answer& answer : answers_) count += answer.token_count();
  return count;
}

absl::Status PromptAnswers::TakePromptLogprobs(const v1::PromptLogprobs& logprobs) {
  if (!plan_.scored) return absl::OkStatus();
  for (const v1::PromptLogprobs::Position& position : logprobs.positions()) {
    const size_t index = prompt_scores_.size();
    if (started_ || index >= plan_.token_ids.size() ||
        position.token().id() != plan_.token_ids[index]) {
      return absl::InternalError("the worker scored another prompt than it was given");
    }
    std::optional<float> logprob;
    if (index > 0) logprob = position.token().logprob();
    prompt_scores_.push_back(Scored(position.token().id(), logprob, position.top(), 0));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PromptAnswers::Piece>> PromptAnswers::Begin(const v1::Started& started) {
  if (started_) return absl::InternalError("the worker started an answer twice");
  if (plan_.scored && prompt_scores_.size() != plan_.token_ids.size()) {
    return absl::InternalError("the worker left out logprobs of the prompt");
  }
  started_ = started;
  if (plan_.echo) SetOffsets(*options_, *plan_.echo, &prompt_scores_);
  std::vector<Piece> pieces;
  for (uint32_t i = 0; i < plan_.answers; ++i) {
    pieces.push_back({i, true, {plan_.echo.value_or(""), prompt_scores_}});
  }
  std::vector<ScoredToken>().swap(prompt_scores_);
  return pieces;
}

absl::StatusOr<std::vector<PromptAnswers::Piece>> PromptAnswers::TakeToken(const v1::Token& token) {
  if (!started_) return absl::InternalError("the worker sent a token before it had started");
  if (token.index() >= plan_.answers) {
    return absl::InternalError(absl::StrCat("the worker has no answer ", token.index()));
  }
  // A call goes on after a stop string has ended one of its answers.
  if (plan_.only_echo || answers_[token.index()].ended()) return std::vector<Piece>();
  return Grown(token.index(), answers_[token.index()].Feed(token));
}

absl::StatusOr<std::vector<PromptAnswers::Piece>> PromptAnswers::End(const v1::Finished& finished) {
  if (!started_ || finished.index() >= plan_.answers) {
    return absl::InternalError("the worker ended an answer that it had not begun");
  }
  ++finished_;
  Answer& answer = answers_[finished.index()];
  if (answer.ended()) return std::vector<Piece>();
  const v1::Finished::Reason reason = plan_.only_echo ? v1::Finished::LENGTH : finished.reason();
  return Grown(finished.index(), answer.Finish(reason));
}

std::vector<PromptAnswers::Piece> PromptAnswers::Grown(uint32_t answer, AnswerDelta delta) {
  std::vector<Piece> pieces;
  const bool ended = answers_[answer].ended();
  if (ended) --open_;
  if (!ended && delta.empty()) return pieces;
  pieces.push_back({answer, false, std::move(delta)});
  return pieces;
}

}  // namespace tessera::openai
