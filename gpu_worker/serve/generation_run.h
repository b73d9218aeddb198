// One request's way from prompt to answers.
#ifndef TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_
#define TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/generation.h"

namespace tessera {

// Prefills once and decodes the answers one after the other over the same KV memory: the prompt's
// rows stay, those behind it are overwritten by the next answer. For one request, on the thread
// that issues device work.
class GenerationRun {
 public:
  // All must outlive it. stopping: ends the run within one step when it turns true.
  GenerationRun(Generation* generation, const Decoder* decoder, Blender* blender,
                ChunkWriter* writer, const std::atomic<bool>* stopping);

  // Tells the listener all there is to tell, OnFinished last.
  void Run();

 private:
  absl::StatusOr<Prefilled> Prefill();
  absl::Status AnswerAll(Prefilled& prefilled);
  absl::Status Answer(uint32_t index, Prefilled& prefilled);
  absl::Status CheckWanted() const;

  Generation& generation_;
  const Decoder& decoder_;
  Blender& blender_;
  ChunkWriter& writer_;
  const std::atomic<bool>& stopping_;
  int64_t tokens_ = 0;  // of all answers
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_
