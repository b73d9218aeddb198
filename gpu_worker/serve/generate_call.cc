#include "gpu_worker/serve/generate_call.h"

#include <string>
#include <utility>
#include <vector>

#include "gpu_worker/serve/token_counts.h"

namespace tessera {
namespace {

using worker::v1::GenerateResponse;

// The first so many rows of a segment that begins at `start`, as far as `picked` has them. *next is
// the first of picked that is not before the segment, and moves behind those that were taken.
void AddRuns(const std::vector<int32_t>& picked, int64_t start, int64_t cached, size_t* next,
             worker::v1::SegmentReport* report) {
  auto& runs = *report->mutable_recomputed_rows();
  for (; *next < picked.size() && picked[*next] < start + cached; ++*next) {
    const auto row = static_cast<uint32_t>(picked[*next] - start);
    if (!runs.empty() && runs[runs.size() - 2] + runs[runs.size() - 1] == row) {
      runs[runs.size() - 1] += 1;
    } else {
      runs.Add(row);
      runs.Add(1);
    }
  }
}

void AddRows(const Prefilled& prefilled, worker::v1::Started* started) {
  const std::vector<int32_t>& picked = prefilled.picked;
  int64_t start = 0;
  size_t next = 0;
  for (size_t i = 0; i < prefilled.segments.size(); ++i) {
    const SegmentOutcome& segment = prefilled.segments[i];
    AddRuns(picked, start, segment.cached_tokens, &next,
            started->mutable_segments(static_cast<int>(i)));
    start += segment.tokens;
    // Those that were chosen among rows that are not from the cache.
    while (next < picked.size() && picked[next] < start) ++next;
  }
}

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
    report.set_cached_tokens(segment.cached_tokens);
    report.set_exact(segment.exact && segment.cached_tokens > 0);
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
  if (prefilled.cost) {
    started.set_full_prefill_us(static_cast<uint64_t>(prefilled.cost->full_seconds * 1e6));
  }
  if (prompt.report_rows) AddRows(prefilled, &started);
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
