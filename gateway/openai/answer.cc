#include "gateway/openai/answer.h"

#include <algorithm>
#include <utility>

namespace tessera::openai {

namespace v1 = worker::v1;

namespace {

bool Contains(const std::vector<uint32_t>& ids, uint32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

ScoredToken Scored(uint32_t id, std::optional<float> logprob,
                   const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& top, size_t offset) {
  ScoredToken scored = {.id = id, .logprob = logprob, .top = {}, .offset = offset};
  scored.top.reserve(static_cast<size_t>(top.size()));
  for (const v1::TokenLogprob& each : top) scored.top.push_back({each.id(), each.logprob()});
  return scored;
}

Answer::Answer(const AnswerOptions* options, size_t letters_before)
    : options_(options),
      letters_before_(letters_before),
      decoder_(options->tokenizer, options->stop, options->skip_special) {}

AnswerDelta Answer::Feed(const v1::Token& token) {
  AnswerDelta delta;
  if (ended()) return delta;
  ++token_count_;
  last_token_ = token.id();
  const size_t offset = letters_before_ + decoder_.decoded_letters();
  const bool ends = Contains(options_->stop_token_ids, token.id()) ||
                    Contains(options_->eos_token_ids, token.id());
  if (!ends || options_->include_stop) {
    delta.text = decoder_.Feed(token.id(), token_count_ > options_->min_tokens);
  }
  if (options_->keep_tokens) {
    pending_.push_back(
        {Scored(token.id(), token.logprob(), token.top(), offset), decoder_.decoded_bytes()});
  }
  given_bytes_ += delta.text.size();
  if (decoder_.stopped()) {
    EndAtStop(&delta);
  } else if (!delta.text.empty()) {
    Release(/*all=*/false, &delta);
  }
  return delta;
}

AnswerDelta Answer::Finish(v1::Finished::Reason reason) {
  AnswerDelta delta;
  if (ended()) return delta;
  delta.text = decoder_.Finish();
  if (decoder_.stopped()) {
    EndAtStop(&delta);
    return delta;
  }
  Release(/*all=*/true, &delta);
  finish_reason_ = reason == v1::Finished::LENGTH ? "length" : "stop";
  const bool by_client = reason == v1::Finished::STOP && token_count_ > 0 &&
                         Contains(options_->stop_token_ids, last_token_) &&
                         !Contains(options_->eos_token_ids, last_token_);
  if (by_client) stop_token_ = last_token_;
  return delta;
}

void Answer::Release(bool all, AnswerDelta* delta) {
  while (!pending_.empty() && (all || pending_.front().end <= given_bytes_)) {
    delta->tokens.push_back(std::move(pending_.front().token));
    pending_.pop_front();
  }
}

void Answer::EndAtStop(AnswerDelta* delta) {
  if (options_->include_stop) delta->text += *decoder_.matched_stop();
  Release(/*all=*/true, delta);
  finish_reason_ = "stop";
}

}  // namespace tessera::openai
