// Measures ways to blend against the full recompute of the same prompts: how far the answers'
// distributions are apart, over the whole vocabulary, and how long the prefill takes.
#ifndef TESSERA_GPU_WORKER_CALIBRATE_CALIBRATOR_H_
#define TESSERA_GPU_WORKER_CALIBRATE_CALIBRATOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/cancel_flag.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/calibrate/token_cases.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

struct Candidate {
  SinkKind sink = SinkKind::kBos;
  SelectionPolicy policy;
  double ratio = 0;  // 0 where the policy takes none
  bool correction = false;
};

// All policies at all ratios (those that take one), with and without correction (where something is
// left to correct), behind every sink.
std::vector<Candidate> MakeCandidates(absl::Span<const SinkKind> sinks,
                                      absl::Span<const SelectionPolicy> policies,
                                      absl::Span<const double> ratios);

// Of one candidate, over all cases so far. KL(full || blend) in nats over the first 16 tokens of
// the full recompute's own greedy answer, or fewer where it ends.
struct CandidateFigures {
  Candidate candidate;
  int64_t cases = 0;
  double kl1 = 0;                          // first token, mean
  double kl16 = 0;                         // mean over cases of the mean over tokens
  double kl16_error = 0;                   // standard error of that mean, over cases
  double kl16_median = 0, kl16_worst = 0;  // over tokens
  double top1 = 0;                         // share of tokens that the blend would choose too
  double rows = 0;                         // share of the prompt's rows that were chosen
  double ttft_seconds = 0;                 // of the prefill, chunks resident, median
  double ttft_share = 0;                   // of the full prefill's time, median over cases
};

// One case at a time, on the thread that issues device work.
class Calibrator {
 public:
  // decoder must outlive it. base: what candidates do not say.
  Calibrator(const Decoder* decoder, const ChunkKey& fingerprint, const BlendConfig& base,
             std::vector<Candidate> candidates);

  // Tokens of an answer that are compared.
  static constexpr int64_t kForced = 16;

  // Measures one case: a full prefill with its greedy answer, then every candidate. on_step is told
  // after each of these, candidates + 1 times. CANCELLED when `cancelled` is set.
  absl::Status Measure(const TokenCase& prompt, const CancelFlag& cancelled,
                       const std::function<void()>& on_step);

  // In the order of the candidates; empty before the first case.
  std::vector<CandidateFigures> Figures() const;
  double full_seconds() const;  // of the full prefill, median

 private:
  // A prompt's continuation: the distributions of its tokens.
  struct Answer {
    std::vector<uint32_t> ids;
    std::vector<std::vector<float>> logits;  // of each token, [vocab]
    double seconds = 0;                      // of the prefill
    int64_t picked = 0;
  };
  // One case of one candidate.
  struct Sample {
    std::vector<double> kls;  // by token
    double top1 = 0, rows = 0, seconds = 0, share = 0;
  };

  BlendRequest RequestOf(const TokenCase& prompt) const;
  // forced: the answer's tokens; null: greedy ones.
  absl::StatusOr<Answer> Run(Blender& blender, const BlendRequest& request,
                             const CancelFlag& cancelled, const std::vector<uint32_t>* forced);
  absl::Status MakeResident(Blender& blender, BlendRequest request, const CancelFlag& cancelled);
  CandidateFigures FiguresOf(const Candidate& candidate, absl::Span<const Sample> samples) const;

  const Decoder& decoder_;
  const std::vector<Candidate> candidates_;
  const std::unique_ptr<CacheClient> no_cache_;
  ChunkPool pool_;  // holds the chunks of a case, behind all sinks
  std::map<SinkKind, std::unique_ptr<Blender>> blenders_;
  std::vector<std::vector<Sample>> samples_;  // by candidate, then case
  std::vector<double> full_seconds_;          // by case
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_CALIBRATE_CALIBRATOR_H_
