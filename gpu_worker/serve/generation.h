// A request to generate, as the engine runs it.
#ifndef TESSERA_GPU_WORKER_SERVE_GENERATION_H_
#define TESSERA_GPU_WORKER_SERVE_GENERATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/cancel_flag.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/serve/prompt_logprobs.h"
#include "gpu_worker/serve/sampler.h"

namespace tessera {

// What happens to a request, told on the engine's thread. Calls must not block for long.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  // Some of the prompt's tokens, in order, where prompt_logprobs asks for them; before OnStarted.
  virtual void OnPromptLogprobs(const std::vector<PromptLogprob>& positions) = 0;
  // After prefill, just before the first token.
  virtual void OnStarted(const Prefilled& prefilled, absl::Duration queued,
                         absl::Duration prefill) = 0;
  // index: of the answer.
  virtual void OnToken(uint32_t index, const SampledToken& token) = 0;
  // An answer is complete. ended: an end token was sampled (otherwise it is max_new_tokens).
  virtual void OnAnswered(uint32_t index, bool ended, int64_t tokens) = 0;
  // Last, and always: OK after all answers, or why it ended early.
  virtual void OnFinished(const absl::Status& status) = 0;
};

struct Generation {
  std::string request_id;
  BlendRequest prompt;      // max_new_tokens >= 1
  SamplingParams sampling;  // answer i draws from seed + i
  std::vector<uint32_t> end_tokens;
  uint32_t answers = 1;
  // How many of the likeliest tokens to report beside each of the prompt's; none: report nothing.
  std::optional<uint32_t> prompt_logprobs;
  int32_t priority = 0;                   // lower runs first
  std::shared_ptr<CancelFlag> cancelled;  // set by anyone, at any time
  std::unique_ptr<GenerationListener> listener;
  absl::Time submitted;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_GENERATION_H_
