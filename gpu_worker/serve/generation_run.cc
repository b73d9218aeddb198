#include "gpu_worker/serve/generation_run.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "gpu_worker/serve/prompt_logprobs.h"

namespace tessera {
namespace {

// Of a request's id, so much is logged.
constexpr size_t kShownId = 128;

}  // namespace

GenerationRun::GenerationRun(Generation* generation, const Decoder* decoder, Blender* blender,
                             ChunkWriter* writer, const std::atomic<bool>* stopping)
    : generation_(*generation),
      decoder_(*decoder),
      blender_(*blender),
      writer_(*writer),
      stopping_(*stopping) {}

void GenerationRun::Run() {
  const absl::Time start = absl::Now();
  absl::StatusOr<Prefilled> prefilled = Prefill();
  if (!prefilled.ok()) {
    generation_.listener->OnFinished(prefilled.status());
    return;
  }
  const absl::Duration queued = start - generation_.submitted, took = absl::Now() - start;
  generation_.listener->OnStarted(*prefilled, queued, took);
  const absl::Status status = AnswerAll(*prefilled);
  LOG(INFO) << "event=generated request="
            << absl::CHexEscape(generation_.request_id.substr(0, kShownId))
            << " prompt_tokens=" << prefilled->tokens << " picked=" << prefilled->picked.size()
            << " queue_ms=" << absl::ToInt64Milliseconds(queued)
            << " prefill_ms=" << absl::ToInt64Milliseconds(took)
            << " answers=" << generation_.answers << " tokens=" << tokens_
            << " total_ms=" << absl::ToInt64Milliseconds(absl::Now() - start)
            << " status=" << absl::StatusCodeToString(status.code());
  generation_.listener->OnFinished(status);
}

absl::StatusOr<Prefilled> GenerationRun::Prefill() {
  const BlendRequest& prompt = generation_.prompt;
  const CancelFlag& cancelled = *generation_.cancelled;
  if (!generation_.prompt_logprobs) return blender_.Prefill(prompt, cancelled);
  std::vector<uint32_t> ids;
  for (const auto& segment : prompt.segments) ids.insert(ids.end(), segment.begin(), segment.end());
  PromptScorer scorer(&decoder_, std::move(ids), *generation_.prompt_logprobs,
                      [&](const std::vector<PromptLogprob>& positions) {
                        generation_.listener->OnPromptLogprobs(positions);
                      });
  return blender_.PrefillShowing(prompt, cancelled, [&](int64_t first, Matrix h) {
    return scorer.OnRows(first, h, cancelled.value());
  });
}

absl::Status GenerationRun::AnswerAll(Prefilled& prefilled) {
  for (uint32_t index = 0; index < generation_.answers; ++index) {
    RETURN_IF_ERROR(Answer(index, prefilled));
  }
  return absl::OkStatus();
}

absl::Status GenerationRun::CheckWanted() const {
  if (stopping_) return absl::UnavailableError("the worker is shutting down");
  if (generation_.cancelled->IsSet()) return absl::CancelledError("the request was cancelled");
  return absl::OkStatus();
}

absl::Status GenerationRun::Answer(uint32_t index, Prefilled& prefilled) {
  SamplingParams params = generation_.sampling;
  params.seed += index;
  Sampler sampler(params, generation_.prompt.segments);
  std::vector<float> logits = prefilled.logits;
  for (int64_t tokens = 1;; ++tokens) {
    RETURN_IF_ERROR(CheckWanted());
    const SampledToken token = sampler.Next(logits);
    ++tokens_;
    generation_.listener->OnToken(index, token);
    // After the first token, never before.
    if (tokens_ == 1) writer_.Write(std::move(prefilled.fresh));
    const bool ended = std::find(generation_.end_tokens.begin(), generation_.end_tokens.end(),
                                 token.id) != generation_.end_tokens.end();
    if (ended || tokens >= generation_.prompt.max_new_tokens) {
      generation_.listener->OnAnswered(index, ended, tokens);
      return absl::OkStatus();
    }
    const std::vector<uint32_t> ids = {token.id};
    ASSIGN_OR_RETURN(const Activations last,
                     decoder_.Extend(prefilled.kv, ids, prefilled.tokens + tokens - 1,
                                     generation_.cancelled->value()));
    const Activations next = decoder_.Logits(last);
    logits.assign(next->data, next->data + next->cols);
  }
}

}  // namespace tessera
