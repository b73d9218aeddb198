// A prompt's correction on a CUDA device: what the cached values alone decide is computed beside
// the layers.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_PREPARED_CORRECTION_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_PREPARED_CORRECTION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "gpu_worker/device/cuda/correction.h"
#include "gpu_worker/device/cuda/cuda_memory.h"
#include "gpu_worker/device/ops.h"

namespace tessera::cuda {

// For the thread that issues the work.
class PreparedCorrection final : public tessera::Correction {
 public:
  // memory, chunks and what rope points to must outlive it.
  PreparedCorrection(CudaMemory* memory, absl::Span<const CorrectedChunk> chunks,
                     const CorrectionConstants& constants, const KvShape& shape, const Rope& rope);
  ~PreparedCorrection() override;

  void Prepare(int64_t first_layer, std::vector<CorrectedSlices> layers) override;
  void Apply(int64_t layer, Matrix fresh_k, Matrix fresh_v, const LayerKv& kv) override;

 private:
  void Begin(const CorrectedSlices& slices);
  // Of those that are prepared beside the work, the layers in front of end_layer.
  void PrepareTo(int64_t end_layer);
  void PrepareGroup(int64_t first_layer, absl::Span<const CorrectedSlices> layers,
                    cudaStream_t stream);

  CudaMemory& memory_;
  const std::vector<CorrectedChunk> chunks_;
  const CorrectionShape shape_;
  const Rope rope_;
  std::unique_ptr<cuda::Correction> correction_;  // null before the first Prepare
  std::shared_ptr<void> rows_, results_, workspace_, staging_;
  int64_t layers_at_once_ = 0;
  std::vector<CorrectedSlices>
      beside_;  // layers first_beside_ ... that are prepared beside the work
  int64_t first_beside_ = 0, next_ = 0;  // next_: not begun from here on
  std::map<int64_t, Event> ready_;       // groups prepared beside the work, by their last layer
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_PREPARED_CORRECTION_H_
