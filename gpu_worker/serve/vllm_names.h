// A worker's requests under the names that vLLM gives them, so that dashboards made for it work: a
// worker is what one vLLM server is. All have the label model_name.
#ifndef TESSERA_GPU_WORKER_SERVE_VLLM_NAMES_H_
#define TESSERA_GPU_WORKER_SERVE_VLLM_NAMES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/metrics.h"

namespace tessera {

// A request that was prefilled, at its end.
struct FinishedRequest {
  absl::Duration queued;
  absl::Duration prefill;  // from its start to the first token
  absl::Duration decode;   // from there to the last token
  absl::Duration total;    // from its arrival
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
};

// What stands now, and what was counted since the start.
struct VllmValues {
  double running = 0;
  double waiting = 0;
  double kv_usage = 0;  // share of the KV memory, 0..1
  double prompt_tokens = 0;
  double generated_tokens = 0;
  // Prompt tokens that were looked for, and those that were found: in this worker's memory, and
  // (where there is a cache server) behind it.
  double looked_up = 0;
  double found_here = 0;
  bool has_cache = false;
  double found_in_cache = 0;
  // Answers.
  double stopped = 0;
  double full_length = 0;
  double aborted = 0;
};

// Thread-safe.
class VllmNames {
 public:
  // `metrics` must outlive it.
  VllmNames(Metrics* metrics, std::string model);

  void OnFirstToken(absl::Duration since_arrival);
  void OnNextToken(absl::Duration gap);
  void OnFinished(const FinishedRequest& request);

  std::vector<MetricSample> Samples(const VllmValues& values) const;

 private:
  enum Name {
    kFirstToken,
    kNextToken,
    kTotal,
    kQueue,
    kPrefill,
    kDecode,
    kPromptTokens,
    kGeneratedTokens,
    kNames
  };

  void Observe(Name name, absl::Duration took);

  const std::string model_;
  std::array<ValueHistogram*, kNames> histograms_;  // they live in `metrics`
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_VLLM_NAMES_H_
