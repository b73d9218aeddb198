#include "gpu_worker/serve/generate_call.h"

#include <string>
#include <utility>
#include <vector>

#include "gpu_worker/serve/token_counts.h"

namespace tessera {
namespace {

using worker::v1::GenerateResponse;

// What is known after prefill, as the wire says it.
worker::v1::Started StartedOf(const Prefilled& prefilled, const BlendRequest& prompt,
                              absl::Duration queued, absl::Duration prefill) {
  worker::v1::Started started;
  const TokenCounts counts = CountTokens(prefilled.segments);
  worker::v1::PromptUsage& usage = *started.mutable_usage();
  usage.set_exact_tokens(counts.exact);
  usage.set_blended_tokens(counts.blended);
  usage.set_recomputed_tokens(counts.recomputed);
  usage.set_computed_tokens(counts.computed);
  for (const SegmentOutcome& segment : prefilled.segments) {
    worker::v1::SegmentReport& report = *started.add_segments();
    report.set_tokens(segment.tokens);
    report.set_recomputed_tokens(segment.recomputed_tokens);
    report.set_tier(segment.tier());
    report.set_source(segment.cached_tokens == 0 ? worker::v1::SegmentReport::COMPUTED
                      : segment.cached_tokens == segment.tokens
                          ? worker::v1::SegmentReport::CACHE
                          : worker::v1::SegmentReport::PARTIAL);
  }
  started.set_queue_us(absl::ToInt64Microseconds(queued));
  started.set_prefill_us(absl::ToInt64Microseconds(prefill));
  started.set_policy(prefilled.blended ? prompt.policy.name() : "exact");
  started.set_correction(prefilled.blended && prompt.correction);
  return started;
}

void SetLogprob(const TokenLogprob& from, worker::v1::TokenLogprob* to) {
  to->set_id(from.id);
  to->set_logprob(from.logprob);
}

class CallListener final : public GenerationListener {
 public:
  CallListener(std::shared_ptr<GenerateCall> call, const BlendRequest* prompt)
      : call_(std::move(call)), prompt_(*prompt) {}

  void OnPromptLogprobs(const std::vector<PromptLogprob>& positions) override {
    GenerateResponse response;
    for (const PromptLogprob& from : positions) {
      auto& position = *response.mutable_prompt_logprobs()->add_positions();
      SetLogprob(from.token, position.mutable_token());
      for (const TokenLogprob& top : from.top) SetLogprob(top, position.add_top());
    }
    call_->Send(std::move(response));
  }

  void OnStarted(const Prefilled& prefilled, absl::Duration queued,
                 absl::Duration prefill) override {
    GenerateResponse response;
    *response.mutable_started() = StartedOf(prefilled, prompt_, queued, prefill);
    call_->Send(std::move(response));
  }

  void OnToken(uint32_t index, const SampledToken& from) override {
    GenerateResponse response;
    worker::v1::Token& token = *response.mutable_token();
    token.set_id(from.id);
    token.set_logprob(from.logprob);
    token.set_index(index);
    for (const TokenLogprob& top : from.top) SetLogprob(top, token.add_top());
    call_->Send(std::move(response));
  }

  void OnAnswered(uint32_t index, bool ended, int64_t tokens) override {
    GenerateResponse response;
    worker::v1::Finished& finished = *response.mutable_finished();
    finished.set_reason(ended ? worker::v1::Finished::STOP : worker::v1::Finished::LENGTH);
    finished.set_generated_tokens(tokens);
    finished.set_index(index);
    call_->Send(std::move(response));
  }

  void OnFinished(const absl::Status& status) override { call_->End(status); }

 private:
  const std::shared_ptr<GenerateCall> call_;
  const BlendRequest& prompt_;
};

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

std::unique_ptr<GenerationListener> MakeCallListener(std::shared_ptr<GenerateCall> call,
                                                     const BlendRequest* prompt) {
  return std::make_unique<CallListener>(std::move(call), prompt);
}

void GenerateCall::Send(GenerateResponse response) {
  absl::MutexLock lock(&mutex_);
  if (too_slow_) return;
  unread_ += response.ByteSizeLong();
  if (unread_ > kMostUnread) {
    too_slow_ = true;
    cancelled_->Set();
    return;
  }
  outgoing_.push_back(std::move(response));
  if (!writing_) WriteNext();
}

void GenerateCall::End(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  status_ = too_slow_ ? absl::ResourceExhaustedError(
                            "the answer was read too slowly: read it as it comes, or ask for less")
                      : status;
  if (!writing_) Finish(ToGrpc(status_));
}

void GenerateCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  unread_ -= outgoing_.front().ByteSizeLong();
  outgoing_.pop_front();
  if (!ok) {
    cancelled_->Set();
    outgoing_.clear();
  }
  if (!outgoing_.empty()) {
    WriteNext();
  } else if (ended_) {
    Finish(ToGrpc(status_));
  }
}

void GenerateCall::WriteNext() {
  writing_ = true;
  StartWrite(&outgoing_.front());
}

}  // namespace tessera
