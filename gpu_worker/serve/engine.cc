#include "gpu_worker/serve/engine.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// Of a request's id, so much is logged.
constexpr size_t kShownId = 128;

}  // namespace

Engine::Engine(const Decoder* decoder, Blender* blender, ChunkWriter* writer, size_t capacity)
    : decoder_(*decoder), blender_(*blender), writer_(*writer), queue_(capacity), thread_([this] {
        Work();
      }) {}

Engine::~Engine() {
  stopping_ = true;
  queue_.Close();
  {
    absl::MutexLock lock(&mutex_);
    if (running_ != nullptr) running_->Set();
  }
  thread_.join();
}

absl::Status Engine::Submit(std::unique_ptr<Generation> generation) {
  generation->submitted = absl::Now();
  if (stopping_) return absl::UnavailableError("the worker is shutting down");
  if (!queue_.TryPush(std::move(generation))) {
    return absl::ResourceExhaustedError("the worker's queue is full: try again later");
  }
  return absl::OkStatus();
}

void Engine::Work() {
  while (std::optional<std::unique_ptr<Generation>> next = queue_.Pop()) {
    Generation& generation = **next;
    if (stopping_) {
      generation.listener->OnFinished(absl::UnavailableError("the worker is shutting down"), false,
                                      0);
    } else if (generation.cancelled->IsSet()) {
      generation.listener->OnFinished(absl::CancelledError("cancelled while waiting"), false, 0);
    } else {
      SetRunning(generation.cancelled);
      Run(generation);
      SetRunning(nullptr);
    }
  }
}

void Engine::SetRunning(std::shared_ptr<CancelFlag> cancelled) {
  absl::MutexLock lock(&mutex_);
  running_ = std::move(cancelled);
  if (stopping_ && running_ != nullptr) running_->Set();
}

void Engine::Run(Generation& generation) {
  const absl::Time start = absl::Now();
  absl::StatusOr<Prefilled> prefilled = blender_.Prefill(generation.prompt, *generation.cancelled);
  if (!prefilled.ok()) {
    generation.listener->OnFinished(prefilled.status(), false, 0);
    return;
  }
  const absl::Duration queued = start - generation.submitted, took = absl::Now() - start;
  generation.listener->OnStarted(*prefilled, queued, took);
  int64_t tokens = 0;
  bool ended = false;
  const absl::Status status = Decode(generation, *prefilled, tokens, ended);
  LOG(INFO) << "event=generated request="
            << absl::CHexEscape(generation.request_id.substr(0, kShownId))
            << " prompt_tokens=" << prefilled->tokens << " picked=" << prefilled->picked.size()
            << " queue_ms=" << absl::ToInt64Milliseconds(queued)
            << " prefill_ms=" << absl::ToInt64Milliseconds(took) << " tokens=" << tokens
            << " total_ms=" << absl::ToInt64Milliseconds(absl::Now() - start)
            << " status=" << absl::StatusCodeToString(status.code());
  generation.listener->OnFinished(status, ended, tokens);
}

absl::Status Engine::Decode(Generation& generation, Prefilled& prefilled, int64_t& tokens,
                            bool& ended) {
  Sampler sampler(generation.sampling);
  std::vector<float> logits = std::move(prefilled.logits);
  while (true) {
    if (stopping_) return absl::UnavailableError("the worker is shutting down");
    if (generation.cancelled->IsSet()) return absl::CancelledError("the request was cancelled");
    const SampledToken token = sampler.Next(logits);
    ++tokens;
    generation.listener->OnToken(token);
    // After the first token, never before.
    if (tokens == 1) writer_.Write(std::move(prefilled.fresh));
    ended = std::find(generation.end_tokens.begin(), generation.end_tokens.end(), token.id) !=
            generation.end_tokens.end();
    if (ended || tokens >= generation.prompt.max_new_tokens) return absl::OkStatus();
    const std::vector<uint32_t> ids = {token.id};
    ASSIGN_OR_RETURN(const Activations last,
                     decoder_.Extend(prefilled.kv, ids, prefilled.tokens + tokens - 1,
                                     generation.cancelled->value()));
    const Activations next = decoder_.Logits(last);
    logits.assign(next->data, next->data + next->cols);
  }
}

}  // namespace tessera
