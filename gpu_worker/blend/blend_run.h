// One prompt's way through a blend. Private to the blender.
#ifndef TESSERA_GPU_WORKER_BLEND_BLEND_RUN_H_
#define TESSERA_GPU_WORKER_BLEND_BLEND_RUN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/steps.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/kv_loader.h"

namespace tessera {

// The steps of DESIGN: load, (query pass,) choose, recompute layer by layer.
class BlendRun {
 public:
  // All references must outlive it.
  BlendRun(const Decoder& decoder, KvLoader& loader, const BlendConfig& config,
           const BlendRequest& request, PromptMemory memory);

  // The loader has begun with all segments but the last, in order. A layer is a step.
  Steps<absl::StatusOr<Prefilled>> Run();

 private:
  // A chunk's place in the prompt.
  struct Place {
    int64_t start = 0;
    int64_t tokens = 0;
    bool exact = false;
  };

  Steps<absl::Status> PlaceLayer(int64_t layer);
  Steps<absl::StatusOr<std::vector<float>>> QueryScores();
  Steps<absl::StatusOr<std::vector<float>>> DeviationScores(int64_t layer, const Qkv& fresh);
  // The slices of all chunks in a layer that has arrived; `resident` too.
  std::vector<PlacedSlice> SlicesOf(int64_t layer, bool resident);
  void Choose(std::vector<int32_t> picked);
  // Begins to prepare the correction of layers first_layer .. last_layer - 1, which were placed.
  void PrepareCorrection(int64_t first_layer, int64_t last_layer);
  // What stands in the memory for the rows of a layer that are not recomputed.
  void Correct(int64_t layer, const Qkv& fresh);
  Steps<absl::StatusOr<Activations>> RunCheckLayers();
  Steps<absl::Status> RecomputeLayer(int64_t layer, Activations& h);
  std::vector<CorrectedChunk> CorrectedChunks();
  std::vector<uint32_t> ChosenIds() const;
  Prefilled Report(const Activations& h);

  const Decoder& decoder_;
  Ops& ops_;
  KvLoader& loader_;
  const BlendConfig& config_;
  const BlendRequest& request_;
  std::vector<uint32_t> ids_;  // of the whole prompt
  int64_t suffix_start_ = 0;
  std::vector<Place> places_;  // one per chunk
  PromptRows prompt_rows_;
  KvMemory kv_;
  const int64_t resident_tokens_;  // of the lead, in kv_ from the start
  std::vector<bool> placed_;       // by layer
  std::vector<int32_t> picked_;
  Indices rows_;  // computed in every layer: picked and suffix, ascending
  std::unique_ptr<Correction> correction_;
  std::vector<size_t> corrected_;  // the chunks that it corrects
  int64_t prepared_layers_ = 0;    // the first so many, as far as they are corrected
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_BLEND_RUN_H_
