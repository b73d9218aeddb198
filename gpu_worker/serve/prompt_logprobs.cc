#include "gpu_worker/serve/prompt_logprobs.h"

#include <algorithm>
#include <utility>

#include "absl/types/span.h"
#include "glog/logging.h"

namespace tessera {

PromptScorer::PromptScorer(const Decoder* decoder, std::vector<uint32_t> ids, uint32_t top,
                           Sink sink)
    : decoder_(*decoder), ids_(std::move(ids)), top_(top), sink_(std::move(sink)) {
  CHECK(!ids_.empty());
  sink_({{.token = {ids_[0], 0}, .top = {}}});
}

absl::Status PromptScorer::OnRows(int64_t first, Matrix h, const std::atomic<bool>& cancelled) {
  // The last row says what comes after the prompt.
  const int64_t rows = std::min(h.rows, static_cast<int64_t>(ids_.size()) - 1 - first);
  for (int64_t done = 0; done < rows; done += kRows) {
    if (cancelled) return absl::CancelledError("the request was cancelled");
    const Activations logits = decoder_.Logits(h.Slice(done, std::min(kRows, rows - done)));
    std::vector<PromptLogprob> positions;
    for (int64_t r = 0; r < logits->rows; ++r) {
      const RowLogprobs row(absl::MakeConstSpan(logits->Row(r), logits->cols));
      positions.push_back({row.Of(ids_[first + done + r + 1]), row.Top(top_)});
    }
    sink_(positions);
  }
  return absl::OkStatus();
}

}  // namespace tessera
