// One request's way from prompt to answers.
#ifndef TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_
#define TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/generation.h"
#include "gpu_worker/serve/sampler.h"

namespace tessera {

// Prefills once and decodes the answers one after the other over the same KV memory: the prompt's
// rows stay, those behind it are overwritten by the next answer. Each step of it is one row of a
// batch. Tells the listener all there is to tell, OnFinished last. For one request, on the thread
// that issues device work.
class GenerationRun {
 public:
  // All others must outlive it. stopping: ends the run within one step when it turns true.
  GenerationRun(std::unique_ptr<Generation> generation, const Decoder* decoder, Blender* blender,
                ChunkWriter* writer, const std::atomic<bool>* stopping);

  // Prefills and samples as far as its logits reach. False: the run has ended.
  bool Start();

  // The row that the next logits are wanted of.
  DecodeRow NextRow() const;

  // Samples from the logits of that row. False: the run has ended.
  bool Advance(absl::Span<const float> logits);

  // Whether anybody still wants it; where nobody does, it has ended.
  bool StillWanted();

  const Generation& generation() const { return *generation_; }
  // Positions that the memory of such a request has.
  static int64_t KvTokens(const Generation& generation);

 private:
  absl::StatusOr<Prefilled> Prefill();
  absl::Status CheckWanted() const;
  void BeginAnswer();
  // Samples one token; true: another row of this answer is needed. Where the answer ended, a next
  // one begins from the prompt's logits.
  bool Sample(absl::Span<const float> logits);
  void Finish(const absl::Status& status);

  const std::unique_ptr<Generation> generation_;
  const Decoder& decoder_;
  Blender& blender_;
  ChunkWriter& writer_;
  const std::atomic<bool>& stopping_;
  absl::Time started_;
  absl::Duration prefill_;
  Prefilled prefilled_;
  uint32_t answer_ = 0;  // the one under way
  std::optional<Sampler> sampler_;
  int64_t drawn_ = 0;   // tokens of this answer
  uint32_t last_ = 0;   // the last of them
  int64_t tokens_ = 0;  // of all answers
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_
