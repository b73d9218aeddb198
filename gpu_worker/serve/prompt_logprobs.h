// How likely the tokens of a prompt were.
#ifndef TESSERA_GPU_WORKER_SERVE_PROMPT_LOGPROBS_H_
#define TESSERA_GPU_WORKER_SERVE_PROMPT_LOGPROBS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/logprobs.h"

namespace tessera {

struct PromptLogprob {
  TokenLogprob token;             // the first token of a prompt has 0, and no top
  std::vector<TokenLogprob> top;  // likeliest first
};

// Turns the hidden rows of one prompt, as a prefill shows them, into logprobs: a row says how
// likely the token after it was. Makes the logits of kRows rows at a time, whatever the prompt's
// length.
class PromptScorer {
 public:
  static constexpr int64_t kRows = 64;
  using Sink = std::function<void(const std::vector<PromptLogprob>&)>;

  // ids: the whole prompt. sink: told at most kRows positions at a time, in order.
  PromptScorer(const Decoder* decoder, std::vector<uint32_t> ids, uint32_t top, Sink sink);

  // Rows first .. of the prompt. CANCELLED when *cancelled turns true.
  absl::Status OnRows(int64_t first, Matrix h, const std::atomic<bool>& cancelled);

 private:
  const Decoder& decoder_;
  const std::vector<uint32_t> ids_;
  const uint32_t top_;
  const Sink sink_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_PROMPT_LOGPROBS_H_
