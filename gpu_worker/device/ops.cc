#include "gpu_worker/device/ops.h"

#include <map>
#include <utility>

namespace tessera {
namespace {

// A device that prepares nothing: every layer is a Correct.
class PlainCorrection final : public Correction {
 public:
  PlainCorrection(Ops* ops, absl::Span<const CorrectedChunk> chunks,
                  const CorrectionConstants& constants, const RopeTable& rope)
      : ops_(*ops), constants_(constants), rope_(rope) {
    for (const CorrectedChunk& chunk : chunks) {
      tasks_.push_back({{}, chunk.first_position, chunk.picked, chunk.fresh_rows});
    }
  }

  void Prepare(int64_t first_layer, std::vector<CorrectedSlices> layers) override {
    for (CorrectedSlices& slices : layers) slices_[first_layer++] = std::move(slices);
  }

  void Apply(int64_t layer, Matrix fresh_k, Matrix fresh_v, const LayerKv& kv) override {
    auto slices = slices_.extract(layer);
    for (size_t i = 0; i < tasks_.size(); ++i) tasks_[i].pieces = std::move(slices.mapped()[i]);
    ops_.Correct(tasks_, fresh_k, fresh_v, constants_, rope_, kv);
  }

 private:
  Ops& ops_;
  const CorrectionConstants constants_;
  const RopeTable& rope_;
  std::vector<CorrectionTask> tasks_;
  std::map<int64_t, CorrectedSlices> slices_;  // by layer
};

}  // namespace

std::unique_ptr<Correction> Ops::MakeCorrection(absl::Span<const CorrectedChunk> chunks,
                                                const CorrectionConstants& constants,
                                                const KvShape& shape, const RopeTable& rope) {
  return std::make_unique<PlainCorrection>(this, chunks, constants, rope);
}

}  // namespace tessera
