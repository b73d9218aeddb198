#include "gpu_worker/serve/generation_run.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "gpu_worker/serve/prompt_logprobs.h"
#include "gpu_worker/serve/shown_id.h"

namespace tessera {

GenerationRun::GenerationRun(std::unique_ptr<Generation> generation, const Decoder* decoder,
                             Blender* blender, ChunkWriter* writer,
                             const std::atomic<bool>* stopping)
    : generation_(std::move(generation)),
      decoder_(*decoder),
      blender_(*blender),
      writer_(*writer),
      stopping_(*stopping) {}

int64_t GenerationRun::KvTokens(const Generation& generation) {
  int64_t tokens = generation.prompt.max_new_tokens;
  for (const auto& segment : generation.prompt.segments) {
    tokens += static_cast<int64_t>(segment.size());
  }
  return tokens;
}

bool GenerationRun::Start() {
  started_ = absl::Now();
  absl::StatusOr<Prefilled> prefilled = Prefill();
  if (!prefilled.ok()) {
    generation_->listener->OnFinished(prefilled.status());
    return false;
  }
  prefilled_ = *std::move(prefilled);
  prefill_ = absl::Now() - started_;
  generation_->listener->OnStarted(prefilled_, started_ - generation_->submitted, prefill_);
  BeginAnswer();
  return Advance(prefilled_.logits);
}

absl::StatusOr<Prefilled> GenerationRun::Prefill() {
  const BlendRequest& prompt = generation_->prompt;
  const CancelFlag& cancelled = *generation_->cancelled;
  if (!generation_->prompt_logprobs) return blender_.Prefill(prompt, cancelled);
  PromptScorer scorer(&decoder_, prompt.Ids(), *generation_->prompt_logprobs,
                      [&](const std::vector<PromptLogprob>& positions) {
                        generation_->listener->OnPromptLogprobs(positions);
                      });
  return blender_.PrefillShowing(prompt, cancelled, [&](int64_t first, Matrix h) {
    return scorer.OnRows(first, h, cancelled.value());
  });
}

absl::Status GenerationRun::CheckWanted() const {
  if (stopping_) return absl::UnavailableError("the worker is shutting down");
  if (generation_->cancelled->IsSet()) return absl::CancelledError("the request was cancelled");
  return absl::OkStatus();
}

bool GenerationRun::StillWanted() {
  const absl::Status status = CheckWanted();
  if (!status.ok()) Finish(status);
  return status.ok();
}

void GenerationRun::BeginAnswer() {
  SamplingParams params = generation_->sampling;
  params.seed += answer_;
  sampler_.emplace(params, generation_->prompt.segments);
  drawn_ = 0;
}

DecodeRow GenerationRun::NextRow() const {
  return {&prefilled_.kv, last_, prefilled_.tokens + drawn_ - 1};
}

bool GenerationRun::Advance(absl::Span<const float> logits) {
  while (StillWanted()) {
    if (Sample(logits)) return true;
    if (++answer_ == generation_->answers) {
      Finish(absl::OkStatus());
      return false;
    }
    BeginAnswer();
    logits = prefilled_.logits;
  }
  return false;
}

bool GenerationRun::Sample(absl::Span<const float> logits) {
  const SampledToken token = sampler_->Next(logits);
  last_ = token.id;
  ++drawn_;
  ++tokens_;
  generation_->listener->OnToken(answer_, token);
  // After the first token, never before.
  if (tokens_ == 1) writer_.Write(std::move(prefilled_.fresh));
  const std::vector<uint32_t>& ends = generation_->end_tokens;
  const bool ended = std::find(ends.begin(), ends.end(), token.id) != ends.end();
  if (!ended && drawn_ < generation_->prompt.max_new_tokens) return true;
  generation_->listener->OnAnswered(answer_, ended, drawn_);
  return false;
}

void GenerationRun::Finish(const absl::Status& status) {
  LOG(INFO) << "event=generated request=" << ShownId(generation_->request_id)
            << " prompt_tokens=" << prefilled_.tokens << " picked=" << prefilled_.picked.size()
            << " queue_ms=" << absl::ToInt64Milliseconds(started_ - generation_->submitted)
            << " prefill_ms=" << absl::ToInt64Milliseconds(prefill_)
            << " answers=" << generation_->answers << " tokens=" << tokens_
            << " total_ms=" << absl::ToInt64Milliseconds(absl::Now() - started_)
            << " status=" << absl::StatusCodeToString(status.code());
  generation_->listener->OnFinished(status);
}

}  // namespace tessera
